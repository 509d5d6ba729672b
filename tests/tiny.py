"""Tasks that a tiny network learns in a second, in data folders and slides.

Masks: dark disks (class 1) on light ground. Points: dark disks of one size among faint ones, which are look-alikes.
"""

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


def draw_disks(
    seed: int, height: int = 72, width: int = 80, channels: int = 3, classes: Sequence[str] = ("cell",)
) -> tuple[NDArray[np.uint8], list[tuple[float, float, str]]]:
    """Return an image, uint8 (H, W, C), and its points (y, x, label), at the centres of disks of radius 4.

    The first class's disks are black, the second's dark grey; the faint ones are labelled as look-alikes.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] + 0.5
    image = np.full((height, width, 1), 190.0)
    points: list[tuple[float, float, str]] = []
    brightness = {**dict(zip(classes, (30, 95), strict=False)), "look_alike": 155}
    for number in range(40):
        y, x = rng.uniform(4, height - 4), rng.uniform(4, width - 4)
        if len(points) < height * width // 700 and all(np.hypot(y - b, x - a) > 12 for b, a, _ in points):
            label = [*classes, *classes, "look_alike"][number % (2 * len(classes) + 1)]
            image[np.hypot(rows - y, columns - x) <= 4] = brightness[label]
            points.append((round(y, 2), round(x, 2), label))
    noisy = image + rng.normal(0, 8, (height, width, channels))
    return noisy.clip(0, 255).astype(np.uint8), points


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


def make_point_data(
    root: Path,
    *,
    channels: int = 3,
    classes: Sequence[str] = ("cell",),
    splits: Sequence[str] = SPLITS,
    description: str = f"mpp: {MPP}\n",
) -> Path:
    """Write a data folder of points and return it."""
    table = ["image,x,y,label"]
    for number in range(len(splits)):
        image, points = draw_disks(number, channels=channels, classes=classes)
        save_png(root / "images" / f"disks{number}.png", image)
        table += [f"disks{number},{x},{y},{label}" for y, x, label in points]
    (root / "points.csv").write_text("\n".join([*table, ""]))
    rows = "".join(f"disks{number},{split}\n" for number, split in enumerate(splits))
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


def tiny_point_config(data: Path, *assignments: str, file: Path | None = None) -> TrainConfig:
    """Return a configuration for a training on points of about a second."""
    tiny = [
        *("patches.size_px=17", "patches.batch=16", "points.match_radius=5px", "points.positive_radius=2px"),
        *("points.near_radius=12px", "augment.preset=light", "optimiser.learning_rate=0.01"),
    ]
    return tiny_config(data, *tiny, *assignments, file=file)
