"""Evaluations of the same images against each other: the difference of every metric, by a paired bootstrap.

Two evaluations of the same images share what makes an image easy or hard, so the interval of their difference is
narrower than the two intervals let expect: it cannot be read from these. Every bootstrap sample draws images (or whole
groups of them) once, computes the metric of each evaluation on the images drawn, and takes the difference (Efron and
Tibshirani 1993, An Introduction to the Bootstrap, sections 8.3 and 13.3).

The share of samples in which an evaluation is better says how sure its lead is with other images of the same kind. It
is no p-value: nothing is computed under the hypothesis that there is no difference, and what the trainings' own chance
(the seed) does to a model is not in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

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

Better = Literal["higher", "lower"]
How = Literal["pooled", "mean"]

DEFINITIONS: Final = MappingProxyType(
    {
        "difference": "the metric of an evaluation minus that of the first one, on the same images",
        "interval_of_difference": "percentile interval of the difference over bootstrap samples; in each sample all "
        "evaluations are measured on the same images (groups), drawn once (paired)",
        "share_better": "share of the bootstrap samples in which the evaluation is better than the first one; equal "
        "ones count for neither. No p-value: nothing is computed under the hypothesis of no difference, and a "
        "training with another seed is not in it",
        "share_worse": "share of the bootstrap samples in which it is worse",
        "pooled": "counts added up over images, then the metric",
        "mean": "the metric per image, then the mean of the defined values, of each evaluation by itself: where one is "
        "undefined for an image, the other still counts it",
        "foreground": "mean over all classes but the first, the background, for which the metric is defined",
        "largest_difference": "of an image: the largest difference between two of its values; an undefined value "
        "counts as 1 there, as nothing was to be found and nothing was found",
    }
)
"""What files say about what is computed here, beside the definitions of the metrics."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Metric:
    """A metric of K evaluations on the same N images, as it is needed for resampling them.

    Attributes
    ----------
    name, of
        By the name that files give it, and what it is of: a class, or the foreground, a threshold.
    better
        Which values are; None where neither is.
    values
        Per image, float64 (K, N, C), of each of C classes or thresholds, over which the mean is taken at the end; NaN
        where undefined.
    counts
        What adds up over images, (K, N, C, P), None where the metric cannot be pooled.
    of_counts
        The metric of counts, (..., P) -> (...), NaN where undefined.
    """

    name: str
    of: str
    better: Better | None
    values: NDArray[np.float64]
    counts: NDArray[np.generic] | None = None
    of_counts: Callable[[NDArray[np.generic]], NDArray[np.float64]] | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """An evaluation's metric minus that of the first; shares of the samples in which it is better or worse, or None."""

    estimate: Estimate
    share_better: float | None
    share_worse: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedMetric:
    """A metric of all images: a value of each of K evaluations, and the K - 1 differences to the first of them."""

    name: str
    of: str
    how: How
    better: Better | None
    values: tuple[Estimate, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class ComparedImage:
    """One image: the headline metric of each of K evaluations, None where undefined, and how far these lie apart."""

    image: str
    group: str | None
    values: tuple[float | None, ...]
    largest_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Resampled):
    """Everything compared; made by `compare_metrics`.

    `kind` is what was measured (pixels, objects, points), `labels` are the names of the K evaluations, `images` have
    those with the largest difference first.
    """

    kind: str
    labels: tuple[str, ...]
    metrics: tuple[ComparedMetric, ...]
    images: tuple[ComparedImage, ...]

    @property
    def headline(self) -> ComparedMetric:
        """The first metric."""
        return self.metrics[0]


def compare_metrics(
    kind: str,
    labels: Sequence[str],
    names: Sequence[str],
    metrics: Sequence[Metric],
    *,
    groups: Sequence[str] | None = None,
    num_samples: int = confidence.NUM_SAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare K >= 2 evaluations of the same N >= 1 images.

    Parameters
    ----------
    kind
        What was measured.
    labels, names
        Of the evaluations and of the images, all different.
    metrics
        At least one; the first is the headline, by which images are ordered.
    groups
        The group (slide, patient) of each image; intervals are then over groups.
    num_samples, seed
        Of the bootstrap. With a single image or group there are no intervals and no shares.

    Raises
    ------
    ValueError
        The lengths do not fit together, or names repeat.
    """
    num_evaluations, num_images = len(labels), len(names)
    if num_evaluations < 2 or not num_images or not metrics:
        raise ValueError(f"{num_evaluations} evaluations, {num_images} images, {len(metrics)} metrics")
    if len(set(labels)) < num_evaluations or len(set(names)) < num_images:
        raise ValueError(f"names repeat: {tuple(labels)}, {tuple(names)}")
    for metric in metrics:
        for array in (metric.values, metric.counts):
            if array is not None and array.shape[:2] != (num_evaluations, num_images):
                raise ValueError(
                    f"{metric.name}: {array.shape}, and {num_evaluations} evaluations, {num_images} images"
                )
    weights = weights_of_set_and_samples(num_images, groups, num_samples, seed)
    compared = []
    for metric in metrics:
        if metric.counts is not None:
            compared.append(_compared(metric, "pooled", _pooled(metric, weights)))
        compared.append(_compared(metric, "mean", _means(metric, weights)))
    return Comparison(
        kind=kind,
        labels=tuple(labels),
        metrics=tuple(compared),
        images=_images(names, groups, metrics[0]),
        unit="image" if groups is None else "group",
        num_units=num_units(num_images, groups),
        num_samples=num_samples,
        seed=seed,
    )


def _pooled(metric: Metric, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the metric of the set and of each sample, pooled: float64 (K, 1 + B)."""
    assert metric.counts is not None
    assert metric.of_counts is not None
    sums = (confidence.pooled_over_images(counts, weights) for counts in metric.counts)
    return np.stack([mean_of_defined(metric.of_counts(one)) for one in sums])


def _means(metric: Metric, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the images of the set and of each sample: float64 (K, 1 + B)."""
    return np.stack([mean_of_defined(confidence.mean_over_images(values, weights)) for values in metric.values])


def _compared(metric: Metric, how: How, samples: NDArray[np.float64]) -> ComparedMetric:
    """Return what files say of samples (K, 1 + B), the set's own value first."""
    return ComparedMetric(
        name=metric.name,
        of=metric.of,
        how=how,
        better=metric.better,
        values=tuple(estimate(one) for one in samples),
        differences=tuple(_difference(one - samples[0], metric.better) for one in samples[1:]),
    )


def _difference(differences: NDArray[np.float64], better: Better | None) -> Difference:
    drawn = differences[1:][~np.isnan(differences[1:])]
    if better is None or not len(drawn):
        return Difference(estimate(differences), None, None)
    gains = drawn if better == "higher" else -drawn
    return Difference(estimate(differences), number(np.mean(gains > 0)), number(np.mean(gains < 0)))


def _images(names: Sequence[str], groups: Sequence[str] | None, metric: Metric) -> tuple[ComparedImage, ...]:
    per_image = mean_of_defined(metric.values).T
    spread = np.ptp(np.where(np.isnan(per_image), 1.0, per_image), axis=1)
    rows = [
        ComparedImage(
            name, None if groups is None else groups[place], tuple(map(number, per_image[place])), float(spread[place])
        )
        for place, name in enumerate(names)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.largest_difference, row.image)))
