"""`segkit train` as several processes, stopped, diverging, misused: what it leaves and how it ends."""

import csv
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.models.model_file import load_model
from segkit.slides import open_slide
from segkit.training.checkpoint import load_newest, newest_step
from segkit.training.diverged import load_batch
from tests.processes import Running, Start, message_of, run, segkit, temporary_files

TINY = (
    *("--set", "model.base_channels=4", "--set", "model.depth=1", "--set", "patches.size_px=32"),
    *("--set", "patches.batch=4", "--set", "steps_per_epoch=4", "--set", "compute.precision=float32"),
    *("--set", "model.norm=none", "--set", "optimiser.name=sgd", "--device", "cpu", "--epochs", 2),
)
TWO = ("--gpus", 2)


def training(data: Path, run_folder: object, *more: object) -> tuple[object, ...]:
    return ("train", "--data", data, "--out", run_folder, *TINY, *more)


def weights_of(run_folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(run_folder).network.state_dict())


def checkpoint_of(run_folder: Path) -> dict[str, Any]:
    _, state, damaged = load_newest(run_folder / "checkpoints")
    assert damaged == []
    return state


def rows_of(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def messages_of(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("segkit: ")]


@pytest.fixture(scope="module")
def alone(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs in one process."""
    folder = tmp_path_factory.mktemp("alone")
    ended = Running(folder, segkit, *training(tiny_data, folder / "run", "--set", "average_best=2")).wait()
    assert ended.code == 0, ended.err
    return folder / "run"


def test_two_processes_leave_one_run_that_equals_that_of_one(
    start: Start, tiny_data: Path, alone: Path, tmp_path: Path
) -> None:
    ended = run(start, *training(tiny_data, "both", *TWO, "--set", "average_best=2", "--json"))
    assert ended.code == 0, ended.err
    assert messages_of(ended.err) == []
    assert json.loads(ended.out)["run"] == "both"  # one document: one process has spoken
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"both"}
    assert temporary_files(tmp_path) == []
    # Everything is told and written once.
    lines = [line.partition(" ")[2] for line in (tmp_path / "both" / "log.txt").read_text().splitlines()]
    assert len(lines) == len(set(lines))
    assert len([line for line in lines if line.startswith("epoch ")]) == 2
    assert [ended.err.count(f"epoch {epoch}/2") for epoch in (1, 2)] == [1, 1]
    expected = weights_of(alone)
    for name, value in weights_of(tmp_path / "both").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4)
    for one, other in zip(rows_of(tmp_path / "both"), rows_of(alone), strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), abs=1e-5)
        assert float(one["val_dice"]) == pytest.approx(float(other["val_dice"]), abs=1e-3)


def test_a_signal_to_two_processes_saves_and_they_go_on(start: Start, tiny_data: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    process = start(*training(tiny_data, run_folder, *TWO, "--epochs", 300))
    process.wait_for(lambda: (newest_step(run_folder / "checkpoints") or 0) >= 4)
    process.send(signal.SIGTERM)
    ended = process.wait(30)
    assert ended.code == 143, ended.err
    assert "Traceback" not in ended.err
    assert len(messages_of(ended.err)) == 1, ended.err
    stopped = checkpoint_of(run_folder)
    assert stopped["step"] >= 4
    assert temporary_files(tmp_path) == []
    epochs = stopped["step"] // 4 + 1
    resumed = run(start, "train", "--resume", run_folder, "--epochs", epochs, *TWO)
    assert resumed.code == 0, resumed.err
    assert f"resumed from {run_folder}/checkpoints/step-{stopped['step']:08d}.pt" in resumed.err
    assert len(rows_of(run_folder)) == epochs
    assert json.loads((run_folder / "run.json").read_text())["complete"] is True


LONG = (
    *("--set", "model.norm=batch", "--set", "model.dropout=0.2", "--set", "optimiser.name=adamw"),
    *("--set", "steps_per_epoch=120"),
)


def test_a_schedulers_signal_saves_at_that_very_step_and_the_resumed_run_is_bit_identical(
    start: Start, tiny_data: Path, tmp_path: Path
) -> None:
    whole = run(start, *training(tiny_data, "whole", *LONG))
    assert whole.code == 0, whole.err
    run_folder = tmp_path / "run"
    process = start(*training(tiny_data, run_folder, *LONG))
    process.wait_for((run_folder / "metrics.csv").exists)
    time.sleep(0.15)  # of the second that the second epoch takes
    process.send(signal.SIGUSR1)
    ended = process.wait(30)
    assert ended.code == 143, ended.err
    step = newest_step(run_folder / "checkpoints")
    assert message_of(ended) == (
        f"segkit: {run_folder}: stopped after step {step} of 240. Go on with --resume {run_folder}"
    )
    assert step is not None
    assert 120 < step < 240
    stopped = checkpoint_of(run_folder)
    assert (stopped["step"], len(stopped["losses"]), len(stopped["history"])) == (step, step - 120, 1)
    resumed = run(start, "train", "--resume", run_folder)
    assert resumed.code == 0, resumed.err
    assert load_model(run_folder).sha256 == load_model(tmp_path / "whole").sha256
    one, other = checkpoint_of(run_folder), checkpoint_of(tmp_path / "whole")
    assert all(torch.equal(one["network"][name], value) for name, value in other["network"].items())
    columns = ("train_loss", "val_loss", "val_dice")
    assert [[row[name] for name in columns] for row in one["history"]] == [
        [row[name] for name in columns] for row in other["history"]
    ]


def test_a_batch_that_cannot_be_divided_among_the_processes_is_refused_once(
    start: Start, tiny_data: Path, tmp_path: Path
) -> None:
    ended = run(start, *training(tiny_data, tmp_path / "run", *TWO, "--set", "patches.batch=5"))
    assert ended.code == 2
    assert [line for line in ended.err.splitlines() if not line.startswith("read images")] == [
        "segkit: patches.batch = 5: cannot be divided evenly among 2 processes. Give a multiple of 2."
    ]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_training_that_diverges_leaves_the_batch_and_its_picture(
    start: Start, tiny_data: Path, tmp_path: Path
) -> None:
    unstable = ("--set", "optimiser.learning_rate=1e30", "--set", "optimiser.clip_norm=0")
    ended = run(start, *training(tiny_data, "run", *unstable))
    assert ended.code == 6, ended.err
    (message,) = messages_of(ended.err)
    found = re.match(r"segkit: training diverged at step (\d+): .*learning rate.*in (run/diverged\S+)\. Try", message)
    assert found, message
    step, path = int(found[1]), tmp_path / found[2]
    assert path == tmp_path / "run" / f"diverged_step_{step}.safetensors"
    batch = load_batch(path)
    assert batch.images.shape == (4, 3, 32, 32)
    assert set(batch.targets.flatten().tolist()) == {0, 1}
    with open_slide(tmp_path / "run" / "figures" / f"diverged_step_{step}.png") as picture:
        assert min(picture.height, picture.width) > 100
    state = checkpoint_of(tmp_path / "run")
    assert all(value.isfinite().all() for value in state["network"].values())
    assert not (tmp_path / "run" / "run.json").exists()
    assert temporary_files(tmp_path) == []


def test_a_wrong_setting_is_told_once_and_nothing_is_started(start: Start, tiny_data: Path, tmp_path: Path) -> None:
    ended = run(start, *training(tiny_data, tmp_path / "run", *TWO, "--set", "seeed=1"))
    assert ended.code == 2
    assert messages_of(ended.err) == ["segkit: the configuration cannot be used:"]
    assert not (tmp_path / "run").exists()
