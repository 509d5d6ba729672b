"""The learning curves of a run, with what they say."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from segkit.files import atomic_path
from segkit.masks import colour_of_class
from segkit.report.judgement import METRIC_NAMES, judge_curves, over_fitting_since

Row = Mapping[str, float | None]

INK = "#222222"
GREY = "#888888"
_FONT = "DejaVu Sans"
_TRAIN, _VAL = "#0072B2", "#D55E00"


def draw_curves(
    rows: Sequence[Row], path: Path, *, title: str, metric: str = "dice", stopped_early: bool = False
) -> None:
    """Draw losses, the validation's score and the learning rate over the epochs, and what they say, as PNG.

    The best epoch is marked, over-fitting has a grey ground, and the sentences of `judge_curves` stand below.

    Parameters
    ----------
    rows
        Rows of a run's metrics.csv, in order: `epoch`, and as far as there are values `train_loss`, `val_loss`,
        `val_METRIC`, `val_METRIC/NAME` for each foreground class (coloured in the order of the columns) and
        `learning_rate`. None and values that are not finite leave a gap. The best epoch is the first one with
        the highest `val_METRIC`.
    path
        The PNG to write.
    title
        The run's name.
    metric
        `dice`, `f1` or `ap`.
    stopped_early
        The last epoch was not the last one planned: that is marked, too.

    Raises
    ------
    ValueError
        There is no row.
    """
    if not rows:
        raise ValueError("there is no epoch to draw")
    sentences = [textwrap.fill(sentence, 120) for sentence in judge_curves(rows, metric=metric)]
    # Each line takes the same room, so that the panels stay as large as they are.
    text_inches = 0.19 * sum(1 + sentence.count("\n") for sentence in sentences) + 0.15
    figure = Figure(figsize=(8, 8.5 + text_inches), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasAgg(figure)
    parts = figure.add_gridspec(2, 1, height_ratios=(8.5, text_inches))
    panels, words = figure.add_subfigure(parts[0]), figure.add_subfigure(parts[1])
    loss, score, rate = panels.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.4))
    panels.suptitle(printable(title), parse_math=False, fontsize=12, fontweight="bold", color=INK)
    words.text(0.02, 0.95, "\n".join(sentences), va="top", fontsize=9, color=INK, parse_math=False)

    _draw_column(loss, rows, "train_loss", "training", _TRAIN)
    _draw_column(loss, rows, "val_loss", "validation", _VAL)
    class_columns = [column for column in rows[0] if column.startswith(f"val_{metric}/")]
    # With a single class its curve is the mean's.
    for index, column in enumerate(class_columns if len(class_columns) > 1 else [], start=1):
        colour = tuple(channel / 255 for channel in colour_of_class(index))
        _draw_column(score, rows, column, column.removeprefix(f"val_{metric}/"), colour, width=1.4)
    _draw_column(score, rows, f"val_{metric}", "mean of the classes", INK)
    _draw_column(rate, rows, "learning_rate", "learning rate", INK)

    best = _best(rows, f"val_{metric}")
    if best is not None:
        epoch, value = best
        for axes in (loss, score, rate):
            axes.axvline(epoch, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        score.plot(epoch, value, "o", color=INK, markersize=8, markeredgecolor="white", zorder=5)
        score.set_title(f"best: {value:.3f} at epoch {epoch:g}", loc="right", fontsize=10, color=INK)
    last = _finite(rows[-1].get("epoch"))
    since = over_fitting_since(rows)
    if since is not None:
        loss.axvspan(since, last, color="#eeeeee", zorder=0)
        place = blended_transform_factory(loss.transData, loss.transAxes)
        loss.text(since, 0.02, " over-fitting", transform=place, fontsize=9, color="#555555")
    if stopped_early:
        for axes in (loss, score, rate):
            axes.axvline(last, color=INK, linewidth=1.2, zorder=1)
        loss.set_title(f"stopped early after epoch {last:g}", loc="right", fontsize=10, color=INK)
    loss.set_ylabel("loss")
    score.set_ylabel(f"{METRIC_NAMES.get(metric, metric)} on validation images")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (loss, score, rate):
        dress(axes)
    write_figure(figure, path)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; the same figure gives the same bytes."""
    with atomic_path(path) as temporary:
        # Without the name and version of the software.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw_column(
    axes: Axes,
    rows: Sequence[Row],
    column: str,
    label: str,
    colour: str | tuple[float, ...],
    width: float = 1.8,
) -> None:
    """Draw the values of one column as a line with gaps; nothing where it has none."""
    values = [_finite(row.get(column)) for row in rows]
    if all(math.isnan(value) for value in values):
        return
    epochs = [_finite(row.get("epoch")) for row in rows]
    # Dots show single values, which a line does not; many of them would hide it.
    marker = "o" if len(rows) <= 40 else None
    (line,) = axes.plot(epochs, values, marker=marker, markersize=3, color=colour, linewidth=width)
    line.set_label(printable(label))


def dress(axes: Axes) -> None:
    """Give axes a light grid, no box, and a legend where several lines need one."""
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, color=GREY)
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    if len(lines) > 1:
        legend = axes.legend(handles=lines, frameon=False, fontsize=9, loc="best")
        for text in legend.get_texts():
            text.set_parse_math(False)


def _best(rows: Sequence[Row], column: str) -> tuple[float, float] | None:
    """Return the first epoch with the highest validation score, and that."""
    known = [(_finite(row.get("epoch")), _finite(row.get(column))) for row in rows]
    finite = [(epoch, value) for epoch, value in known if not math.isnan(value)]
    return max(finite, key=lambda pair: pair[1], default=None)


def printable(text: str) -> str:
    """Return text that matplotlib shows as it is: its font's missing characters as boxes, no hidden label."""
    glyphs = get_font(findfont(_FONT))
    shown = "".join(char if glyphs.get_char_index(ord(char)) else "\N{WHITE SQUARE}" for char in text)
    # Labels that begin with an underscore are left out of legends.
    return f" {shown}" if shown.startswith("_") else shown


def _finite(value: float | None) -> float:
    """Return the value, or NaN, which matplotlib leaves out, where there is none."""
    return value if value is not None and math.isfinite(value) else math.nan
