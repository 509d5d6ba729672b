"""Measuring detections: the same numbers for a model and for what it left, for the images and the radius meant."""

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.config import DataConfig, EvaluateConfig, build_config
from segkit.errors import ConfigError, InputError, ModelError, UsageError
from segkit.evaluation.point_tables import PointReport, measure_points
from segkit.evaluation.points import PointCounts
from segkit.inference.image_detection import detect_in_image
from segkit.models.model_file import load_model, save_model
from segkit.points import Detections, Points
from segkit.slides import open_slide
from segkit.workflows import evaluate_points
from segkit.workflows.evaluate import EvaluateResult, evaluate
from segkit.workflows.sliding_window import build_window_predictor
from tests.conftest import ROOT
from tests.patch_model import CLASSES, draw_red_and_blue, make_model, make_points_data, make_run
from tests.tiny import MPP, make_data, save_png, write_slide
from tests.workflows import scans
from tests.workflows.predictions import files_in, record_of

LEAVES = {
    "metrics.json", "metrics.csv", "curves.csv", "summary.md", "table.tex", "report.html", "curves.png", "figures",
    "run.json",
}  # fmt: skip
SPLIT_OF = ("train", "train", "val", "val", "val", "test")
GROUP_OF = ("a", "a", "b", "b", "c", "d")
SCANNER_OF = ("old", "new", "old", "new", "new", "old")
SPLITS = "image,split,group,scanner\n" + "".join(
    f"field{number},{','.join(cells)}\n"
    for number, cells in enumerate(zip(SPLIT_OF, GROUP_OF, SCANNER_OF, strict=True))
)


def config(*assignments: str) -> EvaluateConfig:
    return build_config(EvaluateConfig, assignments=["bootstrap=50", "compute.device=cpu", *assignments])


def measure(data: Path, model: Path | None, out: Path, *assignments: str, **options: Any) -> EvaluateResult:
    return evaluate(config(*assignments), data=DataConfig(dir=data), model=model, out=out, **options)


def compare(prediction: Path, truth: Path, out: Path, *assignments: str, **options: Any) -> EvaluateResult:
    return evaluate(config(*assignments), prediction=prediction, truth=truth, out=out, **options)


def report_of(result: EvaluateResult) -> PointReport:
    assert isinstance(result.report, PointReport)
    return result.report


def counts_of(result: EvaluateResult) -> dict[str, tuple[int, int, int, int]]:
    return {
        one.name: (one.counts.tp, one.counts.fp, one.counts.fn, one.counts.hard_negative_hits)
        for one in report_of(result).per_class
    }


def counts_by_group(report: PointReport) -> dict[tuple[str, str, str], tuple[int, PointCounts]]:
    return {(one.by, one.name, one.summary.name): (one.num_images, one.summary.counts) for one in report.groups}


def metrics_of(folder: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)
    return metrics


def labelled(number: int) -> Points:
    """The points of a field as points.csv has them: look-alikes are dim disks."""
    points = draw_red_and_blue(number, 80, 106).points
    return points._replace(positions=points.positions.round(2))


def image_of(number: int) -> Any:
    return draw_red_and_blue(number, 80, 106).image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_points_data(tmp_path_factory.mktemp("points") / "data", splits=SPLITS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with a threshold at which it takes dim disks for red ones."""
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors", thresholds=(0.6, 0.9))


@pytest.fixture(scope="module")
def measured(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    """The validation images, measured; not to be changed."""
    return measure(data, model, tmp_path_factory.mktemp("evaluated") / "val")


# A model on a data folder


def test_the_folder_holds_files_and_figures(measured: EvaluateResult) -> None:
    assert files_in(measured.folder) == LEAVES
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| evaluate \| `evaluation/` \(or `--out`\): (.*)$", readme, flags=re.MULTILINE)
    assert {name.rstrip("/") for name in re.findall(r"`([^`]+)`", row)} | {"run.json"} == LEAVES | {"predictions"}
    names = [f"field{number}.png" for number in (2, 3, 4)]
    assert measured.figures == [measured.folder / "curves.png", *(measured.folder / "figures" / n for n in names)]
    for figure in measured.figures:
        with open_slide(figure) as picture:
            assert min(picture.height, picture.width) > 100


def test_the_numbers_are_those_of_measure_points(measured: EvaluateResult, model: Path) -> None:
    predictor, detection = build_window_predictor([load_model(model)], scans.config())
    fields = (2, 3, 4)
    expected = measure_points(
        [f"field{number}" for number in fields],
        [detect_in_image(image_of(number), predictor, detection, mpp=MPP) for number in fields],
        [labelled(number) for number in fields],
        CLASSES,
        radius_px=3 / MPP,
        mpp=MPP,
        areas_px=[80 * 106] * 3,
        thresholds=[0.6, 0.9],
        groups=["b", "b", "c"],
        attributes={"scanner": ["old", "new", "new"]},
        num_samples=50,
    )
    report = report_of(measured)
    for name in ("classes", "radius_px", "radius_um", "mpp", "area_mm2", "images", "rows", "foreground"):
        assert getattr(report, name) == getattr(expected, name), name
    assert counts_by_group(report) == counts_by_group(expected)
    for one, other in zip(report.per_class, expected.per_class, strict=True):
        assert (one.counts, one.pooled, one.threshold) == (other.counts, other.pooled, other.threshold)
        for name in ("thresholds", "true_positives", "num_detections"):
            assert np.array_equal(getattr(one.curve, name), getattr(other.curve, name))


def test_the_numbers_are_those_that_were_drawn(measured: EvaluateResult) -> None:
    """Every red and blue disk is found; the dim ones are taken for red ones, and are labelled look-alikes."""
    reds, blues, dim = (sum(len(labelled(number).of_class(index)) for number in (2, 3, 4)) for index in (1, 2, 0))
    assert dim > 3
    assert counts_of(measured) == {"red": (reds, dim, 0, dim), "blue": (blues, 0, 0, 0)}
    metrics = metrics_of(measured.folder)
    red, blue = metrics["classes"]
    f1 = 2 * reds / (2 * reds + dim)
    assert (red["pooled"]["f1"]["value"], red["pooled"]["recall"]["value"]) == (pytest.approx(f1), 1)
    assert metrics["headline"]["value"] == pytest.approx((f1 + 1) / 2)
    assert red["pooled"]["average_precision"]["value"] == pytest.approx(1)  # dim ones have lower scores
    assert (metrics["num_images"], metrics["num_hard_negatives"]) == (3, dim)
    assert (metrics["radius_px"], metrics["radius_um"]) == (6, 3)
    assert metrics["area_mm2"] == pytest.approx(3 * 80 * 106 * (MPP / 1000) ** 2)
    assert [(one["by"], one["name"], one["class"], one["num_images"]) for one in metrics["groups"]] == [
        (by, value, name, num)
        for by, value, num in (("group", "b", 2), ("group", "c", 1), ("scanner", "new", 2), ("scanner", "old", 1))
        for name in ("red", "blue")
    ]
    assert metrics["groups"][4]["pooled"]["f1"]["low"] is not None
    assert (metrics["intervals"]["over"], metrics["intervals"]["num_units"]) == ("group", 2)
    assert blue["threshold"] == 0.9
    with (measured.folder / "metrics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["image"], row["group"], row["scanner"], row["class"]) for row in rows] == [
        (f"field{number}", GROUP_OF[number], SCANNER_OF[number], name)
        for number in (2, 3, 4)
        for name in ("red", "blue")
    ]
    for text in ((measured.folder / "report.html").read_text(), (measured.folder / "summary.md").read_text()):
        assert "By scanner" in text


def test_how_thresholds_were_chosen_is_told(data: Path, tmp_path: Path) -> None:
    """From the model's file and its run folder; the curve of validation stands beside that of the measured images."""
    curve = [(0.8, 1.0, 0.5, 0.66), (0.6, 0.9, 0.9, 0.9), (0.2, 0.5, 1.0, 0.67)]
    made = load_model(make_model(tmp_path / "run" / "model.safetensors", thresholds=(0.6, 0.9), curves=[curve, []]))
    story = {"data": "disks", "num_val": 2, "best_epoch": 5}
    scores = {"f1": 0.9, "f1/red": 0.9, "f1/blue": None}
    spec = made.spec.model_copy(update={"scores": scores, "training": {**made.spec.training, **story}})
    save_model(made.path, made.network, spec)
    (made.path.parent / "splits.csv").write_text(
        "image,split\n" + "".join(f"field{number},{'val' if number == 3 else 'train'}\n" for number in range(5))
    )
    result = measure(data, made.path, tmp_path / "out")  # the folder has one image more, and so its own splits
    choice = metrics_of(tmp_path / "out")["choice"]
    assert choice["parameters"] == {"threshold/red": 0.6, "threshold/blue": 0.9}
    assert (choice["num_validation_images"], choice["num_measured_images_among_them"]) == (2, 1)
    assert (choice["validation_score"], choice["validation_scores"]) == (0.9, {"red": 0.9, "blue": None})
    red, blue = choice["sweeps"]
    assert red["validation"] == {"values": [0.2, 0.6, 0.8], "scores": [0.67, 0.9, 0.66]}
    assert blue["validation"] is None
    assert red["used"] == 0.6
    assert red["measured"]["values"] == sorted(red["measured"]["values"])
    of_red = report_of(result).per_class[0].curve
    assert red["measured"]["scores"] == pytest.approx(of_red.f1[::-1], abs=1e-6)
    words = (
        "Chosen in training on the 2 validation images of disks, after epoch 5: each threshold has the highest F1 of "
        "points matched within 3um. F1, the mean of the classes, was 0.900 there. 1 of the images measured here "
        "was among them: "
    )
    for name in ("summary.md", "report.html"):
        assert words in (tmp_path / "out" / name).read_text(), name
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("F1 in validation") >= 2  # in the table, and in the chart of red
    assert "used: 0.6" in page


def test_the_record_says_what_was_measured(measured: EvaluateResult, data: Path, model: Path) -> None:
    record = record_of(measured.folder)
    assert (record["command"], record["complete"]) == ("evaluate", True)
    assert (record["data"], record["model"]) == (str(data), str(model))
    assert record["model_sha256"] == load_model(model).sha256
    assert record["images"] == ["field2", "field3", "field4"]
    assert record["settings"]["match_radius"] == "auto"


@pytest.mark.parametrize(
    ("split", "numbers"), [("train", (0, 1)), ("val", (2, 3, 4)), ("test", (5,)), ("all", range(6))]
)
def test_the_split_that_is_asked_for_is_measured(
    data: Path, model: Path, tmp_path: Path, split: str, numbers: Sequence[int]
) -> None:
    told: list[tuple[str, int, int]] = []
    result = measure(
        data, model, tmp_path, f"split={split}", on_progress=lambda *now: told.append(now[:3])
    )  # fmt: skip
    assert [row.image for row in report_of(result).images] == [f"field{number}" for number in numbers]
    assert told == [("evaluate", done, len(numbers)) for done in range(1, len(numbers) + 1)]


def test_the_trainings_splits_come_before_the_folders(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "splits.csv").write_text("image,split\n" + "".join(f"field{n},{'test' if n else 'val'}\n" for n in range(6)))
    notes: list[str] = []
    result = measure(data, run, tmp_path / "out", on_note=notes.append)
    assert [row.image for row in report_of(result).images] == ["field0"]
    assert any("those of the training" in note for note in notes)


def test_without_groups_images_are_the_units(model: Path, tmp_path: Path) -> None:
    result = measure(make_points_data(tmp_path / "data"), model, tmp_path / "out", "split=all")
    report = report_of(result)
    assert (report.unit, report.num_units, report.groups) == ("image", 6, ())


@pytest.mark.parametrize(("given", "px"), [("auto", 6), ("2um", 4), ("4.5px", 4.5), ("0.5px", 0.5)])
def test_the_match_radius_is_the_models_or_the_given_one(
    data: Path, model: Path, tmp_path: Path, given: str, px: float
) -> None:
    result = measure(data, model, tmp_path, f"match_radius={given}")
    report = report_of(result)
    assert (report.radius_px, report.radius_um) == (px, px * MPP)
    if px == 0.5:  # detections lie on every second pixel
        assert report.per_class[0].counts.fn > 0


def test_an_empty_image_counts(model: Path, tmp_path: Path) -> None:
    """An image on which nothing was labelled: what is found there is wrong."""
    data = make_points_data(tmp_path / "data", splits=SPLITS)
    rows = [row for row in (data / "points.csv").read_text().splitlines() if not row.startswith(("field2,", "field4,"))]
    (data / "points.csv").write_text("\n".join([*rows, ""]))
    result = measure(data, model, tmp_path / "out")
    by_image = {(row.image, row.name): row.counts for row in report_of(result).rows}
    for number in (2, 4):
        drawn = draw_red_and_blue(number, 80, 106).points
        counts = by_image[f"field{number}", "blue"]
        assert (counts.tp, counts.fp, counts.fn) == (0, len(drawn.of_class(2)), 0)
    assert by_image["field3", "blue"].tp == len(labelled(3).of_class(2))
    assert metrics_of(tmp_path / "out")["num_images"] == 3


def test_a_split_without_any_point_has_no_recall_and_no_nan(model: Path, tmp_path: Path) -> None:
    data = make_points_data(tmp_path / "data", splits=SPLITS)
    validation = tuple(f"field{number}," for number in (2, 3, 4))
    rows = [row for row in (data / "points.csv").read_text().splitlines() if not row.startswith(validation)]
    (data / "points.csv").write_text("\n".join([*rows, ""]))
    result = measure(data, model, tmp_path / "out")
    assert files_in(tmp_path / "out") == LEAVES
    red, _ = metrics_of(tmp_path / "out")["classes"]
    assert red["pooled"]["recall"]["value"] is None
    assert red["pooled"]["precision"]["value"] == 0
    assert red["fp"] > 0
    assert report_of(result).num_hard_negatives == 0


def test_classes_keep_their_colours_where_one_has_no_points(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_points_data(tmp_path / "data", splits=SPLITS)
    rows = [
        row
        for row in (data / "points.csv").read_text().splitlines()
        if not (row.endswith(",red") and row.startswith(("field2", "field3", "field4")))
    ]
    (data / "points.csv").write_text("\n".join([*rows, ""]))
    measure(data, model, tmp_path / "out")  # is drawn
    drawn: list[tuple[Any, Any]] = []
    monkeypatch.setattr(
        evaluate_points, "draw_point_curves", lambda curves, path, **options: drawn.append((curves, options))
    )
    measure(data, model, tmp_path / "out")
    ((curves, options),) = drawn
    assert list(curves) == ["red", "blue"]
    assert np.isnan(curves["red"][0]).all()
    assert list(options["chosen"]) == list(options["froc"]) == ["blue"]


def test_a_detector_that_finds_nothing_is_measured_too(data: Path, tmp_path: Path) -> None:
    blind = make_model(tmp_path / "blind.safetensors", at=3.0)
    result = measure(data, blind, tmp_path / "out")
    assert files_in(tmp_path / "out") == LEAVES
    assert {tp + fp for tp, fp, _, _ in counts_of(result).values()} == {0}
    red, _ = metrics_of(tmp_path / "out")["classes"]
    assert red["pooled"]["precision"]["value"] is None
    assert red["pooled"]["recall"]["value"] == 0


def test_averaging_over_flips_and_turns_is_used(
    data: Path, model: Path, measured: EvaluateResult, tmp_path: Path
) -> None:
    """A lopsided network misses the disks by 3 px, so that none is right; its variants together do not."""
    lopsided = make_model(tmp_path / "lopsided.safetensors", lopsided=True, thresholds=(0.5, 0.5))
    found = [
        counts_of(measure(data, lopsided, tmp_path / dihedral, f"dihedral={dihedral}", "match_radius=2px"))["blue"][0]
        for dihedral in ("false", "true")
    ]
    assert found[0] <= 1
    assert found[1] == counts_of(measured)["blue"][0]


def test_look_alikes_that_the_training_named_are_no_class(tmp_path: Path) -> None:
    data = make_points_data(tmp_path / "data", splits=SPLITS)
    text = (data / "points.csv").read_text().replace("look_alike", "apoptosis")
    (data / "points.csv").write_text(text)
    named = make_model(tmp_path / "named.safetensors", hard_negatives=("apoptosis",), thresholds=(0.6, 0.9))
    assert report_of(measure(data, named, tmp_path / "out")).num_hard_negatives > 3
    unnamed = make_model(tmp_path / "unnamed.safetensors")
    with pytest.raises(InputError, match="which finds points") as caught:
        measure(data, unnamed, tmp_path / "out")
    assert f"cannot be used with {unnamed}" in caught.value.message
    (problem,) = caught.value.problems
    assert "holds the label apoptosis, which is none of the classes (background, red, blue)" in problem


def test_a_class_that_the_folder_does_not_have_is_named(model: Path, tmp_path: Path) -> None:
    data = make_points_data(tmp_path / "data", splits=SPLITS)
    text = "".join(row for row in (data / "points.csv").read_text().splitlines(keepends=True) if ",blue" not in row)
    (data / "points.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        measure(data, model, tmp_path / "out")
    assert caught.value.problems == ["classes: blue: no point has this label (the labels are look_alike, red)."]


def test_points_without_a_scale_are_measured_in_pixels(tmp_path: Path) -> None:
    data = make_points_data(tmp_path / "data", splits=SPLITS)
    (data / "dataset.yaml").unlink()
    unscaled = make_model(
        tmp_path / "m.safetensors", mpp=None, match_radius="6px", smooth_radius="2px", nms_radius="8px"
    )  # fmt: skip
    report = report_of(measure(data, unscaled, tmp_path / "out"))
    assert (report.radius_px, report.radius_um, report.mpp, report.area_mm2) == (6, None, None, None)
    assert metrics_of(tmp_path / "out")["classes"][0]["froc_per_mm2"] is None
    with pytest.raises(ConfigError, match=r"3um: .*dataset\.yaml") as caught:
        measure(data, unscaled, tmp_path / "out", "match_radius=3um")
    assert caught.value.exit_code == 2
    # The scale of a model is taken for that of images that do not say theirs.
    scaled = make_model(tmp_path / "s.safetensors")
    assert report_of(measure(data, scaled, tmp_path / "out")).radius_um == 3


def test_images_of_another_scale_are_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_points_data(tmp_path / "data", splits=SPLITS)
    (data / "dataset.yaml").write_text("mpp: 0.25\n")
    with pytest.raises(InputError, match=r"has 0\.25 um per pixel, and the model was trained at 0\.5 ") as caught:
        measure(data, model, tmp_path / "out")
    assert str(model) in caught.value.message
    (data / "dataset.yaml").write_text("mpp: 0.45\n")  # as near as slides may be
    used: list[float | None] = []

    def detect(*arguments: Any, mpp: float | None) -> Detections:
        used.append(mpp)
        return detect_in_image(*arguments, mpp=mpp)

    monkeypatch.setattr(evaluate_points, "detect_in_image", detect)
    report = report_of(measure(data, model, tmp_path / "out"))
    assert report.radius_px == pytest.approx(3 / 0.45)
    assert report.mpp == 0.45
    assert set(used) == {0.45}  # radii of detection are those on the glass, too


def test_masks_of_another_scale_are_refused_too(tiny_run: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", description="mpp: 1.0\n")
    with pytest.raises(InputError, match=r"has 1 um per pixel, and the model was trained at 0\.5 "):
        measure(data, tiny_run, tmp_path / "out")


def test_a_folder_of_masks_and_a_model_of_points_do_not_go_together(
    model: Path, data: Path, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="which finds points") as caught:
        measure(tiny_data, model, tmp_path / "out")
    assert any("points.csv" in problem for problem in caught.value.problems)
    with pytest.raises(InputError, match="masks"):
        measure(data, tiny_run, tmp_path / "out")
    with pytest.raises(InputError, match=r"finds points, and .* is to be read with masks"):
        evaluate(config(), data=DataConfig(dir=tiny_data, annotation="masks"), model=model, out=tmp_path / "out")


def test_the_newest_run_is_measured_if_none_is_given(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no finished training under"):
        measure(data, None, tmp_path / "out")
    run = make_run(Path("runs/only"))
    notes: list[str] = []
    measure(data, None, tmp_path / "out", on_note=notes.append)
    assert record_of(tmp_path / "out")["model"] == str((run / "model.safetensors").resolve())
    assert notes[0] == "model: runs/only (the newest finished run)"


def test_a_network_that_cannot_be_converted_is_measured_slowly_and_says_so(
    data: Path, model: Path, measured: EvaluateResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segkit.models import dense
    from segkit.models.lowering import NotConvertibleError

    def refuse(*_: Any) -> None:
        raise NotConvertibleError("layers.0 (Conv2d): has padding inside the patch.")

    monkeypatch.setattr(dense, "lower", refuse)
    notes: list[str] = []
    result = measure(data, model, tmp_path, on_note=notes.append)
    assert "layers.0 (Conv2d)" in notes[0]
    assert "far slower" in notes[0]
    assert counts_of(result) == counts_of(measured)


def test_no_more_figures_than_anybody_looks_at(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_points, "MAX_FIGURES", 2)
    result = measure(data, model, tmp_path, "split=all")
    assert len(report_of(result).images) == 6
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"field0.png", "field1.png"}
    assert len(result.figures) == 3


def test_a_figure_shows_what_was_right_wrong_and_missed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(
        evaluate_points, "draw_points_case", lambda image, path, **options: drawn.update({path.name: options})
    )
    half_blind = make_model(tmp_path / "m.safetensors", thresholds=(0.6, 1.0))  # no blue disk is sure enough
    measure(data, half_blind, tmp_path / "out")
    truth = labelled(2)
    shown = drawn["field2.png"]
    assert shown["title"] == "field2"
    assert np.array_equal(shown["hard_negatives"], truth.of_class(0))
    assert np.array_equal(shown["false_negatives"], truth.of_class(2))
    assert len(shown["true_positives"]) == len(truth.of_class(1))
    assert len(shown["false_positives"]) == len(truth.of_class(0))


def test_another_evaluation_replaces_the_former_one_and_nothing_else(
    data: Path, model: Path, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    save_png(tmp_path / "figures" / "mine.png", image_of(0))
    measure(data, model, tmp_path)
    measure(data, model, tmp_path, "split=test")
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"field5", "mine"}
    # Of masks now: no picture of the curves of points stays beside its tables.
    measure(tiny_data, tiny_run, tmp_path)
    assert files_in(tmp_path) == LEAVES - {"curves.png"} | {"predictions"}
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"field4", "field5", "mine"}


# Detections that are there


@pytest.fixture(scope="module")
def scanned(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What sliding-window leaves of the validation images; not to be changed."""
    out = tmp_path_factory.mktemp("scanned")
    images = [data / "images" / f"field{number}.png" for number in (2, 3, 4)]
    result = scans.run(images, model, out, f"mpp={MPP}")
    assert {slide.status for slide in result.slides} == {"done"}
    return out


def test_what_sliding_window_leaves_has_the_same_numbers(
    measured: EvaluateResult, scanned: Path, data: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    result = compare(scanned, data, tmp_path, "match_radius=3um", "split=val", on_note=notes.append)
    assert files_in(tmp_path) == LEAVES
    assert counts_of(result) == counts_of(measured)
    report, before = report_of(result), report_of(measured)
    by_name = {(row.image, row.name): row for row in report.rows}
    assert all(by_name[row.image, row.name] == row for row in before.rows)
    assert counts_by_group(report) == counts_by_group(before)
    assert report.choice is None
    assert (report.radius_px, report.mpp, report.area_mm2) == (before.radius_px, before.mpp, before.area_mm2)
    assert report.headline.value == pytest.approx(before.headline.value)
    record = record_of(tmp_path)
    assert (record["prediction"], record["truth"]) == (str(scanned), str(data))
    assert [row.image for row in report.images] == ["field2", "field3", "field4"]
    assert notes == record["notes"] == record["left_out"] == []


def test_images_that_nobody_scanned_are_refused_by_name(scanned: Path, data: Path, tmp_path: Path) -> None:
    words = (
        f"{scanned}: 3 of 6 images in {data} have no detections, .* those of the split val only .--split val., or leave"
    )
    with pytest.raises(InputError, match=words) as caught:
        compare(scanned, data, tmp_path / "out", "match_radius=3um")
    assert caught.value.problems == ["field0", "field1", "field5"]
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_images_that_nobody_scanned_are_left_out_where_that_is_asked_for(
    scanned: Path, data: Path, tmp_path: Path
) -> None:
    result = compare(scanned, data, tmp_path, "match_radius=3um", "allow_missing=true")
    assert [row.image for row in result.report.images] == ["field2", "field3", "field4"]
    assert metrics_of(tmp_path)["left_out"] == record_of(tmp_path)["left_out"] == ["field0", "field1", "field5"]


def test_a_match_radius_is_needed(scanned: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give it, e\.g\. --set match_radius=7\.5um") as caught:
        compare(scanned, data, tmp_path / "out", "split=val")
    assert caught.value.exit_code == 2
    for given, px in (("4px", 4), ("1um", 2)):
        assert report_of(compare(scanned, data, tmp_path / "out", f"match_radius={given}", "split=val")).radius_px == px


def test_the_rule_of_matching_is_the_one_that_is_asked_for(scanned: Path, data: Path, tmp_path: Path) -> None:
    given = ["match_radius=12px", "split=val"]
    midog = compare(scanned, data, tmp_path / "midog", *given, "match_rule=midog")
    assert (report_of(midog).rule, report_of(midog).radius_px) == ("midog", 12)
    assert json.loads((tmp_path / "midog" / "metrics.json").read_text())["rule"] == "midog"
    assert report_of(compare(scanned, data, tmp_path / "optimal", *given)).rule == "optimal"
    # This rule has a radius of its own.
    kdtree = report_of(compare(scanned, data, tmp_path / "kdtree", "match_rule=kdtree25", "split=val"))
    assert (kdtree.rule, kdtree.radius_px) == ("kdtree25", 25)
    with pytest.raises(UsageError, match="match_radius is 12px, and match_rule=kdtree25 goes with 25 pixels"):
        compare(scanned, data, tmp_path / "both", *given, "match_rule=kdtree25")


def test_a_radius_in_um_needs_the_scale_of_the_truth(scanned: Path, data: Path, tmp_path: Path) -> None:
    unscaled = Path(shutil.copytree(data, tmp_path / "data"))
    (unscaled / "dataset.yaml").unlink()
    with pytest.raises(ConfigError, match=r"3um: .*dataset\.yaml"):
        compare(scanned, unscaled, tmp_path / "out", "match_radius=3um", "split=val")
    report = report_of(compare(scanned, unscaled, tmp_path / "out", "match_radius=6px", "split=val"))
    assert (report.radius_um, report.area_mm2) == (None, None)


def write_table(folder: Path, name: str, *rows: str, header: str = "x_px,y_px,score,label") -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "detections.csv").write_text("\n".join([header, *rows, ""]))


def only_field2(data: Path, folder: Path) -> Path:
    """Copy the data and take all images but one away."""
    shutil.copytree(data, folder)
    for image in folder.glob("images/*"):
        if image.stem != "field2":
            image.unlink()
    for name in ("points.csv", "splits.csv"):
        head, *rows = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join([head, *(row for row in rows if row.startswith("field2,")), ""]))
    return folder


def test_detections_of_any_program_are_counted_by_hand(data: Path, tmp_path: Path) -> None:
    data = only_field2(data, tmp_path / "data")
    truth = labelled(2)
    (y, x), *others = truth.of_class(1).tolist()
    write_table(
        tmp_path / "found", "field2", f"{x},{y},0.9,red", f"{x + 1},{y},0.8,red", "1,1,0.7,blue",
        header="x,y,score,label",
    )  # fmt: skip
    result = compare(tmp_path / "found", data, tmp_path / "out", "match_radius=4px")
    assert counts_of(result) == {"red": (1, 1, len(others), 0), "blue": (0, 1, len(truth.of_class(2)), 0)}
    found = Detections(np.array([[y, x], [y, x + 1], [1.0, 1.0]]), np.array([1, 1, 2]), np.array([0.9, 0.8, 0.7]))
    expected = measure_points(
        ["field2"], [found], [truth], CLASSES, radius_px=4, mpp=MPP, areas_px=[80 * 106], thresholds=[0, 0],
        groups=["b"], num_samples=50,
    )  # fmt: skip
    by_name = {one.name: one for one in report_of(result).per_class}  # the folder's classes are sorted by name
    for one in expected.per_class:
        assert by_name[one.name].pooled == one.pooled


def test_an_empty_table_means_that_nothing_was_found(data: Path, tmp_path: Path) -> None:
    data = only_field2(data, tmp_path / "data")
    write_table(tmp_path / "found", "field2")
    result = compare(tmp_path / "found", data, tmp_path / "out", "match_radius=4px")
    truth = labelled(2)
    assert counts_of(result)["red"] == (0, 0, len(truth.of_class(1)), 0)


def test_names_that_do_not_pair_are_listed(data: Path, tmp_path: Path) -> None:
    for name in ("field2", "nobody", "else"):
        write_table(tmp_path / "found", name)
    with pytest.raises(InputError, match="no image of their name") as caught:
        compare(tmp_path / "found", data, tmp_path / "out", "match_radius=4px")
    assert caught.value.problems == ["else", "nobody"]
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_tables_that_cannot_be_used_are_named_with_their_lines(data: Path, tmp_path: Path) -> None:
    data = only_field2(data, tmp_path / "data")
    write_table(tmp_path / "found", "field2", "3,3,0.5,green", "3,three,0.5,red", "3,3,5,red", "4,4,0.5,red")
    with pytest.raises(InputError, match=r"field2/detections\.csv") as caught:
        compare(tmp_path / "found", data, tmp_path / "out", "match_radius=4px")
    assert len(caught.value.problems) == 3
    assert "line 2: the label is 'green'" in caught.value.problems[0]


def test_the_folder_of_one_image_is_not_taken_for_all(scanned: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"holds the detections of one image.*{scanned}"):
        compare(scanned / "field2", data, tmp_path / "out", "match_radius=4px")


def test_truths_that_are_masks_are_not_points(scanned: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used as a data folder") as caught:
        compare(scanned, tiny_data, tmp_path / "out", "match_radius=4px")
    assert any("points.csv" in problem for problem in caught.value.problems)


def test_a_pyramid_is_measured_in_pixels_of_level_0(model: Path, tmp_path: Path) -> None:
    """The scan reads level 1; its detections and the labelled points are in pixels of level 0."""
    drawn = draw_red_and_blue(2, 80, 106)
    data = tmp_path / "data"
    write_slide(data / "images" / "a.tif", drawn.image.repeat(2, axis=0).repeat(2, axis=1), mpp=MPP / 2)
    labels = ("look_alike", *CLASSES[1:])
    rows = [
        f"a,{2 * x},{2 * y},{labels[index]}"
        for (y, x), index in zip(drawn.points.positions.tolist(), drawn.points.classes.tolist(), strict=True)
    ]
    (data / "points.csv").write_text("\n".join(["image,x,y,label", *rows, ""]))
    scans.run([data / "images" / "a.tif"], model, tmp_path / "found", "threshold=0.9")
    result = compare(tmp_path / "found", data, tmp_path / "out", "match_radius=2um")
    report = report_of(result)
    assert report.mpp == pytest.approx(MPP / 2)
    assert report.radius_px == pytest.approx(8)
    assert report.headline.value == 1
