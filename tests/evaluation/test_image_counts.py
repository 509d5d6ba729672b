"""What is kept of an image: the numbers of the functions that measure it, whole or in pairs of values."""

import numpy as np
import pytest

from segkit.evaluation.calibration import count_of_class
from segkit.evaluation.image_counts import NOT_BACKGROUND, ComparedImage, calibrations_of_pairs, count_image
from segkit.evaluation.pixels import confusion
from segkit.evaluation.surface_tables import surface_row
from segkit.evaluation.surfaces import tally_classes
from segkit.evaluation.value_pairs import add_pairs, count_pairs
from segkit.masks import IGNORE


def image(num_classes, **maps):
    rng = np.random.default_rng(num_classes)
    prediction, truth = rng.integers(0, num_classes, (2, 24, 31), dtype=np.uint8)
    truth[:3] = IGNORE
    return ComparedImage(name="a", truth=truth, prediction=prediction, mpp=0.5, **maps)


def levels(*shape):
    return np.random.default_rng(9).integers(0, 256, shape, dtype=np.uint8)


def assert_same(one, other):
    for name in ("pixels", "came_true", "probability"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-9)
    assert one.squared_error == pytest.approx(other.squared_error)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_masks_are_counted_and_their_distances_measured(num_classes):
    one = image(num_classes)
    found = count_image(one, num_classes, tolerance_px=1.0)
    assert (found.name, found.mpp, found.calibrations) == ("a", 0.5, {})
    np.testing.assert_array_equal(found.confusion, confusion(one.prediction, one.truth, num_classes))
    tallies = tally_classes(one.prediction, one.truth, num_classes)
    np.testing.assert_array_equal(found.surfaces, [surface_row(tally, (24, 31), 1.0) for tally in tallies])
    assert count_image(one, num_classes, tolerance_px=None).surfaces is None


def test_of_two_classes_the_map_is_that_of_the_second():
    one = image(2, foreground=levels(24, 31))
    found = count_image(one, 2, tolerance_px=None).calibrations
    assert set(found) == {1}
    assert_same(found[1], count_of_class(one.foreground, one.truth, 1))


def test_of_more_classes_each_has_its_map_and_all_together_that_of_not_being_background():
    one = image(3, foreground=levels(24, 31), of_classes=levels(24, 31, 2))
    found = count_image(one, 3, tolerance_px=None).calibrations
    assert set(found) == {NOT_BACKGROUND, 1, 2}
    for index in (1, 2):
        assert_same(found[index], count_of_class(one.of_classes[..., index - 1], one.truth, index))
    any_class = np.where((one.truth > 0) & (one.truth != IGNORE), 1, one.truth).astype(np.uint8)
    assert_same(found[NOT_BACKGROUND], count_of_class(one.foreground, any_class, 1))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_maps_counted_block_by_block_give_the_same(num_classes):
    one = image(num_classes, foreground=levels(24, 31))
    pairs = add_pairs(count_pairs([(one.truth[rows], one.foreground[rows])]) for rows in (slice(0, 9), slice(9, None)))
    index_of = {**{index: index for index in range(num_classes)}, IGNORE: IGNORE}
    found = calibrations_of_pairs(pairs, index_of, num_classes)
    expected = count_image(one, num_classes, tolerance_px=None).calibrations
    assert found.keys() == expected.keys()
    for key, sums in found.items():
        assert_same(sums, expected[key])
