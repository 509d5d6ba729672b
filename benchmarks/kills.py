"""Kill `segkit predict` at random moments and run it again: are the files the same, and how much was done twice?

    python benchmarks/kills.py [--kills 50] [--size 8192]

Each trial begins in an empty folder, is killed (SIGKILL) at a random moment between the start and the end of an
uninterrupted run, and is then run to its end. *Same*: every file but run.json is byte for byte that of the
uninterrupted run. *Done twice*: tiles computed by both runs together beyond those of one run, in parts.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from making import machine, make_model, make_slide

COUNT = "SEGKIT_BENCHMARK_COUNT"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_slide(folder / "slide.tif", given.size)
        make_model(folder / "model", base_channels=4, depth=3)
        started = time.monotonic()
        run(folder, folder / "whole")
        seconds = time.monotonic() - started
        whole, tiles = contents(folder / "whole"), counted(folder / "whole")
        plan = json.loads((folder / "whole/slide/run.json").read_text())["plan"]
        per_part = tiles / plan["num_parts"]
        print(f"{machine()}; {given.size} px, {plan['num_parts']} parts, {tiles} tiles, {seconds:.1f} s uninterrupted")
        same, twice, kept = 0, [], []
        for number in range(given.kills):
            out = folder / f"killed{number}"
            killed_at(folder, out, random.uniform(0, seconds))
            kept.append(len(list(out.glob("slide/parts/*/*.safetensors"))))
            run(folder, out)
            same += contents(out) == whole
            twice.append((counted(out) - tiles) / per_part)
            print(f"{number + 1}: {same} same, {kept[-1]} parts kept, {twice[-1]:.2f} done twice", file=sys.stderr)
            subprocess.run(["rm", "-rf", str(out)], check=True)
    print(
        f"{same} of {given.kills} the same; parts done twice: median {statistics.median(twice):.2f}, most "
        f"{max(twice):.2f}; parts kept at the kill: {min(kept)} to {max(kept)}"
    )


def command(folder: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    arguments = [str(folder / "slide.tif"), "--model", str(folder / "model"), "--out", str(out)]
    options = ["--tissue", "off", "--tile", "512"]
    return [sys.executable, __file__, "predict", *arguments, *options], {**os.environ, COUNT: f"{out}.count"}


def run(folder: Path, out: Path) -> None:
    arguments, environment = command(folder, out)
    subprocess.run(arguments, env=environment, check=True, capture_output=True)


def killed_at(folder: Path, out: Path, seconds: float) -> None:
    arguments, environment = command(folder, out)
    with subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)


def contents(out: Path) -> dict[str, bytes]:
    left = {"run.json", ".lock"}
    return {path.name: path.read_bytes() for path in sorted((out / "slide").iterdir()) if path.name not in left}


def counted(out: Path) -> int:
    return Path(f"{out}.count").stat().st_size


def predict_and_count() -> None:
    """Run the command, with a byte appended to a file for each tile that the network is given."""
    from segkit.cli import main as segkit
    from segkit.inference.network import Predictor
    from segkit.workflows.planning import Planner

    Planner._seconds_of = lambda *_: 1.0  # type: ignore[method-assign]  # no tiles for measuring
    count = os.open(os.environ[COUNT], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    submit = Predictor.submit

    def counting(self, images_BHWC, crops):  # type: ignore[no-untyped-def]
        os.write(count, b"." * len(crops))
        return submit(self, images_BHWC, crops)

    Predictor.submit = counting  # type: ignore[method-assign]
    segkit()


if __name__ == "__main__":
    if COUNT in os.environ:
        predict_and_count()
    else:
        main()
