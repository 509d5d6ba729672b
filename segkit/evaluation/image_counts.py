"""What is measured of one image's pixels: from its masks, while they are in memory, to counts, which are kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.calibration import Calibration, count_of_class, count_of_levels, count_of_not_background
from segkit.evaluation.membrane_images import MembraneRules, cell_probability, membranes_of
from segkit.evaluation.membrane_totals import MeasuredMembranes
from segkit.evaluation.pixels import confusion
from segkit.evaluation.surface_tables import surface_row
from segkit.evaluation.surfaces import tally_classes
from segkit.evaluation.value_pairs import Pairs
from segkit.masks import IGNORE

NOT_BACKGROUND = 0
"""Where calibrations are told by class index: that of the event that a pixel is of any class but the background."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedImage:
    """Truth and prediction of one image, or of the part of it that is compared.

    Attributes
    ----------
    name
        Of the image.
    truth
        Class indices or `IGNORE`, uint8 (H, W).
    prediction
        Class indices, uint8 (H, W).
    mpp
        Micrometres per pixel, None where unknown.
    foreground
        Probability of not being background, uint8 (H, W), 255 = 1; None where nobody said it.
    of_classes
        Probability of each of the classes 1 .. C-1, uint8 (H, W, C-1), where it is known and there are several.
    """

    name: str
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    mpp: float | None = None
    foreground: NDArray[np.uint8] | None = None
    of_classes: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageCounts:
    """What is kept of one image.

    Attributes
    ----------
    name
        Of the image.
    confusion
        int64 (C, C), as `segkit.evaluation.pixels.confusion` counts it.
    mpp
        Micrometres per pixel, None where unknown.
    surfaces
        float64 (C-1, 6), a `surface_row` for each of the classes 1 .. C-1; None: not measured.
    calibrations
        By class index, and by `NOT_BACKGROUND` where there are more than two classes; empty where no probabilities are
        known.
    membranes
        None: not measured.
    """

    name: str
    confusion: NDArray[np.int64]
    mpp: float | None = None
    surfaces: NDArray[np.float64] | None = None
    calibrations: Mapping[int, Calibration] = field(default_factory=dict)
    membranes: MeasuredMembranes | None = None


def count_image(
    image: ComparedImage, num_classes: int, *, tolerance_px: float | None, membranes: MembraneRules | None = None
) -> ImageCounts:
    """Measure one image.

    Parameters
    ----------
    image
        Its masks.
    num_classes
        C.
    tolerance_px
        Of NSD; None: distances between boundaries are not measured.
    membranes
        Which class is membrane; None: membranes are not measured.
    """
    surfaces = None
    if tolerance_px is not None:
        tallies = tally_classes(image.prediction, image.truth, num_classes)
        surfaces = np.array([surface_row(one, image.truth.shape, tolerance_px) for one in tallies])
    calibrations = {}
    if image.foreground is not None and num_classes == 2:
        calibrations[1] = count_of_class(image.foreground, image.truth, 1)
    elif image.foreground is not None:
        calibrations[NOT_BACKGROUND] = count_of_not_background(image.foreground, image.truth)
    if image.of_classes is not None:
        for index in range(1, num_classes):
            calibrations[index] = count_of_class(image.of_classes[..., index - 1], image.truth, index)
    return ImageCounts(
        name=image.name,
        confusion=confusion(image.prediction, image.truth, num_classes),
        mpp=image.mpp,
        surfaces=surfaces,
        calibrations=calibrations,
        membranes=None if membranes is None else _measured_membranes(image, num_classes, membranes),
    )


def _measured_membranes(image: ComparedImage, num_classes: int, rules: MembraneRules) -> MeasuredMembranes:
    probability = cell_probability(image.foreground, image.of_classes, rules, num_classes)
    return membranes_of(image.prediction, image.truth, rules, probability=probability)


def calibrations_of_pairs(levels: Pairs, index_of_true: Mapping[int, int], num_classes: int) -> dict[int, Calibration]:
    """Return the calibration of a map of the probability of not being background, counted block by block.

    Parameters
    ----------
    levels
        Pixels by the truth's value and the probability's, 255 = 1.
    index_of_true
        The class index of every true value that occurs, or `IGNORE`.
    num_classes
        C.

    Returns
    -------
    As `ImageCounts.calibrations`.
    """
    missed, came_true = np.zeros((2, 256), np.int64)
    for (value, level), count in levels.items():
        if index_of_true[value] != IGNORE:
            (came_true if index_of_true[value] else missed)[level] += count
    return {1 if num_classes == 2 else NOT_BACKGROUND: count_of_levels(missed, came_true)}
