"""Masks that are there: distances, probabilities beside them, groups, and pictures, of images small and large."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from segkit.config import EvaluateConfig, PredictConfig, build_config
from segkit.data import raster_blocks
from segkit.errors import ConfigError
from segkit.evaluation.calibration import count_of_class, expected_calibration_error
from segkit.evaluation.pixel_tables import PixelReport
from segkit.evaluation.surfaces import surface_metrics, tally_surfaces
from segkit.inference.image_segmentation import predict_layers
from segkit.models.model_file import load_model
from segkit.slides import open_slide
from segkit.slides.slide import Slide
from segkit.workflows import evaluate_masks, measured_masks, placement
from segkit.workflows.evaluate import evaluate
from segkit.workflows.predict import build_predictor, predict
from tests.tiny import draw_field, save_png, write_slide

COMPUTE = ["compute.device=cpu", "compute.precision=float32"]
MPP = 0.5


def measured(prediction: Path, truth: Path, out: Path, *assignments: str, **options: Any) -> PixelReport:
    config = build_config(EvaluateConfig, assignments=["bootstrap=20", *COMPUTE, *assignments])
    report = evaluate(config, prediction=prediction, truth=truth, out=out, **options).report
    assert isinstance(report, PixelReport)
    return report


def square(top: int, left: int, side: int = 10, shape: tuple[int, int] = (40, 60)) -> NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def data_folder(root: Path, masks: dict[str, NDArray[np.uint8]], description: str = f"mpp: {MPP}\n") -> Path:
    for name, mask in masks.items():
        save_png(root / "images" / f"{name}.png", np.repeat(160 - 90 * mask[..., np.newaxis], 3, axis=2))
        save_png(root / "masks" / f"{name}.png", mask)
    (root / "dataset.yaml").write_text(description)
    return root


def found_masks(root: Path, masks: dict[str, NDArray[np.uint8]]) -> Path:
    for name, mask in masks.items():
        save_png(root / f"{name}.png", mask)
    return root


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every image for a large one, and blocks of a few pixels."""
    for module in (evaluate_masks, measured_masks):
        monkeypatch.setattr(module, "LARGEST_WHOLE_PX", 100)
    monkeypatch.setattr(raster_blocks, "WHOLE_PX", 0)
    monkeypatch.setattr(placement, "BLOCK_PX", 48)


# Distances


TRUE = {"a": square(5, 5), "b": square(20, 30), "empty": square(0, 0, 0), "none": square(0, 0, 0)}
FOUND = {"a": square(7, 6), "b": square(20, 30, 12), "empty": square(3, 3), "none": square(0, 0, 0)}


@pytest.mark.parametrize(("unit", "tolerance"), [("um", "1um"), ("px", "2px")])
def test_distances_are_those_of_the_functions_in_micrometres_where_these_are_known(
    tmp_path: Path, unit: str, tolerance: str
) -> None:
    data = data_folder(tmp_path / "data", TRUE)
    truth = data if unit == "um" else data / "masks"
    report = measured(found_masks(tmp_path / "p", FOUND), truth, tmp_path / "out", f"surface_tolerance={tolerance}")
    rows = {row.image: row.metrics for row in report.rows if row.name == "foreground"}
    for name in ("a", "b"):
        tally = tally_surfaces(FOUND[name] > 0, TRUE[name] > 0)
        expected = surface_metrics(tally, tolerance_px=2, mpp=MPP if unit == "um" else None)
        assert {key: rows[name][key] for key in expected} == pytest.approx(expected, abs=1e-6)
    # Nothing to be found, and something found: the worst that is possible. Nothing found, too: nothing to measure.
    diagonal = np.hypot(40, 60) * (MPP if unit == "um" else 1)
    assert [rows["empty"][f"{name}_{unit}"] for name in ("hd95", "hd", "assd")] == pytest.approx([diagonal] * 3)
    assert rows["empty"]["nsd"] == 0
    assert rows["none"]["nsd"] is rows["none"][f"hd95_{unit}"] is None
    mean = report.foreground.mean[f"hd95_{unit}"].value
    assert mean == pytest.approx(np.mean([rows[name][f"hd95_{unit}"] for name in ("a", "b", "empty")]), abs=1e-6)
    text = (tmp_path / "out" / "metrics.json").read_text()
    assert json.loads(text)["surfaces"] == {"unit": unit, "tolerance": tolerance, "num_images": 4}
    assert not re.search(r"NaN|Infinity", text)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Boundaries" in page
    assert f"NSD allows {tolerance}" in page
    assert ("so they are in pixels" in page) == (unit == "px")
    assert "Only one of truth and prediction is empty in 1 of 3 images of the class foreground" in page
    assert "Class foreground, in 3 images, 1 by the diagonal" in page


def test_a_tolerance_in_micrometres_needs_the_scale(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", TRUE)
    with pytest.raises(ConfigError, match="1um: a length in um needs the micrometres per pixel"):
        measured(found_masks(tmp_path / "p", FOUND), data / "masks", tmp_path / "out", "surface_tolerance=1um")


def test_where_the_scale_of_some_images_is_unknown_all_distances_are_in_pixels(tmp_path: Path) -> None:
    for name, mpp in (("a", MPP), ("b", None)):
        for folder, masks in (("t", TRUE), ("p", FOUND)):
            write_slide(tmp_path / folder / f"{name}.tif", masks[name][..., np.newaxis], mpp=mpp)
    notes: list[str] = []
    report = measured(tmp_path / "p", tmp_path / "t", tmp_path / "out", on_note=notes.append)
    assert report.surfaces is not None
    assert report.surfaces.unit == "px"
    assert notes == ["um per pixel are known of 1 of 2 images only: distances are told in pixels"]


def test_the_scale_of_a_prediction_is_that_of_the_truth_where_nobody_says_another(tmp_path: Path) -> None:
    save_png(tmp_path / "t" / "a.png", TRUE["a"])
    write_slide(tmp_path / "p" / "a.tif", FOUND["a"][..., np.newaxis], mpp=0.25)
    report = measured(tmp_path / "p", tmp_path / "t", tmp_path / "out")
    expected = surface_metrics(tally_surfaces(FOUND["a"] > 0, TRUE["a"] > 0), tolerance_px=2, mpp=0.25)
    assert report.rows[1].metrics["hd95_um"] == pytest.approx(expected["hd95_um"], abs=1e-6)


def test_a_map_of_another_scale_tells_the_truths(tmp_path: Path) -> None:
    """The truth has no scale of its own, and twice the pixels of a map of 1 um per pixel."""
    write_slide(tmp_path / "p" / "a" / "mask.tif", FOUND["a"][..., np.newaxis], mpp=1.0)
    record = {
        "command": "predict",
        "slide": {"height": 80, "width": 120, "mpp": MPP},
        "plan": {
            "mpp": 1.0, "downsample": 2.0, "stride": 1, "region": {"x": 0, "y": 0, "width": 60, "height": 40}
        },
        "models": [{"classes": ["background", "foreground"]}],
    }  # fmt: skip
    (tmp_path / "p" / "a" / "run.json").write_text(json.dumps(record))
    truth, found = (mask.repeat(2, axis=0).repeat(2, axis=1) for mask in (TRUE["a"], FOUND["a"]))
    save_png(tmp_path / "t" / "a.png", truth)
    report = measured(tmp_path / "p", tmp_path / "t", tmp_path / "out")
    expected = surface_metrics(tally_surfaces(found > 0, truth > 0), tolerance_px=2, mpp=MPP)
    assert report.rows[1].metrics["hd95_um"] == pytest.approx(expected["hd95_um"], abs=1e-6)


# Probabilities


@pytest.fixture(scope="module")
def predicted(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `predict --probability` leaves of a slide, and its truth; not to be changed."""
    root = tmp_path_factory.mktemp("predicted")
    image, truth = draw_field(31, 150, 210)
    slide = write_slide(root / "slides" / "a.tif", image)
    save_png(root / "truth" / "a.png", truth)
    config = build_config(PredictConfig, assignments=[*COMPUTE, "probability=true"])
    predict([slide], models=[tiny_run], out=root / "found", config=config)
    return root


def copied(predicted: Path, to: Path) -> Path:
    """Copy what was predicted, that it may be changed."""
    (to / "a").mkdir(parents=True)
    for path in (predicted / "found" / "a").iterdir():
        if path.suffix in {".tif", ".json"}:
            (to / "a" / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("large", [False, True])
def test_probabilities_beside_the_masks_are_calibrated(
    predicted: Path, tiny_run: Path, tmp_path: Path, request: pytest.FixtureRequest, large: bool
) -> None:
    if large:
        request.getfixturevalue("all_large")
    report = measured(predicted / "found", predicted / "truth", tmp_path / "out")
    image, truth = draw_field(31, 150, 210)
    predictor = build_predictor([load_model(tiny_run)], build_config(PredictConfig, assignments=COMPUTE))
    expected = count_of_class(predict_layers(image, predictor)[1], truth, 1)
    (found,) = report.calibrations
    assert found.pooled["ece"].value == pytest.approx(expected_calibration_error(expected), abs=1e-6)
    assert [one.pixels for one in found.curve] == expected.pixels.tolist()
    assert report.rows[1].metrics["ece"] == found.pooled["ece"].value
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Reliability: foreground" in page
    # The masks are of `predict`, whose threshold is known, and no best one is told of images that are no validation.
    (sweep,) = report.sweeps
    np.testing.assert_array_equal([sweep.curve.false_positives[-1], sweep.curve.num_true], expected.levels.sum(axis=1))
    assert (sweep.used, sweep.best) == (0.5, None)
    assert sweep.curve.at(0.5) == sweep.of_masks
    assert sweep.of_masks["dice"] == report.headline.value
    assert all(words in page for words in ("Precision and recall", "Over the threshold: foreground", "used: 0.5"))
    assert "best threshold" not in page
    assert len((tmp_path / "out" / "curves.csv").read_text().splitlines()) == 257


@pytest.mark.parametrize("large", [False, True])
def test_of_more_than_two_classes_it_is_the_probability_of_not_being_background(
    predicted: Path, tmp_path: Path, request: pytest.FixtureRequest, large: bool
) -> None:
    if large:
        request.getfixturevalue("all_large")
    _, truth = draw_field(31, 150, 210)
    parted = np.where(np.arange(210) < 100, 2 * truth, truth).astype(np.uint8)
    save_png(tmp_path / "truth" / "a.png", parted)
    found = copied(predicted, tmp_path / "found")
    record = json.loads((found / "a" / "run.json").read_text())
    record["models"][0]["classes"] = ["background", "class_1", "class_2"]
    (found / "a" / "run.json").write_text(json.dumps(record))
    report = measured(found, tmp_path / "truth", tmp_path / "out")
    with open_slide(found / "a" / "probability.tif") as probability:
        levels = probability.read(placement.Box(0, 0, 150, 210))[..., 0]
    expected = expected_calibration_error(count_of_class(levels, truth, 1))
    assert [one.name for one in report.calibrations] == [one.name for one in report.sweeps] == ["not background"]
    assert report.sweeps[0].used is None
    assert report.calibrations[0].pooled["ece"].value == pytest.approx(expected, abs=1e-6)
    assert "ece" not in report.rows[1].metrics
    with (tmp_path / "out" / "metrics.csv").open() as handle:
        assert {row["ece_not_background"] for row in csv.DictReader(handle)} == {f"{round(expected, 6)}"}


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: tifffile.imwrite(path, np.zeros((150, 210), np.float16)), "holds float16 numbers"),
        (lambda path: tifffile.imwrite(path, np.zeros((150, 210), np.uint16)), "holds uint16 numbers"),
        (lambda path: tifffile.imwrite(path, np.zeros((15, 21), np.uint8)), "is 21 x 15 pixels"),
        (lambda path: path.write_bytes(b"II*\0"), "is damaged"),
        (lambda path: path.unlink(), None),
    ],
)
def test_probabilities_that_cannot_be_read_are_left_out_and_it_is_said(
    predicted: Path, tmp_path: Path, write: Any, words: str | None
) -> None:
    found = copied(predicted, tmp_path / "found")
    write(found / "a" / "probability.tif")
    notes: list[str] = []
    report = measured(found, predicted / "truth", tmp_path / "out", on_note=notes.append)
    assert report.calibrations == ()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["calibration"] == []
    assert "Reliability" not in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out" / "curves.csv").exists()
    if words is None:
        assert notes == []
    else:
        (note,) = notes
        assert note.startswith(f"no calibration of a: {found / 'a' / 'probability.tif'}")
        assert words in note


# Groups


def test_there_are_rows_for_groups_and_for_the_columns_of_splits(tmp_path: Path) -> None:
    truth = {f"i{number}": square(5, 5 + number) for number in range(4)}
    data = data_folder(tmp_path / "data", truth)
    lines = [f"i{number},val,s{number // 2},{'xy'[number % 2]},{number}" for number in range(4)]
    (data / "splits.csv").write_text("\n".join(["image,split,group,scanner,number", *lines, ""]))
    report = measured(found_masks(tmp_path / "p", {name: square(6, 8) for name in truth}), data, tmp_path / "out")
    assert [(one.by, one.name, one.num_images) for one in report.groups] == [
        ("group", "s0", 2), ("group", "s1", 2), ("scanner", "x", 2), ("scanner", "y", 2),
    ]  # fmt: skip
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [one["name"] for one in content["groups"]] == ["s0", "s1", "x", "y"]
    assert content["groups"][0]["foreground"]["mean"]["hd95_um"]["value"] > 0
    with (tmp_path / "out" / "metrics.csv").open() as handle:
        assert [row["scanner"] for row in csv.DictReader(handle)][::2] == ["x", "y", "x", "y"]
    assert "## By scanner" in (tmp_path / "out" / "summary.md").read_text()
    assert "By scanner, pooled over its images" in (tmp_path / "out" / "report.html").read_text()


# Pictures


def cases_of(out: Path) -> str:
    """Return what the page says about the pictures."""
    page = (out / "report.html").read_text()
    assert page.count("data:image/webp;base64,") >= 1
    return page[page.index(">Cases<") :]


def test_masks_with_and_without_images_have_pictures(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", {"a": TRUE["a"], "b": TRUE["b"]})
    found = found_masks(tmp_path / "p", {"a": FOUND["a"], "b": FOUND["b"]})
    measured(found, data, tmp_path / "with")
    measured(found, data / "masks", tmp_path / "without")
    # An image of another size than its mask is not the image of the mask.
    save_png(data / "images" / "a.png", np.zeros((20, 30, 3), np.uint8))
    measured(found, data, tmp_path / "other")
    notes = {folder: cases_of(tmp_path / folder).count("no image") for folder in ("with", "without", "other")}
    assert notes["with"] == 0
    assert notes["without"] == 2 * notes["other"] > 0


def test_of_a_large_image_the_worst_place_is_read_and_drawn_and_distances_are_left_out(
    tmp_path: Path, all_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, truth = draw_field(7, 200, 260)
    found = truth.copy()
    found[150:190, 200:240] ^= 1  # in the block at (144, 192)
    write_slide(tmp_path / "data" / "images" / "a.tif", image)
    for folder, mask in (("data/masks", truth), ("p", found)):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / folder / "a.tif", mask, tile=(32, 32), compression="deflate")
    read: list[Any] = []
    whole = Slide.read

    def noted(self: Slide, box: Any, level: int = 0) -> NDArray[np.uint8]:
        read.append(box)
        return whole(self, box, level)

    monkeypatch.setattr(Slide, "read", noted)
    notes: list[str] = []
    report = measured(tmp_path / "p", tmp_path / "data", tmp_path / "out", on_note=notes.append)
    assert report.rows[1].fp_px + report.rows[1].fn_px == 1600
    assert report.surfaces is None
    assert "hd95_um" not in report.rows[1].metrics
    (note,) = notes
    assert "a: more than 0.0001 million pixels, so distances between boundaries and membranes are not" in note
    assert set(read) == {placement.Box(144, 192, 48, 48)}
    assert "at x 192, y 144 of 260 x 200 px, where most errors are" in cases_of(tmp_path / "out")


def test_large_and_small_images_together_leave_the_large_ones_out_of_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (evaluate_masks, measured_masks):
        monkeypatch.setattr(module, "LARGEST_WHOLE_PX", 40 * 60)
    large = square(5, 5, shape=(80, 90))
    data = data_folder(tmp_path / "data", {"a": TRUE["a"], "large": large})
    notes: list[str] = []
    report = measured(
        found_masks(tmp_path / "p", {"a": FOUND["a"], "large": large}), data, tmp_path / "out", on_note=notes.append
    )
    assert report.surfaces is not None
    assert report.surfaces.num_images == 1
    assert report.foreground.mean["nsd"].value == report.images[0].foreground["nsd"]
    assert report.images[1].foreground["hd95_um"] is None
    assert report.images[1].dice == 1
    assert len(notes) == 1
    assert "means of 1 of 2 images" in (tmp_path / "out" / "report.html").read_text()
