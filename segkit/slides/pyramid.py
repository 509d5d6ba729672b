"""Write tiled pyramids that OpenSlide, QuPath, napari, tifffile and segkit open at every level.

Plain multi-page TIFF: level 0 first, each further page half as large and marked as a reduced image (NewSubfileType 1),
resolution in pixels per centimetre. Rows come in order, once; every tile is encoded once, into an unnamed temporary
file beside the target (one per level), and the encoded tiles are joined into the final file. Memory is bounded by two
rows of tiles, whatever the height.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.files import atomic_path, translated_os_errors

Reduce = Literal["nearest", "mean"]
Compression = Literal["deflate", "jpeg"]

_BIGTIFF_FROM = 2**31  # bytes of encoded tiles; readers with signed 32-bit offsets end here
_DEFLATE_LEVEL = 6
_MAX_THREADS = 4
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
        self._mpp = mpp
        self._compression = compression
        self._quality = quality
        self._reduce = reduce
        self._tile_px = tile_px
        self._sizes = pyramid_sizes(height, width, tile_px)
        self._channels = channels
        self._levels: list[_Level] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack, translated_os_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            threads = min(_MAX_THREADS, os.cpu_count() or 1)
            self._pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="encode"))
            for height, width in self._sizes:
                spool = stack.enter_context(tempfile.TemporaryFile(dir=self._path.parent))
                self._levels.append(_Level(height, width, self._channels, self._tile_px, spool))
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
        level = self._levels[0]
        if rows.dtype != np.uint8 or rows.size != len(rows) * level.width * self._channels:
            raise ValueError(f"rows are {rows.dtype} {rows.shape}, expected uint8 n x {level.width} x {self._channels}")
        if level.num_rows + len(rows) > level.height:
            raise ValueError(f"{level.num_rows + len(rows)} rows, and the image has {level.height}")
        with translated_os_errors(self._path):
            self._append(0, rows.reshape(len(rows), level.width, self._channels))

    def _append(self, index: int, rows_HWC: NDArray[np.uint8]) -> None:
        """Append rows to a level; full bands of tiles are encoded, and halved into the next level."""
        level = self._levels[index]
        while len(rows_HWC):
            taken = level.take(rows_HWC)
            rows_HWC = rows_HWC[taken:]
            if not level.band_is_full:
                continue
            band = level.band
            for encoded in self._pool.map(self._encode, level.tiles_of(band)):
                level.store(encoded)
            if index + 1 < len(self._levels):
                self._append(index + 1, halve(band, self._reduce))
            level.start_band()

    def _encode(self, tile: NDArray[np.uint8]) -> bytes:
        if self._compression == "deflate":
            return bytes(imagecodecs.deflate_encode(tile.tobytes(), level=_DEFLATE_LEVEL))
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
        base = self._levels[0]
        if base.num_rows < base.height:
            raise ValueError(f"{base.num_rows} of {base.height} rows were written")
        num_bytes = sum(sum(level.lengths) for level in self._levels)
        with (
            atomic_path(self._path) as temporary,
            tifffile.TiffWriter(temporary, bigtiff=num_bytes >= _BIGTIFF_FROM) as tiff,
        ):
            for index, level in enumerate(self._levels):
                tiff.write(level.encoded_tiles(), **self._page_options(index))

    def _page_options(self, index: int) -> dict[str, Any]:
        """Return tifffile's arguments for the page of a level."""
        level = self._levels[index]
        colour = self._channels == 3
        options: dict[str, Any] = {
            "shape": (level.height, level.width, 3) if colour else (level.height, level.width),
            "dtype": np.uint8,
            "tile": (self._tile_px, self._tile_px),
            "photometric": "rgb" if colour else "minisblack",
            "compression": self._compression,
            "subfiletype": min(index, 1),
            "metadata": None,
            "software": "segkit",
        }
        if self._compression == "jpeg" and colour:
            options["subsampling"] = (2, 2)  # makes tifffile declare YCbCr
        if self._mpp is not None:
            per_cm = _UM_PER_CM / (self._mpp * self._sizes[0][1] / level.width)
            options |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
        return options


class _Level:
    """One level while it is written: the band of tiles being filled, and the spool of encoded tiles."""

    def __init__(self, height: int, width: int, channels: int, tile_px: int, spool: IO[bytes]) -> None:
        self.height, self.width = height, width
        self.num_rows = 0
        self.lengths: list[int] = []
        self._tile_px = tile_px
        self._spool = spool
        self._buffer = np.empty((min(tile_px, height), width, channels), np.uint8)
        self._filled = 0

    def take(self, rows_HWC: NDArray[np.uint8]) -> int:
        """Copy as many rows as the band still needs; return their number."""
        count = min(len(rows_HWC), len(self._buffer) - self._filled)
        self._buffer[self._filled : self._filled + count] = rows_HWC[:count]
        self._filled += count
        self.num_rows += count
        return count

    @property
    def band_is_full(self) -> bool:
        """Whether the band has all the rows that it will have."""
        return self._filled == len(self._buffer) or self.num_rows == self.height

    @property
    def band(self) -> NDArray[np.uint8]:
        """The rows of the band."""
        return self._buffer[: self._filled]

    def start_band(self) -> None:
        """Begin the next band."""
        self._filled = 0

    def tiles_of(self, band_HWC: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Yield the tiles of a band, whole ones: the image's border is repeated outside of it."""
        for x in range(0, self.width, self._tile_px):
            tile = band_HWC[:, x : x + self._tile_px]
            missing = self._tile_px - tile.shape[0], self._tile_px - tile.shape[1]
            yield np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else tile

    def store(self, encoded: bytes) -> None:
        """Append an encoded tile to the spool."""
        self._spool.write(encoded)
        self.lengths.append(len(encoded))

    def encoded_tiles(self) -> Iterator[bytes]:
        """Yield the encoded tiles in order."""
        self._spool.seek(0)
        for length in self.lengths:
            yield self._spool.read(length)


def pyramid_sizes(height: int, width: int, tile_px: int) -> list[tuple[int, int]]:
    """Return (height, width) of all levels: halved, rounded up, until one tile holds all of it."""
    sizes = [(height, width)]
    while max(sizes[-1]) > tile_px:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def halve(image_HWC: NDArray[np.uint8], reduce: Reduce) -> NDArray[np.uint8]:
    """Return an image of half the size, rounded up: one pixel for each 2 x 2 block.

    `nearest` takes the block's top left pixel, `mean` its mean, rounded half up; blocks at an odd border have
    fewer pixels.
    """
    if reduce == "nearest":
        return image_HWC[::2, ::2]
    height, width = image_HWC.shape[:2]
    # A repeated border row or column does not change the mean of the pixels that are there.
    even = np.pad(image_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.uint16)
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)
