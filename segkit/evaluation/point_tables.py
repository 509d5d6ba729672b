"""Tables of point metrics: per image, per group and per class, pooled over images, with intervals.

*Pooled* means that the images' counts are added up before a metric is computed: every point counts the same. The
*foreground* is the mean over the classes 1 .. C-1 for which the metric is defined. *Any class* measures detection
apart from classification: every detection may match any labelled point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from segkit.evaluation import confidence, points
from segkit.evaluation.estimates import (
    Estimate,
    Resampled,
    estimate,
    mean_of_defined,
    num_units,
    ratio,
    weights_of_set_and_samples,
)
from segkit.evaluation.point_curves import Froc, PointCurve, ScoredHits, point_curve, score_hits
from segkit.evaluation.points import PointCounts, count_points
from segkit.points import Detections, Points

METRICS = ("f1", "precision", "recall", "average_precision")
"""The metrics that every summary holds, by the names that files give them."""

ANY_CLASS = "any class"

# Samples times thresholds times 8 bytes is the memory that the bootstrap of average precision takes, a few times over.
_MAX_BOOTSTRAP_THRESHOLDS = 2000


@dataclass(frozen=True, slots=True)
class PointRow:
    """Counts of one class in one image or group.

    `image` is None where the row is of a whole group; `name` is None where the counts of all classes are added up.
    """

    image: str | None
    group: str | None
    name: str | None
    counts: PointCounts


@dataclass(frozen=True, slots=True)
class PointSummary:
    """All images, for one class or for any class.

    `num_images` counts the images whose truth holds the class. `threshold` is the one that `counts` and the first
    three of `pooled` (by the names of `METRICS`) were taken at, None for any class, where each class has its own;
    average precision, FROC and `curve` are of all thresholds. FROC is None without truth, and per mm2 without mpp.
    `best` is a threshold with the highest F1 on these very images, and that F1: for information, never to be reported
    as a result, as it was chosen on the images that it is measured on.
    """

    name: str
    num_images: int
    threshold: float | None
    counts: PointCounts
    pooled: Mapping[str, Estimate]
    froc_per_image: Froc | None
    froc_per_mm2: Froc | None
    best: tuple[float, float] | None
    curve: PointCurve


@dataclass(frozen=True, slots=True)
class PointReport(Resampled):
    """Everything measured on a set of images; made by `measure_points`.

    `images` has the counts of all classes added up, a row per image; `rows` one per image and class; `groups` one per
    group and class, empty without groups. `any_class` is None where there is one class only. Lengths are
    in pixels at level 0; `area_mm2` is None without mpp.
    """

    classes: tuple[str, ...]
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
    num_samples, seed
        Of the bootstrap. With a single image or group, intervals are None.

    Raises
    ------
    ValueError
        The lengths do not fit together, names repeat, a class index is not there, or as `points.matches`.
    """
    names, classes = tuple(names), tuple(classes)
    _require_consistent(names, detections, truths, classes, areas_px, thresholds)
    weights = weights_of_set_and_samples(len(names), groups, num_samples, seed)
    area_mm2 = None if mpp is None else sum(areas_px) * (mpp / 1000) ** 2
    measured = [
        _measure(name, index, detections, truths, thresholds, radius_px) for index, name in enumerate(classes) if index
    ]
    any_class = None
    if len(classes) > 2:
        any_class, _ = _summary(_measure(ANY_CLASS, None, detections, truths, thresholds, radius_px), weights, area_mm2)
    summaries = [_summary(one, weights, area_mm2) for one in measured]
    image_groups = [None] * len(names) if groups is None else list(groups)
    return PointReport(
        classes=classes,
        radius_px=radius_px,
        mpp=mpp,
        area_mm2=area_mm2,
        num_hard_negatives=sum(len(truth.of_class(0)) for truth in truths),
        images=tuple(
            PointRow(name, group, None, sum((one.counts[image] for one in measured), PointCounts()))
            for image, (name, group) in enumerate(zip(names, image_groups, strict=True))
        ),
        rows=tuple(
            PointRow(name, group, one.name, one.counts[image])
            for image, (name, group) in enumerate(zip(names, image_groups, strict=True))
            for one in measured
        ),
        groups=_group_rows(measured, groups),
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
    detections: Sequence[Detections],
    truths: Sequence[Points],
    thresholds: Sequence[float],
    radius_px: float,
) -> _Measured:
    """Match one class in every image; `index` None takes all classes as one."""
    counts, hits = [], []
    for found, truth in zip(detections, truths, strict=True):
        chosen = found.classes == index if index else found.classes > 0
        kept = chosen & (found.scores >= np.array(thresholds)[found.classes - 1])
        true_yx = truth.of_class(index) if index else truth.positions[truth.classes > 0]
        counts.append(count_points(found.positions[kept], true_yx, radius_px, hard_negatives_yx=truth.of_class(0)))
        hits.append(score_hits(found.positions[chosen], found.scores[chosen], true_yx, radius_px))
    return _Measured(name, thresholds[index - 1] if index else None, counts, hits)


def _summary(
    measured: _Measured, weights: NDArray[np.float64], area_mm2: float | None
) -> tuple[PointSummary, dict[str, NDArray[np.float64]]]:
    """Return the summary of one class, and its metrics (by `METRICS`) in the set and in each bootstrap sample."""
    curve = point_curve(measured.hits)
    per_image = np.array([[counts.tp, counts.fp, counts.fn] for counts in measured.counts])
    tp, fp, fn = confidence.pooled_over_images(per_image, weights).T
    values = {
        "f1": points.f1(tp, fp, fn),
        "precision": points.precision(tp, fp),
        "recall": points.recall(tp, fn),
        "average_precision": _average_precisions(measured.hits, curve, weights),
    }
    summary = PointSummary(
        name=measured.name,
        num_images=sum(image.num_truth > 0 for image in measured.hits),
        threshold=measured.threshold,
        counts=sum(measured.counts, PointCounts()),
        pooled={metric: estimate(values[metric]) for metric in METRICS},
        froc_per_image=curve.froc(len(measured.hits)),
        froc_per_mm2=None if area_mm2 is None else curve.froc(area_mm2),
        best=curve.best_threshold(),
        curve=curve,
    )
    return summary, values


def _average_precisions(
    images: Sequence[ScoredHits], curve: PointCurve, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the average precision of the set, exactly, and of each bootstrap sample: weights (1 + B, N) -> (1 + B,).

    A sample's counts at a threshold are its images' counts there, added up. Its average precision is exact unless more
    than `_MAX_BOOTSTRAP_THRESHOLDS` scores raise recall; then so many of these stand for all, and what that takes from
    the set's own value is given back to every sample.
    """
    thresholds = curve.thinned(_MAX_BOOTSTRAP_THRESHOLDS).thresholds
    image_of = np.repeat(np.arange(len(images)), [len(image.scores) for image in images])
    scores = np.concatenate([image.scores for image in images])
    hits = np.concatenate([image.hits for image in images]).astype(np.float64)
    # The highest threshold that a detection reaches, and what it adds from there on.
    ends = (image_of, np.searchsorted(-thresholds, -scores))
    shape = (len(images), len(thresholds))
    new_tp: NDArray[np.float64] = weights @ sparse.csr_array((hits, ends), shape)
    new_fp: NDArray[np.float64] = weights @ sparse.csr_array((1 - hits, ends), shape)
    precision = points.precision(np.cumsum(new_tp, axis=1), np.cumsum(new_fp, axis=1))
    # Before a sample's first detection precision is undefined, and recall does not rise.
    areas: NDArray[np.float64] = np.sum(new_tp * np.nan_to_num(precision), axis=1)
    truth: NDArray[np.float64] = weights @ np.array([image.num_truth for image in images], np.float64)
    averages = ratio(areas, truth)
    exact = np.nan if curve.average_precision is None else curve.average_precision
    offset: float = exact - averages[0]
    return averages + offset


def _group_rows(measured: Sequence[_Measured], groups: Sequence[str] | None) -> tuple[PointRow, ...]:
    if groups is None:
        return ()
    return tuple(
        PointRow(
            image=None,
            group=group,
            name=one.name,
            counts=sum((counts for counts, of in zip(one.counts, groups, strict=True) if of == group), PointCounts()),
        )
        for group in sorted(set(groups))
        for one in measured
    )


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
