"""Results: tables for people, one JSON document for machines."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.cli.results import as_plain, format_share, print_facts, print_json, print_table

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@dataclass
class Result:
    folder: Path
    scores: dict[str, float]
    sizes: tuple[int, ...]


@given(plain)
def test_what_is_plain_stays_as_it_is(value: Any) -> None:
    assert as_plain(value) == value


def test_a_result_is_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([Result(Path("runs") / "x", {"dice": np.float64(0.5), "iou": math.nan, "hd95": math.inf}, (1, 2))])
    assert json.loads(capsys.readouterr().out) == [
        {"folder": "runs/x", "scores": {"dice": 0.5, "iou": None, "hd95": None}, "sizes": [1, 2]}
    ]


def test_what_has_no_json_form_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="object"):
        as_plain({"key": object()})


def test_tables_show_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title [bold]", ["class", "Dice"], [["[red]x[/red]", "0.5"]])
    print_facts("Facts", {"file": "[1].tif :smile:"})
    out = capsys.readouterr().out
    for words in ("Title [bold]", "[red]x[/red]", "0.5", "[1].tif :smile:"):
        assert words in out


def test_a_share_is_shown_in_per_cent() -> None:
    assert format_share(0.1234) == "12.3 %"
