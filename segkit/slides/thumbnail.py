"""Small pictures of large slides, in bounded memory."""

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.slides.slide import Slide

_BAND_PX = 16_000_000


def thumbnail_size(height: int, width: int, longest_px: int) -> tuple[int, int]:
    """Return height and width shrunk, in proportion, so that neither exceeds `longest_px`; never enlarged."""
    scale = min(1.0, longest_px / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def read_thumbnail(slide: Slide, height: int, width: int, *, nearest: bool = False) -> NDArray[np.uint8]:
    """Return the whole slide as uint8 (height, width, channels).

    The coarsest level that is large enough is read in bands; `nearest` picks pixels (class ids), otherwise areas
    are averaged.
    """
    level = max(
        (number for number, one in enumerate(slide.levels) if one.height >= height and one.width >= width), default=0
    )
    source = slide.levels[level]
    band = max(1, int(_BAND_PX / source.width * height / source.height))
    rows = []
    for top in range(0, height, band):
        bottom = min(height, top + band)
        first, last = top * source.height // height, -(-bottom * source.height // height)
        pixels = slide.read(Box(first, 0, last - first, source.width), level)
        how = cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_AREA
        shrunk = cv2.resize(pixels, (width, bottom - top), interpolation=how)
        rows.append(shrunk.reshape(bottom - top, width, slide.channels))
    return np.concatenate(rows).astype(np.uint8)
