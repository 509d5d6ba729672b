"""Numbers as people read them."""

import math
from typing import Final, NamedTuple

UNDEFINED: Final = "undefined"


class Number(NamedTuple):
    """A number with the ends of its interval, each None where undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """Tell whether both ends are there."""
        return self.low is not None and self.high is not None


def in_digits(value: float | None, digits: int = 3) -> str:
    """Return a number with so many digits behind the point, or `undefined`; -0 is 0."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return f"{round(value, digits) + 0.0:.{digits}f}"


def interval_in_digits(number: Number, digits: int = 3) -> str:
    """Return `LOW to HIGH`, empty where there is no interval."""
    if number.low is None or number.high is None:
        return ""
    return f"{in_digits(number.low, digits)} to {in_digits(number.high, digits)}"


def briefly(value: float) -> str:
    """Return a number in at most 4 significant digits, as on an axis: 0.25, 1200, 1.5e-05."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        # Not through the general format, which writes 1e+04.
        text = f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}"
