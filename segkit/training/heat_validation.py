"""Validation of a U-Net that finds points: its detections in whole images, how much to smooth, and the thresholds.

Heat maps have one summit at each point, and need little smoothing or none: what suits a network best is found on the
validation images, as its thresholds are.
"""

from collections.abc import Callable, Sequence

import numpy as np

from segkit.inference.detect import MapGrid, detect
from segkit.inference.image_detection import LOWEST_SCORE, ScorePredictor, detector_settings, score_image
from segkit.models.model_file import DetectionSpec
from segkit.points import Detections
from segkit.training.distributed import ALONE, Group
from segkit.training.point_validation import LabelledPoints, PointValidation, judge

NOT_SMOOTHED = "0.5px"
"""A disk of a single pixel."""
SMOOTHED = (0.0, 1 / 6, 1 / 3)
"""Radii of smoothing that are tried, in match radii."""


def smoothing_radii(match_radius: str) -> list[str]:
    """Return the lengths that are tried, the smallest first, in the unit of the match radius but for the first.

    Parameters
    ----------
    match_radius
        A `segkit.config.Length`.
    """
    number, unit = float(match_radius[:-2]), match_radius[-2:]
    lengths = [np.format_float_positional(number * share, precision=4, trim="-") for share in SMOOTHED if share]
    return [NOT_SMOOTHED, *(f"{length}{unit}" for length in lengths)]


def validate_heat(
    images: Sequence[LabelledPoints],
    predictor: ScorePredictor,
    detection: DetectionSpec,
    *,
    mpp: float | None,
    group: Group = ALONE,
    on_image: Callable[[int, int], None],
) -> PointValidation:
    """Find the points of whole images, choose how to smooth and the thresholds, and score them.

    Of the radii of smoothing the one with the best mean F1 is taken, of equal ones the smallest. `changes` holds the
    detection with what was chosen. The processes of `group` divide the images. `on_image` is called after each image
    with (images done, images).

    Raises
    ------
    ConfigError
        A radius is in um and `mpp` is unknown.
    """
    tried = [
        detection.model_copy(update={"smooth_radius": radius}) for radius in smoothing_radii(detection.match_radius)
    ]

    def find(one: LabelledPoints) -> list[Detections]:
        scores = score_image(one.image, predictor)
        lowest = [LOWEST_SCORE] * scores.shape[2]
        return [detect(scores, detector_settings(how, lowest, mpp=mpp, stride=predictor.stride), grid) for how in tried]

    grid = MapGrid(stride=predictor.stride)
    by_image = group.map(find, images, lambda done: on_image(done, len(images)))
    classes = predictor.spec.classes
    judged = [
        judge(images, [found[number] for found in by_image], how, classes, mpp=mpp) for number, how in enumerate(tried)
    ]
    return max(judged, key=lambda one: one.score)
