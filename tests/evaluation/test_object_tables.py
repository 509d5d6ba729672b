"""Reports of object metrics: sums, means, intervals and what the files say."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from segkit.evaluation.object_exports import as_markdown, write_object_report
from segkit.evaluation.object_tables import ObjectReport, measure_objects
from segkit.evaluation.objects import THRESHOLDS, match_objects


def row(*ids: int) -> np.ndarray:
    return np.array([ids])


def report_of_three(groups: list[str] | None = None) -> ObjectReport:
    """Report of an image with all right, one with half of two objects, and one with nothing in it."""
    overlaps = [
        match_objects(row(1, 1, 0, 2, 2), row(3, 3, 0, 4, 4)),
        match_objects(row(1, 1, 1, 0, 2), row(5, 5, 0, 7, 0)),
        match_objects(row(0, 0, 0, 0, 0), row(0, 0, 0, 0, 0)),
    ]
    return measure_objects(["right", "half", "empty"], overlaps, name="nucleus", groups=groups, num_samples=50)


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
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert content["headline"]["value"] == pytest.approx(0.6)
    assert len(content["pooled"]["panoptic_quality"]) == len(content["thresholds"]) == 10
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text == as_markdown(report)
    assert "**AP 0.600" in text
    assert text.index("| half |") < text.index("| right |")
    assert "| empty |" not in text


def test_names_that_repeat_are_refused() -> None:
    overlaps = match_objects(row(1), row(1))
    with pytest.raises(ValueError, match="different names"):
        measure_objects(["a", "a"], [overlaps, overlaps], name="nucleus")
