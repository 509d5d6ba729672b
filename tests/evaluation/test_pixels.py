"""Pixel metrics against their definitions, counted pixel by pixel, and against their own symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segkit.errors import InputError
from segkit.evaluation import pixels
from segkit.masks import IGNORE

NUM_CLASSES = 4


@st.composite
def mask_pairs(draw, ignore=True):
    """A prediction and a truth of the same shape; the truth with some pixels that are not labelled."""
    shape = draw(st.tuples(st.integers(0, 12), st.integers(1, 12)))
    values = st.integers(0, NUM_CLASSES - 1)
    prediction = draw(arrays(np.uint8, shape, elements=values))
    truth = draw(arrays(np.uint8, shape, elements=values | st.just(IGNORE) if ignore else values))
    return prediction, truth


def counted(prediction, truth):
    """The definition, pixel by pixel."""
    table = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    for predicted, true in zip(prediction.flat, truth.flat, strict=True):
        if true != IGNORE:
            table[true, predicted] += 1
    return table


def of_one_class(prediction, truth, index):
    """TP, FP, FN, TN of one class as sizes of sets of pixels."""
    labelled = truth != IGNORE
    is_predicted, is_true = (prediction == index) & labelled, (truth == index) & labelled
    return (
        np.count_nonzero(is_predicted & is_true),
        np.count_nonzero(is_predicted & ~is_true),
        np.count_nonzero(~is_predicted & is_true),
        np.count_nonzero(labelled & ~is_predicted & ~is_true),
    )


def ratio(numerator, denominator):
    return numerator / denominator if denominator else np.nan


@settings(deadline=None)
@given(mask_pairs())
def test_confusion_counts_every_labelled_pixel_once(pair):
    table = pixels.confusion(*pair, NUM_CLASSES)
    assert table.dtype == np.int64
    np.testing.assert_array_equal(table, counted(*pair))


@settings(deadline=None)
@given(mask_pairs())
def test_metrics_follow_their_definitions(pair):
    table = pixels.confusion(*pair, NUM_CLASSES)
    for index in range(NUM_CLASSES):
        tp, fp, fn, tn = of_one_class(*pair, index)
        expected = {
            "dice": ratio(2 * tp, 2 * tp + fp + fn),
            "iou": ratio(tp, tp + fp + fn),
            "precision": ratio(tp, tp + fp),
            "recall": ratio(tp, tp + fn),
            "specificity": ratio(tn, tn + fp),
        }
        for name, metric in pixels.CLASS_METRICS.items():
            assert metric(table)[index] == pytest.approx(expected[name], nan_ok=True), name
    labelled = pair[1] != IGNORE
    wrong = np.count_nonzero((pair[0] != pair[1]) & labelled)
    assert pixels.pixel_error(table) == pytest.approx(ratio(wrong, np.count_nonzero(labelled)), nan_ok=True)


@settings(deadline=None)
@given(mask_pairs(ignore=False))
def test_exchanging_prediction_and_truth_exchanges_precision_and_recall_only(pair):
    forth, back = pixels.confusion(*pair, NUM_CLASSES), pixels.confusion(*pair[::-1], NUM_CLASSES)
    np.testing.assert_array_equal(forth, back.T)
    np.testing.assert_array_equal(pixels.precision(forth), pixels.recall(back))
    np.testing.assert_array_equal(pixels.dice(forth), pixels.dice(back))
    np.testing.assert_array_equal(pixels.iou(forth), pixels.iou(back))


@settings(deadline=None)
@given(mask_pairs(), st.permutations(range(NUM_CLASSES)))
def test_renaming_classes_only_reorders_the_metrics(pair, order):
    renamed = np.full(256, IGNORE, np.uint8)
    renamed[:NUM_CLASSES] = order
    before = pixels.confusion(*pair, NUM_CLASSES)
    after = pixels.confusion(renamed[pair[0]], renamed[pair[1]], NUM_CLASSES)
    for metric in pixels.CLASS_METRICS.values():
        np.testing.assert_allclose(metric(after)[list(order)], metric(before))
    np.testing.assert_allclose(pixels.pixel_error(after), pixels.pixel_error(before))


@settings(deadline=None)
@given(mask_pairs(), st.integers(0, 12))
def test_tiles_add_up_to_the_image(pair, row):
    top = pixels.confusion(pair[0][:row], pair[1][:row], NUM_CLASSES)
    bottom = pixels.confusion(pair[0][row:], pair[1][row:], NUM_CLASSES)
    np.testing.assert_array_equal(top + bottom, pixels.confusion(*pair, NUM_CLASSES))


@settings(deadline=None)
@given(arrays(np.int64, (2, 3, NUM_CLASSES, NUM_CLASSES), elements=st.integers(0, 10**12)))
def test_leading_axes_are_kept(tables):
    for metric in [*pixels.CLASS_METRICS.values(), pixels.pixel_error]:
        batch = metric(tables)
        for index in np.ndindex(2, 3):
            np.testing.assert_array_equal(batch[index], metric(tables[index]))


@settings(deadline=None)
@given(arrays(np.int64, (NUM_CLASSES, NUM_CLASSES), elements=st.integers(0, 10**12)))
def test_values_lie_between_0_and_1_and_dice_follows_from_iou(table):
    dice, iou = pixels.dice(table), pixels.iou(table)
    np.testing.assert_allclose(dice, 2 * iou / (1 + iou))
    for metric in [*pixels.CLASS_METRICS.values(), pixels.pixel_error]:
        values = np.atleast_1d(metric(table))
        defined = values[~np.isnan(values)]
        assert ((defined >= 0) & (defined <= 1)).all()


def test_images_of_more_than_one_chunk_and_strided_views_are_counted_whole():
    rng = np.random.default_rng(0)
    prediction, truth = rng.integers(0, 3, (2, 700, 900), dtype=np.uint8)
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    expected = [[np.count_nonzero((truth == t) & (prediction == p)) for p in range(3)] for t in range(3)]
    np.testing.assert_array_equal(pixels.confusion(prediction, truth, 3), expected)
    np.testing.assert_array_equal(pixels.confusion(prediction[::-1].T, truth[::-1].T, 3), expected)


def test_as_many_classes_as_a_mask_can_hold():
    prediction, truth = np.array([[254, 254, 0]], np.uint8), np.array([[254, 0, IGNORE]], np.uint8)
    table = pixels.confusion(prediction, truth, 255)
    assert (table[254, 254], table[0, 254], table.sum()) == (1, 1, 2)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        ([0, 0], [0, 0], {"dice": np.nan, "iou": np.nan, "precision": np.nan, "recall": np.nan, "specificity": 1}),
        ([0, 0], [1, 0], {"dice": 0, "iou": 0, "precision": 0, "recall": np.nan, "specificity": 0.5}),
        ([1, 0], [0, 0], {"dice": 0, "iou": 0, "precision": np.nan, "recall": 0, "specificity": 1}),
        ([1, 1], [1, 1], {"dice": 1, "iou": 1, "precision": 1, "recall": 1, "specificity": np.nan}),
        ([IGNORE] * 2, [1, 0], dict.fromkeys(pixels.CLASS_METRICS, np.nan)),
    ],
)
def test_empty_truth_and_empty_prediction_have_the_documented_values(truth, prediction, expected):
    table = pixels.confusion(np.array([prediction], np.uint8), np.array([truth], np.uint8), 2)
    for name, metric in pixels.CLASS_METRICS.items():
        np.testing.assert_equal(metric(table)[1], expected[name], err_msg=name)


def test_mean_over_foreground_leaves_background_and_undefined_out():
    values = np.array([[0.9, 0.2, np.nan, 0.4], [0.9, np.nan, np.nan, np.nan]])
    np.testing.assert_allclose(pixels.mean_over_foreground(values), [0.3, np.nan])


@pytest.mark.parametrize(
    ("prediction", "truth", "num_classes", "words"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2, "differ in shape"),
        (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.uint8), 2, "must be uint8"),
        (np.full((2, 2), 2, np.uint8), np.zeros((2, 2), np.uint8), 2, "prediction holds 2"),
        (np.full((2, 2), IGNORE, np.uint8), np.zeros((2, 2), np.uint8), 2, "prediction holds 255"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 7, np.uint8), 2, "truth holds 7"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), 256, "num_classes"),
    ],
)
def test_what_cannot_be_counted_is_refused(prediction, truth, num_classes, words):
    with pytest.raises(ValueError, match=words):
        pixels.confusion(prediction, truth, num_classes)


def test_metrics_refuse_what_is_no_confusion_matrix():
    with pytest.raises(ValueError, match="confusion matrices"):
        pixels.dice(np.zeros((3, 2)))


def test_different_sizes_are_an_error_that_names_the_image():
    with pytest.raises(InputError, match=r"slide_7: the prediction is 3 x 2 .* truth is 2 x 2"):
        pixels.require_same_shape(np.zeros((2, 3)), np.zeros((2, 2)), "slide_7")
    pixels.require_same_shape(np.zeros((2, 3)), np.zeros((2, 3)), "slide_7")
