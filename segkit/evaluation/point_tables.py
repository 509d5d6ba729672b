"""Tables of point metrics: per image, per group and per class, pooled over images, with intervals.

*Pooled* means that the images' counts are added up before a metric is computed: every point counts the same. The
*foreground* is the mean over the classes 1 .. C-1 for which the metric is defined. *Any class* measures detection
apart from classification: every detection may match any labelled point.

Counts are by the matching rule that was asked for, curves and what is made of them by `point_rules.curve_rule` of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit.evaluation import confidence, points
from segkit.evaluation.estimates import (
    Estimate,
    Resampled,
    estimate,
    mean_of_defined,
    num_units,
    number,
    weights_of_set_and_samples,
)
from segkit.evaluation.point_curves import (
    Froc,
    PointCurve,
    ResampledCurve,
    ScoredHits,
    point_curve,
    resampled_curve,
    score_hits,
)
from segkit.evaluation.point_rules import KDTREE25, KDTREE25_RADIUS_PX, OPTIMAL, RULES, curve_rule
from segkit.evaluation.points import DENSITIES, PointCounts, count_points
from segkit.points import Detections, Points

METRICS = ("f1", "precision", "recall", "average_precision")
"""The metrics that every summary holds, by the names that files give them."""

COUNT_ERRORS = ("mean_count_error", "mean_absolute_count_error")
"""Means over images of detections less labelled points, and of the absolute value, by the names that files give."""

ANY_CLASS = "any class"

# Samples times thresholds times 8 bytes is the memory that the bootstrap of curves takes, a few times over.
_MAX_BOOTSTRAP_THRESHOLDS = 2000


@dataclass(frozen=True, slots=True)
class PointRow:
    """Counts of one class in one image or group.

    `image` is None where the row is of a whole group; `name` is None where the counts of all classes are added up.
    `area_mm2` is what was searched, None without mpp.
    """

    image: str | None
    group: str | None
    name: str | None
    counts: PointCounts
    area_mm2: float | None

    @property
    def densities(self) -> dict[str, float | None]:
        """Labelled points and detections per area, by the names of `points.DENSITIES`; None without mpp."""
        if self.area_mm2 is None:
            return dict.fromkeys(DENSITIES)
        values = map(np.array, (self.counts.num_true, self.counts.num_predicted, self.area_mm2))
        return {name: number(float(value)) for name, value in points.densities(*values).items()}


@dataclass(frozen=True, slots=True)
class PointSummary:
    """All images, for one class or for any class.

    `num_images` counts the images whose truth holds the class. `threshold` is the one that `counts` and the first
    three of `pooled` (by the names of `METRICS`) were taken at, None for any class, where each class has its own;
    average precision, FROC and `curve` are of all thresholds. FROC is None without truth, and per mm2 without mpp;
    `froc_mean_per_image` and `froc_mean_per_mm2` are the means over its rates, with intervals. `count_errors` are by
    the names of `COUNT_ERRORS`; `densities`, by those of `points.DENSITIES`, are None without mpp.
    `best` is a threshold with the highest F1 on these very images, and that F1, both under the rule of curves: for
    information, never to be reported as a result, as it was chosen on the images that it is measured on.
    """

    name: str
    num_images: int
    threshold: float | None
    counts: PointCounts
    pooled: Mapping[str, Estimate]
    froc_per_image: Froc | None
    froc_per_mm2: Froc | None
    froc_mean_per_image: Estimate
    froc_mean_per_mm2: Estimate | None
    count_errors: Mapping[str, Estimate]
    densities: Mapping[str, Estimate] | None
    best: tuple[float, float] | None
    curve: PointCurve


@dataclass(frozen=True, slots=True)
class PointReport(Resampled):
    """Everything measured on a set of images; made by `measure_points`.

    `images` has the counts of all classes added up, a row per image; `rows` one per image and class; `groups` one per
    group and class, empty without groups. `any_class` is None where there is one class only. Lengths are
    in pixels at level 0; `area_mm2` is None without mpp. `rule` is one of `point_rules.RULES`.
    """

    classes: tuple[str, ...]
    rule: str
    radius_px: float
    mpp: float | None
    area_mm2: float | None
    num_hard_negatives: int
    images: tuple[PointRow, ...]
    rows: tuple[PointRow, ...]
    groups: tuple[PointRow, ...]
    per_class: tuple[PointSummary, ...]
    foreground: Mapping[str, Estimate]
    any_class: PointSummary | None

    @property
    def headline(self) -> Estimate:
        """F1 pooled over images, mean over the foreground classes."""
        return self.foreground["f1"]

    @property
    def curve_rule(self) -> str:
        """The matching rule of curves, average precision and FROC."""
        return curve_rule(self.rule)

    @property
    def radius_um(self) -> float | None:
        """The radius of a match in um; None without mpp."""
        return None if self.mpp is None else self.radius_px * self.mpp


def measure_points(
    names: Sequence[str],
    detections: Sequence[Detections],
    truths: Sequence[Points],
    classes: Sequence[str],
    *,
    radius_px: float,
    mpp: float | None,
    areas_px: Sequence[int],
    thresholds: Sequence[float],
    groups: Sequence[str] | None = None,
    rule: str = OPTIMAL,
    num_samples: int = confidence.NUM_SAMPLES,
    seed: int = 0,
) -> PointReport:
    """Match the detections of each image with its labelled points, and make the tables.

    Parameters
    ----------
    names
        Names of the N >= 1 images, all different.
    detections
        What was found in each image, with all candidates down to low scores: curves need them, counts use those
        with score >= threshold.
    truths
        The labelled points of each image; class 0 marks hard negatives.
    classes
        Names of the C >= 2 classes by index; index 0 is the background.
    radius_px
        The largest distance of a match, inclusive, in pixels at level 0.
    mpp
        Micrometres per pixel at level 0, of all images; None where unknown.
    areas_px
        What was searched in each image, in pixels at level 0 (the image, or its tissue).
    thresholds
        The threshold of each class 1 .. C-1, C-1 numbers.
    groups
        The group (slide, patient) of each image. Intervals are then over groups.
    rule
        The matching rule of the counts, one of `point_rules.RULES`. `kdtree25` goes with a radius of 25 px only.
    num_samples, seed
        Of the bootstrap. With a single image or group, intervals are None.

    Raises
    ------
    ValueError
        The lengths do not fit together, names repeat, a class index is not there, a position or a score is not
        finite, the rule is unknown or does not go with the radius, or as `point_rules.judge`.
    UsageError
        There are more pairs in an image than the rule can match in bounded memory.
    """
    names, classes = tuple(names), tuple(classes)
    _require_consistent(names, detections, truths, classes, areas_px, thresholds)
    _require_rule(rule, radius_px)
    weights = weights_of_set_and_samples(len(names), groups, num_samples, seed)
    areas_mm2 = None if mpp is None else np.array(areas_px) * (mpp / 1000) ** 2
    images = list(zip(names, detections, truths, strict=True))
    measured = [
        _measure(name, index, images, thresholds, radius_px, rule) for index, name in enumerate(classes) if index
    ]
    any_class = None
    if len(classes) > 2:
        everything = _measure(ANY_CLASS, None, images, thresholds, radius_px, rule)
        any_class, _ = _summary(everything, weights, areas_mm2)
    summaries = [_summary(one, weights, areas_mm2) for one in measured]
    no_values = [None] * len(names)
    places = list(
        zip(
            names,
            no_values if groups is None else groups,
            no_values if areas_mm2 is None else areas_mm2.tolist(),
            strict=True,
        )
    )
    return PointReport(
        classes=classes,
        rule=rule,
        radius_px=radius_px,
        mpp=mpp,
        area_mm2=None if areas_mm2 is None else float(areas_mm2.sum()),
        num_hard_negatives=sum(len(truth.of_class(0)) for truth in truths),
        images=tuple(
            PointRow(name, group, None, sum((one.counts[image] for one in measured), PointCounts()), area)
            for image, (name, group, area) in enumerate(places)
        ),
        rows=tuple(
            PointRow(name, group, one.name, one.counts[image], area)
            for image, (name, group, area) in enumerate(places)
            for one in measured
        ),
        groups=_group_rows(measured, groups, areas_mm2),
        per_class=tuple(summary for summary, _ in summaries),
        foreground={
            metric: estimate(mean_of_defined(np.stack([values[metric] for _, values in summaries], axis=-1)))
            for metric in METRICS
        },
        any_class=any_class,
        unit="image" if groups is None else "group",
        num_units=num_units(len(names), groups),
        num_samples=num_samples,
        seed=seed,
    )


class _Measured(NamedTuple):
    """One class (or any class) in every image."""

    name: str
    threshold: float | None
    counts: list[PointCounts]
    hits: list[ScoredHits]


def _measure(
    name: str,
    index: int | None,
    images: Sequence[tuple[str, Detections, Points]],
    thresholds: Sequence[float],
    radius_px: float,
    rule: str,
) -> _Measured:
    """Match one class in every image; `index` None takes all classes as one."""
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
    return _Measured(name, thresholds[index - 1] if index else None, counts, hits)


def _summary(
    measured: _Measured, weights: NDArray[np.float64], areas_mm2: NDArray[np.float64] | None
) -> tuple[PointSummary, dict[str, NDArray[np.float64]]]:
    """Return the summary of one class, and its metrics (by `METRICS`) in the set and in each bootstrap sample."""
    curve = point_curve(measured.hits)
    per_image = np.array([[one.tp, one.fp, one.fn, one.num_predicted] for one in measured.counts])
    tp, fp, fn, num_predicted = confidence.pooled_over_images(per_image, weights).T
    errors = np.array([one.count_error for one in measured.counts], np.float64)
    # With very many scores a part of the thresholds stands for all; what that takes from the set's own value, which is
    # known exactly, is given back to every sample.
    resampled = resampled_curve(measured.hits, curve.thinned(_MAX_BOOTSTRAP_THRESHOLDS).thresholds, weights)
    values = {
        "f1": points.f1(tp, fp, fn),
        "precision": points.precision(tp, fp),
        "recall": points.recall(tp, fn),
        "average_precision": _with_first(resampled.average_precisions(), curve.average_precision),
    }
    num_images = weights.sum(axis=1)
    area_mm2 = None if areas_mm2 is None else weights @ areas_mm2
    froc_per_image = curve.froc(len(measured.hits))
    froc_per_mm2 = None if areas_mm2 is None else curve.froc(float(areas_mm2.sum()))
    summary = PointSummary(
        name=measured.name,
        num_images=sum(image.num_truth > 0 for image in measured.hits),
        threshold=measured.threshold,
        counts=sum(measured.counts, PointCounts()),
        pooled={metric: estimate(values[metric]) for metric in METRICS},
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


def _froc_mean(resampled: ResampledCurve, froc: Froc | None, sizes: NDArray[np.float64]) -> Estimate:
    return estimate(_with_first(resampled.froc_means(sizes), None if froc is None else froc.mean))


def _with_first(values: NDArray[np.float64], exact: float | None) -> NDArray[np.float64]:
    """Shift values so that the first, the set's own, is exact; NaN where that is undefined."""
    offset: float = (np.nan if exact is None else exact) - values[0]
    return values + offset


def _group_rows(
    measured: Sequence[_Measured], groups: Sequence[str] | None, areas_mm2: NDArray[np.float64] | None
) -> tuple[PointRow, ...]:
    if groups is None:
        return ()
    rows = []
    for group in sorted(set(groups)):
        members = [image for image, of in enumerate(groups) if of == group]
        area = None if areas_mm2 is None else float(areas_mm2[members].sum())
        rows += [
            PointRow(None, group, one.name, sum((one.counts[image] for image in members), PointCounts()), area)
            for one in measured
        ]
    return tuple(rows)


def _require_consistent(
    names: Sequence[str],
    detections: Sequence[Detections],
    truths: Sequence[Points],
    classes: Sequence[str],
    areas_px: Sequence[int],
    thresholds: Sequence[float],
) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"need at least one image and different names, got {names}")
    if not len(names) == len(detections) == len(truths) == len(areas_px):
        raise ValueError(
            f"{len(names)} names, {len(detections)} detections, {len(truths)} truths, {len(areas_px)} areas"
        )
    if len(classes) < 2 or len(thresholds) != len(classes) - 1:
        raise ValueError(
            f"{len(classes)} classes and {len(thresholds)} thresholds; needed is one for each foreground class"
        )
    if min(areas_px) <= 0 or not np.isfinite(thresholds).all():
        raise ValueError(f"areas must be positive, thresholds finite; got {min(areas_px)} and {list(thresholds)}")
    for name, found, truth in zip(names, detections, truths, strict=True):
        for lowest, indices in ((1, found.classes), (0, truth.classes)):
            if len(indices) and not lowest <= indices.min() <= indices.max() < len(classes):
                raise ValueError(
                    f"{name}: class {indices.min()} to {indices.max()}, and there are {len(classes)} classes"
                )
        for what, values in (
            ("position", found.positions),
            ("score", found.scores),
            ("true position", truth.positions),
        ):
            if not np.isfinite(values).all():
                first = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
                raise ValueError(f"{name}: {what} {first} is {values[first]}; all must be finite numbers")


def _require_rule(rule: str, radius_px: float) -> None:
    if rule not in RULES:
        raise ValueError(f"no matching rule is called {rule!r}; there are {', '.join(RULES)}")
    if rule == KDTREE25 and radius_px != KDTREE25_RADIUS_PX:
        raise ValueError(f"the rule {KDTREE25} goes with a radius of {KDTREE25_RADIUS_PX:g} px, got {radius_px:g} px")
