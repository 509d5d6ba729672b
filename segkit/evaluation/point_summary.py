"""One class of points in a set of images: counts at its threshold, curves over all thresholds, intervals.

Counts are by the matching rule that was asked for, curves and what is made of them by `point_rules.curve_rule` of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit.evaluation import confidence, points
from segkit.evaluation.estimates import Estimate, estimate
from segkit.evaluation.point_curves import (
    Froc,
    PointCurve,
    ResampledCurve,
    ScoredHits,
    point_curve,
    resampled_curve,
    score_hits,
)
from segkit.evaluation.point_rules import curve_rule
from segkit.evaluation.points import PointCounts, count_points
from segkit.points import Detections, Points

METRICS = ("f1", "precision", "recall", "average_precision")
"""The metrics that every summary holds, by the names that files give them."""

COUNT_ERRORS = ("mean_count_error", "mean_absolute_count_error")
"""Means over images of detections less labelled points, and of the absolute value, by the names that files give."""

# Samples times thresholds times 8 bytes is the memory that the bootstrap of curves takes, a few times over. So many
# are enough: what the others would add to a sensitivity is below a thousandth (see `PointCurve.thinned`).
_MAX_BOOTSTRAP_THRESHOLDS = 2000


@dataclass(frozen=True, slots=True)
class PointSummary:
    """All images, for one class or for any class.

    `num_images` counts the images whose truth holds the class. `pooled` and `mean` are by the names of `METRICS`: of
    the images' counts added up, and means over the images for which the metric is defined, `num_defined` many.
    `threshold` is the one that `counts` and the first three metrics were taken at, None for any class, where each class
    has its own; average precision, FROC and `curve` are of all thresholds. FROC is None without truth, and per mm2
    without mpp; `froc_mean_per_image` and `froc_mean_per_mm2` are the means over its rates, with intervals.
    `count_errors` are by the names of `COUNT_ERRORS`; `densities`, by those of `points.DENSITIES`, are None without
    mpp. `best` is a threshold with the highest F1 on these very images, and that F1, both under the rule of curves: for
    information, never to be reported as a result, as it was chosen on the images that it is measured on.
    """

    name: str
    num_images: int
    threshold: float | None
    counts: PointCounts
    pooled: Mapping[str, Estimate]
    mean: Mapping[str, Estimate]
    num_defined: Mapping[str, int]
    froc_per_image: Froc | None
    froc_per_mm2: Froc | None
    froc_mean_per_image: Estimate
    froc_mean_per_mm2: Estimate | None
    count_errors: Mapping[str, Estimate]
    densities: Mapping[str, Estimate] | None
    best: tuple[float, float] | None
    curve: PointCurve


class Measured(NamedTuple):
    """One class (or any class) in every image; average precisions are float64 (N,), NaN where undefined."""

    name: str
    threshold: float | None
    counts: list[PointCounts]
    hits: list[ScoredHits]
    average_precisions: NDArray[np.float64]

    def of_images(self, places: Sequence[int]) -> "Measured":
        """Return the same in some of the images."""
        return Measured(
            self.name,
            self.threshold,
            [self.counts[place] for place in places],
            [self.hits[place] for place in places],
            self.average_precisions[list(places)],
        )

    def by_image(self) -> dict[str, NDArray[np.float64]]:
        """Return the metrics of each image, by `METRICS`, float64 (N,), NaN where undefined."""
        tp, fp, fn = np.array([[one.tp, one.fp, one.fn] for one in self.counts]).T
        return {**_metrics(tp, fp, fn), "average_precision": self.average_precisions}


class Values(NamedTuple):
    """Metrics by `METRICS` in the set, first, and in each of its samples, float64 (1 + B,): pooled, and as means."""

    pooled: dict[str, NDArray[np.float64]]
    mean: dict[str, NDArray[np.float64]]


def measure_class(
    name: str,
    index: int | None,
    images: Sequence[tuple[str, Detections, Points]],
    thresholds: Sequence[float],
    radius_px: float,
    rule: str,
) -> Measured:
    """Match one class in every image.

    Parameters
    ----------
    name, index
        Of the class; `index` None takes all classes as one.
    images
        Names, detections and labelled points.
    thresholds, radius_px, rule
        As of `point_tables.measure_points`.

    Raises
    ------
    UsageError
        There are more pairs in an image than the rule can match in bounded memory.
    """
    counts, hits = [], []
    for image, found, truth in images:
        chosen = found.classes == index if index else found.classes > 0
        kept = chosen & (found.scores >= np.array(thresholds)[found.classes - 1])
        true_yx = truth.of_class(index) if index else truth.positions[truth.classes > 0]
        look_alikes_yx, scores = truth.of_class(0), found.scores[kept]
        try:
            counts.append(
                count_points(
                    found.positions[kept],
                    true_yx,
                    radius_px,
                    hard_negatives_yx=look_alikes_yx,
                    scores=scores,
                    rule=rule,
                )
            )
            hits.append(score_hits(found.positions[chosen], found.scores[chosen], true_yx, radius_px, curve_rule(rule)))
        except UsageError as error:
            raise UsageError(f"{image}: {error.message}") from error
    average_precisions = [point_curve([one]).average_precision for one in hits]
    return Measured(
        name, thresholds[index - 1] if index else None, counts, hits, np.array(average_precisions, np.float64)
    )


def summarise(
    measured: Measured, weights: NDArray[np.float64], areas_mm2: NDArray[np.float64] | None
) -> tuple[PointSummary, Values]:
    """Summarise one class.

    Parameters
    ----------
    measured
        The class in N images.
    weights
        How often each image is in the set (row 0, once each) and in each bootstrap sample, float64 (1 + B, N).
    areas_mm2
        What was searched in each image, float64 (N,); None without mpp.

    Returns
    -------
    The summary, and its metrics in the set and in each sample.
    """
    curve = point_curve(measured.hits)
    per_image = np.array([[one.tp, one.fp, one.fn, one.num_predicted] for one in measured.counts])
    tp, fp, fn, num_predicted = confidence.pooled_over_images(per_image, weights).T
    errors = np.array([one.count_error for one in measured.counts], np.float64)
    # With very many scores a part of the thresholds stands for all. What that takes from the set's own value is known
    # exactly, and it is given back to every sample.
    resampled = resampled_curve(measured.hits, curve.thinned(_MAX_BOOTSTRAP_THRESHOLDS).thresholds, weights)
    by_image = measured.by_image()
    values = Values(
        pooled={
            **_metrics(tp, fp, fn),
            "average_precision": _with_first(resampled.average_precisions(), curve.average_precision),
        },
        mean={metric: confidence.mean_over_images(by_image[metric], weights) for metric in METRICS},
    )
    num_images = weights.sum(axis=1)
    area_mm2 = None if areas_mm2 is None else weights @ areas_mm2
    froc_per_image = curve.froc(len(measured.hits))
    froc_per_mm2 = None if areas_mm2 is None else curve.froc(float(areas_mm2.sum()))
    summary = PointSummary(
        name=measured.name,
        num_images=sum(image.num_truth > 0 for image in measured.hits),
        threshold=measured.threshold,
        counts=sum(measured.counts, PointCounts()),
        pooled={metric: estimate(values.pooled[metric]) for metric in METRICS},
        mean={metric: estimate(values.mean[metric]) for metric in METRICS},
        num_defined={metric: int((~np.isnan(by_image[metric])).sum()) for metric in METRICS},
        froc_per_image=froc_per_image,
        froc_per_mm2=froc_per_mm2,
        froc_mean_per_image=_froc_mean(resampled, froc_per_image, num_images),
        froc_mean_per_mm2=None if area_mm2 is None else _froc_mean(resampled, froc_per_mm2, area_mm2),
        count_errors={
            name: estimate(confidence.mean_over_images(one, weights))
            for name, one in zip(COUNT_ERRORS, (errors, np.abs(errors)), strict=True)
        },
        densities=None
        if area_mm2 is None
        else {name: estimate(one) for name, one in points.densities(tp + fn, num_predicted, area_mm2).items()},
        best=curve.best_threshold(),
        curve=curve,
    )
    return summary, values


def _metrics(tp: points.Counts, fp: points.Counts, fn: points.Counts) -> dict[str, NDArray[np.float64]]:
    """Return those of `METRICS` that are made of counts."""
    return {"f1": points.f1(tp, fp, fn), "precision": points.precision(tp, fp), "recall": points.recall(tp, fn)}


def _froc_mean(resampled: ResampledCurve, froc: Froc | None, sizes: NDArray[np.float64]) -> Estimate:
    return estimate(_with_first(resampled.froc_means(sizes), None if froc is None else froc.mean))


def _with_first(values: NDArray[np.float64], exact: float | None) -> NDArray[np.float64]:
    """Shift shares so that the first, the set's own, is exact; NaN where that is undefined.

    The shift is what thinning took from the set (0 up to rounding where all thresholds stand), and stands for what it
    took from each sample. Where it took less from a sample, the shifted share could lie outside of 0..1: it is clipped.
    """
    offset: float = (np.nan if exact is None else exact) - values[0]
    return np.clip(values + offset, 0.0, 1.0)
