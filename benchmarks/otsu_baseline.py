"""What a threshold on the haematoxylin channel reaches: Dice of nuclei against background.

    python benchmarks/otsu_baseline.py --data sample_data --split test [--out predictions/otsu]

For each image Otsu's threshold on the haematoxylin channel of scikit-image's `rgb2hed`; beside it the oracle, the
best single threshold over all images of the split, chosen with the truth: no global threshold can do better. With
--out the masks are written, for `segkit evaluate --pred predictions/otsu --truth sample_data --set measure=pixels`.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu
from skimage.io import imread

NUM_ORACLE_THRESHOLDS = 512


def images_of_split(root: Path, split: str) -> list[str]:
    """Return the names of the images in a split, in the order of splits.csv."""
    with (root / "splits.csv").open(newline="") as handle:
        return [row["image"] for row in csv.DictReader(handle) if row["split"] == split]


def read_pair(root: Path, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the haematoxylin channel of an image and where its nuclei are, both (H, W)."""
    image = imread(next((root / "images").glob(f"{name}.*")))[..., :3]
    folder = next(root / folder for folder in ("labels", "masks") if (root / folder).is_dir())
    return rgb2hed(image)[..., 0], imread(next(folder.glob(f"{name}.*"))) > 0


def dice(true_positives: float, predicted: float, actual: float) -> float:
    """Return 2 TP / (predicted + actual), 1 when there is nothing on either side."""
    return 2 * true_positives / (predicted + actual) if predicted + actual else 1.0


def oracle_dice(pairs: list[tuple[NDArray[np.float64], NDArray[np.bool_]]]) -> float:
    """Return the highest pooled Dice that one threshold reaches on all images together."""
    values = np.concatenate([haematoxylin.ravel() for haematoxylin, _ in pairs])
    nuclei = np.concatenate([mask.ravel() for _, mask in pairs])
    thresholds = np.quantile(values, np.linspace(0, 1, NUM_ORACLE_THRESHOLDS))
    return max(
        dice(np.count_nonzero(nuclei & above), np.count_nonzero(above), np.count_nonzero(nuclei))
        for above in (values > threshold for threshold in thresholds)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="data folder with images/, labels/ or masks/, splits.csv"
    )
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, help="folder for the masks, 0 and 255")
    arguments = parser.parse_args()
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    names = images_of_split(arguments.data, arguments.split)
    pairs = [read_pair(arguments.data, name) for name in names]
    counts = []
    for name, (haematoxylin, nuclei) in zip(names, pairs, strict=True):
        above = haematoxylin > threshold_otsu(haematoxylin)
        if arguments.out:
            Image.fromarray(above.astype(np.uint8) * 255).save(arguments.out / f"{name}.png")
        count = (np.count_nonzero(above & nuclei), np.count_nonzero(above), np.count_nonzero(nuclei))
        counts.append(count)
        print(f"{name:32} {dice(*count):.3f}")
    print(f"{'mean over images':32} {np.mean([dice(*count) for count in counts]):.3f}")
    print(f"{'pooled':32} {dice(*np.sum(counts, axis=0)):.3f}")
    print(f"{'oracle (best global threshold)':32} {oracle_dice(pairs):.3f}")


if __name__ == "__main__":
    main()
