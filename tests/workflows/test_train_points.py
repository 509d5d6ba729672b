"""Training on points: what a run leaves, that mining and resuming change nothing by chance, and what is refused."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.cli.results import as_plain
from segkit.config import TrainConfig, build_config
from segkit.errors import ConfigError, InputError, SegkitError
from segkit.models.model_file import load_model
from segkit.models.patch_cnn import usual_depth
from segkit.points import Points
from segkit.slides import open_slide
from segkit.training.checkpoint import load_newest
from segkit.training.point_validation import LabelledPoints
from segkit.workflows.callbacks import quiet_note, quiet_progress
from segkit.workflows.inspect import info
from segkit.workflows.mined_table import mined_path, read_mined, write_mined
from segkit.workflows.point_task import usual_stride
from segkit.workflows.prepare import prepare
from segkit.workflows.resolve import times, usual_match_radius
from segkit.workflows.train import TrainResult, train
from tests.tiny import MPP, draw_disks, make_point_data, save_png, tiny_config, tiny_point_config
from tests.workflows.test_resume import Stopped, assert_same_training, contents, history_of

FIGURES = {"first_batch.png", "kernels.png", "validation.png", "curves.png", "receptive_field.png", "units.png"}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as handle:
        return list(csv.DictReader(handle))


def mined_rows(run: Path, number: int) -> list[dict[str, str]]:
    return rows_of(mined_path(run, number))


def test_the_run_folder_holds_a_model_that_finds_the_points(tiny_point_run: Path, tiny_point_data: Path) -> None:
    record = json.loads((tiny_point_run / "run.json").read_text())
    assert {path.name for path in tiny_point_run.iterdir()} - {".lock"} == {
        *("config.yaml", "splits.csv", "metrics.csv", "log.txt", "checkpoints", "model.safetensors", "figures"),
        *("run.json", "mining"),
    }
    assert {path.name for path in (tiny_point_run / "figures").iterdir()} == FIGURES
    for name in FIGURES:
        with open_slide(tiny_point_run / "figures" / name) as picture:
            assert min(picture.height, picture.width) > 100
    assert {path.name for path in (tiny_point_run / "mining").iterdir()} == {"round_1.csv", "round_2.csv"}
    assert (record["task"], record["metric"], record["complete"]) == ("points", "f1", True)

    model = load_model(tiny_point_run)
    history = load_newest(tiny_point_run / "checkpoints")[1]["history"]
    best = history[record["best_epoch"] - 1]
    assert best["val_f1"] == max(row["val_f1"] for row in history) > 0.9
    assert record["scores"] == model.spec.scores == {"f1": best["val_f1"], "f1/cell": best["val_f1/cell"]}
    rows = rows_of(tiny_point_run / "metrics.csv")
    assert list(rows[0]) == [
        *("epoch", "step", "learning_rate", "train_loss", "val_loss", "val_f1", "val_f1/cell"),
        *("seconds", "samples_per_second", "data_wait_share"),
    ]
    assert [float(row["val_f1"]) for row in rows] == [row["val_f1"] for row in history]

    assert model.spec.classes == ["background", "cell"]  # look-alikes are no class
    assert model.patch_cnn.patch_px == model.spec.receptive_field == 17
    detection = model.spec.detection
    assert detection is not None
    assert (detection.match_radius, detection.nms_radius, detection.smooth_radius) == ("5px", "5px", "2px")
    assert detection.stride == usual_stride(2)
    (threshold,), (curve,) = detection.thresholds, detection.curves
    assert 0.02 < threshold < 1
    assert max(row[3] for row in curve) == pytest.approx(best["val_f1"], abs=1e-6)


def test_two_classes_have_a_score_and_a_threshold_each(tmp_path: Path) -> None:
    data = make_point_data(tmp_path / "data", classes=("cell", "grey"))
    result = train(tiny_point_config(data, "epochs=5", "steps_per_epoch=15"), out=tmp_path / "run")
    assert (result.metric, list(result.scores)) == ("f1", ["cell", "grey"])
    assert result.score > 0.9
    assert result.score == pytest.approx(sum(score or 0 for score in result.scores.values()) / 2)
    detection = load_model(result.model).spec.detection
    assert detection is not None
    assert (len(detection.thresholds), len(detection.curves)) == (2, 2)
    assert {"val_f1/cell", "val_f1/grey"} < set(rows_of(result.run / "metrics.csv")[0])


@pytest.mark.parametrize("form", ["linear", "mlp", "lenet", "vgg"])
def test_every_form_can_be_trained(tiny_point_data: Path, tmp_path: Path, form: str) -> None:
    config = tiny_point_config(
        tiny_point_data, f"model.form={form}", "epochs=2", "steps_per_epoch=10", "patches.size_px=20"
    )
    result = train(config, out=tmp_path / "run")
    assert result.score > 0.5
    assert load_model(result.model).spec.arguments.form == form
    assert result.run / "figures" / "kernels.png" in result.figures


def test_the_papers_network_can_be_trained(tmp_path: Path) -> None:
    data = make_point_data(tmp_path / "data", splits=("train", "val"))
    for number in range(2):
        save_png(data / "images" / f"disks{number}.png", draw_disks(number, 110, 104)[0])
    config = tiny_point_config(
        data, "model.form=dnn1", "epochs=1", "steps_per_epoch=1", "patches.size_px=auto", "model.base_channels=auto",
        "model.depth=auto", "patches.batch=2",
    )  # fmt: skip
    model = load_model(train(config, out=tmp_path / "run").model)
    assert sum(one.numel() for one in model.network.parameters()) == 13_630


def test_grey_images_make_a_grey_model(tmp_path: Path) -> None:
    config = tiny_point_config(make_point_data(tmp_path / "data", channels=1), "epochs=3", "steps_per_epoch=10")
    result = train(config, out=tmp_path / "run")
    assert result.score > 0.9
    assert load_model(result.model).spec.arguments.in_channels == 1


def test_the_resolved_configuration_trains_the_same_model_again(tiny_point_run: Path, tmp_path: Path) -> None:
    config = build_config(TrainConfig, file=tiny_point_run / "config.yaml")
    again = train(config, out=tmp_path / "again")
    assert load_model(again.model).sha256 == load_model(tiny_point_run).sha256
    for name in ("config.yaml", "splits.csv", "mining/round_1.csv", "mining/round_2.csv"):
        assert (again.run / name).read_bytes() == (tiny_point_run / name).read_bytes()
    other = build_config(TrainConfig, file=tiny_point_run / "config.yaml", flags={"seed": 1})
    assert load_model(train(other, out=tmp_path / "other").model).sha256 != load_model(tiny_point_run).sha256


def test_a_description_can_be_shown_and_written_as_json(tiny_point_run: Path) -> None:
    facts = info(tiny_point_run)
    assert facts["network"] == "patch_cnn (modern)"
    assert facts["patch_px"] == 17
    assert facts["detection"]["match_radius"] == "5px"
    assert len(facts["detection"]["thresholds"]) == 1
    json.dumps(as_plain(facts))


# ---------------------------------------------------------------- mining and resuming

ROUNDS = ("epochs=6", "steps_per_epoch=3", "optimiser.learning_rate=0.002", "model.dropout=0.3")
"""Mined after epochs 2 and 4, so after steps 6 and 12 of 18, while there still are false positives."""


def stop_at(stage: str, done: int) -> Callable[[str, int, int, Mapping[str, Any]], None]:
    def on_progress(now: str, number: int, total: int, info: Mapping[str, Any]) -> None:
        if (now, number) == (stage, done):
            raise Stopped

    return on_progress


def stop_when_noted(words: str) -> Callable[[str], None]:
    def on_note(text: str) -> None:
        if words in text:
            raise Stopped

    return on_note


def resume_run(
    run: Path,
    *assignments: str,
    on_progress: Callable[[str, int, int, Mapping[str, Any]], None] = quiet_progress,
    on_note: Callable[[str], None] = quiet_note,
) -> TrainResult:
    config = build_config(TrainConfig, file=run / "config.yaml", assignments=assignments)
    return train(config, resume=run, on_progress=on_progress, on_note=on_note)


@pytest.fixture(scope="module")
def whole(tiny_point_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two rounds of mining that was not stopped; not to be changed."""
    return train(tiny_point_config(tiny_point_data, *ROUNDS), out=tmp_path_factory.mktemp("whole") / "run").run


def assert_equals(run: Path, whole: Path) -> None:
    assert_same_training(run, whole)
    for name in ("mining/round_1.csv", "mining/round_2.csv", "config.yaml", "splits.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_rounds_find_something_and_are_told(whole: Path) -> None:
    log = (whole / "log.txt").read_text()
    for number in (1, 2):
        rows = mined_rows(whole, number)
        assert rows
        assert {row["image"] for row in rows} <= {f"disks{image}" for image in range(4)}  # those of training only
        assert all(0.2 <= float(row["score"]) <= 1 for row in rows)
        assert f"mining round {number}: {len(rows)} false positives in 4 training images" in log
    assert log.index("epoch 2/6") < log.index("mining round 1") < log.index("epoch 3/6")
    assert log.index("epoch 4/6") < log.index("mining round 2") < log.index("epoch 5/6")


STOPS: dict[str, tuple[str, int]] = {
    "in the first round": ("train", 2),
    "at the last step before mining": ("train", 6),
    "in the validation before mining": ("validate", 1),
    "while mining": ("mine, round 1", 2),
    "at the end of mining": ("mine, round 1", 4),
    "at the first step after mining": ("train", 7),
    "in the second round": ("train", 11),
    "while mining again": ("mine, round 2", 1),
    "at the first step after mining again": ("train", 13),
    "at the last step": ("train", 18),
}


@pytest.mark.parametrize("where", STOPS)
def test_a_run_stopped_anywhere_and_resumed_equals_one_that_was_not(
    tiny_point_data: Path, tmp_path: Path, whole: Path, where: str
) -> None:
    with pytest.raises(Stopped):
        train(
            tiny_point_config(tiny_point_data, *ROUNDS), out=tmp_path / "run", on_progress=stop_at(*STOPS[where])
        )  # fmt: skip
    resume_run(tmp_path / "run")
    assert_equals(tmp_path / "run", whole)


def test_a_run_stopped_at_every_turn_equals_one_that_was_not(
    tiny_point_data: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(tiny_point_config(tiny_point_data, *ROUNDS), out=run, on_note=stop_when_noted("mining round 1"))
    assert not mined_path(run, 1).exists()  # found, and not written down yet
    for stop in (stop_at("train", 7), stop_at("mine, round 2", 2), stop_at("train", 14)):
        with pytest.raises(Stopped):
            resume_run(run, on_progress=stop)
    assert len(history_of(run)) == 4
    resume_run(run)
    assert_equals(run, whole)


def test_the_number_of_workers_changes_nothing(tiny_point_data: Path, tmp_path: Path, whole: Path) -> None:
    config = tiny_point_config(tiny_point_data, *ROUNDS, "workers=2")
    with pytest.raises(Stopped):
        train(config, out=tmp_path / "run", on_progress=stop_at("train", 10))
    resume_run(tmp_path / "run", "workers=1")
    assert_same_training(tmp_path / "run", whole)


def test_what_was_mined_is_drawn_from(tiny_point_data: Path, tmp_path: Path, whole: Path) -> None:
    """The table of the round decides, so that equal runs with mining are no accident."""
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(tiny_point_config(tiny_point_data, *ROUNDS), out=run, on_progress=stop_at("train", 7))
    names = [f"disks{number}" for number in range(4)]
    mined = read_mined(mined_path(run, 1), names)
    write_mined(mined_path(run, 1), names, [one._replace(scores=1.2 - one.scores) for one in mined])
    resume_run(run)
    assert history_of(run)[1]["train_loss"] == history_of(whole)[1]["train_loss"]
    assert history_of(run)[2]["train_loss"] != history_of(whole)[2]["train_loss"]


def test_a_finished_run_is_left_as_it_is(tiny_point_data: Path, tmp_path: Path) -> None:
    config = tiny_point_config(tiny_point_data, "epochs=2", "steps_per_epoch=2")
    result = train(config, out=tmp_path / "run")
    before = contents(tmp_path / "run")
    again = resume_run(tmp_path / "run")
    assert contents(tmp_path / "run") == before
    assert (again.metric, again.score, again.scores) == (result.metric, result.score, result.scores)
    assert again.best_epoch == result.best_epoch


def test_more_epochs_are_mined_anew(tiny_point_data: Path, tmp_path: Path) -> None:
    """Rounds follow from the number of epochs: false positives of a network long gone would be drawn otherwise."""
    short = ("epochs=3", *ROUNDS[1:])  # mined after epochs 1 and 2
    notes: list[str] = []
    train(tiny_point_config(tiny_point_data, *short), out=tmp_path / "run")
    first = [mined_path(tmp_path / "run", number).read_bytes() for number in (1, 2)]
    resume_run(tmp_path / "run", "epochs=7", on_note=notes.append)  # after 2 and 4, of which the first has gone by
    assert [note.split(":")[0] for note in notes if note.startswith("mining")] == ["mining round 1", "mining round 2"]
    assert [mined_path(tmp_path / "run", number).read_bytes() for number in (1, 2)] != first
    assert len(history_of(tmp_path / "run")) == 7

    with pytest.raises(Stopped):
        train(tiny_point_config(tiny_point_data, *short), out=tmp_path / "other", on_progress=stop_at("train", 8))
    resume_run(tmp_path / "other")
    for stop in (stop_at("train", 11), stop_at("mine, round 2", 1)):
        with pytest.raises(Stopped):
            resume_run(tmp_path / "other", "epochs=7", on_progress=stop)
    resume_run(tmp_path / "other")
    assert_equals(tmp_path / "other", tmp_path / "run")


def test_a_new_run_does_not_use_what_another_one_has_mined(tiny_point_data: Path, tmp_path: Path, whole: Path) -> None:
    """Whoever deletes model and checkpoints begins a new run in the same folder."""
    names = [f"disks{number}" for number in range(4)]
    write_mined(mined_path(tmp_path / "run", 1), names, read_mined(mined_path(whole, 2), names))
    train(tiny_point_config(tiny_point_data, *ROUNDS), out=tmp_path / "run")
    assert_equals(tmp_path / "run", whole)


@pytest.mark.parametrize("setting", ["points.mining_rounds=0", "points.hard_negatives=0", "epochs=1"])
def test_without_rounds_nothing_is_mined(tiny_point_data: Path, tmp_path: Path, setting: str) -> None:
    train(tiny_point_config(tiny_point_data, "epochs=3", "steps_per_epoch=2", setting), out=tmp_path / "run")
    assert not (tmp_path / "run" / "mining").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"image,x\ndisks0,3\n",
        b"image,x,y,score\ndisks9,1,1,0.5\n",
        b"image,x,y,score\ndisks0,1,1,high\n",
        b"image,x,y,score\ndisks0,1\n",
        b"image,x,y,score\n\xff\n",
        b'image,x,y,score\n"' + b"a" * 200_000,
    ],
)
def test_a_damaged_table_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "round_1.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"round_1\.csv: cannot be read .*Delete it, and the round is mined again"):
        read_mined(path, ["disks0"])


# ---------------------------------------------------------------- what is computed, and what is refused


def labelled(*positions: tuple[float, float], classes: int = 1) -> LabelledPoints:
    points = Points(np.array(positions, np.float64).reshape(-1, 2), np.full(len(positions), classes))
    return LabelledPoints("one", np.zeros((100, 100, 3), np.uint8), points)


def test_the_match_radius_follows_from_the_scale_or_from_the_points() -> None:
    apart = labelled((10, 10), (80, 80))
    close = labelled((10, 10), (10, 20), (50, 50), (50, 60))
    assert usual_match_radius([apart], 0.5) == "7.5um"
    assert usual_match_radius([apart], None) == "15px"
    assert usual_match_radius([close], 0.5) == usual_match_radius([close], None) == "5.0px"
    assert usual_match_radius([labelled((3, 3)), labelled()], 0.25) == "7.5um"
    assert usual_match_radius([labelled((3, 3), (3, 3))], 0.25) == "7.5um"  # labelled twice
    # Two that happen to be close do not make the objects of all other images close.
    assert usual_match_radius([labelled((10, 10), (10, 16)), *[labelled((3, 3))] * 5], 0.25) == "7.5um"
    look_alikes = labelled((10, 10), (10, 14), (30, 30), (30, 34), classes=0)
    assert usual_match_radius([apart, look_alikes], 0.5) == "7.5um"


@pytest.mark.parametrize(
    ("length", "factor", "product"),
    [("7.5um", 0.5, "3.75um"), ("15px", 3, "45px"), ("0.0001 um", 0.5, "0.00005um"), ("200000px", 3, "600000px")],
)
def test_a_length_times_a_factor_is_a_length(length: str, factor: float, product: str) -> None:
    assert times(length, factor) == product


@pytest.mark.parametrize(("positive_px", "stride"), [(0.5, 1), (2.9, 1), (3, 2), (5.9, 2), (6, 4), (100, 4)])
def test_windows_are_close_enough_for_an_object_to_be_met_by_several(positive_px: float, stride: int) -> None:
    assert usual_stride(positive_px) == stride


def test_every_automatic_value_of_points_is_computed(tiny_point_data: Path) -> None:
    settings = ("points.match_radius", "points.positive_radius", "points.near_radius", "patches.size_px")
    auto = [f"{key}=auto" for key in (*settings, "patches.batch", "model.base_channels", "model.depth")]
    config = tiny_point_config(tiny_point_data, *auto, "steps_per_epoch=auto")
    prepared = prepare(config, on_progress=quiet_progress, on_note=quiet_note)
    resolved = prepared.config
    neighbours = usual_match_radius([one for one in prepared.train if isinstance(one, LabelledPoints)], MPP)
    assert resolved.points.match_radius == neighbours
    assert resolved.points.positive_radius == times(neighbours, 0.5)
    assert resolved.points.near_radius == times(neighbours, 3)
    size_px = int(resolved.patches.size_px)
    assert size_px % 2 == 1  # so that it has a middle
    assert size_px >= 33
    assert abs(size_px - 5 * float(neighbours[:-2])) <= 3
    assert (resolved.patches.batch, resolved.model.base_channels) == (128, 32)
    assert resolved.model.depth == usual_depth("modern", size_px)
    assert (resolved.loss.name, resolved.steps_per_epoch, resolved.model.dropout) == ("cross_entropy", 100, 0.0)
    again = prepare(resolved, on_progress=quiet_progress, on_note=quiet_note).config
    assert again == resolved


def refused(config: TrainConfig, out: Path) -> SegkitError:
    with pytest.raises(SegkitError) as caught:
        train(config, out=out)
    assert not (out / "checkpoints").exists()
    return caught.value


@pytest.mark.parametrize("form", ["dnn1", "linear", "vgg"])
def test_a_patch_cnn_does_not_learn_from_masks(tiny_data: Path, tmp_path: Path, form: str) -> None:
    error = refused(tiny_config(tiny_data, f"model.form={form}"), tmp_path / "run")
    assert isinstance(error, ConfigError)
    assert error.exit_code == 2
    assert f"model.form = {form}: is a patch CNN's" in error.message
    assert "used with masks" in error.message


def test_the_papers_unet_does_not_learn_from_points(tiny_point_data: Path, tmp_path: Path) -> None:
    error = refused(tiny_point_config(tiny_point_data, "model.form=paper"), tmp_path / "run")
    assert isinstance(error, ConfigError)
    assert "model.form = paper: is a U-Net's" in error.message


def test_images_smaller_than_the_patch_are_named(tmp_path: Path) -> None:
    data = make_point_data(tmp_path / "data")
    image, _ = draw_disks(2)
    save_png(data / "images" / "disks2.png", image[:, :76])
    (data / "points.csv").write_text("image,x,y,label\ndisks0,30,30,cell\ndisks4,30,30,cell\n")
    error = refused(tiny_point_config(data, "patches.size_px=77"), tmp_path / "run")
    assert isinstance(error, InputError)
    assert error.exit_code == 3
    assert "patches of 77 px are larger" in error.message
    assert "disks2: 76 x 72 px" in error.problems
    train(tiny_point_config(data, "epochs=1", "steps_per_epoch=1"), out=tmp_path / "run")  # the folder is not blocked


def test_a_patch_as_large_as_the_image_is_none_too_large(tmp_path: Path) -> None:
    data = make_point_data(tmp_path / "data", splits=("train", "val"))
    config = tiny_point_config(data, "patches.size_px=72", "epochs=1", "steps_per_epoch=1", "augment.preset=histology")
    assert train(config, out=tmp_path / "run").run.is_dir()


@pytest.mark.parametrize("which", ["match", "positive", "near"])
def test_a_radius_in_micrometres_needs_the_scale(tmp_path: Path, which: str) -> None:
    data = make_point_data(tmp_path / "data", description="classes: [background, cell]\n")
    error = refused(tiny_point_config(data, f"points.{which}_radius=3um"), tmp_path / "run")
    assert isinstance(error, ConfigError)
    assert f"points.{which}_radius = 3um" in error.message
    assert "data.mpp" in error.message
    scaled = tiny_point_config(data, f"points.{which}_radius=3um", "data.mpp=0.5", "epochs=1", "steps_per_epoch=1")
    train(scaled, out=tmp_path / "run")


@pytest.mark.parametrize("label", [None, "look_alike"])
@pytest.mark.parametrize(
    ("empty", "other", "which"), [("disks0", "disks4", "training"), ("disks4", "disks0", "validation")]
)
def test_images_without_points_of_a_class_are_refused(
    tmp_path: Path, label: str | None, empty: str, other: str, which: str
) -> None:
    """Without any in validation every epoch's F1 would be 0, and the first epoch the best."""
    data = make_point_data(tmp_path / "data")
    left = [] if label is None else [f"{empty},10,10,{label}"]
    (data / "points.csv").write_text("\n".join(["image,x,y,label", *left, f"{other},30,30,cell", ""]))
    error = refused(tiny_point_config(data), tmp_path / "run")
    assert isinstance(error, InputError)
    assert f"the {which} images have no points of a class" in error.message


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (("model.form=dnn1", "patches.size_px=33"), r"patches\.size_px = 33: the paper's dnn1 has 101"),
        (("model.depth=5",), r"patches\.size_px.*too small for model\.form = modern with model\.depth = 5"),
    ],
)
def test_networks_that_cannot_be_built_say_which_setting_is_in_the_way(
    tiny_point_data: Path, tmp_path: Path, assignments: tuple[str, ...], message: str
) -> None:
    config = tiny_point_config(tiny_point_data, *assignments)
    with pytest.raises(ConfigError, match=message):
        train(config, out=tmp_path / "run")


def test_crowded_images_can_be_learned_from(tmp_path: Path) -> None:
    """Points everywhere leave no place for negatives; the training ends all the same."""
    data = make_point_data(tmp_path / "data", splits=("train", "val"))
    rows = [f"disks{number},{x},{y},cell" for number in range(2) for y in range(0, 72, 6) for x in range(0, 80, 6)]
    (data / "points.csv").write_text("\n".join(["image,x,y,label", *rows, ""]))
    config = tiny_point_config(data, "points.positive_radius=6px", "epochs=1", "steps_per_epoch=3")
    assert train(config, out=tmp_path / "run").run.is_dir()
