"""Tables of membranes: what is kept of an image, sums, means, thresholds, and what the files say."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.metrics import adapted_rand_error, variation_of_information

from segkit.evaluation import membrane_exports
from segkit.evaluation.image_counts import ComparedImage, count_image
from segkit.evaluation.membrane_images import MembraneRules, cell_probability, membrane_among, membranes_of, sweep_of
from segkit.evaluation.membrane_tables import ChosenThreshold, MembraneReport, choose_threshold, tabulate_membranes
from segkit.evaluation.membrane_totals import METRICS, THINNED_METRICS, TOTALS, measure_membranes, sweep_membranes
from segkit.evaluation.membranes import best_threshold, thinned_scores, thinned_sweep
from segkit.masks import IGNORE

THRESHOLDS = (0.2, 0.5, 0.8)

triples = st.tuples(st.integers(2, 9), st.integers(2, 9)).flatmap(
    lambda shape: st.tuples(*[arrays(np.bool_, shape)] * 3)
)


def waves(width: float, bend: float, membrane: float) -> np.ndarray:
    y, x = np.mgrid[:40, :60]
    return np.abs(np.sin(x / width + bend * np.sin(y / 9)) * np.sin(y / width)) > membrane


def probability_of(cells: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(cells.astype(float), 1.5)


TRUTHS = [waves(4, bend, 0.1) for bend in (0.2, 0.5, 0.8, 1.1)]
MAPS = [probability_of(waves(4, bend, 0.2)) for bend in (0.25, 0.5, 0.9, 1.1)]


def measured_images(**options: object) -> list:
    return [
        measure_membranes(one > 0.5, truth, cell_probability=one, thresholds=THRESHOLDS, **options)
        for one, truth in zip(MAPS, TRUTHS, strict=True)
    ]


def report_of_four(**options: object) -> MembraneReport:
    names = ["a", "b", "c", "d"]
    given = {"membrane": "membrane", "thresholds": THRESHOLDS, "num_samples": 50, **options}
    return tabulate_membranes(names, measured_images(), **given)


def metrics_of(totals: np.ndarray) -> dict[str, float]:
    return {name: float(metric(totals)) for name, metric in METRICS.items()}


@settings(deadline=None)
@given(triples)
def test_metrics_of_an_image_are_those_of_the_scores_and_of_scikit_image(masks):
    prediction, truth, _ = masks
    found = metrics_of(measure_membranes(prediction, truth).totals)
    scores = thinned_scores(prediction, truth)
    for name, score in (("v_rand", scores.v_rand), ("v_info", scores.v_info)):
        for part in ("score", "precision", "recall"):
            value = getattr(score, part)
            metric = name if part == "score" else f"{name}_{part}"
            assert found[metric] == pytest.approx(np.nan if value is None else value, nan_ok=True, abs=1e-12)
    segments = ndimage.label(truth)[0], ndimage.label(prediction)[0]
    splits, merges = variation_of_information(*segments)
    assert (found["vi_split_bits"], found["vi_merge_bits"]) == pytest.approx((splits, merges), abs=1e-9)
    assert found["vi_bits"] == pytest.approx(splits + merges, abs=1e-9)
    if not np.isnan([found["rand_precision"], found["rand_recall"]]).any():  # scikit-image divides by zero
        assert found["rand_error"] == pytest.approx(adapted_rand_error(*segments)[0], abs=1e-12)
        assert found["rand_score"] == pytest.approx(1 - found["rand_error"])


@settings(deadline=None)
@given(triples)
def test_pixels_that_are_not_labelled_count_nowhere(masks):
    prediction, truth, unlabelled = masks
    totals = measure_membranes(prediction, truth, unlabelled=unlabelled).totals
    np.testing.assert_array_equal(
        totals, measure_membranes(prediction, truth ^ unlabelled, unlabelled=unlabelled).totals
    )
    assert totals[TOTALS.index("num_px")] == (~unlabelled).sum()
    # Those after thinning never count what is no true cell.
    np.testing.assert_array_equal(totals[:9], measure_membranes(prediction, truth & ~unlabelled).totals[:9])


def test_a_sweep_holds_the_totals_at_each_threshold():
    truth, probability = TRUTHS[0], MAPS[0]
    measured = measure_membranes(probability > 0.5, truth, cell_probability=probability, thresholds=THRESHOLDS)
    np.testing.assert_array_equal(measured.sweep[1], measured.totals[:6])
    for row, scores in zip(measured.sweep, thinned_sweep(probability, truth, THRESHOLDS), strict=True):
        assert float(THINNED_METRICS["v_info"](row)) == pytest.approx(scores.v_info.score)
    ignored = np.zeros_like(truth)
    ignored[:20] = True
    half = sweep_membranes(probability, truth, unlabelled=ignored, thresholds=THRESHOLDS)
    np.testing.assert_array_equal(half, sweep_membranes(probability, truth & ~ignored, thresholds=THRESHOLDS))
    assert (half != measured.sweep).any()


def test_empty_truth_and_empty_prediction_are_defined_as_documented():
    nothing, everything = np.zeros((6, 6), bool), np.ones((6, 6), bool)
    two = everything.copy()
    two[3] = False
    without_truth = metrics_of(measure_membranes(two, nothing).totals)
    assert {name for name, value in without_truth.items() if np.isnan(value)} == {
        name for name in METRICS if not name.startswith("vi_")
    }
    assert without_truth["vi_merge_bits"] == 0
    assert without_truth["vi_split_bits"] > 0
    without_prediction = metrics_of(measure_membranes(nothing, two).totals)
    np.testing.assert_equal(without_prediction, metrics_of(measure_membranes(everything, two).totals))
    assert (without_prediction["v_rand_recall"], without_prediction["rand_recall"]) == (1, 1)
    assert (without_prediction["v_info"], without_prediction["v_info_precision"]) == (0, 0)
    both = metrics_of(measure_membranes(everything, everything).totals)
    assert (both["v_rand"], both["rand_error"], both["vi_bits"]) == (1, 0, 0)
    assert np.isnan(both["v_info"])
    unlabelled = metrics_of(measure_membranes(two, two, unlabelled=everything).totals)
    assert all(np.isnan(value) for value in unlabelled.values())


@pytest.mark.parametrize(
    ("classes", "index"),
    [
        (("membrane", "cell"), 0),
        (("background", "Border"), 1),
        (("cell", "walls"), 1),
        (("background", "foreground"), None),
        (("membrane", "border"), None),
        (("background", "cell", "membrane"), None),
        (("background", "basement membrane"), None),
    ],
)
def test_a_class_of_membranes_is_known_by_its_name(classes, index):
    assert membrane_among(classes) == index


FIRST, SECOND, THIRD = (MembraneRules(index=index, thresholds=THRESHOLDS) for index in range(3))


def test_the_probability_of_cell_is_that_of_no_membrane():
    foreground = np.array([[0, 51, 204, 255]], np.uint8)
    of_classes = np.stack([foreground // 3, foreground // 3 * 2], axis=-1)
    expected = np.array([[0, 0.2, 0.8, 1]], np.float32)
    np.testing.assert_array_equal(cell_probability(foreground, None, FIRST, 2), expected)
    np.testing.assert_array_equal(cell_probability(foreground, None, SECOND, 2), expected[:, ::-1])
    np.testing.assert_array_equal(cell_probability(foreground, of_classes, FIRST, 3), expected)
    of_third = 1 - np.float32([[0, 34, 136, 170]]) / 255
    np.testing.assert_allclose(cell_probability(foreground, of_classes, THIRD, 3), of_third, rtol=1e-6)
    assert cell_probability(foreground, None, THIRD, 3) is None
    assert cell_probability(None, None, FIRST, 2) is None
    # Levels that lie on a threshold fall on the same side of it for both classes.
    assert not (cell_probability(foreground, None, FIRST, 2) > 0.2)[0, 1]


def test_all_classes_but_the_membrane_are_cells_wherever_it_stands():
    first, second = TRUTHS[0], MAPS[0] > 0.5
    truth, prediction = np.where(first, 0, 1).astype(np.uint8), np.where(second, 0, 1).astype(np.uint8)
    expected = measure_membranes(second, first).totals
    np.testing.assert_array_equal(membranes_of(prediction, truth, SECOND).totals, expected)
    np.testing.assert_array_equal(membranes_of(1 - prediction, 1 - truth, FIRST).totals, expected)
    two_kinds = np.where(np.arange(60) % 2 == 0, 0, 2).astype(np.uint8)
    np.testing.assert_array_equal(
        membranes_of(np.where(second, two_kinds, 1).astype(np.uint8), truth, SECOND).totals, expected
    )
    truth[:3] = IGNORE
    unlabelled = np.zeros_like(first)
    unlabelled[:3] = True
    expected = measure_membranes(second, first, unlabelled=unlabelled).totals
    np.testing.assert_array_equal(membranes_of(prediction, truth, SECOND).totals, expected)
    probability = MAPS[1].astype(np.float32)
    measured = membranes_of(prediction, truth, SECOND, probability=probability)
    np.testing.assert_array_equal(sweep_of(truth, SECOND, probability), measured.sweep)


def test_an_image_is_counted_with_its_membranes_if_a_class_is_one():
    truth, prediction = TRUTHS[0].astype(np.uint8), (MAPS[0] > 0.5).astype(np.uint8)
    foreground = (MAPS[0] * 255).round().astype(np.uint8)
    image = ComparedImage(name="a", truth=truth, prediction=prediction, foreground=foreground)
    assert count_image(image, 2, tolerance_px=None).membranes is None
    counted = count_image(image, 2, tolerance_px=None, membranes=FIRST).membranes
    assert counted is not None
    expected = membranes_of(prediction, truth, FIRST, probability=foreground.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(counted.totals, expected.totals)
    np.testing.assert_array_equal(counted.sweep, expected.sweep)


def test_means_and_sums_are_what_they_say():
    report, measured = report_of_four(), measured_images()
    scores = [thinned_scores(one > 0.5, truth) for one, truth in zip(MAPS, TRUTHS, strict=True)]
    assert report.headline.value == pytest.approx(np.mean([one.v_rand.score for one in scores]), abs=1e-6)
    together = scores[0] + scores[1] + scores[2] + scores[3]
    assert report.pooled["v_rand"].value == pytest.approx(together.v_rand.score, abs=1e-6)
    assert report.pooled["v_info_precision"].value == pytest.approx(together.v_info.precision, abs=1e-6)
    assert report.images[2].metrics["v_info"] == pytest.approx(scores[2].v_info.score, abs=1e-6)
    bits = [metrics_of(one.totals)["vi_bits"] for one in measured]
    assert report.mean["vi_bits"].value == report.pooled["vi_bits"].value == pytest.approx(np.mean(bits), abs=1e-6)
    for estimates in (report.mean, report.pooled):
        for one in estimates.values():
            assert one.low <= one.value <= one.high
    assert report.mean["v_rand"].low < report.mean["v_rand"].high
    assert report_of_four() == report
    assert report_of_four(seed=1).headline != report.headline


def test_images_without_cells_are_left_out_of_means_only():
    nothing = np.zeros((40, 60), bool)
    one, empty = measured_images()[0], measure_membranes(TRUTHS[0], nothing)
    report = tabulate_membranes(["a", "empty"], [one, empty], membrane="membrane")
    assert report.images[1].metrics["v_rand"] is None
    assert report.headline.value == report.images[0].metrics["v_rand"]
    assert report.mean["vi_bits"].value > report.images[0].metrics["vi_bits"] / 2
    assert report.sweep == ()  # not of all images
    only_empty = tabulate_membranes(["empty"], [empty], membrane="membrane")
    assert (only_empty.headline.value, only_empty.best) == (None, {})
    assert "undefined" in "\n\n".join(membrane_exports.markdown_parts(only_empty))


def test_groups_and_attributes_are_measured_by_themselves():
    report = report_of_four(groups=["x", "x", "y", "z"], attributes={"animal": ["mouse", "fly", "mouse", "fly"]})
    assert (report.unit, report.num_units) == ("group", 3)
    assert [(one.by, one.name, one.num_images, one.num_units) for one in report.groups] == [
        ("group", "x", 2, 1),
        ("group", "y", 1, 1),
        ("group", "z", 1, 1),
        ("animal", "fly", 2, 2),
        ("animal", "mouse", 2, 2),
    ]
    x, fly = report.groups[0], report.groups[3]
    assert x.mean["v_rand"].low is None
    assert fly.mean["v_rand"].low is not None
    names = [name for name, of in zip("abcd", ["mouse", "fly", "mouse", "fly"], strict=True) if of == "fly"]
    of_flies = [row.metrics["v_rand"] for row in report.images if row.image in names]
    assert fly.mean["v_rand"].value == pytest.approx(np.mean(of_flies), abs=1e-6)


def test_the_best_threshold_here_is_the_highest_mean_of_the_sweep():
    report = report_of_four()
    assert [one.threshold for one in report.sweep] == list(THRESHOLDS)
    for metric in ("v_rand", "v_info"):
        means = [one.mean[metric].value for one in report.sweep]
        best = report.best[metric]
        assert (best.value, best.threshold) == (max(means), THRESHOLDS[int(np.argmax(means))])
    assert report.sweep[1].mean["v_rand"] == report.mean["v_rand"]  # the masks are cut at 0.5
    assert (report.chosen, report.at_chosen) == (None, None)


def test_a_threshold_is_chosen_by_the_mean_v_rand_of_other_images():
    sweeps = [sweep_membranes(one, truth, thresholds=THRESHOLDS) for one, truth in zip(MAPS, TRUTHS, strict=True)]
    nothing = np.zeros((len(THRESHOLDS), 6))
    chosen = choose_threshold([*sweeps, nothing], "5 images of the split val", thresholds=THRESHOLDS)
    values = np.stack([THINNED_METRICS["v_rand"](sweep) for sweep in sweeps])
    threshold, score = best_threshold(values, THRESHOLDS, standard_errors=1)
    assert chosen == ChosenThreshold(threshold, "5 images of the split val", pytest.approx(score, abs=1e-6))
    assert choose_threshold([nothing], "one", thresholds=THRESHOLDS) is None
    assert choose_threshold([], "none", thresholds=THRESHOLDS) is None
    report = report_of_four(chosen=ChosenThreshold(0.8, "3 images of the split train", 0.9))
    assert report.at_chosen == report.sweep[2]
    text = "\n\n".join(membrane_exports.markdown_parts(report))
    assert "The threshold 0.8 was chosen on 3 images of the split train (V-Rand 0.900 there)." in text
    assert "| 0.8, chosen |" in text
    assert "too good by the choice" in text
    assert "The threshold 0.8 was given." in membrane_exports.chosen_in_words(
        report_of_four(chosen=ChosenThreshold(0.8))
    )


def test_what_does_not_fit_together_is_refused():
    measured = measured_images()
    with pytest.raises(ValueError, match="all different"):
        tabulate_membranes(["a"] * 4, measured, membrane="m", thresholds=THRESHOLDS)
    with pytest.raises(ValueError, match="at least one"):
        tabulate_membranes([], [], membrane="m")
    with pytest.raises(ValueError, match="21 thresholds"):
        tabulate_membranes(list("abcd"), measured, membrane="m")
    with pytest.raises(ValueError, match=r"nothing at the threshold 0\.7"):
        report_of_four(chosen=ChosenThreshold(0.7))


def test_files_say_what_every_number_is():
    report = report_of_four(groups=["x", "x", "y", "z"], chosen=ChosenThreshold(0.8, "others", 0.9))
    content = json.loads(json.dumps(membrane_exports.as_json(report), allow_nan=False))
    assert content["headline"]["value"] == report.mean["v_rand"].value
    assert set(content["mean"]) == set(content["pooled"]) == set(METRICS) == set(membrane_exports.LABELS)
    assert set(METRICS) <= set(membrane_exports.DEFINITIONS)
    assert {f"membranes_{how}" for how in ("mean", "pooled", "chosen_threshold", "best_threshold")} <= set(
        membrane_exports.DEFINITIONS
    )
    assert content["chosen_threshold"] == {"threshold": 0.8, "chosen_on": "others", "score": 0.9}
    assert [one["threshold"] for one in content["thresholds"]] == list(THRESHOLDS)
    assert content["groups"][0]["name"] == "x"
    cells = membrane_exports.csv_cells(report)
    assert list(cells) == ["a", "b", "c", "d"]
    assert tuple(cells["a"]) == membrane_exports.COLUMNS
    rows = membrane_exports.latex_rows(report)
    assert [name for name, _ in rows] == ["predicted mask", "threshold 0.8"]
    assert rows[1][1][0] == report.sweep[2].mean["v_rand"]
    assert len(membrane_exports.latex_rows(report_of_four())) == 1
