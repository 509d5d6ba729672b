"""How a slide's map is cut up: parts, blocks, tiles; integers only.

The *map* is the result: one pixel for each `stride` pixels that are read, in both directions. It is cut, from its own
origin, into square *parts*, which are finished and stored one by one; a part into *blocks*, which are worked up in
threads; the pixels of a part are computed in *tiles*. A *cell* (a tile of the written pyramid) may be left out.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import BLOCK_PX, CELL_PX, Box


@dataclass(frozen=True, kw_only=True)
class MapLayout:
    """Where everything of a map lies.

    Attributes
    ----------
    region
        What is predicted, in pixels of the image that is read; its origin is a multiple of `alignment`.
    stride
        Pixels of the image that is read from one pixel of the map to the next.
    part_px
        Side of a part in map pixels, a multiple of `block_px`.
    margin
        Map pixels around a part that are computed with it, because its results depend on them.
    tile_px
        Largest side of a tile in pixels of the image that is read (the margin comes on top).
    alignment
        Of which tile origins and `margin * stride` are multiples.
    wanted
        bool (rows, columns): the cells that are computed; None: all.
    block_px
        Side of a block in map pixels.
    """

    region: Box
    stride: int
    part_px: int
    margin: int
    tile_px: int
    alignment: int
    wanted: NDArray[np.bool_] | None = None
    block_px: int = BLOCK_PX

    def __post_init__(self) -> None:
        if self.part_px % self.block_px or self.region.y % self.alignment or self.region.x % self.alignment:
            raise ValueError(f"parts and blocks do not fit: {self}")

    @property
    def height(self) -> int:
        """Rows of the map."""
        return -(-self.region.height // self.stride)

    @property
    def width(self) -> int:
        """Columns of the map."""
        return -(-self.region.width // self.stride)

    @property
    def whole(self) -> Box:
        """The map."""
        return Box(0, 0, self.height, self.width)

    @property
    def part_columns(self) -> int:
        """Parts in a row of parts."""
        return -(-self.width // self.part_px)

    @property
    def num_parts(self) -> int:
        """Number of parts; they are numbered row by row."""
        return -(-self.height // self.part_px) * self.part_columns

    @property
    def block_rows(self) -> int:
        """Rows of blocks."""
        return -(-self.height // self.block_px)

    def part(self, index: int) -> Box:
        """Return a part's place in the map."""
        row, column = divmod(index, self.part_columns)
        side = self.part_px
        return Box(row * side, column * side, side, side).intersect(self.whole)

    def grown(self, box: Box) -> Box:
        """Return a part or block with the margin around it, cut at the map's border."""
        return box.expand(self.margin).intersect(self.whole)

    def blocks(self, index: int) -> list[Box]:
        """Return the blocks of a part, row by row, as places in the map."""
        part = self.part(index)
        return [
            Box(y, x, self.block_px, self.block_px).intersect(part)
            for y in range(part.y, part.bottom, self.block_px)
            for x in range(part.x, part.right, self.block_px)
        ]

    def row_of_blocks(self, row: int) -> Iterator[tuple[int, int]]:
        """Yield part and number within the part of the blocks of a row, from left to right."""
        per_part = self.part_px // self.block_px
        part_row, row_in_part = divmod(row, per_part)
        for part_column in range(self.part_columns):
            index = part_row * self.part_columns + part_column
            columns = -(-self.part(index).width // self.block_px)
            for column in range(columns):
                yield index, row_in_part * columns + column

    @property
    def wanted_digest(self) -> str | None:
        """A fingerprint of the cells that are wanted, None for all."""
        return None if self.wanted is None else f"{zlib.crc32(np.packbits(self.wanted).tobytes()):08x}"

    def wants(self, box: Box) -> bool:
        """Tell whether a wanted cell lies in a place of the map, also in part."""
        if self.wanted is None:
            return True
        rows = slice(box.y // CELL_PX, -(-box.bottom // CELL_PX))
        columns = slice(box.x // CELL_PX, -(-box.right // CELL_PX))
        return bool(self.wanted[rows, columns].any())

    def wants_all(self, box: Box) -> bool:
        """Tell whether all cells that a place of the map touches are wanted."""
        if self.wanted is None:
            return True
        rows = slice(box.y // CELL_PX, -(-box.bottom // CELL_PX))
        columns = slice(box.x // CELL_PX, -(-box.right // CELL_PX))
        return bool(self.wanted[rows, columns].all())

    def clear_unwanted(self, layers: Sequence[NDArray[np.generic]], box: Box) -> None:
        """Set the pixels of cells that are not wanted to 0, in layers (h, w, ...) of a place of the map."""
        if self.wanted is None:
            return
        rows = np.arange(box.y, box.bottom) // CELL_PX
        columns = np.arange(box.x, box.right) // CELL_PX
        unwanted = ~self.wanted[rows[:, None], columns]
        if unwanted.any():
            for layer in layers:
                layer[unwanted] = 0

    def tiles(self, index: int) -> list[Box]:
        """Return the cores of a part's tiles, row by row, in pixels of the image that is read.

        They cover the part and its margin, where a cell is wanted, in pieces of nearly equal size.
        """
        if not self.wants(self.part(index)):
            return []
        box = self.grown(self.part(index))
        rows, columns = self._cuts(box.y, box.height), self._cuts(box.x, box.width)
        places = [Box(y, x, height, width) for y, height in rows for x, width in columns]
        # A margin may reach into wanted cells where the part itself wants none there: it is computed, too.
        return [self._in_image(place) for place in places if self.wants(place)]

    def in_map(self, core: Box) -> Box:
        """Return the place in the map of a tile's core."""
        y, x = core.y - self.region.y, core.x - self.region.x
        stride = self.stride
        return Box(y // stride, x // stride, -(-core.height // stride), -(-core.width // stride))

    @cached_property
    def num_tiles(self) -> int:
        """Number of tiles of all parts."""
        return sum(len(self.tiles(index)) for index in range(self.num_parts))

    def weights(self) -> list[int]:
        """Return how much work each part is: its number of wanted cells, which does not depend on the tiles."""
        sides = -(-self.height // CELL_PX), -(-self.width // CELL_PX)
        wanted = np.ones(sides, np.bool_) if self.wanted is None else self.wanted
        per_part = self.part_px // CELL_PX
        rows = np.add.reduceat(wanted.astype(np.int64), np.arange(0, sides[0], per_part), axis=0)
        weights: list[int] = np.add.reduceat(rows, np.arange(0, sides[1], per_part), axis=1).ravel().tolist()
        return weights

    def _cuts(self, start: int, length: int) -> list[tuple[int, int]]:
        """Return start and length of the pieces of a side of a part with its margin, in map pixels."""
        unit = max(1, self.alignment // self.stride)
        number = max(1, -(-(length - 2 * self.margin) * self.stride // self.tile_px))
        piece = -(-length // (number * unit)) * unit
        return [(start + at, min(piece, length - at)) for at in range(0, length, piece)]

    def _in_image(self, place: Box) -> Box:
        stride = self.stride
        core = Box(
            self.region.y + place.y * stride,
            self.region.x + place.x * stride,
            place.height * stride,
            place.width * stride,
        )
        return core.intersect(self.region)
