"""Pixel error, V-Rand, V-Info and Rand score on the validation slices of ISBI 2012, of what `segkit predict` left.

    segkit train --data isbi2012_em --config configs/isbi2012_em.yaml --out runs/isbi2012
    segkit predict isbi2012_em/images --model runs/isbi2012 --dihedral --probability --out predictions/isbi2012
    python benchmarks/isbi2012.py --data isbi2012_em --predictions predictions/isbi2012

V-Rand and V-Info are the challenge's final metrics, after border thinning; the Rand score is 1 - scikit-image's
adapted_rand_error, without thinning. Both are on 4-connected components of the predicted and true cells, restricted to
true cells (`segkit.evaluation.membranes`, which tests compare with the challenge's code and with scikit-image). All are
means over slices. A map is thresholded at 0.5, and where V-Rand or the Rand score is best on the *training* slices, in
the middle of the thresholds within one standard error of the best one (the challenge itself took the best threshold on
the test slices). Baselines beside it: everything is a cell, and Otsu.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from segkit.data.rasters import read_values
from segkit.evaluation.membranes import best_threshold, rand_score, rand_scores, thinned_scores, thinned_sweep


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

    def v_rands(name: str) -> list[float | None]:
        return [scores.v_rand.score for scores in thinned_sweep(probability(name), truth(name))]

    def rands(name: str) -> list[float | None]:
        return [score.score for score in rand_scores(probability(name), truth(name))]

    def cut_at(threshold: float) -> Callable[[str], NDArray[np.bool_]]:
        return lambda name: probability(name) > threshold

    methods = {"segkit, threshold 0.5": cut_at(0.5)}
    for score, sweep in {"V-Rand": v_rands, "Rand score": rands}.items():
        threshold, value = best_threshold(np.array([sweep(name) for name in train], np.float64), standard_errors=1)
        methods[f"segkit, threshold {threshold:.2f} ({score} {value:.3f} on training slices)"] = cut_at(threshold)
    methods |= {
        "Otsu": lambda name: image(name) > threshold_otsu(image(name)),
        "all cell": lambda name: np.ones(image(name).shape, bool),
    }
    print(f"validation slices: {', '.join(val)}\n")
    print("| method | pixel error | V-Rand | V-Info | Rand score | V-Rand of each slice |")
    print("|---|---|---|---|---|---|")
    for method, cells in methods.items():
        thinned = [thinned_scores(cells(name), truth(name)) for name in val]
        of_slices = [one.v_rand.score or 0.0 for one in thinned]
        means = [
            np.mean([(cells(name) != truth(name)).mean() for name in val]),
            np.mean(of_slices),
            np.mean([one.v_info.score or 0.0 for one in thinned]),
            np.mean([rand_score(cells(name), truth(name)).score or 0.0 for name in val]),
        ]
        numbers = [*(f"{mean:.4f}" for mean in means), ", ".join(f"{value:.3f}" for value in of_slices)]
        print(f"| {method} | {' | '.join(numbers)} |")


if __name__ == "__main__":
    main()
