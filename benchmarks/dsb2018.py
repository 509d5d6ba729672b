"""AP at IoU 0.5 by modality on the validation images of DSB 2018, of an evaluation that `segkit evaluate` left.

    segkit train --data dsb2018 --config configs/dsb2018.yaml --out runs/dsb2018
    segkit evaluate --data dsb2018 --model runs/dsb2018 --set dihedral=true --out evaluation/dsb2018
    python benchmarks/dsb2018.py --data dsb2018 --evaluation evaluation/dsb2018

AP is TP / (TP + FP + FN), as StarDist and the contest define it: pooled over the objects of all images, and as the mean
of the images' own values. The modality is the column of that name in the data's splits.csv.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    given = parser.parse_args()
    with (given.data / "splits.csv").open(newline="") as handle:
        modality_of = {row["image"]: row["modality"] for row in csv.DictReader(handle)}
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (given.evaluation / "metrics.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            rows[modality_of[row["image"]]].append(row)
            rows["all"].append(row)
    print("| modality | images | objects | AP pooled | AP, mean over images | mean AP over IoU | Dice, mean |")
    print("|---|---|---|---|---|---|---|")
    for modality in sorted(rows, key=lambda name: (name == "all", name)):
        found = rows[modality]
        tp, fp, fn = (sum(int(row[name]) for row in found) for name in ("tp", "fp", "fn"))
        means = [
            fmean(float(row[name]) for row in found if row[name])
            for name in ("average_precision", "mean_average_precision", "dice")
        ]
        cells = [
            modality,
            str(len(found)),
            str(tp + fn),
            f"{tp / (tp + fp + fn):.3f}",
            *(f"{one:.3f}" for one in means),
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
