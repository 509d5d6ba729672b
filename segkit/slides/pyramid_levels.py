"""The levels of a pyramid while they are made: bands of rows, halved into the next level, and encoded tiles on disk."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Reduce = Literal["nearest", "mean"]

DEFLATE_LEVEL = 6

_MAX_THREADS = 4


class Page(NamedTuple):
    """One level to be written: its size in pixels and its encoded tiles, row of tiles by row of tiles."""

    height: int
    width: int
    tiles: Iterable[bytes]


class TileSpool:
    """Encoded tiles in a temporary file, in the order in which they came."""

    def __init__(self, file: IO[bytes]) -> None:
        self.num_bytes = 0
        self._lengths: list[int] = []
        self._file = file

    def store(self, encoded: bytes) -> None:
        """Append an encoded tile."""
        self._file.write(encoded)
        self._lengths.append(len(encoded))
        self.num_bytes += len(encoded)

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        for length in self._lengths:
            yield self._file.read(length)


class Level:
    """One level while it is written: the band of tiles being filled, and the encoded tiles of those before."""

    def __init__(
        self, height: int, width: int, channels: int, tile_px: int, spool: TileSpool, dtype: str = "uint8"
    ) -> None:
        self.height, self.width = height, width
        self.num_rows = 0
        self.tiles = spool
        self._tile_px = tile_px
        self._buffer: NDArray[Any] = np.empty((min(tile_px, height), width, channels), dtype)
        self._filled = 0

    def take(self, rows_HWC: NDArray[Any]) -> int:
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
    def band(self) -> NDArray[Any]:
        """The rows of the band."""
        return self._buffer[: self._filled]

    def start_band(self) -> None:
        """Begin the next band."""
        self._filled = 0

    def tiles_of_band(self) -> Iterator[NDArray[Any]]:
        """Yield the tiles of the band, from left to right."""
        for x in range(0, self.width, self._tile_px):
            yield whole_tile(self.band[:, x : x + self._tile_px], self._tile_px)


class Cascade:
    """Levels that fill one another: full bands of tiles are encoded in threads, and halved into the next level.

    Parameters
    ----------
    levels
        The levels to be filled, each half as large as the one before.
    encode
        Makes the bytes of a tile; called in several threads at once.
    reduce
        How a level is made from the one above.
    pool
        The threads.
    """

    def __init__(
        self, levels: Sequence[Level], encode: Callable[[NDArray[Any]], bytes], reduce: Reduce, pool: Executor
    ) -> None:
        self.levels = levels
        self._encode = encode
        self._reduce: Reduce = reduce
        self._pool = pool

    def append(self, rows_HWC: NDArray[Any], index: int = 0) -> None:
        """Append rows to a level (the first one), and what follows from them to those after it."""
        level = self.levels[index]
        while len(rows_HWC):
            taken = level.take(rows_HWC)
            rows_HWC = rows_HWC[taken:]
            if not level.band_is_full:
                continue
            for encoded in self._pool.map(self._encode, level.tiles_of_band()):
                level.tiles.store(encoded)
            if index + 1 < len(self.levels):
                self.append(halve(level.band, self._reduce), index + 1)
            level.start_band()

    @property
    def pages(self) -> list[Page]:
        """The levels as they are written, when all rows are there."""
        return [Page(level.height, level.width, level.tiles) for level in self.levels]


def encoding_threads() -> ThreadPoolExecutor:
    """Return threads for encoding; a context manager."""
    return ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="encode")


@contextlib.contextmanager
def spool_beside(path: Path) -> Iterator[TileSpool]:
    """Yield an empty spool whose unnamed file lies on the disk of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as file:
        yield TileSpool(file)


def deflate(tile: NDArray[Any]) -> bytes:
    """Return the bytes of a tile as a zlib stream."""
    return bytes(imagecodecs.deflate_encode(tile.tobytes(), level=DEFLATE_LEVEL))


def whole_tile(pixels_HWC: NDArray[Any], tile_px: int) -> NDArray[Any]:
    """Return pixels as a tile of full size: the image's right and bottom border is repeated outside of it."""
    missing = tile_px - pixels_HWC.shape[0], tile_px - pixels_HWC.shape[1]
    if not any(missing):
        return pixels_HWC
    return np.pad(pixels_HWC, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def pyramid_sizes(height: int, width: int, tile_px: int) -> list[tuple[int, int]]:
    """Return (height, width) of all levels: halved, rounded up, until one tile holds all of it."""
    sizes = [(height, width)]
    while max(sizes[-1]) > tile_px:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def halve(image_HWC: NDArray[Any], reduce: Reduce) -> NDArray[Any]:
    """Return an image (uint8 or float16) of half the size, rounded up: one pixel for each 2 x 2 block.

    `nearest` takes the block's top left pixel, `mean` its mean (uint8: rounded half up; float16: summed as float32);
    blocks at an odd border have fewer pixels.
    """
    if reduce == "nearest":
        return image_HWC[::2, ::2]
    height, width = image_HWC.shape[:2]
    # A repeated border row or column does not change the mean of the pixels that are there.
    even = np.pad(image_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    if image_HWC.dtype == np.float16:
        return (_sums_of_2x2(even.astype(np.float32)) / 4).astype(np.float16)
    return ((_sums_of_2x2(even.astype(np.uint16)) + 2) // 4).astype(np.uint8)


def _sums_of_2x2(even_HWC: NDArray[Any]) -> NDArray[Any]:
    sums: NDArray[Any] = even_HWC[::2, ::2] + even_HWC[1::2, ::2] + even_HWC[::2, 1::2] + even_HWC[1::2, 1::2]
    return sums
