"""Masks and labels of any size, read box by box as the integers that were written.

A large TIFF file is read by its tiles or strips, whatever its size is; all others are decoded once, as
`segkit.data.rasters.read_values` does it, up to the size that it allows.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.data.rasters import LOSSLESS_TIFF, read_values
from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides import open_slide
from segkit.slides.slide import decoding_errors
from segkit.slides.tiff import CACHE_BYTES
from segkit.slides.tiff_page import TiffPage
from segkit.slides.tile_cache import TileCache

WHOLE_PX: Final = 16_000_000
"""A TIFF file of more pixels is not decoded at once."""

_TIFF: Final = frozenset({".tif", ".tiff"})


class RasterBlocks:
    """The integers of a mask or labels file; use it as a context manager.

    Parameters
    ----------
    path
        A PNG or TIFF file; of a pyramid level 0 is read.

    Attributes
    ----------
    path
        The file.
    height, width
        Its size in pixels.
    mpp
        Micrometres per pixel, None where the file does not say them.
    in_strips
        Whether it is stored in rows: reading in bands of the whole width is quick then, in squares slow.

    Raises
    ------
    InputError
        The file is missing, damaged, lossy, coloured, no integers, or too large for being read whole and stored as one
        piece.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self._page: TiffPage | None = None
        self._cache = TileCache(CACHE_BYTES)
        self._values = np.empty((0, 0), np.uint8)
        page = _large_page(path) if path.suffix.lower() in _TIFF else None
        if page is None:
            self._values = read_values(path)
            self.height, self.width = self._values.shape
            self.in_strips = False
        else:
            self._page, self.height, self.width = page, page.height, page.width
            self.in_strips = page.columns == 1
            self._file = os.open(path, os.O_RDONLY)
        self.mpp = _mpp(path)

    def read(self, box: Box) -> NDArray[Any]:
        """Return the integers of a box inside, (height, width), in the type in which they are stored.

        Raises
        ------
        InputError
            The file is damaged there.
        """
        if self._page is None:
            return self._values[box.slices]
        page = self._page
        values = np.empty((box.height, box.width), np.uint8 if page.dtype == np.bool_ else page.dtype)
        with decoding_errors(self.path, f"rows {box.y}-{box.bottom}, columns {box.x}-{box.right}"):
            for row in range(box.y // page.tile_height, -(-box.bottom // page.tile_height)):
                for column in range(box.x // page.tile_width, -(-box.right // page.tile_width)):
                    tile_box = page.tile_box(row, column)
                    part = tile_box.intersect(box)
                    tile = self._tile(page, row, column, used_up=part == tile_box)
                    values[part.shift(-box.y, -box.x).slices] = tile[part.shift(-tile_box.y, -tile_box.x).slices]
        return values

    def _tile(self, page: TiffPage, row: int, column: int, *, used_up: bool) -> NDArray[Any]:
        kept = self._cache.get((row, column))
        if kept is not None:
            return kept.view(page.dtype)
        samples = page.read_tile(self._file, row, column)
        if samples is None:  # a sparse file leaves out what is 0
            return np.zeros(page.tile_box(row, column)[2:], page.dtype)
        tile = np.ascontiguousarray(samples[..., 0])
        self._cache.put((row, column), tile.view(np.uint8), used_up=used_up)
        return tile

    def close(self) -> None:
        """Release the file and memory."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._cache.clear()
        self._values = np.empty((0, 0), np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _large_page(path: Path) -> TiffPage | None:
    """Return the first page of a TIFF file, checked, None where the file is small enough to be decoded at once."""
    with decoding_errors(path, "the mask"), tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if page.imagelength * page.imagewidth <= WHOLE_PX:
            return None
        if page.compression not in LOSSLESS_TIFF:
            name = getattr(page.compression, "name", page.compression)
            raise InputError(f"{path}: compressed with {name}, which can change ids. Save it with deflate or LZW.")
        if page.dtype is None or page.dtype.kind not in "uib" or page.samplesperpixel != 1:
            raise InputError(
                f"{path}: holds {page.samplesperpixel} samples of {page.dtype} per pixel, and a mask is one channel of "
                "integers."
            )
        if page.tags.valueof(274, default=1) != 1:
            raise InputError(f"{path}: is stored turned or mirrored. Save it upright, without an orientation tag.")
        if len(file.pages) > 1 and file.pages[1].shape == page.shape:
            raise InputError(f"{path}: holds {len(file.pages)} pages, and a mask is one. Save the planes one by one.")
        return TiffPage(path, page, path.stat().st_size)


def _mpp(path: Path) -> float | None:
    if path.suffix.lower() not in _TIFF:
        return None
    try:
        with open_slide(path) as slide:
            return slide.mpp
    except InputError:
        return None  # a mask that is no picture, such as one of 64 bit ids, has no scale that could be trusted
