"""Numbers that may be undefined, and numbers with an interval: what every report is made of.

A ratio whose denominator is 0 is undefined: NaN in arrays, None in reports, null or an empty cell in files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with the ends of its 95 % bootstrap interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return self.in_words()

    def in_words(self, digits: int = 3) -> str:
        """Return the number and its interval with so many digits behind the point."""
        if self.low is None or self.high is None:
            return format_value(self.value, digits)
        low, high = format_value(self.low, digits), format_value(self.high, digits)
        return f"{format_value(self.value, digits)} ({low} to {high})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """How the intervals of a report were made: over `num_units` units; `unit` is `image` or `group`."""

    unit: str
    num_units: int
    num_samples: int
    seed: int

    def intervals_in_words(self) -> str:
        """Return a sentence about the intervals."""
        if self.num_units < 2:
            return f"No intervals: they need at least two {self.unit}s."
        return (
            f"In brackets: {confidence.LEVEL:.0%} intervals, percentile bootstrap over {self.num_units} "
            f"{self.unit}s, {self.num_samples} samples, seed {self.seed}."
        )

    def intervals_as_json(self) -> dict[str, Any]:
        """Return the same for machines."""
        return {
            "method": "percentile bootstrap",
            "level": confidence.LEVEL,
            "samples": self.num_samples,
            "seed": self.seed,
            "over": self.unit,
            "num_units": self.num_units,
        }


def weights_of_set_and_samples(
    num_images: int, groups: Sequence[str] | None, num_samples: int, seed: int
) -> NDArray[np.float64]:
    """Return how often each image is in the set itself (once) and in each of its bootstrap samples.

    Estimates and samples can so take the same way. A single image or group has no samples.

    Returns
    -------
    float64 (1 + B, N) or (1, N): the set first, then the rows of `confidence.resample`.
    """
    drawn = confidence.resample(num_images, groups=groups, num_samples=num_samples, seed=seed)
    return np.vstack([np.ones((1, num_images)), drawn if num_units(num_images, groups) > 1 else drawn[:0]])


def num_units(num_images: int, groups: Sequence[str] | None) -> int:
    """Return the number of things that the bootstrap draws: groups, or images where there are none."""
    return num_images if groups is None else len(set(groups))


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Return the first value, the set's, with the interval of the others, its bootstrap samples (if any)."""
    low, high = confidence.interval(values[1:]) if len(values) > 1 else (np.nan, np.nan)
    return Estimate(number(values[0]), number(low), number(high))


def number(value: float | np.floating) -> float | None:
    """Return a plain float with 6 digits behind the point, enough for any table; None for NaN."""
    return None if np.isnan(value) else round(float(value), 6) + 0.0  # no -0.0


def format_value(value: float | None, digits: int = 3) -> str:
    """Return a metric for people, with so many digits behind the point."""
    # Rounded first and 0 added, so that a number just below 0 is no -0.000.
    return "undefined" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide arrays of one shape; NaN where the denominator is 0."""
    quotient = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the last axis, NaN left out: (..., C) -> (...); NaN where none is left."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))
