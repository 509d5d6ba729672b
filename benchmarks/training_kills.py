"""Kill `segkit train` at random moments, go on with --resume: are the weights the same, and how much was done twice?

    python benchmarks/training_kills.py [--kills 30] [--steps 200] [--trainings unet ...] [--workers 0 2]

Each trial begins in an empty folder. It is killed at a random moment between the start and the end of an uninterrupted
training, resumed, perhaps killed again, until it ends. Half of the signals are SIGKILL, to the process with its loader
workers or (as the operating system does when memory runs out) to the process alone; the others are SIGTERM and SIGUSR1,
after which it may save its state. A training that has no checkpoint yet is begun anew, as its user would have to.

*Identical*: all tensors of model.safetensors and of the last checkpoint (weights, running average, optimiser), the
losses and scores of every epoch, and the tables of mined false positives are bit for bit those of the uninterrupted
training. *Done twice*: steps of a trial, counted as they are taken, beyond those of one training, for each signal.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: sums in the same order, also where cores are shared

from making import REPOSITORY, machine

COUNT = "SEGKIT_BENCHMARK_COUNT"
EPOCHS = 8
TIMED = ("seconds", "samples_per_second", "data_wait_share")
LOCKED, MOST_STARTS = "another segkit process", 50
SETTINGS = {
    "unet": {
        "model.base_channels": 8, "model.depth": 2, "patches.size_px": 96, "patches.batch": 4, "ema": 0.99,
        "model.dropout": 0.2, "optimiser.learning_rate": 3e-3,
    },
    "points": {
        "data.annotation": "points", "model.base_channels": 4, "patches.size_px": 40, "patches.batch": 64,
        "points.mining_rounds": 2, "ema": 0.99, "model.dropout": 0.2, "optimiser.learning_rate": 3e-3,
    },
}  # fmt: skip


@dataclass
class Outcome:
    """What happened to one kind of training: trials, signals, and steps that were done twice after each trial."""

    trials: int = 0
    identical: int = 0
    signals: Counter[str] = field(default_factory=Counter)
    anew: int = 0
    locked: int = 0
    twice: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="of all kinds of training together")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--trainings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2], help="loader processes, of the U-Net")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    kinds = [
        (training, workers)
        for training in given.trainings
        for workers in (given.workers if training == "unet" else given.workers[:1])
    ]
    print(f"{machine()}; {given.device}, {given.steps} steps in {EPOCHS} epochs, EMA, dropout\n")
    print("| training | s | kills | trials | identical | steps done twice: median | most | of a kill | begun anew |")
    print("|---|---|---|---|---|---|---|---|---|")
    failed = False
    with tempfile.TemporaryDirectory() as name:
        for number, (training, workers) in enumerate(kinds):
            folder = Path(name) / f"{training}{workers}"
            folder.mkdir()
            kills = given.kills * (number + 1) // len(kinds) - given.kills * number // len(kinds)
            command = command_of(training, workers, given.steps, given.device)
            seconds, outcome = trials(command, folder, kills)
            print(row(f"{training}, workers {workers}", seconds, outcome), flush=True)
            for problem in outcome.problems:
                print(f"{training}, workers {workers}: {problem}", file=sys.stderr)
            failed |= outcome.identical < outcome.trials
    sys.exit(int(failed))


def command_of(training: str, workers: int, steps: int, device: str) -> list[str]:
    settings = {
        **SETTINGS[training], "epochs": EPOCHS, "steps_per_epoch": -(-steps // EPOCHS), "workers": workers,
        "compute.device": device,
    }  # fmt: skip
    flags = [f"--set={key}={value}" for key, value in settings.items()]
    return ["train", "--data", str(REPOSITORY / "sample_data"), *flags]


def trials(command: list[str], folder: Path, kills: int) -> tuple[float, Outcome]:
    """Train once without a signal, then kill so many times; return the seconds of the first and what came of it."""
    whole = folder / "whole"
    started = time.monotonic()
    ended = start([*command, "--out", str(whole)], whole)
    if ended.wait() != 0:
        sys.exit(f"the training itself fails: {said_by(whole)}")
    seconds = time.monotonic() - started
    steps, expected = counted(whole), contents(whole)
    outcome = Outcome()
    while sum(outcome.signals.values()) < kills:
        run = folder / f"killed{outcome.trials}"
        problem = trial(command, run, seconds, kills, outcome)
        outcome.trials += 1
        if problem is None:
            found = contents(run)
            different = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
            outcome.twice.append(counted(run) - steps)
            outcome.identical += not different
            problem = f"trial {outcome.trials} differs in {', '.join(different[:5])}" if different else None
        if problem is not None:
            outcome.problems.append(problem)
        print(f"{folder.name}: {dict(outcome.signals)}, {outcome.identical} of {outcome.trials}", file=sys.stderr)
        shutil.rmtree(run)
    return seconds, outcome


def trial(command: list[str], run: Path, seconds: float, kills: int, outcome: Outcome) -> str | None:
    """Kill a training once or more often and let it end; return what went wrong, None if it ended."""
    for number in itertools.count():
        resumes = any((run / "checkpoints").glob("step-*.pt"))
        outcome.anew += number > 0 and not resumes
        arguments = ["train", "--resume", str(run)] if resumes else [*command, "--out", str(run)]
        is_killed = sum(outcome.signals.values()) < kills and (number == 0 or random.random() < 0.5)
        process = start(arguments, run)
        try:
            code = process.wait(timeout=random.uniform(0, seconds) if is_killed else None)
        except subprocess.TimeoutExpired:
            outcome.signals[send_signal(process)] += 1
            process.wait()
            continue
        if code == 0:
            return None
        if LOCKED not in said_by(run) or number > MOST_STARTS:
            return f"exit code {code}: {said_by(run)}"
        # Loader workers of a process that was killed alone hold its folder until they see that it has gone.
        outcome.locked += 1
        time.sleep(1)
    raise AssertionError


def send_signal(process: subprocess.Popen[bytes]) -> str:
    """Send a random signal and return what it was."""
    match random.choice(["KILL of all", "KILL of one", "TERM", "USR1"]):
        case "KILL of all":
            os.killpg(process.pid, signal.SIGKILL)
            return "KILL of all"
        case "KILL of one":
            process.kill()
            return "KILL of one"
        case name:
            process.send_signal(signal.Signals[f"SIG{name}"])
            return name


def start(arguments: list[str], run: Path) -> subprocess.Popen[bytes]:
    with Path(f"{run}.error").open("wb") as error:
        return subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env={**os.environ, COUNT: f"{run}.count"},
            stdout=subprocess.DEVNULL,
            stderr=error,
            start_new_session=True,
        )


def said_by(run: Path) -> str:
    return " ".join(Path(f"{run}.error").read_text(errors="replace").split())[-400:]


def counted(run: Path) -> int:
    return Path(f"{run}.count").stat().st_size


def contents(run: Path) -> dict[str, Any]:
    """Return all that has to be the same, by name: the bytes of tensors, and tables without times."""
    from safetensors import safe_open

    from segkit.training.checkpoint import load_newest

    with safe_open(run / "model.safetensors", framework="np") as handle:
        found: dict[str, Any] = {f"model/{name}": handle.get_tensor(name).tobytes() for name in handle.keys()}  # noqa: SIM118
    _, state, damaged = load_newest(run / "checkpoints")
    for history in state["history"]:
        for name in TIMED:
            del history[name]
    for name in ("seconds", "waited"):
        del state[name]
    found |= {f"checkpoint/{name}": value for name, value in flat(state)}
    found["damaged checkpoints"] = damaged
    found["complete"] = json.loads((run / "run.json").read_text())["complete"]
    found |= {path.name: path.read_bytes() for path in (run / "mining").glob("*.csv")}
    return found


def flat(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of nested mappings and lists by path, tensors as bytes."""
    match tree:
        case dict():
            return [leaf for key, value in tree.items() for leaf in flat(value, f"{prefix}/{key}")]
        case list():
            return [leaf for key, value in enumerate(tree) for leaf in flat(value, f"{prefix}/{key}")]
    return [(prefix, tree.numpy(force=True).tobytes() if hasattr(tree, "numpy") else tree)]


def row(title: str, seconds: float, outcome: Outcome) -> str:
    kills = sum(outcome.signals.values())
    signals = ", ".join(f"{number} {name}" for name, number in sorted(outcome.signals.items()))
    cells = [title, f"{seconds:.0f}", f"{kills} ({signals})", outcome.trials, f"{outcome.identical}"]
    if outcome.twice:
        each = sum(outcome.twice) / max(kills, 1)
        cells += [f"{statistics.median(outcome.twice):.0f}", max(outcome.twice), f"{each:.1f}"]
    else:
        cells += ["", "", ""]
    locked = f" (waited {outcome.locked} times for orphans' lock)" if outcome.locked else ""
    return "| " + " | ".join(map(str, [*cells, f"{outcome.anew}{locked}"])) + " |"


def train_and_count() -> None:
    """Run the command, with a byte appended to a file for each step that is taken."""
    from segkit.cli import main as segkit
    from segkit.training.state import TrainingState

    count = os.open(os.environ[COUNT], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    finish_step = TrainingState.finish_step

    def counting(self: TrainingState, loss: float, *, seconds: float, waited: float) -> None:
        finish_step(self, loss, seconds=seconds, waited=waited)
        os.write(count, b".")

    TrainingState.finish_step = counting  # type: ignore[method-assign]
    segkit()


if __name__ == "__main__":
    if COUNT in os.environ:
        train_and_count()
    else:
        main()
