"""Pixel error and Rand score on the validation slices of ISBI 2012, of masks that `segkit evaluate` left.

    segkit train --data isbi2012_em --config configs/isbi2012_em.yaml --out runs/isbi2012
    segkit evaluate --data isbi2012_em --model runs/isbi2012 --set dihedral=true --out evaluation/isbi2012
    python benchmarks/isbi2012.py --data isbi2012_em --predictions evaluation/isbi2012/predictions

The Rand score is 1 - scikit-image's adapted_rand_error on 4-connected components of the predicted and true cells,
restricted to true cells (without thinning their borders). Baselines beside it: everything is a cell, and Otsu.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.metrics import adapted_rand_error

from segkit.data.rasters import read_values

Method = Callable[[str, NDArray[np.uint8]], NDArray[np.bool_]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    given = parser.parse_args()
    names = sorted(path.stem for path in given.predictions.glob("*.png"))
    methods: dict[str, Method] = {
        "segkit": lambda name, _: read_values(given.predictions / f"{name}.png") > 0,
        "Otsu": lambda _, image: image > threshold_otsu(image),
        "all cell": lambda _, image: np.ones(image.shape, bool),
    }
    print(f"{len(names)} slices: {', '.join(names)}\n")
    print("| method | pixel error | Rand score |")
    print("|---|---|---|")
    for method, predict in methods.items():
        errors, rands = [], []
        for name in names:
            truth = read_values(given.data / "masks" / f"{name}.png") > 0
            cells = predict(name, read_values(given.data / "images" / f"{name}.png"))
            errors.append(float((cells != truth).mean()))
            error, _, _ = adapted_rand_error(label(truth, connectivity=1), label(cells, connectivity=1))
            rands.append(1 - error)
        print(f"| {method} | {np.mean(errors):.4f} | {np.mean(rands):.4f} |")


if __name__ == "__main__":
    main()
