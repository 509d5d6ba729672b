"""Pixels at every threshold of a probability: precision, recall, Dice, IoU, and average precision.

At a threshold t those pixels are taken for the class whose probability is at least t. Maps are uint8, v / 255, so there
are 256 thresholds, and how many pixels of each level are of the class and are not (`Calibration.levels`) is all that is
needed. Counts are added up over images: every pixel counts the same.

Nothing is chosen by these curves. Masks take the most probable class, which with two classes is the threshold 0.5; what
other thresholds would give stands beside it. The best threshold is told of validation images only: on test images it
would be a choice on the images that are measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import pixels
from segkit.evaluation.calibration import NUM_LEVELS
from segkit.evaluation.calibration_tables import Calibrations
from segkit.evaluation.confidence import pooled_over_images
from segkit.evaluation.estimates import Estimate, estimate, number, ratio

METRICS: Final = ("precision", "recall", "dice", "iou")
"""What there is at each threshold, by the names that files give it."""

SHOWN: Final = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds that tables have; all are in curves.csv."""

MOST_PROBABLE: Final = 0.5
"""The threshold that the most probable of two classes is."""


@dataclass(frozen=True, slots=True, eq=False)
class PixelCurve:
    """Pixels at each threshold, by descending threshold, of images together.

    Attributes
    ----------
    true_positives, false_positives
        Of the class and not of it, with a probability of at least 255/255, 254/255 .. 0, int64 (256,).
    """

    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """255/255, 254/255 .. 0, float64 (256,)."""
        levels: NDArray[np.float64] = np.arange(NUM_LEVELS)[::-1] / (NUM_LEVELS - 1)
        return levels

    @property
    def num_true(self) -> int:
        """Pixels of the class."""
        return int(self.true_positives[-1])

    @property
    def false_negatives(self) -> NDArray[np.int64]:
        """Pixels of the class with a lower probability, int64 (256,)."""
        return self.num_true - self.true_positives

    @property
    def precision(self) -> NDArray[np.float64]:
        """TP / (TP + FP) at each threshold, float64 (256,) in 0..1; NaN where no pixel has such a probability."""
        return self._metric("precision")

    @property
    def recall(self) -> NDArray[np.float64]:
        """TP / (TP + FN) at each threshold, float64 (256,) in 0..1; NaN without pixels of the class."""
        return self._metric("recall")

    @property
    def dice(self) -> NDArray[np.float64]:
        """2 TP / (2 TP + FP + FN) at each threshold, float64 (256,) in 0..1, or NaN."""
        return self._metric("dice")

    @property
    def iou(self) -> NDArray[np.float64]:
        """TP / (TP + FP + FN) at each threshold, float64 (256,) in 0..1, or NaN."""
        return self._metric("iou")

    def at(self, threshold: float) -> dict[str, float | None]:
        """Return the metrics at a threshold of 0 to 1, by name; None where undefined."""
        # What holds at a threshold holds from the lowest level that is not below it.
        place = int(np.searchsorted(-self.thresholds, -threshold + 1e-9, side="right")) - 1
        return {metric: number(self._metric(metric)[place]) for metric in METRICS}

    def best(self) -> tuple[float, float] | None:
        """Return the threshold with the highest Dice, and that Dice, of equal ones the highest; None without a pixel.

        Of validation images only: the Dice is too good for the images that the threshold was chosen on.
        """
        if not self.num_true:
            return None
        place = int(np.nanargmax(self.dice))
        return float(self.thresholds[place]), float(self.dice[place])

    def _metric(self, name: str) -> NDArray[np.float64]:
        wrong, missed = self.false_positives, self.false_negatives
        # As a confusion matrix of the class and the rest; what is right of the rest is not in these metrics.
        table = np.stack([np.zeros_like(wrong), wrong, missed, self.true_positives], axis=-1).reshape(-1, 2, 2)
        return pixels.CLASS_METRICS[name](table)[:, 1]


def curve_of_levels(levels: NDArray[np.integer]) -> PixelCurve:
    """Return the curve of pixels at each level that are not and that are of the class, integers (2, 256)."""
    wrong, right = np.cumsum(levels[:, ::-1], axis=1, dtype=np.int64)
    return PixelCurve(right, wrong)


def average_precision(levels: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the area under the precision-recall steps: (..., 2, 256), as `curve_of_levels`, -> (...), 0..1 or NaN.

    The sum of (R_i - R_(i-1)) P_i over thresholds from the highest on, without interpolation, as
    `average_precision_score` of scikit-learn; pixels of one level come together. NaN without pixels of the class.
    """
    sums: NDArray[np.float64] = np.cumsum(levels[..., ::-1].astype(np.float64), axis=-1)
    wrong, right = sums[..., 0, :], sums[..., 1, :]
    # Before the first pixel precision is undefined, and recall does not rise.
    precisions = np.nan_to_num(ratio(right, right + wrong))
    return ratio((np.diff(right, axis=-1, prepend=0) * precisions).sum(axis=-1), right[..., -1])


@dataclass(frozen=True, slots=True, eq=False)
class PixelSweep:
    """What other thresholds give, for one event: that a pixel is of the class `name` (or of any but the background).

    Attributes
    ----------
    name
        Of the class.
    num_images
        Those whose probabilities are known; all of this is of them.
    curve
        Counts and metrics at each threshold.
    average_precision
        The area under precision and recall, with its interval.
    of_masks
        `METRICS` of the predicted masks, None where undefined.
    used
        The threshold that the masks were made with; None where none was (the most probable of several classes), or it
        is not known.
    best
        The threshold with the highest Dice, and that Dice; of validation images only.
    """

    name: str
    num_images: int
    curve: PixelCurve
    average_precision: Estimate
    of_masks: Mapping[str, float | None]
    used: float | None
    best: tuple[float, float] | None


def sweeps_of(
    calibrations: Calibrations | None,
    confusions: NDArray[np.int64],
    names: Mapping[int, str],
    weights: NDArray[np.float64],
    *,
    used: float | None,
    is_validation: bool,
) -> tuple[PixelSweep, ...]:
    """Return the sweep of each event; none where no probabilities of uint8 are known.

    Parameters
    ----------
    calibrations
        Of N images.
    confusions
        Of the same images, int64 (N, C, C).
    names
        What events are called, by class index; 0: that a pixel is of any class but the background.
    weights
        Of the set and its bootstrap samples, (1 + B, N).
    used
        The threshold that masks of two classes were made with, None where it is not known.
    is_validation
        Whether these are validation images, of which the best threshold is told.
    """
    if calibrations is None or calibrations.levels is None:
        return ()
    found = []
    for place, event in enumerate(calibrations.events):
        levels, known = calibrations.levels[:, place], calibrations.known[:, place]
        curve = curve_of_levels(levels.sum(axis=0))
        found.append(
            PixelSweep(
                name=names[event],
                num_images=int(known.sum()),
                curve=curve,
                average_precision=estimate(average_precision(pooled_over_images(levels, weights))),
                of_masks=_of_masks(confusions[known].sum(axis=0), event),
                used=used if confusions.shape[-1] == 2 else None,
                best=curve.best() if is_validation else None,
            )
        )
    return tuple(found)


def _of_masks(confusion: NDArray[np.int64], event: int) -> dict[str, float | None]:
    members = [event] if event else list(range(1, len(confusion)))
    is_member = np.isin(np.arange(len(confusion)), members).astype(np.int64)
    both = np.stack([1 - is_member, is_member])
    table = both @ confusion @ both.T
    return {metric: number(pixels.CLASS_METRICS[metric](table)[1]) for metric in METRICS}


def sentences_of(sweeps: Sequence[PixelSweep], num_classes: int) -> tuple[str, ...]:
    """Return in words how the masks came about, and what these images had to do with it; nothing without sweeps."""
    if not sweeps:
        return ()
    made = "At which threshold the masks were made is not known."
    if num_classes > 2:
        made = "The masks have one of several classes at each pixel, and so belong to no single threshold."
    elif sweeps[0].used is not None:
        made = f"The masks take the most probable class: with two classes the threshold {sweeps[0].used:g}."
    chosen = "No threshold was chosen on these images; what others would give stands beside."
    if all(one.best is None for one in sweeps):
        return made, chosen, "One that is to be used should be chosen on validation images."
    return made, chosen, "The best thresholds are those of these validation images, where their Dice is too good."


DEFINITIONS: Final = MappingProxyType(
    {
        "average_precision": "area under the precision-recall steps over the 256 thresholds of the probability, pooled "
        "over images: sum of (R_i - R_(i-1)) P_i from the highest threshold on, not interpolated (as scikit-learn)",
        "threshold_sweeps": "precision, recall, Dice and IoU of the pixels with a probability of at least the "
        "threshold, pooled over the images whose probabilities are known; nothing is chosen by it. of_masks: of the "
        "predicted masks in the same images; used: the threshold that these were made with (null: none, or not known); "
        "best_on_validation: the threshold with the highest Dice, of validation images only",
    }
)
"""What files say about it."""
