"""`--log-json`: nothing but JSON objects on standard error, whatever happens."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.cli.json_log import KEYS, JsonLog, OutputRecords, current_log, log_as_asked, log_error, log_result
from segkit.cli.progress import open_display
from segkit.cli.progress_json import JsonDisplay
from segkit.cli.progress_lines import Pace
from tests.processes import Ended, Start, run
from tests.tiny import make_data

Run = Callable[..., "subprocess.CompletedProcess[str]"]
JSON = "--log-json"


def records_in(text: str) -> list[dict[str, Any]]:
    """Return the objects in a log, each of which has to be as the documentation says."""
    records = []
    for line in text.splitlines():
        record = json.loads(line)
        assert list(record) == ["time", "level", "event", *KEYS[record["event"]]]
        assert datetime.fromisoformat(record["time"]).utcoffset() == timedelta(0)
        assert record["level"] == ("error" if record["event"] == "error" else "info")
        records.append(record)
    return records


def events_in(ended: Ended, event: str) -> list[dict[str, Any]]:
    return [record for record in records_in(ended.err) if record["event"] == event]


def displayed(*calls: tuple[str, int, int, dict[str, Any]], seconds: float = 100.0) -> list[dict[str, Any]]:
    stream, now = io.StringIO(), [0.0]
    display = JsonDisplay(JsonLog(stream), Pace(lambda: now[0]))
    for call in calls:
        display.on_progress(*call)
        now[0] += seconds
    return records_in(stream.getvalue())


def test_progress_is_numbers_with_names() -> None:
    (record,) = displayed(("train", 0, 80, {}), ("train", 20, 80, {"epoch": 1, "loss": 0.5, "dice": None}))
    expected = {"stage": "train", "done": 20, "total": 80, "per_second": 0.2, "seconds_left": 300.0}
    assert {key: record[key] for key in expected} == expected
    assert record["values"] == {"epoch": 1, "loss": 0.5, "dice": None}


def test_what_is_unknown_or_no_number_is_null() -> None:
    (record,) = displayed(("read", 3, 0, {"loss": float("nan"), "file": Path("a.tif")}))
    assert (record["total"], record["per_second"], record["seconds_left"]) == (None, None, None)
    assert record["values"] == {"loss": None, "file": "a.tif"}


def test_an_object_has_all_keys_of_its_event_and_no_others() -> None:
    log = JsonLog(io.StringIO())
    for wrong in ({}, {"text": "x", "more": 1}, {"words": "x"}):
        with pytest.raises(ValueError, match="expected the keys"):
            log.write("note", **wrong)


@given(st.lists(st.text()))
def test_whatever_is_told_stays_in_its_line(texts: list[str]) -> None:
    stream = io.StringIO()
    display = JsonDisplay(JsonLog(stream))
    for text in texts:
        display.on_note(text)
    lines = stream.getvalue().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line)["text"] for line in lines] == texts
    assert stream.getvalue().isascii()  # so that any terminal and any collector takes it


@given(st.lists(st.text(alphabet="ab\n")))
def test_what_others_write_is_kept_in_order(pieces: list[str]) -> None:
    stream = io.StringIO()
    others = OutputRecords(JsonLog(stream), sys.stderr)
    for piece in pieces:
        assert others.write(piece) == len(piece)
    others.end_line()
    told = "".join(record["text"] for record in records_in(stream.getvalue()))
    assert told.replace("\n", "") == "".join(pieces).replace("\n", "")


def test_of_a_line_that_is_begun_anew_the_last_form_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with log_as_asked([JSON]):
        for piece in ("  0 %", "\r 50 %", "\r100 %\r\n"):
            sys.stderr.write(piece)
    assert [record["text"] for record in records_in(capsys.readouterr().err)] == ["100 %"]


def test_a_line_that_is_written_in_pieces_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    with log_as_asked(["info", JSON, "x"]):
        print("half a", "line", file=sys.stderr)
        print("no end", end="", file=sys.stderr)
    assert [record["text"] for record in records_in(capsys.readouterr().err)] == ["half a line", "no end"]


def test_the_flag_alone_makes_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["info", "x"], ["info", "--", JSON], []):
        with log_as_asked(arguments) as log:
            assert log is None
            assert current_log() is None
            assert not log_error(exit_code=3, kind="InputError", message="m")
            assert log_result({})  # has to be printed
            with open_display() as display:
                display.on_note("words")
    assert capsys.readouterr().err == "words\n" * 3
    with log_as_asked([JSON]) as log, open_display() as display:
        assert current_log() is log
        display.on_note("words")
    assert current_log() is None
    assert [record["text"] for record in records_in(capsys.readouterr().err)] == ["words"]


@pytest.mark.parametrize("arguments", [[JSON, "info", "x"], ["info", JSON, "x"], ["info", "x", JSON]])
def test_the_result_goes_into_the_log(run_segkit: Run, arguments: list[str]) -> None:
    ended = run_segkit(*arguments, fake_info="return {'size': float('inf'), 'path': path}")
    assert (ended.returncode, ended.stdout) == (0, "")
    (record,) = records_in(ended.stderr)
    assert record["result"] == {"size": None, "path": "x"}


def test_the_result_is_printed_too_if_that_was_asked_for(run_segkit: Run) -> None:
    ended = run_segkit("info", "x", "--json", JSON, fake_info="return {'size': 3}")
    assert json.loads(ended.stdout) == {"size": 3}
    assert records_in(ended.stderr)[0]["result"] == {"size": 3}


FAILURES = [
    ("raise errors.InputError('x.tif: is cut off.')", 3, "InputError", "x.tif: is cut off.", []),
    ("raise errors.PartialError('1 of 2 failed:', ['x: a\\nb'])", 5, "PartialError", "1 of 2 failed:", ["x: a\nb"]),
    ("raise errors.InterruptedRunError('saved at step 3.', 15)", 143, "InterruptedRunError", "saved at step 3.", []),
    ("raise MemoryError", 4, "ResourceError", "out of memory. Use a smaller --tile or batch, or a machine with", []),
    ("return [1][2]", 1, "IndexError", "this is a bug in segkit: IndexError: list index out of range. The", []),
]


@pytest.mark.parametrize(("body", "code", "kind", "message", "problems"), FAILURES)
def test_an_error_says_its_exit_code(
    run_segkit: Run, body: str, code: int, kind: str, message: str, problems: list[str]
) -> None:
    ended = run_segkit("info", "x", JSON, fake_info=body)
    assert (ended.returncode, ended.stdout) == (code, "")
    (record,) = records_in(ended.stderr)
    assert (record["event"], record["exit_code"], record["kind"]) == ("error", code, kind)
    assert record["message"].startswith(message)
    assert record["problems"] == problems


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", JSON], "Missing argument 'FILE'"),
        (["infoo", JSON], "Did you mean 'info'"),
        (["train", "--epochs", "many", JSON], "--epochs"),
        (["train", JSON], "the configuration cannot be used"),
        ([JSON], "Missing command"),
    ],
)
def test_a_command_line_that_is_not_understood_is_an_error_of_the_log(
    run_segkit: Run, arguments: list[str], words: str
) -> None:
    ended = run_segkit(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    (record,) = records_in(ended.stderr)
    assert record["exit_code"] == 2
    assert words in record["message"]


def test_help_and_version_are_printed_as_ever(run_segkit: Run) -> None:
    for arguments in (["info", JSON, "--help"], [JSON, "--version"]):
        ended = run_segkit(*arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout


def test_what_libraries_write_becomes_objects(run_segkit: Run) -> None:
    body = """
    import logging, threading, warnings
    warnings.warn("a warning")
    logging.getLogger("library").warning("two\\nlines")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    return {}
    """
    ended = run_segkit("info", "x", JSON, "-v", fake_info=body)
    assert ended.returncode == 0
    texts = "\n".join(record["text"] for record in records_in(ended.stderr) if record["event"] == "output")
    for words in ("a warning", "library: two\nlines", "ZeroDivisionError"):
        assert words in texts


TINY = (
    *("--set", "model.base_channels=4", "--set", "model.depth=1", "--set", "patches.size_px=32", "--device", "cpu"),
    *("--set", "patches.batch=4", "--set", "steps_per_epoch=4", "--set", "compute.precision=float32"),
)


def test_a_training_tells_its_epochs_and_its_result(start: Start, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    ended = run(start, "train", "--data", data, "--out", "run", "--epochs", 2, JSON, *TINY)
    assert (ended.code, ended.out) == (0, ""), ended.err
    notes = [record["text"] for record in events_in(ended, "note")]
    assert [note.partition(":")[0] for note in notes if note.startswith("epoch ")] == ["epoch 1/2", "epoch 2/2"]
    assert [record["done"] for record in events_in(ended, "progress") if record["stage"] == "train"][-1] == 8
    (record,) = events_in(ended, "result")
    assert record["result"]["run"] == "run"
    assert "Traceback" not in ended.err


def test_a_training_that_is_stopped_says_so_once(start: Start, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    process = start("train", "--data", data, "--out", tmp_path / "run", "--epochs", 5000, JSON, *TINY)
    process.wait_for((tmp_path / "run" / "metrics.csv").exists)
    process.send(signal.SIGTERM)
    ended = process.wait(30)
    assert (ended.code, ended.out) == (143, "")
    (record,) = events_in(ended, "error")
    assert record["exit_code"] == 143
    assert "stopped after step" in record["message"] or "interrupted" in record["message"]  # within an epoch or between
    assert events_in(ended, "result") == []


def test_problems_are_in_the_result_and_in_the_error(start: Start, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    (data / "masks" / "field0.png").write_bytes(b"no image")
    ended = run(start, "check", data, JSON)
    assert ended.code == 3
    (result,), (error,) = events_in(ended, "result"), events_in(ended, "error")
    assert (error["kind"], error["exit_code"]) == ("InputError", 3)
    assert error["problems"] == result["result"]["problems"]
    assert "field0" in error["problems"][0]
