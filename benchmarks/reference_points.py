"""Point metrics against reference implementations: random, crowded, sparse and real points.

The published rules are written down here once more, from their descriptions and with no thought of speed, where no
package offers them: OCELOT's and HoVer-Net's matching, MIDOG 2021's k-d tree and CAMELYON16's FROC.
"""

import csv
import importlib.util
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from reference_common import Agreement, agreement
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from segkit.evaluation.point_curves import FROC_RATES, ScoredHits, point_curve, score_hits
from segkit.evaluation.point_matching import matches
from segkit.evaluation.point_rules import KDTREE25_RADIUS_PX, judge

REAL_POINTS = {"crc_nuclei": (6.0, 5), "amibr_mitosis": (30.0, 1)}
"""Of each data set the radius in pixels, and how often each image is jittered anew."""

MAX_REAL_IMAGES = 200

PACKAGES = ("grand_challenge_metrics", "sklearn")
"""What is compared with, and needs to be installed."""

Counts = tuple[int, int, int]


class Case(NamedTuple):
    """An image: positions float64 (N, 2) and (M, 2), scores float64 (N,), all different, and the radius."""

    detections_yx: NDArray[np.float64]
    scores: NDArray[np.float64]
    truth_yx: NDArray[np.float64]
    radius_px: float


def compare(num_random: int, seed: int, data: Path | None) -> list[Agreement]:
    """Compare matching, average precision and FROC with the references.

    Parameters
    ----------
    num_random
        Random images, a third each crowded, of usual density and sparse.
    seed
        Of the random images and of the jitter.
    data
        The folder with `crc_nuclei` and `amibr_mitosis`, whose points are jittered, dropped and doubled; None for
        random images alone.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return [agreement("all of points", name, [], note="not installed") for name in missing]
    rng = np.random.default_rng(seed)
    random = [_random_case(rng, number) for number in range(num_random)]
    real = [] if data is None else [case for name in REAL_POINTS for case in _real_cases(rng, data, name)]
    sources = {"random": random, **({"real": real} if real else {})}
    results = []
    for source, cases in sources.items():
        results += [*_matching(cases, source), *_curves(cases, source)]
    return [*results, *_ties(rng, num_random)]


def _matching(cases: Sequence[Case], source: str) -> Iterator[Agreement]:
    counts = {rule: [_segkit(rule, case) for case in cases] for rule in ("optimal", "midog", "greedy", "hungarian")}
    score_detections = [_score_detection(case) for case in cases]
    kdtree = [case._replace(radius_px=KDTREE25_RADIUS_PX) for case in cases]
    pairs: dict[str, tuple[str, list[Counts], list[Counts]]] = {
        "midog": ("grand-challenge-metrics score_detection", counts["midog"], score_detections),
        "midog again": ("the rule, step by step", counts["midog"], [_midog(case) for case in cases]),
        "greedy": ("OCELOT 2023, step by step", counts["greedy"], [_ocelot(case) for case in cases]),
        "hungarian": ("HoVer-Net pair_coordinates, rebuilt", counts["hungarian"], [_hovernet(case) for case in cases]),
        "kdtree25": (
            "MIDOG 2021, rebuilt with sklearn's KDTree",
            [_segkit("kdtree25", case) for case in kdtree],
            [_midog_2021(case) for case in kdtree],
        ),
    }
    for name, (reference, ours, theirs) in pairs.items():
        values = [pair for one, other in zip(ours, theirs, strict=True) for pair in zip(one, other, strict=True)]
        yield agreement(f"TP, FP, FN by {name.split()[0]}, {source}", reference, values)
    yield agreement(
        f"TP by optimal, {source}",
        "networkx hopcroft_karp_matching",
        [(ours[0], _largest(case)) for ours, case in zip(counts["optimal"], cases, strict=True)],
    )
    yield agreement(
        f"total distance by optimal, {source}",
        "scipy linear_sum_assignment, far pairs at a price",
        [(_total_distance(case), _smallest_distance(case)) for case in cases],
        tolerance=1e-6,
    )
    yield agreement(
        f"F1 by optimal, {source}",
        "grand-challenge-metrics score_detection",
        [(_f1(one), _f1(other)) for one, other in zip(counts["optimal"], score_detections, strict=True)],
        expected=False,
        note="another rule: a labelled point may take the only detection of a later one. Give rule=midog for its "
        "numbers; those by optimal are never lower. Undefined where there is neither a detection nor a point",
    )


def _curves(cases: Sequence[Case], source: str) -> Iterator[Agreement]:
    hits = [score_hits(*case) for case in cases]
    averages = [(point_curve([one]).average_precision, _sklearn_average(one)) for one in hits]
    found = [one.hits.sum() / one.num_truth if one.num_truth else None for one in hits]
    yield agreement(
        f"average precision, {source}",
        "scikit-learn average_precision_score times the part of points found",
        [
            (ours, None if theirs is None or part is None else theirs * part)
            for (ours, theirs), part in zip(averages, found, strict=True)
        ],
        note="scikit-learn knows detections only: it divides by those that are right, and segkit by the labelled "
        "points. Undefined where there is no labelled point, and for scikit-learn where none is found (segkit: 0)",
    )
    yield agreement(
        f"average precision, {source}",
        "scikit-learn average_precision_score",
        averages,
        expected=False,
        note="points that no detection finds lower segkit's, and are unknown to scikit-learn; undefined as above",
    )
    # As images of one set, some at a time: FROC is of many images.
    sets = [hits[start : start + 5] for start in range(len(hits) - 4)]
    steps, lines = zip(*(_froc_means(one) for one in sets), strict=True)
    curves = [point_curve(one) for one in sets]
    ours = [
        None if (froc := curve.froc(len(one))) is None else froc.mean for curve, one in zip(curves, sets, strict=True)
    ]
    yield agreement(f"mean of FROC, {source}", "each threshold counted anew", zip(ours, steps, strict=True))
    yield agreement(
        f"mean of FROC, {source}",
        "CAMELYON16 evaluation, rebuilt",
        zip(ours, lines, strict=True),
        expected=False,
        note="CAMELYON16 interpolates between thresholds, which no threshold attains, and leaves out the lowest score",
    )


def _ties(rng: np.random.Generator, num_cases: int) -> Iterator[Agreement]:
    """Whole numbers, as of clicked points: many distances are equal."""
    cases = []
    for _ in range(num_cases):
        num_detections, num_truths = rng.integers(20, 120, 2)
        positions = rng.integers(0, 40, (num_detections + num_truths, 2)).astype(np.float64)
        scores = rng.permutation(num_detections) / num_detections
        cases.append(Case(positions[:num_detections], scores, positions[num_detections:], 5.0))
    counts = [(_segkit("midog", case), _score_detection(case)) for case in cases]
    yield agreement(
        "TP by midog, many equal distances",
        "grand-challenge-metrics score_detection",
        [(ours[0], theirs[0]) for ours, theirs in counts],
        expected=False,
        note="of detections at the same distance segkit takes the first of the list, and score_detection any, as its "
        "tree happens to sort them",
    )
    yield agreement(
        "TP by optimal, many equal distances",
        "networkx hopcroft_karp_matching",
        [(_segkit("optimal", case)[0], _largest(case)) for case in cases],
    )
    kdtree = [case._replace(radius_px=KDTREE25_RADIUS_PX / 8) for case in cases]
    yield agreement(
        "TP by kdtree25, many equal distances",
        "MIDOG 2021, rebuilt with sklearn's KDTree",
        [(_segkit("kdtree25", case)[0], _midog_2021(case)[0]) for case in kdtree],
    )


def _random_case(rng: np.random.Generator, number: int) -> Case:
    side = (40.0, 120.0, 1000.0)[number % 3]
    truth_yx = rng.random((rng.integers(0, 50), 2)) * side
    return _detected(rng, truth_yx, side, radius_px=8.0)


def _real_cases(rng: np.random.Generator, data: Path, name: str) -> Iterator[Case]:
    radius_px, times = REAL_POINTS[name]
    of_image = defaultdict(list)
    with (data / name / "points.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["label"] != "hard_negative":
                of_image[row["image"]].append((float(row["y"]), float(row["x"])))
    for image in sorted(of_image)[:MAX_REAL_IMAGES]:
        truth_yx = np.array(of_image[image])
        for _ in range(times):
            yield _detected(rng, truth_yx, truth_yx.max() + 20, radius_px)


def _detected(rng: np.random.Generator, truth_yx: NDArray[np.float64], side: float, radius_px: float) -> Case:
    """Find most of the points about where they are, some of them twice, and others where there is none."""
    near = [truth_yx[rng.random(len(truth_yx)) < part] for part in (0.85, 0.15)]
    jittered = [one + rng.normal(0, radius_px / 2, one.shape) for one in near]
    strays = rng.random((rng.integers(0, len(truth_yx) // 4 + 3), 2)) * side
    detections_yx = np.concatenate([*jittered, strays])
    detections_yx = detections_yx[rng.permutation(len(detections_yx))]
    return Case(detections_yx, rng.permutation(len(detections_yx)) / max(len(detections_yx), 1), truth_yx, radius_px)


def _segkit(rule: str, case: Case) -> Counts:
    verdict = judge(rule, *case)
    return verdict.tp, verdict.fp, verdict.fn


def _distances(case: Case) -> NDArray[np.float64]:
    return cdist(case.detections_yx, case.truth_yx)


def _counts(case: Case, num_pairs: int) -> Counts:
    return num_pairs, len(case.detections_yx) - num_pairs, len(case.truth_yx) - num_pairs


def _f1(counts: Counts) -> float | None:
    tp, fp, fn = counts
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None


def _score_detection(case: Case) -> Counts:
    from grand_challenge_metrics.scorers import score_detection

    score = score_detection(
        ground_truth=case.truth_yx.tolist(), predictions=case.detections_yx.tolist(), radius=case.radius_px
    )
    return score.true_positives, score.false_positives, score.false_negatives


def _midog(case: Case) -> Counts:
    """Go through the labelled points; the nearest detection that is left, if it is near, is used up."""
    distances = _distances(case)
    for truth in range(len(case.truth_yx)):
        column = distances[:, truth]
        if len(column) and column.min() <= case.radius_px:
            distances[column.argmin()] = np.inf
    return _counts(case, int(np.isinf(distances).all(axis=1).sum()) if len(case.truth_yx) else 0)


def _ocelot(case: Case) -> Counts:
    """Go through the detections by score; the nearest labelled point that is left, if it is near, is used up."""
    distances = _distances(case)
    num_pairs = 0
    for detection in np.argsort(-case.scores):
        row = distances[detection]
        if len(row) and row.min() <= case.radius_px:
            num_pairs += 1
            distances[:, row.argmin()] = np.inf
    return _counts(case, num_pairs)


def _hovernet(case: Case) -> Counts:
    """Pair all with the smallest total distance, then drop those farther apart than the radius."""
    distances = cdist(case.truth_yx, case.detections_yx)
    return _counts(case, int((distances[linear_sum_assignment(distances)] <= case.radius_px).sum()))


def _midog_2021(case: Case) -> Counts:
    """Ask a tree of all points what is near each; where that is of both kinds, all of it is found and is no mistake."""
    from sklearn.neighbors import KDTree

    num_detections = len(case.detections_yx)
    positions = np.concatenate([case.detections_yx, case.truth_yx])
    is_right = np.zeros(len(positions), bool)
    if len(positions):
        for near in KDTree(positions).query_radius(positions, r=case.radius_px):
            if (near < num_detections).any() and (near >= num_detections).any():
                is_right[near] = True
    num_found = int(is_right[num_detections:].sum())
    return num_found, int((~is_right[:num_detections]).sum()), len(case.truth_yx) - num_found


def _largest(case: Case) -> int:
    graph = nx.Graph()
    top = [("detection", index) for index in range(len(case.detections_yx))]
    graph.add_nodes_from(top)
    near = np.argwhere(_distances(case) <= case.radius_px).tolist()
    graph.add_edges_from((("detection", detection), ("truth", truth)) for detection, truth in near)
    return len(nx.bipartite.hopcroft_karp_matching(graph, top)) // 2


def _total_distance(case: Case) -> float:
    pairs = matches(case.detections_yx, case.truth_yx, case.radius_px)
    return float(_distances(case)[pairs[:, 0], pairs[:, 1]].sum())


def _smallest_distance(case: Case) -> float:
    """The smallest total of the largest matching: one that is far costs more than all near ones together."""
    distances = _distances(case)
    price = case.radius_px * (sum(distances.shape) + 1)
    costs = np.where(distances <= case.radius_px, distances, price)
    chosen = costs[linear_sum_assignment(costs)]
    return float(chosen[chosen < price].sum())


def _sklearn_average(image: ScoredHits) -> float | None:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(image.hits, image.scores)) if image.hits.any() else None


def _froc_means(images: Sequence[ScoredHits]) -> tuple[float | None, float | None]:
    """The mean sensitivity of a set of images as steps, and as CAMELYON16 interpolates it."""
    num_truth = sum(image.num_truth for image in images)
    if not num_truth:
        return None, None
    scores, hits = (np.concatenate(column) for column in zip(*((one.scores, one.hits) for one in images), strict=True))
    thresholds = np.unique(scores)
    recalls = [hits[scores >= threshold].sum() / num_truth for threshold in thresholds]
    false = [(~hits[scores >= threshold]).sum() / len(images) for threshold in thresholds]
    steps = [max((r for r, f in zip(recalls, false, strict=True) if f <= rate), default=0.0) for rate in FROC_RATES]
    # Thresholds from the second lowest score on, then nothing at all.
    lines = np.interp(FROC_RATES, [0.0, *false[:0:-1]], [0.0, *recalls[:0:-1]])
    return float(np.mean(steps)), float(lines.mean())
