"""The picture of a learning-rate finder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from segkit.report.curves import INK, dress, printable, write_figure

_PROPOSED, _RAW = "#D55E00", "#bbbbbb"


def draw_lr_curve(
    rates: Sequence[float],
    losses: Sequence[float],
    proposal_rate: float | None,
    path: Path,
    *,
    smoothed: Sequence[float] = (),
    steepest: float | None = None,
    lowest: float | None = None,
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
        What the proposal was read from, finite, of the steps before it diverged: the main line. Nothing: the losses
        are.
    steepest, lowest
        Where the smoothed loss falls fastest and where it reaches its lowest level: marked on it.
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
    smooth = np.asarray(smoothed, np.float64)
    figure = Figure(figsize=(8, 5), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    figure.suptitle(printable(title), parse_math=False, fontsize=12, fontweight="bold", color=INK)
    if len(smooth):
        axes.plot(x[finite], raw[finite], color=_RAW, linewidth=1, label="loss of each step")
        axes.plot(x[: len(smooth)], smooth, color=INK, linewidth=1.8, label="smoothed, which decides")
    else:
        axes.plot(x[finite], raw[finite], color=INK, linewidth=1.8, label="loss of each step")
    # Of the steps before it diverged, where that is known.
    usable = raw[: len(smooth)] if len(smooth) else raw[finite]
    low, high = float(usable.min()), max(float(usable[0]), *smooth.tolist(), -np.inf)
    fall = max(high - low, 0.05 * abs(high), 1e-12)
    axes.set(xscale="log", xlim=(x.min(), x.max()), ylim=(low - 0.1 * fall, high + 0.4 * fall))
    for rate, marker, name in ((steepest, "v", "falls fastest"), (lowest, "s", "lowest level")):
        if rate is not None and len(smooth):
            level = float(np.interp(np.log(rate), np.log(x[: len(smooth)]), smooth))
            axes.plot(
                rate,
                level,
                marker,
                color=INK,
                markersize=9,
                markeredgecolor="white",
                zorder=5,
                label=f"{name}: {rate:.2g}",
            )
    if proposal_rate is not None:
        axes.axvline(proposal_rate, color=_PROPOSED, linewidth=1.8, label=f"proposal: {proposal_rate:.2g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    dress(axes)
    if reason:
        figure.supxlabel(printable(reason), parse_math=False, fontsize=9, color=INK, wrap=True)
    write_figure(figure, path)
