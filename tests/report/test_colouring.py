"""The pixel work behind the pictures, at places where the colour can be told beforehand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segkit.masks import IGNORE, colour_of_class
from segkit.report import colouring
from segkit.report.colouring import Outcome

masks = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, IGNORE]))] * 2)
)


def grey(height, width, value=100):
    return np.full((height, width, 3), value, np.uint8)


def test_outcomes_of_every_pair_of_classes():
    truth = np.array([[0, 0, 1, 1, 1, IGNORE, IGNORE]], np.uint8)
    prediction = np.array([[0, 1, 1, 0, 2, 0, 1]], np.uint8)
    assert colouring.outcomes(prediction, truth)[0].tolist() == [
        Outcome.TRUE_NEGATIVE,
        Outcome.FALSE_POSITIVE,
        Outcome.TRUE_POSITIVE,
        Outcome.FALSE_NEGATIVE,
        Outcome.WRONG_CLASS,
        Outcome.NOT_LABELLED,
        Outcome.NOT_LABELLED,
    ]


@given(masks)
@settings(deadline=None)
def test_edges_are_the_foreground_pixels_near_another_class(pair):
    mask = pair[0]
    found = colouring.edges(mask, 1)
    shown = np.where(mask == IGNORE, 0, mask)
    for y, x in np.ndindex(mask.shape):
        near = shown[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert found[y, x] == (shown[y, x] > 0 and bool((near != shown[y, x]).any()))


def test_thicker_edges_grow_inwards():
    mask = np.zeros((20, 20), np.uint8)
    mask[4:16, 4:16] = 1
    inside = np.zeros((20, 20), bool)
    inside[6:14, 6:14] = True
    np.testing.assert_array_equal(colouring.edges(mask, 2), (mask == 1) & ~inside)


def test_a_region_that_fills_the_image_has_no_edge():
    assert not colouring.edges(np.ones((5, 5), np.uint8), 2).any()


def test_outlines_have_the_colours_of_their_classes_and_leave_the_rest():
    mask = np.zeros((12, 12), np.uint8)
    mask[2:8, 2:6], mask[2:8, 6:10], mask[10:] = 1, 2, IGNORE
    drawn = colouring.outline(grey(12, 12), mask, 1)
    assert tuple(drawn[2, 2]) == tuple(drawn[5, 5]) == colour_of_class(1)
    assert tuple(drawn[7, 9]) == tuple(drawn[5, 6]) == colour_of_class(2)
    assert tuple(drawn[4, 4]) == tuple(drawn[0, 0]) == (100, 100, 100)
    assert tuple(drawn[11, 0]) == (193, 193, 193)


def test_fills_tint_every_class_and_nothing_else():
    mask = np.array([[0, 1, 2, IGNORE]], np.uint8)
    tinted = colouring.fill(grey(1, 4), mask, 0.5)[0].astype(int)
    for index in (1, 2):
        np.testing.assert_allclose(tinted[index], (np.array(colour_of_class(index)) + 100) / 2, atol=0.5)
    assert (tinted[[0, 3]] == 100).all()


def test_painting_leaves_its_image_alone():
    image = grey(2, 2)
    painted = colouring.paint(image, np.array([[True, False], [False, False]]), (1, 2, 3))
    assert tuple(painted[0, 0]) == (1, 2, 3)
    assert (image == 100).all()


def test_pale_grey_keeps_white_and_lifts_black():
    image = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], np.uint8)
    white, black, red = colouring.as_pale_grey(image)[0].tolist()
    assert (white, black) == ([255] * 3, [102] * 3)
    assert red[0] == red[1] == red[2]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.sampled_from([1, 3]))
@settings(deadline=None)
def test_fitted_images_and_masks_have_the_same_size_within_the_limit(height, width, longest, channels):
    image = colouring.fit_image(np.zeros((height, width, channels), np.uint8), longest)
    mask = colouring.fit_mask(np.zeros((height, width), np.uint8), longest)
    assert image.shape == (*mask.shape, 3)
    assert longest / 2 < max(mask.shape) <= longest


def test_small_images_are_magnified_to_sharp_squares_and_large_ones_averaged():
    small = np.array([[[0], [200]]], np.uint8)
    np.testing.assert_array_equal(
        colouring.fit_image(small, 7)[..., 0], [[0] * 3 + [200] * 3, [0] * 3 + [200] * 3, [0] * 3 + [200] * 3]
    )
    assert colouring.fit_image(small, 1).tolist() == [[[100, 100, 100]]]


def test_masks_are_never_mixed():
    mask = np.tile(np.array([[0, 2]], np.uint8), (50, 25))
    assert set(np.unique(colouring.fit_mask(mask, 7))) <= {0, 2}


@pytest.mark.parametrize("image", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3))])
def test_other_arrays_are_no_images(image):
    with pytest.raises(ValueError, match="must be uint8"):
        colouring.as_rgb(image)
