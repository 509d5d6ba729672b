"""Detections at every threshold: the precision-recall curve, average precision, FROC, and the best threshold.

At each threshold the detections at or above it are matched anew, as many pairs as possible (`points.matches`). That
needs no matching from scratch: with one more detection the maximum stays or grows by 1, and it grows just if an
augmenting path starts at the new detection (Berge 1957, PNAS 43:842-844, doi:10.1073/pnas.43.9.842; Hopcroft and Karp
1973, SIAM J. Comput. 2:225-231, doi:10.1137/0202019). A detection that has once been matched stays matched. So a
curve is a yes or no for each detection, by descending score.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import points

FROC_RATES = (1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives per image at which CAMELYON16 reads the sensitivity."""


class ScoredHits(NamedTuple):
    """The detections of one class in one image, by descending score.

    `scores` are float64 (N,); `hits` bool (N,): whether the detection raises the number of true positives;
    `num_truth` is the number of labelled points.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    num_truth: int


def score_hits(
    detections_yx: NDArray[np.float64],
    scores: NDArray[np.float64],
    truth_yx: NDArray[np.float64],
    radius_px: float,
) -> ScoredHits:
    """Match the detections of one image at all thresholds at once.

    Parameters
    ----------
    detections_yx, scores
        Positions, float64 (N, 2), and scores, float64 (N,), in any order.
    truth_yx, radius_px
        As of `points.matches`.

    Raises
    ------
    ValueError
        As `points.matches`; or scores are not finite or not as many as positions.
    """
    if scores.shape != detections_yx.shape[:1] or not np.isfinite(scores).all():
        raise ValueError(f"scores must be (N,) and finite, got {scores.shape} for positions {detections_yx.shape}")
    order = np.argsort(-scores, kind="stable")
    pairs = points.candidate_pairs(detections_yx[order], truth_yx, radius_px)
    truths = pairs.truths.tolist()
    ends = np.searchsorted(pairs.detections, np.arange(len(order) + 1)).tolist()
    matching = _GrowingMatching(len(truth_yx))
    hits = [matching.add(truths[start:end]) for start, end in itertools.pairwise(ends)]
    return ScoredHits(scores[order], np.array(hits, np.bool_), len(truth_yx))


class Froc(NamedTuple):
    """Sensitivities at numbers of false positives per image or per mm2, and their mean."""

    rates: tuple[float, ...]
    sensitivities: tuple[float, ...]
    mean: float


@dataclass(frozen=True, slots=True, eq=False)
class PointCurve:
    """Counts at each threshold, for one class, summed over images; made by `point_curve`.

    `thresholds` are the K different scores, descending, float64 (K,): at threshold i the detections with
    score >= thresholds[i] count. `true_positives` and `num_detections` are int64 (K,).
    """

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    num_detections: NDArray[np.int64]
    num_truth: int

    @property
    def false_positives(self) -> NDArray[np.int64]:
        """Detections without a match, int64 (K,)."""
        return self.num_detections - self.true_positives

    @property
    def false_negatives(self) -> NDArray[np.int64]:
        """Labelled points without a match, int64 (K,)."""
        return self.num_truth - self.true_positives

    @property
    def precision(self) -> NDArray[np.float64]:
        """Precision at each threshold, float64 (K,) in 0..1."""
        return points.precision(self.true_positives, self.false_positives)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Recall at each threshold, float64 (K,) in 0..1; NaN without truth."""
        return points.recall(self.true_positives, self.false_negatives)

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 at each threshold, float64 (K,) in 0..1."""
        return points.f1(self.true_positives, self.false_positives, self.false_negatives)

    @property
    def average_precision(self) -> float | None:
        """The area under the precision-recall steps, sum of (R_i - R_(i-1)) P_i; None without truth.

        No interpolation, as `average_precision_score` of scikit-learn; the VOC and COCO variants, which raise the
        precision to the highest one at any higher recall, are not lower. Points that no detection finds at any
        threshold count with a precision of 0.
        """
        if not self.num_truth:
            return None
        return float(np.sum(np.diff(self.true_positives, prepend=0) * self.precision) / self.num_truth)

    def best_threshold(self) -> tuple[float, float] | None:
        """Return a threshold with the highest F1, and that F1; None without truth or without detections.

        The threshold lies midway between the lowest score that is kept and the next lower one (0 where there is
        none), so that a new image is not cut at a hair. Among equals the highest is taken. Choose on validation images
        only: the F1 is optimistic for the images that the threshold was chosen on.
        """
        if not self.num_truth or not len(self.thresholds):
            return None
        best = int(np.argmax(self.f1))
        kept, dropped = np.append(self.thresholds, min(0.0, self.thresholds[-1]))[best : best + 2]
        middle = dropped + (kept - dropped) / 2
        # Between neighbouring floating-point numbers there is none.
        return float(middle if middle > dropped else kept), float(self.f1[best])

    def froc(self, size: float, rates: Sequence[float] = FROC_RATES) -> Froc | None:
        """Return the sensitivities at `rates` false positives per unit of `size`; None without truth.

        `size` is what was searched: the number of images, or the area in mm2. The sensitivity at a rate is the highest
        recall whose false positives do not exceed the rate, 0 where there is none. With the default rates the mean is
        the score of CAMELYON16 (Ehteshami Bejnordi et al. 2017, JAMA 318:2199-2210, doi:10.1001/jama.2017.14585), but
        for its linear interpolation.

        Raises
        ------
        ValueError
            The size is not positive.
        """
        if not size > 0:
            raise ValueError(f"what was searched must be more than nothing, got {size}")
        if not self.num_truth:
            return None
        # Towards lower thresholds neither false positives nor recall ever fall.
        num_allowed = np.searchsorted(self.false_positives, np.array(rates) * size, side="right")
        recalls = np.concatenate([[0.0], self.recall])[num_allowed]
        return Froc(tuple(rates), tuple(recalls.tolist()), float(recalls.mean()))

    def thinned(self, limit: int) -> "PointCurve":
        """Return the curve at no more than `limit` (>= 3) of its thresholds, the first and the last among them.

        Thresholds where recall rises are preferred, as average precision needs no others, and spread evenly.
        """
        last = len(self.thresholds) - 1
        if last < limit:
            return self
        rising = np.flatnonzero(np.diff(self.true_positives, prepend=0))
        inner = rising[np.linspace(0, len(rising) - 1, min(limit - 2, len(rising))).round().astype(np.int64)]
        kept = np.unique(np.concatenate([[0], inner, [last]]))
        return PointCurve(self.thresholds[kept], self.true_positives[kept], self.num_detections[kept], self.num_truth)


def point_curve(images: Sequence[ScoredHits]) -> PointCurve:
    """Return the curve of all images together: at each score that occurs, their counts added up."""
    scores = np.concatenate([np.empty(0), *(image.scores for image in images)])
    hits = np.concatenate([np.empty(0, np.bool_), *(image.hits for image in images)])
    order = np.argsort(-scores, kind="stable")
    # Detections of one score come and go together: only the last of them is a threshold.
    last_of_score = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    return PointCurve(
        thresholds=scores[order][last_of_score],
        true_positives=np.cumsum(hits[order], dtype=np.int64)[last_of_score],
        num_detections=last_of_score + 1,
        num_truth=sum(image.num_truth for image in images),
    )


class _GrowingMatching:
    """A maximum matching of labelled points with detections that come one at a time."""

    def __init__(self, num_truths: int) -> None:
        self._candidates: list[list[int]] = []  # the points that each detection may be matched with
        self._match_of: list[int] = []  # of each detection; -1 for none
        self._owner_of: list[int] = [-1] * num_truths
        self._closed = [False] * num_truths

    def add(self, candidates: list[int]) -> bool:
        """Add a detection that may be matched with these points; return whether the matching has grown."""
        new = len(self._candidates)
        self._candidates.append(candidates)
        self._match_of.append(-1)
        reached_from: dict[int, int] = {}
        queue = [new]
        for detection in queue:  # grows as it is walked: breadth first, so the path is a shortest one
            for truth in self._candidates[detection]:
                if truth in reached_from or self._closed[truth]:
                    continue
                reached_from[truth] = detection
                if self._owner_of[truth] < 0:
                    self._augment(truth, reached_from)
                    return True
                queue.append(self._owner_of[truth])
        # No free point can be reached from these, now or later: their owners lead nowhere else, whoever comes.
        for truth in reached_from:
            self._closed[truth] = True
        return False

    def _augment(self, free: int, reached_from: dict[int, int]) -> None:
        """Walk back from a free point to the new detection, giving each detection the point reached from it."""
        truth = free
        while truth >= 0:
            detection = reached_from[truth]
            self._owner_of[truth] = detection
            self._match_of[detection], truth = truth, self._match_of[detection]
