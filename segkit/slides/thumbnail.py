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


def read_thumbnail(
    slide: Slide, height: int, width: int, *, nearest: bool = False, region: Box | None = None
) -> NDArray[np.uint8]:
    """Return the whole slide, or a region of it in level-0 pixels, as uint8 (height, width, channels).

    The coarsest level that is large enough is read in bands; `nearest` picks pixels (class ids), otherwise areas
    are averaged.
    """
    region = region or Box(0, 0, slide.height, slide.width)
    boxes = [_on_level(region, slide, number) for number in range(len(slide.levels))]
    level = max((number for number, box in enumerate(boxes) if box.height >= height and box.width >= width), default=0)
    source = boxes[level]
    band = max(1, int(_BAND_PX / source.width * height / source.height))
    rows = []
    for top in range(0, height, band):
        bottom = min(height, top + band)
        first, last = top * source.height // height, -(-bottom * source.height // height)
        pixels = slide.read(Box(source.y + first, source.x, last - first, source.width), level)
        how = cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_AREA
        shrunk = cv2.resize(pixels, (width, bottom - top), interpolation=how)
        rows.append(shrunk.reshape(bottom - top, width, slide.channels))
    return np.concatenate(rows).astype(np.uint8)


def _on_level(region: Box, slide: Slide, number: int) -> Box:
    """Return the pixels of a level that show a region, at least one."""
    level = slide.levels[number]
    if number == 0 or (region.height, region.width) == (slide.height, slide.width):
        whole = Box(0, 0, level.height, level.width)
        return whole if number else region
    y, x = (
        min(int(at / level.downsample), size - 1) for at, size in ((region.y, level.height), (region.x, level.width))
    )
    bottom = min(level.height, max(y + 1, round(region.bottom / level.downsample)))
    right = min(level.width, max(x + 1, round(region.right / level.downsample)))
    return Box(y, x, bottom - y, right - x)
