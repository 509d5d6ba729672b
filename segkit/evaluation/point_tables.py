"""Tables of point metrics: per image, per group and per class, pooled and averaged over images, with intervals.

Two ways to get one number from many images, both given: *pooled* adds the images' counts up and then computes the
metric (every point counts the same); *mean* computes it per image and averages the defined values (every image counts
the same). The *foreground* is the mean over the classes 1 .. C-1 for which the metric is defined. *Any class* measures
detection apart from classification: every detection may match any labelled point.

Counts are by the matching rule that was asked for, curves and what is made of them by `point_rules.curve_rule` of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
from segkit.evaluation.point_rules import KDTREE25, KDTREE25_RADIUS_PX, OPTIMAL, RULES, curve_rule
from segkit.evaluation.point_summary import METRICS, Measured, PointSummary, measure_class, summarise
from segkit.evaluation.points import DENSITIES, PointCounts
from segkit.evaluation.threshold_choice import Choice
from segkit.points import Detections, Points

ANY_CLASS = "any class"
GROUP = "group"


@dataclass(frozen=True, slots=True)
class PointRow:
    """Counts of one class in one image.

    `name` is None where the counts of all classes are added up; there is no average precision then, nor without
    labelled points. `area_mm2` is what was searched, None without mpp; `attributes` is what else is known of the image,
    by name.
    """

    image: str
    group: str | None
    name: str | None
    counts: PointCounts
    average_precision: float | None
    area_mm2: float | None
    attributes: Mapping[str, str]

    @property
    def densities(self) -> dict[str, float | None]:
        """Labelled points and detections per area, by the names of `points.DENSITIES`; None without mpp."""
        if self.area_mm2 is None:
            return dict.fromkeys(DENSITIES)
        values = map(np.array, (self.counts.num_true, self.counts.num_predicted, self.area_mm2))
        return {name: number(float(value)) for name, value in points.densities(*values).items()}


@dataclass(frozen=True, slots=True)
class PointGroup:
    """One class in the images of a group, or of one value of an attribute: `by` says of what, `name` which.

    `num_images` are all its images. `summary` has intervals where these are of at least two of the units that the
    bootstrap draws. `area_mm2` is None without mpp.
    """

    by: str
    name: str
    num_images: int
    num_units: int
    area_mm2: float | None
    summary: PointSummary


@dataclass(frozen=True, slots=True)
class PointReport(Resampled):
    """Everything measured on a set of images; made by `measure_points`.

    `images` has the counts of all classes added up, a row per image; `rows` one per image and class; `groups` one per
    group (or value of an attribute) and class. `foreground` has the means over the classes of what is pooled over
    images, `foreground_mean` of what is averaged over them. `any_class` is None where there is one class only. Lengths
    are in pixels at level 0; `area_mm2` is None without mpp. `rule` is one of `point_rules.RULES`. `choice` is how the
    thresholds were chosen, None where nobody knows; it is for whoever knows to add.
    """

    classes: tuple[str, ...]
    rule: str
    radius_px: float
    mpp: float | None
    area_mm2: float | None
    num_hard_negatives: int
    images: tuple[PointRow, ...]
    rows: tuple[PointRow, ...]
    groups: tuple[PointGroup, ...]
    per_class: tuple[PointSummary, ...]
    foreground: Mapping[str, Estimate]
    foreground_mean: Mapping[str, Estimate]
    any_class: PointSummary | None
    choice: Choice | None = None

    @property
    def headline(self) -> Estimate:
        """F1 pooled over images, mean over the foreground classes."""
        return self.foreground["f1"]

    @property
    def summaries(self) -> tuple[PointSummary, ...]:
        """Those of the classes, and of any class where there are several."""
        return (*self.per_class, *(() if self.any_class is None else (self.any_class,)))

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
    attributes: Mapping[str, Sequence[str]] | None = None,
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
    attributes
        What else is known of the images (scanner, modality), a value for each: there are rows for them as for groups,
        and intervals are what they are without.
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
    labels = {} if attributes is None else {key: tuple(values) for key, values in attributes.items()}
    _require_consistent(names, detections, truths, classes, areas_px, thresholds)
    _require_attributes(len(names), labels)
    _require_rule(rule, radius_px)
    weights = weights_of_set_and_samples(len(names), groups, num_samples, seed)
    areas_mm2 = None if mpp is None else np.array(areas_px) * (mpp / 1000) ** 2
    images = list(zip(names, detections, truths, strict=True))
    measured = [
        measure_class(name, index, images, thresholds, radius_px, rule) for index, name in enumerate(classes) if index
    ]
    any_class = None
    if len(classes) > 2:
        everything = measure_class(ANY_CLASS, None, images, thresholds, radius_px, rule)
        any_class, _ = summarise(everything, weights, areas_mm2)
    summaries = [summarise(one, weights, areas_mm2) for one in measured]

    def row(image: int, name: str | None, counts: PointCounts, average_precision: float | None = None) -> PointRow:
        return PointRow(
            image=names[image],
            group=None if groups is None else groups[image],
            name=name,
            counts=counts,
            average_precision=average_precision,
            area_mm2=None if areas_mm2 is None else float(areas_mm2[image]),
            attributes={key: values[image] for key, values in labels.items()},
        )

    return PointReport(
        classes=classes,
        rule=rule,
        radius_px=radius_px,
        mpp=mpp,
        area_mm2=None if areas_mm2 is None else float(areas_mm2.sum()),
        num_hard_negatives=sum(len(truth.of_class(0)) for truth in truths),
        images=tuple(
            row(image, None, sum((one.counts[image] for one in measured), PointCounts())) for image in range(len(names))
        ),
        rows=tuple(
            row(image, one.name, one.counts[image], number(one.average_precisions[image]))
            for image in range(len(names))
            for one in measured
        ),
        groups=_groups(
            measured,
            labels if groups is None else {GROUP: tuple(groups), **labels},
            names if groups is None else groups,
            weights,
            areas_mm2,
        ),
        per_class=tuple(summary for summary, _ in summaries),
        foreground=_mean_of_classes([values.pooled for _, values in summaries]),
        foreground_mean=_mean_of_classes([values.mean for _, values in summaries]),
        any_class=any_class,
        unit="image" if groups is None else "group",
        num_units=num_units(len(names), groups),
        num_samples=num_samples,
        seed=seed,
    )


def _mean_of_classes(values: Sequence[Mapping[str, NDArray[np.float64]]]) -> dict[str, Estimate]:
    return {
        metric: estimate(mean_of_defined(np.stack([of_class[metric] for of_class in values], axis=-1)))
        for metric in METRICS
    }


def _groups(
    measured: Sequence[Measured],
    divisions: Mapping[str, Sequence[str]],
    units: Sequence[str],
    weights: NDArray[np.float64],
    areas_mm2: NDArray[np.float64] | None,
) -> tuple[PointGroup, ...]:
    """Measure the images of each group of each division; `units` has what the bootstrap draws each image with."""
    found = []
    for by, values in divisions.items():
        images_of: dict[str, list[int]] = {}
        for image, value in enumerate(values):
            images_of.setdefault(value, []).append(image)
        for value, members in sorted(images_of.items()):
            num_drawn = len({units[image] for image in members})
            # The samples of a single unit are multiples of it.
            drawn = weights[:, members] if num_drawn > 1 else weights[:1, members]
            areas = None if areas_mm2 is None else areas_mm2[members]
            area = None if areas is None else float(areas.sum())
            for one in measured:
                summary, _ = summarise(one.of_images(members), drawn, areas)
                found.append(PointGroup(by, value, len(members), num_drawn, area, summary))
    return tuple(found)


def _require_attributes(num_images: int, attributes: Mapping[str, Sequence[str]]) -> None:
    for key, values in attributes.items():
        if len(values) != num_images or key in {"image", GROUP}:
            raise ValueError(f"attribute {key!r} has {len(values)} values for {num_images} images, or a name in use")


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
