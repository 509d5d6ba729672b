"""What was counted in images, as metrics by class: of each image, pooled, and as means over images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence, pixels
from segkit.evaluation.calibration_tables import Calibrations
from segkit.evaluation.estimates import Estimate, estimate
from segkit.evaluation.surface_tables import Surfaces


@dataclass(frozen=True, slots=True)
class Summary:
    """All images, for one class or for the foreground: metrics by name, pooled and as means over images.

    `num_images` counts the images whose truth holds the class (any foreground class). HD and HD95 are never pooled.
    `num_defined` counts those that each mean is over: where the metric is defined (for any foreground class).
    `num_diagonals` counts those where only one of truth and prediction holds the class (any foreground class), so that
    the image's diagonal stands for distances in these means; None where no distances were measured.
    """

    name: str
    num_images: int
    pooled: Mapping[str, Estimate]
    mean: Mapping[str, Estimate]
    num_defined: Mapping[str, int]
    num_diagonals: int | None


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPixels:
    """What was counted in N images."""

    confusions: NDArray[np.int64]
    surfaces: Surfaces | None
    calibrations: Calibrations | None

    def of(self, members: NDArray[np.bool_]) -> "MeasuredPixels":
        """Return what was counted in those that `members` (N,) marks."""
        return MeasuredPixels(
            self.confusions[members],
            None if self.surfaces is None else self.surfaces.of(members),
            None if self.calibrations is None else self.calibrations.of(members),
        )

    def by_image(self) -> dict[str, NDArray[np.float64]]:
        """Return the metrics of each image and class, float64 (N, C), NaN where undefined."""
        values = {name: metric(self.confusions) for name, metric in pixels.CLASS_METRICS.items()}
        if self.surfaces is not None:
            values |= {name: self._placed(one, self._foreground) for name, one in self.surfaces.by_image().items()}
        if self.calibrations is not None and self.has_calibrated_classes:
            events = self.calibrations.events
            values |= {name: self._placed(one, events) for name, one in self.calibrations.by_image().items()}
        return values

    def pooled(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return those of all images together, float64 (B, C), for weights (B, N)."""
        sums = confidence.pooled_over_images(self.confusions, weights)
        values = {name: metric(sums) for name, metric in pixels.CLASS_METRICS.items()}
        if self.surfaces is not None:
            values |= {name: self._placed(one, self._foreground) for name, one in self.surfaces.pooled(weights).items()}
        if self.calibrations is not None and self.has_calibrated_classes:
            events = self.calibrations.events
            values |= {name: self._placed(one, events) for name, one in self.calibrations.pooled(weights).items()}
        return values

    @property
    def has_calibrated_classes(self) -> bool:
        """Whether the probabilities of classes are known, and not only that of not being background."""
        return self.calibrations is not None and any(self.calibrations.events)

    @property
    def _foreground(self) -> tuple[int, ...]:
        return tuple(range(1, self.confusions.shape[-1]))

    def _placed(self, values: NDArray[np.float64], classes: Sequence[int]) -> NDArray[np.float64]:
        """Return values (..., E) of some classes in the columns of these, (..., C); NaN in the others."""
        placed = np.full((*values.shape[:-1], self.confusions.shape[-1]), np.nan)
        placed[..., list(classes)] = values
        return placed


def summaries_of(
    measured: MeasuredPixels, classes: Sequence[str], weights: NDArray[np.float64]
) -> tuple[Summary, tuple[Summary, ...], tuple[Estimate, Estimate]]:
    """Return the summary of the foreground, those of all classes, and the pixel error pooled and as a mean."""
    pooled, by_image = measured.pooled(weights), measured.by_image()
    mean = {metric: confidence.mean_over_images(values, weights) for metric, values in by_image.items()}
    defined = {metric: ~np.isnan(values) for metric, values in by_image.items()}
    holds = measured.confusions.sum(axis=2) > 0
    one_empty = None if measured.surfaces is None else measured.surfaces.one_empty
    per_class = tuple(
        Summary(
            name=name,
            num_images=int(holds[:, index].sum()),
            pooled={metric: estimate(values[:, index]) for metric, values in pooled.items() if is_of(metric, index)},
            mean={metric: estimate(values[:, index]) for metric, values in mean.items() if is_of(metric, index)},
            num_defined={
                metric: int(which[:, index].sum()) for metric, which in defined.items() if is_of(metric, index)
            },
            num_diagonals=None if one_empty is None or not index else int(one_empty[:, index - 1].sum()),
        )
        for index, name in enumerate(classes)
    )
    foreground = Summary(
        name="foreground",
        num_images=int(holds[:, 1:].any(axis=1).sum()),
        pooled={metric: estimate(pixels.mean_over_foreground(values)) for metric, values in pooled.items()},
        mean={metric: estimate(pixels.mean_over_foreground(values)) for metric, values in mean.items()},
        num_defined={metric: int(which[:, 1:].any(axis=1).sum()) for metric, which in defined.items()},
        num_diagonals=None if one_empty is None else int(one_empty.any(axis=1).sum()),
    )
    errors = pixels.pixel_error(measured.confusions)
    sums = confidence.pooled_over_images(measured.confusions, weights)
    return (
        foreground,
        per_class,
        (estimate(pixels.pixel_error(sums)), estimate(confidence.mean_over_images(errors, weights))),
    )


def is_of(metric: str, index: int) -> bool:
    """Tell whether a class has a metric: of the background there are no boundaries and no probabilities."""
    return index > 0 or metric in pixels.CLASS_METRICS
