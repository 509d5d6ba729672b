"""A sweep over learning rates: what it proposes and leaves, and that it leaves everything else alone."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from segkit.config import TrainConfig
from segkit.slides import open_slide
from segkit.workflows.find_lr import RateResult, find_lr
from tests.processes import Running, in_words, message_of, segkit
from tests.tiny import make_data, tiny_config, tiny_point_config

LEFT = {"learning_rates.csv", "learning_rates.png"}


def rows_of(table: Path) -> list[tuple[float, float]]:
    with table.open(newline="") as handle:
        return [(float(row["learning_rate"]), float(row["loss"])) for row in csv.DictReader(handle)]


@pytest.fixture(scope="module")
def config(tiny_data: Path) -> TrainConfig:
    # Adam's first steps are as long as the rate, whatever the gradient: it shows where learning begins.
    return tiny_config(tiny_data, "optimiser.name=adam", "augment.preset=none")


@pytest.fixture(scope="module")
def found(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> RateResult:
    """A sweep; not to be changed."""
    return find_lr(config, tmp_path_factory.mktemp("sweep") / "out", low=1e-5, high=10.0, steps=80)


def test_a_rate_within_the_sweep_is_proposed_with_curve_and_table(found: RateResult) -> None:
    assert found.rate is not None
    assert 1e-5 < found.rate < 1
    assert "the loss falls fastest at" in found.reason
    rows = rows_of(found.table)
    assert 10 <= len(rows) <= 80
    assert rows[0][0] == 1e-5
    assert all(low < high for (low, _), (high, _) in itertools.pairwise(rows))
    with open_slide(found.picture) as picture:
        assert min(picture.height, picture.width) > 100
    assert {path.name for path in found.table.parent.iterdir()} == LEFT


def test_what_decides_is_drawn_and_written_down(
    config: TrainConfig, found: RateResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr("segkit.workflows.find_lr.draw_lr_curve", lambda *given, **named: drawn.append(named))
    result = find_lr(config, tmp_path / "out", low=1e-5, high=10.0, steps=80)
    assert result.reason == found.reason
    ((smoothed, steepest, lowest),) = [(one["smoothed"], one["steepest"], one["lowest"]) for one in drawn]
    assert f"falls fastest at {steepest:.1e} and reaches its lowest level at {lowest:.1e}" in result.reason
    with result.table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["smoothed_loss"] for row in rows if row["smoothed_loss"]] == [str(value) for value in smoothed]
    assert len(smoothed) >= 10


def test_the_same_sweep_again_is_the_same(config: TrainConfig, found: RateResult, tmp_path: Path) -> None:
    steps: list[tuple[int, int, float]] = []
    again = find_lr(
        config,
        tmp_path / "out",
        low=1e-5,
        high=10.0,
        steps=80,
        on_progress=lambda stage, done, total, info: (
            steps.append((done, total, info["rate"])) if stage == "sweep" else None
        ),
    )
    assert (again.rate, again.reason) == (found.rate, found.reason)
    assert again.table.read_bytes() == found.table.read_bytes()
    rates = [rate for rate, _ in rows_of(again.table)]
    assert [(done, total) for done, total, _ in steps] == [(number, 80) for number in range(1, len(rates) + 1)]
    assert [rate for _, _, rate in steps] == pytest.approx(rates)


def test_a_sweep_that_shows_nothing_proposes_nothing(config: TrainConfig, tmp_path: Path) -> None:
    result = find_lr(config, tmp_path / "out", low=1e-12, high=1e-10, steps=30)
    assert result.rate is None
    assert "does not fall anywhere from 1.0e-12 to 1.0e-10" in result.reason
    assert len(rows_of(result.table)) == 30
    assert result.picture.exists()


def test_a_sweep_that_diverges_at_once_is_given_up(config: TrainConfig, tmp_path: Path) -> None:
    result = find_lr(config, tmp_path / "out", low=1e20, high=1e30, steps=30)
    assert result.rate is None
    assert "begin with a smaller rate" in result.reason
    assert len(rows_of(result.table)) < 10


def test_points_are_swept_too(tiny_point_data: Path, tmp_path: Path) -> None:
    result = find_lr(tiny_point_config(tiny_point_data), tmp_path / "out", low=1e-5, high=1.0, steps=40)
    assert result.rate is None or 1e-5 <= result.rate <= 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == LEFT


def test_the_command_prints_the_setting_and_touches_nothing_else(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    before = in_words(data)
    command = (
        *("find-lr", "--data", data, "--device", "cpu", "--low", "1e-5", "--high", 10, "--steps", 60),
        *("--set", "model.base_channels=4", "--set", "model.depth=1", "--set", "patches.size_px=32"),
        *("--set", "patches.batch=4", "--set", "optimiser.name=adam", "--set", "augment.preset=none"),
    )
    ended = Running(tmp_path, segkit, *command).wait()
    assert ended.code == 0, ended.err
    (setting,) = [line for line in ended.out.splitlines() if "--set" in line]
    rate = float(setting.removeprefix("  --set optimiser.learning_rate="))
    assert 1e-5 < rate < 10
    assert in_words(data) == before
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"data", "find_lr"}
    assert {path.name for path in (tmp_path / "find_lr").iterdir()} == LEFT
    as_json = Running(tmp_path, segkit, *command[:-4], "--low", "1e-12", "--high", "1e-10", "--json").wait()
    assert as_json.code == 0, as_json.err
    document = json.loads(as_json.out)
    assert document["rate"] is None
    assert "sweep other rates" in document["reason"]


@pytest.mark.parametrize(("low", "high"), [(1, 1), (0, 1), (2, 1), (1e-3, "inf"), (-1, 1), ("nan", 1)])
def test_rates_that_make_no_sense_are_refused(tmp_path: Path, low: object, high: object) -> None:
    ended = Running(tmp_path, segkit, "find-lr", "--data", tmp_path, f"--low={low}", f"--high={high}").wait()
    assert ended.code == 2
    assert "the rates have to be above 0, the first below the second" in message_of(ended)
    assert not (tmp_path / "find_lr").exists()
