"""From blocks to objects: pieces are joined across the borders of blocks, row by row of blocks from the top."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from segkit.geometry import BLOCK_PX
from segkit.inference.contours import (
    Chains,
    Segments,
    count_segments,
    find_segments,
    join,
    ranges,
    ring_order,
    without_slits,
)

_DIAGONAL = math.sqrt(0.5)
_POINTS_AT_ONCE = 2**16  # that become coordinates of polygons

Block = Mapping[str, NDArray[Any]]
Numbers = NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class MapObject:
    """An object of one class; lengths in pixels of the map, pixel centres at + 0.5.

    It is a connected component (4-neighbourhood) of its class, or an instance, which others of its class may touch.

    Attributes
    ----------
    class_index
        Its class.
    rings
        Outline first, then holes, each (N, 2) float64 x, y, closed (first point = last). They run half-way between
        pixel centres inside and outside, so that filling them by the pixel-centre rule gives the component back.
        Each begins with its uppermost point, the leftmost of these; holes are in the order of these points.
    area_px
        Number of pixels.
    x, y
        Centroid.
    perimeter_px
        Length of all rings.
    probability
        Mean foreground probability over its pixels, 0..1.
    """

    class_index: int
    rings: list[NDArray[np.float64]]
    area_px: int
    x: float
    y: float
    perimeter_px: float
    probability: float


class _Pieces(NamedTuple):
    """Objects, or pieces of them: class uint8 (n,), sums int64 (n, S), segments int64 (n, 2) as in a block."""

    classes: NDArray[np.uint8]
    sums: Numbers
    segments: Numbers

    def take(self, index: slice | NDArray[np.bool_]) -> "_Pieces":
        return _Pieces(self.classes[index], self.sums[index], self.segments[index])


class ObjectJoiner:
    """Joins the blocks of a map and passes on each object as soon as it ends.

    Objects are the same, to the last bit, however the map is cut into blocks; they come in an order that depends on
    the map and its blocks only. Memory holds a row of blocks and the outlines of the objects that are still open.

    Parameters
    ----------
    height, width
        Of the map.
    num_classes
        Background included.
    on_object
        Called with each object.
    block_px
        Side of the blocks, which are cut at the right and bottom border of the map.
    instances
        Blocks are those of `instance_pieces.trace_instances`, which say what goes on beyond their right and bottom
        borders, and not of `pieces.trace_block`, whose pieces go on in all neighbours of their class.
    min_area_px
        Smaller objects are not passed on.
    """

    def __init__(
        self,
        height: int,
        width: int,
        num_classes: int,
        on_object: Callable[[MapObject], None],
        *,
        block_px: int = BLOCK_PX,
        instances: bool = False,
        min_area_px: int = 0,
    ) -> None:
        self._height, self._width, self._num_classes, self._on_object = height, width, num_classes, on_object
        self._block_px, self._top, self._instances, self._min_area_px = block_px, 0, instances, min_area_px
        # Instances have the number of pixels of each class behind the other sums.
        num_sums = 4 + num_classes * instances
        self._open = _Pieces(np.empty(0, np.uint8), np.empty((0, num_sums), np.int64), np.empty((0, 2), np.int64))
        # The outlines of the open objects: rings, and chains with the number of the one that follows each, or -1.
        self._rings, self._chains = _no_chains(), _no_chains()
        self._following = np.empty(0, np.int64)
        # The lowest row so far, with a pixel of background at both ends: numbers of open objects from 1.
        self._line = np.zeros(width + 2, np.int64)
        # Of instances, whether these go on below.
        self._goes_on = np.zeros(width + 2, bool)

    def add_row(self, blocks: Sequence[Block | None]) -> None:
        """Take the next row of blocks, left to right; None has no objects.

        Raises
        ------
        ValueError
            There are too many rows, not as many blocks as the map is wide, or a block has another size than there is
            room for or a class that does not exist (a programmer's mistake).
        """
        lefts = range(0, self._width, self._block_px)
        if len(blocks) != len(lefts) or self._top >= self._height:
            raise ValueError(f"{len(blocks)} blocks at row {self._top} of a map of {self._height} x {self._width} px")
        height = min(self._block_px, self._height - self._top)
        lines = np.zeros((2, self._width + 2), np.int64)
        # The outermost columns of all blocks, with one of background at both ends: each two are a seam.
        columns = np.zeros((height, 2 * len(blocks) + 2), np.int64)
        # Of instances, whether they go on below and beyond the right border.
        below, beyond = np.zeros(self._width + 2, bool), np.zeros((height, len(blocks) + 1), bool)
        pieces, outlines, count = [self._open], [_no_chains()], len(self._open.classes)
        for number, (left, block) in enumerate(zip(lefts, blocks, strict=True)):
            if block is None:
                continue
            width = min(self._block_px, self._width - left)
            if (len(block["left"]), len(block["top"])) != (height, width) or block["class"].max(
                initial=0
            ) >= self._num_classes:
                raise ValueError(f"the block at {self._top}, {left} is not one of this map")
            across = slice(left + 1, left + 1 + width)
            borders = (lines[0, across], lines[1, across], columns[:, 2 * number + 1], columns[:, 2 * number + 2])
            for border, name in zip(borders, ("top", "bottom", "left", "right"), strict=True):
                border[:] = np.where(block[name] > 0, block[name] + np.int64(count), 0)
            if self._instances:
                below[across], beyond[:, number + 1] = block["goes_below"], block["goes_right"]
            num_open = max(int(block[name].max()) for name in ("top", "bottom", "left", "right"))
            all_pieces, all_chains = _placed(block, self._top, left)
            of_open, of_finished = _split(all_chains, num_open)
            self._pass_on(all_pieces.take(slice(num_open, None)), of_finished)
            pieces.append(all_pieces.take(slice(num_open)))
            outlines.append(of_open._replace(owner=of_open.owner + count))
            count += num_open
        all_pieces = _Pieces(*map(np.concatenate, zip(*pieces, strict=True)))
        goes_on = np.concatenate([self._goes_on, beyond.ravel()])
        self._pass_on(*self._advance(lines, columns, goes_on, all_pieces, _together(outlines)))
        self._top, self._goes_on = self._top + height, below

    def finish(self) -> None:
        """Pass on the objects that touch the bottom border.

        Raises
        ------
        ValueError
            Rows are missing (a programmer's mistake).
        """
        if self._top != self._height:
            raise ValueError(f"{self._top} of {self._height} rows of the map are there")
        lines = np.zeros((2, self._width + 2), np.int64)
        self._pass_on(*self._advance(lines, np.zeros((0, 2), np.int64), self._goes_on, self._open, _no_chains()))

    def _advance(
        self, lines: Numbers, columns: Numbers, goes_on: NDArray[np.bool_], pieces: _Pieces, outlines: Chains
    ) -> tuple[_Pieces, Chains]:
        """Join the open objects to the pieces of a row of blocks, and these to each other; return what has ended.

        Pieces, `self._open` first, are numbered from 1 on in the row's top and bottom line and its columns;
        `outlines` are those of the row's pieces. `goes_on` tells for each two pixels on both sides of a border, above
        the row, then between its blocks, whether an instance lies on both.
        """
        seam = np.stack([self._line, lines[0]])
        pairs = np.concatenate([seam.T, columns.reshape(-1, 2)])
        if not self._instances:
            class_of = np.append(np.uint8(0), pieces.classes)
            goes_on = class_of[pairs[:, 0]] == class_of[pairs[:, 1]]
        object_of = _unite(len(pieces.classes), pairs[goes_on & (pairs > 0).all(axis=1)] - 1)
        number = np.append(0, object_of + 1)
        segments = _between_blocks(number[seam], number[columns], self._top, self._width, self._block_px)
        owner = segments.values - 1
        objects = _add_up(pieces, object_of, owner, segments.diagonal)

        points = np.stack([segments.starts(), segments.ends()], axis=1).reshape(-1, 2).astype(np.int32)
        between = Chains(owner, np.full(len(owner), 2), np.zeros(len(owner), bool), points)
        outlines, old_rings, old_chains = (
            chains._replace(owner=object_of[chains.owner]) for chains in (outlines, self._rings, self._chains)
        )
        # What is new is joined as far as it goes, so that fewer and longer chains wait for their objects to end.
        new = _together([outlines.take(np.flatnonzero(~outlines.closed)), between])
        new = join(new, self._link(new, np.full(len(new.owner), -1)))
        rings = _together([old_rings, *(one.take(np.flatnonzero(one.closed)) for one in (outlines, new))])
        chains = _together([old_chains, new.take(np.flatnonzero(~new.closed))])
        following = np.append(self._following, np.full(len(chains.owner) - len(old_chains.owner), -1))
        following = self._link(chains, following)

        is_open = np.zeros(len(objects.classes) + 1, bool)
        is_open[number[lines[1]]] = True
        is_open[0] = False
        self._line = np.where(is_open, np.cumsum(is_open), 0)[number[lines[1]]]
        is_open = is_open[1:]
        self._open, self._rings = objects.take(is_open), _of_objects(rings, is_open)
        self._chains, self._following = _of_objects(chains, is_open), _renumbered(following, is_open[chains.owner])
        closed = join(_of_objects(chains, ~is_open), _renumbered(following, ~is_open[chains.owner]))
        return objects.take(~is_open), _together([_of_objects(rings, ~is_open), closed])

    def _link(self, chains: Chains, following: Numbers) -> Numbers:
        """Return `following` with the open ends linked to the chains that begin where they end, if these are there."""
        is_end = following < 0
        is_start = np.ones(len(following), bool)
        is_start[following[~is_end]] = False
        first = chains.first
        keys = []
        for chosen, position in ((is_start, first), (is_end, first + chains.length - 1)):
            # One number for object, y and x: outlines of two objects can meet in a point.
            y, x = chains.points[position[chosen]].astype(np.int64).T + 1
            keys.append((chains.owner[chosen] * (2 * self._height + 2) + y) * (2 * self._width + 2) + x)
        starts, ends = keys
        order = np.argsort(starts)
        place = np.searchsorted(starts, ends, sorter=order)
        known = place < len(starts)
        known[known] = starts[order[place[known]]] == ends[known]
        linked = following.copy()
        linked[np.flatnonzero(is_end)[known]] = np.flatnonzero(is_start)[order[place[known]]]
        return linked

    def _pass_on(self, pieces: _Pieces, rings: Chains) -> None:
        """Pass on finished objects."""
        if self._min_area_px > 0:
            large = pieces.sums[:, 0] >= self._min_area_px
            pieces, rings = pieces.take(large), _of_objects(rings, large)
        classes = pieces.classes
        if self._instances:
            # An instance is of the class that most of its pixels are of, the first of several; background is none.
            classes = 1 + pieces.sums[:, 5:].argmax(axis=1).astype(np.uint8)
            cut = without_slits(rings)
            if cut is not rings:
                rings, pieces = cut, pieces._replace(segments=count_segments(cut, len(classes)))
        area, y, x, foreground = pieces.sums[:, :4].T
        columns = (
            classes,
            np.bincount(rings.owner, minlength=len(area)),
            area,
            y / area + 0.5,
            x / area + 0.5,
            pieces.segments[:, 0] + pieces.segments[:, 1] * _DIAGONAL,
            foreground / area / 255,
        )
        outlines = _polygons(rings)
        for row in zip(*(column.tolist() for column in columns), strict=True):
            class_index, num_rings, area_px, y_px, x_px, perimeter_px, probability = row
            found = MapObject(
                class_index=class_index,
                rings=list(islice(outlines, num_rings)),
                area_px=area_px,
                x=x_px,
                y=y_px,
                perimeter_px=perimeter_px,
                probability=probability,
            )
            self._on_object(found)


def _polygons(rings: Chains) -> Iterator[NDArray[np.float64]]:
    """Yield rings by owner, outline first, then holes, as they are in a `MapObject`."""
    order = ring_order(rings)
    starts, lengths = rings.first[order], rings.length[order] + 1
    batch = np.cumsum(lengths) // _POINTS_AT_ONCE
    for chosen in np.split(np.arange(len(order)), np.flatnonzero(np.diff(batch)) + 1):
        start, length = starts[chosen], lengths[chosen]
        index = ranges(start, length)
        stop = np.cumsum(length)
        index[stop - 1] = start
        points = rings.points[index][:, ::-1] * 0.5
        points += 0.5
        bounds = [0, *stop.tolist()]
        yield from (points[first:last] for first, last in pairwise(bounds))


def _placed(block: Block, top: int, left: int) -> tuple[_Pieces, Chains]:
    """Return a block's components and their chains in the map's pixels."""
    sums = block["sums"].astype(np.int64)
    sums[:, 1:3] += sums[:, :1] * np.array([top, left])
    points = block["points"].astype(np.int32) + np.array([2 * top, 2 * left], np.int32)
    chains = Chains(
        block["chain_owner"].astype(np.int64),
        block["chain_length"].astype(np.intp),
        block["chain_closed"].astype(bool),
        points,
    )
    return _Pieces(block["class"], sums, block["segments"].astype(np.int64)), chains


def _split(chains: Chains, num_open: int) -> tuple[Chains, Chains]:
    """Return the chains of the first components and those of the others, whose numbers begin at 0 again."""
    number = int(np.searchsorted(chains.owner, num_open))
    point = int(chains.length[:number].sum())
    owner, length, closed, points = chains
    return (
        Chains(owner[:number], length[:number], closed[:number], points[:point]),
        Chains(owner[number:] - num_open, length[number:], closed[number:], points[point:]),
    )


def _no_chains() -> Chains:
    return Chains(np.empty(0, np.int64), np.empty(0, np.intp), np.empty(0, bool), np.empty((0, 2), np.int32))


def _together(chains: Sequence[Chains]) -> Chains:
    return Chains(*map(np.concatenate, zip(*chains, strict=True)))


def _of_objects(chains: Chains, wanted: NDArray[np.bool_]) -> Chains:
    """Return the chains of some objects, which are numbered anew."""
    chosen = wanted[chains.owner]
    owner = (np.cumsum(wanted) - 1)[chains.owner[chosen]]
    points = chains.points if chosen.all() else chains.points[np.repeat(chosen, chains.length)]
    return Chains(owner, chains.length[chosen], chains.closed[chosen], points)


def _renumbered(following: Numbers, chosen: NDArray[np.bool_]) -> Numbers:
    """Return what follows those chosen, numbered anew; what follows one is chosen with it."""
    number = np.append(np.cumsum(chosen) - 1, -1)  # -1, none, stays
    return number[following[chosen]]


def _unite(count: int, pairs: Numbers) -> Numbers:
    """Return each piece's object; `pairs` (n, 2) are those that go together."""
    edges = np.unique(pairs, axis=0)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    # They are numbered in the order of their first pieces.
    return np.asarray(connected_components(graph, directed=False)[1], np.int64) if count else np.empty(0, int)


def _between_blocks(seam: Numbers, columns: Numbers, top: int, width: int, block_px: int) -> Segments:
    """Return the outlines between the blocks of a row and to the row above, with cells numbered as the map's pixels.

    `seam` (2, W + 2) holds the objects of the lines on both sides of the border above, `columns` those of the
    outermost columns of the blocks.
    """
    above = find_segments(seam)
    above = above._replace(y=above.y + top - 1, x=above.x - 1)
    beside = find_segments(columns)
    # Every other cell lies within a block, whose other columns are not there.
    beside = Segments(*(values[beside.x % 2 == 0] for values in beside))
    beside = beside._replace(y=beside.y + top, x=np.minimum(beside.x // 2 * block_px, width) - 1)
    return Segments(*map(np.concatenate, zip(above, beside, strict=True)))


def _add_up(pieces: _Pieces, object_of: Numbers, owner: Numbers, diagonal: NDArray[np.bool_]) -> _Pieces:
    """Return the objects made of pieces, and of segments between blocks that belong to the objects `owner`."""
    count = int(object_of.max(initial=-1)) + 1
    classes = np.zeros(count, np.uint8)
    classes[object_of] = pieces.classes
    sums, segments = np.zeros((count, pieces.sums.shape[1]), np.int64), np.zeros((count, 2), np.int64)
    np.add.at(sums, object_of, pieces.sums)
    np.add.at(segments, object_of, pieces.segments)
    np.add.at(segments, (owner, diagonal.astype(np.intp)), 1)
    return _Pieces(classes, sums, segments)
