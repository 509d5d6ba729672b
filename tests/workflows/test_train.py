"""What a training leaves, and that it is what the documentation says."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkit.config import TrainConfig, build_config
from segkit.errors import DivergedError, InputError, UsageError
from segkit.models.model_file import load_model
from segkit.slides import open_slide
from segkit.training.checkpoint import load_newest
from segkit.workflows import runs
from segkit.workflows.callbacks import quiet_note, quiet_progress
from segkit.workflows.prepare import input_px, prepare
from segkit.workflows.reading import channel_statistics
from segkit.workflows.train import train
from tests.conftest import ROOT
from tests.tiny import LEARNED, SPLITS, draw_field, make_data, save_png, tiny_config

FIGURES = {"first_batch.png", "kernels.png", "validation.png", "curves.png", "receptive_field.png", "units.png"}


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def test_the_run_folder_holds_what_the_readme_lists(tiny_run: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| train \| `runs/NAME/` \(or `--out`\): (.*)$", readme, flags=re.MULTILINE)
    listed = {name.rstrip("/") for name in re.findall(r"`([^`]+)`", row)} - {"runs/latest"}
    assert listed == {path.name for path in tiny_run.iterdir()} - {".lock", "test_looks.csv"}  # of evaluations
    assert {path.name for path in (tiny_run / "figures").iterdir()} == FIGURES
    record, history = record_of(tiny_run), load_newest(tiny_run / "checkpoints")[1]["history"]
    last, best = len(history), record["best_epoch"]
    kept = {int(history[epoch - 1]["step"]) for epoch in (last - 1, last, best)}
    assert {path.name for path in (tiny_run / "checkpoints").iterdir()} == {f"step-{step:08d}.pt" for step in kept}


def test_figures_are_pictures(tiny_run: Path) -> None:
    for name in FIGURES:
        with open_slide(tiny_run / "figures" / name) as picture:
            assert picture.height > 100
            assert picture.width > 100


def test_the_task_is_learned_and_the_numbers_agree_everywhere(tiny_run: Path) -> None:
    record, model = record_of(tiny_run), load_model(tiny_run)
    history = load_newest(tiny_run / "checkpoints")[1]["history"]
    best = history[record["best_epoch"] - 1]
    assert best["val_dice"] == max(row["val_dice"] for row in history) > LEARNED
    assert record["scores"] == {"dice": best["val_dice"], "dice/foreground": best["val_dice/foreground"]}
    assert model.spec.scores == record["scores"]
    assert model.spec.training["best_epoch"] == record["best_epoch"]
    assert record["model"] == {"file": "model.safetensors", "sha256": model.sha256}
    assert (record["command"], record["complete"], record["epochs"]) == ("train", True, 4)
    with (tiny_run / "metrics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["val_dice"]) for row in rows] == [row["val_dice"] for row in history]
    assert model.spec.mpp == 0.5
    assert model.spec.classes == ["background", "foreground"]
    assert f"epoch {record['best_epoch']}/4" in (tiny_run / "log.txt").read_text()


def test_the_splits_that_were_used_are_written_down(tiny_run: Path) -> None:
    with (tiny_run / "splits.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["image"], row["split"]) for row in rows] == [(f"field{n}", split) for n, split in enumerate(SPLITS)]


DESCRIPTIONS = {
    "values 0 and 255": "mpp: 0.5\n",
    "named values": "classes: {0: stroma, 255: disk}\n",
    "values that do not count": "ignore: 255\nclasses: [a, b]\n",
}


@pytest.mark.parametrize("description", DESCRIPTIONS.values(), ids=DESCRIPTIONS.keys())
def test_the_resolved_configuration_trains_the_same_model_again(tmp_path: Path, description: str) -> None:
    data = make_data(tmp_path / "data", splits=None, description=description)
    if "ignore" in description:
        for number in range(4):
            mask = draw_field(number)[1]
            mask[:10] = 255
            save_png(data / "masks" / f"field{number}.png", mask)
        for number in range(4, 8):
            save_png(data / "masks" / f"field{number}.png", draw_field(number)[1])
    short = tiny_config(data, "epochs=1", "steps_per_epoch=auto", "model.form=paper", "patches.size_px=16")
    first = train(short, out=tmp_path / "first")
    again = train(build_config(TrainConfig, file=first.run / "config.yaml"), out=tmp_path / "again")
    assert load_model(again.model).sha256 == load_model(first.model).sha256
    for name in ("config.yaml", "splits.csv"):
        assert (again.run / name).read_bytes() == (first.run / name).read_bytes()
    other = train(build_config(TrainConfig, file=first.run / "config.yaml", flags={"seed": 1}), out=tmp_path / "other")
    assert load_model(other.model).sha256 != load_model(first.model).sha256


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_every_automatic_value_is_computed_and_told(tiny_data: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    config = tiny_config(tiny_data, "epochs=1", "patches.size_px=auto", "workers=auto")
    train(config, out=tmp_path / "run", on_note=notes.append)
    resolved = build_config(TrainConfig, file=tmp_path / "run" / "config.yaml")
    automatic = {note.removeprefix("automatic: ") for note in notes if note.startswith("automatic: ")}
    assert {"patches.size_px = 64", "augment.preset = histology", "data.mpp = 0.5"} <= automatic
    assert not [line for line in automatic if line.startswith(("model.base_channels", "compute.precision"))]
    # The data folder names classes, and dataset.yaml can say more than a list of names. Masks have no points.
    left = {key for key, value in flat(resolved.model_dump()) if value == "auto"}
    points = {f"points.{name}_radius" for name in ("match", "positive", "near")}
    assert left == {"data.classes", "data.hard_negatives", "data.cache", "best_by"} | points
    assert resolved.patches.size_px == 64
    log = (tmp_path / "run" / "log.txt").read_text()
    assert all(note in log for note in notes)


def test_grey_images_make_a_grey_model(tmp_path: Path) -> None:
    config = tiny_config(make_data(tmp_path / "data", channels=1), "epochs=4", "steps_per_epoch=15")
    result = train(config, out=tmp_path / "run")
    assert result.score > LEARNED
    model = load_model(result.model)
    assert (model.spec.arguments.in_channels, len(model.spec.mean)) == (1, 1)
    assert build_config(TrainConfig, file=tmp_path / "run" / "config.yaml").augment.preset == "em"


def test_the_paper_form_learns_too(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, "model.form=paper", "epochs=4", "steps_per_epoch=15", "patches.size_px=24")
    result = train(config, out=tmp_path / "run")
    assert result.score > LEARNED
    model = load_model(result.model)
    assert (model.spec.arguments.form, model.spec.arguments.dropout) == ("paper", 0.5)
    assert input_px(config, model.grid) == 24 + 2 * model.grid.margin > 24


def test_a_class_that_is_in_no_image_is_reported_as_such(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", description="classes: [background, disk, square]\n")
    for number in range(len(SPLITS)):
        save_png(data / "masks" / f"field{number}.png", draw_field(number)[1])
    result = train(tiny_config(data, "epochs=5", "steps_per_epoch=20"), out=tmp_path / "run")
    disk, square = result.scores["disk"], result.scores["square"]
    assert disk is not None
    assert disk > LEARNED
    # Never predicted, it has no Dice; predicted somewhere, its Dice is 0.
    assert square in {None, 0.0}
    assert result.score == pytest.approx(disk if square is None else disk / 2)
    assert list(load_model(result.model).spec.scores) == ["dice", "dice/disk", "dice/square"]
    assert "NaN" not in (tmp_path / "run" / "run.json").read_text()


def test_images_of_different_sizes_smaller_than_the_patch_and_odd(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    for number, (height, width) in enumerate([(31, 90), (1, 1), (200, 17), (64, 65)]):
        image, mask = draw_field(number, height, width)
        save_png(data / "images" / f"field{number}.png", image)
        save_png(data / "masks" / f"field{number}.png", mask * 255)
    result = train(tiny_config(data, "patches.size_px=41", "model.depth=2", "epochs=1"), out=tmp_path / "run")
    assert (result.run / "run.json").exists()


def test_a_folder_with_a_training_is_not_written_over(tiny_run: Path, tiny_data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    with pytest.raises(UsageError, match=f"holds a training already.*--resume {tiny_run}"):
        train(tiny_config(tiny_data), out=tiny_run)
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


def test_an_output_that_cannot_be_written_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match="file"):
            train(tiny_config(tmp_path / "no data"), out=out)


def test_everything_wrong_with_the_data_is_listed_before_training(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    (data / "images" / "field0.png").write_bytes(b"damaged")
    save_png(data / "masks" / "field1.png", draw_field(0, 10, 10)[1] * 255)
    with pytest.raises(InputError, match="cannot be trained on") as caught:
        train(tiny_config(data), out=tmp_path / "run")
    assert len(caught.value.problems) == 2
    assert "field0.png" in caught.value.problems[0]
    assert "field1.png" in caught.value.problems[1]
    assert not (tmp_path / "run" / "checkpoints").exists()
    train(tiny_config(make_data(tmp_path / "good"), "epochs=1"), out=tmp_path / "run")  # the folder is not blocked


def test_a_run_that_diverges_can_be_resumed_from_before(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, "model.form=paper", "optimiser.learning_rate=1e20", "optimiser.clip_norm=0")
    with pytest.raises(DivergedError, match=r"learning_rate"):
        train(config, out=tmp_path / "run")
    _, state, _ = load_newest(tmp_path / "run" / "checkpoints")
    assert all(value.isfinite().all() for value in state["network"].values())
    assert not (tmp_path / "run" / "run.json").exists()


def test_runs_are_named_by_time_and_data_and_the_newest_finished_one_is_found(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = train(tiny_config(tiny_data, "epochs=1")).run
    assert re.fullmatch(r"runs/\d{8}-\d{6}-disks", str(first))
    second = train(tiny_config(tiny_data, "epochs=1"), out=Path("runs/second")).run
    assert Path("runs/latest").resolve() == second.resolve()
    assert runs.newest_model() == second
    (second / "run.json").unlink()
    assert runs.newest_model() == first


def test_the_result_is_what_the_folder_holds(tiny_data: Path, tmp_path: Path) -> None:
    stages: dict[str, list[tuple[int, int]]] = {}
    result = train(
        tiny_config(tiny_data, "epochs=2"),
        out=tmp_path / "run",
        on_progress=lambda stage, done, total, _: stages.setdefault(stage, []).append((done, total)),
    )
    record = record_of(tmp_path / "run")
    assert (result.best_epoch, result.score) == (record["best_epoch"], record["scores"]["dice"])
    assert result.scores == {"foreground": record["scores"]["dice/foreground"]}
    assert result.figures == sorted((tmp_path / "run" / "figures").iterdir())
    assert stages["train"] == [(step, 10) for step in range(1, 11)]
    assert stages["read images"] == [(number, 6) for number in range(1, 7)]


def test_a_chosen_device_is_kept(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = tiny_config(tiny_data, "compute.device=cuda:1")
    assert prepare(config, on_progress=quiet_progress, on_note=quiet_note).config.compute.device == "cuda:1"


def test_channel_statistics_are_those_of_all_pixels() -> None:
    images = [draw_field(number, 20, 30 + number)[0] for number in range(3)]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    mean, std = channel_statistics(images)
    assert mean == pytest.approx(pixels.mean(axis=0).tolist())
    assert std == pytest.approx(pixels.std(axis=0).tolist())
    flat = np.full((4, 4, 1), 51, np.uint8)
    assert channel_statistics([flat]) == ([pytest.approx(0.2)], [pytest.approx(0.01)])  # never 0, which divides
