"""Write tiled pyramids that OpenSlide, QuPath, napari, tifffile and segkit open at every level.

Plain multi-page TIFF: level 0 first, each further page half as large and marked as a reduced image (NewSubfileType 1),
resolution in pixels per centimetre. Rows come in order, once; every tile is encoded once, into an unnamed temporary
file beside the target (one per level), and the encoded tiles are joined into the final file. Memory is bounded by two
rows of tiles, whatever the height.

Pyramids that are made block by block (`segkit.slides.pyramid_blocks`) are written by the same `write_tiff`.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.files import atomic_path, translated_os_errors
from segkit.slides.pyramid_levels import (
    Cascade,
    Level,
    Page,
    Reduce,
    deflate,
    encoding_threads,
    pyramid_sizes,
    spool_beside,
)

Compression = Literal["deflate", "jpeg"]

_BIGTIFF_FROM = 2**31  # bytes of encoded tiles; readers with signed 32-bit offsets end here
_UM_PER_CM = 10_000


class PyramidWriter:
    """Write rows of pixels as a pyramid; use it as a context manager.

    The file appears at `path`, whole, when the `with` block ends; after an exception nothing appears.

    Parameters
    ----------
    path
        The file to write.
    height, width
        Size of level 0 in pixels.
    channels
        1 (grey or class ids) or 3 (RGB).
    tile_px
        Side of a tile, a multiple of 16.
    mpp
        Micrometres per pixel at level 0, or None where unknown.
    reduce
        How a level is made from the one above: `nearest` takes the top left pixel of each 2 x 2 block (class ids
        stay class ids), `mean` the rounded mean of the block. At an odd border the block has fewer pixels.
    compression
        `deflate` (lossless) or `jpeg` (YCbCr with halved chroma for RGB).
    quality
        Of JPEG, 1 to 100.

    Raises
    ------
    ValueError
        A size, `tile_px` or number of channels that cannot be written (a programmer's mistake).
    ResourceError
        The disk is full.
    UsageError
        The folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        *,
        channels: int = 1,
        tile_px: int = 512,
        mpp: float | None = None,
        reduce: Reduce = "nearest",
        compression: Compression = "deflate",
        quality: int = 90,
    ) -> None:
        if height <= 0 or width <= 0 or channels not in {1, 3} or tile_px <= 0 or tile_px % 16:
            raise ValueError(f"cannot write {height} x {width} x {channels} in tiles of {tile_px}")
        self._path = path
        self._height, self._width = height, width
        self._mpp = mpp
        self._compression: Compression = compression
        self._quality = quality
        self._reduce: Reduce = reduce
        self._tile_px = tile_px
        self._channels = channels
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack, translated_os_errors(self._path):
            pool = stack.enter_context(encoding_threads())
            levels = [
                Level(height, width, self._channels, self._tile_px, stack.enter_context(spool_beside(self._path)))
                for height, width in pyramid_sizes(self._height, self._width, self._tile_px)
            ]
            self._cascade = Cascade(levels, self._encode, self._reduce, pool)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None:
                self._finish()

    def write_rows(self, rows: NDArray[np.uint8]) -> None:
        """Append rows of level 0.

        Parameters
        ----------
        rows
            uint8, `n x width` or `n x width x channels`, any `n`.

        Raises
        ------
        ValueError
            The type or shape does not fit, or there are more rows than `height`.
        ResourceError
            The disk is full.
        """
        written = self._cascade.levels[0].num_rows
        if rows.dtype != np.uint8 or rows.size != len(rows) * self._width * self._channels:
            raise ValueError(f"rows are {rows.dtype} {rows.shape}, expected uint8 n x {self._width} x {self._channels}")
        if written + len(rows) > self._height:
            raise ValueError(f"{written + len(rows)} rows, and the image has {self._height}")
        with translated_os_errors(self._path):
            self._cascade.append(rows.reshape(len(rows), self._width, self._channels))

    def _encode(self, tile: NDArray[Any]) -> bytes:
        if self._compression == "deflate":
            return deflate(tile)
        if self._channels == 1:
            return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile[..., 0]), level=self._quality))
        return bytes(
            imagecodecs.jpeg8_encode(
                np.ascontiguousarray(tile),
                level=self._quality,
                colorspace="RGB",
                outcolorspace="YCBCR",
                subsampling="420",
            )
        )

    def _finish(self) -> None:
        written = self._cascade.levels[0].num_rows
        if written < self._height:
            raise ValueError(f"{written} of {self._height} rows were written")
        colour = self._channels == 3
        options: dict[str, Any] = {
            "dtype": np.uint8,
            "tile": (self._tile_px, self._tile_px),
            "photometric": "rgb" if colour else "minisblack",
            "compression": self._compression,
        }
        if self._compression == "jpeg" and colour:
            options["subsampling"] = (2, 2)  # makes tifffile declare YCbCr
        num_bytes = sum(level.tiles.num_bytes for level in self._cascade.levels)
        write_tiff(self._path, self._cascade.pages, options, num_bytes=num_bytes, mpp=self._mpp)


def write_tiff(
    path: Path,
    pages: Sequence[Page],
    options: dict[str, Any],
    *,
    num_bytes: int,
    mpp: float | None,
    ome_xml: bytes | None = None,
) -> None:
    """Write encoded tiles as a TIFF pyramid that appears whole at `path`.

    Parameters
    ----------
    path
        The file to write.
    pages
        The levels, level 0 first.
    options
        tifffile's arguments that all pages share: dtype, tile, photometric, compression, ...
    num_bytes
        Of all tiles together: a large file becomes a BigTIFF.
    mpp
        Micrometres per pixel at level 0, or None where unknown.
    ome_xml
        With it the file is an OME-TIFF: the levels below level 0 are its SubIFDs. Without it they are pages.
    """
    colour = options["photometric"] == "rgb"
    with (
        atomic_path(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=num_bytes >= _BIGTIFF_FROM, byteorder="<") as tiff,
    ):
        for index, page in enumerate(pages):
            own: dict[str, Any] = {
                "shape": (page.height, page.width, 3) if colour else (page.height, page.width),
                "subfiletype": min(index, 1),
                "metadata": None,
                "software": "segkit",
            }
            if mpp is not None:
                per_cm = _UM_PER_CM / (mpp * pages[0].width / page.width)
                own |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
            if ome_xml is not None and index == 0:
                own |= {"description": ome_xml, "subifds": len(pages) - 1}
            tiff.write(iter(page.tiles), **options, **own)
