"""Slides and maps as square tiles at every halving of their size, as deep-zoom pages ask for them.

Halving h has `ceil(size / 2**h)` pixels; pixel (y, x) of it shows the pixels `y * 2**h .. (y + 1) * 2**h - 1` of level
0, and likewise across. Tiles begin at multiples of `TILE_PX` and are cut at the right and bottom border.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides import Slide
from segkit.slides.pyramid_levels import halve
from segkit.slides.scaling import ScaledLevel

TILE_PX: Final = 512

FURTHEST_FACTOR: Final = 8
"""From a level that is finer by more than this, tiles take too long: an overview is made of all of it, once."""
OVERVIEW_PX: Final = 4096
"""Longest side of that overview: 64 MB with the smaller ones that are made of it."""

_BLOCK_PX = 2048  # side of what one thread reads at once for the overview, in pixels of the file
_MAX_THREADS = 4
_QUALITY = 90


class SlideTiles:
    """A slide in tiles. A level of the slide is shown as it is; halvings that the file lacks are resampled.

    They are made of the nearest finer level in bounded memory (see `segkit.slides.scaling`). Reading is safe from
    several threads at once.

    Parameters
    ----------
    slide
        The open slide; stays the caller's to close.

    Attributes
    ----------
    num_halvings
        How many there are, the slide itself included: the last one fits into a tile.
    """

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self.num_halvings = next(number for number in count() if max(self.size(number)) <= TILE_PX) + 1
        self._overviews: dict[int, NDArray[np.uint8]] = {}

    def size(self, halving: int) -> tuple[int, int]:
        """Return height and width in pixels."""
        return _halved(self._slide.height, halving), _halved(self._slide.width, halving)

    @property
    def needs_overview(self) -> bool:
        """Whether the slide lacks levels, so that `make_overview` saves much time later."""
        return self._overview_halving() is not None

    def make_overview(self, on_progress: Callable[[int, int], None]) -> None:
        """Read the whole slide once for its small halvings, which take up to 64 MB; reports blocks done and blocks.

        Raises
        ------
        InputError
            The file is damaged.
        """
        halving = self._overview_halving()
        if halving is None:
            return
        height, width = self.size(halving)
        side = max(1, int(_BLOCK_PX / self._factor(halving)))
        boxes = [
            Box(y, x, min(side, height - y), min(side, width - x))
            for y in range(0, height, side)
            for x in range(0, width, side)
        ]
        overview = np.empty((height, width, self._slide.channels), np.uint8)
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="overview") as pool:
            try:
                pixels = pool.map(lambda box: self._read(halving, box), boxes)
                for done, (box, block) in enumerate(zip(boxes, pixels, strict=True), start=1):
                    overview[box.slices] = block
                    on_progress(done, len(boxes))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for number in range(halving, self.num_halvings):
            if self._factor(number) > 1:
                self._overviews[number] = overview
            overview = halve(overview, "mean")

    def read(self, halving: int, row: int, column: int) -> NDArray[np.uint8]:
        """Return the pixels of a tile, uint8 (h, w, channels).

        Raises
        ------
        LookupError
            There is no such tile.
        InputError
            The file is damaged there.
        """
        if not 0 <= halving < self.num_halvings:
            raise LookupError(halving)
        box = tile_box(*self.size(halving), row, column)
        if halving in self._overviews:
            return self._overviews[halving][box.slices]
        return self._read(halving, box)

    def jpeg(self, halving: int, row: int, column: int) -> bytes:
        """Return a tile as a JPEG file; see `read`."""
        pixels = np.ascontiguousarray(self.read(halving, row, column))
        if pixels.shape[2] == 1:
            return bytes(imagecodecs.jpeg8_encode(pixels[..., 0], level=_QUALITY))
        return bytes(
            imagecodecs.jpeg8_encode(pixels, level=_QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420")
        )

    def _read(self, halving: int, box: Box) -> NDArray[np.uint8]:
        level, scale = self._finer_level(halving), self._factor(halving)
        if scale == 1:
            # Writers of pyramids round sizes down or up: a last row or column that the level lacks is mirrored.
            return self._slide.read_mirrored(box, level)
        height, width = self.size(halving)
        return ScaledLevel(self._slide, level, scale=scale, height=height, width=width).read(box)

    def _finer_level(self, halving: int) -> int:
        """Return the coarsest level that is no coarser."""
        return max(number for number, level in enumerate(self._slide.levels) if level.downsample <= 1 << halving)

    def _factor(self, halving: int) -> float:
        """Return how many pixels of the file, in each direction, a pixel is made of."""
        return (1 << halving) / self._slide.levels[self._finer_level(halving)].downsample

    def _overview_halving(self) -> int | None:
        """Return the first halving that the overview is for, None where all are quick to read."""
        halvings = range(self.num_halvings)
        if all(self._factor(halving) <= FURTHEST_FACTOR for halving in halvings):
            return None
        small = (halving for halving in halvings if max(self.size(halving)) <= OVERVIEW_PX)
        return next((halving for halving in small if self._factor(halving) >= FURTHEST_FACTOR), None)


class MapTiles:
    """A map of one channel (class ids, probabilities) in tiles; its values are never mixed.

    Only levels that the file has are given, so that a class keeps its number: all maps that segkit writes have them.

    Parameters
    ----------
    source
        The open map; stays the caller's to close.

    Attributes
    ----------
    height, width
        Size in pixels of the map.

    Raises
    ------
    InputError
        It has colours.
    """

    def __init__(self, source: Slide) -> None:
        if source.channels != 1:
            raise InputError(f"{source.path}: has {source.channels} channels, and a map has one. Predict again.")
        self._source = source
        self.height, self.width = source.height, source.width
        self._levels: list[int] = []
        for halving in count():
            size = _halved(source.height, halving), _halved(source.width, halving)
            found = [number for number, level in enumerate(source.levels) if (level.height, level.width) == size]
            if not found:
                break
            self._levels.append(found[0])
            if max(size) <= TILE_PX:
                break

    @property
    def num_halvings(self) -> int:
        """How many there are, the map itself included."""
        return len(self._levels)

    @property
    def coarsest(self) -> NDArray[np.uint8]:
        """The map at its last halving, uint8 (h, w)."""
        level = self._source.levels[self._levels[-1]]
        return self._source.read(Box(0, 0, level.height, level.width), self._levels[-1])[..., 0]

    def read(self, halving: int, row: int, column: int) -> NDArray[np.uint8]:
        """Return the values of a tile, uint8 (h, w).

        Raises
        ------
        LookupError
            There is no such tile.
        InputError
            The file is damaged there.
        """
        number = self._levels[halving]
        level = self._source.levels[number]
        return self._source.read(tile_box(level.height, level.width, row, column), number)[..., 0]


def tile_box(height: int, width: int, row: int, column: int) -> Box:
    """Return the box of a tile in an image of `height` x `width` pixels.

    Raises
    ------
    LookupError
        There is no such tile.
    """
    y, x = row * TILE_PX, column * TILE_PX
    if not (0 <= y < height and 0 <= x < width):
        raise LookupError((row, column))
    return Box(y, x, min(TILE_PX, height - y), min(TILE_PX, width - x))


def _halved(size: int, halving: int) -> int:
    return -(-size // (1 << halving))
