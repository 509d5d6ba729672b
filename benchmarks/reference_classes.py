"""Pixel metrics of several classes beside torchmetrics, and average precision over thresholds beside scikit-learn.

Random cases are noise of 4 classes, half of it predicted rightly. Real ones are the masks of ISBI 2012 (membrane and
cell) and the labels of glioma nuclei (background, border and inside of nuclei), each cut into quarters, with
predictions that were moved, blurred, made noisy, and partly cut away. In all of them some pixels are not labelled.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from reference_common import Agreement, agreement
from reference_pixels import ZERO, Pairs, is_installed, missing
from scipy import ndimage

from segkit.data.rasters import read_values
from segkit.evaluation import calibration, pixels
from segkit.evaluation.pixel_curves import average_precision
from segkit.masks import IGNORE
from segkit.models.torchvision_door import torchvision_models

NUM_CLASSES = 4  # of random cases
REAL = {"isbi2012_em": "masks", "glioma_nuclei": "labels"}
BORDER_PX = 2
AP_NOTE = "of each class, 256 levels; undefined: no pixel of the class, where scikit-learn says 0"


class Case(NamedTuple):
    """Truth, uint8 (H, W) with `IGNORE`, and the probability of each class, float64 (C, H, W)."""

    truth: NDArray[np.uint8]
    probabilities: NDArray[np.float64]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.probabilities)

    @property
    def prediction(self) -> NDArray[np.uint8]:
        """The most probable class."""
        return self.probabilities.argmax(axis=0).astype(np.uint8)


def compare(num_random: int, seed: int, data: Path | None) -> list[Agreement]:
    """Return a row for each metric, reference and kind of cases; `data` holds the real data sets, if there are any."""
    kinds = {
        f"random masks of {NUM_CLASSES} classes": list(random_cases(num_random, seed)),
        "real masks of 2 and 3 classes": list(real_cases(data, seed)),
    }
    rows: list[Agreement] = []
    for kind, cases in kinds.items():
        if cases:
            rows += [*by_torchmetrics(cases, kind), by_scikit_learn(cases, kind)]
    return rows


def random_cases(number: int, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for _ in range(number):
        shape = tuple(rng.integers(1, 60, 2))
        present = rng.integers(1, NUM_CLASSES + 1)
        truth = rng.integers(0, present, shape, dtype=np.uint8)
        scores = rng.random((NUM_CLASSES, *shape)) * (np.arange(NUM_CLASSES) < present)[:, np.newaxis, np.newaxis]
        scores += (truth == np.arange(NUM_CLASSES)[:, np.newaxis, np.newaxis]) * (rng.random(shape) < 0.5)
        yield Case(not_all_labelled(truth, rng), scores / scores.sum(axis=0))


def real_cases(data: Path | None, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for name, folder in REAL.items() if data else ():
        for path in sorted((data / name / folder).glob("*.*")):
            values = read_values(path)
            truth, num_classes = ((values > 0).astype(np.uint8), 2) if folder == "masks" else (parts_of(values), 3)
            rows, columns = (side // 2 for side in truth.shape)
            for top in (0, rows):
                for left in (0, columns):
                    yield case_of(truth[top : top + rows, left : left + columns], num_classes, rng)


def parts_of(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return 1 on the border of each object, 2 inside it, 0 elsewhere."""
    size = (2 * BORDER_PX + 1,) * 2
    inside = (ndimage.minimum_filter(labels, size) == labels) & (ndimage.maximum_filter(labels, size) == labels)
    return np.where(labels > 0, 1 + inside, 0).astype(np.uint8)


def case_of(truth: NDArray[np.uint8], num_classes: int, rng: np.random.Generator) -> Case:
    """Return a case with what a network might have made of the truth."""
    moved = np.roll(truth, rng.integers(-2, 3, 2), axis=(0, 1))
    if rng.random() < 0.2:  # a corner of which nothing is found
        moved[: rng.integers(1, truth.shape[0]), : rng.integers(1, truth.shape[1])] = 0
    sigma, noise = rng.choice([0, 1, 2]), rng.choice([0.0, 0.5, 1.5])
    scores = np.stack([ndimage.gaussian_filter((moved == index).astype(float), sigma) for index in range(num_classes)])
    scores = np.exp(4 * scores + noise * ndimage.gaussian_filter(rng.standard_normal(scores.shape), (0, 1, 1)) * 3)
    return Case(not_all_labelled(truth, rng), scores / scores.sum(axis=0))


def not_all_labelled(truth: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return np.where(rng.random(truth.shape) < 0.1, np.uint8(IGNORE), truth)


def by_torchmetrics(cases: Sequence[Case], kind: str) -> list[Agreement]:
    reference = f"torchmetrics, {kind}"
    if not is_installed("torchmetrics"):
        return [missing("Dice, IoU, precision, recall, specificity", reference)]
    import torch

    torchvision_models()  # torchmetrics imports it, and not every build of it loads by itself
    from torchmetrics.functional import classification as theirs

    metrics: dict[str, Callable[..., Any]] = {
        "dice": theirs.multiclass_f1_score,
        "iou": theirs.multiclass_jaccard_index,
        "precision": theirs.multiclass_precision,
        "recall": theirs.multiclass_recall,
        "specificity": theirs.multiclass_specificity,
    }
    rows: dict[str, Pairs] = {name: [] for name in metrics}
    for case in cases:
        table = pixels.confusion(case.prediction, case.truth, case.num_classes)
        both = [torch.from_numpy(mask.ravel().astype(np.int64)) for mask in (case.prediction, case.truth)]
        for name, metric in metrics.items():
            own = pixels.CLASS_METRICS[name](table)
            values = metric(*both, num_classes=case.num_classes, average="none", ignore_index=IGNORE)
            rows[name] += zip(own.tolist(), values.tolist(), strict=True)
    return [agreement(name, reference, pairs, tolerance=1e-6, note=ZERO) for name, pairs in rows.items()]


def by_scikit_learn(cases: Sequence[Case], kind: str) -> Agreement:
    reference = f"scikit-learn, {kind}"
    if not is_installed("sklearn"):
        return missing("average precision of pixels", reference)
    from sklearn.metrics import average_precision_score

    pairs: Pairs = []
    for case in cases:
        levels, labelled = (case.probabilities * 255).round().astype(np.uint8), case.truth != IGNORE
        for index in range(1, case.num_classes):
            counts = calibration.count_of_class(levels[index], case.truth, index).levels
            own = None if counts is None else float(average_precision(counts))
            is_true = case.truth[labelled] == index
            theirs = average_precision_score(is_true, levels[index][labelled]) if is_true.any() else None
            pairs.append((own, theirs))
    return agreement("average precision of pixels", reference, pairs, note=AP_NOTE)
