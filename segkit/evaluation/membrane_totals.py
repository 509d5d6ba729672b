"""What holds for the membranes of an image, in a few totals that pool by adding: V-Rand, V-Info, Rand, information.

The totals of a map after border thinning are those of `membranes.thinned_scores`; those without thinning compare the
4-connected cells as they are: `partitions.adapted_rand` and `partitions.information`.

**Pixels that are not labelled** count nowhere. They are no part of a true cell, and so may divide one.

**Undefined values.** Rand scores are undefined where the truth has no cell (without thinning: no two pixels in one
cell). V-Info is undefined where truth and prediction are one cell each, its precision where the truth is one, its
recall where the prediction is one. A prediction without any cell is one cell after thinning, and so it is for the Rand
score without thinning. The variation of information is defined wherever a pixel is labelled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.evaluation import membranes, partitions
from segkit.evaluation.estimates import ratio
from segkit.evaluation.membranes import THRESHOLDS, ThinnedScores, thinned_scores, thinned_sweep
from segkit.evaluation.partitions import adapted_rand, contingency, information

Totals = NDArray[np.float64]
Metric = Callable[[Totals], NDArray[np.float64]]

TOTALS: Final = (
    "v_rand_both", "v_rand_in_prediction", "v_rand_in_truth",
    "v_info_mutual", "v_info_in_prediction", "v_info_in_truth",
    "rand_both", "rand_in_prediction", "rand_in_truth", "mutual", "in_prediction", "in_truth", "num_px",
)  # fmt: skip
"""The totals of an image: pairs of pixels, bits summed over pixels, pixels. The first six are those after thinning."""

NUM_THINNED: Final = 6


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredMembranes:
    """What is kept of an image.

    Attributes
    ----------
    totals
        Of the predicted mask, float64 (13,), in the order of `TOTALS`.
    sweep
        Of the probability map at T thresholds, float64 (T, 6), the first of `TOTALS`; None without such a map.
    """

    totals: Totals
    sweep: Totals | None = None


def measure_membranes(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    unlabelled: NDArray[np.bool_] | None = None,
    cell_probability: NDArray[np.floating] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> MeasuredMembranes:
    """Measure one whole image: the cells of a tile are not those of the image.

    Parameters
    ----------
    prediction, truth
        True where a pixel is cell, False where it is membrane, bool (H, W) of the same shape.
    unlabelled
        Pixels that do not count, whatever `truth` says there, bool (H, W).
    cell_probability
        Probability of cell, 0..1, floating point (H, W).
    thresholds
        Where this is cut: a pixel is cell where its probability is greater.

    Raises
    ------
    ValueError
        The arrays are not bool or differ in shape.
    """
    if unlabelled is not None:
        truth = truth & ~unlabelled
    thinned = _of_thinned(thinned_scores(prediction, truth))
    table = contingency(ndimage.label(truth)[0], ndimage.label(prediction)[0], ignored=unlabelled)
    rand, bits = adapted_rand(table), information(table)
    totals = [*thinned, rand.both, rand.in_prediction, rand.in_truth]
    totals += [bits.mutual, bits.in_prediction, bits.in_truth, bits.num_pixels]
    return MeasuredMembranes(
        np.array(totals, np.float64),
        None if cell_probability is None else sweep_membranes(cell_probability, truth, thresholds=thresholds),
    )


def sweep_membranes(
    cell_probability: NDArray[np.floating],
    truth: NDArray[np.bool_],
    *,
    unlabelled: NDArray[np.bool_] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Totals:
    """Return the totals after thinning at each threshold, float64 (T, 6); parameters as of `measure_membranes`."""
    if unlabelled is not None:
        truth = truth & ~unlabelled
    swept = thinned_sweep(cell_probability, truth, thresholds)
    return np.array([_of_thinned(scores) for scores in swept], np.float64).reshape(-1, NUM_THINNED)


def _harmonic(first: int) -> Metric:
    """Return 2 a / (b + c) of three totals: the harmonic mean of a / b and a / c."""
    return lambda totals: ratio(2 * totals[..., first], totals[..., first + 1] + totals[..., first + 2])


def _share(part: int, whole: int) -> Metric:
    return lambda totals: ratio(totals[..., part], totals[..., whole])


def _bits(*signs: int) -> Metric:
    """Return a sum of mutual, in_prediction and in_truth with these factors, per pixel."""
    # Rounding must not make information negative.
    return lambda totals: ratio(np.maximum(0.0, totals[..., 9:12] @ np.array(signs, np.float64)), totals[..., 12])


THINNED_METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "v_rand": _harmonic(0),
        "v_rand_precision": _share(0, 1),
        "v_rand_recall": _share(0, 2),
        "v_info": _harmonic(3),
        "v_info_precision": _share(3, 5),
        "v_info_recall": _share(3, 4),
    }
)
"""Metrics after border thinning, from totals (..., 6 or 13) to (...), by the names that files give them."""

METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        **THINNED_METRICS,
        "rand_error": lambda totals: 1 - _harmonic(6)(totals),
        "rand_score": _harmonic(6),
        "rand_precision": _share(6, 7),
        "rand_recall": _share(6, 8),
        "vi_bits": _bits(-2, 1, 1),
        "vi_split_bits": _bits(-1, 1, 0),
        "vi_merge_bits": _bits(-1, 0, 1),
    }
)
"""All metrics, from totals (..., 13) to (...), NaN where undefined."""

DEFINITIONS: Final = MappingProxyType({**membranes.DEFINITIONS, **partitions.DEFINITIONS})
"""What files say about each metric."""


def _of_thinned(scores: ThinnedScores) -> list[float]:
    rand, bits = scores.v_rand, scores.v_info
    return [rand.both, rand.in_prediction, rand.in_truth, bits.mutual, bits.in_prediction, bits.in_truth]
