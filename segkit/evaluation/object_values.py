"""Object metrics of images and of sets of them, from what was counted in each image."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence, object_totals, objects


class Measured(NamedTuple):
    """Counts of each image at each threshold, (N, T, 4), its totals, (N, 9), and `object_densities.sums_of` it, (N, 5).

    All float64; `has_mpp` says whether the latter are in um2.
    """

    counts: NDArray[np.float64]
    totals: NDArray[np.float64]
    sums: NDArray[np.float64]
    has_mpp: bool


class Values(NamedTuple):
    """Metrics by name in the set, first, and in its samples: at each threshold (1 + B, T), and overall (1 + B,)."""

    at: dict[str, NDArray[np.float64]]
    overall: dict[str, NDArray[np.float64]]


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
