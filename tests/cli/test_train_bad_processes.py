"""Commands that cannot be carried out, as processes: one message, the exit code of its kind, nothing left behind."""

from pathlib import Path

import pytest

from tests.processes import Ended, Running, Start, message_of, run, with_full_disk
from tests.tiny import make_data
from tests.workflows.bad_input import without_objects

TINY = ("--set", "model.depth=1", "--set", "model.base_channels=4", "--set", "patches.size_px=32", "--epochs", "1")


def message_alone(ended: Ended, code: int) -> str:
    assert ended.code == code, ended.err
    message = message_of(ended)
    assert message.count("segkit: ") == 1, ended.err
    return message


@pytest.mark.parametrize("more", [(), ("--gpus", "2")])
def test_a_folder_that_is_no_run_cannot_be_resumed(start: Start, tmp_path: Path, more: tuple[str, ...]) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder", "nothing"):
        message = message_alone(run(start, "train", "--resume", name, *more), 2)
        assert message.startswith(f"segkit: --resume {name}: is no run folder (there is no config.yaml in it).")
    assert not list((tmp_path / "folder").iterdir())


def test_a_run_of_an_earlier_version_cannot_be_resumed(start: Start, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f"data:\n  dir: {tiny_data}\nloss: cross_entropy\n")
    message = message_alone(run(start, "train", "--resume", "run"), 2)
    assert message.startswith("segkit: run/config.yaml: cannot be gone on with: another version of segkit wrote it")
    assert "  - loss = 'cross_entropy': is a section" in message


@pytest.mark.parametrize("command", ["train", "find-lr", "preview"])
def test_all_commands_refuse_what_training_refuses(start: Start, tiny_data: Path, command: str) -> None:
    for settings, problem in {
        ("optimiser.learning_rate=.inf",): "  - optimiser.learning_rate = inf: should be a finite number",
        ("augment.extra=[{name: RandomShadw}]",): "The nearest names: RandomShadow",
        ("points.match_radius=5px",): "  - points.match_radius = 5px: is of learning from points",
    }.items():
        options = [word for setting in settings for word in ("--set", setting)]
        assert problem in message_alone(run(start, command, "--data", tiny_data, *options), 2)


def test_a_cache_on_a_full_disk_ends_in_4(tiny_data: Path, tmp_path: Path) -> None:
    command = ("train", "--data", tiny_data, "--out", "run", "--cache", "cache", *TINY)
    message = message_alone(Running(tmp_path, with_full_disk, 8000, *command).wait(), 4)
    assert message.startswith("segkit: cache: decoded images cannot be kept there (File too large).")
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_two_processes_say_once_what_is_wrong_with_the_data(start: Start, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    without_objects("val")(data)
    ended = run(start, "train", "--data", data, "--out", "run", "--device", "cpu", "--gpus", "2", *TINY)
    assert "the validation images have no pixels of a class" in message_alone(ended, 3)
