"""Progress: few lines in a log, a bar on a terminal."""

import io

import pytest
from rich.console import Console

from segkit.cli.progress import open_display
from segkit.cli.progress_bar import BarDisplay
from segkit.cli.progress_lines import MOST_LINES_AT_ONCE, LineDisplay, format_info, format_seconds


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of(seconds_per_step: float, steps: int, stage: str = "train") -> list[str]:
    stream, clock = io.StringIO(), Clock()
    display = LineDisplay(stream, clock)
    for done in range(steps + 1):
        display.on_progress(stage, done, steps, {"loss": 0.123456})
        clock.now += seconds_per_step
    return stream.getvalue().splitlines()


def test_a_fast_stage_is_one_line_at_its_end() -> None:
    assert lines_of(0.001, 1000) == ["train 1000/1000 (100 %), 1e+03/s, loss 0.1235"]


def test_a_slow_stage_is_a_line_every_ten_seconds_with_rate_and_time_left() -> None:
    lines = lines_of(1.0, 100)
    assert len(lines) == 10
    assert lines[0] == "train 10/100 (10 %), 1/s, 1 min 30 s left, loss 0.1235"
    assert lines[-1] == "train 100/100 (100 %), 1/s, loss 0.1235"


def test_a_stage_of_unknown_length_shows_what_is_done() -> None:
    stream, clock = io.StringIO(), Clock()
    display = LineDisplay(stream, clock)
    for done in (0, 50):
        display.on_progress("read", done, 0, {})
        clock.now += 20.0
    assert stream.getvalue().splitlines()[-1] == "read 50, 2.5/s"


def test_a_stage_that_starts_again_has_a_rate_of_its_own() -> None:
    stream, clock = io.StringIO(), Clock()
    display = LineDisplay(stream, clock)
    for stage, done, seconds in [("a", 0, 0), ("a", 10, 1), ("b", 0, 100), ("b", 10, 5), ("a", 0, 100), ("a", 10, 2)]:
        clock.now += seconds
        display.on_progress(stage, done, 10, {})
    assert [line.partition("), ")[2] for line in stream.getvalue().splitlines()] == ["10/s", "2/s", "5/s"]


def test_many_short_stages_are_few_lines_in_the_long_run() -> None:
    stream, clock = io.StringIO(), Clock()
    display = LineDisplay(stream, clock)
    for number in range(10_000):
        display.on_progress(f"image {number}", 1, 1, {})
        clock.now += 0.01
    lines = stream.getvalue().splitlines()
    assert MOST_LINES_AT_ONCE + 95 < len(lines) <= MOST_LINES_AT_ONCE + 100
    assert lines[:MOST_LINES_AT_ONCE] == [f"image {n} 1/1 (100 %)" for n in range(MOST_LINES_AT_ONCE)]


def test_lines_are_written_again_after_a_pause() -> None:
    stream, clock = io.StringIO(), Clock()
    display = LineDisplay(stream, clock)
    for number in range(100):
        display.on_progress(f"image {number}", 1, 1, {})
    assert len(stream.getvalue().splitlines()) == MOST_LINES_AT_ONCE
    clock.now += 3.0
    for number in range(100):
        display.on_progress(f"image {number}", 1, 1, {})
    assert len(stream.getvalue().splitlines()) == MOST_LINES_AT_ONCE + 3


def test_notes_stay() -> None:
    stream = io.StringIO()
    LineDisplay(stream).on_note("model: runs/x")
    assert stream.getvalue() == "model: runs/x\n"


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with open_display() as display:
        display.on_progress("train", 3, 3, {})
    captured = capsys.readouterr()
    assert captured.err.startswith("train 3/3 (100 %)")
    assert captured.out == ""


def drawn(*calls: tuple[str, int, int, dict[str, object]]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, markup=False, color_system=None)
    with BarDisplay(console) as display:
        for call in calls:
            display.on_progress(*call)
        display.on_note("a [note]")
    return stream.getvalue()


def test_the_bar_shows_stage_steps_and_values() -> None:
    text = drawn(("slide [1].tif", 30, 120, {"epoch": 3, "loss": 0.5}))
    for words in ("slide [1].tif", "30/120", "epoch 3, loss 0.5", "a [note]"):
        assert words in text


def test_a_stage_that_starts_again_moves_its_bar_back() -> None:
    last_frame = drawn(("validate", 5, 5, {}), ("validate", 1, 5, {})).rpartition("validate")[2]
    assert "1/5" in last_frame


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_values_for_people() -> None:
    assert format_info({"epoch": 3, "loss": 0.123456, "dice": None, "note": "x"}) == "epoch 3, loss 0.1235, note x"
