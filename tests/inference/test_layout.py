"""Parts, blocks and tiles cover a map exactly once, wherever its region begins and whatever is left out."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.geometry import BLOCK_PX, CELL_PX, Box
from segkit.inference.layout import MapLayout

EXAMPLES = settings(max_examples=40, deadline=None)


@st.composite
def layouts(draw: st.DrawFn) -> MapLayout:
    """Maps of up to 2 x 3 parts with all strides, alignments and margins that networks have, some with cells missing.

    Patch CNNs have an alignment of their stride, and a margin; U-Nets have stride 1 and no margin.
    """
    stride = draw(st.sampled_from([1, 2, 3, 8]))
    alignment = stride if stride > 1 else draw(st.sampled_from([1, 2, 16, 128]))
    margin = draw(st.sampled_from([0, 1, 7, 60])) if alignment == stride else 0
    part_px = BLOCK_PX * draw(st.sampled_from([1, 2]))
    height, width = draw(st.integers(1, 2 * part_px * stride)), draw(st.integers(1, 3 * part_px * stride))
    cells = -(-height // (CELL_PX * stride)), -(-width // (CELL_PX * stride))
    wanted = draw(st.none() | st.lists(st.booleans(), min_size=cells[0] * cells[1], max_size=cells[0] * cells[1]))
    return MapLayout(
        region=Box(draw(st.integers(0, 9)) * alignment, draw(st.integers(0, 9)) * alignment, height, width),
        stride=stride,
        part_px=part_px,
        margin=margin,
        tile_px=draw(st.integers(-(-200 // alignment), -(-part_px * stride // alignment))) * alignment,
        alignment=alignment,
        wanted=None if wanted is None else np.array(wanted, np.bool_).reshape(cells),
    )


def counted(layout: MapLayout, places: list[Box]) -> NDArray[np.int8]:
    """Return in how many of the places each pixel of the map lies; None may lie outside."""
    times = np.zeros((layout.height, layout.width), np.int8)
    for place in places:
        assert place.area > 0
        assert layout.whole.contains(place)
        times[place.slices] += 1
    return times


def wanted_pixels(layout: MapLayout) -> NDArray[np.bool_]:
    if layout.wanted is None:
        return np.ones((layout.height, layout.width), np.bool_)
    large = layout.wanted.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)
    return large[: layout.height, : layout.width]


@EXAMPLES
@given(layouts())
def test_a_map_has_a_pixel_for_each_stride_of_the_region(layout: MapLayout) -> None:
    assert layout.height == len(range(0, layout.region.height, layout.stride))
    assert layout.width == len(range(0, layout.region.width, layout.stride))


@EXAMPLES
@given(layouts())
def test_parts_and_blocks_cover_the_map_once(layout: MapLayout) -> None:
    parts = [layout.part(index) for index in range(layout.num_parts)]
    assert (counted(layout, parts) == 1).all()
    blocks = [block for index in range(layout.num_parts) for block in layout.blocks(index)]
    assert (counted(layout, blocks) == 1).all()
    for index, part in enumerate(parts):
        assert all(part.contains(block) for block in layout.blocks(index))
    # Only those at the map's right and lower border are smaller than others.
    for side, places in ((layout.part_px, parts), (layout.block_px, blocks)):
        for place in places:
            assert place.y % side == place.x % side == 0
            assert place.height == side or place.bottom == layout.height
            assert place.width == side or place.right == layout.width


@EXAMPLES
@given(layouts())
def test_rows_of_blocks_are_those_of_the_parts_from_left_to_right(layout: MapLayout) -> None:
    rows = [
        [layout.blocks(index)[number] for index, number in layout.row_of_blocks(row)]
        for row in range(layout.block_rows)
    ]
    assert sum(map(len, rows)) == sum(len(layout.blocks(index)) for index in range(layout.num_parts))
    for number, row in enumerate(rows):
        assert {block.y for block in row} == {number * layout.block_px}
        assert [block.x for block in row] == list(range(0, layout.width, layout.block_px))


@EXAMPLES
@given(layouts())
def test_tiles_cover_each_part_with_its_margin_once_where_it_is_wanted(layout: MapLayout) -> None:
    wanted = wanted_pixels(layout)
    for index in range(layout.num_parts):
        times = counted(layout, [layout.in_map(tile) for tile in layout.tiles(index)])
        assert times.max() <= 1
        if not wanted[layout.part(index).slices].any():
            assert not times.any()
            continue
        part, more = layout.part(index), layout.margin
        grown = Box(part.y - more, part.x - more, part.height + 2 * more, part.width + 2 * more).intersect(layout.whole)
        assert layout.grown(part) == grown
        assert times[grown.slices][wanted[grown.slices]].all()
        times[grown.slices] = 0
        assert not times.any()  # outside of part and margin nothing is computed


@EXAMPLES
@given(layouts())
def test_tiles_lie_on_the_networks_grid_within_the_region_and_are_no_larger_than_asked(layout: MapLayout) -> None:
    largest = layout.tile_px + 2 * layout.margin * layout.stride
    for index in range(layout.num_parts):
        for tile in layout.tiles(index):
            assert layout.region.contains(tile)
            assert 0 < tile.height <= largest
            assert 0 < tile.width <= largest
            assert tile.y % layout.alignment == tile.x % layout.alignment == 0
            assert layout.wants(layout.in_map(tile))
    assert layout.num_tiles == sum(len(layout.tiles(index)) for index in range(layout.num_parts))


@EXAMPLES
@given(layouts())
def test_a_tiles_place_in_the_map_is_where_its_pixels_are(layout: MapLayout) -> None:
    region, stride = layout.region, layout.stride
    rows, columns = np.arange(0, region.height, stride) + region.y, np.arange(0, region.width, stride) + region.x
    for index in range(layout.num_parts):
        for tile in layout.tiles(index):
            place = layout.in_map(tile)
            assert rows[place.y] == tile.y
            assert columns[place.x] == tile.x
            # The rows of the map in the place are those that lie in the tile, and no more.
            assert np.count_nonzero((rows >= tile.y) & (rows < tile.bottom)) == place.height
            assert np.count_nonzero((columns >= tile.x) & (columns < tile.right)) == place.width


@EXAMPLES
@given(layouts(), st.data())
def test_what_is_wanted_is_said_and_what_is_not_is_cleared(layout: MapLayout, data: st.DataObject) -> None:
    y, x = data.draw(st.integers(0, layout.height - 1)), data.draw(st.integers(0, layout.width - 1))
    box = Box(y, x, data.draw(st.integers(1, 1200)), data.draw(st.integers(1, 1200))).intersect(layout.whole)
    wanted = wanted_pixels(layout)[box.slices]
    assert layout.wants(box) == wanted.any()
    assert layout.wants_all(box) == wanted.all()
    flat, deep = np.full(wanted.shape, 7, np.uint8), np.full((*wanted.shape, 2), 0.5, np.float16)
    layout.clear_unwanted([flat, deep], box)
    assert np.array_equal(flat, np.where(wanted, 7, 0))
    assert np.array_equal(deep, np.where(wanted[..., None], 0.5, 0).repeat(2, axis=2))


@EXAMPLES
@given(layouts(), st.integers(1, 8))
def test_the_weight_of_a_part_is_its_wanted_cells_whatever_the_tiles(layout: MapLayout, tiles: int) -> None:
    weights = layout.weights()
    assert len(weights) == layout.num_parts
    in_cells = wanted_pixels(layout)[::CELL_PX, ::CELL_PX]  # a pixel of each cell
    assert sum(weights) == in_cells.sum()
    for index, weight in enumerate(weights):
        part = layout.part(index)
        rows = slice(part.y // CELL_PX, -(-part.bottom // CELL_PX))
        columns = slice(part.x // CELL_PX, -(-part.right // CELL_PX))
        assert weight == in_cells[rows, columns].sum()
        assert (weight > 0) == layout.wants(part) == bool(layout.tiles(index))
    assert dataclasses.replace(layout, tile_px=tiles * layout.alignment).weights() == weights


@EXAMPLES
@given(layouts())
def test_where_a_region_begins_changes_nothing_but_what_is_read(layout: MapLayout) -> None:
    """The parts of a region are those of an image of its size, and its tiles are only moved."""
    moved = dataclasses.replace(layout, region=Box(0, 0, layout.region.height, layout.region.width))
    for index in range(layout.num_parts):
        assert layout.part(index) == moved.part(index)
        assert layout.tiles(index) == [tile.shift(layout.region.y, layout.region.x) for tile in moved.tiles(index)]


def test_the_digest_of_the_wanted_cells_tells_them_apart() -> None:
    layout = MapLayout(region=Box(0, 0, 1024, 2048), stride=1, part_px=1024, margin=0, tile_px=512, alignment=1)
    masks = [np.zeros((2, 4), np.bool_), np.eye(2, 4, dtype=np.bool_), np.eye(2, 4, 1, dtype=np.bool_)]
    found = [dataclasses.replace(layout, wanted=mask).wanted_digest for mask in masks]
    assert len({layout.wanted_digest, *found}) == 4
    assert [dataclasses.replace(layout, wanted=mask.copy(), tile_px=256).wanted_digest for mask in masks] == found


def test_tiles_are_of_nearly_equal_size() -> None:
    """A tile that is slightly smaller than the part does not leave a narrow rest."""
    layout = MapLayout(region=Box(0, 0, 1024, 1024), stride=1, part_px=1024, margin=0, tile_px=1000, alignment=2)
    assert {(tile.height, tile.width) for tile in layout.tiles(0)} == {(512, 512)}


def test_a_margin_makes_tiles_larger_by_no_more_than_itself() -> None:
    layout = MapLayout(region=Box(0, 0, 3072, 3072), stride=1, part_px=1024, margin=60, tile_px=960, alignment=1)
    # The part in the middle has a margin on all sides: 1144 px, which are too many for one tile of 960 + 2 * 60.
    assert {(tile.height, tile.width) for tile in layout.tiles(4)} == {(572, 572)}
    wider = dataclasses.replace(layout, tile_px=1024)
    assert wider.tiles(4) == [Box(964, 964, 1144, 1144)]


@pytest.mark.parametrize(
    "wrong", [{"part_px": 1536}, {"region": Box(8, 0, 2000, 2000)}, {"region": Box(0, 24, 2000, 2000)}]
)
def test_parts_of_partial_blocks_and_regions_off_the_grid_are_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {
        "region": Box(16, 32, 2000, 2000), "stride": 1, "part_px": 1024, "margin": 0, "tile_px": 512, "alignment": 16
    }  # fmt: skip
    assert MapLayout(**right).num_parts == 4
    with pytest.raises(ValueError, match="do not fit"):
        MapLayout(**{**right, **wrong})
