"""Slides at a pixel size that no level has: read at the next finer level and resampled, exactly and by position.

The filter is Catmull-Rom's cubic, widened by the scale where pixels become coarser, as Pillow's BICUBIC is. On
stained tissue it is as sharp as the area averages that pyramids are made of and aliases half as much; from level 0
and through a coarser level it gives nearly the same pixels (about one grey level apart); and as it is a polynomial,
its weights are the same numbers on every machine.

A pixel depends on its position only, not on the box that it is read in, to the last bit. For that the weights are
integers that are computed from absolute positions, and every sum is exact: a float32 holds all integers up to
2**24, and no sum of products here, whole or in part, comes to more, so it does not matter in which order (or on how
many lanes) a matrix product adds them up.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box, read_mirrored
from segkit.slides.slide import Slide

# The weights of a pixel sum to 1 << bits, their magnitudes to at most 1.27 times that. Bytes times row weights stay
# below 255 * 1.27 * 2**15 < 2**24. Between the passes values are rounded to a quarter of a grey level, not clipped,
# so that sums of the second stay below 255 * 1.27 * 4 * 1.27 * 2**13 < 2**24.
_ROW_BITS = 15
_COLUMN_BITS = 13
_FRACTION_BITS = 2

_KERNEL_BITS = 40  # to which the filter itself is quantised, so that weights are found by integer division
_SUPPORT = 2.0

# A chunk is what one product of matrices gives. Of these matrices only a band along the diagonal is not 0, so small
# chunks waste few multiplications; across, where fewer are left, larger ones save calls. (Sizes were measured.)
_CHUNK_ROWS = 8
_CHUNK_COLUMNS = 16
_MOST_LINES = 192
_MOST_PRODUCTS = 200_000  # in one product; OpenBLAS keeps up to 2**18 on the calling thread
# Rows that are worked up at once stay in the processor's cache; level pixels that are read at once bound the memory.
_BAND_ROWS = 64
_STRIP_PX = 1 << 23


class _Taps(NamedTuple):
    """Which pixels of a level make up each read pixel of one axis.

    Attributes
    ----------
    first
        (n,) int64, position of the first one; may be negative or beyond the end.
    weights
        (n, taps) int64, each row sums to `1 << bits`.
    """

    first: NDArray[np.int64]
    weights: NDArray[np.int64]

    @property
    def start(self) -> int:
        return int(self.first[0])

    @property
    def stop(self) -> int:
        return int(self.first[-1] + self.weights.shape[1])

    def part(self, begin: int, end: int) -> "_Taps":
        return _Taps(self.first[begin:end], self.weights[begin:end])


class ScaledLevel:
    """A level of a slide, read at another pixel size.

    The centre of read pixel i lies at (i + 0.5) * scale level pixels. Reading is safe from several threads at once
    and starts no threads of its own.

    Parameters
    ----------
    slide
        The open slide; stays the caller's to close.
    level
        Index into `slide.levels`.
    scale
        Level pixels per read pixel: 2.0 gives half as many in each direction, 0.5 twice as many.
    height, width
        Size of the whole image in read pixels: the level's divided by `scale`, rounded, at least 1.

    Raises
    ------
    ValueError
        `scale` is not a positive number, or the size is not what the level and the scale give, to one pixel of both.
    """

    def __init__(self, slide: Slide, level: int, *, scale: float, height: int, width: int) -> None:
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be a positive number, got {scale}")
        size = slide.levels[level]
        for found, pixels in ((height, size.height), (width, size.width)):
            if found < 1 or abs(found - max(1.0, pixels / scale)) > 1 + 1 / scale:
                raise ValueError(
                    f"level {level} of {size.height} x {size.width} pixels at scale {scale} cannot have "
                    f"{height} x {width} read pixels"
                )
        self.slide = slide
        self.level = level
        self.scale = scale
        self.height = height
        self.width = width

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of `box`, which may reach any distance outside: the read image is mirrored there.

        The border pixel is not repeated (see `segkit.geometry.mirror_indices`).

        Parameters
        ----------
        box
            Region in read pixels, not empty.

        Returns
        -------
        NDArray[np.uint8]
            `box.height x box.width x channels`, writable and owned by the caller.

        Raises
        ------
        ValueError
            The box is empty.
        InputError
            The file is damaged there.
        """
        return read_mirrored(box, self.height, self.width, self._read_inside)

    def _read_inside(self, box: Box) -> NDArray[np.uint8]:
        rows = _taps(box.y, box.height, self.scale, _ROW_BITS)
        columns = _taps(box.x, box.width, self.scale, _COLUMN_BITS)
        out = np.empty((box.height, box.width, self.slide.channels), np.uint8)
        level_width = columns.stop - columns.start
        strip = max(1, int((_STRIP_PX / level_width - rows.weights.shape[1]) / self.scale))
        for top in range(0, box.height, strip):
            wanted = rows.part(top, top + strip)
            source = Box(wanted.start, columns.start, wanted.stop - wanted.start, level_width)
            _resample(self.slide.read_mirrored(source, self.level), wanted, columns, out[top : top + strip])
        return out


def _taps(start: int, count: int, scale: float, bits: int) -> _Taps:
    """Return the taps of read pixels `start .. start + count - 1`; each depends on its own position only."""
    widened = max(scale, 1.0)
    centre = (np.arange(start, start + count, dtype=np.float64) + 0.5) * scale
    first = np.ceil(centre - _SUPPORT * widened - 0.5).astype(np.int64)
    level_px = first[:, None] + np.arange(int(2 * _SUPPORT * widened) + 1)
    kernel = np.rint(_catmull_rom((level_px + 0.5 - centre[:, None]) / widened) * 2.0**_KERNEL_BITS).astype(np.int64)
    total = kernel.sum(axis=1, keepdims=True)
    weights = ((kernel << (bits + 1)) // total + 1) >> 1
    # What rounding leaves over goes to the middle, where it is smallest in proportion.
    weights[np.arange(count), weights.argmax(axis=1)] += (1 << bits) - weights.sum(axis=1)
    return _Taps(first, weights)


def _catmull_rom(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cubic that is 1 at 0 and 0 at 1 and from 2 on."""
    x = np.minimum(np.abs(x), _SUPPORT)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)


def _resample(pixels: NDArray[np.uint8], rows: _Taps, columns: _Taps, out: NDArray[np.uint8]) -> None:
    """Fill `out` (h, w, channels) from the level's `pixels`: rows.start .. rows.stop, columns.start .. columns.stop.

    Band by band: first down the rows, then, with the channels below each other, across the columns. Lines are
    multiplied in pieces; what rounding up to whole pieces adds to the buffers is never used.
    """
    height, width, channels = out.shape
    level_width = pixels.shape[1]
    samples = level_width * channels
    lines = pixels.reshape(len(pixels), samples)
    bands = [rows.part(top, top + _BAND_ROWS) for top in range(0, height, _BAND_ROWS)]
    most = len(bands[0].first)

    size = _lines_at_once(rows, _CHUNK_ROWS)
    padded = _round_up(samples, size)
    source = np.zeros((max(band.stop - band.start for band in bands), padded), np.float32)
    source_pieces = source.reshape(len(source), -1, size).transpose(1, 0, 2)
    narrowed = np.zeros((most, padded), np.float32)
    narrowed_pieces = narrowed.reshape(most, -1, size).transpose(1, 0, 2)

    size = _lines_at_once(columns, _CHUNK_COLUMNS)
    padded = _round_up(channels * most, size)
    planes = np.zeros((padded, level_width + 16), np.float32)  # lines a power of two apart would share cache lines
    planes_pieces = planes.reshape(-1, size, planes.shape[1])
    shrunk = np.zeros((padded, width), np.float32)
    shrunk_pieces = shrunk.reshape(-1, size, width)
    across = [
        (wanted, taken, np.ascontiguousarray(matrix.T))
        for wanted, taken, matrix in _matrices(columns, _CHUNK_COLUMNS, 2.0 ** -(_FRACTION_BITS + _COLUMN_BITS))
    ]

    for band, top in zip(bands, range(0, height, _BAND_ROWS), strict=True):
        count = len(band.first)
        source[: band.stop - band.start, :samples] = lines[band.start - rows.start : band.stop - rows.start]
        for wanted, taken, matrix in _matrices(band, _CHUNK_ROWS, 2.0 ** (_FRACTION_BITS - _ROW_BITS)):
            np.matmul(matrix, source_pieces[:, taken], out=narrowed_pieces[:, wanted])
        np.rint(narrowed, out=narrowed)
        for channel in range(channels):
            planes[channel * count :][:count, :level_width] = narrowed[:count, channel:samples:channels]
        for wanted, taken, matrix in across:
            np.matmul(planes_pieces[:, :, taken], matrix, out=shrunk_pieces[:, :, wanted])
        np.rint(shrunk, out=shrunk)
        np.clip(shrunk, 0, 255, out=shrunk)
        for channel in range(channels):
            out[top : top + count, :, channel] = shrunk[channel * count :][:count]


def _matrices(taps: _Taps, chunk_px: int, unit: float) -> list[tuple[slice, slice, NDArray[np.float32]]]:
    """Return, for each chunk of read pixels, where they lie, where their level pixels lie, and the weights between.

    Both slices count from the first of `taps`; the matrix is (read pixels, level pixels), in multiples of `unit`.
    """
    count = len(taps.first)
    begins = np.arange(0, count, chunk_px)
    chunk, row = np.divmod(np.arange(count), chunk_px)
    starts = taps.first[begins]
    stops = taps.first[np.minimum(begins + chunk_px, count) - 1] + taps.weights.shape[1]
    place = (taps.first - starts[chunk])[:, None] + np.arange(taps.weights.shape[1])
    matrices = np.zeros((len(begins), chunk_px, int((stops - starts).max())), np.float32)
    matrices[chunk[:, None], row[:, None], place] = taps.weights * unit
    return [
        (slice(begin, min(begin + chunk_px, count)), slice(start, stop), matrix[: count - begin, : stop - start])
        for begin, start, stop, matrix in zip(
            begins.tolist(), (starts - taps.start).tolist(), (stops - taps.start).tolist(), matrices, strict=True
        )
    ]


def _lines_at_once(taps: _Taps, chunk_px: int) -> int:
    """Return how many lines one product takes at most."""
    longest_step = int(np.diff(taps.first).max(initial=0))
    level_px: int = longest_step * (chunk_px - 1) + taps.weights.shape[1]
    return min(_MOST_LINES, max(16, _MOST_PRODUCTS // (chunk_px * level_px) // 16 * 16))


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
