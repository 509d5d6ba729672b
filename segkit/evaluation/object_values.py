"""Object metrics of images and of sets of them, from what was counted in each image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence, object_totals, objects
from segkit.evaluation.estimates import mean_of_defined
from segkit.evaluation.object_densities import sums_of
from segkit.evaluation.objects import Overlaps, count_objects


class Measured(NamedTuple):
    """Counts of each image at each threshold, (N, T, 4), its totals, (N, 9), and `object_densities.sums_of` it, (N, 5).

    All float64; `has_mpp` says whether the latter are in um2.
    """

    counts: NDArray[np.float64]
    totals: NDArray[np.float64]
    sums: NDArray[np.float64]
    has_mpp: bool

    def of_images(self, members: NDArray[np.bool_]) -> "Measured":
        """Return the same of the images that `members` (N,) marks."""
        return Measured(self.counts[members], self.totals[members], self.sums[members], self.has_mpp)


class Values(NamedTuple):
    """Metrics by name in the set, first, and in its samples: at each threshold (1 + B, T), and overall (1 + B,)."""

    at: dict[str, NDArray[np.float64]]
    overall: dict[str, NDArray[np.float64]]


def measured_of(
    overlaps: Sequence[Overlaps],
    thresholds: Sequence[float],
    areas_px: NDArray[np.float64] | None,
    mpps: NDArray[np.float64] | None,
) -> Measured:
    """Count in N images; labelled pixels and micrometres per pixel of each as of `object_densities.sums_of`."""
    totals = np.stack([object_totals.totals_of(one) for one in overlaps]).astype(np.float64)
    return Measured(
        np.stack([count_objects(one, thresholds) for one in overlaps]),
        totals,
        sums_of(totals, areas_px, mpps),
        mpps is not None,
    )


def metrics_of(counts: NDArray[np.float64], totals: NDArray[np.float64]) -> Values:
    """Compute every metric: of each image, or of each sum of images."""
    return Values(
        {metric: of(counts) for metric, of in objects.METRICS.items()},
        {metric: of(totals) for metric, of in object_totals.METRICS.items()},
    )


def pooled_values(measured: Measured, weights: NDArray[np.float64]) -> Values:
    """Return the metrics of counts that are added up; `weights` (1 + B, N) as of `weights_of_set_and_samples`."""
    return metrics_of(*(confidence.pooled_over_images(one, weights) for one in (measured.counts, measured.totals)))


def mean_values(measured: Measured, weights: NDArray[np.float64]) -> Values:
    """Return the means of the images' metrics; `weights` as above."""
    return Values(
        *(
            {metric: confidence.mean_over_images(values, weights) for metric, values in part.items()}
            for part in metrics_of(measured.counts, measured.totals)
        )
    )


def mean_of_classes(classes: Sequence[Values]) -> Values:
    """Return the mean of each metric over the classes for which it is defined, of at least one class."""
    return Values(
        *(
            {metric: mean_of_defined(np.stack([part[metric] for part in parts], axis=-1)) for metric in parts[0]}
            for parts in zip(*classes, strict=True)
        )
    )
