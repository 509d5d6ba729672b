"""Slides and models for benchmarks."""

import argparse
import os
import platform
from pathlib import Path

SLIDE = Path(__file__).resolve().parent.parent / "sample_data" / "slide" / "tissue.tif"


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


def make_model(path: Path, *, base_channels: int, depth: int, source: Path = SLIDE, background: float = 0.8) -> None:
    """Write a U-Net that was not trained but behaves as if: normalised maps, blobs on mostly background.

    What it says comes from the bottom alone, so that objects are as large as nuclei; it computes as much as any other.
    """
    import numpy as np
    import torch
    from torch import nn

    from segkit.geometry import Box
    from segkit.models.model_file import ModelSpec, UNetArguments, build_network, save_model
    from segkit.models.unet import UNet
    from segkit.slides import open_slide

    torch.manual_seed(0)
    arguments = UNetArguments(
        in_channels=3, num_classes=3, base_channels=base_channels, depth=depth, form="modern", dropout=0.0
    )
    network = build_network(arguments, device="cpu")
    assert isinstance(network, UNet)
    with open_slide(source) as slide:
        middle = [slide.read(Box(slide.height // 2 + at, slide.width // 2, 256, 256)) for at in (-256, 0, 256)]
    images = (torch.from_numpy(np.stack(middle)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all that is seen
    with torch.no_grad():
        for up, block in zip(network.up, network.decoder, strict=True):
            up.weight.copy_(up.weight.mean(dim=(2, 3), keepdim=True).expand_as(up.weight))
            block[0].weight[:, : up.out_channels] = 0
        network.train()(images)
        scores = network.eval()(images)
        lead = scores[:, 1:].amax(dim=1) - scores[:, 0]
        network.head.bias[0] += lead.flatten().kthvalue(int(lead.numel() * background)).values
    spec = ModelSpec(
        arguments=arguments, classes=["background", "a", "b"], mpp=0.5, mean=[0.5] * 3, std=[0.25] * 3,
        receptive_field=0, scores={}, training={},
    )  # fmt: skip
    save_model(path, network, spec)


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
