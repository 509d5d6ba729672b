"""Slides and models for benchmarks."""

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SLIDE = REPOSITORY / "sample_data" / "slide" / "tissue.tif"


def make_slide(path: Path, size: int, source: Path = SLIDE, side: int = 2048) -> None:
    """Write a mosaic of the middle of a slide, mirrored where it ends, as a JPEG pyramid of `size` x `size` pixels."""
    import numpy as np

    from segkit.geometry import Box, mirror_indices
    from segkit.slides import open_slide
    from segkit.slides.pyramid import PyramidWriter

    with open_slide(source) as slide:
        height, width = min(side, slide.height), min(side, slide.width)
        pixels = slide.read(Box((slide.height - height) // 2, (slide.width - width) // 2, height, width))
    pixels = np.repeat(pixels, 3 // pixels.shape[2], axis=2)[:, mirror_indices(0, size, width)]
    with PyramidWriter(
        path, size, size, channels=3, tile_px=256, mpp=0.5, reduce="mean", compression="jpeg", quality=80
    ) as writer:
        for top in range(0, size, 256):
            writer.write_rows(pixels[mirror_indices(top, min(256, size - top), height)])


def make_model(folder: Path, *, base_channels: int, depth: int, epochs: int = 3) -> Path:
    """Train a U-Net on sample_data/ for a minute or so, so that it finds objects like nuclei; return its run folder."""
    sizes = ["--set", f"model.base_channels={base_channels}", "--set", f"model.depth={depth}"]
    data = ["--data", str(REPOSITORY / "sample_data"), "--config", str(REPOSITORY / "configs/sample.yaml")]
    command = [sys.executable, "-m", "segkit", "train", *data, *sizes, "--epochs", str(epochs), "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def machine() -> str:
    """Return processor, cores and versions in a line."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, Python {platform.python_version()}, torch {torch.__version__}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--source", type=Path, default=SLIDE)
    given = parser.parse_args()
    make_slide(given.path, given.size, given.source)
