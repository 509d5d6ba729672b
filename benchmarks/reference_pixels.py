"""Metrics of pixels, boundaries, calibration and membranes beside MONAI, torchmetrics, scikit-image, medpy and others.

Random cases are smooth fields and noise, some empty, with predictions that are anything from equal to unrelated; real
ones are the masks of ISBI 2012 and the labels of the Data Science Bowl 2018, with predictions made by blurring and
noise.
"""

import importlib.util
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from reference_common import Agreement, agreement
from scipy import ndimage
from skimage.metrics import adapted_rand_error, hausdorff_distance, variation_of_information
from skimage.segmentation import watershed

from segkit.data.rasters import read_values
from segkit.evaluation import calibration, pixels, surfaces
from segkit.evaluation.membranes import thinned_scores
from segkit.evaluation.partitions import adapted_rand, contingency, information, v_rand
from segkit.evaluation.surfaces import SurfaceTally, surface_metrics, tally_surfaces
from segkit.models.torchvision_door import torchvision_models

Pairs = list[tuple[float | None, float | None]]

REAL = {"isbi2012_em": ("masks", 24), "dsb2018": ("labels", 190)}  # data sets, and how many images, evenly
QUEUE_PX = 256  # side of what the queue, which is slow, floods of a real image
SINGLE_PX = 64  # side of what is added up in float32
SINGLE = 2e-4  # where a reference measures or adds up in float32
DISTANCES = ("hd95", "hd", "assd", "nsd")

NO_BOUNDARY = "undefined: both masks empty; where one is, MONAI says NaN for HD95 and segkit infinite"
ONE_EMPTY = "masks that are not empty; others end in an error there"
BY_CORNERS = "corners between pixels, weighted by the length of the contour: another definition, see surfaces.py"
POOLED = "percentile of both directions together"
INSIDE = "whole masks: a pixel inside the other mask is at distance 0 there, however far its boundary is"
ZERO = "undefined: torchmetrics says 0 for 0/0"
IN_SINGLE = "on at most 64 x 64 pixels: torchmetrics adds up in float32, which loses digits with more of them"
ON_EDGES = "255 levels lie on edges of 15 bins, which are closed above here and below there; there 1 has its own bin"
ONE_CELL = "undefined: no true cell; V-Info also with one cell each, where the challenge's script says 0"
OTHER_LINE = "undefined: no true cell; its queue has another order, so that borders lie elsewhere by a pixel"


class Case(NamedTuple):
    """A true mask and its segments, and a map of probabilities of the mask."""

    truth: NDArray[np.bool_]
    segments: NDArray[np.int64]
    probability: NDArray[np.float64]
    mpp: float

    @property
    def prediction(self) -> NDArray[np.bool_]:
        """The predicted mask."""
        return self.probability > 0.5


def compare(num_random: int, seed: int, data: Path | None) -> list[Agreement]:
    """Return a row for each metric, reference and kind of cases; `data` holds the real data sets, if there are any."""
    kinds = {"random": list(random_cases(num_random, seed)), "real": list(real_cases(data, seed))}
    rows: list[Agreement] = []
    for kind, cases in kinds.items():
        if cases:
            for comparison in (by_monai, by_medpy, by_deepmind, by_scikit_image, by_torchmetrics, by_definition):
                rows += comparison(cases, kind)
    return rows


def random_cases(number: int, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for index in range(number):
        shape = tuple(rng.integers(1, 97, 2))
        field = ndimage.gaussian_filter(rng.random(shape), rng.choice([0, 1, 3]))
        share = (0.0, 1.0)[index // 20 % 2] if index % 20 == 0 else rng.uniform(0.1, 0.9)
        truth = field > np.quantile(field, 1 - share) if 0 < share < 1 else np.full(shape, bool(share))
        yield case_of(truth, ndimage.label(truth)[0], rng)


def real_cases(data: Path | None, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for name, (folder, number) in REAL.items() if data else ():
        paths = sorted((data / name / folder).glob("*.*"))
        for path in paths[:: max(1, len(paths) // number)][:number]:
            values = read_values(path)
            segments = values if folder == "labels" else ndimage.label(values > 0)[0]
            yield case_of(values > 0, segments, rng)


def case_of(truth: NDArray[np.bool_], segments: NDArray[Any], rng: np.random.Generator) -> Case:
    """Return a case with what a network might have made of the truth."""
    noise = ndimage.gaussian_filter(rng.standard_normal(truth.shape), 2)
    noise *= rng.choice([0, 0.3, 1]) / max(1e-9, float(noise.std()))
    blurred = ndimage.gaussian_filter(truth.astype(float), rng.choice([0, 1, 2]))
    # Neither 0 nor 1, nor a share of 15, which references sort into other bins.
    probability = 1 / (1 + np.exp(-4 * (blurred - 0.5) - 2 * noise - rng.choice([0, 0, 1.5])))
    return Case(truth, segments.astype(np.int64), probability, float(rng.choice([0.25, 0.5, 1])))


def tally_of(case: Case) -> SurfaceTally:
    return tally_surfaces(case.prediction, case.truth)


def own_distances(case: Case, tolerance_px: float = 2) -> dict[str, float]:
    values = surface_metrics(tally_of(case), tolerance_px=tolerance_px, mpp=case.mpp)
    return {name.removesuffix("_um"): value for name, value in values.items()}


def by_monai(cases: Sequence[Case], kind: str) -> list[Agreement]:
    reference = f"MONAI, {kind}"
    if not is_installed("monai"):
        return [missing("HD95, HD, ASSD, NSD", reference)]
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    rows: dict[str, Pairs] = {name: [] for name in DISTANCES}
    for case in cases:
        masks = [torch.from_numpy(mask[np.newaxis, np.newaxis]) for mask in (case.prediction, case.truth)]
        options = {"include_background": True, "spacing": case.mpp}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a mask is empty
            theirs = {
                "hd95": compute_hausdorff_distance(*masks, percentile=95, **options),
                "hd": compute_hausdorff_distance(*masks, **options),
                "assd": compute_average_surface_distance(*masks, symmetric=True, **options),
                "nsd": compute_surface_dice(*masks, class_thresholds=[2 * case.mpp], **options),
            }
        own = own_distances(case)
        for name, pairs in rows.items():
            pairs.append((own[name], float(theirs[name])))
    return [
        agreement(name.upper(), reference, pairs, tolerance=SINGLE, note=NO_BOUNDARY) for name, pairs in rows.items()
    ]


def by_medpy(cases: Sequence[Case], kind: str) -> list[Agreement]:
    reference = f"medpy, {kind}"
    if not is_installed("medpy"):
        return [missing("HD, ASSD, HD95", reference)]
    from medpy.metric import binary

    names = ("HD", "ASSD", "HD95", "HD95 of both directions together")
    rows: dict[str, Pairs] = {name: [] for name in names}
    for case in filled(cases):
        masks, own = (case.prediction, case.truth), own_distances(case)
        tally = tally_of(case)
        together = tally.from_prediction + tally.from_truth
        hd95 = binary.hd95(*masks, case.mpp)
        rows["HD"].append((own["hd"], binary.hd(*masks, case.mpp)))
        rows["ASSD"].append((own["assd"], binary.assd(*masks, case.mpp)))
        rows["HD95"].append((own["hd95"], hd95))
        rows[names[3]].append((surfaces.hausdorff_95_px(SurfaceTally(together, together)) * case.mpp, hd95))
    notes = {"HD95": POOLED, names[3]: "of segkit's tally, to show that this is the difference"}
    return [
        agreement(name, reference, pairs, expected=name != "HD95", note=notes.get(name, ONE_EMPTY))
        for name, pairs in rows.items()
    ]


def by_deepmind(cases: Sequence[Case], kind: str) -> list[Agreement]:
    reference = f"surface-distance, {kind}"
    if not is_installed("surface_distance"):
        return [missing("HD95, ASSD, NSD", reference)]
    import surface_distance

    rows: dict[str, Pairs] = {name: [] for name in ("hd95", "assd", "nsd")}
    for case in filled(cases):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scipy, about the names that it calls
            found = surface_distance.compute_surface_distances(case.truth, case.prediction, (case.mpp, case.mpp))
        lengths = [found["surfel_areas_gt"], found["surfel_areas_pred"]]
        distances = [found["distances_gt_to_pred"], found["distances_pred_to_gt"]]
        theirs = {
            "hd95": surface_distance.compute_robust_hausdorff(found, 95),
            "assd": np.average(np.concatenate(distances), weights=np.concatenate(lengths)),
            "nsd": surface_distance.compute_surface_dice_at_tolerance(found, 2 * case.mpp),
        }
        own = own_distances(case)
        for name, pairs in rows.items():
            pairs.append((own[name], float(theirs[name])))
    return [agreement(name.upper(), reference, pairs, expected=False, note=BY_CORNERS) for name, pairs in rows.items()]


def by_scikit_image(cases: Sequence[Case], kind: str) -> list[Agreement]:
    of_boundaries: Pairs = []
    of_masks: Pairs = []
    rand: dict[str, Pairs] = {name: [] for name in ("error", "precision", "recall")}
    bits: dict[str, Pairs] = {name: [] for name in ("VI of splits", "VI of merges", "VI of merges, truth's 0 left out")}
    for case in cases:
        masks = (case.prediction, case.truth)
        own = surfaces.hausdorff_px(tally_of(case))
        edges = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
        of_boundaries.append((own, hausdorff_distance(*edges) if any(map(np.any, masks)) else None))
        if all(map(np.any, masks)):
            of_masks.append((own, hausdorff_distance(*masks)))
        found = ndimage.label(case.prediction)[0].astype(np.int64)
        table = contingency(case.segments, found)
        score = adapted_rand(table)
        with np.errstate(invalid="ignore", divide="ignore"):
            # Precision and recall come in the other order: its issue 6485.
            theirs = dict(zip(("error", "recall", "precision"), adapted_rand_error(case.segments, found), strict=True))
        for name, pairs in rand.items():
            pairs.append((getattr(score, name), theirs[name]))
        of_all, inside = information(table), information(table.within_truth())
        splits, merges = variation_of_information(case.segments, found)
        bits["VI of splits"].append((of_all.split_bits, splits))
        bits["VI of merges"].append((of_all.merge_bits, merges))
        if case.truth.any():
            merges = variation_of_information(case.segments, found, ignore_labels=(0,))[1]
            bits["VI of merges, truth's 0 left out"].append((inside.merge_bits, merges))
    pairs_note = "undefined: no two pixels of one segment; precision and recall in the other order (issue 6485)"
    return [
        agreement("HD", f"scikit-image on boundaries, {kind}", of_boundaries, note="undefined: both masks empty"),
        agreement("HD", f"scikit-image on masks, {kind}", of_masks, expected=False, note=INSIDE),
        *(
            agreement(f"adapted Rand {name}", f"scikit-image, {kind}", pairs, note=pairs_note)
            for name, pairs in rand.items()
        ),
        *(agreement(name, f"scikit-image, {kind}", pairs) for name, pairs in bits.items()),
    ]


def by_torchmetrics(cases: Sequence[Case], kind: str) -> list[Agreement]:
    reference = f"torchmetrics, {kind}"
    if not is_installed("torchmetrics"):
        return [missing("ECE, MCE, Dice, IoU", reference)]
    import torch

    torchvision_models()  # torchmetrics imports it, and not every build of it loads by itself
    from torchmetrics.functional import classification as theirs

    names = ("ECE of a class", "MCE of a class", "ECE of the top label", "ECE of a class, 255 levels")
    rows: dict[str, Pairs] = {name: [] for name in (*names, "Dice", "IoU")}
    for case in cases:
        truth = case.truth.astype(np.uint8)
        probability, target = torch.from_numpy(case.probability.ravel()), torch.from_numpy(truth.ravel().astype(int))
        counts = calibration.count_of_class(case.probability, truth, 1)
        corner = case.probability[:SINGLE_PX, :SINGLE_PX].astype(np.float32)
        both = np.stack([1 - corner, corner])
        true_corner = truth[:SINGLE_PX, :SINGLE_PX]
        of_top = calibration.count_of_top_label(both, true_corner)
        levels = (case.probability * 255).round().astype(np.uint8)
        of_levels = calibration.count_of_class(levels, truth, 1)
        error = calibration.expected_calibration_error
        of_class = {
            norm: float(theirs.binary_calibration_error(probability, target, n_bins=15, norm=norm))
            for norm in ("l1", "max")
        }
        top = theirs.multiclass_calibration_error(
            torch.from_numpy(both.reshape(2, -1).T.copy()), torch.from_numpy(true_corner.ravel().astype(int)), 2, 15
        )
        of_255 = theirs.binary_calibration_error(torch.from_numpy(levels.ravel() / 255), target, n_bins=15)
        rows[names[0]].append((error(counts), of_class["l1"]))
        rows[names[1]].append((calibration.maximum_calibration_error(counts), of_class["max"]))
        rows[names[2]].append((error(of_top), float(top)))
        rows[names[3]].append((error(of_levels), float(of_255)))
        table = pixels.confusion(case.prediction.astype(np.uint8), truth, 2)
        predicted = torch.from_numpy(case.prediction.ravel().astype(int))
        rows["Dice"].append((pixels.dice(table)[1], float(theirs.binary_f1_score(predicted, target))))
        rows["IoU"].append((pixels.iou(table)[1], float(theirs.binary_jaccard_index(predicted, target))))
    notes = {names[2]: IN_SINGLE, names[3]: ON_EDGES, "Dice": ZERO, "IoU": ZERO}
    return [
        agreement(
            name,
            reference,
            pairs,
            tolerance=SINGLE if name == names[2] else 1e-6,
            expected=name != names[3],
            note=notes.get(name, ""),
        )
        for name, pairs in rows.items()
    ]


def by_definition(cases: Sequence[Case], kind: str) -> list[Agreement]:
    """Compare with the challenge's flooding and formulas, pixel by pixel, and with the mean squared error."""
    reference = f"ISBI 2012's script, re-derived, {kind}"
    names = ("V-Rand", "V-Rand precision", "V-Rand recall", "V-Info")
    rows: dict[str, Pairs] = {name: [] for name in names}
    by_lines: Pairs = []
    brier: Pairs = []
    for case in cases:
        prediction, truth = (mask[:QUEUE_PX, :QUEUE_PX] for mask in (case.prediction, case.truth))
        scores = thinned_scores(prediction, truth)
        own = [scores.v_rand.score, scores.v_rand.precision, scores.v_rand.recall, scores.v_info.score]
        cells = ndimage.label(truth)[0]
        for name, one, other in zip(names, own, scores_by_table(cells, flooded_by_queue(prediction)), strict=True):
            rows[name].append((one, other))
        if prediction.any():
            lines = watershed(~prediction, ndimage.label(prediction)[0], watershed_line=True)
            by_lines.append((own[0], v_rand(contingency(cells, lines)).score))
        counts = calibration.count_of_class(case.probability, case.truth.astype(np.uint8), 1)
        brier.append((calibration.brier_score(counts), float(np.mean((case.probability - case.truth) ** 2))))
    return [
        *(agreement(name, reference, pairs, note=ONE_CELL) for name, pairs in rows.items()),
        agreement("V-Rand", f"scikit-image's watershed, {kind}", by_lines, expected=False, note=OTHER_LINE),
        agreement("Brier", f"by definition, {kind}", brier),
    ]


def flooded_by_queue(cells: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Flood as the challenge's script does it (Fiji's WatershedTransform2D on a map of two levels), pixel by pixel."""
    height, width = cells.shape
    labels: NDArray[np.int64] = np.where(cells, ndimage.label(cells)[0], -1).astype(np.int64)
    if not cells.any():
        return np.ones_like(labels)

    def beside(y: int, x: int) -> list[tuple[int, int]]:
        around = ((y, x - 1), (y - 1, x), (y, x + 1), (y + 1, x))
        return [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]

    dry = [(int(y), int(x)) for x, y in np.argwhere(~cells.T)]
    queue = deque(at for at in dry if any(labels[other] > 0 for other in beside(*at)))
    waiting = set(queue)
    while queue:
        at = queue.popleft()
        wet = {int(labels[other]) for other in beside(*at)} - {-1, 0}
        labels[at] = wet.pop() if len(wet) == 1 else 0
        for other in beside(*at):
            if labels[other] == -1 and other not in waiting:
                waiting.add(other)
                queue.append(other)
    return labels


def scores_by_table(truth: NDArray[Any], found: NDArray[np.int64]) -> list[float | None]:
    """Follow the script's formulas (RandError, VariationOfInformation) on the full table of shares p_ij."""
    num_pixels = np.count_nonzero(truth)
    if not num_pixels:
        return [None] * 4
    shares = np.zeros((int(truth.max()) + 1, int(found.max()) + 1))
    np.add.at(shares, (truth, found), 1 / num_pixels)
    of_truth, inside, alone = shares[1:].sum(axis=1), shares[1:, 1:], float(shares[1:, 0].sum())
    of_found = inside.sum(axis=0)
    squares = [float((one**2).sum()) for one in (of_truth, of_found, inside)]
    in_truth, in_found, both = squares[0], squares[1] + alone / num_pixels, squares[2] + alone / num_pixels

    def bits(values: NDArray[np.float64], singles: float = 0.0) -> float:
        positive = values[values > 0]
        return float(-(positive * np.log2(positive)).sum() + singles * np.log2(num_pixels))

    h_truth, h_found, h_both = bits(of_truth), bits(of_found, alone), bits(inside, alone)
    entropies = h_truth + h_found
    info = 2 * (entropies - h_both) / entropies if entropies > 1e-12 else None
    return [2 * both / (in_truth + in_found), both / in_found, both / in_truth, info]


def filled(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if case.truth.any() and case.prediction.any()]


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def missing(metric: str, reference: str) -> Agreement:
    return agreement(metric, reference, [], note="not installed")
