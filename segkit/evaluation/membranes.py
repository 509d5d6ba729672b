"""Scores of membrane maps: cells are what the membranes enclose, and what counts is which cells are split or merged.

Cells are the 4-connected components of the pixels that are not membrane: two cells that touch only at a corner
are two. All scores are foreground-restricted: the truth's membrane is left out, whatever is predicted there.

**V-Rand and V-Info after border thinning** (`thinned_scores`) are the final metrics of the ISBI 2012 challenge
(Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142, doi:10.3389/fnana.2015.00142). The paper describes them; what is
computed here is what the challenge's script does (classes `RandError`, `VariationOfInformation` and
`WatershedTransform2D` of Fiji's Trainable_Segmentation, read at commit 41c7083), which a comparison reproduced digit
for digit:

1. A pixel is cell where the map is greater than the threshold. Only the *prediction* is thinned.
2. The predicted cells (4-connected) flood the predicted membrane from all sides at once, pixel by pixel, over 4
   neighbours (Soille and Vincent 1990, SPIE 1360:240-250). Pixels take their turn first come, first served: first those
   beside a cell, columns from left to right and each from top to bottom. In its turn a pixel looks at its neighbours
   that are flooded already: it joins their cell if that is one, and is border if it is several, or if all are border.
   Left are borders of mostly one pixel; those that end inside a cell vanish. A map without any cell is one cell.
3. The truth's cells are compared with the flooded ones (`partitions.v_rand`, `partitions.v_info`): each border pixel
   is a segment of its own, pairs are ordered and include those of a pixel with itself.

The challenge averages the scores over the slices at each threshold 0, 0.1 .. 1 and takes the best threshold *on the
test set itself*: its published numbers are maxima. Here a threshold is chosen where the caller says, on validation
images.

**Without thinning** (`rand_score`) the score also depends on how thick the predicted membranes are; it is 1 - the
adapted Rand error of scikit-image (`partitions.adapted_rand`), where all predicted membrane is one segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.evaluation.partitions import (
    InformationScore,
    RandScore,
    adapted_rand,
    contingency,
    v_info,
    v_rand,
)

THRESHOLDS = (*(round(0.05 * step, 2) for step in range(1, 20)), 0.97, 0.99)
"""Thresholds on the cell probability that a sweep tries: 0.05, 0.10 .. 0.95, and what a network that is sure needs."""

_BORDER: Final = 0
_DRY: Final = -1
_OUTSIDE: Final = -2


@dataclass(frozen=True, slots=True)
class ThinnedScores:
    """The two scores of the ISBI 2012 challenge; those of several images pool by adding them."""

    v_rand: RandScore
    v_info: InformationScore

    def __add__(self, other: "ThinnedScores") -> "ThinnedScores":
        return ThinnedScores(self.v_rand + other.v_rand, self.v_info + other.v_info)


def thinned_scores(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> ThinnedScores:
    """Return V-Rand and V-Info of one thresholded map after border thinning.

    Parameters
    ----------
    prediction, truth
        True where a pixel is cell, False where it is membrane; bool (H, W) of the same shape. The whole image: cells
        of a tile are not those of the image.

    Returns
    -------
    Both scores; undefined where the truth has no cell, V-Info also where truth and prediction are one cell each.

    Raises
    ------
    ValueError
        The arrays are not bool or differ in shape.
    """
    _require_bool(truth)
    return _thinned_against(prediction, ndimage.label(truth)[0])


def thinned_sweep(
    prediction: NDArray[np.floating], truth: NDArray[np.bool_], thresholds: Sequence[float] = THRESHOLDS
) -> tuple[ThinnedScores, ...]:
    """Return V-Rand and V-Info of one image at each threshold; parameters as of `rand_scores`."""
    _require_bool(truth)
    truth_labels = ndimage.label(truth)[0]
    return tuple(_thinned_against(prediction > threshold, truth_labels) for threshold in thresholds)


def rand_score(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> RandScore:
    """Return the Rand score of one thresholded map, without thinning.

    Parameters
    ----------
    prediction, truth
        True where a pixel is cell, False where it is membrane; bool (H, W) of the same shape.

    Raises
    ------
    ValueError
        The arrays are not bool or differ in shape.
    """
    _require_bool(truth)
    return _rand_against(prediction, ndimage.label(truth)[0])


def rand_scores(
    prediction: NDArray[np.floating], truth: NDArray[np.bool_], thresholds: Sequence[float] = THRESHOLDS
) -> tuple[RandScore, ...]:
    """Return the Rand score of one image at each threshold; a pixel is cell where `prediction > threshold`.

    Parameters
    ----------
    prediction
        Probability of cell, 0..1, floating point (H, W).
    truth
        True where a pixel is cell, bool (H, W).
    """
    _require_bool(truth)
    truth_labels = ndimage.label(truth)[0]
    return tuple(_rand_against(prediction > threshold, truth_labels) for threshold in thresholds)


def best_threshold(
    scores: NDArray[np.float64], thresholds: Sequence[float] = THRESHOLDS, *, standard_errors: float = 0
) -> tuple[float, float]:
    """Return the threshold with the highest score averaged over images, and the average there.

    Parameters
    ----------
    scores
        Of N images at T thresholds, float64 (N, T), NaN where undefined. An image that has no score at one of the
        thresholds is left out.
    thresholds
        T thresholds. Among equals the one in their middle is returned.
    standard_errors
        How far below the highest average one is its equal, in standard errors of that average over images. Scores
        hardly change over a wide range of thresholds, and which of these is highest is chance: to use a threshold on
        other images, take 1 (the rule of Breiman et al. 1984, Classification and Regression Trees, section 3.4.3).

    Choose on validation images only: the average is optimistic for the images that it was chosen on.

    Raises
    ------
    ValueError
        No image has a defined score.
    """
    defined = scores[~np.isnan(scores).any(axis=1)] if scores.size else scores
    if not defined.size:
        raise ValueError("no image has two pixels in one cell, so there is no threshold to choose")
    means = defined.mean(axis=0)
    errors = defined.std(axis=0, ddof=1) / np.sqrt(len(defined)) if len(defined) > 1 else np.zeros(len(means))
    best = np.flatnonzero(means >= means.max() - standard_errors * errors[means.argmax()])
    chosen = best[len(best) // 2]
    return float(thresholds[chosen]), float(means[chosen])


def flooded(cells: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Let cells flood the membrane between them, until borders of mostly one pixel are left.

    Parameters
    ----------
    cells
        True where a pixel is cell, bool (H, W).

    Returns
    -------
    int32 (H, W): the cell of each pixel from 1, 0 on borders; all 1 if there is no cell. Step 2 of this module's
    description says how.
    """
    _require_bool(cells)
    if not cells.any():
        return np.ones(cells.shape, np.int32)
    # Transposed, so that ascending positions are the order of the challenge's scan.
    height, width = cells.shape
    found_XY = np.full((width + 2, height + 2), _OUTSIDE, np.int32)
    found_XY[1:-1, 1:-1] = np.where(cells, ndimage.label(cells)[0], _DRY).T
    labels = found_XY.ravel()  # a view
    steps = np.array([[-(height + 2)], [-1], [height + 2], [1]])
    dry = np.flatnonzero(labels == _DRY)
    front = dry[(labels[dry + steps] > 0).any(axis=0)]
    turn = np.full(labels.size, np.iinfo(np.int32).max, np.int32)
    while front.size:
        # A front is what the queue of the challenge's code holds at once: pixels as far away from the nearest cell.
        beside = front + steps
        turn[front] = np.arange(front.size)
        labels[front] = _of_front(labels[beside], turn[beside])
        turn[front] = np.iinfo(np.int32).max
        wetted = beside.T[(labels[beside] == _DRY).T]
        front = wetted[np.sort(np.unique(wetted, return_index=True)[1])]
    return np.ascontiguousarray(found_XY[1:-1, 1:-1].T)


DEFINITIONS: Final = MappingProxyType(
    {
        "cell": "4-connected component of the pixels that are not membrane: in the predicted mask or, where a "
        "threshold is named, of those with a higher probability of not being membrane",
        "v_rand": "V-Rand of ISBI 2012 (alpha 0.5): the predicted cells flood the predicted membrane to borders of one "
        "pixel; Rand score over the truth's cells, border pixels are segments of their own, ordered pairs that include "
        "those of a pixel with itself",
        "v_rand_precision": "low where cells are merged (the paper's Rand merge score)",
        "v_rand_recall": "low where cells are split (the paper's Rand split score)",
        "v_info": "V-Info of ISBI 2012 (alpha 0.5): 2 I / (H(truth) + H(prediction)) after the same thinning",
        "v_info_precision": "I / H(truth), low where cells are merged",
        "v_info_recall": "I / H(prediction), low where cells are split",
    }
)
"""What files say about each metric; those of the scores without thinning are in `partitions.DEFINITIONS`."""


def _of_front(labels: NDArray[np.int32], turns: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the label of each of the n pixels of a front, who take their turns one after the other.

    Parameters
    ----------
    labels, turns
        Of their four neighbours, int32 (4, n): the label, and the place in the front if it is in the front, too.

    A pixel knows the neighbours whose turn has been. What the front's pixels take is computed for all at once and
    again until nothing changes: after k rounds at least the first k are right, and mostly all after two or three.
    """
    num_pixels = labels.shape[1]
    earlier = turns < np.arange(num_pixels)
    place = np.where(earlier, turns, 0)
    taken = np.full(num_pixels, _DRY, np.int32)
    none = np.iinfo(np.int32).max
    while True:
        known = np.where(earlier, taken[place], labels)
        lowest = np.where(known > 0, known, none).min(axis=0)
        now = np.where(lowest == known.max(axis=0), lowest, _BORDER)
        if np.array_equal(now, taken):
            return taken
        taken = now


def _rand_against(prediction: NDArray[np.bool_], truth_labels: NDArray[np.int32]) -> RandScore:
    """Return the score against the truth's components (0 = membrane)."""
    _require_fitting(prediction, truth_labels)
    # The prediction is labelled before the restriction: components may connect through the truth's membrane.
    return adapted_rand(contingency(truth_labels, ndimage.label(prediction)[0]))


def _thinned_against(prediction: NDArray[np.bool_], truth_labels: NDArray[np.int32]) -> ThinnedScores:
    """Return the scores against the truth's components (0 = membrane)."""
    _require_fitting(prediction, truth_labels)
    table = contingency(truth_labels, flooded(prediction))
    return ThinnedScores(v_rand(table), v_info(table))


def _require_fitting(prediction: NDArray[np.bool_], truth_labels: NDArray[np.int32]) -> None:
    _require_bool(prediction)
    if prediction.shape != truth_labels.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth_labels.shape} differ in shape")


def _require_bool(cells: NDArray[np.bool_]) -> None:
    if cells.dtype != np.bool_ or cells.ndim != 2:
        raise ValueError(f"a cell mask must be bool (H, W), got {cells.dtype} {cells.shape}")
