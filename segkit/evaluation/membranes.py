"""The foreground-restricted Rand score of membrane maps (ISBI 2012, SNEMI3D), as scikit-image computes it.

Cells are the 4-connected components of the pixels that are not membrane: two cells that touch only at a corner
are two. The score counts unordered pairs of different pixels, both inside the truth's cells (the truth's membrane
is left out, whatever is predicted there):

- `both`: pairs in one cell of the truth and in one component of the prediction,
- `in_truth`: pairs in one cell of the truth,
- `in_prediction`: pairs in one component of the prediction; the predicted membrane counts as one component.

    precision = both / in_prediction     low where cells are merged (the paper's Rand merge score)
    recall    = both / in_truth          low where cells are split (the paper's Rand split score)
    score     = 2 both / (in_prediction + in_truth) = 1 - adapted Rand error

This is V-Rand (alpha = 0.5) of Arganda-Carreras et al. (2015), Front. Neuroanat. 9:142,
doi:10.3389/fnana.2015.00142, with two differences: pairs of a pixel with itself are not counted (as in scikit-image's
`adapted_rand_error`; a relative difference of the order of 1 / pixels per cell), and the borders are not thinned
first, so the score also depends on how thick the predicted membranes are. scikit-image (0.26) returns the same
precision and recall in the other order (its issue 6485).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds on the cell probability that a sweep tries: 0.05, 0.10 .. 0.95."""


@dataclass(frozen=True, slots=True)
class RandScore:
    """Numbers of pixel pairs and the scores made of them; scores in 0..1, None where there are no pairs to judge.

    Scores of several images pool by adding them: `sum(scores, RandScore(0, 0, 0))`.
    """

    both: int
    in_prediction: int
    in_truth: int

    def __add__(self, other: "RandScore") -> "RandScore":
        return RandScore(
            self.both + other.both, self.in_prediction + other.in_prediction, self.in_truth + other.in_truth
        )

    @property
    def precision(self) -> float | None:
        """Share of the prediction's pairs that the truth keeps together; low where cells are merged."""
        return self.both / self.in_prediction if self.in_prediction else None

    @property
    def recall(self) -> float | None:
        """Share of the truth's pairs that the prediction keeps together; low where cells are split."""
        return self.both / self.in_truth if self.in_truth else None

    @property
    def score(self) -> float | None:
        """Harmonic mean of precision and recall, 1 - adapted Rand error."""
        pairs = self.in_prediction + self.in_truth
        return 2 * self.both / pairs if pairs else None


def rand_score(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> RandScore:
    """Return the Rand score of one thresholded map.

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
    return _score_against(prediction, ndimage.label(truth)[0])


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
    return tuple(_score_against(prediction > threshold, truth_labels) for threshold in thresholds)


def best_threshold(
    scores: Sequence[Sequence[RandScore]], thresholds: Sequence[float] = THRESHOLDS
) -> tuple[float, float]:
    """Return the threshold with the highest Rand score averaged over images, and that average.

    `scores` holds the result of `rand_scores` for each image. Among equals the one in their middle is returned.
    Choose on validation images only: the average is optimistic for the images that it was chosen on.

    Raises
    ------
    ValueError
        No image has a defined score.
    """
    values = np.array([[np.nan if s.score is None else s.score for s in image] for image in scores], np.float64)
    defined = values[~np.isnan(values).any(axis=1)] if values.size else values
    if not defined.size:
        raise ValueError("no image has two pixels in one cell, so there is no threshold to choose")
    means = defined.mean(axis=0)
    best = np.flatnonzero(means == means.max())
    chosen = best[len(best) // 2]
    return float(thresholds[chosen]), float(means[chosen])


def _score_against(prediction: NDArray[np.bool_], truth_labels: NDArray[np.int32]) -> RandScore:
    """Return the score against the truth's components (0 = membrane)."""
    _require_bool(prediction)
    if prediction.shape != truth_labels.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth_labels.shape} differ in shape")
    inside = truth_labels > 0
    # The prediction is labelled before the restriction: components may connect through the truth's membrane.
    labels, num_labels = ndimage.label(prediction)
    pairs = truth_labels[inside], labels[inside]
    shape = int(truth_labels.max(initial=0)) + 1, num_labels + 1
    overlaps = sparse.csr_array((np.ones(len(pairs[0]), np.int64), pairs), shape)
    return RandScore(
        both=_num_pairs(overlaps.data),
        in_prediction=_num_pairs(overlaps.sum(axis=0)),
        in_truth=_num_pairs(overlaps.sum(axis=1)),
    )


def _num_pairs(sizes: NDArray[np.int64]) -> int:
    """Return the number of unordered pairs of different pixels within segments of these sizes."""
    return int((sizes * (sizes - 1) // 2).sum())


def _require_bool(cells: NDArray[np.bool_]) -> None:
    if cells.dtype != np.bool_ or cells.ndim != 2:
        raise ValueError(f"a cell mask must be bool (H, W), got {cells.dtype} {cells.shape}")
