"""Wall time of `segkit predict` beside that of the network alone.

    python benchmarks/predict.py --model demo_out/run [--slide sample_data/slide/tissue.tif] [--tile 1024] [--repeats 3]

*predict* is the whole process: start of Python, reading, network, objects, writing, overview picture. *Network alone*
is the same network on the same tiles, halo included, already normalised and in memory, in the same number format,
memory layout and number of threads. The two take turns, so that both see the same load of the machine.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NETWORK_ALONE = "network-alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("demo_out/run"))
    parser.add_argument("--slide", type=Path, default=Path("sample_data/slide/tissue.tif"))
    parser.add_argument("--precision", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument(f"--{NETWORK_ALONE}", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.network_alone:
        print(json.dumps(network_alone(given.slide, given.model, given.precision[0], given.tile)))
        return
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}\n")
    print("| precision | network | tiles read | predict s | network alone s | ratio | objects | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for precision in given.precision:
        print(row(given.slide, given.model, precision, given.repeats, given.tile), flush=True)


def row(slide: Path, model: Path, precision: str, repeats: int, tile: int) -> str:
    walls, alones, record, alone = [], [], {}, {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as out:
            command = [shutil.which("segkit", path=str(Path(sys.executable).parent)) or "segkit"]
            command += ["predict", str(slide), "--model", str(model), "--out", out, "--precision", precision]
            command += ["--tissue", "off", "--tile", str(tile)]
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            walls.append(time.perf_counter() - started)
            record = json.loads((Path(out) / slide.stem / "run.json").read_text())
        command = [sys.executable, __file__, f"--{NETWORK_ALONE}", "--slide", str(slide), "--model", str(model)]
        done = subprocess.run(
            [*command, "--precision", precision, "--tile", str(tile)], check=True, capture_output=True, text=True
        )
        alone = json.loads(done.stdout)
        alones.append(alone["seconds"])
    ratios = [wall / alone_s for wall, alone_s in zip(walls, alones, strict=True)]
    cells = [
        precision,
        alone["network"],
        f"{alone['tiles']} of {alone['read_px']} px",
        f"{statistics.median(walls):.1f}",
        f"{statistics.median(alones):.1f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        record["num_objects"],
        f"{record['peak_memory_bytes'] / 1e6:.0f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def network_alone(slide_path: Path, model_path: Path, precision: str, tile_px: int) -> dict[str, object]:
    import torch

    from segkit.geometry import lay_tiles
    from segkit.inference.sources import SlideLevel
    from segkit.memory import keep_freed_memory
    from segkit.models.inference_form import inference_form
    from segkit.models.model_file import load_model
    from segkit.slides import open_slide

    keep_freed_memory()  # as the command does
    model = load_model(model_path)
    network = inference_form(model.network, torch.device("cpu"), "bfloat16" if precision == "bfloat16" else "float32")
    dtype = next(network.parameters()).dtype
    with open_slide(slide_path) as slide:
        source = SlideLevel(slide, 0, model.spec.arguments.in_channels)
        # One row of tiles is kept in memory and used again and again: all of them would need gigabytes.
        tiles = list(lay_tiles(source.height, source.width, tile_px, model.grid))
        first_row = [source.read(tile.read) for tile in tiles if tile.row == 0]
    resident = [
        (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - 0.5).to(dtype, memory_format=torch.channels_last)
        for pixels in first_row
    ]
    crops = [model.grid.crop_in_output(tile.core) for tile in tiles]
    with torch.inference_mode():
        network(resident[0], crops[0])
        started = time.perf_counter()
        for number, crop in enumerate(crops):
            network(resident[number % len(resident)], crop)
        seconds = time.perf_counter() - started
    arguments = model.spec.arguments
    return {
        "seconds": seconds,
        "tiles": len(tiles),
        "read_px": tiles[0].read.height,
        "network": f"U-Net {arguments.form}, base {arguments.base_channels}, depth {arguments.depth}",
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
