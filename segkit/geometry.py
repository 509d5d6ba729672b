"""Boxes, tiles and mirrored borders: integers only, no images, no torch.

Coordinates are (y, x) in pixels, boxes are half open. A *tile* has a core box, which is written, and a read box
around it, which the network sees; the cores of a grid are disjoint and cover the image exactly.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CELL_PX = 512
"""Side of the cells that a map is written in and that are skipped where there is no tissue, in map pixels."""

BLOCK_PX = 2 * CELL_PX
"""Side of the blocks that a map is worked up in, in map pixels: what one thread has at hand."""


class Box(NamedTuple):
    """A half-open rectangle: rows `y .. y + height - 1`, columns `x .. x + width - 1`."""

    y: int
    x: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """First row below the box."""
        return self.y + self.height

    @property
    def right(self) -> int:
        """First column right of the box."""
        return self.x + self.width

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def intersect(self, other: "Box") -> "Box":
        """Return the common part; its height or width is 0 where there is none."""
        y, x = max(self.y, other.y), max(self.x, other.x)
        return Box(y, x, max(0, min(self.bottom, other.bottom) - y), max(0, min(self.right, other.right) - x))

    def contains(self, other: "Box") -> bool:
        """Tell whether `other` lies inside this box."""
        return self.y <= other.y and self.x <= other.x and other.bottom <= self.bottom and other.right <= self.right

    def expand(self, margin: int) -> "Box":
        """Return the box grown by `margin` pixels on every side."""
        return Box(self.y - margin, self.x - margin, self.height + 2 * margin, self.width + 2 * margin)

    def shift(self, dy: int, dx: int) -> "Box":
        """Return the box moved by (dy, dx)."""
        return Box(self.y + dy, self.x + dx, self.height, self.width)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the box in an array whose first two axes are y and x; the box must not be negative."""
        return slice(self.y, self.bottom), slice(self.x, self.right)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """How a network's output tiles lie on the image: the numbers that make tiling exact.

    Attributes
    ----------
    alignment
        Tile origins are multiples of this (2^depth for a U-Net), so that pooling sees the same pixel pairs
        wherever a tile begins.
    halo
        Pixels read around a core on each side; at least the receptive field's radius.
    margin
        Pixels that the network itself takes off each side (0 for `same` convolutions, 92 for the paper's U-Net).
        The rest, `halo - margin`, is cropped from the output.
    size_offset
        Legal input sizes are `alignment * m + size_offset`.
    smallest
        Inputs are at least this large: below it, numerical libraries add numbers up in another order, and the
        last bits of a small tile would differ from those of a large one.
    stride
        Pixels from one output to the next; the alignment is a multiple of it.
    """

    alignment: int
    halo: int
    margin: int = 0
    size_offset: int = 0
    smallest: int = 0
    stride: int = 1

    def legal_size(self, minimum: int) -> int:
        """Return the smallest legal input size that is at least `minimum`."""
        steps = -(-(minimum - self.size_offset) // self.alignment)
        return max(steps, 1) * self.alignment + self.size_offset

    def read_box(self, core: Box) -> Box:
        """Return the box to read for `core`: halo on each side, grown right and down to a legal, large enough size."""
        return Box(
            core.y - self.halo,
            core.x - self.halo,
            self.legal_size(max(core.height + 2 * self.halo, self.smallest)),
            self.legal_size(max(core.width + 2 * self.halo, self.smallest)),
        )

    def crop_in_output(self, core: Box) -> tuple[slice, slice]:
        """Return where the outputs of `core` lie in the network's output for `read_box(core)`."""
        start = (self.halo - self.margin) // self.stride
        height, width = self.map_size(core.height, core.width)
        return slice(start, start + height), slice(start, start + width)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the number of rows and columns of the output for so many pixels."""
        return -(-height // self.stride), -(-width // self.stride)


@dataclass(frozen=True, slots=True)
class Tile:
    """One piece of work: `core` is written, `read` is what the network sees; grid position in row-major order."""

    row: int
    column: int
    core: Box
    read: Box


def lay_tiles(height: int, width: int, tile_px: int, grid: TileGrid) -> Iterator[Tile]:
    """Yield the tiles of an image of `height` x `width` pixels in row-major order.

    Cores are `tile_px` squares from the origin on, cut at the right and bottom border.

    Raises
    ------
    ValueError
        `tile_px` is not a positive multiple of the grid's alignment.
    """
    if tile_px <= 0 or tile_px % grid.alignment:
        raise ValueError(f"tile_px must be a positive multiple of {grid.alignment}, got {tile_px}")
    for row, y in enumerate(range(0, height, tile_px)):
        for column, x in enumerate(range(0, width, tile_px)):
            core = Box(y, x, min(tile_px, height - y), min(tile_px, width - x))
            yield Tile(row, column, core, grid.read_box(core))


def count_tiles(height: int, width: int, tile_px: int) -> tuple[int, int]:
    """Return the number of tile rows and columns of `lay_tiles`."""
    return -(-height // tile_px), -(-width // tile_px)


def read_mirrored(
    box: Box, height: int, width: int, read_inside: Callable[[Box], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Return the pixels of a box that may reach any distance outside an image, which is mirrored there.

    Parameters
    ----------
    box
        What is wanted.
    height, width
        Of the image.
    read_inside
        Returns the pixels of a box inside; it is called once, with the smallest one that the result needs.

    Raises
    ------
    ValueError
        The box is empty.
    """
    if box.height <= 0 or box.width <= 0:
        raise ValueError(f"{box} is empty")
    if Box(0, 0, height, width).contains(box):
        return read_inside(box)
    rows, columns = mirror_indices(box.y, box.height, height), mirror_indices(box.x, box.width, width)
    top, left = int(rows.min()), int(columns.min())
    needed = Box(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
    # Twice `take`: the result is contiguous.
    return read_inside(needed).take(rows - top, axis=0).take(columns - left, axis=1)


def mirror_indices(start: int, length: int, size: int) -> NDArray[np.intp]:
    """Return indices into an axis of `size` pixels for positions `start .. start + length - 1`, mirrored outside.

    The border pixel is not repeated (numpy's and torch's `reflect`): position -1 is pixel 1. Works for positions
    any distance outside and for an axis of a single pixel.
    """
    if size == 1:
        return np.zeros(length, np.intp)
    period = 2 * (size - 1)
    folded = np.arange(start, start + length, dtype=np.intp) % period
    return np.minimum(folded, period - folded)
