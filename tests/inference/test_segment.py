"""Objects are the same wherever the rows are cut, and their polygons give the map back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask

from segkit.inference.segment import MapObject, ObjectTracer, trace_rings


def trace(mask: NDArray[np.uint8], foreground: NDArray[np.uint8], cuts: list[int]) -> list[MapObject]:
    found: list[MapObject] = []
    tracer = ObjectTracer(int(mask.max()) + 1, found.append)
    for top, bottom in zip([0, *cuts], [*cuts, len(mask)], strict=True):
        if bottom > top:
            tracer.add_rows(mask[top:bottom], foreground[top:bottom])
    tracer.finish()
    return sorted(found, key=lambda one: (one.class_index, one.y, one.x, one.area_px))


def filled(rings: list[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill an outline minus its holes by the pixel-centre rule, with a well-known library."""
    # polygon2mask takes (row, column) with pixel centres at integers.
    parts = [polygon2mask(shape, ring[:, ::-1] - 0.5) for ring in rings]
    inside = parts[0].copy()
    for hole in parts[1:]:
        inside &= ~hole
    return inside


def blobs(seed: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(height, width)), rng.uniform(0.3, 2.5))
    mask = np.digitize(smooth, np.quantile(smooth, [0.5, 0.8])).astype(np.uint8)
    return mask, rng.integers(0, 256, (height, width), np.uint8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 40), width=st.integers(1, 40), data=st.data())
def test_objects_do_not_depend_on_where_rows_are_cut(seed: int, height: int, width: int, data: st.DataObject) -> None:
    mask, foreground = blobs(seed, height, width)
    cuts = sorted(data.draw(st.lists(st.integers(0, height), max_size=6)))
    whole, cut = trace(mask, foreground, []), trace(mask, foreground, cuts)
    assert len(whole) == len(cut)
    for a, b in zip(whole, cut, strict=True):
        assert (a.class_index, a.area_px) == (b.class_index, b.area_px)
        assert (a.x, a.y, a.perimeter_px, a.probability) == pytest.approx((b.x, b.y, b.perimeter_px, b.probability))
        assert all(np.array_equal(p, q) for p, q in zip(a.rings, b.rings, strict=True))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 40), width=st.integers(1, 40))
def test_filled_polygons_give_the_map_back(seed: int, height: int, width: int) -> None:
    mask, foreground = blobs(seed, height, width)
    drawn = np.zeros_like(mask)
    for one in trace(mask, foreground, []):
        inside = filled(one.rings, mask.shape)
        assert inside.sum() == one.area_px
        assert not drawn[inside].any()
        drawn[inside] = one.class_index
    assert np.array_equal(drawn, mask)


def test_measurements_of_a_square_with_a_hole() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 10:15] = 1
    mask[7, 12] = 0
    foreground = np.where(mask == 1, 204, 0).astype(np.uint8)
    (square,) = trace(mask, foreground, [8])
    assert square.area_px == 24
    assert (square.x, square.y) == (12.5, 7.5)
    assert square.probability == pytest.approx(0.8)
    assert len(square.rings) == 2
    outline, hole = square.rings
    assert outline.min(axis=0).tolist() == [10.0, 5.0]
    assert outline.max(axis=0).tolist() == [15.0, 10.0]
    assert hole.min(axis=0).tolist() == [12.0, 7.0]
    assert np.array_equal(outline[0], outline[-1])


def test_diagonal_neighbours_are_two_objects() -> None:
    mask = np.eye(2, dtype=np.uint8)
    assert len(trace(mask, mask, [])) == 2


def test_straight_lines_have_no_points_between_their_ends() -> None:
    ((outline,),) = trace_rings(np.ones((50, 80), np.int32), np.array([False, True])).values()
    assert len(outline) == 9  # eight corners of a rectangle with cut-off corners, closed


def test_a_map_without_objects_and_one_without_rows() -> None:
    assert trace(np.zeros((5, 5), np.uint8), np.zeros((5, 5), np.uint8), [2]) == []
    ObjectTracer(2, lambda _: None).finish()
