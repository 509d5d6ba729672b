"""Calibration of many images: what is kept of each, and the metrics of all of them.

*Pooled* adds the bins of the images up and then computes the metric (every pixel counts the same); *mean* computes it
per image and averages. An image's own error is greater than that of all together where images err in opposite ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import calibration, confidence
from segkit.evaluation.calibration import NUM_BINS, Calibration, no_calibration
from segkit.evaluation.estimates import Estimate, estimate, number, ratio

METRICS: Final = ("ece", "mce", "brier")
"""By the names that files give them."""

_PIXELS, _TRUE, _PROBABILITY = range(3)


@dataclass(frozen=True, slots=True)
class Bin:
    """Pixels with a probability above `low` and at most `high`; undefined values are None."""

    low: float
    high: float
    pixels: int
    mean_probability: float | None
    share: float | None


@dataclass(frozen=True, slots=True)
class CalibrationSummary:
    """Of one event, that a pixel is of the class `name` (or of any but the background): metrics and curve.

    `num_images` counts those whose probabilities are known.
    """

    name: str
    num_images: int
    pooled: Mapping[str, Estimate]
    mean: Mapping[str, Estimate]
    curve: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Calibrations:
    """The sums of N images for E events.

    Attributes
    ----------
    events
        Class index of each event.
    bins
        float64 (N, E, K, 3): pixels in each bin, those that came true, the sum of their probabilities; 0 for images
        whose probabilities are not known.
    squared_errors
        float64 (N, E).
    levels
        int64 (N, E, 2, 256): pixels at each level where the event did not and did come true; None where some
        probabilities are not of uint8.
    """

    events: tuple[int, ...]
    bins: NDArray[np.float64]
    squared_errors: NDArray[np.float64]
    levels: NDArray[np.int64] | None

    def of(self, members: NDArray[np.bool_]) -> "Calibrations":
        """Return the sums of some of the images, which `members` (N,) marks."""
        levels = None if self.levels is None else self.levels[members]
        return replace(self, bins=self.bins[members], squared_errors=self.squared_errors[members], levels=levels)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether the probabilities of each image and event are known, bool (N, E)."""
        known: NDArray[np.bool_] = self.bins[..., _PIXELS].sum(axis=-1) > 0
        return known

    def by_image(self) -> dict[str, NDArray[np.float64]]:
        """Return the metrics of each image and event, float64 (N, E); NaN where no probabilities are known."""
        return _metrics(self.bins, self.squared_errors)

    def pooled(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the metrics of all images together, for weights (B, N): float64 (B, E)."""
        return _metrics(
            confidence.pooled_over_images(self.bins, weights),
            confidence.pooled_over_images(self.squared_errors, weights),
        )

    def summaries(self, names: Mapping[int, str], weights: NDArray[np.float64]) -> tuple[CalibrationSummary, ...]:
        """Return the metrics and curve of each event; `names` are theirs by class index, `weights` (1 + B, N)."""
        by_image, pooled = self.by_image(), self.pooled(weights)
        mean = {metric: confidence.mean_over_images(values, weights) for metric, values in by_image.items()}
        return tuple(
            CalibrationSummary(
                name=names[event],
                num_images=int(self.known[:, place].sum()),
                pooled={metric: estimate(values[:, place]) for metric, values in pooled.items()},
                mean={metric: estimate(values[:, place]) for metric, values in mean.items()},
                curve=_curve(self.bins[:, place].sum(axis=0)),
            )
            for place, event in enumerate(self.events)
        )


def stack_calibrations(images: Sequence[Mapping[int, Calibration]]) -> Calibrations | None:
    """Return the sums of N images as one, None where there are none of any image.

    An event that an image has no sums of has no pixels there.
    """
    events = tuple(sorted({event for image in images for event in image}))
    if not events:
        return None
    nothing = no_calibration(NUM_BINS)
    sums = [[image.get(event, nothing) for event in events] for image in images]
    return Calibrations(
        events,
        np.array(
            [
                [np.stack([one.pixels, one.came_true, one.probability], axis=-1) for one in of_image]
                for of_image in sums
            ],
            np.float64,
        ),
        np.array([[one.squared_error for one in of_image] for of_image in sums], np.float64),
        _levels(sums),
    )


def _levels(sums: Sequence[Sequence[Calibration]]) -> NDArray[np.int64] | None:
    levels = [[one.levels for one in of_image if one.levels is not None] for of_image in sums]
    return np.array(levels, np.int64) if sum(map(len, levels)) == sum(map(len, sums)) else None


def _metrics(bins: NDArray[np.float64], squared_errors: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute every metric from sums (..., K, 3) and (...), as the functions of `calibration` do it for one sum."""
    gaps = np.abs(bins[..., _TRUE] - bins[..., _PROBABILITY])
    pixels = bins[..., _PIXELS]
    total = pixels.sum(axis=-1)
    greatest = np.nan_to_num(ratio(gaps, pixels)).max(axis=-1)
    return {
        "ece": ratio(gaps.sum(axis=-1), total),
        "mce": np.where(total > 0, greatest, np.nan),
        "brier": ratio(squared_errors, total),
    }


def _curve(bins: NDArray[np.float64]) -> tuple[Bin, ...]:
    pixels = bins[:, _PIXELS]
    means, shares = ratio(bins[:, _PROBABILITY], pixels), ratio(bins[:, _TRUE], pixels)
    edges = [round(index / len(bins), 6) for index in range(len(bins) + 1)]
    return tuple(
        Bin(edges[place], edges[place + 1], int(pixels[place]), number(means[place]), number(shares[place]))
        for place in range(len(bins))
    )


DEFINITIONS: Final = MappingProxyType(
    {name: text for name, text in calibration.DEFINITIONS.items() if name != "calibration_of_top_label"}
)
"""What files say about each metric."""
