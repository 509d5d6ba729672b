"""Calibration: does what is predicted with probability p happen in a share p of the cases?

Pixels are sorted into K bins of equal width by the probability that was predicted for an event. In each bin the mean
probability is compared with the share of pixels where the event came true:

    ECE    sum over bins of (pixels in bin / all pixels) |share - mean probability|     expected calibration error
    MCE    greatest |share - mean probability| of the bins that hold pixels              maximum calibration error
    Brier  mean over pixels of (probability - 1 if the event came true, else 0)^2

Two questions are asked this way, and their numbers are not comparable:

- *of a class*: the event is that a pixel is of this class, the probability is the map's (`count_of_class`). This is the
  reliability of a probability map, and torchmetrics' `binary_calibration_error`.
- *of the top label*: the event is that the predicted class is right, the probability is the greatest of all classes'
  (`count_of_top_label`). This is the definition of Guo et al., and torchmetrics' `multiclass_calibration_error`; of two
  classes no probability is below 0.5.

Bins are closed above, as in Guo et al.: (0, 1/K], (1/K, 2/K] .. (1 - 1/K, 1]; 0 itself is in the first. (torchmetrics'
are closed below and it puts a probability of exactly 1 into a bin of its own.) Maps of uint8, as segkit writes
them, stand for value / 255.

Sums add up over tiles and images, so a slide is measured piece by piece.

Sources: Naeini et al. (2015), AAAI 29 (ECE, MCE); Guo et al. (2017), On calibration of modern neural networks, ICML,
arXiv:1706.04599, equations 2 to 5; Brier (1950), Monthly Weather Review 78:1-3 (here of one event: half of Brier's own
sum over two classes).

**Undefined values.** Without pixels all are undefined (NaN), and so is a bin without pixels.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.evaluation.estimates import ratio
from segkit.masks import IGNORE

NUM_BINS: Final = 15
"""Of Guo et al."""

NUM_LEVELS: Final = 256
"""Of probabilities of uint8."""

_FULL: Final = NUM_LEVELS - 1
# What a chunk needs stays in a core's cache.
_CHUNK_PX = 1 << 16
_OUT = 2


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Sums over pixels, by bin of the probability; those of tiles and images add up.

    Attributes
    ----------
    pixels
        Pixels in each bin, int64 (K,).
    came_true
        Those where the event came true, int64 (K,).
    probability
        Sum of their probabilities, float64 (K,).
    squared_error
        Sum of (probability - outcome)^2 over all pixels.
    levels
        Pixels at each of the 256 levels of uint8, int64 (2, 256): where it did not come true, then where it did; None
        where some probabilities are not of uint8.
    """

    pixels: NDArray[np.int64]
    came_true: NDArray[np.int64]
    probability: NDArray[np.float64]
    squared_error: float
    levels: NDArray[np.int64] | None = None

    def __add__(self, other: "Calibration") -> "Calibration":
        if len(self.pixels) != len(other.pixels):
            raise ValueError(f"{len(self.pixels)} and {len(other.pixels)} bins do not add up")
        return Calibration(
            self.pixels + other.pixels,
            self.came_true + other.came_true,
            self.probability + other.probability,
            self.squared_error + other.squared_error,
            None if self.levels is None or other.levels is None else self.levels + other.levels,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityCurve:
    """What a reliability diagram draws, by bin; NaN in bins without pixels.

    Attributes
    ----------
    edges
        Ends of the bins, float64 (K + 1,), from 0 to 1.
    mean_probability, share
        What was predicted, and how often it came true, float64 (K,), in 0..1.
    pixels
        Pixels in each bin, int64 (K,).
    """

    edges: NDArray[np.float64]
    mean_probability: NDArray[np.float64]
    share: NDArray[np.float64]
    pixels: NDArray[np.int64]


def no_calibration(num_bins: int = NUM_BINS) -> Calibration:
    """Return the sums of no pixels, to which others are added."""
    pixels, came_true = np.zeros((2, num_bins), np.int64)
    levels: NDArray[np.int64] = np.zeros((2, NUM_LEVELS), np.int64)
    return Calibration(pixels, came_true, np.zeros(num_bins, np.float64), 0.0, levels)


def require_probabilities(probability: NDArray[np.generic], name: str) -> None:
    """Raise InputError, naming the image `name`, unless it holds uint8 or floating point numbers of 0 to 1."""
    if probability.dtype == np.uint8:
        return
    if not np.issubdtype(probability.dtype, np.floating):
        raise InputError(
            f"{name}: the probabilities are {probability.dtype}. Needed is uint8 (255 = 1) or floating point (0 to 1)."
        )
    values = probability.astype(np.float64)
    wrong = ~((values >= 0) & (values <= 1))  # NaN, too
    if wrong.any():
        raise InputError(
            f"{name}: {np.count_nonzero(wrong)} of {wrong.size} probabilities are not within 0 to 1, the first is "
            f"{values[wrong][0]}. Write probabilities of 0 to 1, not scores of another range."
        )


def count_of_class(
    probability: NDArray[np.generic], truth: NDArray[np.uint8], class_index: int, *, num_bins: int = NUM_BINS
) -> Calibration:
    """Count how often pixels are of a class, by the probability that was predicted for it.

    Parameters
    ----------
    probability
        Of the class, uint8 (255 = 1) or floating point 0..1, any shape.
    truth
        Class indices or `IGNORE`, uint8 of the same shape; pixels with `IGNORE` are not counted.
    class_index
        Which class.

    Raises
    ------
    ValueError
        The shapes differ, or the probabilities are of another type or range.
    """
    return _count(probability, _outcome_by_class(class_index)[truth], num_bins)


def count_of_not_background(
    probability: NDArray[np.generic], truth: NDArray[np.uint8], *, num_bins: int = NUM_BINS
) -> Calibration:
    """Count how often pixels are of any class but the first, by the probability that was predicted for that.

    Parameters
    ----------
    probability, truth
        As of `count_of_class`.

    Raises
    ------
    ValueError
        As of `count_of_class`.
    """
    outcome = np.ones(NUM_LEVELS, np.uint8)
    outcome[0] = 0
    outcome[IGNORE] = _OUT
    return _count(probability, outcome[truth], num_bins)


def count_of_levels(
    missed: NDArray[np.int64], came_true: NDArray[np.int64], *, num_bins: int = NUM_BINS
) -> Calibration:
    """Return the sums for probabilities of uint8 by how often each did and did not come true, int64 (256,)."""
    level = np.arange(NUM_LEVELS)
    # The bin of v / 255 is the number of edges k / K below it: in whole numbers, as with 15 bins levels lie on edges.
    bins = np.maximum(-(-level * num_bins // _FULL) - 1, 0)
    pixels = missed + came_true
    squares = missed @ level**2 + came_true @ (_FULL - level) ** 2
    return Calibration(
        np.bincount(bins, pixels, num_bins).astype(np.int64),
        np.bincount(bins, came_true, num_bins).astype(np.int64),
        np.bincount(bins, pixels * level, num_bins) / _FULL,
        float(squares) / _FULL**2,
        np.stack([missed, came_true]),
    )


def count_of_top_label(
    probabilities: NDArray[np.generic], truth: NDArray[np.uint8], *, num_bins: int = NUM_BINS
) -> Calibration:
    """Count how often the most probable class is the true one, by its probability.

    Parameters
    ----------
    probabilities
        Of each class, uint8 (255 = 1) or floating point 0..1, (C, ...). Among equals the first is predicted.
    truth
        Class indices or `IGNORE`, uint8 (...); pixels with `IGNORE` are not counted.

    Raises
    ------
    ValueError
        As of `count_of_class`.
    """
    right = (probabilities.argmax(axis=0) == truth).astype(np.uint8)
    return _count(probabilities.max(axis=0), np.where(truth == IGNORE, np.uint8(_OUT), right), num_bins)


def expected_calibration_error(counts: Calibration) -> float:
    """Return ECE, 0..1, NaN without pixels (Guo et al. 2017, equation 3)."""
    # |share - mean| * pixels is |came true - sum of probabilities|, also in empty bins.
    return _share(float(np.abs(counts.came_true - counts.probability).sum()), int(counts.pixels.sum()))


def maximum_calibration_error(counts: Calibration) -> float:
    """Return MCE, 0..1, NaN without pixels (Guo et al. 2017, equation 5)."""
    filled = counts.pixels > 0
    gaps = np.abs(counts.came_true - counts.probability)[filled] / counts.pixels[filled]
    return float(gaps.max()) if gaps.size else np.nan


def brier_score(counts: Calibration) -> float:
    """Return the mean squared error of the probability, 0..1, NaN without pixels (Brier 1950, of one event)."""
    return _share(counts.squared_error, int(counts.pixels.sum()))


def reliability_curve(counts: Calibration) -> ReliabilityCurve:
    """Return mean probability and share of each bin."""
    num_bins, pixels = len(counts.pixels), counts.pixels.astype(np.float64)
    return ReliabilityCurve(
        edges=np.arange(num_bins + 1) / num_bins,
        mean_probability=ratio(counts.probability, pixels),
        share=ratio(counts.came_true.astype(np.float64), pixels),
        pixels=counts.pixels,
    )


DEFINITIONS: Final = MappingProxyType(
    {
        "ece": f"expected calibration error: {NUM_BINS} bins of equal width, closed above; mean over pixels of |share "
        "of the bin's pixels where it came true - mean probability of the bin| (Guo et al. 2017)",
        "mce": "maximum calibration error: the greatest of these differences, over bins with pixels",
        "brier": "mean squared difference between the probability and 1 (came true) or 0",
        "calibration_of_class": "event: the pixel is of the class; probability: that of the class",
        "calibration_of_top_label": "event: the predicted class is right; probability: the greatest of all classes'",
    }
)
"""What files say about each metric."""


def _outcome_by_class(class_index: int) -> NDArray[np.uint8]:
    """Return what a pixel of each value in the truth is: 1 came true, 0 did not, `_OUT` is not counted."""
    outcome = np.zeros(256, np.uint8)
    outcome[class_index] = 1
    outcome[IGNORE] = _OUT
    return outcome


def _count(probability: NDArray[np.generic], outcome: NDArray[np.uint8], num_bins: int) -> Calibration:
    if probability.shape != outcome.shape:
        raise ValueError(f"probabilities {probability.shape} and truth {outcome.shape} differ in shape")
    if num_bins < 1:
        raise ValueError(f"num_bins must be 1 or more, got {num_bins}")
    if probability.dtype == np.uint8:
        return _count_levels(probability.ravel().astype(np.uint8, copy=False), outcome.ravel(), num_bins)
    if not np.issubdtype(probability.dtype, np.floating):
        raise ValueError(f"probabilities must be uint8 or floating point, got {probability.dtype}")
    return _count_floats(probability.ravel().astype(np.float64, copy=False), outcome.ravel(), num_bins)


def _count_levels(levels: NDArray[np.uint8], outcome: NDArray[np.uint8], num_bins: int) -> Calibration:
    """Count exactly, for each of 256 levels how often it came true."""
    sums = np.zeros(3 * NUM_LEVELS, np.int64)
    for start in range(0, levels.size, _CHUNK_PX):
        keys = outcome[start : start + _CHUNK_PX].astype(np.uint16)
        keys <<= 8
        keys |= levels[start : start + _CHUNK_PX]
        sums += np.bincount(keys, minlength=sums.size)
    missed, came_true, _ = sums.reshape(3, NUM_LEVELS)
    return count_of_levels(missed, came_true, num_bins=num_bins)


def _count_floats(probability: NDArray[np.float64], outcome: NDArray[np.uint8], num_bins: int) -> Calibration:
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise ValueError(f"probabilities must be 0 to 1, got {probability.min()} to {probability.max()}")
    inner_edges = np.arange(1, num_bins) / num_bins
    counts = no_calibration(num_bins)
    for start in range(0, probability.size, _CHUNK_PX):
        result = outcome[start : start + _CHUNK_PX]
        counted = result != _OUT
        predicted, real = probability[start : start + _CHUNK_PX][counted], result[counted]
        bins = np.searchsorted(inner_edges, predicted)
        differences = predicted - real
        counts += Calibration(
            np.bincount(bins, minlength=num_bins),
            np.bincount(bins[real == 1], minlength=num_bins),
            np.bincount(bins, predicted, num_bins).astype(np.float64, copy=False),
            float(differences @ differences),
        )
    return counts


def _share(part: float, whole: int) -> float:
    return float(ratio(np.array(part), np.array(float(whole))))
