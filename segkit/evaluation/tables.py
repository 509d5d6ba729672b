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


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with the ends of its 95 % bootstrap interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return format_value(self.value)
        return f"{format_value(self.value)} ({self.low:.3f} to {self.high:.3f})"


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
class PixelReport:
    """Everything measured on a set of images; made by `measure_pixels`.

    Intervals are over `num_units` units; `unit` is `image` or `group`.
    """

    classes: tuple[str, ...]
    images: tuple[ImageRow, ...]
    rows: tuple[ClassRow, ...]
    per_class: tuple[Summary, ...]
    foreground: Summary
    pixel_error_pooled: Estimate
    pixel_error_mean: Estimate
    unit: str
    num_units: int
    num_samples: int
    seed: int

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
    num_units = len(names) if groups is None else len(set(groups))
    drawn = confidence.resample(len(names), groups=groups, num_samples=num_samples, seed=seed)
    # The first row is the set as it is: estimates and bootstrap samples take the same way.
    weights = np.vstack([np.ones((1, len(names))), drawn if num_units > 1 else drawn[:0]])
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
                pooled={metric: _estimate(values[:, index]) for metric, values in pooled.items()},
                mean={metric: _estimate(values[:, index]) for metric, values in mean.items()},
            )
            for index, class_name in enumerate(classes)
        ),
        foreground=Summary(
            name="foreground",
            num_images=int(holds[:, 1:].any(axis=1).sum()),
            pooled={metric: _foreground_estimate(values) for metric, values in pooled.items()},
            mean={metric: _foreground_estimate(values) for metric, values in mean.items()},
        ),
        pixel_error_pooled=_estimate(pixels.pixel_error(sums)),
        pixel_error_mean=_estimate(confidence.mean_over_images(errors, weights)),
        unit="image" if groups is None else "group",
        num_units=num_units,
        num_samples=num_samples,
        seed=seed,
    )


def dice_of_image(confusion: NDArray[np.int64]) -> float | None:
    """Return the mean Dice of the foreground classes of one image, as in `ImageRow.dice`; None where undefined."""
    return _number(float(pixels.mean_over_foreground(pixels.dice(confusion))))


def format_value(value: float | None) -> str:
    """Return a metric for people, with 3 digits behind the point."""
    return "undefined" if value is None else f"{value:.3f}"


def _image_rows(
    names: Sequence[str],
    groups: Sequence[str | None],
    dice: NDArray[np.float64],
    errors: NDArray[np.float64],
) -> tuple[ImageRow, ...]:
    return tuple(
        ImageRow(name, group, _number(value), _number(error))
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
            {metric: _number(values[image, index]) for metric, values in by_image.items()},
            *(int(count[image, index]) for count in counts),
        )
        for image, (name, group) in enumerate(zip(names, groups, strict=True))
        for index, class_name in enumerate(classes)
    )


def _estimate(values: NDArray[np.float64]) -> Estimate:
    """Return the first value with the interval of the others, its bootstrap samples (if any)."""
    low, high = confidence.interval(values[1:]) if len(values) > 1 else (np.nan, np.nan)
    return Estimate(_number(values[0]), _number(low), _number(high))


def _foreground_estimate(values: NDArray[np.float64]) -> Estimate:
    return _estimate(pixels.mean_over_foreground(values))


def _number(value: float | np.floating) -> float | None:
    """Return a plain float with 6 digits behind the point, enough for any table; None for NaN."""
    return None if np.isnan(value) else round(float(value), 6)
