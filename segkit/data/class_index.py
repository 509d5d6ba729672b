"""Where the pixels of each class are: how many there are, and which is the n-th of them.

Positions of all pixels would take eight times the memory of the masks: counts of rows, or of blocks, and one look at
the pixels of the row or block that is meant, do the same.
"""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box

BLOCK_PX: Final = 512
CHUNK_BYTES: Final = 2**24
"""How much of a map is looked at at once, so that one on disk is never in memory as a whole."""


class ClassIndex(Protocol):
    """`counts[c]` is the number of pixels of class c, c < `num_classes`."""

    counts: NDArray[np.int64]

    def pixel(self, index: int, rank: int) -> tuple[int, int]:
        """Return row and column of the pixel of this rank (from 0 on) among those of class `index`."""


class RowIndex:
    """Of a map in memory (or mapped into it), (H, W, P) uint8 whose plane 0 holds classes; ranks are in reading order.

    Values from `num_classes` on, such as `IGNORE`, are no class.
    """

    def __init__(self, target: NDArray[np.uint8], num_classes: int) -> None:
        self._target = target
        self._rows = np.zeros((num_classes, len(target)), np.int64)
        step = max(1, CHUNK_BYTES // max(1, target[0].nbytes))
        for top in range(0, len(target), step):
            plane = np.ascontiguousarray(target[top : top + step, :, 0])
            for index in range(num_classes):
                self._rows[index, top : top + step] = np.count_nonzero(plane == index, axis=1)
        np.cumsum(self._rows, axis=1, out=self._rows)
        self.counts = self._rows[:, -1]

    def pixel(self, index: int, rank: int) -> tuple[int, int]:
        """Return row and column of the pixel of this rank (from 0 on) among those of class `index`."""
        rows = self._rows[index]
        row = int(np.searchsorted(rows, rank, side="right"))
        rank -= int(rows[row - 1]) if row else 0
        return row, int(np.flatnonzero(self._target[row, :, 0] == index)[rank])


class RegionTarget(Protocol):
    """A map that is read by region."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, planes."""

    def cut(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box, (height, width, planes) uint8.

        Where it leaves the map, it is mirrored like the image, or `IGNORE` in plane 0.
        """

    def is_background(self, box: Box) -> bool:
        """Tell whether it is known without looking that all of a box inside is class 0."""


class BlockIndex:
    """Of a map that is read by region; ranks are in reading order of blocks, and of pixels within a block."""

    def __init__(self, target: RegionTarget, num_classes: int) -> None:
        self._target = target
        height, width = target.shape[:2]
        self._boxes = [
            Box(y, x, min(BLOCK_PX, height - y), min(BLOCK_PX, width - x))
            for y in range(0, height, BLOCK_PX)
            for x in range(0, width, BLOCK_PX)
        ]
        counts = np.zeros((num_classes, len(self._boxes)), np.int64)
        for number, box in enumerate(self._boxes):
            if target.is_background(box):
                counts[0, number] = box.area
            else:
                plane = target.cut(box)[..., 0]
                counts[:, number] = np.bincount(plane.ravel(), minlength=256)[:num_classes]
        self._sums = np.cumsum(counts, axis=1)
        self.counts = self._sums[:, -1]

    def pixel(self, index: int, rank: int) -> tuple[int, int]:
        """Return row and column of the pixel of this rank (from 0 on) among those of class `index`."""
        sums = self._sums[index]
        number = int(np.searchsorted(sums, rank, side="right"))
        rank -= int(sums[number - 1]) if number else 0
        box = self._boxes[number]
        inside = (
            rank
            if self._target.is_background(box)
            else int(np.flatnonzero(self._target.cut(box)[..., 0] == index)[rank])
        )
        row, column = divmod(inside, box.width)
        return box.y + row, box.x + column
