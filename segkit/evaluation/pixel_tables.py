"""Tables of pixel metrics: per image and class, pooled and averaged over images, with intervals.

Two ways to get one number from many images, both given: *pooled* adds the images' counts up and then computes the
metric (every pixel counts the same); *mean* computes it per image and averages the defined values (every image counts
the same). The *foreground* is the mean over the classes 1 .. C-1. Distances and calibrations are in the same tables,
where they were measured; the background has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence, pixels
from segkit.evaluation.calibration_tables import Calibrations, CalibrationSummary
from segkit.evaluation.estimates import Estimate, Resampled, num_units, number, weights_of_set_and_samples
from segkit.evaluation.membrane_tables import MembraneReport
from segkit.evaluation.pixel_curves import PixelSweep, sweeps_of
from segkit.evaluation.pixel_summaries import MeasuredPixels, Summary, is_of, summaries_of
from segkit.evaluation.surface_tables import Surfaces, Unit

GROUP = "group"
NOT_BACKGROUND = "not background"
"""What the event is called that a pixel is of any class but the background."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class in one image: counts in pixels, metrics by the names that files give them.

    `metrics` has those of `pixels.CLASS_METRICS`, and of foreground classes those of `Surfaces.by_image` and
    `Calibrations.by_image` that were measured.
    """

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
    """One image.

    `foreground` has the metrics as means over the foreground classes for which they are defined; `calibration` those of
    the event that a pixel is not background, if they are known of it and not of each class. `attributes` is what else
    is known of the image, by name.
    """

    image: str
    group: str | None
    attributes: Mapping[str, str]
    foreground: Mapping[str, float | None]
    calibration: Mapping[str, float | None]
    pixel_error: float | None

    @property
    def dice(self) -> float | None:
        """Mean Dice of the foreground classes that the image or its prediction holds."""
        return self.foreground["dice"]


@dataclass(frozen=True, slots=True)
class PixelGroup:
    """The images of a group, or of one value of an attribute: `by` says of what, `name` which.

    There are intervals where it holds at least two of the units that the bootstrap draws.
    """

    by: str
    name: str
    num_images: int
    num_units: int
    foreground: Summary
    per_class: tuple[Summary, ...]
    pixel_error_pooled: Estimate
    pixel_error_mean: Estimate


@dataclass(frozen=True, slots=True)
class SurfaceRules:
    """How distances were measured: unit, tolerance of NSD as it was given, number of images."""

    unit: Unit
    tolerance: str
    num_images: int


@dataclass(frozen=True, slots=True)
class PixelReport(Resampled):
    """Everything measured on a set of images; made by `measure_pixels`.

    `num_defined` is how many images the mean of the pixel error is over. `surfaces` is None where no distances were
    measured; `calibrations` and `sweeps` are empty where no probabilities are known; `membranes` is None where no class
    is membrane.
    """

    classes: tuple[str, ...]
    images: tuple[ImageRow, ...]
    rows: tuple[ClassRow, ...]
    per_class: tuple[Summary, ...]
    foreground: Summary
    pixel_error_pooled: Estimate
    pixel_error_mean: Estimate
    num_defined: int
    surfaces: SurfaceRules | None
    calibrations: tuple[CalibrationSummary, ...]
    sweeps: tuple[PixelSweep, ...]
    groups: tuple[PixelGroup, ...]
    membranes: MembraneReport | None

    @property
    def headline(self) -> Estimate:
        """Dice pooled over images, mean over the foreground classes: defined unless there is no foreground at all."""
        return self.foreground.pooled["dice"]

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of what else is known of the images."""
        return tuple(self.images[0].attributes)


def measure_pixels(
    names: Sequence[str],
    confusions: NDArray[np.int64],
    classes: Sequence[str],
    *,
    surfaces: Surfaces | None = None,
    tolerance: str = "",
    calibrations: Calibrations | None = None,
    membranes: MembraneReport | None = None,
    groups: Sequence[str] | None = None,
    attributes: Mapping[str, Sequence[str]] | None = None,
    threshold: float | None = None,
    is_validation: bool = False,
    num_samples: int = confidence.NUM_SAMPLES,
    seed: int = 0,
) -> PixelReport:
    """Make the tables from what was counted in each image.

    Parameters
    ----------
    names
        Names of the N >= 1 images, all different.
    confusions
        Results of `pixels.confusion`, int64 (N, C, C).
    classes
        Names of the C >= 2 classes by index; index 0 is the background.
    surfaces, tolerance
        Distances between boundaries, of the same images, and the tolerance of NSD, with its unit.
    calibrations
        Sums of probabilities, of the same images. The event 0 is that a pixel is of any class but the background.
    membranes
        What was measured of these, which is passed on.
    groups
        The group (slide, patient) of each image. Intervals are then over groups.
    attributes
        What else is known of the images (scanner, modality), a value for each: there are rows for them as for groups,
        and intervals are what they are without.
    threshold
        The one of the probability that masks of two classes were made with; None where it is not known.
    is_validation
        Whether these are validation images, of which the best threshold is told, too.
    num_samples, seed
        Of the bootstrap. With a single image or group, intervals are None.

    Raises
    ------
    ValueError
        The lengths do not fit together, or names repeat.
    """
    names, classes = tuple(names), tuple(classes)
    labels = {} if attributes is None else {key: tuple(values) for key, values in attributes.items()}
    _require_consistent(names, confusions, classes, labels)
    weights = weights_of_set_and_samples(len(names), groups, num_samples, seed)
    measured = MeasuredPixels(confusions, surfaces, calibrations)
    units = names if groups is None else groups
    divisions = labels if groups is None else {GROUP: tuple(groups), **labels}
    events = {0: NOT_BACKGROUND, **dict(enumerate(classes[1:], start=1))}
    foreground, per_class, errors = summaries_of(measured, classes, weights)
    image_groups = [None] * len(names) if groups is None else list(groups)
    return PixelReport(
        classes=classes,
        images=_image_rows(names, image_groups, labels, measured),
        rows=_class_rows(names, image_groups, classes, measured),
        per_class=per_class,
        foreground=foreground,
        pixel_error_pooled=errors[0],
        pixel_error_mean=errors[1],
        num_defined=int((~np.isnan(pixels.pixel_error(confusions))).sum()),
        surfaces=None if surfaces is None else SurfaceRules(surfaces.unit, tolerance, surfaces.num_measured),
        calibrations=() if calibrations is None else calibrations.summaries(events, weights),
        sweeps=sweeps_of(calibrations, confusions, events, weights, used=threshold, is_validation=is_validation),
        groups=tuple(
            _group(by, value, np.array([one == value for one in values]), units, classes, measured, weights)
            for by, values in divisions.items()
            for value in sorted(set(values))
        ),
        membranes=membranes,
        unit="image" if groups is None else "group",
        num_units=num_units(len(names), groups),
        num_samples=num_samples,
        seed=seed,
    )


def dice_of_image(confusion: NDArray[np.int64]) -> float | None:
    """Return the mean Dice of the foreground classes of one image, as in `ImageRow.dice`; None where undefined."""
    return number(float(pixels.mean_over_foreground(pixels.dice(confusion))))


def _group(
    by: str,
    name: str,
    members: NDArray[np.bool_],
    units: Sequence[str],
    classes: Sequence[str],
    measured: MeasuredPixels,
    weights: NDArray[np.float64],
) -> PixelGroup:
    """Measure the images that `members` (N,) marks; `units` has what the bootstrap draws each image with."""
    num_units = len({unit for unit, is_member in zip(units, members, strict=True) if is_member})
    # The samples of a single unit are multiples of it.
    drawn = weights[:, members] if num_units > 1 else weights[:1, members]
    foreground, per_class, errors = summaries_of(measured.of(members), classes, drawn)
    return PixelGroup(by, name, int(members.sum()), num_units, foreground, per_class, *errors)


def _image_rows(
    names: Sequence[str],
    groups: Sequence[str | None],
    attributes: Mapping[str, Sequence[str]],
    measured: MeasuredPixels,
) -> tuple[ImageRow, ...]:
    errors = pixels.pixel_error(measured.confusions)
    foreground = {name: pixels.mean_over_foreground(values) for name, values in measured.by_image().items()}
    calibrations = measured.calibrations
    whole = calibrations is not None and not calibrations.events[0]
    of_event = {} if calibrations is None or not whole else calibrations.by_image()
    return tuple(
        ImageRow(
            image=name,
            group=groups[image],
            attributes={key: values[image] for key, values in attributes.items()},
            foreground={metric: number(values[image]) for metric, values in foreground.items()},
            calibration={metric: number(values[image, 0]) for metric, values in of_event.items()},
            pixel_error=number(errors[image]),
        )
        for image, name in enumerate(names)
    )


def _class_rows(
    names: Sequence[str], groups: Sequence[str | None], classes: Sequence[str], measured: MeasuredPixels
) -> tuple[ClassRow, ...]:
    by_image, confusions = measured.by_image(), measured.confusions
    counts = [
        count(confusions)
        for count in (pixels.true_positives, pixels.false_positives, pixels.false_negatives, pixels.true_negatives)
    ]
    return tuple(
        ClassRow(
            name,
            group,
            class_name,
            {metric: number(values[image, index]) for metric, values in by_image.items() if is_of(metric, index)},
            *(int(count[image, index]) for count in counts),
        )
        for image, (name, group) in enumerate(zip(names, groups, strict=True))
        for index, class_name in enumerate(classes)
    )


def _require_consistent(
    names: Sequence[str],
    confusions: NDArray[np.int64],
    classes: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"need at least one image and different names, got {names}")
    if len(classes) < 2 or confusions.shape != (len(names), len(classes), len(classes)):
        raise ValueError(f"{len(names)} names, {len(classes)} classes, confusions {confusions.shape}")
    for key, values in attributes.items():
        if len(values) != len(names) or key in {"image", GROUP}:
            raise ValueError(f"attribute {key!r} has {len(values)} values for {len(names)} images, or a name in use")
