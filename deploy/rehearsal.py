"""Rehearse preemption with the very scripts and manifests of this folder, and write down what came of it.

    python deploy/rehearsal.py [--steps 64] [--size 3072] [--record deploy/rehearsal.md]

A scheduler that is played by this program starts a job, stops it at random moments as SLURM or Kubernetes would, puts
it back into the queue if they would, and starts it again with the same command, until it ends by itself:

- time limit: SIGUSR1 to the job's script, in time before the end (`#SBATCH --signal`); requeued if the script asks so;
- preempted, drained: SIGTERM, the grace time, then SIGKILL to whatever is left; requeued by the scheduler;
- node lost: SIGKILL to all processes of the job at once; requeued by the scheduler.

*Identical*: of a training all tensors of model.safetensors and of the last checkpoint, the losses and the scores; of a
slide every file but run.json. Bit for bit as the same job left them that nobody has stopped. *Done twice*: steps or
tiles computed by all attempts together beyond those of one job, as they are counted while they are computed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: sums in the same order, also where cores are shared
REPOSITORY = Path(__file__).resolve().parent.parent
BENCHMARKS = REPOSITORY / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import kills  # noqa: E402
import training_kills  # noqa: E402
import yaml  # noqa: E402
from making import machine, make_slide  # noqa: E402

DEPLOY = REPOSITORY / "deploy"
COUNT = training_kills.COUNT
MARK = "SEGKIT_REHEARSAL"
SLURM_GRACE, SLURM_JOB = 60.0, "41234"
MOST_ATTEMPTS = 10
TIME_LIMIT, PREEMPTED, DRAINED, LOST = "time limit", "preempted", "drained", "node lost"
COMMANDS = {
    "segkit": 'case "$1" in train) exec {python} {benchmarks}/training_kills.py "$@";; esac\n'
    'exec {python} {benchmarks}/kills.py "$@"',
    "torchrun": 'exec {python} -m torch.distributed.run "$@"',
    "srun": 'while [ "${{1#--}}" != "$1" ]; do shift; done\nexec "$@"',
    "scontrol": 'case "$1" in show) echo localhost;; requeue) touch "$REQUEUED";; esac',
}


@dataclass
class Job:
    """A job of a cluster: how an attempt is started, and what it leaves."""

    name: str
    command: Sequence[str]
    grace: float
    out: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    again: Callable[[str, int, bool], bool] = lambda _event, _code, asked: asked
    attempts: list[str] = field(default_factory=list)

    @property
    def count(self) -> Path:
        """The file that has a byte for each step or tile that was computed."""
        return Path(f"{self.out}.count")

    def counted(self) -> int:
        """Return how many steps or tiles all attempts have computed."""
        return self.count.stat().st_size if self.count.exists() else 0

    def run(self, events: Sequence[tuple[str, Callable[[], bool]]], place: Path) -> None:
        """Start attempts until one ends by itself; the first ones are stopped by the events, once they are due."""
        waiting = list(events)
        for _ in range(MOST_ATTEMPTS):
            asked = place / "requeued"
            asked.unlink(missing_ok=True)
            event, is_due = waiting.pop(0) if waiting else ("", lambda: False)
            code, seconds = self._attempt(event, is_due, place, asked)
            if seconds is None:
                self.attempts.append(f"{code}")
                if code != 0:
                    sys.exit(f"{self.name}: exit code {code}: {(place / 'log').read_text(errors='replace')[-3000:]}")
                return
            self.attempts.append(f"{code} ({event}, after {seconds:.1f} s)")
            if not self.again(event, code, asked.exists()):
                sys.exit(f"{self.name}: stopped by {event} with {code}, it is not tried again")
        sys.exit(f"{self.name}: does not end")

    def _attempt(self, event: str, is_due: Callable[[], bool], place: Path, asked: Path) -> tuple[int, float | None]:
        mark = f"{self.out.name}-{len(self.attempts)}"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            **self.environment,
            "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
            COUNT: str(self.count),
            "REQUEUED": str(asked),
            MARK: mark,
        }
        with (place / "log").open("ab") as log:
            process = subprocess.Popen(self.command, env=environment, stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None and not is_due():
            time.sleep(0.02)
        if process.poll() is not None:
            return process.returncode, None
        began = time.monotonic()
        match event:
            case "time limit":
                process.send_signal(signal.SIGUSR1)
            case "preempted":
                send(mark, signal.SIGTERM)
            case "drained":
                process.send_signal(signal.SIGTERM)  # to process 1 of the container
            case _:
                send(mark, signal.SIGKILL)
        try:
            code = process.wait(self.grace)
        except subprocess.TimeoutExpired:
            send(mark, signal.SIGKILL)
            code = process.wait()
        while send(mark, signal.SIGKILL):  # the scheduler leaves nothing of a job behind
            time.sleep(0.1)
        return (code if code >= 0 else 128 - code), time.monotonic() - began


def send(mark: str, number: signal.Signals) -> int:
    """Send a signal to all processes of a job, wherever they are, and return how many these are."""
    entry, sent = f"{MARK}={mark}".encode(), 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if entry in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), number)
                sent += 1
        except OSError:
            continue  # it has just ended
    return sent


def slurm(name: str, arguments: Sequence[str], out: Path, environment: Mapping[str, str]) -> Job:
    """Return the job that `sbatch deploy/slurm/NAME ARGUMENTS` makes."""
    return Job(
        name=f"slurm/{name}",
        command=["bash", str(DEPLOY / "slurm" / name), *arguments],
        grace=SLURM_GRACE,
        out=out,
        environment={
            "SLURM_JOB_ID": SLURM_JOB,
            "SLURM_JOB_NODELIST": "localhost",
            "SLURM_JOB_NUM_NODES": "1",
            **environment,
        },
        # After preemption and loss of a node SLURM requeues by itself, what asks for `--requeue`.
        again=lambda event, _, asked: asked if event == TIME_LIMIT else True,
    )


def kubernetes(
    name: str, data: Path, out: Path, more: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Job:
    """Return the job that `kubectl create -f deploy/kubernetes/NAME` makes, with a folder for the volume /data."""
    spec = yaml.safe_load((DEPLOY / "kubernetes" / name).read_text())["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    words = [str(word).replace("/data", str(data), 1) for word in container["args"]]
    given = {one["name"]: one["value"] for one in container["env"]}
    return Job(
        name=f"kubernetes/{name}",
        command=[*container.get("command", ["segkit"]), *words, *more],
        grace=float(pod["terminationGracePeriodSeconds"]),
        out=out,
        environment={**given, **(environment or {})},
        again=lambda event, code, _: is_tried_again(spec["podFailurePolicy"]["rules"], event, code),
    )


def is_tried_again(rules: Sequence[Mapping[str, Any]], event: str, code: int) -> bool:
    """Tell what a pod failure policy says; the first rule that applies counts."""
    for rule in rules:
        if "onPodConditions" in rule and event in (DRAINED, LOST):
            return bool(rule["action"] == "Ignore")
        if "onExitCodes" in rule and code in rule["onExitCodes"]["values"]:
            return False
    return True


def main() -> None:
    """Run all jobs, first in peace, then stopped, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=64, help="of each training")
    parser.add_argument("--size", type=int, default=3072, help="of the slide, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    random.seed(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        put_commands(place / "bin")
        rows = [*trainings(place, given.steps), *slides(place, given.size)]
    about = (
        f"{datetime.now(UTC).date()}, {machine()}. Trainings of {given.steps} steps on sample_data/ (a small U-Net "
        f"with dropout and a running average of its weights), a slide of {given.size} x {given.size} pixels; random "
        f"moments with seed {given.seed}. In brackets: what stopped an attempt, and how long it took to end."
    )
    head = "| job | attempts: exit codes | done twice | identical |\n|---|---|---|---|"
    text = "\n".join([head, *rows])
    print(f"{about}\n\n{text}")
    if given.record is not None:
        intro = (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip()
        title = "# Preemption, rehearsed\n\nWritten by `python deploy/rehearsal.py`; nothing here is typed by hand."
        given.record.write_text(f"{title}\n\n{intro}\n\n{about}\n\n{text}\n", encoding="utf-8")


def put_commands(folder: Path) -> None:
    """Write the commands of the cluster, and segkit as one that counts what it computes."""
    folder.mkdir()
    for name, text in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text.format(python=sys.executable, benchmarks=BENCHMARKS)}\n")
        (folder / name).chmod(0o755)


def trainings(place: Path, steps: int) -> list[str]:
    """Rehearse the jobs that train; return a row for each."""
    data = place / "volume"
    data.mkdir()
    (data / "images").symlink_to(REPOSITORY / "sample_data")
    settings = training_kills.command_of("unet", 0, steps, "cpu")[3:]  # without `train --data DIR`

    def arguments(out: Path) -> list[str]:
        return ["--data", str(data / "images"), "--out", str(out), "--resume", str(out), *settings]

    def single(out: Path) -> Job:
        return slurm("train.sbatch", arguments(out), out, {})

    def several(out: Path) -> Job:
        return slurm("train-torchrun.sbatch", arguments(out), out, {"WORKERS_PER_NODE": "2"})

    whole, pair = single(place / "whole"), several(place / "pair")
    whole.run([], place)
    pair.run([], place)
    (data / "model.safetensors").symlink_to(whole.out / "model.safetensors")
    one = single(place / "one")
    one.run(by_count(one, whole.counted(), [TIME_LIMIT, PREEMPTED, LOST]), place)
    two = several(place / "two")
    two.run(by_epochs(two.out, [TIME_LIMIT, PREEMPTED, LOST]), place)
    pod = kubernetes("train-job.yaml", data, data / "runs" / "nuclei", settings)
    pod.out.parent.mkdir()
    pod.run(by_count(pod, whole.counted(), [DRAINED, LOST]), place)
    expected, expected_of_pair = training_kills.contents(whole.out), training_kills.contents(pair.out)
    return [
        row(one, compared(training_kills.contents(one.out), expected), twice(one, whole, "steps")),
        row(two, compared(training_kills.contents(two.out), expected_of_pair), note="two processes"),
        row(pod, compared(training_kills.contents(pod.out), expected), twice(pod, whole, "steps")),
    ]


def slides(place: Path, size: int) -> list[str]:
    """Rehearse the jobs that predict; return a row for each."""
    data = place / "volume"
    (data / "slides").mkdir()
    make_slide(data / "slides" / "slide.tif", size)
    options = ["--tissue", "off", "--tile", "256", "--device", "cpu"]

    def task(out: Path, number: int, count: int) -> Job:
        words = [
            "predict",
            str(data / "slides"),
            "--model",
            str(data / "model.safetensors"),
            "--out",
            str(out),
            *options,
        ]
        array = {"ID": str(number), "MIN": "1", "MAX": str(count), "COUNT": str(count), "STEP": "1"}
        environment = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
        return slurm("slides-array.sbatch", words, out, environment)

    whole = task(place / "predicted", 1, 1)
    whole.run([], place)
    expected, tiles = kills.contents(whole.out), whole.counted()
    first, second = (task(place / "shared", number, 2) for number in (1, 2))
    first.run(by_count(first, tiles // 2, [TIME_LIMIT, LOST]), place)
    second.run(by_count(second, tiles // 2, [PREEMPTED]), place)
    rows = [
        row(first, note="predict, task 1 of 2"),
        row(second, compared(kills.contents(second.out), expected), twice(second, whole, "tiles"), "task 2 of 2"),
    ]
    out = data / "predictions"
    for index in range(2):
        share = {"JOB_COMPLETION_INDEX": str(index), "SEGKIT_SHARDS": "2"}
        pod = kubernetes("predict-indexed-job.yaml", data, out, options, share)
        pod.run(by_count(pod, tiles // 2, [DRAINED] if index else [LOST, DRAINED]), place)
        if index:
            rows.append(row(pod, compared(kills.contents(out), expected), twice(pod, whole, "tiles"), "pod 2 of 2"))
        else:
            rows.append(row(pod, note="pod 1 of 2"))
    return rows


def by_count(job: Job, expected: int, events: Sequence[str]) -> list[tuple[str, Callable[[], bool]]]:
    """Return the events, each due so many steps or tiles after the one before; together fewer than are expected."""
    moments = sorted(random.sample(range(1, max(len(events) + 2, expected * 9 // 10)), len(events)))

    def due_after(steps: int) -> Callable[[], bool]:
        begun: list[int] = []

        def is_due() -> bool:
            if not begun:
                begun.append(job.counted())
            return job.counted() - begun[0] >= steps

        return is_due

    return [
        (event, due_after(moment - before))
        for event, moment, before in zip(events, moments, [0, *moments], strict=False)
    ]


def by_epochs(run: Path, events: Sequence[str]) -> list[tuple[str, Callable[[], bool]]]:
    """Return the events, each due after another epoch and a random while (where several processes compute a step)."""

    def due_after(epochs: int) -> Callable[[], bool]:
        until: list[float] = []

        def is_due() -> bool:
            table = run / "metrics.csv"
            if not until and table.exists() and len(table.read_text().splitlines()) > epochs:
                until.append(time.monotonic() + random.uniform(0, 1))
            return bool(until) and time.monotonic() >= until[0]

        return is_due

    return [(event, due_after(2 * number + 1)) for number, event in enumerate(events)]


def compared(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return in words whether two results are the same; the program ends if they are not."""
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if different:
        sys.exit(f"differs in {', '.join(different[:10])}")
    return f"yes, {len(expected)} files" if "mask.tif" in expected else f"yes, {len(expected)} tensors and values"


def twice(job: Job, whole: Job, unit: str) -> str:
    """Return in words what a job, or several that share their work, computed beyond what one computed."""
    return f"{job.counted() - whole.counted()} of {whole.counted()} {unit}"


def row(job: Job, result: str = "", done_twice: str = "", note: str = "") -> str:
    """Return a row of the record."""
    title = f"`{job.name}`{f', {note}' if note else ''}"
    return f"| {title} | {', '.join(job.attempts)} | {done_twice} | {result} |"


if __name__ == "__main__":
    main()
