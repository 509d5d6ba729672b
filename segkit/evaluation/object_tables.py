"""Tables of object metrics: per image, pooled and averaged over images, at several IoU thresholds, with intervals.

*Pooled* adds the images' counts up and then computes the metric (every object counts the same); *mean* computes it per
image and averages the defined values (every image counts the same, as in the Data Science Bowl 2018).

Where objects have classes, all of it is there of each class, matched within the class, and of their mean, the
*foreground* (see `object_classes`), beside that of *any class*, which does not look at them.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence
from segkit.evaluation.estimates import (
    Estimate,
    Resampled,
    estimate,
    mean_of_defined,
    num_units,
    number,
    weights_of_set_and_samples,
)
from segkit.evaluation.object_classes import ObjectClasses, divide
from segkit.evaluation.object_densities import densities_of, pooled_densities
from segkit.evaluation.object_sizes import SizeBin, count_by_size, quartile_edges, size_bins
from segkit.evaluation.object_summary import (
    Foreground,
    ObjectClass,
    ObjectSummary,
    foreground_of,
    summarise,
    summary_of_class,
)
from segkit.evaluation.object_totals import TOTALS
from segkit.evaluation.object_values import (
    Measured,
    Values,
    mean_of_classes,
    mean_values,
    measured_of,
    metrics_of,
    pooled_values,
)
from segkit.evaluation.objects import THRESHOLDS, Overlaps
from segkit.evaluation.threshold_choice import Choice

AP = "average_precision"
MEAN_AP = "mean_average_precision"
GROUP = "group"


class MatchCounts(NamedTuple):
    """Counts at one IoU threshold, and the sum of the IoUs of matched pairs."""

    tp: int
    fp: int
    fn: int
    iou_sum: float


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One image: all its objects, or those of the class `name`, matched with the same class only.

    `name` is None where class is not looked at; then `foreground` has the means over the classes of what they have in
    `metrics`, `mean_average_precision` and `overall`, by the same names, and nothing where there are no classes.

    `counts` and `average_precisions` have a value for each threshold; `metrics` (by the names of `objects.METRICS`) is
    at the first one, `mean_average_precision` the mean over all; `overall` (by the names of `object_totals.METRICS`)
    and the `totals` that it is made of (by those of `object_totals.TOTALS`) know no threshold. `attributes` is what
    else is known of the image, by name; `area_mm2` what is labelled of it, None where unknown; `densities` are numbers
    per area and mean areas (see `object_densities`).
    """

    image: str
    group: str | None
    name: str | None
    attributes: Mapping[str, str]
    counts: tuple[MatchCounts, ...]
    metrics: Mapping[str, float | None]
    average_precisions: tuple[float | None, ...]
    mean_average_precision: float | None
    overall: Mapping[str, float | None]
    totals: Mapping[str, int]
    area_mm2: float | None
    densities: Mapping[str, float | None]
    foreground: Mapping[str, float | None]

    @property
    def tp(self) -> int:
        """Matched predicted objects at the first threshold."""
        return self.counts[0].tp

    @property
    def fp(self) -> int:
        """Predicted objects without a match at the first threshold."""
        return self.counts[0].fp

    @property
    def fn(self) -> int:
        """True objects without a match at the first threshold."""
        return self.counts[0].fn

    @property
    def dice(self) -> float | None:
        """Dice of the pixels in any object."""
        return self.overall["dice"]

    @property
    def score(self) -> float | None:
        """What images are ranked by: average precision at the first threshold, with classes the mean over them."""
        return self.foreground.get(AP) if self.foreground else self.metrics[AP]


@dataclass(frozen=True, slots=True)
class ObjectGroup:
    """The images of a group, or of one value of an attribute: `by` says of what, `name` which.

    `of` is the class of the objects, None where class is not looked at; then `foreground` has the means over the
    classes of what they have in `pooled`, and nothing where there are no classes.

    Counts are at the first threshold. `pooled` and `mean` have the metrics of `objects.METRICS` there,
    `mean_average_precision`, and those of `object_totals.METRICS`; `densities` are pooled. There are intervals where it
    holds at least two of the units that the bootstrap draws.
    """

    by: str
    name: str
    of: str | None
    num_images: int
    num_units: int
    num_true: int
    num_predicted: int
    tp: int
    fp: int
    fn: int
    pooled: Mapping[str, Estimate]
    mean: Mapping[str, Estimate]
    densities: Mapping[str, Estimate]
    foreground: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class ObjectReport(Resampled):
    """Everything measured on a set of images; made by `measure_objects`.

    `num_true` and `num_predicted` are numbers of objects, of the class `name`, in all images. `has_quartiles` says
    that the bins of `by_size` are quarters of the true objects, and not sizes that were given. `mpp` is micrometres per
    pixel, None where unknown or not the same for all images: where it differs `sizes_in_um2` says that the bins are in
    um2, not in pixels. `area_mm2` is what is labelled, None where unknown; `densities` are numbers per area and mean
    areas (see `object_densities`), pooled.

    Where objects have classes, `per_class` has each of them, `rows` one per image and class, `groups` one per group and
    class, too, and `foreground` the mean over the classes; all else is of any class. Without, these are empty, and
    None. `choice` is how the thresholds that made objects of a model's maps were chosen, None where nobody knows; it is
    for whoever knows to add.
    """

    name: str
    thresholds: tuple[float, ...]
    mpp: float | None
    num_true: int
    num_predicted: int
    images: tuple[ObjectRow, ...]
    pooled: ObjectSummary
    mean: ObjectSummary
    by_size: tuple[SizeBin, ...]
    has_quartiles: bool
    sizes_in_um2: bool
    area_mm2: float | None
    densities: Mapping[str, Estimate]
    groups: tuple[ObjectGroup, ...]
    rows: tuple[ObjectRow, ...]
    per_class: tuple[ObjectClass, ...]
    foreground: Foreground | None
    choice: Choice | None = None

    @property
    def headline(self) -> Estimate:
        """Average precision at the first threshold, pooled over images, with classes the mean over them."""
        return (self.foreground or self).pooled.at[AP][0]


def measure_objects(
    names: Sequence[str],
    overlaps: Sequence[Overlaps],
    *,
    name: str,
    thresholds: Sequence[float] = THRESHOLDS,
    groups: Sequence[str] | None = None,
    attributes: Mapping[str, Sequence[str]] | None = None,
    mpp: float | Sequence[float] | None = None,
    areas_px: Sequence[int] | None = None,
    size_edges_px: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    object_classes: Sequence[ObjectClasses] | None = None,
    num_samples: int = confidence.NUM_SAMPLES,
    seed: int = 0,
) -> ObjectReport:
    """Make the tables from the overlaps of true and predicted objects in each image.

    Parameters
    ----------
    names
        Names of the N >= 1 images, all different.
    overlaps
        Results of `objects.match_objects`, one for each image.
    name
        What the objects are called.
    thresholds
        Of IoU, at least one, the most important first.
    groups
        The group (slide, patient) of each image. Intervals are then over groups.
    attributes
        What else is known of the images (scanner, modality), a value for each: there are rows for them as for groups,
        and intervals are what they are without.
    mpp
        Micrometres per pixel of all images, or of each; None where unknown.
    areas_px
        What is labelled of each image, in pixels: the image, less what is not labelled; None: unknown.
    size_edges_px
        Areas, ascending, that divide objects by size, in pixels (um2 where `mpp` is that of each image); None: the
        quartiles of the true objects.
    classes, object_classes
        Where class is looked at: names of the C >= 3 classes by index, background first, and the class of each object
        of each image. `name` is then what stands for all of them.
    num_samples, seed
        Of the bootstrap. With a single image or group, intervals are None.

    Raises
    ------
    ValueError
        The lengths do not fit together, names repeat, edges do not ascend, or a class does not exist.
    """
    labels = {} if attributes is None else {key: tuple(values) for key, values in attributes.items()}
    mpps = None if mpp is None else np.array([mpp] * len(names) if isinstance(mpp, float | int) else mpp, np.float64)
    _require_consistent(names, overlaps, thresholds, labels, mpps, areas_px)
    weights = weights_of_set_and_samples(len(names), groups, num_samples, seed)
    areas = None if areas_px is None else np.array(areas_px, np.float64)
    measured = measured_of(overlaps, thresholds, areas, mpps)
    parts = divide(overlaps, classes, object_classes)
    by_class = {of: measured_of(part, thresholds, areas, mpps) for of, part in parts.items()}
    everything = dict(zip((None, *by_class), (measured, *by_class.values()), strict=True))
    differs = mpps is not None and not isinstance(mpp, float | int)
    pixel_areas = (mpps**2).tolist() if differs and mpps is not None else [1.0] * len(names)
    edges = quartile_edges(overlaps, pixel_areas) if size_edges_px is None else tuple(size_edges_px)
    sizes = np.stack(
        [count_by_size(one, thresholds[0], edges, area) for one, area in zip(overlaps, pixel_areas, strict=True)]
    )
    units = names if groups is None else groups
    divisions = labels if groups is None else {GROUP: tuple(groups), **labels}
    rows = [_rows(names, groups, labels, of, one) for of, one in by_class.items()]
    num_true, num_predicted = (int(total) for total in measured.totals[:, -2:].sum(axis=0))
    return ObjectReport(
        name=name,
        thresholds=tuple(thresholds),
        mpp=float(mpp) if isinstance(mpp, float | int) else None,
        num_true=num_true,
        num_predicted=num_predicted,
        images=_rows(names, groups, labels, None, measured, list(by_class.values())),
        pooled=summarise(pooled_values(measured, weights)),
        mean=summarise(mean_values(measured, weights)),
        by_size=size_bins(edges, sizes, weights),
        has_quartiles=size_edges_px is None,
        sizes_in_um2=differs,
        area_mm2=_defined(float(measured.sums[:, -1].sum())),
        densities=pooled_densities(measured.sums, weights, has_mpp=measured.has_mpp),
        groups=tuple(
            _group(by, value, of, np.array([one == value for one in values]), units, everything, weights)
            for by, values in divisions.items()
            for value in sorted(set(values))
            for of in everything
        ),
        rows=tuple(itertools.chain(*zip(*rows, strict=True))),
        per_class=tuple(summary_of_class(of, one, weights) for of, one in by_class.items()),
        foreground=foreground_of(list(by_class.values()), weights),
        unit="image" if groups is None else "group",
        num_units=num_units(len(names), groups),
        num_samples=num_samples,
        seed=seed,
    )


def _group(
    by: str,
    name: str,
    of: str | None,
    members: NDArray[np.bool_],
    units: Sequence[str],
    everything: Mapping[str | None, Measured],
    weights: NDArray[np.float64],
) -> ObjectGroup:
    """Measure the images that `members` (N,) marks; `units` has what the bootstrap draws each image with."""
    num_units = len({unit for unit, is_member in zip(units, members, strict=True) if is_member})
    inside = everything[of].of_images(members)
    # The samples of a single unit are multiples of it.
    drawn = weights[:, members] if num_units > 1 else weights[:1, members]
    tp, fp, fn = inside.counts[:, 0, :3].sum(axis=0).astype(int).tolist()
    by_class = [one.of_images(members) for key, one in everything.items() if of is None and key is not None]
    return ObjectGroup(
        by=by,
        name=name,
        of=of,
        num_images=int(members.sum()),
        num_units=num_units,
        num_true=tp + fn,
        num_predicted=tp + fp,
        tp=tp,
        fp=fp,
        fn=fn,
        pooled=_estimates(pooled_values(inside, drawn)),
        mean=_estimates(mean_values(inside, drawn)),
        densities=pooled_densities(inside.sums, drawn, has_mpp=inside.has_mpp),
        foreground=_estimates(mean_of_classes([pooled_values(one, drawn) for one in by_class])) if by_class else {},
    )


def _estimates(values: Values) -> dict[str, Estimate]:
    """Return estimates at the first threshold, and those that know none."""
    return {
        **{metric: estimate(samples[:, 0]) for metric, samples in values.at.items()},
        MEAN_AP: estimate(mean_of_defined(values.at[AP])),
        **{metric: estimate(samples) for metric, samples in values.overall.items()},
    }


def _rows(
    names: Sequence[str],
    groups: Sequence[str] | None,
    attributes: Mapping[str, Sequence[str]],
    of: str | None,
    measured: Measured,
    by_class: Sequence[Measured] = (),
) -> tuple[ObjectRow, ...]:
    parts = [metrics_of(one.counts, one.totals) for one in by_class]
    means = _of_images(mean_of_classes(parts)) if parts else {}
    values = metrics_of(measured.counts, measured.totals)
    densities = densities_of(measured.sums, has_mpp=measured.has_mpp)
    mean_of_image = mean_of_defined(values.at[AP])
    return tuple(
        ObjectRow(
            image=name,
            group=None if groups is None else groups[image],
            name=of,
            attributes={key: of_images[image] for key, of_images in attributes.items()},
            counts=tuple(
                MatchCounts(int(tp), int(fp), int(fn), iou_sum)
                for tp, fp, fn, iou_sum in measured.counts[image].tolist()
            ),
            metrics={metric: number(of_images[image, 0]) for metric, of_images in values.at.items()},
            average_precisions=tuple(number(value) for value in values.at[AP][image]),
            mean_average_precision=number(mean_of_image[image]),
            overall={metric: number(of_images[image]) for metric, of_images in values.overall.items()},
            totals={total: int(value) for total, value in zip(TOTALS, measured.totals[image], strict=True)},
            area_mm2=_defined(float(measured.sums[image, -1])),
            densities={name: number(of_images[image]) for name, of_images in densities.items()},
            foreground={metric: number(of_images[image]) for metric, of_images in means.items()},
        )
        for image, name in enumerate(names)
    )


def _of_images(values: Values) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of N images, (N,), at the first threshold, and those that know none."""
    at_first = {metric: of_images[:, 0] for metric, of_images in values.at.items()}
    return {**at_first, MEAN_AP: mean_of_defined(values.at[AP]), **values.overall}


def _require_consistent(
    names: Sequence[str],
    overlaps: Sequence[Overlaps],
    thresholds: Sequence[float],
    attributes: Mapping[str, Sequence[str]],
    mpps: NDArray[np.float64] | None,
    areas_px: Sequence[int] | None,
) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"need at least one image and different names, got {tuple(names)}")
    if len(overlaps) != len(names) or not thresholds:
        raise ValueError(f"{len(names)} names, {len(overlaps)} overlaps, {len(thresholds)} thresholds")
    for key, values in attributes.items():
        if len(values) != len(names) or key in {"image", GROUP}:
            raise ValueError(f"attribute {key!r} has {len(values)} values for {len(names)} images, or a name in use")
    if mpps is not None and (mpps.shape != (len(names),) or not (mpps > 0).all()):
        raise ValueError(f"needed is one mpp > 0 for all of {len(names)} images, or for each, got {mpps.tolist()}")
    if areas_px is not None and (len(areas_px) != len(names) or min(areas_px) < 0):
        raise ValueError(f"needed is an area for each of {len(names)} images, got {list(areas_px)}")


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value
