"""A scan is exact, complete and consistent in itself, whatever the tiles, the method and the level that is read."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segkit.errors import ModelError
from segkit.inference.image_detection import detect_in_image, score_image
from segkit.inference.window import WindowPredictor
from segkit.models import dense as dense_module
from segkit.models.lowering import NotConvertibleError
from segkit.models.model_file import load_model
from segkit.points import FULL_SCORE, Detections
from segkit.slides import open_slide
from segkit.slides.geojson import read_geojson
from segkit.workflows import point_outputs as point_outputs_module
from segkit.workflows.sliding_window import WindowResult, build_window_predictor, sliding_window
from tests.conftest import ROOT
from tests.patch_model import CLASSES, PATCH_PX, Disks, draw_red_and_blue, make_model
from tests.tiny import MPP, save_png, write_slide
from tests.workflows.predictions import files_in, read_pixels, record_of
from tests.workflows.scans import (
    DISKS,
    LEAVES,
    assert_found,
    assert_same_detections,
    config,
    found_in,
    nearest_of,
    one,
    rows_of,
    run,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "tissue.tif", DISKS.image)


@pytest.fixture(scope="module")
def scanned(slide: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> WindowResult:
    """A scan in small tiles, verified; not to be changed."""
    return one(run([slide], model, tmp_path_factory.mktemp("scanned"), "tile=64", "verify=40"))


# What it leaves


def test_the_folder_holds_what_the_result_and_the_readme_say(scanned: WindowResult) -> None:
    assert (scanned.status, scanned.cause, scanned.exit_code) == ("done", None, 0)
    assert scanned.folder.name == "tissue"
    assert files_in(scanned.folder) == LEAVES
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| sliding-window \| `detections/NAME/` \(or `--out`\): (.*)$", readme, flags=re.MULTILINE)
    # One for cells that are skipped, one for several inputs.
    assert set(re.findall(r"`([^`]+)`", row)) == LEAVES | {"tissue.png", "detections/summary.csv"}


def test_every_disk_is_found_once_and_nothing_else(scanned: WindowResult) -> None:
    assert_found(found_in(scanned.folder), DISKS.points)
    counts = {name: len(DISKS.points.of_class(index)) for index, name in enumerate(CLASSES) if index}
    assert scanned.num_detections == counts == {"red": 10, "blue": 8}


def test_the_map_is_that_of_the_whole_image_at_the_scale_of_the_stride(scanned: WindowResult, model: Path) -> None:
    predictor, _ = build_window_predictor([load_model(model)], config())
    scores = score_image(DISKS.image, predictor).astype(np.int64)
    pixels = read_pixels(scanned.folder / "probability.tif")
    assert pixels.shape == (math.ceil(151 / 2), math.ceil(210 / 2))
    assert np.abs(pixels / 255 - scores.sum(axis=2) / 65535).max() <= 0.5 / 255 + 1e-4
    with open_slide(scanned.folder / "probability.tif") as written:
        assert written.mpp == pytest.approx(2 * MPP)
    # The map's pixel i is about the slide's pixel 2 i.
    for y, x in DISKS.points.of_class(2).tolist():
        assert pixels[int(y) // 2, int(x) // 2] > 200


def test_table_and_points_are_the_same(scanned: WindowResult) -> None:
    rows, features = rows_of(scanned.folder), read_geojson(scanned.folder / "detections.geojson")
    assert len(rows) == len(features) == sum(scanned.num_detections.values())
    assert [(float(row["x_px"]), float(row["y_px"]), row["label"]) for row in rows] == [
        (*feature.points[0].tolist(), feature.label) for feature in features
    ]
    content = json.loads((scanned.folder / "detections.geojson").read_text())
    scores = [feature["properties"]["measurements"]["Score"] for feature in content["features"]]
    assert scores == [float(row["score"]) for row in rows] == sorted(scores, reverse=True)
    for row in rows:
        assert float(row["x_um"]) == pytest.approx(float(row["x_px"]) * MPP, abs=1e-3)
        assert float(row["y_um"]) == pytest.approx(float(row["y_px"]) * MPP, abs=1e-3)


def test_they_are_what_evaluation_sees_cut_at_the_thresholds(scanned: WindowResult, model: Path) -> None:
    predictor, detection = build_window_predictor([load_model(model)], config())
    found = detect_in_image(DISKS.image, predictor, detection, mpp=MPP)
    kept = found.scores >= np.array([2, *detection.thresholds])[found.classes]
    assert kept.sum() < len(kept)
    written = found_in(scanned.folder)
    assert np.array_equal(written.positions, found.positions[kept])
    assert np.allclose(written.scores, found.scores[kept], atol=1e-6)


def test_the_record_is_complete(scanned: WindowResult, slide: Path, model: Path) -> None:
    record = record_of(scanned.folder)
    assert (record["command"], record["complete"], record["input"]) == ("sliding-window", True, str(slide.resolve()))
    (used,) = record["models"]
    assert (used["file"], used["sha256"]) == (str(model), load_model(model).sha256)
    assert used["classes"] == list(CLASSES)
    assert (record["method"], record["precision"], record["device"]) == ("atrous", "float32", "cpu")
    assert (record["plan"]["stride"], record["plan"]["tile_px"], record["plan"]["level"]) == (2, 64, 0)
    assert record["plan"]["num_tiles"] == 3 * 4
    assert record["plan"]["mpp"] == record["slide"]["mpp"] == pytest.approx(MPP)
    expected = {"match_radius": "3um", "smooth_radius": "1um", "nms_radius": "4um", "stride": 2}
    assert record["detection"] == expected | {"thresholds": [0.9, 0.9]}
    assert record["timings_s"].keys() == {"total", "waiting_for_pixels", "network", "waiting_for_writer", "joining"}
    assert 0 < record["timings_s"]["network"] <= record["timings_s"]["total"]
    assert record["num_detections"] == scanned.num_detections
    assert record["largest_difference"] == scanned.largest_difference
    assert record["peak_memory_bytes"] > 0
    assert record["finished"].startswith("20")
    assert {"segkit", "torch"} <= record["versions"].keys()


def test_progress_counts_tiles_and_notes_say_the_plan(slide: Path, model: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    notes: list[str] = []

    def on_progress(stage: str, done: int, total: int, _: Mapping[str, Any]) -> None:
        told.append((stage, done, total))

    sliding_window(
        [slide], models=[model], out=tmp_path, config=config("tile=64"), on_progress=on_progress, on_note=notes.append
    )
    assert told[:12] == [("tissue.tif", number, 12) for number in range(1, 13)]
    # Of one row of blocks: its map is joined in two steps, and then its detections.
    assert told[12:] == [("tissue.tif: joining", number, 3) for number in range(1, 4)]
    (note,) = notes
    for words in ("210 x 151 px", "every 2 px, 12 tiles of 64 + 2 x 5 px", "atrous", "float32 on cpu"):
        assert words in note


# The same, however it is computed


@pytest.mark.parametrize(
    "assignments",
    [("tile=38",), ("tile=100", "method=fragments"), ("method=naive",), ("method=dense", "tile=1000")],
    ids=" ".join,
)
def test_detections_do_not_depend_on_tiles_and_method(
    slide: Path, model: Path, scanned: WindowResult, tmp_path: Path, assignments: tuple[str, ...]
) -> None:
    result = run([slide], model, tmp_path / "out", *assignments)
    assert_same_detections(found_in(one(result).folder), found_in(scanned.folder))
    assert result.method == next((one[7:] for one in assignments if one[7:] in {"fragments", "naive"}), "atrous")


def test_tiles_of_a_single_window(model: Path, tmp_path: Path) -> None:
    part = write_slide(tmp_path / "part.tif", DISKS.image[100:130, 180:210])
    whole, tiled = (found_in(one(run([part], model, tmp_path / tile, f"tile={tile}")).folder) for tile in ("64", "2"))
    assert len(whole.scores) == 1
    assert_same_detections(tiled, whole)


def test_a_tiled_scan_is_byte_for_byte_that_of_one_tile(
    slide: Path, model: Path, scanned: WindowResult, tmp_path: Path
) -> None:
    whole = one(run([slide], model, tmp_path, "tile=1000", "verify=40")).folder
    for name in LEAVES - {"run.json"}:
        assert (whole / name).read_bytes() == (scanned.folder / name).read_bytes(), name


@pytest.mark.parametrize("stride", [1, 3, 4])
def test_any_stride_finds_the_disks_though_it_does_not_divide_the_size(
    slide: Path, model: Path, tmp_path: Path, stride: int
) -> None:
    assignments = (f"stride={stride}", f"tile={24 * stride}", "verify=40", "threshold=0.8")
    result = one(run([slide], model, tmp_path, *assignments))
    assert result.largest_difference == 0
    with open_slide(result.folder / "probability.tif") as written:
        assert (written.height, written.width) == (math.ceil(151 / stride), math.ceil(210 / stride))
        assert written.mpp == pytest.approx(stride * MPP)
    found, bright = found_in(result.folder), DISKS.points.of_class(2)
    distances, _ = nearest_of(bright, found.positions[found.classes == 2])
    assert distances.max() <= 1.5 * stride + 1


def test_averaging_over_flips_and_turns_changes_nothing_for_what_is_symmetric(
    slide: Path, model: Path, scanned: WindowResult, tmp_path: Path
) -> None:
    result = one(run([slide], model, tmp_path, "dihedral=true", "verify=30", "tile=64"))
    assert result.largest_difference == 0
    assert_same_detections(found_in(result.folder), found_in(scanned.folder))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_averaging_over_flips_and_turns_sets_right_what_is_lopsided(slide: Path, tmp_path: Path, stride: int) -> None:
    lopsided = make_model(tmp_path / "lopsided.safetensors", lopsided=True)
    offsets = []
    for dihedral, threshold in (("false", 0.9), ("true", 0.5)):
        assignments = (f"dihedral={dihedral}", f"threshold={threshold}", f"stride={stride}", "verify=30")
        result = one(run([slide], lopsided, tmp_path / dihedral, *assignments))
        assert result.largest_difference == 0
        found, blue = found_in(result.folder), DISKS.points.of_class(2)
        detected = found.positions[found.classes == 2]
        _, nearest = nearest_of(blue, detected)
        offsets.append((detected[nearest] - blue).mean(axis=0))
    (_, before), after = offsets
    assert before > 2
    assert np.abs(after).max() < 1.2


def test_several_models_are_averaged(slide: Path, model: Path, tmp_path: Path) -> None:
    """A second model, with a larger patch, that sees only what is blue: red scores are halved."""
    blind = make_model(tmp_path / "blind.safetensors", at=2.0, patch_px=14, thresholds=(0.1, 0.1), nms_radius="20um")
    result = run([slide], [model, blind], tmp_path / "out", "verify=30")
    assert result.models == [model, blind]
    scan = one(result)
    assert scan.largest_difference == 0
    record = record_of(scan.folder)
    assert [used["file"] for used in record["models"]] == [str(model), str(blind)]
    # Thresholds are averaged; radii and stride are those of the first.
    assert record["detection"]["thresholds"] == pytest.approx([0.5, 0.5])
    assert record["detection"]["nms_radius"] == "4um"
    halves = found_in(one(run([slide], [model, blind], tmp_path / "half", "threshold=0.45")).folder)
    assert_found(halves, DISKS.points)
    assert 0.45 < halves.scores.min() <= halves.scores.max() <= 0.5
    alone = read_pixels(one(run([slide], model, tmp_path / "alone")).folder / "probability.tif").astype(int)
    together = read_pixels(scan.folder / "probability.tif").astype(int)
    assert np.abs(2 * together - alone).max() <= 2


def test_the_models_may_come_in_any_order(slide: Path, model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other.safetensors", at=0.4, patch_px=15)
    one_way, other_way = (
        found_in(one(run([slide], models, tmp_path / str(number), "verify=10")).folder)
        for number, models in enumerate([[model, other], [other, model]])
    )
    assert_same_detections(one_way, other_way)


# Settings


def test_the_configurations_threshold_and_radii_come_before_the_models(
    slide: Path, model: Path, scanned: WindowResult, tmp_path: Path
) -> None:
    before = found_in(scanned.folder)
    lower = one(run([slide], model, tmp_path / "lower", "threshold=0.5"))
    assert lower.num_detections["red"] > scanned.num_detections["red"]
    assert found_in(lower.folder).scores.min() >= 0.5
    best = float(before.scores[3])
    higher = found_in(one(run([slide], model, tmp_path / "higher", f"threshold={best + 1e-6}")).folder)
    assert_same_detections(higher, Detections(before.positions[:3], before.classes[:3], before.scores[:3]))
    wide = found_in(one(run([slide], model, tmp_path / "wide", "nms_radius=30um")).folder)
    assert 0 < len(wide.scores) < len(before.scores) / 3
    distances = np.linalg.norm(wide.positions[:, None] - wide.positions[None], axis=-1)
    assert (distances[~np.eye(len(distances), dtype=bool)] > 60).all()
    smooth = one(run([slide], model, tmp_path / "smooth", "smooth_radius=3um"))
    assert found_in(smooth.folder, CLASSES).scores.max(initial=0) < before.scores.max()
    assert record_of(smooth.folder)["detection"]["smooth_radius"] == "3um"


def test_each_class_has_its_own_threshold(slide: Path, tmp_path: Path) -> None:
    strict = make_model(tmp_path / "model.safetensors", thresholds=(0.5, 0.99999))
    result = one(run([slide], strict, tmp_path / "out"))
    assert result.num_detections["red"] > 10
    assert result.num_detections["blue"] == 0


@pytest.mark.parametrize("unit", ["px", "um"])
def test_lengths_in_pixels_and_in_micrometres_mean_the_same(
    slide: Path, model: Path, scanned: WindowResult, tmp_path: Path, unit: str
) -> None:
    nms, smooth = ("8px", "2px") if unit == "px" else ("4um", "1um")
    result = one(run([slide], model, tmp_path, f"nms_radius={nms}", f"smooth_radius={smooth}"))
    assert_same_detections(found_in(result.folder), found_in(scanned.folder))


# Levels and sizes


def magnified(disks: Disks, factor: int) -> Disks:
    image = disks.image.repeat(factor, axis=0).repeat(factor, axis=1)
    return Disks(image, disks.points._replace(positions=disks.points.positions * factor))


def test_positions_are_in_pixels_of_level_0_where_a_coarser_one_is_read(
    model: Path, scanned: WindowResult, tmp_path: Path
) -> None:
    fine = magnified(DISKS, 2)
    path = write_slide(tmp_path / "fine.tif", fine.image, mpp=MPP / 2)
    result = one(run([path], model, tmp_path / "out", "verify=20"))
    record = record_of(result.folder)
    assert (record["plan"]["level"], record["plan"]["downsample"]) == (1, 2.0)
    assert result.largest_difference == 0
    found, at_level_1 = found_in(result.folder), found_in(scanned.folder)
    assert_same_detections(found._replace(positions=found.positions / 2), at_level_1)
    assert_found(found, fine.points, within=4)
    # The same places on the glass, and a map of the same scale.
    for row, expected in zip(
        *(sorted(rows_of(f), key=lambda row: (row["x_um"], row["y_um"])) for f in (result.folder, scanned.folder)),
        strict=True,
    ):
        assert (float(row["x_um"]), float(row["y_um"])) == pytest.approx(
            (float(expected["x_um"]), float(expected["y_um"])), abs=1e-3
        )
    with open_slide(result.folder / "probability.tif") as written:
        assert written.mpp == pytest.approx(2 * MPP)


def test_a_given_scale_corrects_the_files(model: Path, tmp_path: Path) -> None:
    path = save_png(tmp_path / "photo.png", DISKS.image)
    failed = one(run([path], model, tmp_path / "out"))
    assert (failed.status, failed.exit_code) == ("failed", 3)
    assert failed.cause is not None
    assert "photo.png" in failed.cause
    assert "Give --mpp" in failed.cause
    assert not failed.folder.exists()
    done = one(run([path], model, tmp_path / "out", f"mpp={MPP}"))
    assert_found(found_in(done.folder), DISKS.points)
    assert rows_of(done.folder)[0]["x_um"] != ""


def test_without_any_scale_there_are_no_micrometres(tmp_path: Path) -> None:
    model = make_model(
        tmp_path / "m.safetensors", mpp=None, match_radius="6px", smooth_radius="2px", nms_radius="8px"
    )  # fmt: skip
    path = save_png(tmp_path / "photo.png", DISKS.image)
    folder = one(run([path], model, tmp_path / "out", "verify=10")).folder
    assert_found(found_in(folder), DISKS.points)
    assert {row["x_um"] + row["y_um"] for row in rows_of(folder)} == {""}
    with open_slide(folder / "probability.tif") as written:
        assert written.mpp is None


def test_a_radius_in_um_without_a_scale_is_one_clear_line(tmp_path: Path) -> None:
    model = make_model(
        tmp_path / "m.safetensors", mpp=None, match_radius="6px", smooth_radius="2px", nms_radius="8px"
    )  # fmt: skip
    path = save_png(tmp_path / "photo.png", DISKS.image)
    failed = one(run([path], model, tmp_path / "out", "nms_radius=4um"))
    assert (failed.status, failed.exit_code) == ("failed", 2)
    assert failed.cause is not None
    assert re.fullmatch(r"4um: .* needs the micrometres per pixel.*--mpp.*", failed.cause)
    assert not failed.folder.exists()
    assert one(run([path], model, tmp_path / "out", "nms_radius=4um", "mpp=0.5")).status == "done"


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 130), (97, 1), (3, 3), (PATCH_PX - 1, PATCH_PX), (PATCH_PX, 40), (7, 300)]
)
def test_images_smaller_than_the_patch(model: Path, tmp_path: Path, shape: tuple[int, int]) -> None:
    path = write_slide(tmp_path / "small.tif", draw_red_and_blue(0, *shape).image)
    result = one(run([path], model, tmp_path / "out", "verify=30", "threshold=0"))
    assert result.status == "done", result.cause
    assert result.largest_difference == 0
    assert read_pixels(result.folder / "probability.tif").shape == (math.ceil(shape[0] / 2), math.ceil(shape[1] / 2))
    positions = found_in(result.folder).positions
    assert (positions >= 0).all()
    assert (positions < shape).all()


def test_a_map_without_detections_is_a_result_too(slide: Path, tmp_path: Path) -> None:
    blind = make_model(tmp_path / "blind.safetensors", at=2.0)
    result = one(run([slide], blind, tmp_path / "out"))
    assert result.num_detections == {"red": 0, "blue": 0}
    assert files_in(result.folder) == LEAVES - {"windows.png"}
    assert rows_of(result.folder) == []
    assert read_geojson(result.folder / "detections.geojson") == []


@pytest.mark.parametrize("height", [1, 3])
def test_detections_are_drawn_where_they_are_on_a_strip(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int
) -> None:
    """A picture of a strip cannot shrink in height as it does in width."""
    drawn = []

    def keep(thumbnail: NDArray[np.uint8], detections: Any, *_: Any, **options: Any) -> None:
        drawn.append((thumbnail, detections, options))

    monkeypatch.setattr(point_outputs_module, "draw_detections_overview", keep)
    image = np.full((height, 4000, 3), 50, np.uint8)
    image[:, 3590:3610] = (220, 50, 50)
    result = one(run([write_slide(tmp_path / "strip.tif", image)], model, tmp_path / "out"))
    assert result.num_detections == {"red": 1, "blue": 0}
    ((thumbnail, detections, options),) = drawn
    assert thumbnail.shape == (1, 1500, 3)
    assert options["probability"].shape == (1, 1500)
    ((y, x),) = detections.positions.tolist()
    assert 0 <= y <= 1
    assert x == pytest.approx(1500 * 3600 / 4000, abs=1)
    assert tuple(thumbnail[0, int(x)]) == (220, 50, 50)
    assert options["probability"][0, int(x)] > 200
    assert options["um_per_px"] == pytest.approx(MPP * 4000 / 1500)


# Colours


def test_a_grey_model_sees_the_brightness_of_a_coloured_image(tmp_path: Path) -> None:
    model = make_model(tmp_path / "grey.safetensors", classes=("background", "bright"), channels=1, at=0.3)
    image = np.full((60, 90, 3), (50, 60, 50), np.uint8)
    image[25:35, 40:50] = (30, 240, 20)  # bright to the eye, though not in every channel
    expected = found_in(
        one(run([write_slide(tmp_path / "colour.tif", image)], model, tmp_path / "out", "verify=10")).folder,
        ("background", "bright"),
    )
    assert expected.positions.tolist() == [[pytest.approx(30, abs=1), pytest.approx(45, abs=1)]]
    luminance = (image @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)[..., None]
    grey = write_slide(tmp_path / "grey.tif", luminance)
    assert_same_detections(
        found_in(one(run([grey], model, tmp_path / "out")).folder, ("background", "bright")), expected
    )


def test_a_colour_model_takes_a_grey_image(model: Path, tmp_path: Path) -> None:
    grey = write_slide(tmp_path / "grey.tif", DISKS.image[..., :1])
    result = one(run([grey], model, tmp_path / "out", "verify=10"))
    assert (result.status, result.largest_difference) == ("done", 0)


# Verification


def test_verification_finds_no_difference(slide: Path, model: Path, scanned: WindowResult, tmp_path: Path) -> None:
    assert scanned.largest_difference == 0
    for precision in ("float32", "bfloat16"):
        notes: list[str] = []
        settings = config("verify=100", f"compute.precision={precision}")
        (result,) = sliding_window(
            [slide], models=[model], out=tmp_path / precision, config=settings, on_note=notes.append
        ).slides  # fmt: skip
        assert record_of(result.folder)["precision"] == precision
        assert "more than rounding" not in notes[-1]


SPOILED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "moved": lambda logits: logits.roll(2, -1),
    "wrong everywhere, also for a single window": torch.negative,
}


@pytest.mark.parametrize("how", SPOILED)
def test_verification_finds_a_spoiled_map(
    slide: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    honest = dense_module.DenseNetwork.forward
    monkeypatch.setattr(dense_module.DenseNetwork, "forward", lambda self, images: SPOILED[how](honest(self, images)))
    notes: list[str] = []
    result = sliding_window([slide], models=[model], out=tmp_path, config=config("verify=300"), on_note=notes.append)
    assert result.slides[0].largest_difference is not None
    assert result.slides[0].largest_difference > 0.5
    assert f"{result.slides[0].largest_difference:.2g}" in notes[-2]
    assert "verified at 300 random positions" in notes[-2]
    assert "more than rounding explains" in notes[-1]
    assert record_of(tmp_path / "tissue")["largest_difference"] == result.slides[0].largest_difference


def test_verification_covers_what_is_written_and_not_what_is_computed_again(
    slide: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that computes what is right, of which the last small tile arrives spoiled."""
    honest = WindowPredictor.submit
    spoiled: list[int] = []

    def submit(self: WindowPredictor, images: NDArray[np.uint8], crops: Sequence[tuple[slice, slice]]) -> Any:
        result = honest(self, images, crops)
        sides = [side.stop - side.start for side in crops[0]]
        if self.method == "naive" or sides != [76 - 2 * 26, 105 - 3 * 27]:
            return result
        spoiled.append(1)
        return lambda: [one._replace(scores=FULL_SCORE - one.scores) for one in result()]

    monkeypatch.setattr(WindowPredictor, "submit", submit)
    result = one(run([slide], model, tmp_path, "verify=600", "tile=64"))
    assert len(spoiled) == 1
    assert result.largest_difference is not None
    assert result.largest_difference > 0.5


def test_without_verification_nothing_is_said_about_it(slide: Path, model: Path, tmp_path: Path) -> None:
    assert one(run([slide], model, tmp_path)).largest_difference is None


# Networks that cannot be converted


@pytest.fixture
def not_convertible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every network have a layer that is not the same at every position."""

    def refuse(*_: Any) -> None:
        raise NotConvertibleError("layers.0 (Conv2d): has padding inside the patch, so it cannot be run densely.")

    monkeypatch.setattr(dense_module, "lower", refuse)


@pytest.mark.usefixtures("not_convertible")
def test_what_cannot_be_converted_falls_back_to_single_windows_and_says_why(
    slide: Path, model: Path, scanned: WindowResult, tmp_path: Path
) -> None:
    notes: list[str] = []
    result = sliding_window([slide], models=[model], out=tmp_path, config=config(), on_note=notes.append)
    assert result.method == "naive"
    assert "layers.0 (Conv2d): has padding" in notes[0]
    assert "far slower" in notes[0]
    assert record_of(tmp_path / "tissue")["method"] == "naive"
    assert_same_detections(found_in(tmp_path / "tissue"), found_in(scanned.folder))


@pytest.mark.usefixtures("not_convertible")
@pytest.mark.parametrize("method", ["dense", "fragments", "atrous"])
def test_a_dense_method_that_was_asked_for_is_refused_with_the_layer(
    slide: Path, model: Path, tmp_path: Path, method: str
) -> None:
    with pytest.raises(ModelError, match=r"layers\.0 \(Conv2d\)") as caught:
        run([slide], model, tmp_path / "out", f"method={method}")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out" / "tissue").exists()


@pytest.mark.usefixtures("not_convertible")
def test_single_windows_that_were_asked_for_need_no_note(slide: Path, model: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    sliding_window([slide], models=[model], out=tmp_path, config=config("method=naive"), on_note=notes.append)
    assert len(notes) == 1  # the plan
