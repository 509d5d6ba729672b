"""What all reports have in common: remarks, versions and what an interval is, in metrics.json and summary.md."""

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest

from segkit.evaluation.object_exports import write_object_report
from segkit.evaluation.object_tables import measure_objects
from segkit.evaluation.objects import match_objects
from segkit.evaluation.pixel_exports import write_report
from segkit.evaluation.pixel_tables import measure_pixels
from segkit.evaluation.point_exports import write_point_report
from segkit.evaluation.point_tables import measure_points
from segkit.evaluation.reports import NO_REMARKS, Remarks, Report, as_json, left_out_in_words, write_remarks
from segkit.points import Detections, Points

NAMES = ["a", "b"]
REMARKS = Remarks(left_out=("c", "d"), notes=("sizes are\nin pixels", "classes are taken to be 1 and 2"))


def written(kind: str, folder: Path) -> Report:
    """Measure two images in which nothing is wrong, and write the report as an evaluation does."""
    if kind == "pixels":
        pixels = measure_pixels(NAMES, np.full((2, 2, 2), 5), ("background", "cell"), num_samples=10)
        write_report(pixels, folder)
        return pixels
    if kind == "objects":
        ids = np.eye(4, dtype=np.int32)
        objects = measure_objects(NAMES, [match_objects(ids, ids)] * 2, name="cell", num_samples=10)
        write_object_report(objects, folder)
        return objects
    places = np.array([[5.0, 5.0]])
    points = measure_points(
        NAMES,
        [Detections(places, np.array([1]), np.array([0.9]))] * 2,
        [Points(places, np.array([1]))] * 2,
        ("background", "cell"),
        radius_px=3,
        mpp=None,
        areas_px=[100, 100],
        thresholds=[0.5],
        num_samples=10,
    )
    write_point_report(points, folder)
    return points


@pytest.mark.parametrize("kind", ["pixels", "objects", "points"])
def test_remarks_are_in_both_files_of_every_report(tmp_path: Path, kind: str) -> None:
    report = written(kind, tmp_path)
    before = (tmp_path / "summary.md").read_text().rstrip("\n")
    write_remarks(report, tmp_path, REMARKS)

    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(as_json(report, REMARKS)))
    assert (metrics["left_out"], metrics["notes"]) == (["c", "d"], list(REMARKS.notes))
    for package in ("segkit", "numpy", "scipy", "scikit-image"):
        assert metrics["versions"][package] == importlib.metadata.version(package)
    assert "samples in which the metric is undefined are left out" in metrics["definitions"]["intervals"]

    after = (tmp_path / "summary.md").read_text()
    title, _, rest = before.partition("\n\n")
    assert after.startswith(f"{title}\n\n**2 of 4 images have no prediction")
    assert after.endswith("\n\n## Notes\n\n- sizes are in pixels\n- classes are taken to be 1 and 2\n")
    assert f"{rest}\n- intervals: 95% percentile bootstrap" in after


@pytest.mark.parametrize("kind", ["pixels", "objects", "points"])
def test_without_remarks_nothing_is_said(tmp_path: Path, kind: str) -> None:
    report = written(kind, tmp_path)
    before = (tmp_path / "summary.md").read_text().rstrip("\n")
    write_remarks(report, tmp_path, NO_REMARKS)
    after = (tmp_path / "summary.md").read_text()
    assert after.startswith(f"{before}\n- intervals: ")
    assert after.count("\n") == before.count("\n") + 2
    assert as_json(report)["left_out"] == as_json(report)["notes"] == []


def test_of_many_images_some_are_named() -> None:
    names = [f"image{number:02}" for number in range(12)]
    words = left_out_in_words(names, 3)
    assert words.startswith("12 of 15 images have no prediction")
    assert words.endswith("image08, image09 and 2 more.")
