"""Measuring a model, and measuring masks that are there: the same numbers both ways, for the images that are meant."""

import csv
import json
import math
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segkit.config import DataConfig, EvaluateConfig, PredictConfig, build_config
from segkit.errors import InputError, ModelError, UsageError
from segkit.evaluation.calibration import brier_score, count_of_class, expected_calibration_error, no_calibration
from segkit.evaluation.pixel_tables import PixelReport
from segkit.inference.image_segmentation import predict_layers, segment_image
from segkit.models.model_file import load_model
from segkit.workflows import predicted_masks
from segkit.workflows.evaluate import EvaluateResult, evaluate
from segkit.workflows.predict import build_predictor, predict
from segkit.workflows.train import train
from tests.conftest import ROOT
from tests.tiny import SPLITS, draw_field, make_data, save_png, tiny_config, write_slide

LEAVES = {"metrics.json", "metrics.csv", "summary.md", "table.tex", "report.html", "run.json"}
COMPUTE = ["compute.device=cpu", "compute.precision=float32"]


def config(*assignments: str) -> EvaluateConfig:
    return build_config(EvaluateConfig, assignments=["bootstrap=50", *COMPUTE, *assignments])


def measure(data: Path, model: Path, out: Path, *assignments: str, **data_config: Any) -> EvaluateResult:
    return evaluate(config(*assignments), data=DataConfig(dir=data, **data_config), model=model, out=out)


def compare(prediction: Path, truth: Path, out: Path, *assignments: str) -> EvaluateResult:
    return evaluate(config(*assignments), prediction=prediction, truth=truth, out=out)


def read_mask(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def metrics_of(folder: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)
    return metrics


def names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


@pytest.fixture(scope="module")
def measured(tiny_data: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    """The validation images of the tiny task, measured; not to be changed."""
    return measure(tiny_data, tiny_run, tmp_path_factory.mktemp("evaluated") / "val")


def test_the_folder_holds_what_the_readme_lists(measured: EvaluateResult) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| evaluate \| `evaluation/` \(or `--out`\): (.*)$", readme, flags=re.MULTILINE)
    listed = {name.rstrip("/") for name in re.findall(r"`([^`]+)`", row)}
    left = {path.name for path in measured.folder.iterdir()} - {".lock"}
    assert left == LEAVES | {"curves.csv", "figures", "predictions"}
    assert listed <= LEAVES | {"figures", "predictions", "curves.csv", "curves.png"}  # the last two of points
    for folder in ("figures", "predictions"):
        assert names_in(measured.folder / folder) == ["field4", "field5"]
    assert measured.figures == [measured.folder / "figures" / f"field{n}.png" for n in (4, 5)]


def test_the_numbers_are_those_of_the_predictions(measured: EvaluateResult, tiny_run: Path) -> None:
    model = load_model(tiny_run)
    predictor = build_predictor([model], build_config(PredictConfig, assignments=COMPUTE))
    true_positives = wrong = pixels = 0
    for number in (4, 5):
        image, truth = draw_field(number)
        mask = segment_image(image, predictor)
        assert np.array_equal(read_mask(measured.folder / "predictions" / f"field{number}.png"), mask)
        true_positives += int(((mask == 1) & (truth == 1)).sum())
        wrong += int((mask != truth).sum())
        pixels += mask.size
    metrics = metrics_of(measured.folder)
    assert metrics["headline"]["value"] == pytest.approx(2 * true_positives / (2 * true_positives + wrong), abs=1e-6)
    assert metrics["pixel_error"]["pooled"]["value"] == pytest.approx(wrong / pixels, abs=1e-6)
    # As the training said of the same images.
    assert metrics["headline"]["value"] == pytest.approx(model.spec.scores["dice"], abs=1e-6)
    with (measured.folder / "metrics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["image"], row["class"]) for row in rows] == [
        (f"field{n}", name) for n in (4, 5) for name in ("background", "foreground")
    ]


CALIBRATION = ("ece", "mce", "brier")
OF_PROBABILITIES = (*CALIBRATION, "sweeps", "threshold_sweeps", "average_precision")


def without_probabilities(value: Any) -> Any:
    """Return what stands in metrics.json, or a report, without what only the model knows of its predictions."""
    if isinstance(value, dict):
        return {
            key: without_probabilities(one)
            for key, one in value.items()
            if key not in OF_PROBABILITIES and not key.startswith("calibration")
        }
    return [without_probabilities(one) for one in value] if isinstance(value, list | tuple) else value


def test_measuring_the_predictions_that_it_left_gives_the_same_numbers(
    measured: EvaluateResult, tiny_data: Path, tmp_path: Path
) -> None:
    again = compare(measured.folder / "predictions", tiny_data, tmp_path / "out", "split=val")
    first, second = (without_probabilities(metrics_of(one.folder)) | {"notes": []} for one in (measured, again))
    assert first == second
    assert first["surfaces"] == {"unit": "um", "tolerance": "2px", "num_images": 2}
    tables = []
    for one in (measured, again):
        with (one.folder / "metrics.csv").open() as handle:
            tables.append([without_probabilities(row) for row in csv.DictReader(handle)])
    assert tables[0] == tables[1]
    assert again.figures == []


def test_probabilities_of_the_model_are_calibrated_and_need_no_second_prediction(
    measured: EvaluateResult, tiny_data: Path, tiny_run: Path
) -> None:
    predictor = build_predictor([load_model(tiny_run)], build_config(PredictConfig, assignments=COMPUTE))
    counts = no_calibration()
    for number in (4, 5):
        image, truth = draw_field(number)
        counts += count_of_class(predict_layers(image, predictor)[1], truth, 1)
    assert isinstance(measured.report, PixelReport)
    (found,) = measured.report.calibrations
    assert (found.name, found.num_images) == ("foreground", 2)
    assert found.pooled["ece"].value == pytest.approx(expected_calibration_error(counts), abs=1e-6)
    assert found.pooled["brier"].value == pytest.approx(brier_score(counts), abs=1e-6)
    assert [one.pixels for one in found.curve] == counts.pixels.tolist()
    metrics = metrics_of(measured.folder)
    assert metrics["calibration"][0]["pooled"]["ece"]["value"] == found.pooled["ece"].value
    assert {*CALIBRATION, "hd95_um", "assd_um", "nsd"} <= set(metrics["definitions"])
    (sweep,) = measured.report.sweeps
    assert (sweep.used, sweep.num_images, sweep.best is None) == (0.5, 2, False)  # validation images
    assert sweep.curve.at(0.5) == sweep.of_masks
    assert metrics["threshold_sweeps"][0]["of_masks"]["dice"] == metrics["headline"]["value"]
    for name in ("summary.md", "table.tex", "report.html"):
        text = (measured.folder / name).read_text()
        assert f"{found.pooled['ece'].value:.3f}" in text
        assert "HD95" in text or "hd95" in text


def test_what_predict_leaves_can_be_measured(
    measured: EvaluateResult, tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    slides = [write_slide(tmp_path / "slides" / f"field{number}.tif", draw_field(number)[0]) for number in (4, 5)]
    predict(slides, models=[tiny_run], out=tmp_path / "out", config=build_config(PredictConfig, assignments=COMPUTE))
    for number in range(len(SPLITS)):
        if number not in {4, 5}:
            predict(
                [tiny_data / "images" / f"field{number}.png"], models=[tiny_run], out=tmp_path / "out",
                config=build_config(PredictConfig, assignments=[*COMPUTE, "mpp=0.5"]),
            )  # fmt: skip
    everything = compare(tmp_path / "out", tiny_data, tmp_path / "everything")  # finds masks/ in a data folder
    assert len(everything.report.images) == len(SPLITS)
    by_name = {row.image: without_probabilities(asdict(row)) for row in everything.report.images}
    assert all(by_name[row.image] == without_probabilities(asdict(row)) for row in measured.report.images)


@pytest.mark.parametrize(
    ("split", "numbers"), [("train", range(4)), ("val", range(4, 6)), ("test", range(6, 8)), ("all", range(8))]
)
def test_the_split_that_is_asked_for_is_measured(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, split: str, numbers: range
) -> None:
    result = measure(tiny_data, tiny_run, tmp_path, f"split={split}")
    assert [row.image for row in result.report.images] == [f"field{number}" for number in numbers]


def test_of_images_that_are_too_large_no_distances_are_measured_and_it_is_said(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicted_masks, "LARGEST_WHOLE_PX", 1000)
    notes: list[str] = []
    report = evaluate(
        config(), data=DataConfig(dir=tiny_data), model=tiny_run, out=tmp_path, on_note=notes.append
    ).report
    assert isinstance(report, PixelReport)
    assert report.surfaces is None
    assert report.headline.value is not None
    assert notes[-1].startswith("field4 and 1 more: more than")


def test_splits_that_the_training_drew_are_used(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", splits=None)
    run = train(tiny_config(data, "epochs=1", "seed=4"), out=tmp_path / "run").run
    with (run / "splits.csv").open() as handle:
        drawn = {row["image"]: row["split"] for row in csv.DictReader(handle)}
    for split in ("val", "test"):
        names = [row.image for row in measure(data, run, tmp_path / split, f"split={split}").report.images]
        assert names == sorted(name for name, drawn_split in drawn.items() if drawn_split == split)
    # A model that was moved away from its run knows no splits.
    shutil.copy(run / "model.safetensors", tmp_path / "moved.safetensors")
    with pytest.raises(InputError, match=r"no images of the split `val`\. Use --split all"):
        measure(data, tmp_path / "moved.safetensors", tmp_path / "out")
    assert len(measure(data, tmp_path / "moved.safetensors", tmp_path / "out", "split=all").report.images) == 8


def test_groups_are_the_units_of_intervals(tiny_run: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    rows = "".join(f"field{number},val,slide{number // 3}\n" for number in range(8))
    (data / "splits.csv").write_text(f"image,split,group\n{rows}")
    shutil.copy(tiny_run / "model.safetensors", tmp_path)
    report = measure(data, tmp_path / "model.safetensors", tmp_path / "out").report
    assert (report.unit, report.num_units, len(report.images)) == ("group", 3, 8)


def test_another_evaluation_replaces_the_former_one_and_nothing_else(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    for name in ("figures/mine.png", "predictions/mine.png", "mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    measure(tiny_data, tiny_run, tmp_path, "split=val")
    measure(tiny_data, tiny_run, tmp_path, "split=test")
    for folder in ("figures", "predictions"):
        assert names_in(tmp_path / folder) == ["field6", "field7", "mine"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_predictions_are_not_deleted_by_measuring_them_into_their_own_folder(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    first = measure(tiny_data, tiny_run, tmp_path / "evaluation", "split=all")
    again = compare(tmp_path / "evaluation" / "predictions", tiny_data, tmp_path / "evaluation")
    assert without_probabilities(asdict(again.report)) == without_probabilities(asdict(first.report))
    assert len(names_in(tmp_path / "evaluation" / "predictions")) == 8
    assert names_in(tmp_path / "evaluation" / "figures") == []


def masks(folder: Path, **contents: Any) -> Path:
    for name, mask in contents.items():
        save_png(folder / f"{name}.png", np.asarray(mask, np.uint8))
    return folder


def test_what_does_not_pair_is_listed(tmp_path: Path) -> None:
    mask = [[0, 1]]
    prediction, truth = masks(tmp_path / "p", a=mask, b=mask), masks(tmp_path / "t", b=mask, c=mask, d=mask)
    with pytest.raises(InputError, match="do not pair") as caught:
        compare(prediction, truth, tmp_path / "out")
    assert caught.value.problems == [
        f"a: no truth in {truth}", f"c: no prediction in {prediction}", f"d: no prediction in {prediction}"
    ]  # fmt: skip


def test_masks_of_different_sizes_are_refused_by_name(tmp_path: Path) -> None:
    prediction, truth = masks(tmp_path / "p", a=[[0, 1]]), masks(tmp_path / "t", a=[[0], [1], [1]])
    with pytest.raises(InputError, match=r"a: the prediction is 2 x 1 pixels .* the truth is 1 x 3"):
        compare(prediction, truth, tmp_path / "out")


@pytest.mark.parametrize("foreground", [1, 255])
def test_masks_of_0_and_255_or_0_and_1_are_the_same_also_where_an_image_is_full_or_empty(
    tmp_path: Path, foreground: int
) -> None:
    full, empty, half = np.ones((4, 6)), np.zeros((4, 6)), np.repeat([[0], [0], [1], [1]], 6, axis=1)
    prediction = masks(tmp_path / "p", full=full * foreground, empty=empty, half=half * foreground)
    truth = masks(tmp_path / "t", full=full * 255, empty=empty * 255, half=full * 255)
    report = compare(prediction, truth, tmp_path / "out").report
    assert report.classes == ("background", "foreground")
    assert report.headline.value == pytest.approx(2 * 36 / (36 + 48))
    assert [row.dice for row in report.images] == [None, 1.0, pytest.approx(2 / 3)]
    assert not any(math.isnan(row.pixel_error or 0) for row in report.images)
    assert metrics_of(tmp_path / "out")["num_images"] == 3


def test_255_beside_other_ids_is_not_labelled_in_a_truth_and_refused_in_a_prediction(tmp_path: Path) -> None:
    truth = masks(tmp_path / "t", a=[[0, 1, 2, 255, 255]])
    report = compare(masks(tmp_path / "p", a=[[0, 1, 2, 0, 2]]), truth, tmp_path / "out").report
    assert report.classes == ("background", "class_1", "class_2")
    assert report.pixel_error_pooled.value == 0
    with pytest.raises(InputError, match="a prediction has a class for every pixel"):
        compare(masks(tmp_path / "q", a=[[0, 1, 2, 255, 2]]), truth, tmp_path / "out")


def test_masks_without_any_foreground_have_no_dice_and_no_nan(tmp_path: Path) -> None:
    empty = np.zeros((3, 3))
    report = compare(masks(tmp_path / "p", a=empty), masks(tmp_path / "t", a=empty), tmp_path / "out").report
    assert report.headline.value is None
    assert metrics_of(tmp_path / "out")["headline"]["value"] is None


def test_folders_that_hold_no_or_several_masks_of_a_name_are_refused(tmp_path: Path) -> None:
    truth = masks(tmp_path / "t", a=[[0, 1]])
    (tmp_path / "empty").mkdir()
    for folder, words in {"none": "no such folder", "empty": "holds no masks"}.items():
        with pytest.raises(InputError, match=words):
            compare(tmp_path / folder, truth, tmp_path / "out")
    prediction = masks(tmp_path / "p", a=[[0, 1]], **{"._a": [[0, 1]]})
    assert compare(prediction, truth, tmp_path / "out").report.headline.value == 1
    Image.fromarray(np.zeros((1, 2), np.uint8)).save(prediction / "a.tif")
    with pytest.raises(InputError, match="several masks of a name") as caught:
        compare(prediction, truth, tmp_path / "out")
    assert len(caught.value.problems) == 1


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    truth = masks(tmp_path / "t", a=[[0, 1]])
    prediction = masks(tmp_path / "p", a=[[0, 1]])
    (prediction / "a.png").write_bytes((prediction / "a.png").read_bytes()[:-20])
    with pytest.raises(InputError, match=str(prediction / "a.png")):
        compare(prediction, truth, tmp_path / "out")


def with_classes(root: Path, description: str) -> Path:
    data = make_data(root, description=f"mpp: 0.5\n{description}\n")
    for number in range(len(SPLITS)):
        save_png(data / "masks" / f"field{number}.png", draw_field(number)[1])
    return data


def test_a_model_of_other_classes_is_refused_by_name(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    for number, description in enumerate(["classes: [background, gland]", "classes: [background, a, b]"]):
        data = with_classes(tmp_path / f"data{number}", description)
        with pytest.raises(InputError, match=r"the classes background, .* and the model background, foreground"):
            measure(data, tiny_run, tmp_path / "out")


def test_classes_are_paired_by_name(tmp_path: Path) -> None:
    data = with_classes(tmp_path / "data", "classes: {0: ground, 1: disk, 2: square}")
    run = train(tiny_config(data, "epochs=2", "steps_per_epoch=15"), out=tmp_path / "run").run
    before = measure(data, run, tmp_path / "before").report
    # Each class has its own probability, and all together that of not being background.
    assert isinstance(before, PixelReport)
    assert [one.name for one in before.calibrations] == ["not background", "disk", "square"]
    assert before.rows[1].metrics["ece"] is not None
    other = with_classes(tmp_path / "other", "classes: {0: ground, 5: square, 7: disk}")
    for number in range(len(SPLITS)):
        save_png(other / "masks" / f"field{number}.png", draw_field(number)[1] * 7)
    assert measure(other, run, tmp_path / "after").report.headline == before.headline


def test_annotation_and_unlabelled_value_are_those_of_the_training(tmp_path: Path) -> None:
    data = with_classes(tmp_path / "data", "")
    for number in range(len(SPLITS)):
        mask = draw_field(number)[1]
        mask[:20] = 9
        save_png(data / "masks" / f"field{number}.png", mask)
        save_png(data / "labels" / f"field{number}.png", np.ones_like(mask))
    run = train(tiny_config(data, "epochs=1", "data.ignore=9", "data.annotation=masks"), out=tmp_path / "run").run
    report = measure(data, run, tmp_path / "out").report
    assert {row.tp_px + row.fp_px + row.fn_px + row.tn_px for row in report.rows} == {44 * 72}


def test_what_is_no_model_or_data_folder_is_refused(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model there"):
        measure(tiny_data, tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError, match="cannot be used as a data folder"):
        measure(tmp_path / "none", tiny_run, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        measure(tiny_data, tiny_run, tmp_path / "file")
