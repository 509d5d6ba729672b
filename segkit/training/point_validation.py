"""Validation of a network that finds points: its detections in whole images, and the threshold that suits them best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.config import length_px
from segkit.evaluation.point_curves import PointCurve, point_curve, score_hits
from segkit.inference.image_detection import ScorePredictor, detect_in_image
from segkit.models.model_file import DetectionSpec
from segkit.points import Detections, Points
from segkit.training.distributed import ALONE, Group
from segkit.training.validation import Validation

MAX_CURVE_ROWS = 200


class LabelledPoints(NamedTuple):
    """An image, uint8 (H, W, C), and its points."""

    name: str
    image: NDArray[np.uint8]
    points: Points


@dataclass(frozen=True, kw_only=True)
class PointValidation(Validation):
    """F1 over a set of images, each class at the threshold that is best for it on them.

    `detections` are those of each image from the lowest score on, `thresholds` those chosen, by foreground class.
    """

    detections: list[Detections]
    thresholds: list[float]


def validate_points(
    images: Sequence[LabelledPoints],
    predictor: ScorePredictor,
    detection: DetectionSpec,
    *,
    mpp: float | None,
    group: Group = ALONE,
    on_image: Callable[[int, int], None],
) -> PointValidation:
    """Find the points of whole images, choose thresholds and score them.

    A class that is not in the images keeps its threshold and has no F1; one that is, and is detected nowhere, keeps it
    and has an F1 of 0. The processes of `group` divide the images. `on_image` is
    called after each image with (images done, images).
    """
    detections = group.map(
        lambda one: detect_in_image(one.image, predictor, detection, mpp=mpp),
        images,
        lambda done: on_image(done, len(images)),
    )
    return judge(images, detections, detection, predictor.spec.classes, mpp=mpp)


def judge(
    images: Sequence[LabelledPoints],
    detections: Sequence[Detections],
    detection: DetectionSpec,
    classes: Sequence[str],
    *,
    mpp: float | None,
) -> PointValidation:
    """Choose the thresholds for what was found, class by class, and score it.

    A class that is not in the images keeps its threshold and has no F1; one that is, and is detected nowhere, keeps it
    and has an F1 of 0.

    Parameters
    ----------
    images, detections
        What is in each image, and what was found there, from the lowest score on.
    detection
        How it was found.
    classes
        Names by index, background first.
    """
    match_px = length_px(detection.match_radius, mpp)
    thresholds, f1s, curves = [], {}, []
    for index, name in enumerate(classes[1:], start=1):
        curve = point_curve(
            [
                score_hits(
                    found.positions[found.classes == index],
                    found.scores[found.classes == index],
                    one.points.of_class(index),
                    match_px,
                )
                for found, one in zip(detections, images, strict=True)
            ]
        )
        best = curve.best_threshold()
        undetected = 0.0 if curve.num_truth else None
        thresholds.append(detection.thresholds[index - 1] if best is None else best[0])
        f1s[name] = undetected if best is None else best[1]
        curves.append(_rows(curve))
    defined = [value for value in f1s.values() if value is not None]
    return PointValidation(
        score=sum(defined) / len(defined) if defined else 0.0,
        by_class=f1s,
        changes={"detection": detection.model_copy(update={"thresholds": thresholds, "curves": curves})},
        detections=list(detections),
        thresholds=thresholds,
    )


def _rows(curve: PointCurve) -> list[tuple[float, float, float, float]]:
    thin = curve.thinned(MAX_CURVE_ROWS)
    columns = (thin.thresholds, thin.precision, thin.recall, thin.f1)
    return [
        (round(t, 6), round(p, 6), round(r, 6), round(f, 6))
        for t, p, r, f in zip(*(np.nan_to_num(column).tolist() for column in columns), strict=True)
    ]
