"""Bootstrap intervals over images: how much would a number move with other images of the same kind?

Images, not pixels, are drawn, as the pixels of an image depend on one another; where images belong to groups (slides,
patients), whole groups are drawn. A sample is a row of *weights*: how often each image is in it. Statistics of
all samples are then matrix products, and two runs that are compared use the same weights.

Percentile intervals: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13. With few images
(fewer than about 20) they are too narrow: they know no image but the ones given.
"""

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

NUM_SAMPLES = 1000
"""Default number of bootstrap samples."""

LEVEL = 0.95
"""Confidence level of every interval."""

DEFINITIONS = MappingProxyType(
    {
        "intervals": f"{LEVEL:.0%} percentile bootstrap: images, or whole groups where images have groups, are drawn "
        "with replacement, as many as there are; the ends are quantiles of the metric over such samples; samples in "
        "which the metric is undefined are left out, and where more than half are, or with a single image or group, "
        "there is no interval",
    }
)


def resample(
    num_images: int, *, groups: Sequence[str] | None = None, num_samples: int = NUM_SAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Draw bootstrap samples of images, or of whole groups of images, with replacement.

    Parameters
    ----------
    num_images
        N >= 1.
    groups
        The group of each image (length N); images of a group are drawn together. None: each image by itself.
    num_samples
        B >= 1.
    seed
        The same seed gives the same samples.

    Returns
    -------
    float64 (B, N): how often image n is in sample b.
    """
    if num_images < 1 or num_samples < 1:
        raise ValueError(f"need at least one image and one sample, got {num_images} and {num_samples}")
    if groups is not None and len(groups) != num_images:
        raise ValueError(f"{len(groups)} groups for {num_images} images")
    unit_of_image = np.arange(num_images) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    num_units = int(unit_of_image.max()) + 1
    drawn = np.random.default_rng(seed).integers(0, num_units, (num_samples, num_units))
    drawn += np.arange(num_samples)[:, np.newaxis] * num_units
    weights = np.bincount(drawn.ravel(), minlength=num_samples * num_units).reshape(num_samples, num_units)
    return weights[:, unit_of_image].astype(np.float64)


def pooled_over_images(counts: NDArray[np.generic], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add the images' counts (confusion matrices) up: (N, ...) and weights (B, N) -> float64 (B, ...)."""
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    sums: NDArray[np.float64] = weights @ flat
    return sums.reshape(len(weights), *counts.shape[1:])


def mean_over_images(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the images' values, NaN left out: (N, ...) and weights (B, N) -> (B, ...); NaN where none is left."""
    defined = ~np.isnan(values)
    total = pooled_over_images(np.where(defined, values, 0.0), weights)
    num_defined = pooled_over_images(defined, weights)
    means = np.full(total.shape, np.nan)
    np.divide(total, num_defined, out=means, where=num_defined > 0)
    return means


def interval(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the percentile interval at `LEVEL` of a statistic's bootstrap samples.

    Parameters
    ----------
    samples
        Values of the statistic, float64 (B, ...); NaN where a sample leaves it undefined.

    Returns
    -------
    float64 (2, ...): lower and upper end (linear interpolation between order statistics). Undefined samples are
    left out; NaN where more than half are undefined.
    """
    tail = (1 - LEVEL) / 2
    flat = samples.reshape(len(samples), -1)
    ends = np.full((2, flat.shape[1]), np.nan)
    for column, values in enumerate(flat.T):
        defined = values[~np.isnan(values)]
        if 2 * len(defined) >= len(values):
            ends[:, column] = np.quantile(defined, (tail, 1 - tail))
    return ends.reshape(2, *samples.shape[1:])
