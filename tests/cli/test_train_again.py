"""One command that begins a training and goes on with it (`--out RUN --resume RUN`), as schedulers give it again."""

import signal
from pathlib import Path

import pytest

from segkit.config import TrainConfig, build_config
from segkit.models.model_file import load_model
from segkit.training.checkpoint import newest_step
from tests.processes import Start, in_words, message_of, run

TINY = (
    *("--set", "model.base_channels=4", "--set", "model.depth=1", "--set", "patches.batch=4", "--epochs", 2),
    *("--set", "steps_per_epoch=40", "--set", "compute.precision=float32", "--device", "cpu"),
)
SETTINGS = "patches:\n  size_px: 32\nmodel:\n  dropout: auto\noptimiser:\n  learning_rate: 0.01\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    return tmp_path / "settings.yaml"


def command(data: Path, run_folder: Path, config: Path) -> tuple[object, ...]:
    again = ("--out", run_folder, "--resume", run_folder)
    return ("train", "--data", data, "--config", config, *again, *TINY)


def test_the_same_command_begins_goes_on_and_leaves_what_is_finished(
    start: Start, tiny_data: Path, config: Path, tmp_path: Path
) -> None:
    whole = run(start, *command(tiny_data, tmp_path / "whole", config))
    assert whole.code == 0, whole.err
    run_folder = tmp_path / "run"
    process = start(*command(tiny_data, run_folder, config))
    process.wait_for(lambda: newest_step(run_folder / "checkpoints") is not None)
    process.send(signal.SIGTERM)
    assert process.wait().code == 143
    ended = run(start, *command(tiny_data, run_folder, config))
    assert ended.code == 0, ended.err
    assert f"resumed from {run_folder}" in ended.err
    assert load_model(run_folder).sha256 == load_model(tmp_path / "whole").sha256
    before = in_words(run_folder)
    ended = run(start, *command(tiny_data, run_folder, config))
    assert ended.code == 0, ended.err
    assert "is finished" in ended.err
    log = before.pop("log.txt")
    after = in_words(run_folder)
    assert after.pop("log.txt").startswith(log)
    assert after == before
    # Another configuration is another training, whose command is not the same.
    config.write_text(SETTINGS.replace("0.01", "0.02"))
    refused = run(start, *command(tiny_data, run_folder, config), "--epochs", 3)
    assert refused.code == 2
    assert message_of(refused).endswith("  - optimiser.learning_rate = 0.02")
    assert in_words(run_folder).keys() == before.keys() | {"log.txt"}


def test_a_run_that_was_stopped_before_its_first_checkpoint_is_begun(
    start: Start, tiny_data: Path, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 3\n")
    ended = run(start, *command(tiny_data, tmp_path / "run", config), "--epochs", 1, "--set", "steps_per_epoch=2")
    assert ended.code == 0, ended.err
    assert build_config(TrainConfig, file=tmp_path / "run" / "config.yaml").seed == 0


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("", (48, 0.1, "adam")),
        ("patches:\n  size_px: auto\n", (48, 0.1, "adam")),
        ("patches:\n  size_px: 64\noptimiser:\n  name: sgd\n", (64, 0.1, "sgd")),
    ],
)
def test_a_file_goes_before_what_was_resolved_where_it_says_something(
    tmp_path: Path, file: str, expected: tuple[object, ...]
) -> None:
    (tmp_path / "base.yaml").write_text(
        "data:\n  dir: d\npatches:\n  size_px: 48\noptimiser:\n  learning_rate: 0.1\n  name: adam\n"
    )
    (tmp_path / "file.yaml").write_text(file)
    built = build_config(TrainConfig, base=tmp_path / "base.yaml", file=tmp_path / "file.yaml")
    assert (built.patches.size_px, built.optimiser.learning_rate, built.optimiser.name) == expected
    flagged = build_config(
        TrainConfig, base=tmp_path / "base.yaml", file=tmp_path / "file.yaml", flags={"patches.size_px": 16}
    )
    assert flagged.patches.size_px == 16
