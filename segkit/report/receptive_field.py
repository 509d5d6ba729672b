"""How much of a patch a network sees: its receptive field, drawn to scale."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.report.colouring import Colour, as_rgb, fit_image, heat_over
from segkit.report.sheet import LegendEntry, Panel, compose, write_png

EFFECTIVE_SHARE = 0.95
_PICTURE_PX = 560
_LINE_PX = 3
_THEORETICAL: Colour = (0, 114, 178)
_EFFECTIVE: Colour = (34, 34, 34)
_BEYOND: Colour = (235, 235, 235)


def effective_side(effective: NDArray[np.floating], share: float = EFFECTIVE_SHARE) -> int:
    """Return the side of the smallest centred square with at least `share` of a map's sum; 0 where that is 0.

    Parameters
    ----------
    effective
        Magnitudes of the gradient of the output in the middle, (H, W), >= 0.
    share
        0 .. 1.
    """
    total = float(effective.sum())
    if total <= 0:
        return 0
    y, x = (np.abs(np.arange(side) - (side - 1) / 2) for side in effective.shape)
    ring = np.ceil(np.maximum(y[:, None], x)).astype(int)
    within = np.cumsum(np.bincount(ring.ravel(), effective.ravel().astype(np.float64)))
    reach = int(np.searchsorted(within, share * total * (1 - 1e-12)))
    return int(min(2 * reach + 1, max(effective.shape)))


def draw_receptive_field(
    patch: NDArray[np.uint8],
    field_px: int,
    path: Path,
    *,
    effective: NDArray[np.floating] | None = None,
    title: str = "What one output pixel sees",
) -> None:
    """Draw the receptive field of the pixel in the middle of a training patch, theoretical and effective.

    What an output pixel can see is a square; what really moves it is much less (Luo, Li, Urtasun, Zemel: NeurIPS
    2016, arXiv 1701.04128). Where the field is larger than the patch, the picture is grey around it.

    Parameters
    ----------
    patch
        uint8 (H, W, 1 or 3).
    field_px
        Side of the theoretical receptive field.
    path
        The PNG to write.
    effective
        Magnitudes of the gradient of the output in the middle, float (H, W) as the patch; None: not drawn.
    """
    if effective is not None and effective.shape != patch.shape[:2]:
        raise ValueError(f"patch {patch.shape} and effective field {effective.shape} differ in size")
    side = max(*patch.shape[:2], field_px + 2)
    canvas = _centred(as_rgb(patch), side)
    panels = [Panel(_framed(canvas, {field_px: _THEORETICAL}), f"patch of {patch.shape[1]} x {patch.shape[0]} px")]
    legend = [LegendEntry(f"theoretical: {field_px} x {field_px} px", _THEORETICAL)]
    if effective is not None:
        moved = effective_side(effective)
        # The square root shows the wide, faint tail, too.
        strength = np.sqrt(effective / max(float(effective.max()), 1e-30))
        heat = (255 * strength).round().astype(np.uint8)
        warm = _centred(heat_over(as_rgb(patch), heat), side)
        panels.append(Panel(_framed(warm, {field_px: _THEORETICAL, moved: _EFFECTIVE}), "influence (orange: most)"))
        legend.append(
            LegendEntry(f"effective ({EFFECTIVE_SHARE:.0%} of the gradient): {moved} x {moved} px", _EFFECTIVE)
        )
    write_png(compose([panels], title=title, legends=[[entry] for entry in legend]), path)


def _centred(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return an RGB image in the middle of a grey square."""
    canvas = np.full((side, side, 3), _BEYOND, np.uint8)
    top, left = ((side - length) // 2 for length in image.shape[:2])
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def _framed(canvas: NDArray[np.uint8], squares: dict[int, Colour]) -> NDArray[np.uint8]:
    """Return a canvas made to fit, with centred squares of sides in its pixels."""
    picture = fit_image(canvas, _PICTURE_PX).copy()
    scale = picture.shape[0] / canvas.shape[0]
    centre = picture.shape[0] / 2
    for side, colour in squares.items():
        first, last = (round(centre + sign * side * scale / 2) for sign in (-1, 1))
        first, last = max(first, 0), min(last, picture.shape[0])
        outer, inner = slice(first, last), slice(first + _LINE_PX, last - _LINE_PX)
        frame = np.zeros(picture.shape[:2], np.bool_)
        frame[outer, outer] = True
        frame[inner, inner] = False
        picture[frame] = colour
    return picture
