"""What a chart shows, and its axes: where ticks are and where a value lies.

A value that is not finite is undefined: lines have a gap there, bars are missing.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.report.page.number import Number, briefly

MAX_POINTS: Final = 500
"""Longer lines are thinned evenly: a chart has no room for more."""

_STEPS: Final = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: its label and range; an end that is None follows from the data.

    `ticks` are values and their words, None for round numbers; `is_whole` allows whole ones only. A logarithmic axis
    begins above 0.
    """

    label: str
    low: float | None = None
    high: float | None = None
    is_log: bool = False
    is_whole: bool = False
    ticks: tuple[tuple[float, str], ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A line through N points, float64 (N,), in order; `low` and `high` are a band around it.

    `is_stepped` holds each value up to the next x; `has_dots` shows each point; `is_reference` is drawn in grey.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    is_stepped: bool = False
    has_dots: bool = False
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that matters, with its words, on the line of this index."""

    x: float
    y: float
    words: str
    line: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LineChart:
    """Lines over a common x axis, with points and vertical lines (x, words) that matter."""

    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()
    verticals: tuple[tuple[float, str], ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its name, its height with an interval, and more about it in words."""

    name: str
    height: Number
    words: str = ""


@dataclass(frozen=True, slots=True)
class BarChart:
    """Bars side by side. With `edges`, one more than bars, the words stand between them: it is a histogram."""

    title: str
    x_label: str
    y: Axis
    bars: tuple[Bar, ...]
    edges: tuple[str, ...] | None = None
    verticals: tuple[tuple[float, str], ...] = ()
    note: str = ""
    value_name: str = "value"


@dataclass(frozen=True, slots=True)
class Scale:
    """Where values lie between the two ends of an axis on the page; `ticks` are values and words."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool
    ticks: tuple[tuple[float, str], ...]

    def at(self, values: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Return where values lie, those beyond the axis at its ends; NaN where undefined."""
        clipped = np.clip(np.asarray(values, np.float64), self.low, self.high)
        ends = np.array([self.low, self.high])
        if self.is_log:
            clipped, ends = np.log(clipped), np.log(ends)
        shares = (clipped - ends[0]) / (ends[1] - ends[0])
        return np.asarray(self.start + shares * (self.end - self.start))


def scale_of(axis: Axis, values: NDArray[np.float64], start: float, end: float, num_ticks: int = 5) -> Scale:
    """Fit an axis to the finite ones of the values (positive ones, if it is logarithmic)."""
    finite = values[np.isfinite(values) & ((values > 0) | (not axis.is_log))]
    low = axis.low if axis.low is not None else float(finite.min(initial=np.inf))
    high = axis.high if axis.high is not None else float(finite.max(initial=-np.inf))
    # Without data 0..1 serves (1..10 on a logarithmic axis); a single value gets room around it.
    low = low if math.isfinite(low) else (1.0 if axis.is_log else min(0.0, high if math.isfinite(high) else 0.0))
    high = high if math.isfinite(high) else low + 1
    if high <= low:
        low, high = (low / 2, low * 2) if axis.is_log else (low - 0.5 * (abs(low) or 1), low + 0.5 * (abs(low) or 1))
    if axis.ticks is not None:
        return Scale(low, high, start, end, axis.is_log, tuple(t for t in axis.ticks if low <= t[0] <= high))
    ticks = _log_ticks(low, high) if axis.is_log else _round_ticks(low, high, num_ticks, 1.0 if axis.is_whole else 0.0)
    if not axis.is_log:  # data ends on a tick
        low = low if axis.low is not None else min(low, ticks[0])
        high = high if axis.high is not None else max(high, ticks[-1])
    slack = 1e-9 * (high - low)
    inside = tuple((tick, briefly(tick)) for tick in ticks if low - slack <= tick <= high + slack)
    return Scale(low, high, start, end, axis.is_log, inside)


def _round_ticks(low: float, high: float, number: int, smallest: float) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten, from at most `low` to at least `high`."""
    rough = max((high - low) / number, smallest)
    decade = 10.0 ** math.floor(math.log10(rough))
    steps = [factor * decade for factor in _STEPS if not smallest or (factor * decade).is_integer()]
    step = next(step for step in steps if step >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, and twice and five times these where the axis is short."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) <= 4 else (1,)
    return [factor * 10.0**decade for decade in decades for factor in factors]


def thinned(line: Line, limit: int = MAX_POINTS) -> Line:
    """Return a line of at most `limit` of its points, evenly taken, the first and the last among them."""
    if len(line.x) <= limit:
        return line
    kept = np.unique(np.linspace(0, len(line.x) - 1, limit).round().astype(np.int64))
    return Line(
        line.name,
        line.x[kept],
        line.y[kept],
        None if line.low is None else line.low[kept],
        None if line.high is None else line.high[kept],
        is_stepped=line.is_stepped,
        has_dots=line.has_dots,
        is_reference=line.is_reference,
    )
