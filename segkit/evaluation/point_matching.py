"""Pairs of detections and labelled points that are near each other, and the largest matchings of them."""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import KDTree

from segkit.errors import UsageError

# Pairs take some 150 bytes each, while they are matched.
_MAX_PAIRS = 10_000_000
# The solver of assignments takes time proportional to the square of what it is given: small helpings, and none too big.
_BLOCK_PAIRS = 2000
_MAX_ASSIGNMENT_PAIRS = 100_000


class CandidatePairs(NamedTuple):
    """The P pairs of a detection and a labelled point at most the radius apart.

    `detections` and `truths` are indices, int64 (P,), and `distances` float64 (P,); ordered by detection, then by
    distance, then by labelled point.
    """

    detections: NDArray[np.int64]
    truths: NDArray[np.int64]
    distances: NDArray[np.float64]


def candidate_pairs(
    detections_yx: NDArray[np.float64], truth_yx: NDArray[np.float64], radius_px: float
) -> CandidatePairs:
    """Return all pairs within the radius; parameters and errors as of `matches`."""
    require_points(detections_yx, truth_yx, radius_px)
    # The tree compares squares; a little more is taken from it, so that the distance itself decides.
    reach = radius_px * (1 + 1e-9)
    detection_tree, truth_tree = KDTree(detections_yx), KDTree(truth_yx)
    if len(detections_yx) * len(truth_yx) > _MAX_PAIRS:
        num_pairs = detection_tree.count_neighbors(truth_tree, reach)
        if num_pairs > _MAX_PAIRS:
            raise UsageError(
                f"{len(detections_yx)} detections and {len(truth_yx)} labelled points of one image make "
                f"{num_pairs:.3g} pairs within {radius_px:g} px, and at most {_MAX_PAIRS:.0e} can be matched. "
                "Check that positions are in pixels, and give a smaller radius."
            )
    near = detection_tree.sparse_distance_matrix(truth_tree, reach, output_type="ndarray")
    detections, truths = near["i"].astype(np.int64), near["j"].astype(np.int64)
    distances = np.hypot(*(detections_yx[detections] - truth_yx[truths]).T)
    order = np.lexsort((truths, distances, detections))
    order = order[distances[order] <= radius_px]
    return CandidatePairs(detections[order], truths[order], distances[order])


def matches(detections_yx: NDArray[np.float64], truth_yx: NDArray[np.float64], radius_px: float) -> NDArray[np.int64]:
    """Match detections and labelled points one to one: as many as possible, then with the smallest total distance.

    Takes well below a second for 10,000 detections and as many points, also where all hang together; a second or so
    for each 100,000 where they do not. Where more than 100,000 pairs hang together, distances are not looked at.

    Parameters
    ----------
    detections_yx, truth_yx
        Positions, float64 (N, 2) and (M, 2).
    radius_px
        The largest distance of a match, inclusive; positive.

    Returns
    -------
    int64 (K, 2): indices of the detection and of the labelled point, by detection; K is the number of true positives.
    Other orders of the same points give the same pairs.

    Raises
    ------
    ValueError
        Positions are not (N, 2) or not finite, or the radius is not positive and finite.
    UsageError
        There are more than 10 million pairs within the radius.
    """
    require_points(detections_yx, truth_yx, radius_px)
    # In an order of their own, so that among equally good matchings the same one is taken whatever the order.
    detection_order, truth_order = np.lexsort(detections_yx.T), np.lexsort(truth_yx.T)
    pairs = candidate_pairs(detections_yx[detection_order], truth_yx[truth_order], radius_px)
    matched = [np.empty((0, 2), np.int64)]
    for block in _blocks_apart(pairs, len(detections_yx), len(truth_yx)):
        ends = pairs.detections[block], pairs.truths[block]
        if len(block) > _MAX_ASSIGNMENT_PAIRS:
            matched.append(_any_maximum(*ends))
        else:
            matched.append(_assignment(*ends, pairs.distances[block] / radius_px))
    ordered = np.concatenate(matched)
    joined = np.stack([detection_order[ordered[:, 0]], truth_order[ordered[:, 1]]], axis=1)
    return joined[np.argsort(joined[:, 0])]


def require_points(detections_yx: NDArray[np.float64], truth_yx: NDArray[np.float64], radius_px: float) -> None:
    """Raise ValueError where positions are not (N, 2) or not finite, or the radius is not positive and finite."""
    for points_yx in (detections_yx, truth_yx):
        if points_yx.ndim != 2 or points_yx.shape[1] != 2 or not np.isfinite(points_yx).all():
            raise ValueError(f"points must be (N, 2) and finite, got {points_yx.shape} {points_yx.dtype}")
    if not 0 < radius_px < np.inf:
        raise ValueError(f"the radius must be positive and finite, got {radius_px}")


def require_scores(scores: NDArray[np.float64], num_detections: int) -> None:
    """Raise ValueError where scores are not as many as detections, or not finite."""
    if scores.shape != (num_detections,) or not np.isfinite(scores).all():
        raise ValueError(f"scores must be (N,) and finite, got {scores.shape} for {num_detections} detections")


def match_one_by_one(
    detections: NDArray[np.int64], truths: NDArray[np.int64], num_detections: int, num_truths: int
) -> NDArray[np.int64]:
    """Match as many of the first n detections as possible, for all n at once, whatever the distances.

    With one more detection the maximum stays or grows by 1, and it grows just if an augmenting path starts at the new
    detection (Berge 1957, PNAS 43:842-844, doi:10.1073/pnas.43.9.842; Hopcroft and Karp 1973, SIAM J. Comput.
    2:225-231, doi:10.1137/0202019). One that is matched stays matched, if not with the same point; one that cannot be
    matched when it comes never can.

    Parameters
    ----------
    detections, truths
        The pairs, indices int64 (P,), ordered by detection.
    num_detections, num_truths
        N and M.

    Returns
    -------
    int64 (N,): the labelled point that each detection is matched with in the end, -1 for none. Of the first n
    detections, those with a point are a largest matching of these n.
    """
    candidates = truths.tolist()
    ends = np.searchsorted(detections, np.arange(num_detections + 1)).tolist()
    matching = _GrowingMatching(num_truths)
    for start, end in itertools.pairwise(ends):
        matching.add(candidates[start:end])
    return np.array(matching.match_of, np.int64)


class _GrowingMatching:
    """A maximum matching of labelled points with detections that come one at a time."""

    def __init__(self, num_truths: int) -> None:
        self._candidates: list[list[int]] = []  # the points that each detection may be matched with
        self.match_of: list[int] = []  # of each detection; -1 for none
        self._owner_of: list[int] = [-1] * num_truths
        self._closed = [False] * num_truths

    def add(self, candidates: list[int]) -> None:
        """Add a detection that may be matched with these points, and match it if that is possible."""
        new = len(self._candidates)
        self._candidates.append(candidates)
        self.match_of.append(-1)
        reached_from: dict[int, int] = {}
        queue = [new]
        for detection in queue:  # grows as it is walked: breadth first, so the path is a shortest one
            for truth in self._candidates[detection]:
                if truth in reached_from or self._closed[truth]:
                    continue
                reached_from[truth] = detection
                if self._owner_of[truth] < 0:
                    self._augment(truth, reached_from)
                    return
                queue.append(self._owner_of[truth])
        # No free point can be reached from these, now or later: their owners lead nowhere else, whoever comes.
        for truth in reached_from:
            self._closed[truth] = True

    def _augment(self, free: int, reached_from: dict[int, int]) -> None:
        """Walk back from a free point to the new detection, giving each detection the point reached from it."""
        truth = free
        while truth >= 0:
            detection = reached_from[truth]
            self._owner_of[truth] = detection
            self.match_of[detection], truth = truth, self.match_of[detection]


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
    # A big one stays by itself, as it may be too big for the solver.
    is_big = np.diff(starts, append=len(order)) > _BLOCK_PAIRS
    num_breaks = np.cumsum(is_big | np.append(False, is_big[:-1]))
    first_in_block = np.unique(starts // _BLOCK_PAIRS + num_breaks, return_index=True)[1]
    return np.split(order, starts[first_in_block][1:])


def _any_maximum(detections: NDArray[np.int64], truths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a largest set of pairs that share no point, as indices (K, 2)."""
    order = np.argsort(detections, kind="stable")
    detection_of_row, rows = np.unique(detections[order], return_inverse=True)
    truth_of_column, columns = np.unique(truths[order], return_inverse=True)
    column_of_row = match_one_by_one(rows, columns, len(detection_of_row), len(truth_of_column))
    matched = column_of_row >= 0
    return np.stack([detection_of_row[matched], truth_of_column[column_of_row[matched]]], axis=1)


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
