"""Pictures of compared masks, of which only a part may be in memory, with the image's own pixels where it is there."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.image_counts import ComparedImage
from segkit.geometry import Box
from segkit.masks import IGNORE
from segkit.report.page.pictures import Picture, busiest_window, pixel_picture
from segkit.slides import open_slide
from segkit.workflows.given_planes import OpenPair


def picture_of(compared: ComparedImage, box: Box, pair: OpenPair, image: Path | None) -> Callable[[int], Picture]:
    """Return what draws an image, or the part of it that is shown, with a longest side in pixels.

    Parameters
    ----------
    compared
        What lies in the box.
    box
        Which part of the image it is, in the truth's pixels.
    pair
        All of the image.
    image
        The file of the image, None where there is none. One of another size than the truth is not shown.
    """
    size = (pair.truth.height, pair.truth.width)

    @functools.lru_cache(maxsize=1)
    def pixels_of(shown: Box) -> NDArray[np.uint8] | None:
        return _pixels(image, shown, size)

    def draw(longest_px: int) -> Picture:
        shown = box if max(box.height, box.width) <= 2 * longest_px else _worst_window(compared, box, longest_px)
        inside = shown.shift(-box.y, -box.x).slices
        picture = pixel_picture(
            pixels_of(shown), compared.truth[inside], compared.prediction[inside], longest_px=longest_px
        )
        if (shown.height, shown.width) == size:
            return picture
        place = f"at x {shown.x}, y {shown.y} of {size[1]} x {size[0]} px"
        return replace(picture, note=f"{picture.note}; {place}, where most errors are")

    return draw


def _worst_window(compared: ComparedImage, box: Box, side: int) -> Box:
    wrong = (compared.truth != compared.prediction) & (compared.truth != IGNORE)
    interesting = wrong if wrong.any() else (compared.truth > 0) & (compared.truth != IGNORE)
    return busiest_window(interesting, side).shift(box.y, box.x)


def _pixels(image: Path | None, box: Box, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    if image is None:
        return None
    with open_slide(image) as slide:
        return slide.read(box) if (slide.height, slide.width) == size else None
