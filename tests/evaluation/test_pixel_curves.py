"""Thresholds of the probability of pixels, against cutting the maps at each of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segkit.evaluation import pixel_curve_exports, pixels
from segkit.evaluation.calibration import count_of_class
from segkit.evaluation.calibration_tables import stack_calibrations
from segkit.evaluation.image_counts import ComparedImage, count_image
from segkit.evaluation.pixel_curves import METRICS, average_precision, curve_of_levels, sentences_of
from segkit.evaluation.pixel_tables import measure_pixels
from segkit.masks import IGNORE

maps_and_truths = st.tuples(
    arrays(np.uint8, 40, elements=st.sampled_from([0, 1, 50, 127, 128, 200, 254, 255])),
    arrays(np.uint8, 40, elements=st.sampled_from([0, 1, 1, IGNORE])),
)


@settings(max_examples=20, deadline=None)
@given(maps_and_truths)
def test_each_threshold_is_what_cutting_the_map_there_gives(pair):
    levels, truth = pair
    curve = curve_of_levels(count_of_class(levels, truth, 1).levels)
    assert curve.thresholds[0] == 1
    assert curve.thresholds[-1] == 0
    for place, threshold in list(enumerate(curve.thresholds))[::5] + list(enumerate(curve.thresholds))[125:130]:
        table = pixels.confusion((levels / 255 >= threshold - 1e-12).astype(np.uint8), truth, 2)
        counted = (curve.true_positives[place], curve.false_positives[place], curve.false_negatives[place])
        assert counted == (table[1, 1], table[0, 1], table[1, 0])
        for metric in METRICS:
            expected = pixels.CLASS_METRICS[metric](table)[1]
            np.testing.assert_equal(getattr(curve, metric)[place], expected)
    for threshold in (0, 0.3, 0.5, 128 / 255, 1):
        table = pixels.confusion((levels / 255 >= threshold).astype(np.uint8), truth, 2)
        for metric, value in curve.at(threshold).items():
            expected = pixels.CLASS_METRICS[metric](table)[1]
            assert value == (None if np.isnan(expected) else pytest.approx(expected, abs=1e-6))


@settings(max_examples=50, deadline=None)
@given(maps_and_truths)
def test_average_precision_is_the_sum_over_the_levels_that_occur(pair):
    levels, truth = pair
    expected, recall = 0.0, 0.0
    for level in sorted(set(levels[truth != IGNORE].tolist()), reverse=True):
        kept = (levels >= level) & (truth != IGNORE)
        before, recall = recall, (truth[kept] == 1).sum() / max(1, (truth == 1).sum())
        expected += (recall - before) * (truth[kept] == 1).mean()
    found = average_precision(count_of_class(levels, truth, 1).levels)
    np.testing.assert_allclose(found, expected if (truth == 1).any() else np.nan, atol=1e-12)


def test_the_best_threshold_is_the_highest_with_the_highest_dice():
    truth = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    curve = curve_of_levels(count_of_class(np.array([250, 200, 90, 80, 10, 10], np.uint8), truth, 1).levels)
    assert curve.best() == (90 / 255, 1.0)
    assert curve.dice[curve.thresholds == 90 / 255] == curve.dice[curve.thresholds == 81 / 255] == 1
    nothing = curve_of_levels(count_of_class(truth, np.zeros(6, np.uint8), 1).levels)
    assert nothing.best() is None
    assert nothing.at(0.5) == {"precision": None, "recall": None, "dice": None, "iou": None}


def images_of(num_classes, num_images=5):
    """Images whose masks take the most probable class, the last one without probabilities."""
    rng = np.random.default_rng(num_classes)
    images = []
    for number in range(num_images):
        truth = rng.integers(0, num_classes, (20, 25)).astype(np.uint8)
        scores = 0.3 + 3 * rng.random((20, 25, num_classes)) + np.eye(num_classes)[truth]
        shares = scores / scores.sum(axis=-1, keepdims=True)
        maps = (shares * 255).round().astype(np.uint8)
        foreground = ((1 - shares[..., 0]) * 255).round().astype(np.uint8)
        truth[:2] = IGNORE
        known = number < num_images - 1
        image = ComparedImage(
            name=f"image_{number}",
            truth=truth,
            prediction=shares.argmax(axis=-1).astype(np.uint8),
            foreground=foreground if known else None,
            of_classes=maps[..., 1:] if num_classes > 2 and known else None,
        )
        images.append(count_image(image, num_classes, tolerance_px=None))
    return images


def report_of(images, num_classes, **options):
    return measure_pixels(
        [one.name for one in images],
        np.stack([one.confusion for one in images]),
        ("background", "nucleus", "mitosis")[:num_classes],
        calibrations=stack_calibrations([one.calibrations for one in images]),
        num_samples=50,
        **options,
    )


def test_at_the_threshold_of_the_most_probable_class_the_curve_meets_the_masks():
    images = images_of(2)
    (sweep,) = report_of(images, 2, threshold=0.5).sweeps
    assert (sweep.name, sweep.num_images, sweep.used, sweep.best) == ("nucleus", 4, 0.5, None)
    assert sweep.curve.at(0.5) == sweep.of_masks
    table = sum(one.confusion for one in images[:4])
    assert sweep.of_masks["dice"] == pytest.approx(pixels.dice(table)[1], abs=1e-6)
    precision = sweep.average_precision
    assert precision.low < precision.value < precision.high
    levels = sum(one.calibrations[1].levels for one in images[:4])
    assert precision.value == pytest.approx(float(average_precision(levels)), abs=1e-6)


def test_of_several_classes_each_has_a_curve_and_masks_belong_to_no_threshold():
    images = images_of(3)
    sweeps = report_of(images, 3, threshold=0.5).sweeps
    assert [(one.name, one.used) for one in sweeps] == [("not background", None), ("nucleus", None), ("mitosis", None)]
    table = sum(one.confusion for one in images[:4])
    any_class = 2 * table[1:, 1:].sum() / (2 * table[1:, 1:].sum() + table[0, 1:].sum() + table[1:, 0].sum())
    assert sweeps[0].of_masks["dice"] == pytest.approx(any_class, abs=1e-6)
    assert sweeps[2].of_masks["iou"] == pytest.approx(pixels.iou(table)[2], abs=1e-6)
    assert "no single threshold" in " ".join(sentences_of(sweeps, 3))


@pytest.mark.parametrize("is_validation", [False, True])
def test_a_best_threshold_is_told_of_validation_images_only(is_validation):
    report = report_of(images_of(2), 2, threshold=0.5, is_validation=is_validation)
    (content,) = pixel_curve_exports.as_json(report.sweeps)
    text = "\n".join(pixel_curve_exports.markdown_parts(report.sweeps, 2))
    words = " ".join(sentences_of(report.sweeps, 2))
    assert "with two classes the threshold 0.5" in words
    assert "No threshold was chosen on these images" in words
    assert ("best threshold" in text) == is_validation
    assert ("should be chosen on validation images" in words) != is_validation
    if is_validation:
        dice = report.sweeps[0].curve.dice
        assert content["best_on_validation"]["dice"] == pytest.approx(dice.max(), abs=1e-6)
        assert content["best_on_validation"]["threshold"] == pytest.approx((255 - dice.argmax()) / 255, abs=1e-6)
    else:
        assert content["best_on_validation"] is None


def test_files_have_the_sweep_without_what_is_undefined():
    (sweep,) = report_of(images_of(2), 2).sweeps
    assert "is not known" in sentences_of([sweep], 2)[0]
    rows = pixel_curve_exports.as_csv_rows([sweep])
    assert len(rows) == 256
    assert set(rows[0]) == set(pixel_curve_exports.COLUMNS)
    assert rows[0]["threshold"] == 1
    assert rows[0]["precision"] is None  # no pixel is that probable
    assert all((row["precision"] is None) == (row["tp_px"] + row["fp_px"] == 0) for row in rows)
    assert rows[-1]["recall"] == 1
    assert rows[-1]["fn_px"] == 0
    (content,) = pixel_curve_exports.as_json([sweep])
    assert [one["threshold"] for one in content["sweep"]] == [round(0.05 * step, 2) for step in range(1, 20)]
    half = content["sweep"][9]
    assert half == {"threshold": 0.5, **sweep.curve.at(0.5)}
    assert half["dice"] == next(row for row in rows if row["threshold"] == round(128 / 255, 6))["dice"]


def test_without_probabilities_there_is_no_sweep():
    images = images_of(2)[-1:]
    report = report_of(images, 2)
    assert report.sweeps == ()
    assert list(pixel_curve_exports.markdown_parts(report.sweeps, 2)) == []
    assert sentences_of((), 2) == ()
