"""What the units of a layer look for: the patches that excite each of them most."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.report.colouring import fit_image
from segkit.report.sheet import LegendEntry, Panel, compose, write_png

_WINDOW_PX = 96


def draw_top_patches(
    windows: NDArray[np.uint8],
    values: NDArray[np.floating],
    path: Path,
    *,
    layer: str,
    units: Sequence[int] | None = None,
) -> None:
    """Draw for each unit of a layer a row of the patches that excite it most, the strongest first.

    Parameters
    ----------
    windows
        uint8 (units, ranks, H, W, 1 or 3), what the unit saw.
    values
        Its activation there, float (units, ranks), falling along each row.
    path
        The PNG to write.
    layer
        The layer's name, for the title.
    units
        The units' numbers; None: 0, 1, ...
    """
    if windows.ndim != 5 or windows.shape[:2] != values.shape:
        raise ValueError(f"windows {windows.shape} and values {values.shape} do not belong together")
    numbers = range(len(windows)) if units is None else units
    rows = [
        [
            Panel(fit_image(window, _WINDOW_PX), f"#{number}: {value:.2g}" if rank == 0 else f"{value:.2g}")
            for rank, (window, value) in enumerate(zip(seen, strengths, strict=True))
        ]
        for number, seen, strengths in zip(numbers, windows, values, strict=True)
    ]
    size = f"{windows.shape[3]} x {windows.shape[2]} px"
    words = f"a row for each unit, the strongest of its patches first; windows of {size}"
    title = f"What excites layer {layer} most"
    write_png(compose(rows, title=title, legends=[[LegendEntry(words)]]), path)
