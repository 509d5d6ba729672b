"""Objects of several classes through `evaluate`: matched within their class, or it is said that they are not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkit.config import DataConfig
from segkit.errors import InputError
from segkit.evaluation.object_tables import AP, ObjectReport
from segkit.models.model_file import InstanceSpec, ModelSpec, UNetArguments, build_network, save_model
from segkit.workflows import evaluate_given_objects
from segkit.workflows.compare import compare
from segkit.workflows.evaluate import evaluate
from tests.tiny import save_png
from tests.workflows.test_evaluate_given import (
    FOUND,
    TRUE,
    config,
    data_folder,
    draw,
    leave,
    mask_of,
    measured,
)

# Of three objects two have the wrong class.
SWAPPED = [("vessel", *TRUE[0][1:]), TRUE[1], ("gland", *TRUE[2][1:])]


def polygons(folder: Path, rectangles: Any, names: tuple[str, ...] = ("a", "b")) -> Path:
    for name in names:
        draw(folder / f"{name}.geojson", rectangles)
    return folder


def renamed(rectangles: Any, **names: str) -> list[Any]:
    return [(names.get(name, name), *box) for name, *box in rectangles]


def report_of(prediction: Path, truth: Path, out: Path, *assignments: str, **more: Any) -> ObjectReport:
    report = measured(prediction, truth, out, *assignments, **more).report
    assert isinstance(report, ObjectReport)
    return report


def counts_of(report: ObjectReport) -> dict[str, tuple[int, int, int]]:
    return {one.name: (one.tp, one.fp, one.fn) for one in report.per_class}


@pytest.mark.parametrize("kind", ["data", "plain", "blocks"])
def test_a_wrong_class_is_no_match(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = data_folder(tmp_path / "data", geojson=TRUE)
    if kind == "plain":
        truth = truth / "geojson"
        (tmp_path / "data" / "images").rename(tmp_path / "data" / "others")
    if kind == "blocks":
        monkeypatch.setattr(evaluate_given_objects, "LARGEST_FIGURE_PX", 0)
        monkeypatch.setattr("segkit.workflows.placement.BLOCK_PX", 170)
    notes: list[str] = []
    report = report_of(polygons(tmp_path / "found", SWAPPED), truth, tmp_path / "out", on_note=notes.append)
    assert notes == []
    assert report.name == "any class"
    assert [report.pooled.at[name][0].value for name in (AP, "f1", "panoptic_quality")] == [1, 1, 1]
    assert counts_of(report) == {"gland": (2, 2, 2), "vessel": (0, 2, 2)}
    assert report.foreground is not None
    assert report.headline.value == pytest.approx((1 / 3 + 0) / 2, abs=1e-6)
    assert report.foreground.pooled.at["panoptic_quality"][0].value == pytest.approx((1 / 2 + 0) / 2, abs=1e-6)
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert "**AP 0.167" in summary
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "AP at IoU 0.5, mean of the classes" in page
    assert "Whatever their class (any class) it is 1.000" in page


def test_pictures_show_what_was_matched_within_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, str]] = []

    def draw_case(case: Any, path: Path, *, title: str, score_name: str) -> None:
        drawn.append((case, score_name))

    monkeypatch.setattr("segkit.workflows.evaluate_objects.draw_instances_case", draw_case)
    truth = data_folder(tmp_path / "data", geojson=TRUE)
    measured(polygons(tmp_path / "found", SWAPPED), truth, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "1 of 3 objects found of their class, 2 missed, 2 false" in page
    case, score_name = drawn[0]
    assert (case.matches.tolist(), score_name) == ([[2, 2]], "AP at IoU 0.5, mean of the classes")
    assert case.score == pytest.approx((1 / 3 + 0) / 2, abs=1e-6)
    measured(polygons(tmp_path / "found", TRUE), truth, tmp_path / "out")
    assert sorted(drawn[-1][0].matches.tolist()) == [[1, 1], [2, 2], [3, 3]]


def test_an_evaluation_with_classes_is_compared_by_class(tmp_path: Path) -> None:
    truth = data_folder(tmp_path / "data", geojson=TRUE)
    folders = []
    for name, rectangles in (("swapped", SWAPPED), ("found", FOUND)):
        measured(polygons(tmp_path / name, rectangles), truth, tmp_path / f"of_{name}")
        folders.append(tmp_path / f"of_{name}")
    comparison = compare(folders, config=config(), out=tmp_path / "out").comparison
    assert (comparison.headline.name, comparison.headline.of) == (AP, "foreground, IoU 0.5")
    values = {(one.name, one.of, one.how): [of.value for of in one.values] for one in comparison.metrics}
    for place, folder in enumerate(folders):
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert values[AP, "foreground, IoU 0.5", "pooled"][place] == content["headline"]["value"]
        assert values[AP, "any class, IoU 0.5", "pooled"][place] == content["pooled"][AP][0]["value"]
        (vessel,) = [one for one in content["by_class"] if one["name"] == "vessel"]
        assert values["dice", "vessel", "mean"][place] == pytest.approx(vessel["mean"]["dice"]["value"], abs=1e-6)
    assert comparison.images[0].values[0] == pytest.approx(1 / 6, abs=1e-6)


@pytest.mark.parametrize("silent", ["truth", "truth labels", "prediction", "prediction ids"])
def test_where_one_side_has_no_classes_it_is_said_that_they_are_not_looked_at(tmp_path: Path, silent: str) -> None:
    plain = renamed(TRUE, gland="foreground", vessel="foreground")
    if silent.startswith("truth"):
        labels = {"labels": mask_of(TRUE, ids=True)} if silent == "truth labels" else {"geojson": plain}
        truth, found = data_folder(tmp_path / "data", **labels), polygons(tmp_path / "found", SWAPPED)
    else:
        truth, found = data_folder(tmp_path / "data", geojson=TRUE), tmp_path / "labels"
        if silent == "prediction":
            polygons(found, plain)
        for name in ("a", "b") if silent == "prediction ids" else ():
            save_png(found / f"{name}.png", mask_of(TRUE, ids=True))
    notes: list[str] = []
    report = report_of(found, truth, tmp_path / "out", on_note=notes.append)
    assert (report.headline.value, report.foreground, report.per_class) == (1, None, ())
    side, other = ("truth", "prediction") if silent.startswith("truth") else ("prediction", "truth")
    assert notes == [
        f"the {side} does not say the class of each object, and the {other} has gland, vessel: objects are matched "
        "whatever their class, and a wrong class costs nothing"
    ]


def test_one_class_on_both_sides_is_no_class(tmp_path: Path) -> None:
    glands = [one for one in TRUE if one[0] == "gland"]
    truth = data_folder(tmp_path / "data", geojson=glands)
    notes: list[str] = []
    report = report_of(polygons(tmp_path / "found", glands), truth, tmp_path / "out", on_note=notes.append)
    assert (report.name, report.per_class, notes) == ("gland", (), [])


@pytest.mark.parametrize("side", ["truth", "prediction"])
def test_a_class_that_only_one_side_shows_is_measured(tmp_path: Path, side: str) -> None:
    glands = [one for one in TRUE if one[0] == "gland"]
    true, found = (glands, TRUE) if side == "truth" else (TRUE, glands)
    truth = data_folder(tmp_path / "data", geojson=true)
    report = report_of(polygons(tmp_path / "found", found), truth, tmp_path / "out")
    wrong = (0, 2, 0) if side == "truth" else (0, 0, 2)
    assert counts_of(report) == {"gland": (4, 0, 0), "vessel": wrong}
    assert report.headline.value == 0.5


@pytest.mark.parametrize("empty", ["truth", "prediction"])
def test_no_objects_at_all_are_none_of_every_class(tmp_path: Path, empty: str) -> None:
    true, found = ([], TRUE) if empty == "truth" else (TRUE, [])
    truth = polygons(tmp_path / "truth", true)
    report = report_of(polygons(tmp_path / "found", found), truth, tmp_path / "out")
    wrong = {"gland": (0, 4, 0), "vessel": (0, 2, 0)} if empty == "truth" else {"gland": (0, 0, 4), "vessel": (0, 0, 2)}
    assert counts_of(report) == wrong
    assert report.headline.value == 0


def test_names_that_differ_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    truth = data_folder(tmp_path / "data", geojson=TRUE)
    found = polygons(tmp_path / "found", renamed(TRUE, vessel="nerve"))
    with pytest.raises(InputError) as caught:
        measured(found, truth, tmp_path / "out")
    assert caught.value.message == (
        f"{truth}: has the classes background, gland, vessel, and {found} has background, gland, nerve. Both must name "
        "them alike."
    )
    assert not (tmp_path / "out" / "figures").exists()


def test_a_class_that_a_model_knows_and_has_not_found_is_missed(tmp_path: Path) -> None:
    """Its files show glands and nerves, the truth glands and vessels, and the model knows all three."""
    truth = polygons(tmp_path / "truth", TRUE, names=("a",))
    classes = ["background", "gland", "nerve", "vessel"]
    leave(tmp_path / "found" / "a", renamed(TRUE, vessel="nerve"), mask=mask_of(TRUE), classes=classes, instances=True)
    report = report_of(tmp_path / "found", truth, tmp_path / "out")
    assert counts_of(report) == {"gland": (2, 0, 0), "nerve": (0, 1, 0), "vessel": (0, 0, 1)}


def test_names_that_nobody_chose_are_taken_by_their_order_which_is_said(tmp_path: Path) -> None:
    truth = data_folder(tmp_path / "data", geojson=renamed(TRUE, gland="class_1", vessel="class_2"))
    notes: list[str] = []
    report = report_of(polygons(tmp_path / "found", SWAPPED), truth, tmp_path / "out", on_note=notes.append)
    assert counts_of(report) == {"gland": (2, 2, 2), "vessel": (0, 2, 2)}
    assert notes == [f"{truth}: classes are taken by their order: class_1 for gland, class_2 for vessel"]


def test_polygons_called_background_are_no_objects(tmp_path: Path) -> None:
    hole = ("background", 26, 32, 30, 40)
    truth = data_folder(tmp_path / "data", geojson=[*TRUE, hole])
    report = report_of(polygons(tmp_path / "found", [*TRUE, hole]), truth, tmp_path / "out")
    assert (report.num_true, report.num_predicted, report.headline.value) == (6, 6, 1)
    gland = next(one for one in report.per_class if one.name == "gland")
    # What it covers is cut out of what lies below, as in a data folder that is learned from.
    assert gland.densities["mean_true_area_px"].value == (15 * 20 + 14 * 25 - 4 * 8) / 2


def test_what_masks_say_of_unlabelled_pixels_is_no_polygon(tmp_path: Path) -> None:
    """`ignore: 2` is a mask's value, and not the second polygon."""
    truth = data_folder(tmp_path / "data", geojson=TRUE, description="ignore: 2\n")
    report = report_of(polygons(tmp_path / "found", TRUE), truth, tmp_path / "out")
    assert (report.num_true, report.headline.value) == (6, 1)


def instance_model(path: Path, classes: list[str]) -> Path:
    torch.manual_seed(0)
    arguments = UNetArguments(
        in_channels=3, num_classes=len(classes), base_channels=4, depth=1, form="modern", dropout=0, extra_maps=1
    )
    spec = ModelSpec(
        arguments=arguments,
        task="instance",
        instances=InstanceSpec(foreground_threshold=0.5, seed_threshold=0.3, min_area_px=0, grow_px=5),
        classes=classes,
        mpp=None,
        mean=[0.5] * 3,
        std=[0.2] * 3,
        receptive_field=0,
        scores={},
        training={},
    )
    save_model(path, build_network(arguments, device="cpu"), spec)
    return path


def test_objects_of_a_model_with_classes_have_that_of_most_of_their_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that sees the truth, but takes vessels for glands; the data folder knows no nerves."""
    truth = data_folder(tmp_path / "data", geojson=TRUE)
    model = instance_model(tmp_path / "model.safetensors", ["background", "gland", "nerve", "vessel"])
    layers = np.where(mask_of(TRUE) > 0, 255, 0).astype(np.uint8)
    mask = np.where(mask_of(TRUE) > 0, 1, 0).astype(np.uint8)
    mask[5:8] = np.where(mask[5:8] > 0, 2, 0)  # three rows of some are nerves, and less than half of each
    monkeypatch.setattr("segkit.workflows.evaluate_objects.predict_layers", lambda *_: (mask, layers, layers))
    report = evaluate(config("split=all"), data=DataConfig(dir=truth), model=model, out=tmp_path / "out").report
    assert isinstance(report, ObjectReport)
    assert counts_of(report) == {"gland": (4, 2, 0), "nerve": (0, 0, 0), "vessel": (0, 0, 2)}
    assert report.pooled.at[AP][0].value == 1
    assert report.headline.value == pytest.approx((2 / 3 + 0) / 2, abs=1e-6)
    assert "whatever the class of the objects" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")


def test_a_model_and_data_that_name_classes_otherwise_are_refused(tmp_path: Path) -> None:
    truth = data_folder(tmp_path / "data", geojson=TRUE)
    model = instance_model(tmp_path / "model.safetensors", ["background", "gland", "nerve"])
    with pytest.raises(InputError, match=r"has the classes background, gland, vessel, and .*model\.safetensors has"):
        evaluate(config("split=all"), data=DataConfig(dir=truth), model=model, out=tmp_path / "out")


@pytest.mark.parametrize("silent", ["truth", "prediction"])
def test_a_model_or_data_of_one_class_are_matched_whatever_the_class(tmp_path: Path, silent: str) -> None:
    annotations = {"labels": mask_of(TRUE, ids=True)} if silent == "truth" else {"geojson": TRUE}
    truth = data_folder(tmp_path / "data", **annotations)
    classes = ["background", "gland", "vessel"] if silent == "truth" else ["background", "foreground"]
    model = instance_model(tmp_path / "model.safetensors", classes)
    notes: list[str] = []
    report = evaluate(
        config("split=all"), data=DataConfig(dir=truth), model=model, out=tmp_path / "out", on_note=notes.append
    ).report
    assert isinstance(report, ObjectReport)
    assert (report.foreground, report.num_true) == (None, 6)
    assert [note for note in notes if f"the {silent} does not say the class of each object" in note]
