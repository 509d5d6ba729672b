"""The small picture of a map is that of the whole map, whatever blocks it is made from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.inference.layout import MapLayout
from segkit.inference.map_picture import LONGEST_PX, MapPicture
from segkit.slides.pyramid_levels import Reduce, halve

Rows = Callable[[int], list[dict[str, NDArray[Any]] | None]]


def layout_of(height: int, width: int) -> MapLayout:
    return MapLayout(region=Box(0, 0, height, width), stride=1, part_px=1024, margin=0, tile_px=512, alignment=1)


def rows_of(layout: MapLayout, picture: MapPicture, pixels: NDArray[np.uint8]) -> Rows:
    """The rows of blocks; one of zeros is None."""

    def row(number: int) -> list[dict[str, NDArray[Any]] | None]:
        blocks = (layout.blocks(index)[at] for index, at in layout.row_of_blocks(number))
        cut = [pixels[block.slices] for block in blocks]
        return [picture.of_block(block) if block.any() else None for block in cut]

    return row


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 5000), width=st.integers(1, 5000), reduce=st.sampled_from(["nearest", "mean"]),
    seed=st.integers(0, 99), empty=st.integers(0, 3),
)  # fmt: skip
def test_a_picture_is_the_map_halved(height: int, width: int, reduce: Reduce, seed: int, empty: int) -> None:
    """Of a map that is narrow or high as well; a column of blocks is empty."""
    layout = layout_of(height, min(width, 4_000_000 // height + 1))
    pixels = np.random.default_rng(seed).integers(0, 256, (layout.height, layout.width), np.uint8)
    pixels[:, empty * 1024 : (empty + 1) * 1024] = 0
    expected = pixels[..., None]
    while max(expected.shape) > LONGEST_PX:
        expected = halve(expected, reduce)
    picture = MapPicture(layout, reduce)
    found = picture.join(rows_of(layout, picture, pixels))
    assert found.dtype == np.uint8
    assert found.shape == picture.size
    assert np.array_equal(found, expected[..., 0])


@pytest.mark.parametrize(
    ("longest", "size"), [(1, 1), (2048, 2048), (2049, 1025), (4096, 2048), (4097, 1025), (100_000, 1563)]
)
def test_no_side_is_longer_than_the_limit_and_small_maps_stay(longest: int, size: int) -> None:
    assert MapPicture(layout_of(longest, 1), "mean").size == (size, 1)
    assert MapPicture(layout_of(1, longest), "mean").size == (1, size)


def test_class_ids_stay_class_ids() -> None:
    layout = layout_of(3000, 3000)
    pixels = np.where(np.indices((3000, 3000)).sum(axis=0) % 5 == 0, 7, 0).astype(np.uint8)
    picture = MapPicture(layout, "nearest")
    assert set(np.unique(picture.join(rows_of(layout, picture, pixels)))) == {0, 7}


def test_a_map_without_anything_is_black() -> None:
    layout = layout_of(2500, 1500)
    found = MapPicture(layout, "mean").join(lambda _: [None, None])
    assert found.shape == (1250, 750)
    assert not found.any()


def test_what_is_kept_of_a_block_is_its_own() -> None:
    """Not a view of the part's layer, which would keep all of it in memory."""
    layer = np.ones((1024, 4096), np.uint8)
    kept = MapPicture(layout_of(1024, 4096), "nearest").of_block(layer[:, :1024])["pixels"]
    assert kept.shape == (512, 512)
    assert not np.shares_memory(kept, layer)
    assert kept.flags.c_contiguous
