"""Calibration of many images at once, against the functions for one."""

import numpy as np
import pytest

from segkit.evaluation import calibration_tables
from segkit.evaluation.calibration import (
    brier_score,
    count_of_class,
    expected_calibration_error,
    maximum_calibration_error,
    no_calibration,
    reliability_curve,
)
from segkit.evaluation.calibration_tables import stack_calibrations
from segkit.evaluation.estimates import weights_of_set_and_samples

FUNCTIONS = {"ece": expected_calibration_error, "mce": maximum_calibration_error, "brier": brier_score}


def images(num_images=5):
    """Sums of images for the events 1 and 2; the last image has none."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(num_images - 1):
        truth = rng.integers(0, 3, (20, 30)).astype(np.uint8)
        sums = {}
        for index in (1, 2):
            maps = np.where(truth == index, rng.integers(90, 256, truth.shape), rng.integers(0, 130, truth.shape))
            sums[index] = count_of_class(maps.astype(np.uint8), truth, index)
        found.append(sums)
    return [*found, {}]


def test_images_and_their_sums_have_the_metrics_of_the_functions_for_one():
    sums = images()
    table = stack_calibrations(sums)
    assert table.events == (1, 2)
    by_image, pooled = table.by_image(), table.pooled(np.array([[1.0, 1, 1, 1, 1], [0, 2, 0, 1, 0]]))
    assert tuple(by_image) == calibration_tables.METRICS
    for metric, function in FUNCTIONS.items():
        for place, event in enumerate(table.events):
            alone = [function(one[event]) if one else np.nan for one in sums]
            np.testing.assert_allclose(by_image[metric][:, place], alone)
            whole = sum((one[event] for one in sums if one), no_calibration())
            np.testing.assert_allclose(pooled[metric][0, place], function(whole))
            drawn = sums[1][event] + sums[1][event] + sums[3][event]
            np.testing.assert_allclose(pooled[metric][1, place], function(drawn))


def test_a_summary_has_the_curve_of_all_images_and_says_how_many_there_are():
    sums = images()
    table = stack_calibrations(sums)
    weights = weights_of_set_and_samples(len(sums), None, 50, 0)
    first, second = table.summaries({1: "gland", 2: "vessel"}, weights)
    assert (first.name, first.num_images, second.name) == ("gland", 4, "vessel")
    curve = reliability_curve(sum((one[1] for one in sums if one), no_calibration()))
    assert [one.pixels for one in first.curve] == curve.pixels.tolist()
    shares = [np.nan if one.share is None else one.share for one in first.curve]
    np.testing.assert_allclose(shares, curve.share, atol=1e-6)
    assert [one.low for one in first.curve[1:]] == [one.high for one in first.curve[:-1]]
    assert first.pooled["ece"].low <= first.pooled["ece"].value <= first.pooled["ece"].high
    assert first.mean["ece"].value == pytest.approx(
        np.mean([expected_calibration_error(one[1]) for one in sums if one]), abs=1e-6
    )


def test_without_probabilities_there_is_nothing():
    assert stack_calibrations([{}, {}]) is None
    some = stack_calibrations(images()).of(np.array([False, False, False, False, True]))
    assert all(np.isnan(values).all() for values in some.by_image().values())
    assert all(np.isnan(values).all() for values in some.pooled(np.ones((1, 1))).values())
    assert not some.known.any()


def test_levels_are_those_of_the_images_unless_some_are_of_floating_point():
    sums = images()
    table = stack_calibrations(sums)
    assert table.levels.shape == (5, 2, 2, 256)
    np.testing.assert_array_equal(table.levels[1, 0], sums[1][1].levels)
    np.testing.assert_array_equal(table.levels[4], 0)
    np.testing.assert_array_equal(table.of(np.arange(5) == 2).levels, table.levels[2:3])
    sums[3][2] = count_of_class(np.full((2, 2), 0.3), np.ones((2, 2), np.uint8), 2)
    assert stack_calibrations(sums).levels is None


def test_every_metric_has_a_definition():
    assert set(calibration_tables.METRICS) <= set(calibration_tables.DEFINITIONS)
