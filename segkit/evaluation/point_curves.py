"""Detections at every threshold: the precision-recall curve, average precision, FROC, and the best threshold.

At each threshold the detections at or above it are matched anew, as many pairs as possible. That needs no matching
from scratch: a detection that has once been matched stays matched when those with lower scores come
(`point_matching.match_one_by_one`). So a curve is a yes or no for each detection, by descending score. It is so, too,
under the rule `greedy`, where no detection takes anything from those with higher scores. Under the other rules it is
not; `point_rules.curve_rule` says which rule their curves are under.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from segkit.evaluation import point_rules, points
from segkit.evaluation.confidence import pooled_over_images
from segkit.evaluation.estimates import ratio
from segkit.evaluation.point_matching import candidate_pairs, match_one_by_one, require_scores

FROC_RATES = (1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives per image at which CAMELYON16 reads the sensitivity; how it reads it is another matter, see
`PointCurve.froc`."""


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
    rule: str = point_rules.OPTIMAL,
) -> ScoredHits:
    """Match the detections of one image at all thresholds at once.

    Parameters
    ----------
    detections_yx, scores
        Positions, float64 (N, 2), and scores, float64 (N,), in any order.
    truth_yx, radius_px
        As of `point_rules.judge`.
    rule
        `optimal` or `greedy`.

    Raises
    ------
    ValueError, UsageError
        As `point_rules.judge`; or curves under this rule are not defined.
    """
    if point_rules.curve_rule(rule) != rule:
        raise ValueError(f"there are no curves under the rule {rule!r}; see point_rules.curve_rule")
    require_scores(scores, len(detections_yx))
    order = np.argsort(-scores, kind="stable")
    if rule == point_rules.GREEDY:
        hits_by_score = point_rules.greedy(detections_yx[order], scores[order], truth_yx, radius_px).right
        return ScoredHits(scores[order], hits_by_score, len(truth_yx))
    pairs = candidate_pairs(detections_yx[order], truth_yx, radius_px)
    matched = match_one_by_one(pairs.detections, pairs.truths, len(order), len(truth_yx))
    return ScoredHits(scores[order], matched >= 0, len(truth_yx))


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
        recall whose false positives do not exceed the rate, 0 where there is none: steps, which some threshold attains.

        The default rates are those of CAMELYON16 (Ehteshami Bejnordi et al. 2017, JAMA 318:2199-2210,
        doi:10.1001/jama.2017.14585), whose score is another one than this mean: it interpolates linearly between
        thresholds and leaves out the lowest score. `make reference` rebuilds it and counts the sets on which the two
        agree, a part of all; with few points they lie far apart.

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

        Thresholds where recall rises are preferred, as average precision and FROC need no others, and spread evenly:
        without equal scores a sensitivity of FROC is then lower by less than 1 / (limit - 3), and never higher.
        """
        last = len(self.thresholds) - 1
        if last < limit:
            return self
        rising = np.flatnonzero(np.diff(self.true_positives, prepend=0))
        inner = rising[np.linspace(0, len(rising) - 1, min(limit - 2, len(rising))).round().astype(np.int64)]
        kept = np.unique(np.concatenate([[0], inner, [last]]))
        return PointCurve(self.thresholds[kept], self.true_positives[kept], self.num_detections[kept], self.num_truth)

    def spread(self, limit: int) -> "PointCurve":
        """Return the curve at no more than `limit` (>= 2) of its thresholds, evenly spread over the scores.

        The first and the last are among them; for what is shown over the threshold.
        """
        if len(self.thresholds) <= limit:
            return self
        wanted = np.linspace(self.thresholds[0], self.thresholds[-1], limit)
        # What holds at a score is what holds at the lowest threshold that is not below it.
        kept = np.unique(np.searchsorted(-self.thresholds, -wanted, side="right") - 1)
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


class ResampledCurve(NamedTuple):
    """The curve of a set of images (row 0) and of its bootstrap samples (the B other rows), at the same K thresholds.

    `true_positives` and `false_positives` are float64 (1 + B, K), `num_truth` float64 (1 + B,).
    """

    true_positives: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    num_truth: NDArray[np.float64]

    def average_precisions(self) -> NDArray[np.float64]:
        """Return the average precision of each row, float64 (1 + B,); NaN without truth."""
        # Before a sample's first detection precision is undefined, and recall does not rise.
        precisions = np.nan_to_num(points.precision(self.true_positives, self.false_positives))
        areas: NDArray[np.float64] = np.sum(np.diff(self.true_positives, axis=1, prepend=0) * precisions, axis=1)
        return ratio(areas, self.num_truth)

    def froc_means(self, sizes: NDArray[np.float64], rates: Sequence[float] = FROC_RATES) -> NDArray[np.float64]:
        """Return the mean sensitivity of each row at `rates`, as `PointCurve.froc`; NaN without truth.

        `sizes` is what was searched in each row: images, or mm2, float64 (1 + B,) > 0.
        """
        found = np.zeros(len(sizes))
        before = np.concatenate([np.zeros((len(sizes), 1)), self.true_positives], axis=1)
        for rate in rates:
            num_allowed = (self.false_positives <= rate * sizes[:, np.newaxis]).sum(axis=1)
            found += before[np.arange(len(sizes)), num_allowed]
        return ratio(found / len(rates), self.num_truth)


def resampled_curve(
    images: Sequence[ScoredHits], thresholds: NDArray[np.float64], weights: NDArray[np.float64]
) -> ResampledCurve:
    """Return the curves of a set of images and of its bootstrap samples.

    A sample's counts at a threshold are its images' counts there, added up.

    Parameters
    ----------
    images
        The N images.
    thresholds
        Descending, float64 (K,); the last one is not above the lowest score of any detection that is to count.
    weights
        How often each image is in each row, float64 (1 + B, N).
    """
    image_of = np.repeat(np.arange(len(images)), [len(image.scores) for image in images])
    scores = np.concatenate([image.scores for image in images])
    hits = np.concatenate([image.hits for image in images]).astype(np.float64)
    # The highest threshold that a detection reaches, and what it adds from there on.
    ends = (image_of, np.searchsorted(-thresholds, -scores))
    shape = (len(images), len(thresholds))
    tp, fp = (np.cumsum(weights @ sparse.csr_array((new, ends), shape), axis=1) for new in (hits, 1 - hits))
    return ResampledCurve(tp, fp, pooled_over_images(np.array([image.num_truth for image in images]), weights))
