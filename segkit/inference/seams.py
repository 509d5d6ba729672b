"""Proof that tiles leave no seams: places on tile borders are computed again, each in one piece."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.inference.layout import MapLayout
from segkit.inference.pipeline import Layers, TilePredictor
from segkit.inference.sources import PixelSource

PLACE_PX = 128
"""Side of a place, in pixels of the image that is read."""


def seam_places(layout: MapLayout, number: int, seed: int = 0) -> list[Box]:
    """Return random places around corners and edges of tiles, in pixels of the image that is read.

    A place lies within the region, on the network's grid, and only where all its cells are computed. Fewer than
    `number` are returned where there are not so many: none where one tile covers all.
    """
    random = np.random.default_rng(seed)
    side = -(-PLACE_PX // layout.alignment) * layout.alignment
    region = layout.region
    places: list[Box] = []
    for _ in range(20 * number):
        tiles = layout.tiles(int(random.integers(layout.num_parts)))
        if not tiles:
            continue
        tile = tiles[int(random.integers(len(tiles)))]
        # Around the tile's lower right corner, or a point of its lower or right edge.
        across, down = random.integers(0, 3, 2)
        y = tile.bottom if down else tile.y + int(random.integers(tile.height))
        x = tile.right if across else tile.x + int(random.integers(tile.width))
        top = (y - side // 2 - region.y) // layout.alignment * layout.alignment + region.y
        left = (x - side // 2 - region.x) // layout.alignment * layout.alignment + region.x
        place = Box(top, left, side, side)
        on_a_border = (down and y < region.bottom) or (across and x < region.right)
        if on_a_border and region.contains(place) and layout.wants_all(layout.in_map(place)):
            places.append(place)
        if len(places) == number:
            break
    return places


def largest_seam_difference(
    source: PixelSource,
    predictor: TilePredictor,
    layout: MapLayout,
    number: int,
    written: Callable[[Box, Layers], float] | None = None,
) -> float:
    """Return the largest difference between places computed in one piece and what was written, or the tiles' own.

    Parameters
    ----------
    source, predictor, layout
        Those of the slide.
    number
        Places, at most (see `seam_places`).
    written
        Called with a place in the map and its layers: returns how far what was written is from them. Without it the
        tiles around each place are computed again, which takes longer.

    Returns
    -------
    float
        Of all layers, the largest difference of a value as share of its type's range; 0.0 where all are equal.
    """
    largest = 0.0
    for place in seam_places(layout, number):
        whole = _layers(source, predictor, place)
        if written is not None:
            largest = max(largest, written(layout.in_map(place), whole))
            continue
        tiles = [
            tile
            for index in range(layout.num_parts)
            if layout.grown(layout.part(index)).intersect(layout.in_map(place)).area
            for tile in layout.tiles(index)
        ]
        for tile in tiles:
            common = tile.intersect(place)
            if common.area:
                by_tile = _cut(_layers(source, predictor, tile), tile, common, layout)
                largest = max(largest, _difference(by_tile, _cut(whole, place, common, layout)))
    return largest


def _layers(source: PixelSource, predictor: TilePredictor, core: Box) -> Layers:
    grid = predictor.grid
    return predictor.submit(source.read(grid.read_box(core))[None], [grid.crop_in_output(core)])()[0]


def _cut(layers: Layers, box: Box, part: Box, layout: MapLayout) -> Layers:
    box, part = layout.in_map(box), layout.in_map(part)
    where = part.shift(-box.y, -box.x).slices
    return [layer[where] for layer in layers]


def _difference(one: Layers, other: Layers) -> float:
    return max(share_of_range(a, b) for a, b in zip(one, other, strict=True))


def share_of_range(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Return the largest difference of two arrays, as share of their type's range."""
    full = {"uint8": 255, "uint16": 65_535}.get(str(one.dtype), 1)
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0) / full)
