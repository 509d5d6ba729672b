"""Tables of object metrics: per image, pooled and averaged over images, at several IoU thresholds, with intervals.

*Pooled* adds the images' counts up and then computes the metric (every object counts the same); *mean* computes it per
image and averages the defined values (every image counts the same, as in the Data Science Bowl 2018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence, objects
from segkit.evaluation.estimates import (
    Estimate,
    Resampled,
    estimate,
    mean_of_defined,
    num_units,
    number,
    ratio,
    weights_of_set_and_samples,
)
from segkit.evaluation.objects import THRESHOLDS, Overlaps, count_objects

AP = "average_precision"


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One image: counts and `metrics` (by the names of `objects.METRICS`) at the first threshold.

    `average_precisions` has a value for each threshold, `mean_average_precision` is their mean; `dice` is that of the
    pixels in any object.
    """

    image: str
    group: str | None
    tp: int
    fp: int
    fn: int
    metrics: Mapping[str, float | None]
    average_precisions: tuple[float | None, ...]
    mean_average_precision: float | None
    dice: float | None


@dataclass(frozen=True, slots=True)
class ObjectSummary:
    """All images in one number each, pooled or as means over images.

    `at` has the metrics by the names of `objects.METRICS`, an estimate for each threshold; `mean_average_precision` is
    the mean over the thresholds.
    """

    at: Mapping[str, tuple[Estimate, ...]]
    mean_average_precision: Estimate
    dice: Estimate


@dataclass(frozen=True, slots=True)
class ObjectReport(Resampled):
    """Everything measured on a set of images; made by `measure_objects`.

    `num_true` and `num_predicted` are numbers of objects, of the class `name`, in all images.
    """

    name: str
    thresholds: tuple[float, ...]
    num_true: int
    num_predicted: int
    images: tuple[ObjectRow, ...]
    pooled: ObjectSummary
    mean: ObjectSummary

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
    num_samples, seed
        Of the bootstrap. With a single image or group, intervals are None.

    Raises
    ------
    ValueError
        The lengths do not fit together, or names repeat.
    """
    if not names or len(set(names)) < len(names):
        raise ValueError(f"need at least one image and different names, got {tuple(names)}")
    if len(overlaps) != len(names) or not thresholds:
        raise ValueError(f"{len(names)} names, {len(overlaps)} overlaps, {len(thresholds)} thresholds")
    weights = weights_of_set_and_samples(len(names), groups, num_samples, seed)
    counts = np.stack([count_objects(one, thresholds) for one in overlaps])
    by_image = {metric: of(counts) for metric, of in objects.METRICS.items()}
    sums = confidence.pooled_over_images(counts, weights)
    pixels = np.array(
        [[one.intersections.sum(), one.true_areas.sum(), one.predicted_areas.sum()] for one in overlaps], np.float64
    )
    return ObjectReport(
        name=name,
        thresholds=tuple(thresholds),
        num_true=sum(len(one.true_areas) for one in overlaps),
        num_predicted=sum(len(one.predicted_areas) for one in overlaps),
        images=_rows(names, groups, counts, by_image, _dice(pixels)),
        pooled=_summary(
            {metric: of(sums) for metric, of in objects.METRICS.items()},
            _dice(confidence.pooled_over_images(pixels, weights)),
        ),
        mean=_summary(
            {metric: confidence.mean_over_images(values, weights) for metric, values in by_image.items()},
            confidence.mean_over_images(_dice(pixels), weights),
        ),
        unit="image" if groups is None else "group",
        num_units=num_units(len(names), groups),
        num_samples=num_samples,
        seed=seed,
    )


def _summary(values: Mapping[str, NDArray[np.float64]], dice: NDArray[np.float64]) -> ObjectSummary:
    """Return estimates of values (1 + B, T) and of Dice (1 + B,), the set first and then its bootstrap samples."""
    return ObjectSummary(
        at={metric: tuple(estimate(column) for column in samples.T) for metric, samples in values.items()},
        mean_average_precision=estimate(mean_of_defined(values[AP])),
        dice=estimate(dice),
    )


def _dice(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Dice of (..., 3): pixels in both, in true and in predicted objects."""
    return ratio(2 * pixels[..., 0], pixels[..., 1] + pixels[..., 2])


def _rows(
    names: Sequence[str],
    groups: Sequence[str] | None,
    counts: NDArray[np.float64],
    by_image: Mapping[str, NDArray[np.float64]],
    dice: NDArray[np.float64],
) -> tuple[ObjectRow, ...]:
    mean_of_image = mean_of_defined(by_image[AP])
    return tuple(
        ObjectRow(
            image=name,
            group=None if groups is None else groups[image],
            tp=int(counts[image, 0, 0]),
            fp=int(counts[image, 0, 1]),
            fn=int(counts[image, 0, 2]),
            metrics={metric: number(values[image, 0]) for metric, values in by_image.items()},
            average_precisions=tuple(number(value) for value in by_image[AP][image]),
            mean_average_precision=number(mean_of_image[image]),
            dice=number(dice[image]),
        )
        for image, name in enumerate(names)
    )
