"""The picture of a learning-rate finder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from segkit.report.curves import INK, dress, printable, write_figure

_PROPOSED = "#D55E00"


def draw_lr_curve(
    rates: Sequence[float],
    losses: Sequence[float],
    proposal_rate: float | None,
    path: Path,
    *,
    smoothed: Sequence[float] | None = None,
    reason: str = "",
    title: str = "Learning-rate finder",
) -> None:
    """Draw the loss over a learning rate that grows step by step, and the rate that is proposed.

    Parameters
    ----------
    rates, losses
        Of each step; losses that are not finite are left out. Those far above the first one lie beyond the picture.
    proposal_rate
        Marked; None: there is none.
    path
        The PNG to write.
    smoothed
        What the proposal was read from, drawn as the main line; None: the losses themselves.
    reason
        Stands below.

    Raises
    ------
    ValueError
        No loss is finite.
    """
    x, raw = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
    finite = np.isfinite(raw)
    if not finite.any():
        raise ValueError("no loss is finite: there is no curve to draw")
    line = raw if smoothed is None else np.asarray(smoothed, np.float64)
    figure = Figure(figsize=(8, 5), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    figure.suptitle(printable(title), parse_math=False, fontsize=12, fontweight="bold", color=INK)
    if smoothed is not None:
        axes.plot(x[finite], raw[finite], color="#bbbbbb", linewidth=1, label="each step")
    drawn = np.isfinite(line)
    axes.plot(x[drawn], line[drawn], color=INK, linewidth=1.8, label="loss" if smoothed is None else "smoothed")
    begin, lowest = float(raw[finite][0]), float(np.min(line[drawn], initial=float(raw[finite].min())))
    fall = max(begin - lowest, 0.05 * abs(begin), 1e-12)
    axes.set(xscale="log", xlim=(x.min(), x.max()), ylim=(lowest - 0.1 * fall, begin + 0.6 * fall))
    if proposal_rate is not None:
        axes.axvline(proposal_rate, color=_PROPOSED, linewidth=1.8, label=f"proposal: {proposal_rate:.2g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    dress(axes)
    if reason:
        figure.supxlabel(printable(reason), parse_math=False, fontsize=9, color=INK, wrap=True)
    write_figure(figure, path)
