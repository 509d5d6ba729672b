"""Calibration against counting pixel by pixel with whole numbers, and tiles against the image."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segkit.errors import InputError
from segkit.evaluation import calibration
from segkit.evaluation.calibration import count_of_class, count_of_top_label
from segkit.masks import IGNORE

levels_and_truth = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape), arrays(np.uint8, shape, elements=st.integers(0, 2) | st.just(IGNORE))
    )
)
numbers_of_bins = st.sampled_from([1, 2, 10, 15, 17, 255])


def counted(levels, truth, class_index, num_bins):
    """The definition, pixel by pixel: how many, how many came true and the sum of probabilities in each bin."""
    table = [[0, 0, Fraction(0)] for _ in range(num_bins)]
    squares = Fraction(0)
    for level, value in zip(levels.flat, truth.flat, strict=True):
        if value == IGNORE:
            continue
        probability, outcome = Fraction(int(level), 255), int(value == class_index)
        row = next(k for k in range(num_bins) if probability <= Fraction(k + 1, num_bins))
        table[row][0] += 1
        table[row][1] += outcome
        table[row][2] += probability
        squares += (probability - outcome) ** 2
    return table, squares


def assert_same(one, other):
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.came_true, other.came_true)
    np.testing.assert_allclose(one.probability, other.probability, atol=1e-9)
    assert one.squared_error == pytest.approx(other.squared_error, abs=1e-9)


@settings(max_examples=50)
@given(levels_and_truth, numbers_of_bins)
def test_pixels_are_sorted_into_bins_and_the_metrics_follow(pair, num_bins):
    levels, truth = pair
    table, squares = counted(levels, truth, 1, num_bins)
    counts = count_of_class(levels, truth, 1, num_bins=num_bins)
    assert counts.pixels.tolist() == [row[0] for row in table]
    assert counts.came_true.tolist() == [row[1] for row in table]
    assert counts.probability.tolist() == pytest.approx([float(row[2]) for row in table], abs=1e-12)
    total = sum(row[0] for row in table)
    gaps = [abs(Fraction(row[1], row[0]) - row[2] / row[0]) for row in table if row[0]]
    weights = [Fraction(row[0], total) for row in table if row[0]]
    expected = (
        (
            float(sum(weight * gap for weight, gap in zip(weights, gaps, strict=True))),
            float(max(gaps)),
            float(squares / total),
        )
        if total
        else (np.nan,) * 3
    )
    found = (
        calibration.expected_calibration_error(counts),
        calibration.maximum_calibration_error(counts),
        calibration.brier_score(counts),
    )
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=50)
@given(levels_and_truth, numbers_of_bins, st.sampled_from([np.float32, np.float64]))
def test_levels_count_like_the_probabilities_that_they_stand_for(pair, num_bins, kind):
    levels, truth = pair
    # In float32 a probability on the edge of two bins may be a little more than the edge.
    shares = levels / 255 if kind == np.float64 else np.nextafter((levels / 255).astype(kind), kind(0))
    tolerance = 1e-9 if kind == np.float64 else 1e-5
    one, other = (count_of_class(values, truth, 1, num_bins=num_bins) for values in (levels, shares))
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.came_true, other.came_true)
    np.testing.assert_allclose(one.probability, other.probability, atol=tolerance)
    assert one.squared_error == pytest.approx(other.squared_error, abs=tolerance)


def test_probabilities_of_more_than_one_chunk_are_counted_whole():
    rng = np.random.default_rng(0)
    probability, truth = rng.random((500, 400)), rng.integers(0, 3, (500, 400), dtype=np.uint8)
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    labelled = truth != IGNORE
    edges = np.arange(16) / 15
    counts = count_of_class(probability, truth, 2)
    pixels = np.histogram(probability[labelled], edges)[0]
    np.testing.assert_array_equal(counts.pixels, pixels)
    np.testing.assert_array_equal(counts.came_true, np.histogram(probability[truth == 2], edges)[0])
    np.testing.assert_allclose(
        counts.probability, np.histogram(probability[labelled], edges, weights=probability[labelled])[0]
    )
    expected = np.mean((probability[labelled] - (truth == 2)[labelled]) ** 2)
    assert calibration.brier_score(counts) == pytest.approx(expected)
    levels = (probability * 255).round().astype(np.uint8)
    assert count_of_class(levels[::-1].T, truth[::-1].T, 2).pixels.sum() == labelled.sum()


@settings(max_examples=50)
@given(levels_and_truth, st.integers(0, 9), st.booleans())
def test_tiles_add_up_to_the_image(pair, row, as_floats):
    values = pair[0] / 255 if as_floats else pair[0]
    parts = [count_of_class(values[rows], pair[1][rows], 1) for rows in (slice(0, row), slice(row, None))]
    total = sum(parts, calibration.no_calibration())
    assert_same(total, count_of_class(values, pair[1], 1))


@settings(max_examples=50)
@given(levels_and_truth)
def test_the_background_of_two_classes_is_as_reliable_as_the_foreground(pair):
    levels, truth = pair[0], np.where(pair[1] == 2, np.uint8(0), pair[1])
    one, other = count_of_class(levels, truth, 1), count_of_class(255 - levels, truth, 0)
    assert other.squared_error == pytest.approx(one.squared_error)
    assert (other.pixels.sum(), other.came_true.sum()) == (one.pixels.sum(), one.pixels.sum() - one.came_true.sum())


def test_the_edges_of_bins_belong_to_the_bin_below():
    values = np.array([0, 1 / 15, 1 / 15 + 1e-9, 14 / 15, 1], np.float64)
    counts = count_of_class(values, np.zeros(5, np.uint8), 1)
    assert np.flatnonzero(counts.pixels).tolist() == [0, 1, 13, 14]
    assert counts.pixels[0] == 2


def test_what_comes_true_as_often_as_predicted_has_no_error_and_the_rest_has_its_gap():
    truth = np.array([1] * 4 + [0] * 6, np.uint8)
    reliable = count_of_class(np.full(10, 0.4), truth, 1)
    assert calibration.expected_calibration_error(reliable) == pytest.approx(0)
    sure = count_of_class(np.full(10, 1.0), truth, 1)
    assert calibration.expected_calibration_error(sure) == pytest.approx(0.6)
    assert calibration.brier_score(sure) == pytest.approx(0.6)
    both = sure + reliable
    assert calibration.expected_calibration_error(both) == pytest.approx(0.3)
    assert calibration.maximum_calibration_error(both) == pytest.approx(0.6)


def test_the_top_label_is_the_most_probable_class_and_is_right_or_not():
    probabilities = np.array([[0.7, 0.2, 0.1, 0.5], [0.2, 0.6, 0.3, 0.5], [0.1, 0.2, 0.6, 0.0]])
    truth = np.array([0, 2, IGNORE, 0], np.uint8)
    counts = count_of_top_label(probabilities, truth)
    expected = count_of_class(np.array([0.7, 0.6, 0.5]), np.array([1, 0, 1], np.uint8), 1)
    assert_same(counts, expected)
    levels = (probabilities * 255).round().astype(np.uint8)
    assert count_of_top_label(levels, truth).came_true.sum() == 2


def test_the_curve_has_the_bins_means_and_nothing_where_there_are_no_pixels():
    counts = count_of_class(np.array([0.1, 0.3, 0.9]), np.array([0, 1, 1], np.uint8), 1, num_bins=4)
    curve = calibration.reliability_curve(counts)
    np.testing.assert_allclose(curve.edges, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.mean_probability, [0.1, 0.3, np.nan, 0.9])
    np.testing.assert_allclose(curve.share, [0, 1, np.nan, 1])
    np.testing.assert_array_equal(curve.pixels, [1, 1, 0, 1])


def test_without_labelled_pixels_all_is_undefined():
    counts = count_of_class(np.full((2, 2), 0.5), np.full((2, 2), IGNORE, np.uint8), 1)
    assert counts.pixels.sum() == 0
    for metric in (
        calibration.expected_calibration_error,
        calibration.maximum_calibration_error,
        calibration.brier_score,
    ):
        assert np.isnan(metric(counts))


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (np.array([0.5, np.nan]), "must be 0 to 1"),
        (np.array([0.5, 1.1]), "must be 0 to 1"),
        (np.array([-0.1, 0.5]), "must be 0 to 1"),
        (np.array([0, 1], np.int64), "uint8 or floating"),
        (np.array([0.5]), "differ in shape"),
    ],
)
def test_what_are_no_probabilities_is_refused(probability, words):
    with pytest.raises(ValueError, match=words):
        count_of_class(probability, np.zeros(2, np.uint8), 1)


def test_bins_have_to_be_the_same_and_at_least_one():
    with pytest.raises(ValueError, match="3 and 4 bins"):
        calibration.no_calibration(3) + calibration.no_calibration(4)
    with pytest.raises(ValueError, match="num_bins"):
        count_of_class(np.zeros(2), np.zeros(2, np.uint8), 1, num_bins=0)


def test_a_users_map_that_holds_no_probabilities_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"slide_7: 2 of 4 probabilities .* the first is nan"):
        calibration.require_probabilities(np.array([0.1, np.nan, 3.0, 1]), "slide_7")
    with pytest.raises(InputError, match=r"slide_7: the probabilities are int32"):
        calibration.require_probabilities(np.zeros(3, np.int32), "slide_7")
    calibration.require_probabilities(np.array([0.0, 1.0], np.float16), "slide_7")
    calibration.require_probabilities(np.array([0, 255], np.uint8), "slide_7")
