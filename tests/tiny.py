"""A task that a tiny network learns in a second: dark disks (class 1) on light ground, in data folders and slides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit.config import TrainConfig, build_config
from segkit.slides.pyramid import PyramidWriter

SPLITS = ("train",) * 4 + ("val",) * 2 + ("test",) * 2
MPP = 0.5
# A constant prediction cannot reach this Dice: with a share f of foreground, all foreground has 2 f / (1 + f).
LEARNED = 0.8


def draw_field(
    seed: int, height: int = 64, width: int = 72, channels: int = 3
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image, uint8 (H, W, C), and its mask, uint8 (H, W)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    for _ in range(max(1, height * width // 900)):
        y, x, radius = rng.integers(0, height), rng.integers(0, width), rng.integers(6, 12)
        mask[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
    image = np.where(mask[..., np.newaxis] == 1, 90, 170) + rng.normal(0, 12, (height, width, channels))
    return image.clip(0, 255).astype(np.uint8), mask


def save_png(path: Path, image: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image).save(path)
    return path


def make_data(
    root: Path,
    *,
    channels: int = 3,
    splits: Sequence[str] | None = SPLITS,
    num_images: int = len(SPLITS),
    description: str = f"mpp: {MPP}\n",
) -> Path:
    """Write a data folder of class masks (0 and 255) and return it; without `splits` there is no splits.csv."""
    for number in range(num_images):
        image, mask = draw_field(number, channels=channels)
        save_png(root / "images" / f"field{number}.png", image)
        save_png(root / "masks" / f"field{number}.png", mask * 255)
    if splits is not None:
        rows = "".join(f"field{number},{split}\n" for number, split in enumerate(splits))
        (root / "splits.csv").write_text(f"image,split\n{rows}")
    (root / "dataset.yaml").write_text(description)
    return root


def write_slide(path: Path, image: NDArray[np.uint8], *, mpp: float | None = MPP) -> Path:
    """Write an image, uint8 (H, W, C), as a pyramid of 64 px tiles."""
    height, width, channels = image.shape
    with PyramidWriter(path, height, width, channels=channels, tile_px=64, mpp=mpp, reduce="mean") as writer:
        writer.write_rows(image)
    return path


def tiny_config(data: Path, *assignments: str, file: Path | None = None) -> TrainConfig:
    """Return a configuration for a training of about a second."""
    tiny = [
        *("model.base_channels=4", "model.depth=1", "patches.size_px=32", "patches.batch=4", "epochs=3"),
        *("steps_per_epoch=5", "optimiser.learning_rate=0.02", "compute.precision=float32", "compute.device=cpu"),
    ]
    flags: dict[str, Any] = {"data.dir": data}
    return build_config(TrainConfig, file=file, assignments=[*tiny, *assignments], flags=flags)
