"""The charts of an evaluation and of a training, from plain arrays."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.report.judgement import METRIC_NAMES, Row, over_fitting_since
from segkit.report.page.number import Number, briefly, in_digits
from segkit.report.page.plots import Axis, Bar, BarChart, Line, LineChart, Mark

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

LOWEST_RATE: Final = 1 / 8
"""False positives per image or mm2 that a FROC begins with."""

HIGHEST_RATE: Final = 1024.0
HISTOGRAM_BINS: Final = 20
MAX_DOTS: Final = 40
"""Longer lines have no dots, which would hide them."""


def precision_recall_chart(curves: Mapping[str, Curve], chosen: Mapping[str, tuple[float, float]]) -> LineChart:
    """Return precision over recall.

    Parameters
    ----------
    curves
        By class: recall and precision at each threshold, float64 (K,), the highest threshold first.
    chosen
        By class: recall and precision at the threshold that is used, NaN where undefined.
    """
    lines = tuple(Line(name, recall, precision) for name, (recall, precision) in curves.items())
    order = list(curves)
    marks = [
        Mark(recall, precision, f"P {in_digits(precision, 2)}, R {in_digits(recall, 2)}", order.index(name))
        for name, (recall, precision) in chosen.items()
    ]
    return LineChart(
        title="Precision and recall",
        x=Axis("recall", 0, 1),
        y=Axis("precision", 0, 1),
        lines=lines,
        marks=tuple(marks),
        note="Over all thresholds; the ring is at the one that is used.",
    )


def froc_chart(curves: Mapping[str, Curve], unit: str) -> LineChart:
    """Return sensitivity over false positives per image or per mm2, from 1/8 on.

    Parameters
    ----------
    curves
        By class: false positives per `unit` and sensitivity at each threshold, float64 (K,), the highest first.
    unit
        What false positives are counted per, such as `image`.
    """
    most = max((float(rates.max(initial=0)) for rates, _ in curves.values()), default=0.0)
    powers = range(-3, max(3, min(math.ceil(math.log2(max(most, 1))), round(math.log2(HIGHEST_RATE)))) + 1)
    lowest, highest = LOWEST_RATE, 2.0 ** powers[-1]
    # From 1 downwards and upwards, every second one where there are many.
    ticks = tuple((2.0**power, f"1/{2**-power}" if power < 0 else f"{2**power}") for power in powers)
    ticks = (
        ticks if len(ticks) <= 10 else tuple(tick for tick, power in zip(ticks, powers, strict=True) if not power % 2)
    )
    lines = []
    for name, (rates, sensitivities) in curves.items():
        # What comes before the axis begins counts at its beginning: there only the last of it shows.
        before = int(np.searchsorted(rates, lowest, side="right"))
        start = sensitivities[before - 1 : before] if before else np.zeros(1)
        shown = rates <= highest
        shown[:before] = False
        x = np.concatenate([[lowest], rates[shown], [highest if most >= highest else min(most, highest)]])
        y = np.concatenate([start, sensitivities[shown]])
        lines.append(Line(name, np.maximum(x, lowest), np.append(y, y[-1]), is_stepped=True))
    return LineChart(
        title="Sensitivity and false positives (FROC)",
        x=Axis(f"false positives per {unit}", lowest, highest, is_log=True, ticks=ticks),
        y=Axis("sensitivity", 0, 1),
        lines=tuple(lines),
        note="The highest sensitivity with at most so many false positives, over all thresholds.",
    )


def reliability_chart(
    confidences: NDArray[np.float64], shares: NDArray[np.float64], counts: NDArray[np.integer], *, ece: Number
) -> LineChart:
    """Return the share that is right over the probability that was said, by bins.

    Parameters
    ----------
    confidences, shares
        Of each bin: the mean probability and the share that is of the class, float64 (K,); NaN for empty bins.
    counts
        How many pixels or points are in each bin, integers (K,).
    ece
        The expected calibration error.
    """
    told = counts > 0
    return LineChart(
        title="Reliability",
        x=Axis("predicted probability", 0, 1),
        y=Axis("share that is true", 0, 1),
        lines=(
            Line("perfectly calibrated", np.array([0.0, 1.0]), np.array([0.0, 1.0]), is_reference=True),
            Line("observed", confidences[told], shares[told], has_dots=True),
        ),
        note=f"Expected calibration error {in_digits(ece.value)}. Below the grey line the model is too sure.",
    )


def size_chart(
    bins: Sequence[str],
    scores: Sequence[Number],
    counts: Sequence[int],
    *,
    score_name: str,
    size_label: str,
    note: str = "",
) -> BarChart:
    """Return a score by object size: the names of the bins, their scores and how many true objects each holds."""
    bars = tuple(
        Bar(name, score, f"{count:,} objects") for name, score, count in zip(bins, scores, counts, strict=True)
    )
    return BarChart(
        title=f"{score_name} by object size",
        x_label=size_label,
        y=Axis(score_name, 0, 1),
        bars=bars,
        note=note,
        value_name=score_name,
    )


def threshold_chart(
    title: str,
    x_label: str,
    thresholds: NDArray[np.float64],
    curves: Mapping[str, Sequence[Number]],
    *,
    used: float | None = None,
    others: Mapping[str, Curve] | None = None,
    note: str = "",
) -> LineChart:
    """Return metrics over a threshold (T,), each with its intervals as a band.

    `used` is the threshold that is used; `others` are further lines, at thresholds of their own.
    """
    lines = tuple(
        Line(
            name,
            thresholds,
            as_floats([number.value for number in numbers]),
            as_floats([number.low for number in numbers]),
            as_floats([number.high for number in numbers]),
            has_dots=len(thresholds) <= MAX_DOTS,
        )
        for name, numbers in curves.items()
    )
    lines += tuple(Line(name, x, y, has_dots=len(x) <= MAX_DOTS) for name, (x, y) in (others or {}).items())
    verticals = () if used is None else ((used, f"used: {briefly(used)}"),)
    return LineChart(title, Axis(x_label), Axis("metric", 0, 1), lines, verticals=verticals, note=note)


def sweep_chart(
    title: str, x_label: str, y_label: str, curves: Mapping[str, Curve], *, used: float | None, note: str = ""
) -> LineChart:
    """Return a metric over a threshold on several sets of images, by their names: thresholds and values, float64 (K,).

    `used` is the threshold that is used.
    """
    return LineChart(
        title,
        Axis(x_label),
        Axis(y_label, 0, 1),
        tuple(Line(name, x, y, has_dots=len(x) <= MAX_DOTS) for name, (x, y) in curves.items()),
        verticals=() if used is None else ((used, f"used: {briefly(used)}"),),
        note=note,
    )


def score_histogram(scores: Sequence[float | None], name: str) -> BarChart:
    """Return how many images have which score, 0..1, in 20 bins; undefined ones are left out, and said."""
    defined = as_floats(scores)
    undefined = int(np.isnan(defined).sum())
    defined = defined[~np.isnan(defined)]
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(np.clip(defined, 0, 1), edges)
    words = [f"{edge:.2f}" for edge in edges]
    bars = tuple(
        Bar(f"{words[index]} to {words[index + 1]}", Number(float(count))) for index, count in enumerate(counts)
    )
    middle = float(np.median(defined)) if len(defined) else math.nan
    left_out = f" {undefined} with an undefined one are left out." if undefined else ""
    return BarChart(
        title=f"{name} of the images",
        x_label=name,
        y=Axis("images", 0, is_whole=True),
        bars=bars,
        edges=tuple(words),
        verticals=() if math.isnan(middle) else ((min(max(middle, 0.0), 1.0), f"median {middle:.3f}"),),
        note=f"{len(defined)} images.{left_out}",
        value_name="images",
    )


def learning_charts(rows: Sequence[Row], metric: str) -> tuple[LineChart, ...]:
    """Return the losses and the validation score over the epochs, the best epoch marked.

    Parameters
    ----------
    rows
        Rows of a run's metrics.csv, in order; None and values that are not finite leave a gap.
    metric
        `dice`, `f1`, `ap`, or what else follows `val_` in the rows. The best epoch is the first one with the
        highest score.
    """
    epochs = _column(rows, "epoch")
    if not len(epochs):
        return ()
    name = METRIC_NAMES.get(metric, metric)
    x = Axis("epoch", float(np.nanmin(epochs)), float(np.nanmax(epochs)), is_whole=True)
    score = _column(rows, f"val_{metric}")
    known = np.flatnonzero(np.isfinite(score) & np.isfinite(epochs))
    best = int(known[score[known].argmax()]) if len(known) else None
    verticals = (
        () if best is None else ((float(epochs[best]), f"best: epoch {epochs[best]:g}, {name} = {score[best]:.3f}"),)
    )
    since = over_fitting_since(rows)
    has_dots = len(rows) <= MAX_DOTS
    losses = {"training": "train_loss", "validation": "val_loss"}
    loss = LineChart(
        title="Loss",
        x=x,
        y=Axis("loss", 0),
        lines=tuple(Line(of, epochs, _column(rows, column), has_dots=has_dots) for of, column in losses.items()),
        verticals=verticals,
        note="" if since is None else f"Over-fitting since epoch {since:g}.",
    )
    by_class = [column for column in rows[0] if column.startswith(f"val_{metric}/")]
    # With a single class its curve is the mean's.
    by_class = by_class if len(by_class) > 1 else []
    lines = [Line("mean of the classes" if by_class else name, epochs, score, has_dots=has_dots)]
    lines += [Line(column.split("/", 1)[1], epochs, _column(rows, column), has_dots=has_dots) for column in by_class]
    return (
        loss,
        LineChart(
            title=f"{name} on the validation images",
            x=x,
            y=Axis(name),
            lines=tuple(lines),
            marks=() if best is None else (Mark(float(epochs[best]), float(score[best]), ""),),
            verticals=verticals,
        ),
    )


def as_floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Return numbers as float64, NaN where there is none."""
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    return as_floats([row.get(name) for row in rows])
