"""Candidates of one class on a map that is worked up in blocks: sums over disks, runs of maxima, plateaus of runs.

All numbers are integers, so that no order of adding can change them, and what is found does not depend on how a map
is cut.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from segkit.points import FULL_SCORE

RIM = 2
"""Pixels around a place whose sums tell which of its pixels are maxima: their neighbours, and the neighbours of these,
because one that is as high may have a higher one beside it."""

_OUTSIDE = -1  # lower than any sum


class Runs(NamedTuple):
    """Neighbouring pixels of a row that are equal and have no higher neighbour, as columns (N,) of a table.

    `cls` int32, the class from 1 on; `y`, `first` and `last` int32, the row and the columns of the first and the last
    pixel; `total` int64, their sum over the disk; `slope` uint8, 1 where one of them touches a pixel of the same sum
    that has a higher neighbour.
    """

    cls: NDArray[np.integer[Any]]
    y: NDArray[np.integer[Any]]
    first: NDArray[np.integer[Any]]
    last: NDArray[np.integer[Any]]
    total: NDArray[np.integer[Any]]
    slope: NDArray[np.integer[Any]]

    def take(self, which: NDArray[Any] | slice) -> "Runs":
        """Return some rows of the table."""
        return Runs(*(values[which] for values in self))


_NONE = np.zeros(0, np.int32)
NO_RUNS = Runs(_NONE, _NONE, _NONE, _NONE, np.zeros(0, np.int64), np.zeros(0, np.uint8))


class Disk:
    """The pixels up to a distance from a pixel.

    Attributes
    ----------
    reach
        Rows above and below the centre.
    num_pixels
        How many there are.
    """

    def __init__(self, radius: float) -> None:
        self.reach = math.floor(radius)
        # A disk is a stack of chords; a chord's sum is the difference of two running sums along its row.
        offsets = np.arange(-self.reach, self.reach + 1)
        inside = offsets[:, None] ** 2 + offsets**2 <= radius * radius
        self._half_chords: list[int] = (inside.sum(axis=1) // 2).tolist()
        self.num_pixels = int(inside.sum())

    def sums(self, scores: NDArray[np.uint16]) -> NDArray[np.signedinteger[Any]]:
        """Return the sums over the disks that lie wholly in an array: `reach` less on each side.

        The result is int32 where that holds them, int64 otherwise.
        """
        height, width = (side - 2 * self.reach for side in scores.shape)
        largest = FULL_SCORE * max(self.num_pixels, scores.shape[1])
        sums = np.zeros((height, width), np.int32 if largest < 2**31 else np.int64)
        running = np.zeros((scores.shape[0], scores.shape[1] + 1), sums.dtype)
        np.cumsum(scores, axis=1, out=running[:, 1:])
        for dy, half in enumerate(self._half_chords):
            chords = running[dy : dy + height]
            sums += chords[:, self.reach + half + 1 : self.reach + half + 1 + width]
            sums -= chords[:, self.reach - half : self.reach - half + width]
        return sums


def find_maxima(sums: NDArray[np.signedinteger[Any]], lowest: int) -> tuple[NDArray[Any], ...]:
    """Return the runs of pixels of at least `lowest` that have no higher neighbour, in reading order.

    Parameters
    ----------
    sums
        (h + 2 * RIM, w + 2 * RIM): those of a place and around it, -1 outside the map.

    Returns
    -------
    tuple
        Row, first and last column in the place, sum, and slope, as in `Runs`.
    """
    is_top = sums[1:-1, 1:-1] == _highest_around(sums)
    ys, xs = np.nonzero(is_top[1:-1, 1:-1] & (sums[RIM:-RIM, RIM:-RIM] >= lowest))
    totals = sums[ys + RIM, xs + RIM]
    # None of a top's neighbours is higher, so that of those that are no tops the highest tells.
    no_tops = np.where(is_top, sums.dtype.type(_OUTSIDE), sums[1:-1, 1:-1])
    slope = (_highest_around(no_tops)[ys, xs] == totals).astype(np.uint8)
    # Tops that are neighbours are equal.
    first, last = _ends((np.diff(ys, prepend=-1) == 0) & (np.diff(xs, prepend=-1) == 1))
    if len(first):
        slope = np.maximum.reduceat(slope, first)
    return ys[first], xs[first], xs[last], totals[first], slope


def _highest_around(values: NDArray[np.signedinteger[Any]]) -> NDArray[np.signedinteger[Any]]:
    """Return the highest of each pixel and its eight neighbours, one row and column less on each side."""
    rows = np.maximum(np.maximum(values[:, :-2], values[:, 2:]), values[:, 1:-1])
    highest: NDArray[np.signedinteger[Any]] = np.maximum(np.maximum(rows[:-2], rows[2:]), rows[1:-1])
    return highest


def pad_outside(
    sums: NDArray[np.signedinteger[Any]], *, rows: tuple[int, int], columns: tuple[int, int]
) -> NDArray[np.signedinteger[Any]]:
    """Return sums with so many rows and columns before and after them that lie outside the map."""
    return np.pad(sums, (rows, columns), constant_values=_OUTSIDE)


def join_runs(blocks: Iterable[Mapping[str, NDArray[Any]] | None]) -> Runs:
    """Return the runs of a whole map, by class and then in reading order, from those of its blocks in any order.

    Parameters
    ----------
    blocks
        The columns of `Runs` by name, with positions in the map; None: no runs.
    """
    tables = [NO_RUNS, *(Runs(**block) for block in blocks if block is not None)]
    runs = Runs(*(np.concatenate(columns) for columns in zip(*tables, strict=True)))
    runs = runs.take(np.lexsort((runs.first, runs.y, runs.cls)))
    # Where a block ends in the middle of a run, the next one goes on with it.
    same_row = (np.diff(runs.cls, prepend=-1) == 0) & (np.diff(runs.y, prepend=-1) == 0)
    first, last = _ends(same_row & (runs.first == np.roll(runs.last, 1) + 1))
    if len(first) == len(runs.y):
        return runs
    return runs.take(first)._replace(last=runs.last[last], slope=np.maximum.reduceat(runs.slope, first))


def find_plateaus(runs: Runs, width: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Join runs of one class in reading order into plateaus; leave out those with a higher pixel beside them.

    Parameters
    ----------
    width
        Of the map.

    Returns
    -------
    tuple
        Mean position of each plateau's pixels, float64 (N, 2) y, x, and its sum, int64 (N,).
    """
    y, first, last = (values.astype(np.int64) for values in (runs.y, runs.first, runs.last))
    # The runs of the row above that touch one, also at a corner, follow each other.
    pitch = width + 2
    begin = np.searchsorted(y * pitch + last, (y - 1) * pitch + first - 1, side="left")
    end = np.searchsorted(y * pitch + first, (y - 1) * pitch + last + 1, side="right")
    counts = end - begin
    below = np.repeat(np.arange(len(y)), counts)
    above = np.arange(len(below)) - np.repeat(np.cumsum(counts) - counts - begin, counts)
    touching = coo_array((np.ones(len(below), np.bool_), (below, above)), shape=(len(y), len(y)))
    number, labels = connected_components(touching, directed=False)

    def total(values: NDArray[np.int64]) -> NDArray[np.int64]:
        sums = np.zeros(number, np.int64)
        np.add.at(sums, labels, values)
        return sums

    length = last - first + 1
    num_pixels, sum_y, sum_x = total(length), total(y * length), total((first + last) * length // 2)
    value = np.zeros(number, np.int64)
    value[labels] = runs.total
    is_maximum = total(runs.slope.astype(np.int64)) == 0
    positions = np.stack([sum_y / num_pixels, sum_x / num_pixels], axis=1)
    return positions[is_maximum], value[is_maximum]


def _ends(continues: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first and last index of each group, given which items go on with the one before them."""
    first = np.flatnonzero(~continues)
    return first, np.append(first[1:], len(continues))[: len(first)] - 1
