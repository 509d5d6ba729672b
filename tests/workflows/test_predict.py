"""A prediction is exact, complete, consistent in itself, at the model's scale."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.errors import UsageError
from segkit.inference.image_segmentation import segment_image
from segkit.inference.pipeline import predict_image
from segkit.inference.sources import ArrayImage
from segkit.models.model_file import load_model
from segkit.slides import open_slide
from segkit.slides.geojson import rasterise, read_geojson
from segkit.workflows.predict import SlideResult, build_predictor, predict
from segkit.workflows.train import train
from tests.conftest import ROOT
from tests.tiny import MPP, draw_field, make_data, save_png, tiny_config, write_slide
from tests.workflows.predictions import (
    IMAGE,
    LEAVES,
    TRUTH,
    config,
    files_in,
    one,
    read_pixels,
    read_rows,
    record_of,
    run,
)


def test_the_folder_holds_what_the_result_and_the_readme_say(predicted: SlideResult) -> None:
    assert predicted.status == "done"
    assert predicted.folder.name == "tissue"
    assert files_in(predicted.folder) == LEAVES | {"probability.tif"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| predict \| `predictions/NAME/` \(or `--out`\): (.*)$", readme, flags=re.MULTILINE)
    # Some only on request: for cells that are skipped, for several inputs.
    more = {"probability.tif", "--probability", "tissue.png", "predictions/summary.csv"}
    assert set(re.findall(r"`([^`]+)`", row)) == LEAVES | more


def test_the_map_is_that_of_the_whole_image(predicted: SlideResult, tiny_run: Path) -> None:
    mask, foreground = predict_image(ArrayImage(IMAGE), build_predictor([load_model(tiny_run)], config()))
    assert np.array_equal(read_pixels(predicted.folder / "mask.tif"), mask)
    assert np.array_equal(read_pixels(predicted.folder / "probability.tif"), foreground)
    assert np.mean(mask == TRUTH) > 0.9


def test_the_map_is_a_pyramid_with_the_slides_scale(tiny_run: Path, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "wide.tif", draw_field(1, 40, 1500)[0])
    with open_slide(one(run([path], tiny_run, tmp_path / "out")).folder / "mask.tif") as mask:
        assert mask.mpp == pytest.approx(MPP)
        assert [(level.height, level.width) for level in mask.levels] == [(40, 1500), (20, 750), (10, 375)]


def test_polygons_filled_give_the_map_back(predicted: SlideResult) -> None:
    features = read_geojson(predicted.folder / "objects.geojson")
    assert {feature.label for feature in features} == {"foreground"}
    filled = rasterise(features, *IMAGE.shape[:2], lambda *_: 1)
    assert np.array_equal(filled, read_pixels(predicted.folder / "mask.tif"))


def test_the_table_agrees_with_the_polygons(predicted: SlideResult) -> None:
    rows, features = read_rows(predicted.folder), read_geojson(predicted.folder / "objects.geojson")
    mask, probability = (read_pixels(predicted.folder / name) for name in ("mask.tif", "probability.tif"))
    assert len(rows) == len(features) == predicted.num_objects == record_of(predicted.folder)["num_objects"] > 3
    assert [int(row["id"]) for row in rows] == list(range(1, len(rows) + 1))
    for row, feature in zip(rows, features, strict=True):
        inside = rasterise([feature], *mask.shape, lambda *_: 1) == 1
        ys, xs = np.nonzero(inside)
        assert float(row["area_px"]) == inside.sum()
        assert float(row["area_um2"]) == pytest.approx(inside.sum() * MPP**2, abs=1e-3)
        assert float(row["x_px"]) == pytest.approx(xs.mean() + 0.5, abs=0.01)
        assert float(row["y_px"]) == pytest.approx(ys.mean() + 0.5, abs=0.01)
        assert float(row["x_um"]) == pytest.approx((xs.mean() + 0.5) * MPP, abs=0.01)
        assert float(row["perimeter_um"]) == pytest.approx(float(row["perimeter_px"]) * MPP, abs=0.01)
        assert float(row["probability"]) == pytest.approx(probability[inside].mean() / 255, abs=1e-3)
        assert row["class"] == "foreground"
    assert sum(float(row["area_px"]) for row in rows) == (mask == 1).sum()


def test_shares_are_those_of_the_map(predicted: SlideResult) -> None:
    share = (read_pixels(predicted.folder / "mask.tif") == 1).mean()
    assert predicted.shares == {"background": pytest.approx(1 - share), "foreground": pytest.approx(share)}


def test_the_record_names_slide_model_and_settings(predicted: SlideResult, slide: Path, tiny_run: Path) -> None:
    record = record_of(predicted.folder)
    assert (record["command"], record["complete"], record["input"]) == ("predict", True, str(slide.resolve()))
    (used,) = record["models"]
    assert (used["sha256"], used["classes"]) == (load_model(tiny_run).sha256, ["background", "foreground"])
    assert record["slide"]["mpp"] == pytest.approx(MPP)
    assert record["plan"]["tile_px"] == 64
    assert record["plan"]["num_tiles"] == math.ceil(150 / 64) * math.ceil(210 / 64)
    assert record["key"]["settings"]["probability"] is True


def test_other_tiles_and_threads_change_nothing(
    predicted: SlideResult, slide: Path, tiny_run: Path, tmp_path: Path
) -> None:
    other = one(run([slide], tiny_run, tmp_path, "tile=128")).folder
    assert np.array_equal(read_pixels(other / "mask.tif"), read_pixels(predicted.folder / "mask.tif"))
    keys = ("class", "x_px", "y_px", "area_px", "probability")
    found, expected = ({tuple(row[key] for key in keys) for row in read_rows(f)} for f in (other, predicted.folder))
    assert found == expected


def test_several_models_are_averaged(slide: Path, tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    other = train(tiny_config(tiny_data, "epochs=1", "seed=9"), out=tmp_path / "other").run
    result = run([slide], [tiny_run, other], tmp_path / "out", "probability=true", "tile=64")
    models = [load_model(path) for path in (tiny_run, other)]
    assert result.models == [model.path for model in models]
    folder = one(result).folder
    assert [used["sha256"] for used in record_of(folder)["models"]] == [model.sha256 for model in models]
    _, together = predict_image(ArrayImage(IMAGE), build_predictor(models, config()))
    foreground = read_pixels(folder / "probability.tif")
    assert np.array_equal(foreground, together)
    alone = [predict_image(ArrayImage(IMAGE), build_predictor([one], config()))[1].astype(int) for one in models]
    assert np.abs(alone[0] - alone[1]).max() > 50
    assert np.abs(2 * foreground.astype(int) - alone[0] - alone[1]).max() <= 2


def test_models_that_do_not_fit_each_other_are_refused(slide: Path, tiny_run: Path, tmp_path: Path) -> None:
    grey = train(tiny_config(make_data(tmp_path / "grey", channels=1), "epochs=1"), out=tmp_path / "run").run
    with pytest.raises(UsageError, match="one is for grey, one for colour"):
        run([slide], [tiny_run, grey], tmp_path / "out")
    assert not (tmp_path / "out" / "tissue").exists()


def test_small_objects_can_be_left_out_and_stay_in_the_map(
    predicted: SlideResult, slide: Path, tiny_run: Path, tmp_path: Path
) -> None:
    areas = sorted(float(row["area_um2"]) for row in read_rows(predicted.folder))
    limit = areas[len(areas) // 2]
    folder = one(run([slide], tiny_run, tmp_path, f"min_area={limit}")).folder
    assert sorted(float(row["area_um2"]) for row in read_rows(folder)) == [area for area in areas if area >= limit]
    assert np.array_equal(read_pixels(folder / "mask.tif"), read_pixels(predicted.folder / "mask.tif"))


def test_progress_counts_tiles_and_notes_tell_the_plan(slide: Path, tiny_run: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    notes: list[str] = []

    def on_progress(stage: str, done: int, total: int, _: Mapping[str, Any]) -> None:
        told.append((stage, done, total))

    predict(
        [slide], models=[tiny_run], out=tmp_path, config=config("tile=64"), on_progress=on_progress,
        on_note=notes.append,
    )  # fmt: skip
    assert told[:12] == [("tissue.tif", number, 12) for number in range(1, 13)]
    # Of one row of blocks: its map is joined in two steps, and then its objects.
    assert told[12:] == [("tissue.tif: joining", number, 3) for number in range(1, 4)]
    (note,) = notes
    for words in ("tissue.tif: level 0, 210 x 150 px of 0.5 um/px, 12 tiles of 64 + 2 x ", "float32 on cpu"):
        assert words in note


"""Which level is read, and that everything that is written is in level-0 pixels."""


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of twice the model's resolution: its level 1 is at the model's scale."""
    image = IMAGE.repeat(2, axis=0).repeat(2, axis=1)
    return write_slide(tmp_path_factory.mktemp("slides") / "fine.tif", image, mpp=MPP / 2)


def test_the_level_of_the_models_scale_is_read(
    fine: Path, tiny_run: Path, predicted: SlideResult, tmp_path: Path
) -> None:
    result = one(run([fine], tiny_run, tmp_path))
    assert record_of(result.folder)["plan"]["level"] == 1
    mask = read_pixels(result.folder / "mask.tif")
    assert np.array_equal(mask, read_pixels(predicted.folder / "mask.tif"))
    with open_slide(result.folder / "mask.tif") as written:
        assert written.mpp == pytest.approx(MPP)


def test_objects_are_in_pixels_of_level_0(fine: Path, tiny_run: Path, predicted: SlideResult, tmp_path: Path) -> None:
    folder = one(run([fine], tiny_run, tmp_path)).folder
    rows, expected = ({row["id"]: row for row in read_rows(f)} for f in (folder, predicted.folder))
    at_level_1 = sorted((float(row["x_px"]), float(row["y_px"])) for row in expected.values())
    found = sorted((float(row["x_px"]) / 2, float(row["y_px"]) / 2) for row in rows.values())
    assert np.allclose(found, at_level_1, atol=0.011)
    for column in ("x_um", "area_um2", "perimeter_um"):
        assert np.allclose(
            sorted(float(row[column]) for row in rows.values()),
            sorted(float(row[column]) for row in expected.values()),
            atol=0.011,
        )
    assert sum(float(row["area_px"]) for row in rows.values()) == 4 * (read_pixels(folder / "mask.tif") == 1).sum()
    filled = rasterise(read_geojson(folder / "objects.geojson"), 300, 420, lambda *_: 1)
    mask = read_pixels(folder / "mask.tif").repeat(2, axis=0).repeat(2, axis=1)
    # Slanted pieces of the outlines pass between the finer pixels.
    assert np.mean(filled != mask) < 0.01


def test_a_slide_without_scale_says_so_and_takes_a_given_one(tiny_run: Path, tmp_path: Path) -> None:
    path = save_png(tmp_path / "photo.png", IMAGE)
    failed = one(run([path], tiny_run, tmp_path / "out"))
    assert (failed.status, failed.exit_code) == ("failed", 3)
    assert failed.cause is not None
    assert "photo.png" in failed.cause
    assert "Give --mpp" in failed.cause
    assert not failed.folder.exists()
    assert one(run([path], tiny_run, tmp_path / "out", f"mpp={MPP}")).status == "done"


@pytest.mark.parametrize(("mpp", "size"), [(0.3, (150, 210)), (0.8, (150, 210)), (0.25 / 4, (600, 840))])
def test_a_slide_of_another_scale_is_resampled_to_the_models(
    tiny_run: Path, tmp_path: Path, mpp: float, size: tuple[int, int]
) -> None:
    """Disks of the size that the model knows, in pixels of another size: it finds them, and says where they are."""
    factor = mpp / MPP
    rows, columns = (((np.arange(length) + 0.5) * factor).astype(int) for length in size)
    image, truth = draw_field(50, round(size[0] * factor) + 1, round(size[1] * factor) + 1)
    path = write_slide(tmp_path / "other.tif", image[rows[:, None], columns], mpp=mpp)
    folder = one(run([path], tiny_run, tmp_path / "out")).folder
    plan = record_of(folder)["plan"]
    assert plan["mpp"] == pytest.approx(MPP, rel=0.01)
    with open_slide(folder / "mask.tif") as written:
        assert written.mpp == pytest.approx(MPP, rel=0.01)
        assert (written.height, written.width) == pytest.approx([side * factor for side in size], abs=1)
    filled = rasterise(read_geojson(folder / "objects.geojson"), *size, lambda *_: 1)
    expected = truth[rows[:, None], columns]
    overlap = 2 * (filled & expected).sum() / (filled.sum() + expected.sum(dtype=int))
    assert overlap > 0.9


def test_a_slide_of_a_far_scale_is_refused_with_its_scales(tiny_run: Path, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "coarse.tif", IMAGE, mpp=2.5)
    failed = one(run([path], tiny_run, tmp_path / "out"))
    assert failed.cause is not None
    assert "its levels have 2.5, 5, 10 um/px, and the model was trained at 0.5" in failed.cause
    # --mpp corrects the file.
    assert one(run([path], tiny_run, tmp_path / "out", "mpp=0.5")).status == "done"


def test_without_any_scale_lengths_in_um_are_empty(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", description="")
    model = train(tiny_config(data, "epochs=1", "steps_per_epoch=20"), out=tmp_path / "run").model
    folder = one(run([save_png(tmp_path / "a.png", IMAGE)], model, tmp_path / "out")).folder
    with open_slide(folder / "mask.tif") as mask:
        assert mask.mpp is None
    for row in read_rows(folder):
        assert row["x_um"] == row["y_um"] == row["area_um2"] == row["perimeter_um"] == ""


def test_grey_slides_go_through_a_colour_model(tiny_run: Path, tmp_path: Path) -> None:
    grey = IMAGE[..., :1]
    result = one(run([write_slide(tmp_path / "grey.tif", grey)], tiny_run, tmp_path / "out"))
    expected = segment_image(grey.repeat(3, axis=2), build_predictor([load_model(tiny_run)], config()))
    assert np.array_equal(read_pixels(result.folder / "mask.tif"), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 130), (97, 1)])
def test_tiny_slides(tiny_run: Path, tmp_path: Path, shape: tuple[int, int]) -> None:
    path = write_slide(tmp_path / "small.tif", draw_field(0, *shape)[0])
    result = one(run([path], tiny_run, tmp_path / "out"))
    assert result.status == "done", result.cause
    assert read_pixels(result.folder / "mask.tif").shape == shape
