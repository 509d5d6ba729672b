"""Point metrics: detections are matched with labelled points, and everything else is counted from that.

**Matching** is by one of the rules of `point_rules`, `optimal` unless said otherwise: one to one within the radius, as
many pairs as possible. A second detection of the same point is then a false positive.

**Undefined values.** A ratio whose denominator is 0 is undefined. So for one class:

==============  ==================  ========================================
truth           detections          values
==============  ==================  ========================================
none            none                precision, recall, F1, AP undefined
none            some                precision, F1 0; recall, AP undefined
some            none                recall, F1, AP 0; precision undefined
==============  ==================  ========================================

So it is for an image, too; means over images leave out those for which the metric is undefined.

Densities are 0 where there is no point, and undefined without mpp only.

Positions are (y, x) float64 in pixels; any unit will do if the radius has the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.estimates import number, ratio
from segkit.evaluation.point_matching import candidate_pairs
from segkit.evaluation.point_rules import GREEDY, OPTIMAL, judge
from segkit.points import Detections, Points

Counts = NDArray[np.integer | np.floating]

TEN_HPF_MM2: Final = 2.37
"""The area of ten high-power fields, mm2: fields 0.55 mm across (field number 22 at 40x), 0.237 mm2 each (Donovan et
al. 2021, Vet. Pathol. 58:243, doi:10.1177/0300985820980049). Microscopes differ, so numbers per mm2 are the ones to
compare (Cree et al. 2021, Mod. Pathol. 34:1651, doi:10.1038/s41379-021-00825-7)."""

DENSITIES = ("true_per_mm2", "predicted_per_mm2", "true_per_10_hpf", "predicted_per_10_hpf")
"""Numbers per area, by the names that files give them."""


@dataclass(frozen=True, slots=True)
class PointCounts:
    """True positives, false positives, false negatives, and ratios of them in 0..1, None where undefined.

    `hard_negative_hits` are those false positives that have a hard negative (a labelled look-alike) within the radius.
    `surplus` is the number of detections less `tp` and `fp`: 0 under every rule that matches one to one; under
    `kdtree25` second detections count in neither (more than 0), and one that finds several points counts several times
    in `tp` (less than 0). Counts of several images pool by adding them: `sum(counts, PointCounts())`.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    hard_negative_hits: int = 0
    surplus: int = 0

    def __add__(self, other: "PointCounts") -> "PointCounts":
        return PointCounts(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.hard_negative_hits + other.hard_negative_hits,
            self.surplus + other.surplus,
        )

    @property
    def num_true(self) -> int:
        """Number of labelled points."""
        return self.tp + self.fn

    @property
    def num_predicted(self) -> int:
        """Number of detections."""
        return self.tp + self.fp + self.surplus

    @property
    def count_error(self) -> int:
        """Detections less labelled points."""
        return self.num_predicted - self.num_true

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
    scores: NDArray[np.float64] | None = None,
    rule: str = OPTIMAL,
) -> PointCounts:
    """Match by a rule, and count.

    Parameters
    ----------
    detections_yx, truth_yx, radius_px
        As of `point_rules.judge`.
    hard_negatives_yx
        The labelled look-alikes, float64 (L, 2).
    scores
        Of the detections, float64 (N,); needed by rules that go by them.
    rule
        One of `point_rules.RULES`.

    Raises
    ------
    ValueError, UsageError
        As `point_rules.judge`.
    """
    if scores is None:
        if rule == GREEDY:
            raise ValueError("the rule greedy goes by the scores of the detections, and there are none")
        scores = np.zeros(len(detections_yx))
    verdict = judge(rule, detections_yx, scores, truth_yx, radius_px)
    num_hits = 0
    if hard_negatives_yx is not None:
        wrong_yx = detections_yx[~verdict.right]
        num_hits = len(np.unique(candidate_pairs(wrong_yx, hard_negatives_yx, radius_px).detections))
    surplus = len(detections_yx) - verdict.tp - verdict.fp
    return PointCounts(verdict.tp, verdict.fp, verdict.fn, num_hits, surplus)


class Outcomes(NamedTuple):
    """Positions, float64 (N, 2) y, x, of all classes: detections that are right, that are wrong, and points missed."""

    right: NDArray[np.float64]
    wrong: NDArray[np.float64]
    missed: NDArray[np.float64]


def outcomes(
    found: Detections, truth: Points, thresholds: Sequence[float], radius_px: float, rule: str = OPTIMAL
) -> Outcomes:
    """Match the detections of an image that reach their class's threshold with its points, class by class.

    `thresholds` has a value for each foreground class; `rule` is one of `point_rules.RULES`.
    """
    right, wrong, missed = [], [], []
    for index, threshold in enumerate(thresholds, start=1):
        kept = (found.classes == index) & (found.scores >= threshold)
        detected, true = found.positions[kept], truth.of_class(index)
        verdict = judge(rule, detected, found.scores[kept], true, radius_px)
        right.append(detected[verdict.right])
        wrong.append(detected[~verdict.right])
        missed.append(true[~verdict.found])
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


def densities(num_true: Counts, num_predicted: Counts, area_mm2: Counts) -> dict[str, NDArray[np.float64]]:
    """Return numbers per area, by the names of `DENSITIES`, of counts and areas in arrays of one shape."""
    per_mm2 = [ratio(counts.astype(np.float64), area_mm2.astype(np.float64)) for counts in (num_true, num_predicted)]
    return dict(zip(DENSITIES, (*per_mm2, *(values * TEN_HPF_MM2 for values in per_mm2)), strict=True))


DEFINITIONS = MappingProxyType(
    {
        "matching": "detections and labelled points of one class are matched by the named rule, within the radius "
        "(distance <= radius); numbers under different rules or radii are not comparable",
        "tp": "labelled points of one class that are found (matched)",
        "fp": "detections of one class that are not right: without a match, under a one-to-one rule also second "
        "detections of the same point",
        "fn": "labelled points of one class that are not found",
        "hard_negative_hits": "false positives with a labelled look-alike (hard negative) within the radius; "
        "they are counted in fp as well",
        "precision": "TP / (TP + FP)",
        "recall": "TP / (TP + FN)",
        "f1": "2 TP / (2 TP + FP + FN)",
        "average_precision": "area under the precision-recall steps, the sum of (R_i - R_(i-1)) P_i over all "
        "thresholds, no interpolation, matched by the rule of curves; needs candidates down to low scores. Of an image "
        "(in means): of its own detections; undefined without labelled points, so that false positives in such an "
        "image lower no mean of it",
        "froc": "free-response curve, matched by the rule of curves: the highest recall whose false positives per "
        "image (per mm2) do not exceed the rate, in steps, without interpolation, 0 if there is none; its mean is over "
        "the rates 1/4, 1/2, 1, 2, 4, 8. CAMELYON16 reads its score at the same rates per image in another "
        "way: it interpolates between thresholds and leaves out the lowest score; the two agree on part of all sets "
        "only, and with few points lie far apart",
        "rule_of_curves": "greedy where counts are by greedy, optimal where they are by any other rule: under the "
        "others a lower threshold can undo a match",
        "num_true": "labelled points, TP + FN",
        "num_predicted": "detections with score >= threshold; TP + FP, but for the rule kdtree25",
        "count_error": "num_predicted - num_true of an image; its mean over images, and the mean of its absolute value",
        "area_mm2": "what was searched, pixels times mpp squared",
        "true_per_mm2": "num_true / area_mm2; predicted_per_mm2 likewise; pooled: sum over images / summed area",
        "true_per_10_hpf": f"num_true per {TEN_HPF_MM2} mm2, the area of ten high-power fields 0.55 mm across "
        "(0.237 mm2 each); predicted_per_10_hpf likewise; fields differ between microscopes: compare per mm2",
        "any_class": "every detection may match any labelled point; a position found as two classes counts twice",
        "undefined": "a ratio with a denominator of 0 is undefined (null, empty cell) and left out of means: precision "
        "without detections, recall and average precision without labelled points, F1 without either",
    }
)
"""What files say about each metric; `point_rules.DEFINITIONS` says it of the rules."""
