"""Detections in an image in memory, as those in a slide."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.config import length_px
from segkit.inference.detect import DetectorSettings, MapGrid, detect
from segkit.inference.pipeline import TilePredictor, predict_image
from segkit.inference.sources import ArrayImage, with_channels
from segkit.models.model_file import DetectionSpec, ModelSpec
from segkit.points import Detections

LOWEST_SCORE = 0.02
"""Detections below this are not looked at, when curves over all thresholds are drawn."""


class ScorePredictor(TilePredictor, Protocol):
    """What finds points: `WindowPredictor` or `HeatPredictor`; its only layer are scores, uint16 (h, w, K).

    `stride` is the number of pixels from one map pixel to the next, in both directions.
    """

    spec: ModelSpec
    stride: int


def averaged_detection(specs: Sequence[DetectionSpec]) -> DetectionSpec:
    """Return how points are found with several models together: thresholds are averaged, the rest is the first's."""
    thresholds = [sum(values) / len(specs) for values in zip(*(spec.thresholds for spec in specs), strict=True)]
    return specs[0].model_copy(update={"thresholds": thresholds})


def detector_settings(
    detection: DetectionSpec, lowest: Sequence[float], *, mpp: float | None, stride: int
) -> DetectorSettings:
    """Return how points are found on a map with `stride` pixels of `mpp` um from one of its pixels to the next.

    Raises
    ------
    ConfigError
        A radius is in um and `mpp` is unknown.
    """
    return DetectorSettings(
        nms_radius=length_px(detection.nms_radius, mpp) / stride,
        smooth_radius=length_px(detection.smooth_radius, mpp) / stride,
        lowest=tuple(lowest),
    )


def score_image(image_HWC: NDArray[np.uint8], predictor: ScorePredictor) -> NDArray[np.uint16]:
    """Return the score map, uint16 (h, w, K), of an image, uint8 (H, W, C), by the same tiles as a slide's."""
    source = ArrayImage(with_channels(image_HWC, predictor.spec.arguments.in_channels))
    scores: NDArray[np.uint16] = predict_image(source, predictor)[0]
    return scores


def detect_in_image(
    image_HWC: NDArray[np.uint8],
    predictor: ScorePredictor,
    detection: DetectionSpec,
    *,
    mpp: float | None,
    lowest: float = LOWEST_SCORE,
) -> Detections:
    """Return all detections in an image whose score is at least `lowest`, by descending score."""
    scores = score_image(image_HWC, predictor)
    settings = detector_settings(detection, [lowest] * scores.shape[2], mpp=mpp, stride=predictor.stride)
    return detect(scores, settings, MapGrid(stride=predictor.stride))
