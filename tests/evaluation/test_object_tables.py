"""Reports of object metrics: sums, means, intervals and what the files say."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from segkit.evaluation.aggregated_jaccard import aggregated_jaccard
from segkit.evaluation.object_exports import as_markdown, write_object_report
from segkit.evaluation.object_tables import AP, MEAN_AP, ObjectReport, measure_objects
from segkit.evaluation.objects import METRICS, THRESHOLDS, Overlaps, average_precision, match_objects, panoptic_quality


def row(*ids: int) -> np.ndarray:
    return np.array([ids])


def overlaps_of_three() -> list[Overlaps]:
    """Return those of an image with all right, one with half of two objects, and one with nothing in it."""
    return [
        match_objects(row(1, 1, 0, 2, 2), row(3, 3, 0, 4, 4)),
        match_objects(row(1, 1, 1, 0, 2), row(5, 5, 0, 7, 0)),
        match_objects(row(0, 0, 0, 0, 0), row(0, 0, 0, 0, 0)),
    ]


def report_of_three(groups: list[str] | None = None, attributes: dict[str, list[str]] | None = None) -> ObjectReport:
    return measure_objects(
        ["right", "half", "empty"],
        overlaps_of_three(),
        name="nucleus",
        groups=groups,
        attributes=attributes,
        mpp=0.5,
        areas_px=[5, 4, 5],
        num_samples=50,
    )


def test_numbers_are_those_worked_out_by_hand() -> None:
    report = report_of_three()
    # At 0.5: 2 + 1 pairs, one wrong, one missed; the pair of the second image has an IoU of 2/3.
    assert report.headline.value == pytest.approx(3 / 5)
    assert report.pooled.at["matched_iou"][0].value == pytest.approx((2 + 2 / 3) / 3, abs=1e-6)
    assert report.mean.at["average_precision"][0].value == pytest.approx((1 + 1 / 3) / 2, abs=1e-6)
    at_07 = THRESHOLDS.index(0.7)
    assert report.pooled.at["average_precision"][at_07].value == pytest.approx(2 / 6, abs=1e-6)
    assert report.pooled.mean_average_precision.value == pytest.approx((4 * 3 / 5 + 6 * 2 / 6) / 10, abs=1e-6)
    assert report.pooled.dice.value == pytest.approx(2 * 6 / (8 + 7), abs=1e-6)
    assert (report.num_true, report.num_predicted) == (4, 4)
    empty = report.images[2]
    assert (empty.dice, empty.mean_average_precision, empty.metrics["f1"]) == (None, None, None)
    assert (empty.overall["aji"], empty.overall["count_error"], empty.overall["relative_count_error"]) == (
        None,
        0,
        None,
    )


def test_aggregated_jaccard_is_pooled_by_adding_pixels_and_averaged_over_images() -> None:
    report = report_of_three()
    # 4 of 4 pixels, and 2 of 3 with an object missed (1 pixel) and one invented (1 pixel).
    assert report.pooled.aji.value == report.pooled.aji_plus.value == pytest.approx(6 / 9, abs=1e-6)
    assert report.mean.aji.value == report.mean.aji_plus.value == pytest.approx((1 + 2 / 5) / 2, abs=1e-6)
    assert report.pooled.aji.low is not None
    merged = match_objects(row(1, 1, 1, 2, 2, 0), row(8, 8, 8, 8, 8, 9))
    report = measure_objects(["merged"], [merged], name="nucleus")
    assert (report.pooled.aji.value, report.pooled.aji_plus.value) == (
        pytest.approx(5 / 11, abs=1e-6),
        pytest.approx(3 / 8, abs=1e-6),
    )


def test_count_errors_cancel_out_in_the_signed_mean_only() -> None:
    overlaps = [
        match_objects(row(1, 2, 3, 4), row(1, 2, 3, 0)),
        match_objects(row(1, 2, 0, 0), row(1, 2, 3, 0)),
        match_objects(row(0, 0, 0, 0), row(1, 2, 3, 0)),
    ]
    report = measure_objects(["fewer", "more", "nothing"], overlaps, name="nucleus", num_samples=20)
    errors = ("count_error", "absolute_count_error", "relative_count_error")
    assert [report.pooled.overall[name].value for name in errors] == [3, 3, 0.5]
    assert [report.mean.overall[name].value for name in errors] == pytest.approx([1, 5 / 3, 1 / 8], abs=1e-6)
    assert [report.images[0].overall[name] for name in errors] == [-1, 1, -0.25]
    assert report.images[2].overall["relative_count_error"] is None


def test_groups_and_attributes_are_pooled_by_themselves() -> None:
    report = report_of_three(["a", "b", "a"], {"modality": ["fluo", "fluo", "he"]})
    assert [(one.by, one.name, one.num_images, one.num_units) for one in report.groups] == [
        ("group", "a", 2, 1),
        ("group", "b", 1, 1),
        ("modality", "fluo", 2, 2),
        ("modality", "he", 1, 1),
    ]
    a, b, fluo, he = report.groups
    assert (b.num_true, b.num_predicted, b.tp, b.fp, b.fn) == (2, 2, 1, 1, 1)
    assert (a.pooled[AP].value, he.pooled[AP].value) == (1, None)
    alone = measure_objects(["right", "half"], overlaps_of_three()[:2], name="nucleus")
    for how in ("pooled", "mean"):
        summary, group = getattr(alone, how), getattr(fluo, how)
        expected = {name: summary.at[name][0].value for name in METRICS}
        expected |= {MEAN_AP: summary.mean_average_precision.value}
        expected |= {name: one.value for name, one in summary.overall.items()}
        assert {name: one.value for name, one in group.items()} == expected
    # A group is drawn as a whole, so there is nothing to tell how it could have been otherwise.
    assert all(one.low is None for one in [*a.pooled.values(), *b.mean.values()])
    assert fluo.pooled[AP].low is not None
    assert fluo.pooled[AP].low < 3 / 5 < fluo.pooled[AP].high
    assert report_of_three().groups == ()


def test_sizes_are_quartiles_or_those_given() -> None:
    report = report_of_three()
    # Areas of true objects: 2, 2, 3, 1. The invented one has 1 pixel.
    assert report.has_quartiles
    assert [(one.range.low, one.range.high) for one in report.by_size] == [(0, 2), (2, 3), (3, None)]
    assert [(one.tp, one.fp, one.fn) for one in report.by_size] == [(0, 1, 1), (2, 0, 0), (1, 0, 0)]
    assert [one.metrics["recall"].value for one in report.by_size] == [0, 1, 1]
    assert report.by_size[2].metrics["matched_iou"].value == pytest.approx(2 / 3, abs=1e-6)
    given = measure_objects(["half"], overlaps_of_three()[1:2], name="nucleus", size_edges_px=[2.5, 100])
    assert not given.has_quartiles
    assert [(one.tp, one.fp, one.fn) for one in given.by_size] == [(0, 1, 1), (1, 0, 0), (0, 0, 0)]
    empty = measure_objects(["empty"], overlaps_of_three()[2:], name="nucleus")
    assert [(one.range.low, one.range.high) for one in empty.by_size] == [(0, None)]
    with pytest.raises(ValueError, match="must be positive and ascend"):
        measure_objects(["half"], overlaps_of_three()[1:2], name="nucleus", size_edges_px=[5, 5])


def test_densities_and_mean_areas_are_of_what_is_labelled() -> None:
    report = report_of_three(["a", "b", "b"])
    assert report.area_mm2 == pytest.approx(14 * 0.25e-6)
    values = {name: one.value for name, one in report.densities.items()}
    # True areas 2, 2, 3, 1 px, found ones 2, 2, 2, 1 px, of 0.25 um2.
    assert values == {
        "true_per_mm2": pytest.approx(4 / (14 * 0.25e-6)),
        "predicted_per_mm2": pytest.approx(4 / (14 * 0.25e-6)),
        "mean_true_area_um2": pytest.approx(2 * 0.25),
        "mean_predicted_area_um2": pytest.approx(7 / 4 * 0.25),
    }
    assert report.densities["true_per_mm2"].low is not None
    half, empty = report.images[1:]
    assert half.area_mm2 == pytest.approx(1e-6)
    assert half.densities["true_per_mm2"] == pytest.approx(2e6)
    assert (empty.densities["true_per_mm2"], empty.densities["mean_true_area_um2"]) == (0, None)
    of_b = next(one for one in report.groups if one.name == "b")
    assert of_b.densities["predicted_per_mm2"].value == pytest.approx(2 / (9 * 0.25e-6))
    unknown = measure_objects(["half"], overlaps_of_three()[1:2], name="nucleus", areas_px=[5])
    assert {name: one.value for name, one in unknown.densities.items()} == {
        "mean_true_area_px": 2, "mean_predicted_area_px": 1.5
    }  # fmt: skip
    assert (unknown.area_mm2, unknown.mpp) == (None, None)


def test_images_of_different_scales_have_sizes_in_um2(tmp_path: Path) -> None:
    """The same cells, once of 4 and once of 1 pixel a piece, fall in the same bin; pixels alone would not tell."""
    fine = match_objects(row(*[1] * 4, *[2] * 8), row(*[1] * 4, *[0] * 8))
    coarse = match_objects(row(1, 2, 2), row(1, 2, 2))
    report = measure_objects(["fine", "coarse"], [fine, coarse], name="cell", mpp=[0.5, 1.0], areas_px=[12, 3])
    assert (report.mpp, report.sizes_in_um2) == (None, True)
    assert [(one.range.low, one.range.high) for one in report.by_size] == [(0, 2), (2, None)]
    assert [(one.tp, one.fp, one.fn) for one in report.by_size] == [(2, 0, 0), (1, 0, 1)]
    assert report.densities["mean_true_area_um2"].value == 1.5
    assert report.densities["true_per_mm2"].value == pytest.approx(4 / 6e-6)
    write_object_report(report, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert [(one["high_px"], one["high_um2"]) for one in content["by_size"]["bins"]] == [(None, 2), (None, None)]
    assert content["area_mm2"] == 6e-6
    assert "| below 2 um2 |" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    same = measure_objects(["fine", "coarse"], [fine, coarse], name="cell", mpp=0.5)
    assert [(one.range.low, one.range.high) for one in same.by_size] == [(0, 2), (2, 4), (4, 8), (8, None)]
    for wrong in ({"mpp": [0.5]}, {"mpp": [0.5, 0.0]}, {"areas_px": [1]}):
        with pytest.raises(ValueError, match="needed is"):
            measure_objects(["fine", "coarse"], [fine, coarse], name="cell", **wrong)  # type: ignore[arg-type]


def test_intervals_are_over_images_or_groups() -> None:
    headline = report_of_three().headline
    assert headline.low is not None
    assert headline.high is not None
    assert headline.low <= 0.6 <= headline.high
    assert headline.high == 1
    assert report_of_three(["a", "a", "a"]).headline.low is None


def test_files_hold_every_image_and_every_threshold(tmp_path: Path) -> None:
    report = report_of_three()
    write_object_report(report, tmp_path)
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [one["image"] for one in rows] == ["right", "half", "empty"]
    assert float(rows[1]["average_precision_0.65"]) == pytest.approx(1 / 3, abs=1e-5)
    assert float(rows[1]["average_precision_0.7"]) == 0
    assert rows[2]["average_precision_0.95"] == ""
    assert_pooled_numbers_follow_from(rows, report)
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert content["headline"]["value"] == pytest.approx(0.6)
    assert len(content["pooled"]["panoptic_quality"]) == len(content["thresholds"]) == 10
    assert content["pooled"]["aji"]["value"] == report.pooled.aji.value
    assert content["mean"]["absolute_count_error"]["value"] == 0
    assert content["by_size"]["ranges"] == "quartiles of true objects"
    assert [one["high_um2"] for one in content["by_size"]["bins"]] == [0.5, 0.75, None]
    assert content["groups"] == []
    known = content["definitions"]
    assert set(report.pooled.at) | set(report.pooled.overall) | {MEAN_AP, "by_size", "groups"} <= set(known)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text == as_markdown(report)
    assert "**AP 0.600" in text
    assert text.index("| half |") < text.index("| right |")
    assert "| empty |" not in text
    assert "matched IoU (SQ)" in text
    assert "2 to 3 px (0.5 to 0.75 um2)" in text
    assert "| AJI |" in text


def assert_pooled_numbers_follow_from(rows: list[dict[str, str]], report: ObjectReport) -> None:
    for index, threshold in enumerate(THRESHOLDS):
        counts = [[float(one[f"{name}_{threshold:g}"]) for name in ("tp", "fp", "fn", "iou_sum")] for one in rows]
        sums = np.sum(counts, axis=0)
        for metric, of in ((AP, average_precision), ("panoptic_quality", panoptic_quality)):
            assert report.pooled.at[metric][index].value == pytest.approx(float(of(sums)), abs=1e-5)
    for name in ("aji", "aji_plus"):
        px = np.sum([[float(one[f"{name}_{part}_px"]) for part in ("intersection", "union")] for one in rows], axis=0)
        assert report.pooled.overall[name].value == pytest.approx(float(aggregated_jaccard(px)), abs=1e-6)


def test_groups_and_attributes_are_in_the_files(tmp_path: Path) -> None:
    # A name that a metric has already gives way to it.
    attributes = {"modality": ["fluo", "fluo", "he|x"], "dice": ["1", "2", "3"]}
    report = report_of_three(["a", "b", "b"], attributes)
    write_object_report(report, tmp_path)
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(one["group"], one["modality"], one["dice"]) for one in rows] == [
        ("a", "fluo", "1.0"),
        ("b", "fluo", "0.571429"),
        ("b", "he|x", ""),
    ]
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in content["groups"] if one["by"] == "modality"] == ["fluo", "he|x"]
    assert content["groups"][0]["pooled"]["panoptic_quality"] == {"value": 1.0, "low": None, "high": None}
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text.index("## By group") < text.index("## By modality")
    # Undefined AP comes in no order.
    assert "1 more are in `metrics.json`" in text


def test_names_that_repeat_are_refused() -> None:
    overlaps = match_objects(row(1), row(1))
    with pytest.raises(ValueError, match="different names"):
        measure_objects(["a", "a"], [overlaps, overlaps], name="nucleus")


def test_attributes_that_do_not_fit_are_refused() -> None:
    for attributes in ({"modality": ["fluo"]}, {"group": ["a", "b", "c"]}):
        with pytest.raises(ValueError, match="for 3 images, or a name in use"):
            report_of_three(attributes=attributes)
