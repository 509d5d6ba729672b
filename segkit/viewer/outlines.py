"""Outlines of objects, found by where they lie: a million of them are never in memory, nor sent, at once.

`segkit predict` writes objects.geojson with one object a line. They are read once for their bounding boxes, and an
index says where in the file each one stands. It is a loose quadtree: the slide is cut into square blocks, in several
sizes, each twice the one before, and an object is in the block that holds the middle of its box, of the smallest size
that is no smaller than the box. So it reaches beyond its block by half a block at most.
"""

import json
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError

SMALLEST_BLOCK_PX: Final = 256
MOST_BLOCKS: Final = 16_384
"""Of the smallest size; larger slides have larger ones."""

FINEST_GRID: Final = 8
"""Positions are sent in whole numbers of 1/8 of a level-0 pixel times 2**detail."""
MAX_DETAIL: Final = 20

MAX_LINE_BYTES: Final = 64_000_000
"""A longer line is no object that anybody could look at; it bounds the memory."""
_LINES_BETWEEN_REPORTS = 1000
_HEADER = b'{"type": "FeatureCollection", "features": ['

OnShare = Callable[[float], None]
"""Called now and then with the share that is done, 0..1; may raise to stop."""


class BlockSize(NamedTuple):
    """One size of blocks: side in level-0 pixels, rows and columns."""

    side_px: int
    rows: int
    columns: int


class Outlines:
    """The index of an objects.geojson.

    Parameters
    ----------
    path
        The file, as `segkit predict` leaves it.
    height, width
        Size of the slide in level-0 pixels.
    on_share
        Called while the file is read.

    Attributes
    ----------
    labels
        Names of the classes, in the order in which they occur.
    sizes
        Sizes of blocks, smallest first.
    num_objects
        How many there are.

    Raises
    ------
    InputError
        The file cannot be read, or a line is no object.
    """

    def __init__(self, path: Path, height: int, width: int, on_share: OnShare) -> None:
        self._path = path
        self.sizes = block_sizes(height, width)
        self.labels: list[str] = []
        boxes, offsets, lengths, labels = array("d"), array("q"), array("q"), array("l")
        number_of: dict[str, int] = {}
        for offset, line in _lines(path, on_share):
            label, (left, top, right, bottom) = self._survey(line, len(offsets) + 1)
            boxes.extend((left, top, right, bottom))
            offsets.append(offset)
            lengths.append(len(line))
            labels.append(number_of.setdefault(label, len(number_of)))
        self.labels = list(number_of)
        self.num_objects = len(offsets)
        keys = self._keys(np.array(boxes, np.float64).reshape(-1, 4))
        self._order = np.argsort(keys, kind="stable")
        self._keys_sorted = keys[self._order]
        self._offsets, self._lengths, self._labels = (np.array(column) for column in (offsets, lengths, labels))

    def counts(self, size: int) -> NDArray[np.int64]:
        """Return how many objects each block of a size has, int64 (rows, columns)."""
        first = self._first_key(size)
        side = self.sizes[size]
        own = self._keys_sorted[(self._keys_sorted >= first) & (self._keys_sorted < first + side.rows * side.columns)]
        return np.bincount(own - first, minlength=side.rows * side.columns).reshape(side.rows, side.columns)

    def block(self, size: int, row: int, column: int, detail: int) -> list[dict[str, Any]]:
        """Return the objects of a block.

        Parameters
        ----------
        size
            Index into `sizes`.
        row, column
            The block.
        detail
            0 to 20: positions are rounded to 2**detail / 8 level-0 pixels; what then falls together is left out.

        Returns
        -------
        list of dict
            `id` (the number in objects.csv, from 1), `label` (index into `labels`) and `rings`: each a flat list x, y,
            dx, dy, dx, dy, ... of whole numbers, the outline first, then holes.

        Raises
        ------
        LookupError
            There is no such block or detail.
        InputError
            The file has changed or is damaged.
        """
        side = self.sizes[size]
        if not (0 <= row < side.rows and 0 <= column < side.columns and 0 <= detail <= MAX_DETAIL):
            raise LookupError((size, row, column, detail))
        key = self._first_key(size) + row * side.columns + column
        first, last = np.searchsorted(self._keys_sorted, [key, key + 1])
        found = []
        with self._path.open("rb") as file:
            for number in np.sort(self._order[first:last]).tolist():
                file.seek(self._offsets[number])
                feature = self._parse(file.read(int(self._lengths[number])), number + 1)
                rings = [rounded_ring(ring, detail) for ring in feature["geometry"]["coordinates"]]
                found.append({"id": number + 1, "label": int(self._labels[number]), "rings": rings})
        return found

    def _survey(self, line: bytes, number: int) -> tuple[str, tuple[float, float, float, float]]:
        """Return an object's class and its left, top, right and bottom."""
        feature = self._parse(line, number)
        try:
            label = feature["properties"]["classification"]["name"]
            xs, ys = zip(*feature["geometry"]["coordinates"][0], strict=True)
            box = float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._damaged(number, f"{type(error).__name__}: {error}") from error
        if not all(abs(at) < 1e9 for at in box) or not isinstance(label, str):
            raise self._damaged(number, "a position or class that is none")
        return label, box

    def _parse(self, line: bytes, number: int) -> Any:
        try:
            feature = json.loads(line)
            if feature["geometry"]["type"] != "Polygon":
                raise ValueError(f"a {feature['geometry']['type']}, and objects are polygons")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(number, str(error)) from error
        return feature

    def _damaged(self, number: int, found: str) -> InputError:
        return InputError(
            f"{self._path}: object {number} is not as segkit predict writes it ({found:.200}). Predict again with "
            "--overwrite."
        )

    def _keys(self, boxes: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the number of each object's block, counted through all sizes."""
        left, top, right, bottom = boxes.T
        extent = np.maximum(right - left, bottom - top)
        sides = np.array([size.side_px for size in self.sizes])
        size = np.minimum(np.searchsorted(sides, extent), len(sides) - 1)
        rows, columns = (np.array([getattr(one, name) for one in self.sizes])[size] for name in ("rows", "columns"))
        row = np.clip((top + bottom) / 2 // sides[size], 0, rows - 1)
        column = np.clip((left + right) / 2 // sides[size], 0, columns - 1)
        first = np.array([self._first_key(number) for number in range(len(self.sizes))])[size]
        keys: NDArray[np.int64] = (first + row * columns + column).astype(np.int64)
        return keys

    def _first_key(self, size: int) -> int:
        return sum(one.rows * one.columns for one in self.sizes[:size])


def block_sizes(height: int, width: int) -> list[BlockSize]:
    """Return the sizes of blocks of a slide, smallest first; the last one is a single block."""
    side = SMALLEST_BLOCK_PX
    while -(-height // side) * -(-width // side) > MOST_BLOCKS:
        side *= 2
    sizes = [BlockSize(side, -(-height // side), -(-width // side))]
    while sizes[-1].rows * sizes[-1].columns > 1:
        side *= 2
        sizes.append(BlockSize(side, -(-height // side), -(-width // side)))
    return sizes


def rounded_ring(ring: Sequence[Sequence[float]], detail: int) -> list[int]:
    """Return a ring on a grid of 2**detail / 8 pixels as x, y, dx, dy, dx, dy, ...; repeated points are left out."""
    points = np.rint(np.array(ring, np.float64)[:, :2] * (FINEST_GRID / 2**detail)).astype(np.int64)
    steps = np.diff(points, axis=0)
    moved = steps[steps.any(axis=1)]
    return [*points[0].tolist(), *moved.ravel().tolist()]


def _lines(path: Path, on_share: OnShare) -> Iterator[tuple[int, bytes]]:
    """Yield where each object begins in the file, and its text."""
    unlike = f"{path}: is no file of objects as segkit predict writes it. Predict again with --overwrite."
    try:
        with path.open("rb") as file:
            total = max(1, os.fstat(file.fileno()).st_size)
            if file.readline(len(_HEADER) + 2).rstrip() != _HEADER:
                raise InputError(unlike)
            offset = file.tell()
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
                    raise InputError(unlike)
                text = line.rstrip(b",\n")
                if text == b"]}":
                    return
                yield offset, text
                offset += len(line)
                number += 1
                if number % _LINES_BETWEEN_REPORTS == 0:
                    on_share(offset / total)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the permissions.") from error
    raise InputError(f"{path}: ends in the middle. Predict again with --overwrite.")
