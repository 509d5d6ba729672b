"""A seam between tiles is found where there is one, and nowhere else."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.geometry import BLOCK_PX, Box, TileGrid
from segkit.inference.layout import MapLayout
from segkit.inference.seams import PLACE_PX, largest_seam_difference, seam_places
from segkit.inference.sources import ArrayImage

Crop = tuple[slice, slice]


class MeanOf9:
    """A network that averages 9 x 9 pixels, of every `stride`-th pixel.

    With `seam` its tiles are darker within so many pixels of their right border: as a network would that pads them.
    """

    def __init__(self, stride: int = 1, alignment: int = 4, seam: int = 0, by: int = 1) -> None:
        self.grid = TileGrid(alignment=alignment, halo=4 * stride, stride=stride)
        self._seam, self._by = seam, by

    def submit(
        self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]
    ) -> Callable[[], list[tuple[NDArray[Any], ...]]]:
        found = []
        for image, (rows, columns) in zip(images_BHWC, crops, strict=True):
            grey = image[:: self.grid.stride, :: self.grid.stride, 0].astype(np.int64)
            padded = np.pad(grey, 4, mode="edge")
            mean = sum(padded[y : y + grey.shape[0], x : x + grey.shape[1]] for y in range(9) for x in range(9)) // 81
            core = mean[rows, columns]
            if self._seam:
                core[:, -self._seam :] -= self._by
            found.append((core.astype(np.uint8), (core * 257).astype(np.uint16)[..., None]))
        return lambda: found


def noise(height: int, width: int) -> ArrayImage:
    return ArrayImage(np.random.default_rng(0).integers(100, 200, (height, width, 1), np.uint8))


def layout_of(height: int, width: int, **changes: Any) -> MapLayout:
    values: dict[str, Any] = {
        "region": Box(0, 0, height, width), "stride": 1, "part_px": BLOCK_PX, "margin": 0, "tile_px": 256,
        "alignment": 4,
    }  # fmt: skip
    return MapLayout(**{**values, **changes})


LAYOUTS = {
    "tiles": layout_of(600, 700),
    "parts": layout_of(300, 2200, tile_px=1024),
    "region": layout_of(600, 700, region=Box(40, 60, 560, 640)),
    "cells": layout_of(
        1000, 1600, wanted=np.array([[True, True, False, True], [True, True, False, True]]), tile_px=512
    ),
    "stride": layout_of(900, 3000, stride=2, part_px=BLOCK_PX, margin=6, tile_px=512),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_places_lie_on_borders_of_tiles_within_what_is_computed(name: str) -> None:
    layout = LAYOUTS[name]
    places = seam_places(layout, 10)
    assert len(places) == 10
    assert len(set(places)) > 3
    tiles = [layout.in_map(tile) for index in range(layout.num_parts) for tile in layout.tiles(index)]
    for place in places:
        assert layout.region.contains(place)
        assert place.height == place.width == PLACE_PX
        assert (place.y - layout.region.y) % layout.alignment == (place.x - layout.region.x) % layout.alignment == 0
        assert layout.wants_all(layout.in_map(place))
        assert not any(tile.contains(layout.in_map(place)) for tile in tiles)


def test_places_depend_on_the_seed_only() -> None:
    layout = LAYOUTS["tiles"]
    assert seam_places(layout, 5) == seam_places(layout, 5) != seam_places(layout, 5, seed=1)
    assert seam_places(layout, 5) == seam_places(layout, 9)[:5]


@pytest.mark.parametrize("layout", [layout_of(500, 500, tile_px=512), layout_of(100, 2200), layout_of(1, 1)])
def test_there_are_no_places_where_there_is_no_border_or_no_room(layout: MapLayout) -> None:
    assert seam_places(layout, 5) == []
    assert largest_seam_difference(noise(layout.height, layout.width), MeanOf9(), layout, 5) == 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_exact_tiles_have_no_seam(name: str) -> None:
    layout = LAYOUTS[name]
    source = noise(max(1000, layout.region.bottom), layout.region.right)
    predictor = MeanOf9(layout.stride, layout.alignment)
    assert largest_seam_difference(source, predictor, layout, 4) == 0


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("by", [1, 90])
def test_a_seam_is_found_and_measured(name: str, by: int) -> None:
    """Of the layers the one with the largest share of its type's range counts: of 255 and of 65,535 the same."""
    layout = LAYOUTS[name]
    source = noise(max(1000, layout.region.bottom), layout.region.right)
    predictor = MeanOf9(layout.stride, layout.alignment, seam=1, by=by)
    assert largest_seam_difference(source, predictor, layout, 8) == pytest.approx(by / 255)


def test_a_halo_that_is_too_small_is_found() -> None:
    predictor = MeanOf9()
    predictor.grid = TileGrid(alignment=4, halo=3)
    assert largest_seam_difference(noise(600, 700), predictor, LAYOUTS["tiles"], 4) > 0


def test_16_bits_are_a_share_of_65535() -> None:
    class Fine(MeanOf9):
        def submit(
            self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]
        ) -> Callable[[], list[tuple[NDArray[Any], ...]]]:
            ((_, fine),) = super().submit(images_BHWC, crops)()
            return lambda: [(fine,)]

    found = largest_seam_difference(noise(600, 700), Fine(seam=1, by=51), LAYOUTS["tiles"], 4)
    assert found == pytest.approx(0.2)


def test_floats_are_compared_as_they_are() -> None:
    class Half(MeanOf9):
        def submit(
            self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]
        ) -> Callable[[], list[tuple[NDArray[Any], ...]]]:
            ((mean, _),) = super().submit(images_BHWC, crops)()
            return lambda: [((mean / 256).astype(np.float16),)]

    assert largest_seam_difference(noise(600, 700), Half(), LAYOUTS["tiles"], 4) == 0
    found = largest_seam_difference(noise(600, 700), Half(seam=2, by=64), LAYOUTS["tiles"], 4)
    assert found == pytest.approx(0.25, abs=1e-3)
