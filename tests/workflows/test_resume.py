"""A run that was stopped and resumed equals one that was not, bit for bit; nothing else passes for resuming."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.config import TrainConfig, build_config
from segkit.errors import InputError, ModelError, UsageError
from segkit.models.model_file import load_model
from segkit.training.checkpoint import checkpoint_path, load_newest
from segkit.training.validation import validate_pixels
from segkit.workflows.train import TrainResult, train
from tests.tiny import SPLITS, make_data, tiny_config


class Stopped(BaseException):
    """Stands for a signal: no workflow catches it."""


def stop_after(step: int) -> Callable[[str, int, int, Mapping[str, Any]], None]:
    def on_progress(stage: str, done: int, total: int, info: Mapping[str, Any]) -> None:
        if stage == "train" and done == step:
            raise Stopped

    return on_progress


def train_stopped(config: TrainConfig, run: Path, *, after: int, resume: bool = False) -> None:
    target = {"resume": run} if resume else {"out": run}
    with pytest.raises(Stopped):
        train(config, **target, on_progress=stop_after(after))  # type: ignore[arg-type]


def resume_run(run: Path, *assignments: str, notes: list[str] | None = None) -> TrainResult:
    """Resume as the command does: with the configuration in the run folder."""
    config = build_config(TrainConfig, file=run / "config.yaml", assignments=assignments)
    return train(config, resume=run, on_note=(lambda _: None) if notes is None else notes.append)


def final_state(run: Path) -> dict[str, torch.Tensor]:
    """Weights of the best model and all tensors of the last checkpoint, the optimiser's included."""
    _, state, damaged = load_newest(run / "checkpoints")
    assert not damaged
    moments = {
        f"optimiser.{number}.{name}": torch.as_tensor(value)
        for number, values in state["optimiser"]["state"].items()
        for name, value in values.items()
    }
    return {"model": torch.tensor(bytearray.fromhex(load_model(run).sha256)), **state["network"], **moments}


def assert_same_training(run: Path, other: Path) -> None:
    one, two = final_state(run), final_state(other)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    scores = [[{k: v for k, v in row.items() if k in METRICS} for row in history_of(one)] for one in (run, other)]
    assert scores[0] == scores[1]


METRICS = {"epoch", "step", "learning_rate", "train_loss", "val_loss", "val_dice", "val_f1"}


def history_of(run: Path) -> list[dict[str, float]]:
    history: list[dict[str, float]] = load_newest(run / "checkpoints")[1]["history"]
    return history


@pytest.mark.parametrize(
    ("form", "precision", "workers"),
    # The paper's form has dropout.
    [("modern", "float32", 0), ("modern", "bfloat16", 2), ("paper", "float32", 2), ("paper", "bfloat16", 0)],
)
def test_a_resumed_training_equals_one_that_was_not_stopped(
    tiny_data: Path, tmp_path: Path, form: str, precision: str, workers: int
) -> None:
    config = tiny_config(
        tiny_data, f"model.form={form}", f"compute.precision={precision}", f"workers={workers}", "steps_per_epoch=4"
    )
    train(config, out=tmp_path / "whole")
    train_stopped(config, tmp_path / "stopped", after=3)  # in the first epoch
    train_stopped(config, tmp_path / "stopped", after=10, resume=True)  # in the third
    resume_run(tmp_path / "stopped")
    assert_same_training(tmp_path / "stopped", tmp_path / "whole")


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that was not stopped; not to be changed."""
    return train(tiny_config(tiny_data), out=tmp_path_factory.mktemp("whole") / "run").run


@pytest.fixture
def stopped(tiny_data: Path, tmp_path: Path) -> Path:
    """The same run, stopped in its third epoch."""
    train_stopped(tiny_config(tiny_data), tmp_path / "run", after=12)
    return tmp_path / "run"


def test_the_number_of_workers_may_change_and_changes_nothing(stopped: Path, whole: Path) -> None:
    notes: list[str] = []
    resume_run(stopped, "workers=1", notes=notes)
    assert_same_training(stopped, whole)
    assert "changed since the run was begun: workers = 1" in notes


def test_a_stopped_run_is_not_finished_and_says_where_it_goes_on(stopped: Path, whole: Path) -> None:
    assert not (stopped / "run.json").exists()
    assert [row["epoch"] for row in history_of(stopped)] == [1, 2]
    notes: list[str] = []
    resume_run(stopped, notes=notes)
    assert f"resumed from {checkpoint_path(stopped / 'checkpoints', 10)} after epoch 2, step 10" in notes
    assert not [note for note in notes if "changed" in note]
    for name in ("config.yaml", "splits.csv"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    assert (stopped / "run.json").exists()


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(stopped: Path, whole: Path) -> None:
    newest = checkpoint_path(stopped / "checkpoints", 10)
    newest.write_bytes(newest.read_bytes()[:-1])
    notes: list[str] = []
    resume_run(stopped, notes=notes)
    assert any(str(newest) in note and "passed over" in note for note in notes)
    assert_same_training(stopped, whole)


@pytest.mark.parametrize("epochs", [2, 5])
def test_without_a_valid_checkpoint_nothing_is_begun_afresh_and_nothing_changes(stopped: Path, epochs: int) -> None:
    resume_run(stopped)
    for path in (stopped / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    before = contents(stopped)
    if epochs > 3:
        with pytest.raises(ModelError, match="no checkpoint to resume from"):
            resume_run(stopped, f"epochs={epochs}")
    else:
        resume_run(stopped, f"epochs={epochs}")  # it has that many: nothing is needed
    assert contents(stopped) == before


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}


def test_a_finished_run_is_left_as_it_is(stopped: Path) -> None:
    result = resume_run(stopped)
    before = contents(stopped)
    notes: list[str] = []
    again = resume_run(stopped, notes=notes)
    assert contents(stopped) == before
    assert (again.score, again.best_epoch, again.scores) == (result.score, result.best_epoch, result.scores)
    assert again.figures == result.figures
    assert any("is finished, with 3 epochs" in note for note in notes)


@pytest.mark.parametrize("setting", ["model.base_channels=2", "patches.batch=3", "seed=5"])
def test_a_finished_run_is_none_of_other_settings(stopped: Path, setting: str) -> None:
    resume_run(stopped)
    before = contents(stopped)
    with pytest.raises(UsageError, match="settings that it was begun with") as caught:
        resume_run(stopped, setting)
    assert caught.value.problems == [setting.replace("=", " = ")]
    assert contents(stopped) == before


def test_fewer_epochs_than_a_finished_run_has_are_told_with_its_own_number(stopped: Path) -> None:
    resume_run(stopped)
    notes: list[str] = []
    resume_run(stopped, "epochs=2", notes=notes)
    assert [note for note in notes if "is finished, with 3 epochs" in note]


def test_a_finished_run_says_that_it_has_not_looked_at_another_folder(stopped: Path, tmp_path: Path) -> None:
    resume_run(stopped)
    moved = make_data(tmp_path / "elsewhere", splits=SPLITS)
    notes: list[str] = []
    resume_run(stopped, f"data.dir={moved}", notes=notes)
    assert [note for note in notes if "was trained on" in note and str(moved) in note]
    assert [note for note in notes if "is finished" in note]


def test_the_time_of_a_run_is_that_of_all_its_sessions(stopped: Path) -> None:
    result = resume_run(stopped)
    whole = sum(row["seconds"] for row in history_of(stopped))
    assert result.seconds == pytest.approx(whole)
    longer = resume_run(stopped, "epochs=4")
    assert longer.seconds == pytest.approx(whole + history_of(stopped)[-1]["seconds"])
    assert json.loads((stopped / "run.json").read_text())["seconds"] == pytest.approx(longer.seconds, abs=0.06)


def test_only_schedules_that_end_with_the_training_change_with_its_length(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(tiny_data, "epochs=1", "optimiser.schedule=constant"), out=run)
    notes: list[str] = []
    resume_run(run, "epochs=2", notes=notes)
    assert not [note for note in notes if "learning rate falls" in note]


def test_more_epochs_train_on_are_written_down_and_explained(stopped: Path) -> None:
    resume_run(stopped)
    best = max(row["val_dice"] for row in history_of(stopped))
    notes: list[str] = []
    result = resume_run(stopped, "epochs=5", notes=notes)
    assert build_config(TrainConfig, file=stopped / "config.yaml").epochs == 5
    assert "changed since the run was begun: epochs = 5" in notes
    assert any("learning rate" in note for note in notes)
    history = history_of(stopped)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert history[3]["learning_rate"] > history[2]["learning_rate"]  # recomputed for five epochs
    assert result.score == max(row["val_dice"] for row in history) >= best


def test_a_run_is_unfinished_while_it_is_trained_on(stopped: Path) -> None:
    resume_run(stopped)
    config = build_config(TrainConfig, file=stopped / "config.yaml", assignments=["epochs=5"])
    train_stopped(config, stopped, after=17, resume=True)
    assert not (stopped / "run.json").exists()
    assert len(history_of(resume_run(stopped).run)) == 5  # without a word about epochs


def test_the_best_model_is_not_replaced_by_a_worse_one(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_model(stopped).sha256
    monkeypatch.setattr(
        "segkit.workflows.mask_task.validate_pixels",
        lambda *arguments, **options: replace(validate_pixels(*arguments, **options), score=0.0),
    )
    result = resume_run(stopped)
    assert result.best_epoch <= 2
    assert load_model(stopped).sha256 == before


@pytest.mark.parametrize(
    "assignment",
    ["seed=1", "patches.batch=2", "model.base_channels=8", "optimiser.learning_rate=0.5", "augment.noise=0.2"],
)
def test_other_settings_are_refused_by_name_and_nothing_changes(stopped: Path, assignment: str) -> None:
    before = contents(stopped)
    with pytest.raises(UsageError, match="settings that it was begun with") as caught:
        resume_run(stopped, assignment)
    assert caught.value.problems == [assignment.replace("=", " = ")]
    assert contents(stopped) == before


def test_fewer_epochs_than_there_are_cannot_be_asked_for(stopped: Path) -> None:
    with pytest.raises(UsageError, match=r"has 2 epochs already\. Give --epochs 2 or more"):
        resume_run(stopped, "epochs=1")


@pytest.mark.parametrize("splits", [("val", "train", *SPLITS[2:]), SPLITS[:-1]])
def test_changed_splits_are_refused(tmp_path: Path, splits: tuple[str, ...]) -> None:
    data = make_data(tmp_path / "data")
    train_stopped(tiny_config(data), tmp_path / "run", after=7)
    for folder in ("images", "masks"):
        (data / folder / "field7.png").unlink()
    make_data(data, splits=splits, num_images=len(splits))
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match="splits are not those") as caught:
        resume_run(tmp_path / "run")
    moved = "field0: train before, val now" if len(splits) == 8 else "field7: test before, not there now"
    assert moved in caught.value.problems
    assert contents(tmp_path / "run") == before


def test_drawn_splits_are_drawn_again(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", splits=None)
    train_stopped(tiny_config(data), tmp_path / "run", after=7)
    before = (tmp_path / "run" / "splits.csv").read_bytes()
    resume_run(tmp_path / "run")
    assert (tmp_path / "run" / "splits.csv").read_bytes() == before


def test_a_moved_data_folder_can_be_named(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    train_stopped(tiny_config(data), tmp_path / "run", after=7)
    data.rename(tmp_path / "moved")
    resume_run(tmp_path / "run", f"data.dir={tmp_path / 'moved'}")
    assert build_config(TrainConfig, file=tmp_path / "run" / "config.yaml").data.dir == tmp_path / "moved"


def test_a_training_that_never_saved_anything_does_not_block_its_folder(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr("segkit.training.checkpoint.save_checkpoint", stop)
        with pytest.raises(Stopped):
            train(tiny_config(tiny_data), out=tmp_path / "run")
    with pytest.raises(ModelError, match=r"no checkpoint to resume from\. Start a new run\."):
        resume_run(tmp_path / "run")
    train(tiny_config(tiny_data), out=tmp_path / "run")


def test_temporary_files_of_a_killed_process_are_removed(stopped: Path) -> None:
    left = [stopped / folder / ".file.123.partial" for folder in ("", "checkpoints", "figures")]
    for path in left:
        path.touch()
    resume_run(stopped)
    assert not any(path.exists() for path in left)
