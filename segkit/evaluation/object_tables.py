"""Tables of object metrics: per image, pooled and averaged over images, at several IoU thresholds, with intervals.

*Pooled* adds the images' counts up and then computes the metric (every object counts the same); *mean* computes it per
image and averages the defined values (every image counts the same, as in the Data Science Bowl 2018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence, object_totals, objects
from segkit.evaluation.estimates import (
    Estimate,
    Resampled,
    estimate,
    mean_of_defined,
    num_units,
    number,
    weights_of_set_and_samples,
)
from segkit.evaluation.object_sizes import SizeRange, count_by_size, quartile_edges, ranges
from segkit.evaluation.object_totals import TOTALS, totals_of
from segkit.evaluation.objects import THRESHOLDS, Overlaps, count_objects

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
    """One image.

    `counts` and `average_precisions` have a value for each threshold; `metrics` (by the names of `objects.METRICS`) is
    at the first one, `mean_average_precision` the mean over all; `overall` (by the names of `object_totals.METRICS`)
    and the `totals` that it is made of (by those of `object_totals.TOTALS`) know no threshold. `attributes` is what
    else is known of the image, by name.
    """

    image: str
    group: str | None
    attributes: Mapping[str, str]
    counts: tuple[MatchCounts, ...]
    metrics: Mapping[str, float | None]
    average_precisions: tuple[float | None, ...]
    mean_average_precision: float | None
    overall: Mapping[str, float | None]
    totals: Mapping[str, int]

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


@dataclass(frozen=True, slots=True)
class ObjectSummary:
    """All images in one number each, pooled or as means over images.

    `at` has the metrics by the names of `objects.METRICS`, an estimate for each threshold; `mean_average_precision` is
    the mean over the thresholds; `overall` has those by the names of `object_totals.METRICS`.
    """

    at: Mapping[str, tuple[Estimate, ...]]
    mean_average_precision: Estimate
    overall: Mapping[str, Estimate]

    @property
    def dice(self) -> Estimate:
        """Dice of the pixels in any object."""
        return self.overall["dice"]

    @property
    def aji(self) -> Estimate:
        """Aggregated Jaccard index."""
        return self.overall["aji"]

    @property
    def aji_plus(self) -> Estimate:
        """AJI+."""
        return self.overall["aji_plus"]


@dataclass(frozen=True, slots=True)
class ObjectGroup:
    """The images of a group, or of one value of an attribute: `by` says of what, `name` which.

    Counts are at the first threshold. `pooled` and `mean` have the metrics of `objects.METRICS` there,
    `mean_average_precision`, and those of `object_totals.METRICS`. There are intervals where it holds at least two of
    the units that the bootstrap draws.
    """

    by: str
    name: str
    num_images: int
    num_units: int
    num_true: int
    num_predicted: int
    tp: int
    fp: int
    fn: int
    pooled: Mapping[str, Estimate]
    mean: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class SizeBin:
    """Objects of a range of areas in all images, at the first threshold: see `object_sizes` for what counts where.

    `metrics` has those of `objects.METRICS`, pooled.
    """

    range: SizeRange
    tp: int
    fp: int
    fn: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class ObjectReport(Resampled):
    """Everything measured on a set of images; made by `measure_objects`.

    `num_true` and `num_predicted` are numbers of objects, of the class `name`, in all images. `has_quartiles` says
    that the bins of `by_size` are quarters of the true objects, and not sizes that were given. `mpp` is micrometres per
    pixel, None where unknown.
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
    groups: tuple[ObjectGroup, ...]

    @property
    def headline(self) -> Estimate:
        """Average precision at the first threshold, pooled over images."""
        return self.pooled.at[AP][0]


def measure_objects(
    names: Sequence[str],
    overlaps: Sequence[Overlaps],
    *,
    name: str,
    thresholds: Sequence[float] = THRESHOLDS,
    groups: Sequence[str] | None = None,
    attributes: Mapping[str, Sequence[str]] | None = None,
    mpp: float | None = None,
    size_edges_px: Sequence[float] | None = None,
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
        Micrometres per pixel of all images; None where unknown.
    size_edges_px
        Areas, ascending, that divide objects by size, in pixels; None: the quartiles of the true objects.
    num_samples, seed
        Of the bootstrap. With a single image or group, intervals are None.

    Raises
    ------
    ValueError
        The lengths do not fit together, names repeat, or edges do not ascend.
    """
    labels = {} if attributes is None else {key: tuple(values) for key, values in attributes.items()}
    _require_consistent(names, overlaps, thresholds, labels)
    weights = weights_of_set_and_samples(len(names), groups, num_samples, seed)
    measured = _Measured(
        np.stack([count_objects(one, thresholds) for one in overlaps]),
        np.stack([totals_of(one) for one in overlaps]).astype(np.float64),
    )
    edges = quartile_edges(overlaps) if size_edges_px is None else tuple(size_edges_px)
    sizes = np.stack([count_by_size(one, thresholds[0], edges) for one in overlaps])
    units = names if groups is None else groups
    divisions = labels if groups is None else {GROUP: tuple(groups), **labels}
    num_true, num_predicted = (int(total) for total in measured.totals[:, -2:].sum(axis=0))
    return ObjectReport(
        name=name,
        thresholds=tuple(thresholds),
        mpp=mpp,
        num_true=num_true,
        num_predicted=num_predicted,
        images=_rows(names, groups, labels, measured),
        pooled=_summary(_pooled(measured, weights)),
        mean=_summary(_mean(measured, weights)),
        by_size=_size_bins(edges, sizes, weights),
        has_quartiles=size_edges_px is None,
        groups=tuple(
            _group(by, value, np.array([one == value for one in values]), units, measured, weights)
            for by, values in divisions.items()
            for value in sorted(set(values))
        ),
        unit="image" if groups is None else "group",
        num_units=num_units(len(names), groups),
        num_samples=num_samples,
        seed=seed,
    )


class _Measured(NamedTuple):
    """Counts of each image at each threshold, (N, T, 4), and its totals, (N, 9); float64."""

    counts: NDArray[np.float64]
    totals: NDArray[np.float64]


class _Values(NamedTuple):
    """Metrics by name in the set, first, and in its samples: at each threshold (1 + B, T), and overall (1 + B,)."""

    at: dict[str, NDArray[np.float64]]
    overall: dict[str, NDArray[np.float64]]


def _metrics(measured: _Measured) -> _Values:
    """Compute every metric: of each image, or of each sum of images."""
    return _Values(
        {metric: of(measured.counts) for metric, of in objects.METRICS.items()},
        {metric: of(measured.totals) for metric, of in object_totals.METRICS.items()},
    )


def _pooled(measured: _Measured, weights: NDArray[np.float64]) -> _Values:
    return _metrics(_Measured(*(confidence.pooled_over_images(one, weights) for one in measured)))


def _mean(measured: _Measured, weights: NDArray[np.float64]) -> _Values:
    return _Values(
        *(
            {metric: confidence.mean_over_images(values, weights) for metric, values in part.items()}
            for part in _metrics(measured)
        )
    )


def _summary(values: _Values) -> ObjectSummary:
    return ObjectSummary(
        at={metric: tuple(estimate(column) for column in samples.T) for metric, samples in values.at.items()},
        mean_average_precision=estimate(mean_of_defined(values.at[AP])),
        overall={metric: estimate(samples) for metric, samples in values.overall.items()},
    )


def _group(
    by: str,
    name: str,
    members: NDArray[np.bool_],
    units: Sequence[str],
    measured: _Measured,
    weights: NDArray[np.float64],
) -> ObjectGroup:
    """Measure the images that `members` (N,) marks; `units` has what the bootstrap draws each image with."""
    num_units = len({unit for unit, is_member in zip(units, members, strict=True) if is_member})
    inside = _Measured(measured.counts[members], measured.totals[members])
    # The samples of a single unit are multiples of it.
    drawn = weights[:, members] if num_units > 1 else weights[:1, members]
    tp, fp, fn = inside.counts[:, 0, :3].sum(axis=0).astype(int).tolist()
    return ObjectGroup(
        by=by,
        name=name,
        num_images=int(members.sum()),
        num_units=num_units,
        num_true=tp + fn,
        num_predicted=tp + fp,
        tp=tp,
        fp=fp,
        fn=fn,
        pooled=_estimates(_pooled(inside, drawn)),
        mean=_estimates(_mean(inside, drawn)),
    )


def _estimates(values: _Values) -> dict[str, Estimate]:
    """Return estimates at the first threshold, and those that know none."""
    return {
        **{metric: estimate(samples[:, 0]) for metric, samples in values.at.items()},
        MEAN_AP: estimate(mean_of_defined(values.at[AP])),
        **{metric: estimate(samples) for metric, samples in values.overall.items()},
    }


def _size_bins(edges: Sequence[float], sizes: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[SizeBin, ...]:
    """Return the bins of counts (N, bins, 4)."""
    sums = confidence.pooled_over_images(sizes, weights)
    values = {metric: of(sums) for metric, of in objects.METRICS.items()}
    return tuple(
        SizeBin(
            range=of_size,
            tp=int(sums[0, index, 0]),
            fp=int(sums[0, index, 1]),
            fn=int(sums[0, index, 2]),
            metrics={metric: estimate(samples[:, index]) for metric, samples in values.items()},
        )
        for index, of_size in enumerate(ranges(edges))
    )


def _rows(
    names: Sequence[str],
    groups: Sequence[str] | None,
    attributes: Mapping[str, Sequence[str]],
    measured: _Measured,
) -> tuple[ObjectRow, ...]:
    values = _metrics(measured)
    mean_of_image = mean_of_defined(values.at[AP])
    return tuple(
        ObjectRow(
            image=name,
            group=None if groups is None else groups[image],
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
        )
        for image, name in enumerate(names)
    )


def _require_consistent(
    names: Sequence[str],
    overlaps: Sequence[Overlaps],
    thresholds: Sequence[float],
    attributes: Mapping[str, Sequence[str]],
) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"need at least one image and different names, got {tuple(names)}")
    if len(overlaps) != len(names) or not thresholds:
        raise ValueError(f"{len(names)} names, {len(overlaps)} overlaps, {len(thresholds)} thresholds")
    for key, values in attributes.items():
        if len(values) != len(names) or key in {"image", GROUP}:
            raise ValueError(f"attribute {key!r} has {len(values)} values for {len(names)} images, or a name in use")
