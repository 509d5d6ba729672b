"""Outlines of the areas of a map: marching squares over cells of 2 x 2 pixels, and chains of points made of them.

Points are (y, x) in half pixels, so that all are whole numbers: the centre of pixel (i, j) is (2i, 2j). An outline
runs half-way between the centres of pixels inside and outside, clockwise on the screen around an area and
anti-clockwise around its holes. Pixels that touch at a corner only are not connected.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

# A cell's pixels and sides are numbered clockwise from its top left pixel and its top side, which lies between pixels
# 0 and 1. The middles of the sides, in half pixels from the first pixel's centre; the pixels; the cells beyond.
MIDDLES: NDArray[np.intp] = np.array([(0, 1), (1, 2), (2, 1), (1, 0)])
_PIXELS = ((0, 0), (0, 1), (1, 1), (1, 0))
_BEYOND: NDArray[np.intp] = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])


class Segments(NamedTuple):
    """Pieces of outline that cross one cell each, intp (n,): the cell, the sides where they enter and leave it.

    `values` is the value of the pixels inside.
    """

    y: NDArray[np.intp]
    x: NDArray[np.intp]
    enters: NDArray[np.intp]
    leaves: NDArray[np.intp]
    values: NDArray[Any]

    @property
    def diagonal(self) -> NDArray[np.bool_]:
        """Whether they cut a corner, and are sqrt(1/2) long; the others are 1 pixel long."""
        straight: NDArray[np.bool_] = (self.leaves - self.enters) % 4 == 2
        return ~straight

    def starts(self) -> NDArray[np.intp]:
        """Return where they enter, (n, 2) half pixels."""
        return 2 * np.stack([self.y, self.x], axis=1) + MIDDLES[self.enters]

    def ends(self) -> NDArray[np.intp]:
        """Return where they leave, (n, 2) half pixels."""
        return 2 * np.stack([self.y, self.x], axis=1) + MIDDLES[self.leaves]

    def following(self, height: int, width: int) -> NDArray[np.int32]:
        """Return for each the number of the one that it leads to, int32 (n,), -1 outside `height` x `width` pixels."""
        number = np.full((4, height + 1, width + 1), -1, np.int32)
        number[self.enters, self.y + 1, self.x + 1] = np.arange(len(self.y), dtype=np.int32)
        down, right = _BEYOND[self.leaves].T
        following: NDArray[np.int32] = number[(self.leaves + 2) % 4, self.y + 1 + down, self.x + 1 + right]
        return following


def find_segments(values: NDArray[Any]) -> Segments:
    """Return the outlines within (H, W) values: between every area of one value that is not 0 and what is around it.

    What lies outside is unknown: there are cells between the given pixels only.
    """
    height, width = values.shape
    corners = [values[y : height - 1 + y, x : width - 1 + x] for y, x in _PIXELS]
    found = []
    for side in range(4):
        # A segment enters between a pixel inside and, clockwise, one outside, so the inside is on its right.
        inside, outside, diagonal, ahead = (corners[(side + turn) % 4] for turn in range(4))
        y, x = np.divmod(np.flatnonzero((inside != outside) & (inside != 0)), max(width - 1, 1))
        value = inside[y, x]
        turn = np.where(ahead[y, x] != value, 3, np.where(diagonal[y, x] != value, 2, 1))
        found.append(Segments(y, x, np.full(len(y), side), (side + turn) % 4, value))
    return Segments(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


class Chains(NamedTuple):
    """Lines of points, one after the other.

    Attributes
    ----------
    owner
        int (C,), what each belongs to.
    length
        intp (C,), number of points.
    closed
        bool (C,); the first point of a closed one, a ring, is not repeated at its end.
    points
        int (P, 2), y and x in half pixels, those of all chains.
    """

    owner: NDArray[Any]
    length: NDArray[np.intp]
    closed: NDArray[np.bool_]
    points: NDArray[Any]

    @property
    def first(self) -> NDArray[np.intp]:
        """Where in `points` each begins, (C,)."""
        return np.cumsum(self.length) - self.length

    def take(self, index: NDArray[np.intp]) -> "Chains":
        """Return these chains, in this order."""
        length = self.length[index]
        return Chains(self.owner[index], length, self.closed[index], self.points[ranges(self.first[index], length)])


def ranges(start: NDArray[np.intp], length: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the indices `start[0], start[0] + 1, ... (length[0] of them), start[1], ...`."""
    indices: NDArray[np.intp] = np.repeat(start - (np.cumsum(length) - length), length)
    return indices + np.arange(len(indices))


class Sequences(NamedTuple):
    """Items put in sequence: `order` (n,) their numbers, each sequence's `length` (C,), and whether it is a cycle."""

    order: NDArray[np.intp]
    length: NDArray[np.intp]
    closed: NDArray[np.bool_]


def follow(following: NDArray[Any]) -> Sequences:
    """Put items in sequence from the number of the one that follows each, -1 where none does.

    No two items are followed by the same one. A cycle begins with its lowest number.
    """
    count = len(following)
    if not count:
        return Sequences(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, bool))
    _, sequence = connected_components(_graph(following), directed=False)
    length = np.bincount(sequence)
    led_to = np.zeros(count, bool)
    led_to[following[following >= 0]] = True
    heads = np.flatnonzero(~led_to)
    closed = np.ones(len(length), bool)
    closed[sequence[heads]] = False
    # Of an index that occurs several times the last value stays: going backwards, the lowest number.
    first = np.empty(len(length), np.intp)
    first[sequence[::-1]] = np.arange(count)[::-1]
    first[sequence[heads]] = heads
    # Open the cycles before their first item, tie each end to the next sequence's first item, and walk along.
    is_first = np.zeros(count, bool)
    is_first[first[closed]] = True
    last = (following < 0) | is_first[following]
    line = np.array(following, np.int32)
    line[last] = np.append(first[1:], -1)[sequence[last]]
    order = breadth_first_order(_graph(line), first[0], return_predecessors=False)
    return Sequences(order.astype(np.intp), length, closed)


def _graph(following: NDArray[Any]) -> csr_array:
    leads = following >= 0
    to = following[leads].astype(np.int32)
    pointers = np.concatenate([[0], np.cumsum(leads)]).astype(np.int32)
    return csr_array((np.ones(len(to)), to, pointers), shape=(len(following), len(following)))


def join(chains: Chains, following: NDArray[Any]) -> Chains:
    """Join open chains to those that follow them (-1: none), whose first point is their last one; `tidied`."""
    order, count, closed = follow(following)
    first = np.cumsum(count) - count
    # The point that two chains share is the second one's.
    length = chains.length - 1
    length[order[(first + count - 1)[~closed]]] += 1
    points = chains.points[ranges(chains.first[order], length[order])]
    total = np.add.reduceat(length[order], first) if len(first) else length
    return tidied(Chains(chains.owner[order[first]], total, closed, points))


def tidied(chains: Chains) -> Chains:
    """Leave out points on a straight line between their neighbours, and let each ring begin with its first point.

    First is the uppermost one, and of these the leftmost. Segments run straight or at 45 degrees and are not empty.
    """
    if not len(chains.length):
        return chains
    points, first, last = chains.points, chains.first, chains.first + chains.length - 1
    direction = np.empty_like(points)
    direction[:-1] = np.sign(points[1:] - points[:-1])
    direction[last] = np.sign(points[first] - points[last])
    arriving = np.empty_like(points)
    arriving[1:] = direction[:-1]
    arriving[first] = direction[last]
    corner = (direction != arriving).any(axis=1)
    corner[first[~chains.closed]] = corner[last[~chains.closed]] = True
    points, length = points[corner], np.add.reduceat(corner, first, dtype=np.intp)
    # A point's rank, as one number.
    rank = points[:, 0].astype(np.int64) * 2**32 + points[:, 1]
    first = np.cumsum(length) - length
    rank[np.repeat(~chains.closed, length)] = 0
    lowest = np.repeat(np.minimum.reduceat(rank, first), length) == rank
    # Of an open chain all are lowest, and the first one is the first.
    shift = np.flatnonzero(lowest)
    shift = shift[np.searchsorted(shift, first)] - first
    position = np.arange(len(points)) + np.repeat(shift, length)
    end = np.repeat(first + length, length)
    position -= np.where(position >= end, np.repeat(length, length), 0)
    return Chains(chains.owner, length, chains.closed, points[position])


def without_slits(rings: Chains) -> Chains:
    """Return rings without what they run along twice, there and back; the same ones where there is no such thing.

    Where pieces that touch turn out to be one area, its outline runs between them. What is left of a ring that was
    nothing else is left out.
    """
    points, first, last = rings.points, rings.first, rings.first + rings.length - 1
    direction = np.empty_like(points)
    direction[:-1] = np.sign(points[1:] - points[:-1])
    direction[last] = np.sign(points[first] - points[last])
    arriving = np.empty_like(points)
    arriving[1:] = direction[:-1]
    arriving[first] = direction[last]
    turns_back = np.flatnonzero((direction == -arriving).all(axis=1))
    if not len(turns_back):
        return rings
    has_slit = np.zeros(len(first), bool)
    has_slit[np.searchsorted(first, turns_back, side="right") - 1] = True
    cut = []
    for number in np.flatnonzero(has_slit):
        line = _without_way_back(_step_by_step(points[first[number] : last[number] + 1]))
        if len(line) > 2:
            cut.append((rings.owner[number], np.array(line, points.dtype)))
    whole = rings.take(np.flatnonzero(~has_slit))
    return tidied(
        Chains(
            np.append(whole.owner, np.array([owner for owner, _ in cut], whole.owner.dtype)),
            np.append(whole.length, np.array([len(line) for _, line in cut], np.intp)),
            np.ones(len(whole.owner) + len(cut), bool),
            np.concatenate([whole.points, *(line for _, line in cut)]),
        )
    )


def _step_by_step(points: NDArray[Any]) -> list[tuple[int, ...]]:
    """Return a ring's corners and all points of the half-pixel lattice between them."""
    steps = np.roll(points, -1, axis=0) - points
    count = np.abs(steps).max(axis=1).astype(np.intp)
    along = ranges(np.zeros_like(count), count)[:, None]
    return list(
        map(tuple, (np.repeat(points, count, axis=0) + along * np.repeat(np.sign(steps), count, axis=0)).tolist())
    )


def _without_way_back(ring: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    kept: list[tuple[int, ...]] = []
    for point in ring:
        if len(kept) > 1 and kept[-2] == point:
            kept.pop()
        else:
            kept.append(point)
    # The ring may begin within a slit.
    start = 0
    while len(kept) - start > 2:
        if kept[start + 1] == kept[-1]:
            start += 1
            kept.pop()
        elif kept[start] == kept[-2]:
            del kept[-2:]
        else:
            break
    return kept[start:]


def count_segments(rings: Chains, number: int) -> NDArray[np.int64]:
    """Return of how many straight (1 px) and diagonal (sqrt(1/2) px) segments the rings of each owner are, (n, 2)."""
    first = rings.first
    following = np.arange(1, len(rings.points) + 1)
    following[first + rings.length - 1] = first
    steps = np.abs(rings.points[following] - rings.points).astype(np.int64)
    is_diagonal = (steps > 0).all(axis=1)
    owner = np.repeat(rings.owner, rings.length)
    counts = np.zeros((number, 2), np.int64)
    np.add.at(counts, (owner, is_diagonal.astype(np.intp)), np.where(is_diagonal, steps[:, 0], steps.max(axis=1) // 2))
    return counts


def ring_order(rings: Chains) -> NDArray[np.intp]:
    """Return the order of rings by owner, then by their first point: an area's outline comes before its holes."""
    start = rings.points[rings.first]
    return np.lexsort((start[:, 1], start[:, 0], rings.owner))
