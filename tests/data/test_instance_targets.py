"""Targets of instances: against definitions written out pixel by pixel, and on made labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.data.instance_targets import compact_ids, object_radii_px, target_planes
from segkit.masks import IGNORE


def distance_by_definition(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the distance of every object's pixel to the nearest pixel of another id; inf where there is none."""
    distance = np.zeros(labels.shape)
    for y, x in np.argwhere(labels != 0):
        others = np.argwhere(labels != labels[y, x])
        distance[y, x] = np.hypot(*(others - (y, x)).T).min() if len(others) else np.inf
    return distance


@st.composite
def label_images(draw: st.DrawFn) -> NDArray[np.int32]:
    shape = draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    coarse = draw(st.lists(st.integers(0, 4), min_size=16, max_size=16))
    blocks = np.kron(np.array(coarse, np.int32).reshape(4, 4), np.ones((4, 4), np.int32))
    return np.ascontiguousarray(blocks[: shape[0], : shape[1]])


@settings(max_examples=40, deadline=None)
@given(label_images())
def test_planes_are_what_their_definition_says(labels: NDArray[np.int32]) -> None:
    planes = target_planes(labels)
    assert planes.dtype == np.uint8
    np.testing.assert_array_equal(planes[..., 0], labels > 0)
    distance = distance_by_definition(labels)
    for index in set(labels.ravel().tolist()) - {0}:
        inside = labels == index
        largest = distance[inside].max()
        expected = np.ones(inside.sum()) if np.isinf(largest) else distance[inside] / largest
        np.testing.assert_allclose(planes[..., 1][inside], np.maximum(1, 255 * expected), atol=0.51)
    assert not planes[..., 1][labels == 0].any()
    largest_of = [distance[labels == index].max() for index in sorted(set(labels.ravel().tolist()) - {0})]
    radii = [one for one in largest_of if np.isfinite(one)]
    np.testing.assert_allclose(object_radii_px(labels), radii, atol=1e-4)


def test_two_objects_that_touch_have_a_valley_between_them() -> None:
    labels = np.zeros((20, 40), np.int32)
    labels[2:18, 2:20], labels[2:18, 20:38] = 7, 9
    distance = target_planes(labels)[..., 1]
    assert distance[10, 19] < 64
    assert distance[10, 20] < 64
    assert distance[10, 10] == distance[10, 29] == 255


def test_an_object_cut_by_the_border_is_highest_at_the_border() -> None:
    labels = np.zeros((20, 40), np.int32)
    labels[:10, 10:30] = 1
    distance = target_planes(labels)[..., 1]
    assert distance[0, 19] == 255
    assert distance[9, 19] < 64


def test_what_is_not_labelled_is_ignored_and_borders_on_objects() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[:, 3:] = 1
    labels[:, 6:] = 99
    planes = target_planes(labels, ignore=99)
    assert (planes[:, 6:, 0] == IGNORE).all()
    assert (planes[:, 3:6, 0] == 1).all()
    assert planes[4, 3:, 1].tolist() == [128, 255, 128, 0, 0, 0]


@pytest.mark.parametrize("ids", [(3, 5), (2**31, 2**31 + 1), (-4, 9), (2**63 - 1, 1)])
def test_ids_of_any_size_are_renumbered_by_value(ids: tuple[int, int]) -> None:
    labels = np.array([[0, ids[0]], [ids[1], 0]], np.int64)
    low, high = sorted(ids)
    np.testing.assert_array_equal(compact_ids(labels), (labels == low) * 1 + (labels == high) * 2)


def test_background_alone_gives_empty_planes() -> None:
    assert not target_planes(np.zeros((4, 5), np.uint16)).any()
    assert len(object_radii_px(np.zeros((4, 5), np.uint16))) == 0
