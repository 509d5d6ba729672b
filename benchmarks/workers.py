"""Two workers under torchrun beside one, on a slide whose network is slow for another reason than the cores.

    python benchmarks/workers.py [--size 8192] [--wait 0.2]

Each tile waits for --wait seconds instead of a device, so that two workers on one machine do not share a bottleneck.
Times are those of the whole command, start of Python and joining included; the files have to be the same.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kills import contents
from making import machine, make_model, make_slide

WAIT = "SEGKIT_BENCHMARK_WAIT"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--wait", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_slide(folder / "slide.tif", given.size)
        make_model(folder / "model", base_channels=4, depth=2, epochs=1)
        print(f"{machine()}; {given.size} px, {given.wait} s waited for each tile\n")
        print("| one worker s | two workers s | times as fast | files |")
        print("|---|---|---|---|")
        for number in range(given.repeats):
            one = timed(folder, folder / f"one{number}", given.wait, [sys.executable])
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            two = timed(folder, folder / f"two{number}", given.wait, torchrun)
            same = contents(folder / f"one{number}") == contents(folder / f"two{number}")
            print(f"| {one:.1f} | {two:.1f} | {one / two:.2f} | {'the same' if same else 'DIFFERENT'} |", flush=True)


def timed(folder: Path, out: Path, wait: float, launcher: list[str]) -> float:
    arguments = ["predict", str(folder / "slide.tif"), "--model", str(folder / "model"), "--out", str(out)]
    environment = {**os.environ, WAIT: str(wait), "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    subprocess.run(
        [*launcher, __file__, *arguments, "--tissue", "off", "--tile", "512"],
        env=environment,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - started


def predict_slowly() -> None:
    """Run the command, with a wait for each tile."""
    from segkit.cli import main as segkit
    from segkit.inference.network import Predictor

    wait, submit = float(os.environ[WAIT]), Predictor.submit

    def waiting(self, images_BHWC, crops):  # type: ignore[no-untyped-def]
        time.sleep(wait * len(crops))
        return submit(self, images_BHWC, crops)

    Predictor.submit = waiting  # type: ignore[method-assign]
    segkit()


if __name__ == "__main__":
    if WAIT in os.environ:
        predict_slowly()
    else:
        main()
