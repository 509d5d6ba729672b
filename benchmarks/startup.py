"""How long `segkit --help` and the help of each command take, beside Python doing nothing.

    python benchmarks/startup.py [--repeats 15]

Wall time of whole processes, the median counts. Ends with exit code 1 when `segkit --help` takes longer than 0.25 s.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from segkit.cli.app import COMMANDS

LIMIT_S = 0.25


def median_seconds(command: Sequence[str], repeats: int) -> float:
    """Return the median wall time of a process that runs `command`."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure how long help takes.")
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    print(f"{'python -c pass':28} {median_seconds([sys.executable, '-c', 'pass'], repeats):.3f} s")
    segkit = [sys.executable, "-m", "segkit"]
    for name in COMMANDS:
        print(f"{f'segkit {name} --help':28} {median_seconds([*segkit, name, '--help'], repeats):.3f} s")
    of_segkit = median_seconds([*segkit, "--help"], repeats)
    print(f"{'segkit --help':28} {of_segkit:.3f} s (limit {LIMIT_S} s)")
    sys.exit(of_segkit > LIMIT_S)


if __name__ == "__main__":
    main()
