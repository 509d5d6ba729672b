"""Commands and functions as processes of their own, which can be killed, without the imports' seconds each time.

A server process imports segkit once and forks for every call (multiprocessing's forkserver). Whoever wants the
whole way from the interpreter's start uses `python -m segkit` (tests/cli/conftest.py).
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

SECONDS = 60.0
PRELOADED = [
    *("segkit.cli.app", "segkit.data.warp", "torch.utils.data", "rich.console", "rich.table"),
    *(f"segkit.workflows.{name}" for name in ("train", "predict", "sliding_window", "evaluate", "compare", "inspect")),
]
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the number of the signal that killed it) and what it wrote."""

    code: int | None
    out: str
    err: str


class Running:
    """A function in a process of its own, in a folder, with what it writes in files there."""

    def __init__(self, folder: Path, function: Callable[..., object], *arguments: object) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        _CONTEXT.set_forkserver_preload(PRELOADED)
        self._folder = folder
        self._process: ForkServerProcess = _CONTEXT.Process(
            target=_run_in, args=(folder, function, tuple(str(one) for one in arguments))
        )
        self._process.start()

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals, *, to_group: bool = False) -> None:
        """Send a signal to the process, or to its children, too, as a terminal does for Ctrl-C."""
        pid = self._process.pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_group else os.kill)(pid, number)

    def children(self) -> list[int]:
        """Return the process ids of its children."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        return [pid for pid, parent in parents.items() if parent == self._process.pid]

    def wait(self, seconds: float = SECONDS) -> Ended:
        """Wait for the end; a process that takes longer is killed, and the test fails."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            pytest.fail(f"still running after {seconds} s: {self._read('err')}")
        return Ended(self._process.exitcode, self._read("out"), self._read("err"))

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until something is so, or the process has ended; look often, to be there when it happens."""
        end = time.monotonic() + SECONDS
        while self.is_running and not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.002)

    def _read(self, name: str) -> str:
        return (self._folder / f".{name}").read_text()


Start = Callable[..., Running]
"""Starts a command with arguments; the fixture `start` gives one."""


def run(start: Start, *arguments: object) -> Ended:
    return start(*arguments).wait()


def message_of(ended: Ended) -> str:
    """The message of a command that failed, of which nothing else of the kind was shown."""
    assert "Traceback" not in ended.err
    return "\n".join(line for line in ended.err.splitlines() if line.startswith(("segkit: ", "  - ")))


def temporary_files(folder: Path) -> list[Path]:
    """The files that are being written, but for the one that a folder is tried with."""
    return [path for path in folder.rglob(".*.partial") if not path.name.startswith(".write-test")]


def in_words(folder: Path) -> dict[str, bytes]:
    """What is in a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outputs_in(folder: Path) -> dict[str, bytes]:
    """What a command left under its final name, without its record; parts are on the way there."""
    return {
        name: content
        for name, content in in_words(folder).items()
        if name not in {"run.json", ".lock"} and not name.startswith(("parts/", "."))
    }


def parts_in(folder: Path) -> dict[str, bytes]:
    """The parts of a slide's result that are finished; those being written come and go meanwhile."""
    paths = [path for path in (folder / "parts").rglob("*.safetensors") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@contextlib.contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Let files of this process grow to `size` bytes only, which to a program looks like a full disk."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def segkit(*arguments: str) -> None:
    """Be the command `segkit`."""
    from segkit.cli import main

    sys.argv = ["segkit", *arguments]
    main()


def with_full_disk(limit: str, *arguments: str) -> None:
    """Be the command `segkit` where no file can grow beyond so many bytes."""
    with limited_file_size(int(limit)):
        segkit(*arguments)


def _run_in(folder: Path, function: Callable[..., object], arguments: tuple[str, ...]) -> None:
    # As in a process that was started from a shell, and not as in one that this server has forked.
    multiprocessing.set_start_method(None, force=True)
    os.setsid()
    os.chdir(folder)
    for number, name in ((1, ".out"), (2, ".err")):
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    function(*arguments)
