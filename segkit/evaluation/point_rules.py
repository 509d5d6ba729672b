"""Matching rules: which detections are right, and which labelled points are found.

Published numbers use different rules, which can differ where points are crowded or found twice. A number is comparable
with another one of the same rule and radius only. All rules work class by class; a detection and a labelled point can
belong together if they are at most the radius apart (distance <= radius, in float64).

**optimal** (the default). One to one, as many pairs as possible (a maximum matching of the bipartite graph), and among
all matchings with as many pairs one with the smallest total distance. So it depends on no order, and no one-to-one
rule counts more true positives. Where more than 100,000 pairs all hang together, any matching with as many pairs is
taken there: the counts are the same.

**midog**. One to one: each labelled point, in the order of the list, takes the nearest detection that is left.
`score_detection` of grand-challenge-metrics (once evalutils), which MIDOG++ (doi:10.1038/s41597-023-02327-4) and MIDOG
2025 count with, at 7.5 um. Depends on the order of the labelled points: one may take the only detection of another. Of
detections at the same distance the first is taken; there it is any of them.

**greedy**. One to one: each detection, by descending score, takes the nearest labelled point that is left. OCELOT 2023
(arXiv:2303.13110; lunit-io/ocelot23algo, evaluation/eval.py), at 15 px = 3 um. Depends on the scores, and on the order
of detections with equal ones: they come in the order of the list; there in any.

**hungarian**. One to one: the matching of the smallest total distance that leaves no detection or no labelled point
out, with no regard to the radius; then the pairs farther apart are dropped. HoVer-Net (Graham et al. 2019, Med. Image
Anal. 58:101563, doi:10.1016/j.media.2019.101563; metrics/stats_utils.py), at 12 px at 40x, which pairs all classes
together and cuts positions down to whole pixels. Depends on the order where two matchings have the same total distance
only. A pair that is dropped may have taken near partners apart.

**kdtree25**. Not one to one: of all detections and labelled points, each is the centre of a circle; where a circle
holds a detection and a labelled point, all in it are right. So second detections are forgiven, one detection can find
several points, and a detection up to two radii away is right if another one lies between. True positives are the
labelled points found, false positives the detections in no such circle: they do not add up to the detections. The
k-d tree of the MIDOG 2021 organisers (DeepMicroscopy/MIDOG, DomainShiftQuantification/lib/calculate_F1.py), always at
25 px (6.25 um at 0.25 um/px), behind their own non-maximum suppression, which is not part of the rule. Depends on no
order.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from segkit.errors import UsageError
from segkit.evaluation.point_matching import CandidatePairs, candidate_pairs, matches, require_points, require_scores

OPTIMAL: Final = "optimal"
GREEDY: Final = "greedy"
KDTREE25: Final = "kdtree25"

KDTREE25_RADIUS_PX: Final = 25.0
"""The radius of published numbers by `kdtree25`."""

# 8 bytes each.
_MAX_DISTANCES = 100_000_000


class Verdict(NamedTuple):
    """What a rule says: `right`, bool (N,), of each detection, and `found`, bool (M,), of each labelled point."""

    right: NDArray[np.bool_]
    found: NDArray[np.bool_]

    @property
    def tp(self) -> int:
        """True positives: labelled points that are found."""
        return int(self.found.sum())

    @property
    def fp(self) -> int:
        """False positives: detections that are not right."""
        return int((~self.right).sum())

    @property
    def fn(self) -> int:
        """False negatives: labelled points that are not found."""
        return int((~self.found).sum())


def judge(
    rule: str,
    detections_yx: NDArray[np.float64],
    scores: NDArray[np.float64],
    truth_yx: NDArray[np.float64],
    radius_px: float,
) -> Verdict:
    """Apply a rule by its name, one of `RULES`; the module's docstring says what they do.

    Parameters
    ----------
    detections_yx, scores
        Positions, float64 (N, 2) in pixels, and scores, float64 (N,).
    truth_yx
        Positions of the labelled points, float64 (M, 2).
    radius_px
        The largest distance of a match, inclusive; positive.

    Raises
    ------
    ValueError
        There is no such rule; positions are not (N, 2) or not finite, scores not (N,) or not finite, or the radius is
        not positive and finite.
    UsageError
        There are more pairs than can be matched in bounded memory.
    """
    if rule not in RULES:
        raise ValueError(f"no matching rule is called {rule!r}; there are {', '.join(RULES)}")
    require_scores(scores, len(detections_yx))
    return RULES[rule](detections_yx, scores, truth_yx, radius_px)


def optimal(
    detections_yx: NDArray[np.float64],
    _scores: NDArray[np.float64],
    truth_yx: NDArray[np.float64],
    radius_px: float,
) -> Verdict:
    """Match as many as possible; see `matches`."""
    return _one_to_one(matches(detections_yx, truth_yx, radius_px), len(detections_yx), len(truth_yx))


def midog(
    detections_yx: NDArray[np.float64],
    _scores: NDArray[np.float64],
    truth_yx: NDArray[np.float64],
    radius_px: float,
) -> Verdict:
    """Let each labelled point, in the order of the list, take the nearest detection that is left."""
    # The pairs are ordered by their first points: these take here, the labelled ones.
    pairs = candidate_pairs(truth_yx, detections_yx, radius_px)
    found, right = _first_come(pairs, len(truth_yx), len(detections_yx))
    return Verdict(right, found)


def greedy(
    detections_yx: NDArray[np.float64],
    scores: NDArray[np.float64],
    truth_yx: NDArray[np.float64],
    radius_px: float,
) -> Verdict:
    """Let each detection, by descending score, take the nearest labelled point that is left."""
    order = np.argsort(-scores, kind="stable")
    taking, found = _first_come(
        candidate_pairs(detections_yx[order], truth_yx, radius_px), len(detections_yx), len(truth_yx)
    )
    right = np.empty_like(taking)
    right[order] = taking
    return Verdict(right, found)


def hungarian(
    detections_yx: NDArray[np.float64],
    _scores: NDArray[np.float64],
    truth_yx: NDArray[np.float64],
    radius_px: float,
) -> Verdict:
    """Match all with the smallest total distance, and drop the pairs that are too far apart.

    Takes the distances of all detections and all labelled points: 0.8 GB for 10,000 and 10,000.

    Raises
    ------
    UsageError
        There are more distances than that.
    """
    require_points(detections_yx, truth_yx, radius_px)
    if len(detections_yx) * len(truth_yx) > _MAX_DISTANCES:
        raise UsageError(
            f"the matching rule hungarian needs all distances between {len(detections_yx)} detections and "
            f"{len(truth_yx)} labelled points of one image, and takes at most {_MAX_DISTANCES:.0e} of them. "
            "Choose another rule (optimal), or cut the image into pieces."
        )
    distances = cdist(truth_yx, detections_yx)
    truths, detections = linear_sum_assignment(distances)
    near = distances[truths, detections] <= radius_px
    return _one_to_one(np.stack([detections[near], truths[near]], axis=1), len(detections_yx), len(truth_yx))


def kdtree25(
    detections_yx: NDArray[np.float64],
    _scores: NDArray[np.float64],
    truth_yx: NDArray[np.float64],
    radius_px: float,
) -> Verdict:
    """Forgive all that lies in one circle with a detection and a labelled point."""
    require_points(detections_yx, truth_yx, radius_px)
    all_yx = np.concatenate([detections_yx, truth_yx])
    holds_both = _has_near(all_yx, detections_yx, radius_px) & _has_near(all_yx, truth_yx, radius_px)
    is_right = _has_near(all_yx, all_yx[holds_both], radius_px)
    return Verdict(is_right[: len(detections_yx)], is_right[len(detections_yx) :])


RULES: MappingProxyType[
    str, Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float], Verdict]
] = MappingProxyType({OPTIMAL: optimal, "midog": midog, GREEDY: greedy, "hungarian": hungarian, KDTREE25: kdtree25})
"""The rules by name: pure functions (detections_yx, scores, truth_yx, radius_px) -> `Verdict`."""

DEFINITIONS = MappingProxyType(
    {
        OPTIMAL: "one to one within the radius (distance <= radius): as many pairs as possible, among these the "
        "smallest total distance; depends on no order",
        "midog": "one to one: each labelled point, in the order of the list, takes the nearest detection within the "
        "radius that is left (score_detection of grand-challenge-metrics, which MIDOG++ and MIDOG 2025 use); depends "
        "on the order of the labelled points",
        GREEDY: "one to one: each detection, by descending score, takes the nearest labelled point within the radius "
        "that is left (OCELOT 2023); detections of equal score in the order of the list",
        "hungarian": "one to one: the smallest total distance that leaves no detection or no labelled point out, the "
        "pairs farther apart than the radius dropped afterwards (HoVer-Net, which does it for all classes together)",
        KDTREE25: "not one to one: a circle of 25 px round any detection or labelled point that holds both kinds makes "
        "all in it right (code of MIDOG 2021, without its non-maximum suppression); forgives second detections, "
        "TP are labelled points, and TP + FP is not the number of detections",
    }
)
"""What files say about each rule."""


def curve_rule(rule: str) -> str:
    """Return the rule that curves, average precision and FROC are under where counts are under `rule`.

    A curve needs a rule under which a detection that is right stays so when others with lower scores come:
    `greedy` is one, and under `optimal` the number of those that are right behaves so. All others have their
    curves under `optimal`.
    """
    return GREEDY if rule == GREEDY else OPTIMAL


def _one_to_one(pairs: NDArray[np.int64], num_detections: int, num_truths: int) -> Verdict:
    right, found = np.zeros(num_detections, np.bool_), np.zeros(num_truths, np.bool_)
    right[pairs[:, 0]] = True
    found[pairs[:, 1]] = True
    return Verdict(right, found)


def _first_come(pairs: CandidatePairs, num_first: int, num_second: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Let the first points of the pairs take, in their order, the nearest of the second that is left.

    Returns which of the first have taken one, bool (num_first,), and which of the second are taken, bool (num_second,).
    """
    is_served, is_taken = bytearray(num_first), bytearray(num_second)
    for first, second in zip(pairs.detections.tolist(), pairs.truths.tolist(), strict=True):
        if not (is_served[first] or is_taken[second]):
            is_served[first] = is_taken[second] = True
    return np.frombuffer(is_served, np.bool_), np.frombuffer(is_taken, np.bool_)


def _has_near(points_yx: NDArray[np.float64], others_yx: NDArray[np.float64], radius_px: float) -> NDArray[np.bool_]:
    """Tell of each point whether one of the others is at most the radius away, (N, 2) and (M, 2) -> bool (N,)."""
    distances, nearest = KDTree(others_yx).query(points_yx, distance_upper_bound=radius_px * (1 + 1e-9))
    is_near: NDArray[np.bool_] = np.isfinite(distances)
    is_near[is_near] = np.hypot(*(points_yx[is_near] - others_yx[nearest[is_near]]).T) <= radius_px
    return is_near
