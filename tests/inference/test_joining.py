"""Objects are the same to the last bit however the map is cut into blocks, and their polygons give the map back."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from segkit.inference.joining import MapObject, ObjectJoiner
from segkit.inference.pieces import trace_block
from tests.inference.maps import blobs, content, join_blocks, objects_one_by_one

sizes = st.integers(1, 30)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), height=sizes, width=sizes, block_px=st.integers(1, 12))
@example(seed=0, height=1, width=1, block_px=1)
@example(seed=0, height=17, width=9, block_px=8)
def test_objects_do_not_depend_on_how_the_map_is_cut(seed: int, height: int, width: int, block_px: int) -> None:
    mask, foreground = blobs(seed, height, width)
    whole = join_blocks(mask, foreground, max(height, width))
    assert content(join_blocks(mask, foreground, block_px)) == content(whole)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), height=sizes, width=sizes, block_px=st.integers(3, 30))
def test_objects_are_those_of_scipy_and_scikit_image(seed: int, height: int, width: int, block_px: int) -> None:
    mask, foreground = blobs(seed, height, width)
    found = sorted(join_blocks(mask, foreground, block_px), key=lambda one: (one.class_index, one.y, one.x))
    expected = sorted(objects_one_by_one(mask, foreground), key=lambda one: (one.class_index, one.y, one.x))
    by_outline = {(one.class_index, one.rings[0].tobytes()): one for one in expected}
    assert len(by_outline) == len(found)
    for one in found:
        other = by_outline[one.class_index, one.rings[0].tobytes()]
        assert [ring.tolist() for ring in one.rings] == [ring.tolist() for ring in other.rings]
        assert one.area_px == other.area_px
        assert (one.x, one.y) == pytest.approx((other.x, other.y))
        assert (one.perimeter_px, one.probability) == pytest.approx((other.perimeter_px, other.probability))


def painted(found: list[MapObject], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Fill outlines minus holes by the pixel-centre rule, with a well-known library."""
    image = np.zeros(shape, np.uint8)
    for one in found:
        # polygon2mask takes (row, column) with pixel centres at integers.
        outline, *holes = (polygon2mask(shape, ring[:, ::-1] - 0.5) for ring in one.rings)
        for hole in holes:
            outline &= ~hole
        assert outline.sum() == one.area_px
        assert not image[outline].any()
        image[outline] = one.class_index
    return image


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), height=sizes, width=sizes, block_px=st.integers(2, 12))
def test_filled_polygons_give_the_map_back(seed: int, height: int, width: int, block_px: int) -> None:
    mask, foreground = blobs(seed, height, width)
    assert np.array_equal(painted(join_blocks(mask, foreground, block_px), mask.shape), mask)


def spiral(size: int) -> NDArray[np.uint8]:
    mask = np.zeros((size, size), np.uint8)
    low, high = 0, size - 1
    while low <= high:
        mask[low, low : high + 1] = mask[low : high + 1, high] = mask[high, low : high + 1] = 1
        mask[low + 2 : high + 1, low] = 1
        if low + 2 <= high:
            mask[low + 2, low : low + 2] = 1
        low, high = low + 2, high - 2
    return mask


def comb(size: int) -> NDArray[np.uint8]:
    mask = np.zeros((size, size), np.uint8)
    mask[:, ::2] = 1
    mask[-1] = 1
    return mask


def nested(size: int) -> NDArray[np.uint8]:
    far = np.abs(np.arange(size) - size // 2)
    return (np.maximum.outer(far, far) % 3).astype(np.uint8)


PATTERNS = {
    "full": np.ones((13, 17), np.uint8),
    "spiral": spiral(21),
    "comb": comb(19),
    "comb upside down": np.ascontiguousarray(comb(19)[::-1]),
    "comb on its side": np.ascontiguousarray(comb(19).T),
    "checkerboard": (np.indices((14, 15)).sum(axis=0) % 2).astype(np.uint8),
    "checkerboard of two classes": (np.indices((14, 15)).sum(axis=0) % 2 + 1).astype(np.uint8),
    "diagonal": np.eye(16, dtype=np.uint8),
    "nested": nested(23),
    "net": ((np.indices((20, 22)) % 4 == 0).any(axis=0)).astype(np.uint8),
    "frame": np.pad(np.zeros((15, 11), np.uint8), 1, constant_values=2),
    "one row": np.array([[1, 1, 0, 2, 2, 1, 0, 0, 1]], np.uint8),
    "one column": np.array([[1, 1, 0, 2, 2, 1, 0, 0, 1]], np.uint8).T,
    "one pixel": np.array([[2]], np.uint8),
    "nothing": np.zeros((9, 9), np.uint8),
}


@pytest.mark.parametrize("block_px", [1, 2, 4, 5, 8, 16])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_difficult_shapes(pattern: str, block_px: int) -> None:
    mask = PATTERNS[pattern]
    foreground = np.arange(mask.size, dtype=np.uint8).reshape(mask.shape)
    found = join_blocks(mask, foreground, block_px)
    assert content(found) == content(join_blocks(mask, foreground, 64))
    assert np.array_equal(painted(found, mask.shape), mask)
    assert sum(one.area_px for one in found) == np.count_nonzero(mask)


def test_the_number_of_objects_in_difficult_shapes() -> None:
    counts = {
        pattern: len(join_blocks(mask, mask, 4))
        for pattern, mask in PATTERNS.items()
        if pattern in {"spiral", "comb", "checkerboard", "diagonal", "net", "nested"}
    }
    assert counts == {"spiral": 1, "comb": 1, "checkerboard": 105, "diagonal": 16, "net": 1, "nested": 8}


def test_measurements_of_a_square_with_a_hole_across_four_blocks() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 10:15] = 1
    mask[7, 12] = 0
    foreground = np.where(mask == 1, 204, 0).astype(np.uint8)
    (square,) = join_blocks(mask, foreground, 4)
    assert (square.class_index, square.area_px) == (1, 24)
    assert (square.x, square.y) == (12.5, 7.5)
    assert square.probability == pytest.approx(0.8)
    # Sides of 4 px between corners that are cut, and the diamond of the hole.
    assert square.perimeter_px == 16 + 8 * np.sqrt(0.5)
    outline, hole = square.rings
    assert outline.tolist() == [
        [10.5, 5], [14.5, 5], [15, 5.5], [15, 9.5], [14.5, 10], [10.5, 10], [10, 9.5], [10, 5.5], [10.5, 5]
    ]  # fmt: skip
    assert hole.tolist() == [[12.5, 7], [12, 7.5], [12.5, 8], [13, 7.5], [12.5, 7]]


def test_objects_come_by_rows_of_blocks_first_those_within_a_block() -> None:
    mask = np.zeros((16, 24), np.uint8)
    mask[1, 7:9] = 1  # across the first two blocks of the first row
    mask[3, 12] = 1  # within the second
    mask[6, 2] = mask[2, 3] = 1  # within the first
    mask[7:9, 20] = 1  # across two rows
    mask[12, 12] = 1  # within a block of the second row
    found = join_blocks(mask, mask, 8)
    assert [(one.y - 0.5, one.x - 0.5) for one in found] == [(2, 3), (6, 2), (3, 12), (1, 7.5), (12, 12), (7.5, 20)]


def test_an_object_is_passed_on_with_the_first_row_of_blocks_in_which_it_is_not() -> None:
    mask = np.zeros((40, 8), np.uint8)
    mask[2:5, 2:5] = 1  # within the first block
    mask[6:10, 6] = 1  # in the first two
    mask[14:16, 1] = 1  # at the lower border of the second
    mask[18:40, 3] = 1  # to the end
    found: list[MapObject] = []
    joiner = ObjectJoiner(40, 8, 2, found.append, block_px=8)
    counts = []
    for top in range(0, 40, 8):
        joiner.add_row([trace_block(mask[top : top + 8], mask[top : top + 8], 2)])
        counts.append(len(found))
    joiner.finish()
    assert [*counts, len(found)] == [1, 2, 3, 3, 3, 4]


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    mask, foreground = blobs(5, 64, 64)
    mask[40] = 0  # so that no object goes on for ever
    tile = trace_block(mask, foreground, 3)

    def peak(rows: int) -> int:
        joiner = ObjectJoiner(64 * rows, 128, 3, lambda one: None, block_px=64)
        tracemalloc.start()
        for _ in range(rows):
            joiner.add_row([tile, tile])
        joiner.finish()
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(2)  # what libraries keep
    assert peak(40) < 1.2 * peak(8)


def test_rows_that_are_missing_or_too_many_are_refused() -> None:
    joiner = ObjectJoiner(10, 10, 2, lambda one: None, block_px=8)
    with pytest.raises(ValueError, match="1 blocks at row 0 of a map of 10 x 10"):
        joiner.add_row([None])
    joiner.add_row([None, None])
    with pytest.raises(ValueError, match="8 of 10 rows"):
        joiner.finish()
    joiner.add_row([None, None])
    with pytest.raises(ValueError, match="at row 10"):
        joiner.add_row([None, None])
    joiner.finish()


@pytest.mark.parametrize(("shape", "num_classes"), [((8, 8), 2), ((8, 1), 3), ((1, 8), 3), ((9, 8), 3)])
def test_blocks_of_another_map_are_refused(shape: tuple[int, int], num_classes: int) -> None:
    mask = np.full(shape, 2, np.uint8)
    joiner = ObjectJoiner(20, 20, num_classes, lambda one: None, block_px=8)
    with pytest.raises(ValueError, match="the block at 0, 8 is not one of this map"):
        joiner.add_row([None, trace_block(mask, mask, 3), None])
