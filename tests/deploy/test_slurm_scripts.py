"""The scripts for SLURM do what their comments say: dry runs with commands that stand in for the cluster's."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.deploy.places import DEPLOY, NOTE, SCRIPTS, WORKER, calls, put_commands, tool

ARRAY, SLIDES, TRAIN, TORCHRUN = (
    DEPLOY / "slurm" / name
    for name in ("slides-array.sbatch", "slides-torchrun.sbatch", "train.sbatch", "train-torchrun.sbatch")
)
ARGUMENTS = {
    ARRAY: ["predict", "a b.svs", "--out", "o"],
    SLIDES: ["sliding-window", "a b.svs", "--out", "o"],
    TRAIN: ["--data", "a b", "--out", "o", "--resume", "o"],
    TORCHRUN: ["--data", "a b", "--out", "o", "--resume", "o"],
}
ON_SEVERAL_NODES = {"SLURM_JOB_NODELIST": "node[7,9]", "SLURM_JOB_NUM_NODES": "2"}


def test_there_are_scripts() -> None:
    assert SCRIPTS == [ARRAY, SLIDES, TORCHRUN, TRAIN]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_and_can_be_requeued(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script.read_text(), flags=re.MULTILINE))
    assert options.keys() >= {"requeue", "time", "mem", "open-mode", "output"}
    # To the script itself, in time to write what is begun (Slurm may be up to a minute late).
    matched = re.fullmatch(r"B:USR1@([0-9]+)", options["signal"])
    assert matched
    assert int(matched[1]) >= 120
    lines = script.read_text().splitlines()
    code = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[code:] if line.startswith("#SBATCH")]  # Slurm stops reading there


def test_shellcheck_finds_nothing() -> None:
    ended = subprocess.run([tool("shellcheck"), *SCRIPTS], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def run(script: Path, environ: dict[str, str], *more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", script, *ARGUMENTS[script], *more],
        env=environ,
        check=False,
        timeout=20,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("script", [ARRAY, TRAIN], ids=lambda path: path.name)
def test_a_script_hands_over_its_arguments_and_exits_as_segkit_does(tmp_path: Path, script: Path, code: int) -> None:
    environ = put_commands(tmp_path, segkit=WORKER, scontrol=NOTE) | {"CODE": str(code)}
    assert run(script, environ).returncode == code
    expected = "predict a b.svs --out o" if script == ARRAY else "train --gpus 1 --data a b --out o --resume o"
    assert calls(tmp_path) == [f"segkit {expected}"]


def test_a_training_has_a_process_for_each_gpu_of_the_node(tmp_path: Path) -> None:
    environ = put_commands(tmp_path, segkit=NOTE) | {"SLURM_GPUS_ON_NODE": "4"}
    assert run(TRAIN, environ).returncode == 0
    assert calls(tmp_path)[0].startswith("segkit train --gpus 4 ")


@pytest.mark.parametrize("script", [TRAIN, TORCHRUN], ids=lambda path: path.name)
def test_a_training_that_could_not_go_on_is_refused_before_it_begins(tmp_path: Path, script: Path) -> None:
    environ = put_commands(tmp_path, segkit=NOTE, srun=NOTE, scontrol=NOTE) | ON_SEVERAL_NODES
    ended = subprocess.run(
        ["bash", script, "--data", "d", "--out", "o"], env=environ, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "--out RUN --resume RUN" in ended.stderr
    assert calls(tmp_path) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_segkit_runs_in_what_is_said(tmp_path: Path, script: Path) -> None:
    # Both run what they are given after their options.
    runs = '\nwhile [[ "$1" == --* || "$1" == exec || "$1" == *.sif ]]; do shift; done\nexec "$@"\n'
    environ = put_commands(
        tmp_path, segkit=NOTE, torchrun=NOTE, apptainer=NOTE + runs, srun=NOTE + runs, scontrol="#!/bin/sh\necho n1\n"
    )
    ended = run(script, environ | ON_SEVERAL_NODES | {"SEGKIT_IN": "apptainer exec --nv segkit.sif"})
    assert ended.returncode == 0, ended.stderr
    *before, last = calls(tmp_path)
    assert before[-1].startswith("apptainer exec --nv segkit.sif")
    assert last.startswith("torchrun" if "torchrun" in script.name else "segkit")
    assert before[-1].endswith(last)


@pytest.mark.parametrize(
    ("script", "number", "code_at_term", "requeued"),
    [
        (ARRAY, signal.SIGUSR1, 143, True),  # the time limit
        (ARRAY, signal.SIGTERM, 143, False),  # scancel
        (ARRAY, signal.SIGUSR1, 0, False),  # it was about to finish
        (ARRAY, signal.SIGUSR1, 4, False),
        (TRAIN, signal.SIGUSR1, 143, True),
        (TRAIN, signal.SIGTERM, 143, False),
        (TRAIN, signal.SIGUSR1, 6, False),
        (SLIDES, signal.SIGUSR1, 1, True),  # torchrun's exit code, whatever that of its workers
        (SLIDES, signal.SIGTERM, 1, False),
        (TORCHRUN, signal.SIGUSR1, 1, True),
        (TORCHRUN, signal.SIGTERM, 1, False),
        (TORCHRUN, signal.SIGUSR1, 0, False),
    ],
)
def test_only_the_time_limit_puts_a_job_back_into_the_queue(
    tmp_path: Path, script: Path, number: signal.Signals, code_at_term: int, requeued: bool
) -> None:
    assert signalled(tmp_path, script, number, {"CODE_AT_TERM": str(code_at_term)}) == code_at_term
    assert ("scontrol requeue 41234" in calls(tmp_path)) == requeued


@pytest.mark.parametrize("script", [ARRAY, TRAIN, SLIDES, TORCHRUN], ids=lambda path: path.name)
def test_a_worker_that_ends_before_the_script_looks_keeps_its_exit_code(tmp_path: Path, script: Path) -> None:
    # bash takes a function for its own kill: one that comes back when the worker has ended.
    slow = {"BASH_FUNC_kill%%": '() { builtin kill "$@"; local code=$?; sleep 0.5; return $code; }'}
    assert signalled(tmp_path, script, signal.SIGUSR1, slow) == 143
    assert "scontrol requeue 41234" in calls(tmp_path)


def signalled(folder: Path, script: Path, number: signal.Signals, settings: Mapping[str, str]) -> int:
    """Send a script a signal when its worker is at work, and return its exit code."""
    environ = put_commands(folder, segkit=WORKER, srun=WORKER, scontrol=NOTE + "echo node1\n") | ON_SEVERAL_NODES
    worker = "srun" if "torchrun" in script.name else "segkit"
    with subprocess.Popen(["bash", script, *ARGUMENTS[script]], env=environ | {"TENTHS": "150"} | settings) as running:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if any(call.startswith(worker) for call in calls(folder)) and catches(running.pid, number):
                break
            time.sleep(0.02)
        running.send_signal(number)
        return running.wait(timeout=20)


def catches(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process has set its handler of a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize(
    ("script", "command"),
    [(SLIDES, "sliding-window a b.svs --out o"), (TORCHRUN, "train --data a b --out o --resume o")],
)
def test_the_torchrun_scripts_start_a_worker_for_each_gpu_of_each_node(
    tmp_path: Path, script: Path, command: str
) -> None:
    environ = put_commands(tmp_path, srun=NOTE + "env >> $CALLS\n", scontrol="#!/bin/sh\necho node7; seq 100000\n")
    ended = run(script, environ | ON_SEVERAL_NODES | {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32"})
    assert ended.returncode == 0
    first, *variables = calls(tmp_path)
    assert "--cpus-per-task=32" in first
    assert "--nnodes=2 --nproc-per-node=4" in first
    assert "--rdzv-backend=c10d --rdzv-endpoint=node7:21234" in first
    assert first.endswith(f"-m segkit {command}")
    assert "OMP_NUM_THREADS=8" in variables
    assert ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120" in variables) == (script == TORCHRUN)


def test_the_torchrun_scripts_command_is_understood_by_torchrun_and_segkit(tmp_path: Path) -> None:
    # `srun` runs what it is given after its options, here on this machine.
    srun = (
        '#!/usr/bin/env bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec python -m torch.distributed.run "${@:2}"\n'
    )
    environ = put_commands(tmp_path, srun=srun, scontrol="#!/bin/sh\necho localhost\n") | {
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_ID": str(os.getpid()),
    }
    ended = subprocess.run(
        ["bash", TORCHRUN, "--resume", "o", "--help"],
        env=environ,
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Usage: segkit train" in ended.stdout
