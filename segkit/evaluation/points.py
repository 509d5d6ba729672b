"""Point metrics: detections are matched one to one with labelled points, and everything else is counted from that.

**Matching.** A detection can be matched with a labelled point at most the radius away (distance <= radius, in
float64). Each is matched at most once, as many pairs as possible are made (a maximum matching of the bipartite
graph), and among all matchings with as many pairs one with the smallest total distance is taken. So the counts depend
neither on the order of the points nor on that of the detections, and no cleverer matching finds more. A second
detection of the same point is a false positive.

Published numbers use other rules, which can differ on crowded points: MIDOG gives each labelled point, in the order of
the list, the nearest detection that is left; OCELOT gives each detection, by descending score, a point that is left;
the code of MIDOG 2021 forgives second detections; HoVer-Net takes the smallest total distance of all pairs and drops
the far ones afterwards. No one-to-one rule counts more true positives than this one.

**Undefined values.** A ratio whose denominator is 0 is undefined. So for one class:

==============  ==================  ====================================
truth           detections          values
==============  ==================  ====================================
none            none                precision, recall, F1 undefined
none            some                precision, F1 0; recall undefined
some            none                recall, F1 0; precision undefined
==============  ==================  ====================================

Positions are (y, x) float64 in pixels; any unit will do if the radius has the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import KDTree

from segkit.evaluation.estimates import number, ratio
from segkit.points import Detections, Points

Counts = NDArray[np.integer | np.floating]

# The solver of assignments takes time proportional to the square of what it is given at least: small helpings.
_BLOCK_PAIRS = 2000


class CandidatePairs(NamedTuple):
    """The P pairs of a detection and a labelled point at most the radius apart.

    `detections` and `truths` are indices, int64 (P,), and `distances` float64 (P,); ordered by detection, then by
    distance.
    """

    detections: NDArray[np.int64]
    truths: NDArray[np.int64]
    distances: NDArray[np.float64]


def candidate_pairs(
    detections_yx: NDArray[np.float64], truth_yx: NDArray[np.float64], radius_px: float
) -> CandidatePairs:
    """Return all pairs within the radius; parameters and errors as of `matches`."""
    for points_yx in (detections_yx, truth_yx):
        if points_yx.ndim != 2 or points_yx.shape[1] != 2 or not np.isfinite(points_yx).all():
            raise ValueError(f"points must be (N, 2) and finite, got {points_yx.shape} {points_yx.dtype}")
    if not 0 < radius_px < np.inf:
        raise ValueError(f"the radius must be positive and finite, got {radius_px}")
    # The tree compares squares; a little more is taken from it, so that the distance itself decides.
    near = KDTree(detections_yx).sparse_distance_matrix(KDTree(truth_yx), radius_px * (1 + 1e-9), output_type="ndarray")
    detections, truths = near["i"].astype(np.int64), near["j"].astype(np.int64)
    distances = np.hypot(*(detections_yx[detections] - truth_yx[truths]).T)
    order = np.lexsort((truths, distances, detections))
    order = order[distances[order] <= radius_px]
    return CandidatePairs(detections[order], truths[order], distances[order])


def matches(detections_yx: NDArray[np.float64], truth_yx: NDArray[np.float64], radius_px: float) -> NDArray[np.int64]:
    """Match detections and labelled points one to one: as many as possible, then with the smallest total distance.

    Takes well below a second for 10,000 detections and as many points, also where all hang together.

    Parameters
    ----------
    detections_yx, truth_yx
        Positions, float64 (N, 2) and (M, 2).
    radius_px
        The largest distance of a match, inclusive; positive.

    Returns
    -------
    int64 (K, 2): indices of the detection and of the labelled point, by detection; K is the number of true positives.

    Raises
    ------
    ValueError
        Positions are not (N, 2) or not finite, or the radius is not positive and finite.
    """
    pairs = candidate_pairs(detections_yx, truth_yx, radius_px)
    blocks = _blocks_apart(pairs, len(detections_yx), len(truth_yx))
    matched = [
        _assignment(pairs.detections[block], pairs.truths[block], pairs.distances[block] / radius_px)
        for block in blocks
    ]
    joined = np.concatenate([np.empty((0, 2), np.int64), *matched])
    return joined[np.argsort(joined[:, 0])]


@dataclass(frozen=True, slots=True)
class PointCounts:
    """True positives, false positives, false negatives, and ratios of them in 0..1, None where undefined.

    `hard_negative_hits` are those false positives that have a hard negative (a labelled look-alike) within the radius.
    Counts of several images pool by adding them: `sum(counts, PointCounts())`.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    hard_negative_hits: int = 0

    def __add__(self, other: "PointCounts") -> "PointCounts":
        return PointCounts(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.hard_negative_hits + other.hard_negative_hits,
        )

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP)."""
        return number(float(precision(np.array(self.tp), np.array(self.fp))))

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN)."""
        return number(float(recall(np.array(self.tp), np.array(self.fn))))

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN)."""
        return number(float(f1(np.array(self.tp), np.array(self.fp), np.array(self.fn))))


def count_points(
    detections_yx: NDArray[np.float64],
    truth_yx: NDArray[np.float64],
    radius_px: float,
    *,
    hard_negatives_yx: NDArray[np.float64] | None = None,
) -> PointCounts:
    """Match as `matches` does, and count; `hard_negatives_yx` are the labelled look-alikes, float64 (L, 2)."""
    matched = matches(detections_yx, truth_yx, radius_px)
    false_yx = np.delete(detections_yx, matched[:, 0], axis=0)
    num_hits = 0
    if hard_negatives_yx is not None:
        num_hits = len(np.unique(candidate_pairs(false_yx, hard_negatives_yx, radius_px).detections))
    return PointCounts(len(matched), len(false_yx), len(truth_yx) - len(matched), num_hits)


class Outcomes(NamedTuple):
    """Positions, float64 (N, 2) y, x, of all classes: detections that are right, that are wrong, and points missed."""

    right: NDArray[np.float64]
    wrong: NDArray[np.float64]
    missed: NDArray[np.float64]


def outcomes(found: Detections, truth: Points, thresholds: Sequence[float], radius_px: float) -> Outcomes:
    """Match the detections of an image that reach their class's threshold with its points, class by class.

    `thresholds` has a value for each foreground class.
    """
    right, wrong, missed = [], [], []
    for index, threshold in enumerate(thresholds, start=1):
        detected = found.positions[(found.classes == index) & (found.scores >= threshold)]
        true = truth.of_class(index)
        pairs = matches(detected, true, radius_px)
        right.append(detected[pairs[:, 0]])
        wrong.append(np.delete(detected, pairs[:, 0], axis=0))
        missed.append(np.delete(true, pairs[:, 1], axis=0))
    return Outcomes(np.concatenate(right), np.concatenate(wrong), np.concatenate(missed))


def precision(tp: Counts, fp: Counts) -> NDArray[np.float64]:
    """Precision, TP / (TP + FP), of counts in arrays of one shape; in 0..1 or NaN."""
    found = tp.astype(np.float64)
    return ratio(found, found + fp)


def recall(tp: Counts, fn: Counts) -> NDArray[np.float64]:
    """Recall (sensitivity), TP / (TP + FN), of counts in arrays of one shape; in 0..1 or NaN."""
    found = tp.astype(np.float64)
    return ratio(found, found + fn)


def f1(tp: Counts, fp: Counts, fn: Counts) -> NDArray[np.float64]:
    """F1 score, 2 TP / (2 TP + FP + FN), of counts in arrays of one shape; in 0..1 or NaN."""
    doubled = 2 * tp.astype(np.float64)
    return ratio(doubled, doubled + fp + fn)


DEFINITIONS = MappingProxyType(
    {
        "matching": "one to one within the radius (distance <= radius): as many pairs as possible, among these the "
        "smallest total distance; other published rules (MIDOG, OCELOT, HoVer-Net) can differ on crowded points",
        "tp": "matched detections of one class; a detection matches labelled points of its own class only",
        "fp": "detections of one class without a match, also second detections of the same point",
        "fn": "labelled points of one class without a match",
        "hard_negative_hits": "false positives with a labelled look-alike (hard negative) within the radius; "
        "they are counted in fp as well",
        "precision": "TP / (TP + FP)",
        "recall": "TP / (TP + FN)",
        "f1": "2 TP / (2 TP + FP + FN)",
        "average_precision": "area under the precision-recall steps, the sum of (R_i - R_(i-1)) P_i over all "
        "thresholds, no interpolation; needs candidates down to low scores",
        "froc": "free-response curve: the highest recall whose false positives per image (per mm2) do not exceed the "
        "rate, no interpolation, 0 if there is none; its mean over the rates 1/4, 1/2, 1, 2, 4, 8 is the score of "
        "CAMELYON16, which interpolates",
        "any_class": "every detection may match any labelled point; a position found as two classes counts twice",
        "undefined": "a ratio with a denominator of 0 is undefined (null, empty cell) and left out of means",
    }
)
"""What files say about each metric."""


def _blocks_apart(pairs: CandidatePairs, num_detections: int, num_truths: int) -> list[NDArray[np.int64]]:
    """Split the pairs (their indices) into blocks that share no point: whole components, small ones put together."""
    if not len(pairs.detections):
        return []
    num_points = num_detections + num_truths
    ends = (pairs.detections, num_detections + pairs.truths)
    graph = sparse.coo_array((np.ones(len(pairs.detections)), ends), (num_points, num_points))
    component = csgraph.connected_components(graph, directed=False)[1][pairs.detections]
    order = np.argsort(component, kind="stable")
    starts = np.flatnonzero(np.diff(component[order], prepend=-1))
    first_in_block = np.unique(starts // _BLOCK_PAIRS, return_index=True)[1]
    return np.split(order, starts[first_in_block][1:])


def _assignment(
    detections: NDArray[np.int64], truths: NDArray[np.int64], distances: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the largest set of pairs, with the smallest sum of distances (0..1), as indices (K, 2).

    The solver wants every row matched. So each detection may also take a column of its own that stands for no match,
    at a price that no saved distance outweighs: with k pairs instead of k - 1, weights of 1 .. 2 grow by k + 1 at most.
    """
    detection_of_row, rows = np.unique(detections, return_inverse=True)
    truth_of_column, columns = np.unique(truths, return_inverse=True)
    num_rows, num_columns = len(detection_of_row), len(truth_of_column)
    own = np.arange(num_rows)
    price = min(num_rows, num_columns) + 2.0
    weights = np.concatenate([1 + distances, np.full(num_rows, price)])
    ends = (np.concatenate([rows, own]), np.concatenate([columns, num_columns + own]))
    costs = sparse.csr_array((weights, ends), (num_rows, num_columns + num_rows))
    row, column = csgraph.min_weight_full_bipartite_matching(costs)
    real = column < num_columns
    return np.stack([detection_of_row[row[real]], truth_of_column[column[real]]], axis=1)
