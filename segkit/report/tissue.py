"""The picture of what was computed on a slide and what was skipped as blank."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit.report.colouring import Colour, edges, fit_image, paint
from segkit.report.sheet import LegendEntry, Panel, add_scale_bar, compose, write_png

_PICTURE_PX, _LINE_PX = 1000, 2
_SKIPPED: Colour = (70, 70, 70)
_SKIPPED_OPACITY = 0.6
_OUTLINE: Colour = (0, 158, 115)  # Okabe and Ito's green: no stain has it


def draw_tissue(
    thumbnail: NDArray[np.uint8], mask: NDArray[np.bool_], path: Path, *, title: str, um_per_px: float | None
) -> None:
    """Draw a slide's thumbnail beside the same with what is skipped dimmed and the tissue outlined.

    Parameters
    ----------
    thumbnail
        uint8 (H, W, 1 or 3) of the whole slide; shrunk where larger than the picture.
    mask
        bool (h, w) of any size, stretched over the slide: True where it is computed.
    path
        The PNG to write.
    um_per_px
        Micrometres per pixel of the thumbnail, for the scale bar; None where unknown.

    Raises
    ------
    ResourceError
        The disk is full.
    UsageError
        The folder cannot be written.
    """
    plain = fit_image(thumbnail, _PICTURE_PX)
    # A picture's pixel shows the pixel of the mask at its centre.
    size = (plain.shape[1], plain.shape[0])
    tissue = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    dimmed = paint(plain, tissue == 0, _SKIPPED, _SKIPPED_OPACITY)
    dimmed = paint(dimmed, edges(tissue, _LINE_PX), _OUTLINE)
    if um_per_px is not None:
        plain = add_scale_bar(plain, um_per_px * thumbnail.shape[1] / plain.shape[1])
    panels = [Panel(plain, "slide"), Panel(dimmed, "computed")]
    rows = [[panel] for panel in panels] if thumbnail.shape[1] > 1.6 * thumbnail.shape[0] else [panels]
    share = float(mask.mean())
    white = np.full((1, 1, 3), 255, np.uint8)
    red, green, blue = paint(white, np.ones((1, 1), np.bool_), _SKIPPED, _SKIPPED_OPACITY)[0, 0].tolist()
    legend = [
        LegendEntry(f"tissue, computed ({share:.1%})", _OUTLINE),
        LegendEntry(f"blank, skipped ({1 - share:.1%})", (red, green, blue)),
    ]
    write_png(compose(rows, title=title, legends=[legend]), path)
