"""`segkit info` of a model: a table of blocks, of every layer with -v, and both as JSON."""

import json
import logging
from typing import Any

import pytest
from typer.testing import CliRunner

from segkit.cli.app import app
from segkit.cli.info import _in_short
from segkit.workflows import inspect

LAYERS = [
    {"name": "encoder.0.0", "kind": "Conv2d", "output": (8, 64, 64), "parameters": 224, "macs": 884736},
    {"name": "encoder.0.1", "kind": "ReLU", "output": (8, 64, 64), "parameters": 0, "macs": 0},
    {"name": "head", "kind": "Conv2d", "output": (2, 64, 64), "parameters": 18, "macs": 65536},
]
BLOCKS = [{**LAYERS[0], "name": "encoder.0"}, LAYERS[2]]


@pytest.fixture(autouse=True)
def described(monkeypatch: pytest.MonkeyPatch) -> Any:
    facts = {"kind": "model", "parameters": 242, "layers": LAYERS, "blocks": BLOCKS}
    monkeypatch.setattr(inspect, "info", lambda path: dict(facts))
    monkeypatch.setenv("COLUMNS", "120")
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def shown(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, ["info", "m", *arguments])
    assert result.exit_code == 0, result.output
    return [" ".join(line.replace("│", " ").split()) for line in result.stdout.splitlines()]


def test_blocks_are_shown_with_their_total() -> None:
    lines = shown()
    assert "encoder.0 Conv2d 8 x 64 x 64 224 885 k" in lines
    assert "head Conv2d 2 x 64 x 64 18 65.5 k" in lines
    assert "total 242 950 k" in lines
    assert not any("ReLU" in line for line in lines)


@pytest.mark.filterwarnings("default")  # what -v switches on
def test_verbose_shows_every_layer() -> None:
    lines = shown("-v")
    assert "encoder.0.1 ReLU 8 x 64 x 64 0 0" in lines
    assert "total 242 950 k" in lines


def test_json_has_both() -> None:
    result = CliRunner().invoke(app, ["info", "m", "--json"])
    document = json.loads(result.stdout)
    assert [row["name"] for row in document["layers"]] == ["encoder.0.0", "encoder.0.1", "head"]
    assert [row["name"] for row in document["blocks"]] == ["encoder.0", "head"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (999.6, "1 k"), (12345, "12.3 k"), (1e6, "1 M"), (2.5e9, "2.5 G"), (4e12, "4 T")],
)
def test_counts_have_three_digits(count: float, text: str) -> None:
    assert _in_short(count) == text
