"""Pixel error and Rand score on the validation slices of ISBI 2012, of probabilities that `segkit predict` left.

    segkit train --data isbi2012_em --config configs/isbi2012_em.yaml --out runs/isbi2012
    segkit predict isbi2012_em/images --model runs/isbi2012 --dihedral --probability --out predictions/isbi2012
    python benchmarks/isbi2012.py --data isbi2012_em --predictions predictions/isbi2012

The Rand score is 1 - scikit-image's adapted_rand_error on 4-connected components of the predicted and true cells,
restricted to true cells, without thinning their borders (`segkit.evaluation.membranes`, which a test compares with
scikit-image). A map is thresholded at 0.5, and at the threshold with the best Rand score on the *training* slices (the
contest itself took the best threshold on the test slices). Baselines beside it: everything is a cell, and Otsu.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from segkit.data.rasters import read_values
from segkit.evaluation.membranes import best_threshold, rand_score, rand_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    given = parser.parse_args()

    def probability(name: str) -> NDArray[np.float64]:
        return read_values(given.predictions / name / "probability.tif") / 255

    def truth(name: str) -> NDArray[np.bool_]:
        return read_values(given.data / "masks" / f"{name}.png") > 0

    def image(name: str) -> NDArray[np.uint8]:
        return read_values(given.data / "images" / f"{name}.png")

    with (given.data / "splits.csv").open(newline="") as handle:
        split_of = {row["image"]: row["split"] for row in csv.DictReader(handle)}
    train, val = ([name for name in split_of if split_of[name] == split] for split in ("train", "val"))
    tuned, train_score = best_threshold([rand_scores(probability(name), truth(name)) for name in train])
    methods: dict[str, Callable[[str], NDArray[np.bool_]]] = {
        "segkit, threshold 0.5": lambda name: probability(name) > 0.5,
        f"segkit, threshold {tuned:.2f} (Rand {train_score:.3f} on training slices)": lambda name: (
            probability(name) > tuned
        ),
        "Otsu": lambda name: image(name) > threshold_otsu(image(name)),
        "all cell": lambda name: np.ones(image(name).shape, bool),
    }
    print(f"validation slices: {', '.join(val)}\n")
    print("| method | pixel error | Rand score | Rand score of each slice |")
    print("|---|---|---|---|")
    for method, cells in methods.items():
        errors = [float((cells(name) != truth(name)).mean()) for name in val]
        rands = [rand_score(cells(name), truth(name)).score or 0.0 for name in val]
        each = ", ".join(f"{rand:.3f}" for rand in rands)
        print(f"| {method} | {np.mean(errors):.4f} | {np.mean(rands):.4f} | {each} |")


if __name__ == "__main__":
    main()
