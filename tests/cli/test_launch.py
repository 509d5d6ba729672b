"""Starting the command again as several processes."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from torch.distributed.launcher import api

from segkit.cli.launch import launch
from segkit.training import loading


def test_processes_divide_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container these are fewer than the machine has."""
    threads: list[str] = []

    def started(*_: Any) -> Callable[..., None]:
        return lambda *_: threads.append(os.environ["OMP_NUM_THREADS"])

    monkeypatch.setattr(api, "elastic_launch", started)
    monkeypatch.setattr(loading, "usable_cores", lambda: 6)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch(2, ["train"]) == 0
    assert threads == ["3"]
    os.environ.pop("OMP_NUM_THREADS")  # which launch has set
