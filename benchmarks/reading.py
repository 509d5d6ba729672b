"""How fast regions are read from a JPEG-tiled pyramid: segkit beside OpenSlide, on the same file, in the same run.

    python benchmarks/reading.py [--source IMAGE] [--size 20000] [--cache .benchmarks_cache]

The pyramid (256 px JPEG tiles, quality 80, YCbCr 4:2:0) is made once, by mirroring `--source`, and kept in the cache
folder. Each measurement is a process of its own that reads all 1024 px regions in row-major order from the operating
system's page cache, so that its peak memory is its own; the best of `--repeats` counts. "Per core" divides by the
processor time that the process took, so that other load on the machine does not count; "wall" does not.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box, mirror_indices

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "sample_data" / "slide" / "tissue.tif"
REGION_PX = 1024
UNALIGNED_PX = 100
READERS = ("segkit", "openslide")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="image to mirror; default: the slide in sample_data, else noise")
    parser.add_argument("--size", type=int, default=20_000, help="pixels per side")
    parser.add_argument("--cache", type=Path, default=ROOT / ".benchmarks_cache")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(**json.loads(arguments.worker))))
        return
    source = arguments.source or (SAMPLE if SAMPLE.exists() else None)
    slide = arguments.cache / f"reading_{source.stem if source else 'noise'}_{arguments.size}.tif"
    if not slide.exists():
        make_slide(slide, source, arguments.size)
    print(f"{slide.name}, {slide.stat().st_size / 1e6:.0f} MB. {machine()}\n")
    print("| regions | threads | reader | MPix/s per core | MPix/s wall | peak RSS MB | segkit / OpenSlide |")
    print("|---|---|---|---|---|---|---|")
    for offset in (0, UNALIGNED_PX):
        for threads in (1, 2):
            best = measure_all(slide, offset, threads, arguments.repeats)
            ratio = best["segkit"]["per_core"] / best["openslide"]["per_core"]
            for reader in READERS:
                row = best[reader]
                name = f"{REGION_PX} px, " + (f"offset {offset}" if offset else "aligned")
                numbers = f"{row['per_core']:.0f} | {row['wall']:.0f} | {row['rss_mb']:.0f}"
                print(f"| {name} | {threads} | {reader} | {numbers} | {f'{ratio:.1f}' if reader == 'segkit' else ''} |")


def make_slide(slide: Path, source: Path | None, size: int) -> None:
    from segkit.slides import open_slide
    from segkit.slides.pyramid import PyramidWriter

    if source is None:
        pixels = noise(1024)
    else:
        with open_slide(source) as image:
            box = Box(0, 0, min(image.height, 4096), min(image.width, 4096))
            pixels = np.repeat(image.read(box), 3 // image.channels, axis=2)
    height, width = pixels.shape[:2]
    pixels = pixels[:, mirror_indices(0, size, width)]
    with PyramidWriter(
        slide, size, size, channels=3, tile_px=256, mpp=0.5, reduce="mean", compression="jpeg", quality=80
    ) as writer:
        for top in range(0, size, REGION_PX):
            writer.write_rows(pixels[mirror_indices(top, min(REGION_PX, size - top), height)])


def noise(size: int) -> NDArray[np.uint8]:
    """Return smooth coloured noise, whose JPEG tiles are about as large as those of tissue."""
    coarse = np.random.default_rng(0).normal(180, 40, (size // 4, size // 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
    smooth = sum(np.roll(coarse, (dy, dx), (0, 1)) for dy in range(-2, 3) for dx in range(-2, 3)) / 25
    return np.clip(smooth, 0, 255).astype(np.uint8)


def measure_all(slide: Path, offset: int, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """Run both readers alternately; return each one's best run."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(repeats):
        for reader in READERS:
            task = json.dumps({"reader": reader, "slide": str(slide), "offset": offset, "threads": threads})
            command = [sys.executable, __file__, "--worker", task]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if reader not in best or result["per_core"] > best[reader]["per_core"]:
                best[reader] = result
    return best


def measure(reader: str, slide: str, offset: int, threads: int) -> dict[str, float]:
    """Read all whole regions of the slide once."""
    with Path(slide).open("rb") as file:  # into the page cache, without keeping it in this process
        while file.read(1 << 24):
            pass
    size, read = opened(reader, Path(slide))
    boxes = list(regions(size, offset))
    read(boxes[0])
    start, start_cpu = time.perf_counter(), cpu_seconds()
    with ThreadPoolExecutor(threads) as pool:
        num_pixels = sum(pool.map(lambda box: read(box).size // 3, boxes))
    cpu, wall = cpu_seconds() - start_cpu, time.perf_counter() - start
    return {"per_core": num_pixels / cpu / 1e6, "wall": num_pixels / wall / 1e6, "rss_mb": peak_rss_mb()}


def opened(reader: str, path: Path) -> tuple[tuple[int, int], Callable[[Box], NDArray[np.uint8]]]:
    """Return (height, width) and a function that reads a box as RGB."""
    if reader == "segkit":
        from segkit.slides import open_slide

        slide = open_slide(path)
        return (slide.height, slide.width), slide.read
    import openslide

    other: Any = openslide.OpenSlide(path)
    width, height = other.dimensions
    return (height, width), lambda box: np.asarray(other.read_region((box.x, box.y), 0, (box.width, box.height)))[
        ..., :3
    ]


def regions(size: tuple[int, int], offset: int) -> Iterator[Box]:
    for y in range(offset, size[0] - REGION_PX + 1, REGION_PX):
        for x in range(offset, size[1] - REGION_PX + 1, REGION_PX):
            yield Box(y, x, REGION_PX, REGION_PX)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_rss_mb() -> float:
    # Not ru_maxrss, which a process inherits from the one that started it.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def machine() -> str:
    import openslide
    import tifffile
    from imagecodecs import __version__ as imagecodecs_version

    models = [line.split(":")[1].strip() for line in cpu_info() if line.startswith("model name")]
    versions = f"tifffile {tifffile.__version__}, imagecodecs {imagecodecs_version}"
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"{versions}, OpenSlide {openslide.__library_version__}."
    )


def cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
