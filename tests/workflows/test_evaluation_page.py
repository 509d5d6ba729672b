"""The page of an evaluation, from reports of each kind: what it says, and what it warns of."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.evaluation import object_exports, pixel_exports, point_exports
from segkit.evaluation.object_tables import ObjectReport, measure_objects
from segkit.evaluation.objects import match_objects
from segkit.evaluation.pixel_tables import PixelReport, measure_pixels
from segkit.evaluation.pixels import confusion
from segkit.evaluation.point_tables import PointReport, measure_points
from segkit.points import Detections, Points
from segkit.report.page.content import Section
from segkit.report.page.pictures import Picture, pixel_picture
from segkit.report.page.shelf import Shelf
from segkit.workflows import page_parts
from segkit.workflows.evaluation_page import write_page

NAMES = ("a", "b", "c <d>", "empty")
RECORD: Mapping[str, Any] = {
    "data": "/somewhere/nuclei",
    "model": "/somewhere/runs/first/model.safetensors",
    "model_sha256": "ab" * 32,
    "settings": {"split": "val"},
    "versions": {"segkit": "1.2.3", "numpy": "2"},
    "finished": "2030-01-02T03:04:05+00:00",
}


def masks(num_classes: int = 2) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """True and predicted masks of four images; in the last there is nothing."""
    rng = np.random.default_rng(0)
    truths = [rng.integers(0, num_classes, (20, 30)).astype(np.uint8) for _ in NAMES]
    predictions = [np.where(rng.random(one.shape) < 0.8, one, 0).astype(np.uint8) for one in truths]
    truths[-1][:] = predictions[-1][:] = 0
    return truths, predictions


def pixel_report(num_classes: int = 2, groups: list[str] | None = None) -> tuple[PixelReport, Mapping[str, str]]:
    truths, predictions = masks(num_classes)
    confusions = np.stack([confusion(*pair, num_classes) for pair in zip(predictions, truths, strict=True)])
    classes = ("background", "nucleus", "mitosis")[:num_classes]
    report = measure_pixels(NAMES, confusions, classes, groups=groups, num_samples=20)
    return report, pixel_exports.as_json(report)["definitions"]


def object_report() -> tuple[ObjectReport, Mapping[str, str]]:
    truths = []
    for number in range(len(NAMES)):
        truth = np.zeros((20, 30), np.int32)
        for index in range(0 if number == 3 else 4):
            truth[2:8, 7 * index : 7 * index + 5] = index + 1
        truths.append(truth)
    # One object is missed, in the second image two.
    predictions = [np.where(truth <= (2 if number == 1 else 1), 0, truth) for number, truth in enumerate(truths)]
    overlaps = [match_objects(*pair) for pair in zip(truths, predictions, strict=True)]
    report = measure_objects(NAMES, overlaps, name="nucleus", groups=["x", "x", "y", "y"], num_samples=20)
    return report, object_exports.as_json(report)["definitions"]


def point_report(num_classes: int = 2, *, with_truth: bool = True) -> tuple[PointReport, Mapping[str, str]]:
    rng = np.random.default_rng(0)
    truths, found = [], []
    for name in NAMES:
        number = 0 if name == "empty" or not with_truth else 8
        places = rng.random((number, 2)) * 100
        truths.append(Points(places, rng.integers(1, num_classes, number)))
        extra = np.concatenate([places + 1, rng.random((3, 2)) * 100])
        found.append(Detections(extra, rng.integers(1, num_classes, len(extra)), np.sort(rng.random(len(extra)))[::-1]))
    report = measure_points(
        NAMES,
        found,
        truths,
        ("background", "nucleus", "mitosis")[:num_classes],
        radius_px=5,
        mpp=0.5,
        areas_px=[10_000] * 4,
        thresholds=[0.3] * (num_classes - 1),
        num_samples=20,
    )
    return report, point_exports.as_json(report)["definitions"]


def page_of(measured: tuple[Any, Mapping[str, str]], folder: Path, **more: Any) -> str:
    report, definitions = measured
    path = folder / "report.html"
    write_page(report, path, definitions=definitions, **({"record": RECORD} | more))
    return path.read_text(encoding="utf-8")


def words_of(page: str) -> str:
    body = re.sub(r"<(script|style)>.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def run_folder(folder: Path, looks: int = 0) -> Path:
    folder.mkdir()
    rows = [f"{epoch},{1 / epoch},{2 / epoch},{0.5 if epoch != 3 else ''},0.01" for epoch in range(1, 11)]
    (folder / "metrics.csv").write_text("epoch,train_loss,val_loss,val_dice,learning_rate\n" + "\n".join(rows) + "\n")
    (folder / "run.json").write_text(
        '{"command": "train", "finished": "2029-12-31T00:00:00", "epochs": 10, "best_epoch": 1}'
    )
    lines = ["date,split,model_sha256,out", *(f"2030-01-0{number + 1},test,{'ab' * 32},x" for number in range(looks))]
    (folder / "test_looks.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_page_of_masks(tmp_path: Path, num_classes: int) -> None:
    measured = pixel_report(num_classes)
    report, definitions = measured
    words = words_of(page_of(measured, tmp_path))
    assert "first on nuclei, val images" in words
    value = report.headline
    assert f"{value.value:.3f} Dice 95% interval {value.low:.3f} to {value.high:.3f}" in words
    assert "percentile bootstrap over 4 images, 20 samples, seed 0" in words
    for name in report.classes:
        assert name in words
    for text in definitions.values():
        assert text.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#x27;") in words
    assert "c &lt;d&gt;" in words
    assert "segkit 1.2.3" in words
    assert ("Mean of the foreground classes" in words) == (num_classes == 3)


def test_a_page_of_objects(tmp_path: Path) -> None:
    measured = object_report()
    report, _ = measured
    words = words_of(page_of(measured, tmp_path))
    assert f"{report.headline.value:.3f} AP at IoU 0.5" in words
    assert "12 true and 8 predicted ones in 4 images" in words
    assert "By group, pooled over its images" in words
    assert "F1 by object size" in words
    # The worst comes first, the image without objects last, and its score is said to be undefined by a dash.
    (table,) = re.findall(r"<caption>All images.*?</table>", page_of(measured, tmp_path), re.DOTALL)
    names = re.findall(r"<bdi>(.*?)</bdi>", table)
    assert names == ["b", "a", "c &lt;d&gt;", "empty"]
    assert table.count('title="undefined"') >= 2


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_page_of_points(tmp_path: Path, num_classes: int) -> None:
    measured = point_report(num_classes)
    words = words_of(page_of(measured, tmp_path))
    assert f"{measured[0].headline.value:.3f} F1" in words
    assert "matched with detections at most 5 px = 2.5 µm away by the rule optimal" in words
    assert "Sensitivity and false positives (FROC)" in words
    assert "false positives per mm²" in words
    assert "used: 0.3" in words
    assert "predicted per mm²" in words
    assert "FROC mean, per image" in words
    assert ("mean of the classes" in words) == (num_classes == 3)
    report = measured[0]
    for summary in report.summaries:
        assert f"lass {summary.name}, in 3 of 4 images" in words or summary is report.any_class
        for one in (summary.pooled["recall"], summary.mean["recall"]):
            assert f"{one.value:.3f} {one.low:.3f} to {one.high:.3f}" in words
    assert ("Any class, in 3 of 4 images" in words) == (num_classes == 3)
    assert words.count("pooled over images mean of images") == (4 if num_classes == 3 else 1)
    # In the image where nothing is labelled something was found: F1 and precision are 0 there.
    assert "class F1 precision recall AP nucleus 4 4 3 3" in re.sub(r"[^\w ]+ ", "", words)


def test_a_page_of_points_without_truth_has_no_curves(tmp_path: Path) -> None:
    words = words_of(page_of(point_report(with_truth=False), tmp_path))
    assert "(FROC)" not in words
    assert "Precision and recall" not in words
    assert "F1 of the images" in words


def test_cases_are_drawn_by_the_name_of_the_image(tmp_path: Path) -> None:
    truths, predictions = masks()
    shelf = Shelf()
    for name, true, predicted in zip(NAMES, truths, predictions, strict=True):
        if name != "b":
            shelf.put(name, 0.5, partial(_draw, true, predicted))
    page = page_of(pixel_report(), tmp_path, pictures=shelf.pictures())
    assert page.count('<figure class="case"') == 3
    assert page.count('class="open"') == 3
    assert "3 of 4 images are in this file" in page
    assert "of the pixels false" in page


def _draw(true: np.ndarray, predicted: np.ndarray, longest_px: int) -> Picture:
    return pixel_picture(None, true, predicted, longest_px=longest_px)


def test_what_a_reader_must_know_is_said(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", looks=3)

    def said(split: str, groups: list[str] | None = None) -> str:
        record = {**RECORD, "settings": {"split": split}}
        page = page_of(pixel_report(groups=groups), tmp_path, record=record, run=run)
        return " ".join(re.findall(r'<p class="warning"[^>]*>(.*?)</p>', page))

    assert "trained on" in said("train")
    assert "chooses its epoch" in said("val")
    assert "looked at 3 times" in said("test")
    assert "chooses its epoch" not in said("test")
    assert "rest on 4 images only" in said("test")
    assert "rest on" not in said("test", ["one"] * 4)
    assert "No intervals" in words_of(page_of(pixel_report(groups=["one"] * 4), tmp_path))


def test_the_run_is_told_of(tmp_path: Path) -> None:
    words = words_of(page_of(pixel_report(), tmp_path, run=run_folder(tmp_path / "run", looks=1)))
    assert "1 time with models of this run" in words
    assert "2029-12-31" in words
    assert "best: epoch 1, Dice = 0.500" in words
    assert "Dice on the validation images" in words
    assert "never with models" in words_of(page_of(pixel_report(), tmp_path, run=run_folder(tmp_path / "other")))


def test_a_run_without_curves_has_no_chapter(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_bytes(b"\xff\xfe what")
    words = words_of(page_of(pixel_report(), tmp_path, run=tmp_path / "run"))
    assert "Training" not in words


def test_given_predictions_need_no_model_and_no_record(tmp_path: Path) -> None:
    words = words_of(page_of(object_report(), tmp_path, record={"prediction": "/x/found", "truth": "/y/true"}))
    assert "found on true" in words
    assert "warning" not in words
    assert "Predictions on the truth" in words_of(page_of(object_report(), tmp_path, record={}))


def test_other_sections_stand_between(tmp_path: Path) -> None:
    page = page_of(pixel_report(), tmp_path, sections=[Section("Membranes", (), ("Thinned.",))])
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings == ["Numbers", "Charts", "Membranes", "Images", "Definitions"]


def test_of_very_many_images_the_best_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_parts, "MAX_ROWS", 2)
    page = page_of(object_report(), tmp_path)
    assert "The 2 images with the best scores are not listed" in page
    (table,) = re.findall(r"<caption>All images.*?</table>", page, re.DOTALL)
    assert len(re.findall("<bdi>", table)) == 2


def test_the_same_numbers_make_the_same_page(tmp_path: Path) -> None:
    assert page_of(object_report(), tmp_path) == page_of(object_report(), tmp_path)
