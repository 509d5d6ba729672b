"""All images in one number for each object metric: of any class, of one class, of the mean over the classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.estimates import Estimate, estimate, mean_of_defined
from segkit.evaluation.object_densities import pooled_densities
from segkit.evaluation.object_totals import TOTALS
from segkit.evaluation.object_values import Measured, Values, mean_of_classes, mean_values, pooled_values


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
class ObjectClass:
    """The objects of one class in all images, matched with those of the same class only.

    `num_images` counts the images whose truth holds the class; counts are at the first threshold; `densities` are
    pooled (see `object_densities`).
    """

    name: str
    num_images: int
    num_true: int
    num_predicted: int
    tp: int
    fp: int
    fn: int
    pooled: ObjectSummary
    mean: ObjectSummary
    densities: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Foreground:
    """The mean over the classes of what each has, pooled over images and as mean over them."""

    pooled: ObjectSummary
    mean: ObjectSummary


def summarise(values: Values) -> ObjectSummary:
    """Return estimates of the set, whose values come first, with intervals by its samples."""
    return ObjectSummary(
        at={metric: tuple(estimate(column) for column in samples.T) for metric, samples in values.at.items()},
        mean_average_precision=estimate(mean_of_defined(values.at["average_precision"])),
        overall={metric: estimate(samples) for metric, samples in values.overall.items()},
    )


def summary_of_class(name: str, measured: Measured, weights: NDArray[np.float64]) -> ObjectClass:
    """Return what is said of a class; `weights` (1 + B, N) as of `estimates.weights_of_set_and_samples`."""
    tp, fp, fn = measured.counts[:, 0, :3].sum(axis=0).astype(int).tolist()
    return ObjectClass(
        name=name,
        num_images=int((measured.totals[:, TOTALS.index("num_true")] > 0).sum()),
        num_true=tp + fn,
        num_predicted=tp + fp,
        tp=tp,
        fp=fp,
        fn=fn,
        pooled=summarise(pooled_values(measured, weights)),
        mean=summarise(mean_values(measured, weights)),
        densities=pooled_densities(measured.sums, weights, has_mpp=measured.has_mpp),
    )


def foreground_of(by_class: Sequence[Measured], weights: NDArray[np.float64]) -> Foreground | None:
    """Return the mean over the classes, None where there are none; `weights` as above."""
    if not by_class:
        return None
    return Foreground(
        pooled=summarise(mean_of_classes([pooled_values(one, weights) for one in by_class])),
        mean=summarise(mean_of_classes([mean_values(one, weights) for one in by_class])),
    )
