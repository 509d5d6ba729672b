"""Polygons painted into boxes of an image of any size, where they are looked at."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.slides.geojson import Feature, Ring, rasterise

_CELL_PX: Final = 1024


class PolygonBlocks:
    """The values of polygons in an image, 0 elsewhere; later ones cover earlier ones.

    The polygons are in memory as they are, and an index of the cells that each comes near; nothing is painted before it
    is read. What is painted does not depend on the box.

    Parameters
    ----------
    polygons
        Rings of each (outline, then holes), float64 x, y.
    values
        What is painted for each, at least 1.
    height, width
        Size of the image.
    step, origin
        The image's pixels in the polygons' coordinates: side of a pixel, and y, x of the image's top left corner.
    """

    def __init__(
        self,
        polygons: Sequence[Sequence[Ring]],
        values: Sequence[int],
        height: int,
        width: int,
        *,
        step: float = 1.0,
        origin: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.height, self.width = height, width
        corner = np.array(origin[::-1])
        moved = step != 1 or corner.any()
        self._polygons = [[(ring - corner) / step if moved else ring for ring in rings] for rings in polygons]
        self._values = list(values)
        ends = [(np.concatenate(rings).min(axis=0), np.concatenate(rings).max(axis=0)) for rings in self._polygons]
        low, high = (np.array([pair[side] for pair in ends]).reshape(-1, 2) for side in (0, 1))
        outside = np.any((high <= 0) | (low >= (width, height)), axis=1).reshape(-1)
        self.num_outside = int(outside.sum())
        """Polygons that lie outside of the image as a whole."""
        self._cells: dict[tuple[int, int], list[int]] = {}
        first, last = (np.clip(at // _CELL_PX, -1, 2**31).astype(int).tolist() for at in (low, high))
        for index, ((left, top), (right, bottom)) in enumerate(zip(first, last, strict=True)):
            if not outside[index]:
                for row in range(max(0, top), min(bottom, height // _CELL_PX) + 1):
                    for column in range(max(0, left), min(right, width // _CELL_PX) + 1):
                        self._cells.setdefault((row, column), []).append(index)

    def is_empty(self, box: Box) -> bool:
        """Tell whether no polygon comes near a box, without painting any."""
        return not self._near(box)

    def read(self, box: Box) -> NDArray[np.int32]:
        """Return the values of a box inside, int32 (height, width)."""
        near = self._near(box)
        corner = np.array([box.x, box.y], np.float64)
        features = [
            Feature(None, [[ring - corner for ring in self._polygons[index]]], np.empty((0, 2))) for index in near
        ]
        return rasterise(features, box.height, box.width, lambda _, place: self._values[near[place]])

    def _near(self, box: Box) -> list[int]:
        rows = range(box.y // _CELL_PX, (box.bottom - 1) // _CELL_PX + 1)
        columns = range(box.x // _CELL_PX, (box.right - 1) // _CELL_PX + 1)
        return sorted({index for row in rows for column in columns for index in self._cells.get((row, column), [])})
