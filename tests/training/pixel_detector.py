"""A detector that needs no training: the score of a class at a pixel is the pixel's value in a channel."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.geometry import TileGrid
from segkit.inference.window import WindowPrediction, WindowPredictor
from segkit.models.model_file import DetectionSpec, ModelSpec, PatchCNNArguments, build_network
from segkit.models.patch_cnn import PatchCNN
from segkit.points import Points
from segkit.training.point_validation import LabelledPoints

# Where it is, how high it is and in which channel.
Peak = tuple[int, int, float, int]
PEAK = st.tuples(
    st.integers(0, 59), st.integers(0, 69), st.integers(1, 255).map(lambda value: value / 255), st.integers(0, 1)
)


def detection_of(num_classes: int = 3, **changes: Any) -> DetectionSpec:
    """Detections are pixels: what is smoothed is a disk of one."""
    values: dict[str, Any] = {
        "match_radius": "5px", "nms_radius": "2px", "smooth_radius": "0.4px", "stride": 1,
        "thresholds": [0.5] * (num_classes - 1),
    }  # fmt: skip
    return DetectionSpec.model_validate(values | changes)


def spec_of(arguments: PatchCNNArguments, classes: Sequence[str]) -> ModelSpec:
    channels = arguments.in_channels
    values: dict[str, Any] = {
        "architecture": "patch_cnn", "task": "points", "arguments": arguments, "classes": list(classes), "mpp": None,
        "mean": [0.0] * channels, "std": [1.0] * channels, "receptive_field": arguments.patch_px,
        "detection": detection_of(len(classes)), "scores": {}, "training": {},
    }  # fmt: skip
    return ModelSpec.model_validate(values)


class PixelDetector:
    """Stands for a `WindowPredictor`: class 1 is the first channel, class 2 the second."""

    stride = 1
    grid = TileGrid(alignment=1, halo=0)
    spec = spec_of(
        PatchCNNArguments(
            in_channels=3, num_classes=3, form="linear", patch_px=3, base_channels=1, depth=1, dropout=0
        ),
        ["background", "a", "b"],
    )  # fmt: skip

    def submit(
        self, images_BHWC: NDArray[np.uint8], crops: Sequence[tuple[slice, slice]]
    ) -> Callable[[], list[WindowPrediction]]:
        return lambda: [
            WindowPrediction(image[crop][..., :2].astype(np.uint16) * 257)
            for image, crop in zip(images_BHWC, crops, strict=True)
        ]


def pixel_detector() -> WindowPredictor:
    return cast(WindowPredictor, PixelDetector())


def peaks_image(peaks: Sequence[Peak], height: int = 60, width: int = 70) -> NDArray[np.uint8]:
    """Return a dark image with bright pixels."""
    image = np.zeros((height, width, 3), np.uint8)
    for y, x, score, channel in peaks:
        image[y, x, channel] = round(score * 255)
    return image


def labelled_image(name: str, peaks: Sequence[Peak], points: Sequence[tuple[float, float, int]]) -> LabelledPoints:
    table = np.array(points, np.float64).reshape(-1, 3)
    return LabelledPoints(name, peaks_image(peaks), Points(table[:, :2], table[:, 2].astype(np.int64)))


def disk_network(radius: int = 3) -> tuple[PatchCNN, ModelSpec]:
    """A logistic regression that finds bright disks on dark ground: inside counts for it, around against it."""
    side = 4 * radius + 1
    arguments = PatchCNNArguments(
        in_channels=1, num_classes=2, form="linear", patch_px=side, base_channels=1, depth=1, dropout=0
    )
    network = build_network(arguments, device="cpu")
    assert isinstance(network, PatchCNN)
    rows, columns = np.mgrid[:side, :side] - side // 2
    inside = np.hypot(rows, columns) <= radius
    weights = np.where(inside, 1 / inside.sum(), -1 / (~inside).sum())
    linear = network.layers[1]
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[1] = torch.from_numpy(weights.ravel() * 12)
        linear.bias.copy_(torch.tensor([0.0, -6.0]))
    return network.eval(), spec_of(arguments, ["background", "disk"])
