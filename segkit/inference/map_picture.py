"""A small picture of a map, made from small pictures of its blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import BLOCK_PX
from segkit.inference.layout import MapLayout
from segkit.slides.pyramid_levels import Reduce, halve

LONGEST_PX = 2048


class MapPicture:
    """Shrinks a map of any size to at most `LONGEST_PX` by halving it.

    Parameters
    ----------
    layout
        The map.
    reduce
        How pixels become one: `nearest` keeps class ids.
    """

    def __init__(self, layout: MapLayout, reduce: Reduce) -> None:
        self._layout, self._reduce = layout, reduce
        self._halvings = 0
        while max(layout.height, layout.width) > LONGEST_PX << self._halvings and BLOCK_PX >> self._halvings > 1:
            self._halvings += 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        step = 1 << self._halvings
        return -(-self._layout.height // step), -(-self._layout.width // step)

    def of_block(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return what is kept of a block, uint8 (h, w)."""
        small = pixels[..., None]
        for _ in range(self._halvings):
            small = halve(small, self._reduce)
        return {"pixels": np.ascontiguousarray(small[..., 0])}

    def join(self, row: Callable[[int], Sequence[dict[str, NDArray[Any]] | None]]) -> NDArray[np.uint8]:
        """Return the picture, uint8 (h, w), from the blocks of each row; None is a block of zeros."""
        picture = np.zeros(self.size, np.uint8)
        side = self._layout.block_px >> self._halvings
        for number in range(self._layout.block_rows):
            for column, block in enumerate(row(number)):
                if block is not None:
                    height, width = block["pixels"].shape
                    y, x = number * side, column * side
                    picture[y : y + height, x : x + width] = block["pixels"]
        return picture
