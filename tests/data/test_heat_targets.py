"""Heat planes are the Gaussians of the nearest points, wherever they are looked at."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.data.heat_targets import HeatTarget, heat_planes
from segkit.geometry import Box
from segkit.masks import IGNORE
from segkit.points import Points

POINTS = st.lists(st.tuples(st.floats(-9, 49), st.floats(-9, 59), st.integers(0, 3)), max_size=12)


def points_of(rows: list[tuple[float, float, int]]) -> Points:
    table = np.array(rows, np.float64).reshape(-1, 3)
    return Points(table[:, :2], table[:, 2].astype(np.int64))


def distances(points: Points, index: int, height: int, width: int) -> NDArray[np.float64]:
    """Of every pixel's centre to the nearest point of a class, by hand."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    nearest = np.full((height, width), np.inf)
    for y, x in points.of_class(index).tolist():
        nearest = np.minimum(nearest, np.hypot(rows - y, columns - x))
    return nearest


@settings(max_examples=40, deadline=None)
@given(rows=POINTS, sigma=st.floats(0.4, 5), positive=st.floats(0, 12), height=st.integers(1, 40))
def test_planes_are_those_of_the_definition(
    rows: list[tuple[float, float, int]], sigma: float, positive: float, height: int
) -> None:
    points, width = points_of(rows), 50
    planes = heat_planes(points, height, width, 4, sigma_px=sigma, positive_px=positive)
    assert planes.shape == (height, width, 4)
    assert planes.dtype == np.uint8
    away = np.stack([distances(points, index, height, width) for index in (1, 2, 3)])
    for index in (1, 2, 3):
        exact = 255 * np.exp(-0.5 * (away[index - 1] / sigma) ** 2)
        assert np.abs(planes[..., index] - exact).max() <= 0.501
    clearly_in, clearly_out = away.min(axis=0) < positive - 1e-3, away.min(axis=0) > positive + 1e-3
    assert (planes[clearly_in, 0] > 0).all()
    assert not planes[clearly_out, 0].any()
    # It is the nearest point's class that counts.
    chosen = np.take_along_axis(away, np.maximum(planes[..., 0].astype(int) - 1, 0)[None], axis=0)[0]
    found = planes[..., 0] > 0
    assert (chosen[found] <= away.min(axis=0)[found] + 1e-3).all()


@settings(max_examples=40, deadline=None)
@given(rows=POINTS, y=st.integers(-30, 45), x=st.integers(-30, 55), height=st.integers(1, 60), width=st.integers(1, 60))
def test_a_box_is_cut_as_from_the_whole_image(
    rows: list[tuple[float, float, int]], y: int, x: int, height: int, width: int
) -> None:
    points, box = points_of(rows), Box(y, x, height, width)
    target = HeatTarget(points, 40, 50, 4, sigma_px=2.5, positive_px=3)
    whole = heat_planes(points, 40, 50, 4, sigma_px=2.5, positive_px=3)
    cut = target.cut(box)
    inside = box.intersect(Box(0, 0, 40, 50))
    if inside.area:
        part = Box(inside.y - y, inside.x - x, inside.height, inside.width).slices
        assert np.array_equal(cut[part], whole[inside.slices])
        cut[part] = IGNORE
    assert (cut[..., 0] == IGNORE).all()  # nothing counts beyond the image
    if inside.area and target.is_background(inside):
        assert not target.cut(inside)[..., 0].any()


def test_background_is_known_where_no_point_is_near() -> None:
    target = HeatTarget(points_of([(10, 10, 1), (20, 20, 0)]), 64, 64, 2, sigma_px=2, positive_px=3)
    assert target.shape == (64, 64, 2)
    assert target.is_background(Box(14, 14, 30, 30))  # a look-alike is background
    assert not target.is_background(Box(12, 12, 30, 30))


def test_two_that_touch_keep_a_summit_each_and_the_place_between_pixels_is_kept() -> None:
    heat = heat_planes(points_of([(10.5, 10.5, 1), (10.5, 14.5, 1)]), 21, 25, 2, sigma_px=1, positive_px=1)[10, :, 1]
    assert heat[10] == heat[14] == 255
    assert heat[12] < 100
    # Half-way between two pixels both have the same; a little to the right the right one has more.
    even, right = (
        heat_planes(points_of([(10.5, x, 1)]), 21, 25, 2, sigma_px=2, positive_px=1)[10, :, 1] for x in (12.0, 12.3)
    )
    assert even[11] == even[12] < 255
    assert right[12] > right[11]


def test_look_alikes_leave_no_trace_and_pixels_can_be_ignored() -> None:
    ignore = np.zeros((12, 12), np.bool_)
    ignore[:, :3] = True
    planes = heat_planes(points_of([(6, 6, 0), (6, 2, 1)]), 12, 12, 2, sigma_px=1, positive_px=2, ignore=ignore)
    assert (planes[:, :3, 0] == IGNORE).all()
    assert planes[6, 3, 0] == 1
    assert not planes[:, 7:].any()
