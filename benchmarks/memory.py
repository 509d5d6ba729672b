"""Peak memory of `segkit predict` for slides of different sizes, beside what its plan said.

    python benchmarks/memory.py [--sizes 10000 20000 40000] [--dry-run 100000]

A U-Net of base 32 and depth 4 in float32. All slides have the same area of tissue (a GeoJSON square of --tissue px), so
that each row takes the same time; everything else (levels, parts, joining, pictures) is of the slide's size. With
--network small a network of base 4 and depth 2 runs over the whole of each slide.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from making import machine, make_model, make_slide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 20_000, 40_000])
    parser.add_argument("--dry-run", type=int, nargs="*", default=[100_000])
    parser.add_argument("--tissue", type=int, default=7_000)
    parser.add_argument("--network", choices=["large", "small"], default="large")
    parser.add_argument("--max-memory", default="2GB")
    parser.add_argument("--model", type=Path, help="a run folder; without it a network is trained")
    parser.add_argument("--folder", type=Path, help="keep slides and results here")
    given = parser.parse_args()
    large = given.network == "large"
    print(f"{machine()}; {'base 32, depth 4' if large else 'base 4, depth 2'}, float32\n")
    print("| slide px | parts | tiles | planned MB | peak MB | minutes | joining s | objects |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        sizes = {"base_channels": 32, "depth": 4} if large else {"base_channels": 4, "depth": 2}
        model = given.model or make_model(folder / "model", **sizes, epochs=1 if large else 3)
        for size in sorted({*given.sizes, *given.dry_run}):
            slide = folder / f"{size}.tif"
            make_slide(slide, size)
            command = [str(Path(sys.executable).with_name("segkit")), "predict", str(slide), "--model", str(model)]
            command += ["--out", str(folder), "--precision", "float32", "--max-memory", given.max_memory, "--tissue"]
            command += [str(square(folder, given.tissue))] if large else ["off"]
            if size in given.dry_run:
                done = subprocess.run([*command, "--dry-run"], check=True, capture_output=True, text=True)
                print(f"| {size}: {done.stderr.strip()} |", flush=True)
            if size in given.sizes:
                started = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                print(row(size, folder / str(size), time.perf_counter() - started), flush=True)
            slide.unlink()


def square(folder: Path, side: int) -> Path:
    path = folder / "tissue.geojson"
    ring = [[500, 500], [500 + side, 500], [500 + side, 500 + side], [500, 500 + side], [500, 500]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def row(size: int, folder: Path, seconds: float) -> str:
    record = json.loads((folder / "run.json").read_text())
    plan = record["plan"]
    cells = [
        size,
        plan["num_parts"],
        f"{plan['num_tiles']} of {plan['tile_px']}",
        f"{plan['memory_bytes'] / 1e6:.0f}",
        f"{record['peak_memory_bytes'] / 1e6:.0f}",
        f"{seconds / 60:.1f}",
        f"{record['timings_s']['joining']:.0f}",
        record["num_objects"],
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
