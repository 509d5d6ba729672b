"""Several processes that train together on this machine, as torchrun or srun would start them."""

import functools
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.processes import Ended, Running

RESULT = "result.json"


def torchrun_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    values = {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return {name: str(value) for name, value in values.items()}


def srun_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What srun sets, and the port."""
    values = {
        "SLURM_PROCID": rank,
        "SLURM_STEP_NUM_TASKS": count,
        "SLURM_LOCALID": rank,
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": count,
        "SLURM_JOB_ID": 7,
        "MASTER_PORT": port,
    }
    return {name: str(value) for name, value in values.items()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Ranks:
    """A function in several processes at once, each in a folder of its own; what it returns is kept as JSON."""

    def __init__(
        self,
        folder: Path,
        function: Callable[..., object],
        *arguments: object,
        count: int = 2,
        environment: Callable[[int, int, int], Mapping[str, str]] = torchrun_environment,
    ) -> None:
        port = free_port()
        self.folders = [folder / f"rank-{rank}" for rank in range(count)]
        self.processes = []
        for rank, own in enumerate(self.folders):
            own.mkdir(parents=True)
            wanted = functools.partial(_keep_result, function, environment(rank, count, port))
            self.processes.append(Running(own, wanted, *arguments))

    def wait(self, seconds: float = 60) -> list[Ended]:
        return [one.wait(seconds) for one in self.processes]

    def results(self, seconds: float = 60) -> list[Any]:
        """What each process has returned."""
        for ended in self.wait(seconds):
            assert ended.code == 0, ended.err
        return [json.loads((folder / RESULT).read_text()) for folder in self.folders]


def _keep_result(function: Callable[..., object], environment: Mapping[str, str], *arguments: str) -> None:
    os.environ.update(environment)
    Path(RESULT).write_text(json.dumps(function(*arguments)))
