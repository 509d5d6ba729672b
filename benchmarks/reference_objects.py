"""Object metrics beside StarDist's, torchmetrics', and beside AJI, AJI+ and PQ followed from their definitions.

Random cases are small images of a few ids, and drawn nuclei that were moved, cut, joined, lost and invented; real ones
are labels of data sets, changed in the same way.
"""

import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from reference_common import Agreement, agreement
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from segkit.data.rasters import read_values
from segkit.evaluation.estimates import mean_of_defined
from segkit.evaluation.object_totals import METRICS as OVERALL
from segkit.evaluation.object_totals import totals_of
from segkit.evaluation.objects import METRICS, THRESHOLDS, Overlaps, count_objects, match_objects
from segkit.models.torchvision_door import torchvision_models

Labels = NDArray[np.int64]
Pairs = list[tuple[float, float]]

MOST_IDS = 4  # of the small random images: all pairings of so many are tried
REAL = {"dsb2018": 150, "glioma_nuclei": 60}  # data sets, and how many images are taken of each, evenly
LOW_THRESHOLDS = (0.1, 0.3)
ABOVE_HALF = float(np.nextafter(0.5, 1))
SET_SIZE = 10
NUM_SETS = 200

STARDIST = {
    "average_precision": "accuracy",
    "f1": "f1",
    "precision": "precision",
    "recall": "recall",
    "matched_iou": "mean_matched_score",
    "panoptic_quality": "panoptic_quality",
}
USED_ONCE = "some programs hand out each predicted object once, in the order of ids; MoNuSeg's and HoVer-Net's do not"
EMPTY_IS_0 = "StarDist says 0 where segkit says undefined (0/0)"
STRICT = "published with IoU > 0.5, segkit (as StarDist) says IoU >= 0.5: they differ where an IoU is exactly 0.5"


class Case(NamedTuple):
    """Label images of one shape, and what segkit says of them."""

    truth: Labels
    predicted: Labels
    overlaps: Overlaps

    def at(self, metric: str, threshold: float = 0.5) -> float:
        """Return a metric at an IoU threshold."""
        return float(METRICS[metric](count_objects(self.overlaps, [threshold]))[0])

    def overall(self, metric: str) -> float:
        """Return a metric that knows no threshold."""
        return float(OVERALL[metric](totals_of(self.overlaps)))


def compare(num_random: int, seed: int, data: Path | None) -> list[Agreement]:
    """Return a row for each metric, reference and kind of cases; `data` holds the real data sets, if there are any."""
    rows = []
    # A few more, as some are empty.
    kinds = {"random": list(random_cases(num_random + num_random // 10, seed)), "real": list(real_cases(data, seed))}
    for kind, cases in kinds.items():
        if cases:
            rows += [*by_definition(cases, kind), *by_stardist(cases, kind, seed), *by_torchmetrics(cases, kind)]
    return rows


def random_cases(number: int, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for index in range(number):
        if index % 2:
            truth = drawn_nuclei(rng)
            yield case_of(truth, changed(truth, rng))
        else:
            shape = tuple(rng.integers(1, 9, 2))
            # Steps of several pixels make larger objects.
            truth, found = (
                np.repeat(rng.integers(0, MOST_IDS + 1, shape), rng.integers(1, 4), 1) * (rng.random() < 0.9)
                for _ in range(2)
            )
            width = min(truth.shape[1], found.shape[1])
            yield case_of(truth[:, :width], found[:, :width])


def real_cases(data: Path | None, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for name, number in REAL.items() if data else ():
        paths = sorted((data / name / "labels").glob("*.*"))
        for path in paths[:: max(1, len(paths) // number)][:number]:
            truth = read_values(path).astype(np.int64)
            yield case_of(truth, changed(truth, rng))


def case_of(truth: Labels, predicted: Labels) -> Case:
    return Case(truth, predicted, match_objects(truth, predicted))


def drawn_nuclei(rng: np.random.Generator) -> Labels:
    height, width = rng.integers(40, 97, 2)
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.int64)
    for index in range(int(rng.integers(0, 30))):
        centre, radii = rng.uniform(0, (height, width)), rng.uniform(3, 9, 2)
        labels[((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1] = 1 + index
    return labels


def changed(truth: Labels, rng: np.random.Generator) -> Labels:
    """Return what a network might have made of it: objects moved, grown, shrunk, cut, joined, lost and invented."""
    predicted = np.zeros_like(truth)
    next_id = 1
    for value in np.unique(truth[truth > 0]):
        fate = rng.random()
        if fate < 0.08:
            continue
        next_id += not 0.08 <= fate < 0.16  # joined with the one before
        y, x = np.nonzero(truth == value)
        if 0.16 <= fate < 0.3 and len(y) > 8:
            keep = ndimage.binary_erosion(truth == value)
            y, x = np.nonzero(keep) if keep.any() else (y, x)
        y, x = y + rng.integers(-2, 3), x + rng.integers(-2, 3)
        inside = (y >= 0) & (x >= 0) & (y < truth.shape[0]) & (x < truth.shape[1])
        y, x = y[inside], x[inside]
        predicted[y, x] = next_id
        if 0.3 <= fate < 0.4:
            next_id += 1
            cut = x > np.median(x) if len(x) else inside[:0]
            predicted[y[cut], x[cut]] = next_id
    for _ in range(int(rng.integers(0, 4))):
        top, left = (int(rng.integers(0, size)) for size in truth.shape)
        next_id += 1
        predicted[top : top + 6, left : left + 6] = next_id
    return predicted


def by_definition(cases: Sequence[Case], kind: str) -> list[Agreement]:
    """Follow the papers object by object, on the full table of overlaps."""
    reference = f"by definition, {kind}"
    aji: Pairs = []
    used_once: Pairs = []
    plus: Pairs = []
    quality = Quality()
    for case in cases:
        table = Table(case)
        aji.append((case.overall("aji"), table.aji()))
        used_once.append((case.overall("aji"), table.aji(reuse=False)))
        # Where several pairings have the greatest sum of IoUs, any of them will do.
        mine = case.overall("aji_plus")
        plus.append((mine, min(table.aji_plus(), key=lambda value: abs(value - mine))))
        quality.add(case, table.panoptic_quality())
    empty = "undefined: without objects, SQ without pairs"
    return [
        agreement("AJI", reference, aji, note="Kumar et al. 2017, as MoNuSeg and HoVer-Net read it; " + empty),
        agreement("AJI, predictions used once", reference, used_once, expected=False, note=USED_ONCE),
        agreement("AJI+", reference, plus, note="of a pairing with the greatest sum of IoUs; " + empty),
        *quality.rows(reference),
    ]


class Quality:
    """PQ, SQ and RQ of cases, as published: with IoU > 0.5."""

    def __init__(self) -> None:
        self.pairs: dict[str, Pairs] = {"PQ": [], "SQ": [], "RQ": []}
        self.at_half: Pairs = []

    def add(self, case: Case, theirs: Sequence[float]) -> None:
        """Take PQ, SQ and RQ of a reference."""
        for name, metric, other in zip(self.pairs, ("panoptic_quality", "matched_iou", "f1"), theirs, strict=True):
            self.pairs[name].append((case.at(metric, ABOVE_HALF), other))
        self.at_half.append((case.at("panoptic_quality"), theirs[0]))

    def rows(self, reference: str) -> list[Agreement]:
        """Return how they agree with segkit's, at the next number after 0.5 and, as tables have them, at 0.5."""
        note = "IoU > 0.5; undefined: without objects, SQ without pairs"
        return [
            *(agreement(name, reference, of_name, tolerance=1e-6, note=note) for name, of_name in self.pairs.items()),
            agreement("PQ at IoU 0.5", reference, self.at_half, tolerance=1e-6, expected=False, note=STRICT),
        ]


class Table:
    """All true objects against all predicted ones: what they share, pixel by pixel."""

    def __init__(self, case: Case) -> None:
        self.true_ids, self.found_ids = (np.unique(one[one != 0]) for one in (case.truth, case.predicted))
        inside = [case.predicted[case.truth == one] for one in self.true_ids]
        shared = [[np.count_nonzero(pixels == found) for found in self.found_ids] for pixels in inside]
        self.both = np.array(shared, np.float64).reshape(len(self.true_ids), len(self.found_ids))
        self.true_px = np.array([np.count_nonzero(case.truth == one) for one in self.true_ids], np.float64)
        self.found_px = np.array([np.count_nonzero(case.predicted == one) for one in self.found_ids], np.float64)
        self.either = self.true_px[:, np.newaxis] + self.found_px - self.both
        self.iou = self.both / self.either

    def aji(self, *, reuse: bool = True) -> float:
        """Kumar et al. (2017), algorithm 1; without `reuse` a predicted object is only for the first that takes it."""
        intersection = union = 0.0
        used: set[int] = set()
        for true in range(len(self.true_ids)):
            ious = self.iou[true].copy()
            ious[[] if reuse else list(used)] = 0
            best = int(np.argmax(ious)) if len(ious) else None
            if best is None or ious[best] == 0:
                union += self.true_px[true]
            else:
                used.add(best)
                intersection += self.both[true, best]
                union += self.either[true, best]
        union += sum(px for found, px in enumerate(self.found_px) if found not in used)
        return intersection / union if union else np.nan

    def aji_plus(self) -> set[float]:
        """Return that of every one-to-one pairing with the greatest sum of IoUs, or of one where there are many."""
        union_of_all = self.true_px.sum() + self.found_px.sum()
        values = set()
        for true, found in self.best_pairings():
            # A pair without a common pixel is none, and adds both areas, too.
            both = self.both[true, found].sum()
            values.add(float(both / (union_of_all - both)) if union_of_all else np.nan)
        return values

    def best_pairings(self) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Return the one-to-one pairings with the greatest sum of IoUs, one of them where there are many objects."""
        if max(self.iou.shape) > MOST_IDS or not self.iou.size:
            return [linear_sum_assignment(self.iou, maximize=True)]
        swap = self.iou.shape[0] > self.iou.shape[1]
        iou = self.iou.T if swap else self.iou
        rows = np.arange(len(iou))
        pairings = [np.array(columns) for columns in itertools.permutations(range(iou.shape[1]), len(iou))]
        best = max(iou[rows, columns].sum() for columns in pairings)
        chosen = [(rows, columns) for columns in pairings if iou[rows, columns].sum() > best - 1e-9]
        return [(columns, rows) if swap else (rows, columns) for rows, columns in chosen]

    def panoptic_quality(self) -> tuple[float, float, float]:
        """PQ, SQ and RQ of Kirillov et al. (2019), which are DQ x SQ, SQ and DQ of HoVer-Net."""
        matched = self.iou[self.iou > 0.5]
        tp, fp, fn = len(matched), len(self.found_ids) - len(matched), len(self.true_ids) - len(matched)
        rq = tp / (tp + fp / 2 + fn / 2) if tp + fp + fn else np.nan
        sq = matched.mean() if tp else np.nan
        return (0.0 if rq == 0 else rq * sq), sq, rq


def by_stardist(cases: Sequence[Case], kind: str, seed: int) -> list[Agreement]:
    reference = f"stardist.matching, {kind}"
    stardist = stardist_matching()
    if stardist is None:
        return [missing("AP", reference)]
    all_thresholds = (*LOW_THRESHOLDS, *THRESHOLDS)
    theirs = [stardist.matching(case.truth, case.predicted, thresh=all_thresholds) for case in cases]
    names = ("tp", "fp", "fn")
    counted = [
        (float(own), float(getattr(other, name)))
        for case, others in zip(cases, theirs, strict=True)
        for owns, other in zip(count_objects(case.overlaps, all_thresholds), others, strict=True)
        for own, name in zip(owns, names, strict=False)
    ]
    rows = [agreement("TP, FP, FN at IoU 0.1 to 0.95", reference, counted)]
    for metric, other_name in STARDIST.items():
        note = "undefined: where StarDist says 0 for 0/0"
        pairs = paired(cases, theirs, metric, other_name, all_thresholds, THRESHOLDS)
        rows.append(agreement(f"{metric} at IoU 0.5 to 0.95", reference, pairs, tolerance=1e-6, note=note))
    low = paired(cases, theirs, "matched_iou", "mean_matched_score", all_thresholds, LOW_THRESHOLDS)
    note = (
        "below 0.5 a matching is not unique: of those with most pairs StarDist takes the greatest sum of all IoUs, "
        "those below the threshold, too, segkit of the pairs that count"
    )
    rows.append(agreement("matched_iou at IoU 0.1, 0.3", reference, low, tolerance=1e-6, expected=False, note=note))
    return [*rows, *sets_by_stardist(stardist, cases, f"stardist.matching_dataset, {kind}", seed)]


def paired(
    cases: Sequence[Case],
    theirs: Sequence[Sequence[Any]],
    metric: str,
    other_name: str,
    all_thresholds: Sequence[float],
    thresholds: Sequence[float],
) -> Pairs:
    return [
        (case.at(metric, threshold), float(getattr(of_case[all_thresholds.index(threshold)], other_name)))
        for case, of_case in zip(cases, theirs, strict=True)
        for threshold in thresholds
    ]


def sets_by_stardist(stardist: ModuleType, cases: Sequence[Case], reference: str, seed: int) -> Iterator[Agreement]:
    """Compare what is pooled over images, and averaged, of sets drawn from the cases."""
    rng = np.random.default_rng(seed)
    small = [case for case in cases if case.truth.size < 300_000]
    pooled: Pairs = []
    mean: Pairs = []
    mean_with_empty: Pairs = []
    for _ in range(NUM_SETS):
        chosen = [small[index] for index in rng.choice(len(small), SET_SIZE)]
        threshold = float(rng.choice(THRESHOLDS))
        counts = np.stack([count_objects(case.overlaps, [threshold])[0] for case in chosen])
        images = [case.truth for case in chosen], [case.predicted for case in chosen]
        options = {"thresh": threshold, "show_progress": False}
        of_all = stardist.matching_dataset(*images, **options)
        of_each = stardist.matching_dataset(*images, **options, by_image=True)
        for metric, name in STARDIST.items():
            of_images = METRICS[metric](counts)
            pooled.append((float(METRICS[metric](counts.sum(axis=0))), getattr(of_all, name)))
            average = float(mean_of_defined(of_images)), getattr(of_each, name)
            if np.isnan(of_images).any():
                mean_with_empty.append(average)
            else:
                mean.append(average)
    yield agreement("the same six, pooled", reference, pooled, tolerance=1e-6)
    yield agreement("the same six, mean over images", reference, mean, tolerance=1e-6)
    if mean_with_empty:
        yield agreement(
            "mean over images, some undefined",
            reference,
            mean_with_empty,
            expected=False,
            note=EMPTY_IS_0 + ", and averages that in, which segkit leaves out",
        )


def stardist_matching() -> ModuleType | None:
    """Load StarDist's module by itself: the whole package needs TensorFlow."""
    found = importlib.util.find_spec("stardist")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("csbdeep") is None:
        return None
    path = Path(found.submodule_search_locations[0]) / "matching.py"
    spec = importlib.util.spec_from_file_location("stardist_matching", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_torchmetrics(cases: Sequence[Case], kind: str) -> list[Agreement]:
    reference = f"torchmetrics panoptic_quality, {kind}"
    if importlib.util.find_spec("torchmetrics") is None:
        return [missing("PQ", reference)]
    import torch

    torchvision_models()  # torchmetrics imports it, and not every build of it loads by itself
    from torchmetrics.functional.detection import panoptic_quality

    quality = Quality()
    for case in cases:
        stacked = [
            torch.from_numpy(np.stack([one != 0, one], axis=-1).astype(np.int64)[np.newaxis])
            for one in (case.predicted, case.truth)
        ]
        # The background is a class of its own there, and left out here.
        values = panoptic_quality(*stacked, things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
        quality.add(case, values[0].tolist())
    return quality.rows(reference)


def missing(metric: str, reference: str) -> Agreement:
    return agreement(metric, reference, [], note="not installed")
