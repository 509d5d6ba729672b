"""A patch CNN made by hand, without any training, and what it finds: red and blue disks on dark, noisy ground."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segkit.models.model_file import MODEL_NAME, DetectionSpec, ModelSpec, PatchCNNArguments, build_network, save_model
from segkit.models.patch_cnn import PatchCNN
from segkit.points import Points
from tests.tiny import MPP, save_png

CLASSES = ("background", "red", "blue")
CHANNEL_OF = {"red": 0, "blue": 2, "bright": 0}
PATCH_PX = 11
RADIUS_PX = 5
DETECTION = {"match_radius": "3um", "smooth_radius": "1um", "nms_radius": "4um", "stride": 2}


class Disks(NamedTuple):
    """An image, uint8 (H, W, 3), and the disks on it, continuous coordinates; class 0 is a dim red one."""

    image: NDArray[np.uint8]
    points: Points


def make_model(
    path: Path,
    *,
    classes: Sequence[str] = CLASSES,
    channels: int = 3,
    mpp: float | None = MPP,
    patch_px: int = PATCH_PX,
    at: float = 0.45,
    thresholds: Sequence[float] = (0.9, 0.9),
    hard_negatives: Sequence[str] = ("look_alike",),
    lopsided: bool = False,
    **detection: Any,
) -> Path:
    """Write the model of a network that averages each channel over its patch; `at` is where the scores rise.

    It has a convolution with batch norm, a pooling and more convolutions, so that its dense forms have work to do. If
    it is `lopsided` it looks at the left half of its patch only, and so finds disks to the right of where they are.
    """
    arguments = PatchCNNArguments(
        in_channels=channels, num_classes=len(classes), form="modern", patch_px=patch_px, base_channels=channels,
        depth=1, dropout=0.0,
    )  # fmt: skip
    network = build_network(arguments, device="cpu")
    assert isinstance(network, PatchCNN)
    convolutions = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for layer in convolutions:
            layer.weight.zero_()
            for channel in range(channels):
                plane = layer.weight[channel % len(layer.weight), channel]
                plane[:, : plane.shape[1] // 2 if lopsided else None] = (2 if lopsided else 1) / plane.numel()
        last = convolutions[-1]
        assert last.bias is not None
        last.weight.zero_()
        last.bias.zero_()
        for index, name in enumerate(classes[1:], start=1):
            last.weight[index, CHANNEL_OF[name]], last.bias[index] = 30, -30 * at
    values: dict[str, Any] = {
        "architecture": "patch_cnn", "task": "points", "arguments": arguments, "classes": list(classes), "mpp": mpp,
        "mean": [0.0] * channels, "std": [1.0] * channels, "receptive_field": patch_px, "scores": {},
        "detection": DetectionSpec.model_validate(
            {**DETECTION, "thresholds": list(thresholds)[: len(classes) - 1], **detection}
        ),
        "training": {"hard_negatives": list(hard_negatives)},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, network, ModelSpec.model_validate(values))
    return path


def make_run(folder: Path, *, task: str = "points", **model: Any) -> Path:
    """Write what a finished training leaves, as far as other commands look at it."""
    make_model(folder / MODEL_NAME, **model)
    (folder / "run.json").write_text(f'{{"command": "train", "complete": true, "task": "{task}"}}')
    return folder


def draw_red_and_blue(seed: int, height: int = 150, width: int = 210, *, every: int = 26) -> Disks:
    """Draw disks of `RADIUS_PX`, one in about every second square of `every` pixels, none cut by the border."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 50.0)
    rows, columns = np.mgrid[:height, :width] + 0.5
    positions, classes = [], []
    for top in range(0, height - every + 1, every):
        for left in range(0, width - every + 1, every):
            y, x = (corner + every / 2 + rng.uniform(-4, 4) for corner in (top, left))
            index = int(rng.integers(-2, 3))
            if index < 0:
                continue
            colour = [(140, 50, 50), (220, 50, 50), (50, 50, 220)][index]
            image[(rows - y) ** 2 + (columns - x) ** 2 < RADIUS_PX**2] = colour
            positions.append((y, x))
            classes.append(index)
    noisy = (image + rng.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)
    return Disks(noisy, Points(np.array(positions, np.float64).reshape(-1, 2), np.array(classes, np.int64)))


def make_points_data(root: Path, *, num_images: int = 6, splits: str | None = None) -> Path:
    """Write a data folder of disks with points.csv; dim ones are look-alikes. `splits` is a splits.csv's text."""
    labels = ("look_alike", *CLASSES[1:])
    rows = ["image,x,y,label"]
    for number in range(num_images):
        drawn = draw_red_and_blue(number, 80, 106)
        save_png(root / "images" / f"field{number}.png", drawn.image)
        rows += [
            f"field{number},{x:.2f},{y:.2f},{labels[index]}"
            for (y, x), index in zip(drawn.points.positions.tolist(), drawn.points.classes.tolist(), strict=True)
        ]
    (root / "points.csv").write_text("\n".join(rows) + "\n")
    (root / "dataset.yaml").write_text(f"mpp: {MPP}\n")
    if splits is not None:
        (root / "splits.csv").write_text(splits)
    return root
