"""What a person sees when something goes wrong: one message, an exit code, never a traceback."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.cli.failures import explained, printable
from segkit.cli.interruption import Interrupted, translated_signals
from segkit.errors import InputError

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

FAILURES = [
    ("raise errors.SegkitError('a base error')", 1, "segkit: a base error"),
    ("raise errors.UsageError('asked wrongly')", 2, "segkit: asked wrongly"),
    ("raise errors.ConfigError('two wrong:', ['a: 1', 'b: 2'])", 2, "segkit: two wrong:\n  - a: 1\n  - b: 2"),
    ("raise errors.InputError('x.tif: is cut off.')", 3, "segkit: x.tif: is cut off."),
    ("raise errors.ModelError('x.safetensors: is no model.')", 3, "segkit: x.safetensors: is no model."),
    ("raise errors.ResourceError('the disk is full.')", 4, "segkit: the disk is full."),
    ("raise errors.PartialError('1 of 2 failed:', ['x.tif: cut'])", 5, "segkit: 1 of 2 failed:\n  - x.tif: cut"),
    ("raise errors.DivergedError('loss nan at step 3.')", 6, "segkit: loss nan at step 3."),
    ("raise errors.InterruptedRunError('saved at step 3.', 15)", 143, "segkit: saved at step 3."),
    ("raise errors.InputError('a\\nb\\x1b[2J.tif: is cut off.')", 3, "segkit: a\\nb\\x1b[2J.tif: is cut off."),
]


@pytest.mark.parametrize(("body", "code", "message"), FAILURES)
def test_an_error_is_its_message_and_its_exit_code(run_segkit: Run, body: str, code: int, message: str) -> None:
    result = run_segkit("info", "x", fake_info=body)
    assert (result.returncode, result.stdout, result.stderr) == (code, "", f"{message}\n")


@pytest.mark.parametrize(
    "body",
    [
        "raise MemoryError",
        "raise type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory. Tried to allocate 2 GiB')",
    ],
)
def test_running_out_of_memory_is_a_resource_error_with_advice(run_segkit: Run, body: str) -> None:
    result = run_segkit("info", "x", fake_info=body)
    assert result.returncode == 4
    assert "out of " in result.stderr
    assert "--tile" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bug_is_one_line_and_its_traceback_is_in_a_file(run_segkit: Run, tmp_path: Path) -> None:
    result = run_segkit("info", "x", fake_info="return [1][2]")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "bug in segkit: IndexError" in line
    (log,) = tmp_path.glob("segkit-error-*.txt")
    assert str(log) in line
    assert "Traceback" in log.read_text()
    assert "IndexError" in log.read_text()


@pytest.mark.parametrize("arguments", [["-v", "info", "x"], ["info", "x", "-v"], ["info", "--verbose", "x"]])
def test_verbose_shows_the_traceback_of_a_bug(run_segkit: Run, arguments: list[str]) -> None:
    result = run_segkit(*arguments, fake_info="return [1][2]")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "IndexError" in result.stderr


def test_the_traceback_goes_to_the_output_folder_where_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"), explained(log_folder=tmp_path):
        raise ZeroDivisionError("division by zero")
    (log,) = tmp_path.glob("segkit-error-*.txt")
    assert str(log) in capsys.readouterr().err
    assert "ZeroDivisionError" in log.read_text()


def test_a_traceback_that_cannot_be_written_is_admitted(run_segkit: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    body = "import tempfile; tempfile.gettempdir = lambda: str(Path.cwd() / 'file'); raise IndexError('here')"
    result = run_segkit("info", "x", fake_info=body)
    assert result.returncode == 1
    assert "could not be written" in result.stderr
    assert "IndexError: here" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "--epoch", "3"], "--epochs"),
        (["info"], "Missing argument 'FILE'"),
        (["train", "--epochs", "many"], "--epochs"),
        (["train"], "data.dir: is needed and not given"),
        (["train", "--set", "data.dir=d", "--set", "epohs=3"], "did you mean `epochs`?"),
        (["predict", "x.tif", "--tile", "big"], "tile = 'big'"),
        (["evaluate"], "give either --data DIR"),
        (["evaluate", "--data", "d", "--pred", "p", "--truth", "t"], "give either --data DIR"),
        (["evaluate", "--pred", "p"], "give either --data DIR"),
        (["train", "--resume", "run", "--out", "other"], "leave out --config and --out"),
        (["train", "--data", "d", "--config", "none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_a_command_that_cannot_be_understood_ends_in_2(run_segkit: Run, arguments: list[str], words: str) -> None:
    result = run_segkit(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


WAIT = "print('ready', flush=True); import time; time.sleep(60)"
WAIT_AND_CLEAN_UP = f"""
    from segkit.files import atomic_path
    with atomic_path(Path(path)) as temporary:
        temporary.touch()
        {WAIT}
"""
WAIT_IN_A_LOOP_THAT_NOTES_FAILURES = f"""
    for _ in range(3):
        try:
            {WAIT}
        except Exception as error:
            print("went on", flush=True)
"""
WAIT_WHERE_AN_EXCEPTION_GETS_LOST = f"""
    class Loser:
        def __del__(self):
            {WAIT}
    loser = Loser()
    del loser
    import time; time.sleep(60)
"""
WAIT_WHERE_AN_EXCEPTION_BECOMES_ANOTHER = f"""
    try:
        {WAIT}
    except BaseException:
        raise ValueError("says a library") from None
"""
WAIT_WITH_A_SLOW_CLEANING_UP = f"""
    from segkit.files import atomic_path
    with atomic_path(Path(path)) as temporary:
        temporary.touch()
        try:
            {WAIT}
        finally:
            time.sleep(1.2)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "body",
    [
        WAIT,
        WAIT_AND_CLEAN_UP,
        WAIT_IN_A_LOOP_THAT_NOTES_FAILURES,
        WAIT_WHERE_AN_EXCEPTION_GETS_LOST,
        WAIT_WHERE_AN_EXCEPTION_BECOMES_ANOTHER,
        WAIT_WITH_A_SLOW_CLEANING_UP,
    ],
)
def test_a_signal_stops_the_command_with_its_exit_code(
    start_segkit: Start, tmp_path: Path, body: str, number: signal.Signals, code: int
) -> None:
    process = start_segkit("info", tmp_path / "result.bin", fake_info=body)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert err.startswith("segkit: interrupted.")
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_ends_even_a_command_that_is_stuck(start_segkit: Start) -> None:
    body = f"""
    try:
        {WAIT}
    finally:
        print('stuck', flush=True)
        time.sleep(60)
"""
    process = start_segkit("info", "x", fake_info=body)
    assert process.stdout is not None
    for line in ("ready\n", "stuck\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_forked_worker_says_nothing_about_a_signal(number: signal.Signals) -> None:
    with translated_signals():
        worker = os.fork()
        if worker == 0:
            try:
                os.kill(os.getpid(), number)
            except Interrupted:
                os._exit(77)
            os._exit(0)
        _, status = os.waitpid(worker, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_earlier_handlers_are_back_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted), translated_signals():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_reader_that_leaves_is_no_error(start_segkit: Start) -> None:
    process = start_segkit("info", "x", "--json", fake_info="return {'much': ['x' * 100] * 100_000}")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=30) == 128 + signal.SIGPIPE
    assert process.stderr.read() == ""
    process.stderr.close()


def test_warnings_and_logs_of_libraries_are_for_the_verbose(run_segkit: Run) -> None:
    body = "import logging, warnings; logging.getLogger('tifffile').error('noise'); warnings.warn('noise'); return {}"
    assert run_segkit("info", "x", fake_info=body).stderr == ""
    assert run_segkit("info", "x", "-v", fake_info=body).stderr.count("noise") >= 2


def test_a_success_passes_through() -> None:
    with explained():
        result = 1
    assert result == 1


def test_text_that_would_steer_the_terminal_is_shown_as_escapes() -> None:
    assert printable("a\x1b[31mb\r\n\x07ü\udcff") == "a\\x1b[31mb\\r\\n\\x07ü\\udcff"


def test_a_message_keeps_its_problems_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="3"), explained():
        raise InputError("images: 2 problems:", ["a.png: cut", "b.png:\ncut"])
    assert capsys.readouterr().err == "segkit: images: 2 problems:\n  - a.png: cut\n  - b.png:\\ncut\n"
