"""Every check and benchmark that needs a GPU, in one table (Markdown), in about eight minutes on one H200.

    python benchmarks/gpu.py [--quick] [--device cuda|cpu] [--only seams speed ...] [--minutes 8]

- *seams*: tiles, batches and dense windows beside the whole image and single windows; `predict --verify-seams`.
- *tests*: tests/test_gpu.py.
- *memory*: the card is filled until a batch does not fit, in the middle of a prediction and before a training.
- *repeat*: two trainings of the same seed, also with torch's deterministic algorithms.
- *speed*: the network alone on tensors that lie on the card, and the whole `predict` and `sliding-window`.
- *training*: samples per second of the network alone, and of `train` with both backends of augmentation.

Each section is a process of its own with its share of the time: what goes wrong in one is said in the table, the others
go on, and the exit code is 1. *Passed* and *failed* stand behind checks; the other rows are measurements. With --quick
everything is so small that it runs on a CPU in minutes (--device cpu), where memory only pretends to run out.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from gpu_common import Bench, Line
from making import REPOSITORY

SECTIONS = ["seams", "tests", "memory", "repeat", "speed", "training"]
SHORTEST_SECONDS = 5.0
"""Of what is left: less is not worth beginning a section for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--minutes", type=float, default=8.0, help="sections end after so long, also if they hang")
    parser.add_argument("--section", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.section:
        name, folder = given.section
        run_section(name, Bench(Path(folder), given.device, given.quick))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends the section under way, too
    described = describe(given.device)
    if described is None:
        print("no GPU that torch can use: nothing to check (--device cpu --quick tries the checks themselves)")
        return
    print(
        f"{described}{', quick' if given.quick else ''}\n\n| section | what | result | |\n|---|---|---|---|", flush=True
    )
    until, went_well, seconds = time.monotonic() + 60 * given.minutes, True, []
    with tempfile.TemporaryDirectory(prefix="segkit-gpu-") as folder:
        for name in given.only:
            started = time.monotonic()
            went_well &= supervise(name, given, Path(folder), until - started)
            seconds.append(f"{name} {time.monotonic() - started:.0f} s")
    print(f"\n{', '.join(seconds)}")
    sys.exit(int(not went_well))


def describe(device: str) -> str | None:
    """Return card, driver and versions in a line, None where there is no such device; in another process.

    This process must not hold the card's memory.
    """
    code = """
import sys, torch
if sys.argv[1] == "cpu":
    print(f"CPU, torch {torch.__version__}")
elif torch.cuda.is_available():
    card = torch.cuda.get_device_properties(sys.argv[1])
    cudnn = torch.backends.cudnn.version()
    print(f"{card.name} ({card.total_memory / 2**30:.0f} GiB), torch {torch.__version__}, CUDA {torch.version.cuda}, "
          f"cuDNN {cudnn}")
"""
    found = subprocess.run([sys.executable, "-c", code, device], capture_output=True, text=True, check=False)
    if found.returncode:
        sys.exit(found.stderr)
    cores = len(os.sched_getaffinity(0))
    return f"{found.stdout.strip()}, {cores} cores, Python {platform.python_version()}" if found.stdout else None


def supervise(name: str, given: argparse.Namespace, folder: Path, seconds: float) -> bool:
    """Run a section, print its rows as they come, and tell whether all went well."""
    if seconds < SHORTEST_SECONDS:
        return print_row(name, Line("not begun", f"the {given.minutes:g} minutes were over", False))
    work = folder / name
    work.mkdir()
    command = [sys.executable, __file__, "--section", name, str(work), "--device", given.device]
    command += ["--quick"] if given.quick else []
    # The first is for `repeat` and has to be set before CUDA begins. A CPU's cores may be shared with other work.
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    if given.device == "cpu":
        environment.setdefault("OMP_NUM_THREADS", "1")
    with (folder / f"{name}.err").open("w+") as errors, (folder / f"{name}.out").open("w+") as rows:
        with subprocess.Popen(
            command, stdout=rows, stderr=errors, cwd=REPOSITORY, env=environment, start_new_session=True
        ) as process:
            try:
                ended, well = follow(process, name, folder / f"{name}.out", time.monotonic() + seconds)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if not ended:
            return print_row(name, Line("not finished", f"the {given.minutes:g} minutes were over", False))
        said = (folder / f"{name}.err").read_text(errors="replace")
    if process.returncode or not well:
        sys.stderr.write(said)
    if process.returncode:
        last = said.strip().splitlines()[-1] if said.strip() else ""
        return print_row(name, Line(f"ended with exit code {process.returncode}", last, False))
    return well


def follow(process: "subprocess.Popen[bytes]", name: str, out: Path, until: float) -> tuple[bool, bool]:
    """Print a section's rows as they come; return whether it has ended in time, and whether all went well."""
    read, went_well = 0, True
    while True:
        ended = process.poll() is not None
        lines = out.read_text().split("\n")[:-1]
        for text in lines[read:]:
            if text.startswith("["):  # and is not something that a library has to say
                went_well &= print_row(name, Line(*json.loads(text)))
        read = len(lines)
        if ended or time.monotonic() > until:
            return ended, went_well
        time.sleep(0.1)


def print_row(section: str, line: Line) -> bool:
    word = {True: "passed", False: "**failed**", None: ""}[line.verdict]
    cells = (section, line.what, " ".join(str(line.result).replace("|", "/").split()), word)
    print(f"| {' | '.join(cells)} |", flush=True)
    return line.verdict is not False


def run_section(name: str, bench: Bench) -> None:
    """Be a section: write a line of JSON for each row, also for the error that ends a part of it."""
    sys.path.insert(0, str(REPOSITORY))  # where segkit is not installed
    import gpu_inference
    import gpu_training

    from segkit.memory import keep_freed_memory

    keep_freed_memory()  # as the command does
    parts = {
        "seams": [gpu_inference.tiles, gpu_inference.batches, gpu_inference.windows, gpu_inference.command],
        "tests": [tests],
        "memory": [gpu_inference.out_of_memory, gpu_training.out_of_memory],
        "repeat": [gpu_training.repeated],
        "speed": [gpu_inference.forward, gpu_inference.whole_predict, gpu_inference.whole_window],
        "training": [gpu_training.ceiling, gpu_training.with_fit],
    }[name]
    for part in parts:
        started = time.monotonic()
        try:
            for what, result, verdict in part(bench):
                print(json.dumps([what, result, verdict]), flush=True)
        except Exception as error:  # noqa: BLE001 (the other parts go on)
            traceback.print_exc()
            print(json.dumps([part.__name__, f"{type(error).__name__}: {error}"[:300], False]), flush=True)
        print(json.dumps([f"{part.__name__}: time", f"{time.monotonic() - started:.1f} s", None]), flush=True)


def tests(bench: Bench) -> list[Line]:
    """Run the tests that need a card."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "default", "tests/test_gpu.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "SEGKIT_TEST_DEVICE": bench.device},
    )
    sys.stderr.write(ended.stdout + ended.stderr)
    lines = ended.stdout.strip().splitlines() or [ended.stderr.strip()[-200:]]
    failed = [Line(one.removeprefix("FAILED "), "", False) for one in lines if one.startswith(("FAILED", "ERROR"))]
    summary = next((one for one in reversed(lines) if "passed" in one or "failed" in one), lines[-1])
    return [*failed, Line("tests/test_gpu.py", summary, ended.returncode == 0)]


if __name__ == "__main__":
    main()
