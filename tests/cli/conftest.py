"""The command line as a process of its own, with a workflow that does what a test wants."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import Running, Start, segkit

# Stands in for segkit.workflows.inspect, whose `info` is the shortest way through the command line.
WITH_FAKE_INFO = """
import sys, types
from pathlib import Path
from segkit import errors
def info(path):
    {body}
sys.modules["segkit.workflows.inspect"] = types.SimpleNamespace(info=info)
from segkit.cli import main
main()
"""

Segkit = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a command in a folder of this test; none outlives the test."""
    running: list[Running] = []

    def start_one(*arguments: object) -> Running:
        running.append(Running(tmp_path, segkit, *arguments))
        return running[-1]

    yield start_one
    for one in running:
        one.send(signal.SIGKILL, to_group=True)


@pytest.fixture
def start_segkit(tmp_path: Path) -> Segkit:
    """Return a function that starts `segkit ARGUMENTS`; `fake_info` is the body of what `segkit info` calls."""

    def start(*arguments: object, fake_info: str | None = None, **environment: str) -> "subprocess.Popen[str]":
        code = ["-m", "segkit"] if fake_info is None else ["-c", WITH_FAKE_INFO.format(body=fake_info)]
        return subprocess.Popen(
            [sys.executable, *code, *(str(argument) for argument in arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path), **environment},
        )

    return start


@pytest.fixture
def run_segkit(start_segkit: Segkit) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return a function that runs `segkit ARGUMENTS` to its end."""

    def run(*arguments: object, **options: str) -> "subprocess.CompletedProcess[str]":
        process = start_segkit(*arguments, **options)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run
