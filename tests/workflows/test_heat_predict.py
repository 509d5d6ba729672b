"""`predict` with a U-Net for points leaves what a sliding window leaves, and the same whatever the tiles."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.config import DataConfig, EvaluateConfig, PredictConfig, build_config
from segkit.errors import ModelError, UsageError
from segkit.inference.detection_outputs import foreground_of
from segkit.inference.image_detection import detect_in_image, score_image
from segkit.models.model_file import load_model
from segkit.slides import open_slide
from segkit.workflows.callbacks import quiet_note, quiet_progress
from segkit.workflows.engine import Order
from segkit.workflows.evaluate_given import measure_given
from segkit.workflows.evaluate_points import Found, predicted_points
from segkit.workflows.heat_predict import build_heat_engine, build_heat_predictor, finds_points
from segkit.workflows.sharing import Solo
from segkit.workflows.slide_runs import run_slides
from segkit.workflows.sliding_window import WindowResult, sliding_window
from tests.heat_model import make_heat_model
from tests.patch_model import CLASSES, draw_red_and_blue, make_model, make_points_data
from tests.tiny import MPP, write_slide
from tests.workflows.predictions import files_in, read_pixels, record_of
from tests.workflows.scans import DISKS, LEAVES, assert_found, found_in, rows_of

FIELDS = draw_red_and_blue(3, 1040, 1060)
"""Four parts, of which the last are as small as a disk and a half."""


def config(*assignments: str) -> PredictConfig:
    return build_config(PredictConfig, assignments=["compute.device=cpu", "compute.precision=float32", *assignments])


def run(slide: Path, models: list[Path], out: Path, *assignments: str, **order: Any) -> WindowResult:
    engine = build_heat_engine([load_model(path) for path in models], config(*assignments), WindowResult)
    (result,) = run_slides(
        [slide], engine, Order(out=out, share=Solo(), **order), on_progress=quiet_progress, on_note=quiet_note
    )
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_heat_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "tissue.tif", DISKS.image)


@pytest.fixture(scope="module")
def scanned(slide: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> WindowResult:
    return run(slide, [model], tmp_path_factory.mktemp("scanned"), "tile=64", "verify_seams=8")


def test_it_leaves_what_a_sliding_window_leaves(scanned: WindowResult) -> None:
    assert (scanned.status, scanned.cause) == ("done", None)
    assert files_in(scanned.folder) == LEAVES
    assert_found(found_in(scanned.folder), DISKS.points)
    assert scanned.num_detections == {"red": 10, "blue": 8}
    record = record_of(scanned.folder)
    assert (record["command"], record["plan"]["stride"]) == ("predict", 1)
    assert record["largest_seam_difference"] == 0
    assert record["detection"]["nms_radius"] == "4um"
    assert "curves" not in record["detection"]
    for row in rows_of(scanned.folder):
        assert float(row["x_um"]) == pytest.approx(float(row["x_px"]) * MPP, abs=1e-3)


def test_map_and_detections_are_those_of_the_image_in_memory(scanned: WindowResult, model: Path) -> None:
    predictor, detection = build_heat_predictor([load_model(model)], config().compute, dihedral=False)
    pixels = read_pixels(scanned.folder / "probability.tif")
    assert np.array_equal(pixels, foreground_of(score_image(DISKS.image, predictor)))
    with open_slide(scanned.folder / "probability.tif") as written:
        assert written.mpp == pytest.approx(MPP)
    found = detect_in_image(DISKS.image, predictor, detection, mpp=MPP)
    kept = found.scores >= 0.9
    assert kept.sum() < len(kept)
    assert np.array_equal(found_in(scanned.folder).positions, np.round(found.positions[kept], 2))


def test_large_slides_have_the_same_bytes_for_any_tile_and_batch(model: Path, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "large.tif", FIELDS.image)
    runs = [
        run(path, [model], tmp_path / str(number), f"tile={tile}", f"batch={batch}").folder
        for number, (tile, batch) in enumerate([(1024, 1), (332, 1)])
    ]
    assert record_of(runs[0])["parts"]["all"] == 4
    assert_found(found_in(runs[0]), FIELDS.points)
    predictor, detection = build_heat_predictor([load_model(model)], config().compute, dihedral=False)
    found = detect_in_image(FIELDS.image, predictor, detection, mpp=MPP, lowest=0.9)
    assert np.array_equal(found_in(runs[0]).positions, np.round(found.positions, 2))
    for other in runs[1:]:
        for name in LEAVES - {"run.json"}:
            assert (runs[0] / name).read_bytes() == (other / name).read_bytes(), name


def test_the_margin_of_parts_lies_on_the_networks_grid(slide: Path, model: Path) -> None:
    planner = build_heat_engine([load_model(model)], config("tile=64"), WindowResult).planner
    with open_slide(slide) as opened:
        layout = planner.plan(opened, planner.tissue(opened)).layout
    assert layout.margin % layout.alignment == 0
    assert layout.margin >= 2 + 1  # 1 um of smoothing and a rim


def test_a_finished_slide_is_skipped_and_other_settings_are_not(slide: Path, model: Path, tmp_path: Path) -> None:
    assert run(slide, [model], tmp_path).status == "done"
    again = run(slide, [model], tmp_path)
    assert (again.status, again.num_detections) == ("skipped", {"red": 10, "blue": 8})
    assert run(slide, [model], tmp_path, dry_run=True).status == "skipped"
    other = run(slide, [model], tmp_path, "dihedral=true")
    assert other.status == "failed"
    assert other.cause is not None
    assert "--overwrite" in other.cause


def test_several_models_are_averaged(slide: Path, model: Path, tmp_path: Path) -> None:
    blind = make_heat_model(tmp_path / "blind.safetensors", at=3.0, thresholds=(0.02, 0.02))
    result = run(slide, [model, blind], tmp_path / "out")
    assert record_of(result.folder)["detection"]["thresholds"] == pytest.approx([0.46, 0.46])
    scores = found_in(result.folder).scores
    assert len(scores) == 18
    assert 0.46 < scores.min() <= scores.max() <= 0.5


def test_models_and_settings_that_do_not_fit_are_refused(slide: Path, model: Path, tmp_path: Path) -> None:
    windows = make_model(tmp_path / "windows.safetensors")
    with pytest.raises(ModelError, match="sliding-window"):
        run(slide, [windows], tmp_path / "out")
    with pytest.raises(ModelError, match=r"segkit predict"):
        sliding_window([slide], models=[model], out=tmp_path / "out")
    for assignment in ("min_area=5", "probability_type=float16"):
        with pytest.raises(UsageError, match=assignment.split("=")[0]):
            run(slide, [model], tmp_path / "out", assignment)
    assert finds_points([load_model(model)])


def test_a_data_folder_is_evaluated_with_it(model: Path, tmp_path: Path) -> None:
    data = make_points_data(tmp_path / "data", num_images=3)
    settings = build_config(EvaluateConfig, assignments=["split=all", "compute.device=cpu"])
    found = predicted_points(
        settings, DataConfig(dir=data), load_model(model), tmp_path / "figures", quiet_progress, quiet_note
    )
    assert list(found.classes) == list(CLASSES)
    assert len(found.names) == 3
    for detections, truth in zip(found.detections, found.truths, strict=True):
        kept = detections.scores >= 0.9
        assert kept.sum() == (truth.classes > 0).sum()


def test_what_it_left_is_measured(scanned: WindowResult, tmp_path: Path) -> None:
    data = make_points_data(tmp_path / "data", num_images=1)
    folder = tmp_path / "found" / "field0"
    folder.mkdir(parents=True)
    # Of the slide's detections those that the field has room for, which is 106 pixels wide and 80 high.
    with (scanned.folder / "detections.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    inside = [row for row in rows if float(row["x_px"]) < 106 and float(row["y_px"]) < 80]
    assert 0 < len(inside) < len(rows) == 18
    with (folder / "detections.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(inside)
    settings = build_config(EvaluateConfig, assignments=["split=all", "match_radius=3um"])
    found = measure_given(settings, folder.parent, data, tmp_path / "figures", quiet_progress, quiet_note)
    assert isinstance(found, Found)
    assert len(found.detections[0].scores) == len(inside)
    assert json.loads((scanned.folder / "detections.geojson").read_text())["type"] == "FeatureCollection"
