"""Charts as SVG that takes its colours from the page's style sheet, so that it is readable in light and dark.

Drawn for a width of 400 units, shown at 330 to 520 px: words stay legible on a phone.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.report.page.markup import Markup, element, join
from segkit.report.page.number import Number, briefly, interval_in_digits
from segkit.report.page.plots import BarChart, Line, LineChart, Mark, Scale, scale_of, thinned

NUM_STYLES: Final = 6
"""Lines differ in colour and dashes; after so many the styles repeat."""

_WIDTH, _HEIGHT = 400, 278
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 388, 34, 234
_CHARACTER = 7.0  # width of a character of a tick's words


def line_chart_svg(chart: LineChart) -> Markup:
    """Draw lines with their bands, dots, marks and vertical lines."""
    lines = [thinned(line) for line in chart.lines]
    x = scale_of(chart.x, _together([line.x for line in lines]), _LEFT, _RIGHT)
    heights = [part for line in lines for part in (line.y, line.low, line.high) if part is not None]
    y = scale_of(chart.y, _together(heights), _BOTTOM, _TOP)
    words = f"{chart.title}: {chart.y.label} over {chart.x.label}. The values are in the table below."
    parts: list[Markup | None] = [_grid(x, y), _axis_words(chart.x.label, chart.y.label)]
    parts += [_vertical(float(x.at(value)), label) for value, label in chart.verticals]
    styles = _styles(lines)
    parts += [_band(line, x, y, style) for line, style in zip(lines, styles, strict=True)]
    parts += [_line(line, x, y, style) for line, style in zip(lines, styles, strict=True)]
    parts += [_mark(mark, x, y, styles[mark.line]) for mark in chart.marks if lines]
    return _svg(words, parts)


def bar_chart_svg(chart: BarChart) -> Markup:
    """Draw bars from the lower end of the y axis, with whiskers for intervals; undefined ones leave a gap."""
    known = [part for bar in chart.bars for part in bar.height if part is not None]
    y = scale_of(chart.y, np.array(known, np.float64), _BOTTOM, _TOP)
    slots = np.linspace(_LEFT, _RIGHT, len(chart.bars) + 1)
    share = 0.94 if chart.edges else 0.7
    x = Scale(0, 1, _LEFT, _RIGHT, False, ())
    parts = [_grid(x, y)]
    for bar, (left, right) in zip(chart.bars, pairwise(slots.tolist()), strict=True):
        parts.append(_bar(bar.name, bar.height, bar.words, left, right, share, y))
    if chart.edges:
        parts.append(_words_below(slots, chart.edges))
    else:
        parts.append(_words_below((slots[1:] + slots[:-1]) / 2, [bar.name for bar in chart.bars]))
    parts.append(_axis_words(chart.x_label, chart.y.label))
    # The horizontal place of a vertical line is a share of the width.
    parts += [_vertical(float(x.at(value)), label) for value, label in chart.verticals]
    words = f"{chart.title}: {chart.y.label} by {chart.x_label}. The values are in the table below."
    return _svg(words, parts)


def range_svg(numbers: Sequence[Number]) -> Markup:
    """Draw numbers between 0 and 1 below one another: intervals as bars, the first number as a dot, others as rings."""
    height = 5 + 11 * len(numbers)
    parts = [_piece("line", "grid", x1=at, x2=at, y1=0, y2=height) for at in (4, 60, 116)]
    for index, number in enumerate(numbers):
        y = 8 + 11 * index
        if number.low is not None and number.high is not None:
            low, high = _share(number.low, 4, 116), _share(number.high, 4, 116)
            parts.append(_piece("line", "range-bar", x1=low, x2=max(high, low + 1), y1=y, y2=y))
        if number.value is not None:
            style = "range-dot" if index == 0 else "range-ring"
            parts.append(_piece("circle", style, cx=_share(number.value, 4, 116), cy=y, r=2.6))
    return element("svg", *parts, attributes={"viewBox": f"0 0 120 {height}", "class": "range", "aria-hidden": "true"})


def scale_svg(number: Number) -> Markup:
    """Draw one number between 0 and 1 with its interval, on a scale with words."""
    left, right = 4, 396
    parts = [_piece("line", "axis", x1=left, x2=right, y1=16, y2=16)]
    for words, anchor in (("0", ""), ("0.25", "middle"), ("0.5", "middle"), ("0.75", "middle"), ("1", "end")):
        at = _share(float(words), left, right)
        parts.append(_piece("line", "axis", x1=at, x2=at, y1=16, y2=20))
        parts.append(_piece("text", f"tick {anchor}", words, x=at, y=33))
    if number.low is not None and number.high is not None:
        low, high = _share(number.low, left, right), _share(number.high, left, right)
        parts.append(_piece("rect", "range-band", x=low, width=max(high - low, 1), y=6, height=10))
    if number.value is not None:
        at = _share(number.value, left, right)
        parts.append(_piece("line", "range-value", x1=at, x2=at, y1=3, y2=16))
    return element("svg", *parts, attributes={"viewBox": "0 0 400 38", "class": "plot scale", "aria-hidden": "true"})


def key_svg(style: int, *, is_reference: bool) -> Markup:
    """Draw the piece of a line that a legend shows."""
    line = _piece("line", "reference" if is_reference else f"line s{style}", x1=1, x2=27, y1=6, y2=6)
    return element("svg", line, attributes={"viewBox": "0 0 28 12", "class": "key", "aria-hidden": "true"})


def styles_of(chart: LineChart) -> list[int]:
    """Return the number of each line's style; reference lines have none of their own."""
    return _styles(chart.lines)


def _styles(lines: Sequence[Line]) -> list[int]:
    own = np.cumsum([not line.is_reference for line in lines]) - 1
    return [int(number) % NUM_STYLES for number in own]


def _share(value: float, left: float, right: float) -> float:
    return left + (right - left) * min(max(value, 0.0), 1.0)


def _svg(words: str, parts: Sequence[Markup | None]) -> Markup:
    return element(
        "svg",
        *parts,
        attributes={"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "class": "plot", "role": "img", "aria-label": words},
    )


def _piece(name: str, style: str, *children: str | Markup | None, **places: float | str) -> Markup:
    attributes = {key.replace("_", "-"): _short(value) for key, value in places.items()}
    return element(name, *children, attributes={"class": style, **attributes})


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{round(float(value), 1):g}"


def _together(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.empty(0), *parts])


def _grid(x: Scale, y: Scale) -> Markup:
    rows = [(float(y.at(value)), words) for value, words in y.ticks]
    columns = [(float(x.at(value)), words) for value, words in x.ticks]
    return join(
        *(_piece("line", "grid", x1=_LEFT, x2=_RIGHT, y1=at, y2=at) for at, _ in rows),
        *(_piece("text", "tick end", words, x=_LEFT - 7, y=at + 4) for at, words in rows),
        *(_piece("line", "grid", x1=at, x2=at, y1=_TOP, y2=_BOTTOM) for at, _ in columns),
        *(_piece("text", "tick middle", words, x=at, y=_BOTTOM + 16) for at, words in columns),
        _piece("line", "axis", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM),
    )


def _axis_words(x_label: str, y_label: str) -> Markup:
    """Write what the axes are: the one upwards above it, which needs no turned words."""
    return join(
        _piece("text", "label", y_label, x=0, y=11),
        _piece("text", "label end", x_label, x=_RIGHT, y=_BOTTOM + 36),
    )


def _words_below(places: NDArray[np.float64], words: Sequence[str]) -> Markup:
    """Write words below the axis: all of them, or every second, third .. where they would touch."""
    widest = max((len(word) for word in words), default=0) * _CHARACTER + 8
    spacing = (_RIGHT - _LEFT) / max(1, len(words))
    every = max(1, math.ceil(widest / spacing))
    return join(
        *(
            _piece("text", "tick middle", word, x=at, y=_BOTTOM + 16)
            for at, word in list(zip(places.tolist(), words, strict=True))[::every]
        )
    )


def _vertical(at: float, words: str) -> Markup:
    to_left = at > (_LEFT + _RIGHT) / 2
    return join(
        _piece("line", "vertical", x1=at, x2=at, y1=_TOP, y2=_BOTTOM),
        _piece("text", "note end" if to_left else "note", words, x=at + 4 if to_left else at - 4, y=_TOP - 6),
    )


def _runs(defined: NDArray[np.bool_]) -> Iterator[slice]:
    """Yield the stretches without a gap."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], defined, [False]]).astype(np.int8)))
    yield from (slice(int(start), int(end)) for start, end in edges.reshape(-1, 2))


def _on_page(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> list[str]:
    return [f"{px:.1f} {py:.1f}" for px, py in zip(xs.tolist(), ys.tolist(), strict=True)]


def _line(line: Line, x: Scale, y: Scale, style: int) -> Markup:
    xs, ys = x.at(line.x), y.at(line.y)
    look = "reference" if line.is_reference else f"line s{style}"
    pieces: list[str] = []
    dots: list[Markup] = []
    for run in _runs(np.isfinite(xs) & np.isfinite(ys)):
        px, py = xs[run], ys[run]
        if len(px) == 1 and not line.has_dots:
            dots.append(_dot(line, run.start, float(px[0]), float(py[0]), style))
        if line.is_stepped and len(px) > 1:
            px, py = np.repeat(px, 2)[1:], np.repeat(py, 2)[:-1]
        pieces.append("M" + "L".join(place for place, _ in groupby(_on_page(px, py))))
    if line.has_dots:
        defined = np.flatnonzero(np.isfinite(xs) & np.isfinite(ys)).tolist()
        dots = [_dot(line, index, float(xs[index]), float(ys[index]), style) for index in defined]
    path = _piece("path", look, d="".join(pieces)) if pieces else None
    return join(path, *dots)


def _dot(line: Line, index: int, px: float, py: float, style: int) -> Markup:
    words = f"{line.name}: {briefly(float(line.y[index]))} at {briefly(float(line.x[index]))}"
    return _piece("circle", f"dot s{style}", element("title", words), cx=px, cy=py, r=3)


def _band(line: Line, x: Scale, y: Scale, style: int) -> Markup | None:
    if line.low is None or line.high is None:
        return None
    xs, lows, highs = x.at(line.x), y.at(line.low), y.at(line.high)
    pieces = []
    for run in _runs(np.isfinite(xs) & np.isfinite(lows) & np.isfinite(highs)):
        above, below = _on_page(xs[run], highs[run]), _on_page(xs[run], lows[run])
        pieces.append("M" + "L".join([*above, *reversed(below)]) + "Z")
    return _piece("path", f"band s{style}", d="".join(pieces)) if pieces else None


def _mark(mark: Mark, x: Scale, y: Scale, style: int) -> Markup | None:
    if not (math.isfinite(mark.x) and math.isfinite(mark.y)):
        return None
    px, py = float(x.at(mark.x)), float(y.at(mark.y))
    ring = _piece("circle", f"mark s{style}", element("title", mark.words) if mark.words else None, cx=px, cy=py, r=5)
    if not mark.words:
        return ring
    # To the left below and to the right above a curve that falls, as one of precision does, there is room.
    to_left = px > (_LEFT + _RIGHT) / 2
    below = to_left or py < _TOP + 24
    side = "note end" if to_left else "note"
    words = _piece("text", side, mark.words, x=px - 9 if to_left else px + 9, y=py + 17 if below else py - 8)
    return join(ring, words)


def _bar(name: str, height: Number, words: str, left: float, right: float, share: float, y: Scale) -> Markup:
    if height.value is None or not math.isfinite(height.value):
        return _piece("text", "tick middle", "–", x=(left + right) / 2, y=_BOTTOM - 5)
    pad = (1 - share) / 2 * (right - left)
    top, middle = float(y.at(height.value)), (left + right) / 2
    interval = interval_in_digits(height)
    said = f"{name}: {briefly(height.value)}" + (f" ({interval})" if interval else "") + (f", {words}" if words else "")
    rect = _piece(
        "rect", "bar", element("title", said), x=left + pad, y=top, width=right - left - 2 * pad, height=_BOTTOM - top
    )
    if height.low is None or height.high is None:
        return rect
    low, high = float(y.at(height.low)), float(y.at(height.high))
    return join(rect, _piece("line", "whisker", x1=middle, x2=middle, y1=low, y2=high))
