"""The files for clusters: scripts do what their comments say, the manifest fits segkit, the text fits the files."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from segkit import errors
from segkit.cli.app import load_command
from segkit.workflows.sharing import current_share

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
ARRAY = DEPLOY / "slurm" / "predict-array.sbatch"
TORCHRUN = DEPLOY / "slurm" / "predict-torchrun.sbatch"
MANIFEST = DEPLOY / "kubernetes" / "predict-indexed-job.yaml"
SCRIPTS = sorted(DEPLOY.glob("slurm/*.sbatch"))
README = (DEPLOY / "README.md").read_text(encoding="utf-8")

# A command that notes how it was called; on SIGTERM segkit stops with 143, as the real one does.
NOTE = '#!/usr/bin/env bash\nprintf "%s\\n" "$(basename "$0") $*" >> "$CALLS"\n'
WORKER = (
    NOTE
    + 'trap "exit ${CODE_AT_TERM:-143}" TERM\nfor _ in $(seq "${TENTHS:-0}"); do sleep 0.1; done\nexit "${CODE:-0}"\n'
)


def put_commands(folder: Path, **commands: str) -> dict[str, str]:
    """Write commands into a folder and return an environment in which they come first."""
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TORCHELASTIC_"))}
    path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return clean | {"PATH": path, "CALLS": str(folder / "calls"), "SLURM_JOB_ID": "41234"}


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


def test_there_are_scripts() -> None:
    assert SCRIPTS == [ARRAY, TORCHRUN]


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


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5])
def test_the_array_script_hands_over_its_arguments_and_exits_as_segkit_does(tmp_path: Path, code: int) -> None:
    environ = put_commands(tmp_path, segkit=WORKER, scontrol=NOTE) | {"CODE": str(code)}
    ended = subprocess.run(["bash", ARRAY, "a b.svs", "--out", "o"], env=environ, check=False, timeout=20)
    assert ended.returncode == code
    assert calls(tmp_path) == ["segkit predict a b.svs --out o"]


@pytest.mark.parametrize(
    ("script", "number", "code_at_term", "requeued"),
    [
        (ARRAY, signal.SIGUSR1, 143, True),  # the time limit
        (ARRAY, signal.SIGTERM, 143, False),  # scancel
        (ARRAY, signal.SIGUSR1, 0, False),  # it was about to finish
        (ARRAY, signal.SIGUSR1, 4, False),
        (TORCHRUN, signal.SIGUSR1, 1, True),  # torchrun's exit code, whatever that of its workers
        (TORCHRUN, signal.SIGTERM, 1, False),
        (TORCHRUN, signal.SIGUSR1, 0, False),
    ],
)
def test_only_the_time_limit_puts_a_job_back_into_the_queue(
    tmp_path: Path, script: Path, number: signal.Signals, code_at_term: int, requeued: bool
) -> None:
    environ = put_commands(tmp_path, segkit=WORKER, srun=WORKER, scontrol=NOTE + "echo node1\n") | {
        "TENTHS": "150",
        "CODE_AT_TERM": str(code_at_term),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
    }
    worker = "segkit" if script == ARRAY else "srun"
    with subprocess.Popen(["bash", script, "slide.svs"], env=environ) as running:
        deadline = time.monotonic() + 20
        while not any(call.startswith(worker) for call in calls(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)  # until its trap is set
        running.send_signal(number)
        assert running.wait(timeout=10) == code_at_term
    assert ("scontrol requeue 41234" in calls(tmp_path)) == requeued


def test_the_torchrun_script_starts_a_worker_for_each_gpu_of_each_node(tmp_path: Path) -> None:
    environ = put_commands(tmp_path, srun=NOTE + "env >> $CALLS\n", scontrol="#!/bin/sh\necho node7; echo node9\n") | {
        "SLURM_JOB_NODELIST": "node[7,9]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "32",
    }
    assert subprocess.run(["bash", TORCHRUN, "slide.svs"], env=environ, check=False, timeout=20).returncode == 0
    first, *variables = calls(tmp_path)
    assert "--cpus-per-task=32" in first
    assert "--nnodes=2 --nproc-per-node=4" in first
    assert "--rdzv-backend=c10d --rdzv-endpoint=node7:21234" in first
    assert first.endswith("-m segkit predict slide.svs")
    assert "OMP_NUM_THREADS=8" in variables


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
        ["bash", TORCHRUN, "--help"], env=environ, check=False, timeout=60, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "Usage: segkit predict" in ended.stdout


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    (document,) = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    assert (document["apiVersion"], document["kind"]) == ("batch/v1", "Job")
    spec: dict[str, Any] = document["spec"]
    return spec


def test_every_pod_of_the_job_knows_its_share(job: dict[str, Any]) -> None:
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] <= job["completions"]
    (container,) = job["template"]["spec"]["containers"]
    environ = {one["name"]: one["value"] for one in container["env"]}
    shares = [current_share(None, environ | {"JOB_COMPLETION_INDEX": str(i)}) for i in range(job["completions"])]
    assert [share.number for share in shares] == list(range(1, job["completions"] + 1))
    assert {share.count for share in shares} == {job["completions"]}


def test_an_index_that_cannot_succeed_fails_at_once_and_alone(job: dict[str, Any]) -> None:
    assert job["backoffLimitPerIndex"] >= 1
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    eviction, hopeless = job["podFailurePolicy"]["rules"]  # the first that applies
    assert eviction == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    assert hopeless["action"] == "FailIndex"
    condition = hopeless["onExitCodes"]
    assert condition["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    assert condition["operator"] == "In"
    kinds = (errors.UsageError, errors.InputError, errors.PartialError)
    assert condition["values"] == [kind.exit_code for kind in kinds]


def test_the_pods_have_no_more_rights_than_they_need(job: dict[str, Any]) -> None:
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_the_pods_command_can_be_parsed(job: dict[str, Any]) -> None:
    name, *arguments = job["template"]["spec"]["containers"][0]["args"]
    assert name == "predict"
    parameters = load_command(name).make_context(name, [*arguments]).params  # click empties the list
    assert [str(path) for path in parameters["inputs"]] == arguments[:1]
    assert "--model" in arguments  # which run is the newest may change between two pods


def shown_commands() -> list[str]:
    inline = re.findall(r"`((?:sbatch|kubectl) [^`]+)`", README)
    in_files = [
        line.removeprefix("#").strip()
        for path in [*SCRIPTS, MANIFEST]
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"#   (sbatch|kubectl) ", line)
    ]
    return [*inline, *in_files]


@pytest.mark.parametrize("command", shown_commands())
def test_a_command_that_is_shown_names_a_file_and_can_be_parsed(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "kubectl":
        assert words[1] == "delete" or (DEPLOY.parent / words[words.index("-f") + 1]).is_file()
        return
    script = next(number for number, word in enumerate(words) if word.endswith(".sbatch"))
    assert (DEPLOY.parent / words[script]).is_file()
    arguments = words[script + 1 :]
    assert len(load_command("predict").make_context("predict", [*arguments]).params["inputs"]) == 1
    assert "--model" in arguments


def test_every_file_is_explained_with_its_command() -> None:
    for path in [*SCRIPTS, MANIFEST]:
        assert f"]({path.relative_to(DEPLOY)})" in README
        assert sum(str(path.relative_to(DEPLOY.parent)) in command for command in shown_commands()) == 2


def test_the_exit_codes_are_those_of_the_errors(job: dict[str, Any]) -> None:
    table = {int(row[0]): row[-1] for row in re.findall(r"^\| ([0-9]+) \|.*\| ([^|]*) \|$", README, flags=re.MULTILINE)}
    known = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    known -= {errors.DivergedError.exit_code}  # training only
    assert table.keys() == known | {0, 128 + signal.SIGTERM, 128 + signal.SIGKILL}
    failing = {code for code, what in table.items() if what == "the index fails at once"}
    assert failing == set(job["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"])
