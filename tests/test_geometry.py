"""Boxes, tiles and mirrored borders, by their properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.geometry import Box, TileGrid, count_tiles, lay_tiles, mirror_indices

sizes = st.integers(1, 90)
boxes = st.builds(Box, st.integers(-30, 30), st.integers(-30, 30), st.integers(0, 30), st.integers(0, 30))
margins = st.integers(0, 20)


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    alignment = draw(st.sampled_from([1, 2, 4, 8, 16]))
    margin = draw(margins)
    halo = margin + draw(margins)
    return TileGrid(alignment=alignment, halo=halo, margin=margin, size_offset=draw(st.integers(0, alignment - 1)))


def covered(box: Box) -> set[tuple[int, int]]:
    return {(y, x) for y in range(box.y, box.bottom) for x in range(box.x, box.right)}


@given(boxes, boxes)
def test_an_intersection_holds_exactly_the_common_pixels(first: Box, second: Box) -> None:
    assert covered(first.intersect(second)) == covered(first) & covered(second)


@given(boxes, boxes)
def test_a_box_contains_another_when_it_has_all_its_pixels(first: Box, second: Box) -> None:
    if second.area:
        assert first.contains(second) == (covered(second) <= covered(first))


@given(boxes, st.integers(0, 9), st.integers(-9, 9), st.integers(-9, 9))
def test_expand_and_shift_can_be_undone(box: Box, margin: int, dy: int, dx: int) -> None:
    assert box.expand(margin).expand(-margin) == box
    assert box.shift(dy, dx).shift(-dy, -dx) == box
    assert box.expand(margin).contains(box)


@given(grids(), st.integers(0, 300))
def test_a_legal_size_is_the_smallest_that_the_network_takes(grid: TileGrid, minimum: int) -> None:
    size = grid.legal_size(minimum)
    assert size >= minimum
    assert (size - grid.size_offset) % grid.alignment == 0
    smaller = size - grid.alignment
    assert smaller < minimum or smaller <= grid.size_offset


@given(sizes, sizes, grids(), st.integers(1, 3))
def test_cores_are_disjoint_and_cover_the_image(height: int, width: int, grid: TileGrid, steps: int) -> None:
    tile_px = grid.alignment * steps
    times_covered = np.zeros((height, width), int)
    for tile in lay_tiles(height, width, tile_px, grid):
        assert Box(0, 0, height, width).contains(tile.core)
        assert (tile.core.y, tile.core.x) == (tile.row * tile_px, tile.column * tile_px)
        times_covered[tile.core.slices] += 1
    assert (times_covered == 1).all()


@given(sizes, sizes, grids(), st.integers(1, 3))
def test_read_boxes_are_legal_and_hold_the_halo(height: int, width: int, grid: TileGrid, steps: int) -> None:
    tiles = list(lay_tiles(height, width, grid.alignment * steps, grid))
    for tile in tiles:
        assert tile.read.contains(tile.core.expand(grid.halo))
        assert tile.read.height == grid.legal_size(tile.read.height)
        assert tile.read.width == grid.legal_size(tile.read.width)
        assert (tile.read.y + grid.halo) % grid.alignment == 0
        assert (tile.read.x + grid.halo) % grid.alignment == 0
    read_sizes = {(tile.core.height, tile.core.width, tile.read.height, tile.read.width) for tile in tiles}
    assert len({sizes[:2] for sizes in read_sizes}) == len(read_sizes)  # one core size, one shape for the network
    assert count_tiles(height, width, grid.alignment * steps) == (tiles[-1].row + 1, tiles[-1].column + 1)


@given(sizes, sizes, grids())
def test_the_core_is_found_again_in_the_networks_output(height: int, width: int, grid: TileGrid) -> None:
    positions = np.stack(np.meshgrid(np.arange(-200, 500), np.arange(-200, 500), indexing="ij"), axis=-1)
    for tile in lay_tiles(height, width, grid.alignment * 4, grid):
        seen = positions[tile.read.shift(200, 200).slices]
        output = seen[grid.margin : tile.read.height - grid.margin, grid.margin : tile.read.width - grid.margin]
        cropped = output[grid.crop_in_output(tile.core)]
        assert cropped.shape[:2] == (tile.core.height, tile.core.width)
        assert tuple(cropped[0, 0]) == (tile.core.y, tile.core.x)


@pytest.mark.parametrize("tile_px", [0, -8, 12])
def test_a_tile_off_the_alignment_is_refused(tile_px: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        next(lay_tiles(64, 64, tile_px, TileGrid(alignment=8, halo=16)))


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40))
def test_mirroring_is_that_of_numpy(size: int, before: int, after: int) -> None:
    values = np.arange(100, 100 + size)
    ours = values[mirror_indices(-before, before + size + after, size)]
    np.testing.assert_array_equal(ours, np.pad(values, (before, after), mode="reflect"))
