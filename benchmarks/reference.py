"""How far segkit's metrics agree with reference implementations, on random and real cases.

    python benchmarks/reference.py [--data ../shared/data] [--random 400] [--seed 0]

A line for each metric and reference: on how many cases both are defined, on how many they are equal, and the largest
difference. Where the two are known to differ, the last column says why. Ends with 1 where a difference has no
explanation. References that are not installed are named; `pip install -e '.[reference]'` installs them.
"""

import argparse
import sys
from pathlib import Path

import reference_classes
import reference_objects
import reference_pixels
import reference_points


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real data sets; without it only random cases")
    parser.add_argument(  # 200 of each metric are wanted, and in almost half of the cases SQ is undefined
        "--random", type=int, default=400, help="number of random cases of each kind"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| metric | reference | cases | equal | undefined | largest difference | |")
    print("|---|---|---:|---:|---:|---:|---|")
    unexplained = 0
    for module in (reference_classes, reference_pixels, reference_objects, reference_points):
        for row in module.compare(arguments.random, arguments.seed, arguments.data):
            unexplained += not row.holds
            mark = "" if row.holds else "**unexplained** "
            print(
                f"| {row.metric} | {row.reference} | {row.cases} | {row.equal} | {row.undefined} "
                f"| {row.largest_difference:.2g} | {mark}{row.note} |",
                flush=True,
            )
    print(f"\n{unexplained} differences without an explanation.")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
