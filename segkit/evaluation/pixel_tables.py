"""Tables of pixel metrics: per image and class, pooled and averaged over images, with intervals.

Two ways to get one number from many images, both given: *pooled* adds the images' confusion matrices up and then
computes the metric (every pixel counts the same); *mean* computes it per image and averages the defined values
(every image counts the same). The *foreground* is the mean over the classes 1 .. C-1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence, pixels
from segkit.evaluation.estimates import (
    Estimate,
    Resampled,
    estimate,
    num_units,
    number,
    weights_of_set_and_samples,
)


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class in one image: counts in pixels, metrics by the names of `pixels.CLASS_METRICS`."""

    image: str
    group: str | None
    name: str
    metrics: Mapping[str, float | None]
    tp_px: int
    fp_px: int
    fn_px: int
    tn_px: int


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image: mean Dice of the foreground classes that it or its prediction holds, and pixel error."""

    image: str
    group: str | None
    dice: float | None
    pixel_error: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """All images, for one class or for the foreground: metrics by name, pooled and as means over images.

    `num_images` counts the images whose truth holds the class (any foreground class).
    """

    name: str
    num_images: int
    pooled: Mapping[str, Estimate]
    mean: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class PixelReport(Resampled):
    """Everything measured on a set of images; made by `measure_pixels`."""

    classes: tuple[str, ...]
    images: tuple[ImageRow, ...]
    rows: tuple[ClassRow, ...]
    per_class: tuple[Summary, ...]
    foreground: Summary
    pixel_error_pooled: Estimate
    pixel_error_mean: Estimate

    @property
    def headline(self) -> Estimate:
        """Dice pooled over images, mean over the foreground classes: defined unless there is no foreground at all."""
        return self.foreground.pooled["dice"]


def measure_pixels(
    names: Sequence[str],
    confusions: NDArray[np.int64],
    classes: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    num_samples: int = confidence.NUM_SAMPLES,
    seed: int = 0,
) -> PixelReport:
    """Make the tables from one confusion matrix per image.

    Parameters
    ----------
    names
        Names of the N >= 1 images, all different.
    confusions
        Results of `pixels.confusion`, int64 (N, C, C).
    classes
        Names of the C >= 2 classes by index; index 0 is the background.
    groups
        The group (slide, patient) of each image. Intervals are then over groups.
    num_samples, seed
        Of the bootstrap. With a single image or group, intervals are None.

    Raises
    ------
    ValueError
        The lengths do not fit together, or names repeat.
    """
    names, classes = tuple(names), tuple(classes)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"need at least one image and different names, got {names}")
    if len(classes) < 2 or confusions.shape != (len(names), len(classes), len(classes)):
        raise ValueError(f"{len(names)} names, {len(classes)} classes, confusions {confusions.shape}")
    weights = weights_of_set_and_samples(len(names), groups, num_samples, seed)
    sums = confidence.pooled_over_images(confusions, weights)
    by_image = {name: metric(confusions) for name, metric in pixels.CLASS_METRICS.items()}
    pooled = {name: metric(sums) for name, metric in pixels.CLASS_METRICS.items()}
    mean = {name: confidence.mean_over_images(values, weights) for name, values in by_image.items()}
    errors = pixels.pixel_error(confusions)
    holds = confusions.sum(axis=2) > 0
    image_groups = [None] * len(names) if groups is None else list(groups)
    return PixelReport(
        classes=classes,
        images=_image_rows(names, image_groups, pixels.mean_over_foreground(by_image["dice"]), errors),
        rows=_class_rows(names, image_groups, classes, confusions, by_image),
        per_class=tuple(
            Summary(
                name=class_name,
                num_images=int(holds[:, index].sum()),
                pooled={metric: estimate(values[:, index]) for metric, values in pooled.items()},
                mean={metric: estimate(values[:, index]) for metric, values in mean.items()},
            )
            for index, class_name in enumerate(classes)
        ),
        foreground=Summary(
            name="foreground",
            num_images=int(holds[:, 1:].any(axis=1).sum()),
            pooled={metric: _foreground_estimate(values) for metric, values in pooled.items()},
            mean={metric: _foreground_estimate(values) for metric, values in mean.items()},
        ),
        pixel_error_pooled=estimate(pixels.pixel_error(sums)),
        pixel_error_mean=estimate(confidence.mean_over_images(errors, weights)),
        unit="image" if groups is None else "group",
        num_units=num_units(len(names), groups),
        num_samples=num_samples,
        seed=seed,
    )


def dice_of_image(confusion: NDArray[np.int64]) -> float | None:
    """Return the mean Dice of the foreground classes of one image, as in `ImageRow.dice`; None where undefined."""
    return number(float(pixels.mean_over_foreground(pixels.dice(confusion))))


def _image_rows(
    names: Sequence[str],
    groups: Sequence[str | None],
    dice: NDArray[np.float64],
    errors: NDArray[np.float64],
) -> tuple[ImageRow, ...]:
    return tuple(
        ImageRow(name, group, number(value), number(error))
        for name, group, value, error in zip(names, groups, dice, errors, strict=True)
    )


def _class_rows(
    names: Sequence[str],
    groups: Sequence[str | None],
    classes: Sequence[str],
    confusions: NDArray[np.int64],
    by_image: Mapping[str, NDArray[np.float64]],
) -> tuple[ClassRow, ...]:
    counts = [
        count(confusions)
        for count in (pixels.true_positives, pixels.false_positives, pixels.false_negatives, pixels.true_negatives)
    ]
    return tuple(
        ClassRow(
            name,
            group,
            class_name,
            {metric: number(values[image, index]) for metric, values in by_image.items()},
            *(int(count[image, index]) for count in counts),
        )
        for image, (name, group) in enumerate(zip(names, groups, strict=True))
        for index, class_name in enumerate(classes)
    )


def _foreground_estimate(values: NDArray[np.float64]) -> Estimate:
    return estimate(pixels.mean_over_foreground(values))
