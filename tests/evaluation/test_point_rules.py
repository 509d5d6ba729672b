"""Each matching rule against its words carried out by brute force, and against the others."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from segkit.errors import UsageError
from segkit.evaluation import point_matching, point_rules
from segkit.evaluation.point_matching import matches
from segkit.evaluation.point_rules import RULES, Verdict, curve_rule, judge

NONE_YX = np.empty((0, 2))
ONE_TO_ONE = [name for name in RULES if name != "kdtree25"]

# On a lattice many distances are equal and many are exactly the radius; elsewhere none are.
lattice = st.integers(0, 5).map(float)
radii = st.sampled_from([0.5, 1.0, np.sqrt(2), 2.0, 3.0])


def scattered(max_detections, max_truths):
    """Detections, different scores and labelled points of an image, crowded or not; no two distances are equal."""

    def image(seed, num_detections, num_truths, side):
        rng = np.random.default_rng(seed)
        return (
            rng.random((num_detections, 2)) * side,
            rng.permutation(num_detections) / 100,
            rng.random((num_truths, 2)) * side,
        )

    sizes = st.integers(0, max_detections), st.integers(0, max_truths)
    return st.builds(image, st.integers(0, 10_000), *sizes, st.sampled_from([3.0, 6.0, 20.0]))


def on_lattice(max_detections, max_truths):
    def image(num_detections, num_truths):
        return st.tuples(
            arrays(np.float64, (num_detections, 2), elements=lattice),
            arrays(np.float64, num_detections, elements=st.sampled_from([0.1, 0.5, 0.9])),
            arrays(np.float64, (num_truths, 2), elements=lattice),
        )

    return st.tuples(st.integers(0, max_detections), st.integers(0, max_truths)).flatmap(lambda sizes: image(*sizes))


def distances_of(detections_yx, truth_yx):
    if not len(detections_yx) or not len(truth_yx):
        return np.empty((len(detections_yx), len(truth_yx)))
    return cdist(detections_yx, truth_yx)


def verdict_of(pairs, num_detections, num_truths):
    return Verdict(
        np.isin(np.arange(num_detections), [detection for detection, _ in pairs]),
        np.isin(np.arange(num_truths), [truth for _, truth in pairs]),
    )


def midog_in_words(detections_yx, _scores, truth_yx, radius):
    distances = distances_of(detections_yx, truth_yx)
    pairs, left = [], list(range(len(detections_yx)))
    for truth in range(len(truth_yx)):
        near = [detection for detection in left if distances[detection, truth] <= radius]
        if near:
            nearest = min(near, key=lambda detection: distances[detection, truth])
            pairs.append((nearest, truth))
            left.remove(nearest)
    return verdict_of(pairs, *distances.shape)


def greedy_in_words(detections_yx, scores, truth_yx, radius):
    distances = distances_of(detections_yx, truth_yx)
    pairs, left = [], list(range(len(truth_yx)))
    for detection in sorted(range(len(detections_yx)), key=lambda detection: -scores[detection]):
        near = [truth for truth in left if distances[detection, truth] <= radius]
        if near:
            nearest = min(near, key=lambda truth: distances[detection, truth])
            pairs.append((detection, nearest))
            left.remove(nearest)
    return verdict_of(pairs, *distances.shape)


def hungarian_in_words(detections_yx, _scores, truth_yx, radius):
    """The smallest total distance of all ways to leave nothing out on the shorter side; then far pairs are dropped."""
    distances = distances_of(detections_yx, truth_yx)
    if len(detections_yx) <= len(truth_yx):
        ways = (list(enumerate(one)) for one in permutations(range(len(truth_yx)), len(detections_yx)))
    else:
        ways = (
            [(detection, truth) for truth, detection in enumerate(one)]
            for one in permutations(range(len(detections_yx)), len(truth_yx))
        )
    best = min(ways, key=lambda pairs: sum(distances[pair] for pair in pairs))
    return verdict_of([pair for pair in best if distances[pair] <= radius], *distances.shape)


def optimal_in_words(detections_yx, _scores, truth_yx, radius):
    distances = distances_of(detections_yx, truth_yx)
    blanks = [-1] * len(detections_yx)
    ways = (
        [(detection, truth) for detection, truth in enumerate(one) if truth >= 0]
        for one in set(permutations([*range(len(truth_yx)), *blanks], len(detections_yx)))
    )
    allowed = (pairs for pairs in ways if all(distances[pair] <= radius for pair in pairs))
    best = max(allowed, key=lambda pairs: (len(pairs), -sum(distances[pair] for pair in pairs)))
    return verdict_of(best, *distances.shape)


def kdtree25_in_words(detections_yx, _scores, truth_yx, radius):
    """Round every point, of either kind, draw a circle; where it holds both kinds, all in it are right."""
    num_detections = len(detections_yx)
    points_yx = np.concatenate([detections_yx, truth_yx])
    is_right = np.zeros(len(points_yx), bool)
    for centre in points_yx:
        inside = np.hypot(*(points_yx - centre).T) <= radius
        if inside[:num_detections].any() and inside[num_detections:].any():
            is_right |= inside
    return Verdict(is_right[:num_detections], is_right[num_detections:])


IN_WORDS = {
    "optimal": optimal_in_words,
    "midog": midog_in_words,
    "greedy": greedy_in_words,
    "hungarian": hungarian_in_words,
    "kdtree25": kdtree25_in_words,
}


def require_equal(verdict, expected):
    np.testing.assert_array_equal(verdict.right, expected.right)
    np.testing.assert_array_equal(verdict.found, expected.found)
    assert verdict.right.dtype == verdict.found.dtype == np.bool_


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_does_what_its_words_say(rule):
    assert set(IN_WORDS) == set(RULES) == set(point_rules.DEFINITIONS)

    @given(scattered(5, 4), radii)
    def test(image, radius):
        require_equal(judge(rule, *image, radius), IN_WORDS[rule](*image, radius))

    test()


@pytest.mark.parametrize("rule", ["midog", "greedy", "kdtree25"])
def test_equal_distances_and_scores_go_by_the_order_of_the_lists(rule):
    @given(on_lattice(20, 15), radii)
    def test(image, radius):
        require_equal(judge(rule, *image, radius), IN_WORDS[rule](*image, radius))

    test()


@given(on_lattice(20, 15), radii)
def test_no_one_to_one_rule_finds_more_than_optimal(image, radius):
    most = judge("optimal", *image, radius).tp
    for rule in ONE_TO_ONE:
        verdict = judge(rule, *image, radius)
        assert verdict.tp == verdict.right.sum() <= most
        assert verdict.tp + verdict.fp == len(image[0])
        assert verdict.tp + verdict.fn == len(image[2])
    # A rule that takes whatever is near is at least half as good; one that forgives is at least as good.
    assert 2 * judge("midog", *image, radius).tp >= most
    assert 2 * judge("greedy", *image, radius).tp >= most
    forgiving = judge("kdtree25", *image, radius)
    assert forgiving.tp >= most
    assert forgiving.fp <= len(image[0]) - most


@given(on_lattice(15, 12), radii, st.integers(0, 1000))
def test_optimal_and_kdtree25_depend_on_no_order(image, radius, seed):
    detections_yx, scores, truth_yx = image
    rng = np.random.default_rng(seed)
    detection_order, truth_order = rng.permutation(len(detections_yx)), rng.permutation(len(truth_yx))
    shuffled = detections_yx[detection_order], scores[detection_order], truth_yx[truth_order]
    for rule in ("optimal", "kdtree25"):
        verdict, other = judge(rule, *image, radius), judge(rule, *shuffled, radius)
        # Of several points at the same position any may be the one.
        for points_yx, chosen, again_yx, again in (
            (detections_yx, verdict.right, shuffled[0], other.right),
            (truth_yx, verdict.found, shuffled[2], other.found),
        ):
            assert sorted(map(tuple, points_yx[chosen])) == sorted(map(tuple, again_yx[again]))


@given(scattered(15, 12), radii, st.integers(0, 1000))
def test_what_the_other_rules_depend_on(image, radius, seed):
    """Without ties: midog on the order of labelled points only, greedy and hungarian on no order."""
    detections_yx, scores, truth_yx = image
    rng = np.random.default_rng(seed)
    order, truth_order = rng.permutation(len(detections_yx)), rng.permutation(len(truth_yx))
    for rule in ("midog", "greedy", "hungarian"):
        verdict = judge(rule, *image, radius)
        other = judge(rule, detections_yx[order], scores[order], truth_yx, radius)
        require_equal(other, Verdict(verdict.right[order], verdict.found))
    for rule in ("greedy", "hungarian"):
        verdict = judge(rule, *image, radius)
        other = judge(rule, detections_yx, scores, truth_yx[truth_order], radius)
        require_equal(other, Verdict(verdict.right, verdict.found[truth_order]))


def counts_by_rule(detections_yx, scores, truth_yx, radius):
    verdicts = {
        rule: judge(rule, np.array(detections_yx), np.array(scores), np.array(truth_yx), radius) for rule in RULES
    }
    return {rule: (verdict.tp, verdict.fp, verdict.fn) for rule, verdict in verdicts.items()}


def test_a_labelled_point_that_comes_first_takes_the_detection_that_the_next_one_needs():
    # In a row: a detection, a point, a detection, a point; 5, 4 and 4.5 apart.
    detections_yx, truth_yx = [[0.0, 0.0], [0.0, 9.0]], [[0.0, 5.0], [0.0, 13.5]]
    counts = counts_by_rule(detections_yx, [0.9, 0.8], truth_yx, 5)
    assert counts["midog"] == (1, 1, 1)
    assert counts["optimal"] == counts["greedy"] == counts["hungarian"] == (2, 0, 0)
    assert counts_by_rule(detections_yx, [0.9, 0.8], truth_yx[::-1], 5)["midog"] == (2, 0, 0)
    # With the higher score the second detection comes first, and takes the point that the other one needs.
    assert counts_by_rule(detections_yx, [0.8, 0.9], truth_yx, 5)["greedy"] == (1, 1, 1)


def test_a_far_pair_may_take_near_partners_apart():
    # 0 with 5 and 8 with 13.1 add up to 10.1, both too far; 8 with 5, which is near, leaves 0 with 13.1: 16.1.
    counts = counts_by_rule([[0.0, 0.0], [0.0, 8.0]], [0.9, 0.8], [[0.0, 5.0], [0.0, 13.1]], 4)
    assert counts["hungarian"] == (0, 2, 2)
    assert counts["optimal"] == counts["midog"] == counts["greedy"] == (1, 1, 1)


def test_second_detections_are_false_positives_but_for_the_rule_that_forgives_them():
    counts = counts_by_rule([[0.0, 0.0], [0.0, 3.0], [0.0, 90.0]], [0.9, 0.8, 0.7], [[0.0, 1.0]], 25)
    assert counts.pop("kdtree25") == (1, 1, 0)
    assert set(counts.values()) == {(1, 2, 0)}


def test_kdtree25_reaches_up_to_two_radii_and_one_detection_finds_several_points():
    # The second detection is 40 px from the point, and 20 px from the first one, whose circle holds all three.
    assert counts_by_rule([[0.0, 20.0], [0.0, 40.0]], [0.9, 0.8], [[0.0, 0.0]], 25)["kdtree25"] == (1, 0, 0)
    assert counts_by_rule([[0.0, 40.0]], [0.8], [[0.0, 0.0]], 25)["kdtree25"] == (0, 1, 1)
    assert counts_by_rule([[0.0, 0.0]], [0.9], [[0.0, 20.0], [0.0, -20.0], [0.0, 44.0]], 25)["kdtree25"] == (3, 0, 0)
    assert counts_by_rule([[0.0, 0.0]], [0.9], [[0.0, 20.0], [0.0, 46.0]], 25)["kdtree25"] == (1, 0, 1)


@pytest.mark.parametrize("rule", RULES)
def test_the_radius_is_inclusive_and_nothing_matches_nothing(rule):
    point_yx, score = np.array([[100.5, 200.5]]), np.array([0.5])
    beside_yx = np.add(point_yx, (15, 20))
    assert judge(rule, beside_yx, score, point_yx, 25).tp == 1
    assert judge(rule, beside_yx, score, point_yx, np.nextafter(25, 0)).tp == 0
    none = judge(rule, NONE_YX, np.empty(0), NONE_YX, 25)
    assert (none.tp, none.fp, none.fn) == (0, 0, 0)
    missed = judge(rule, NONE_YX, np.empty(0), point_yx, 25)
    assert (missed.tp, missed.fp, missed.fn) == (0, 0, 1)
    invented = judge(rule, point_yx, score, NONE_YX, 25)
    assert (invented.tp, invented.fp, invented.fn) == (0, 1, 0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"detections_yx": np.array([[0.0, np.nan]])}, "points must be"),
        ({"truth_yx": np.zeros((1, 3))}, "points must be"),
        ({"scores": np.array([np.nan])}, "scores must be"),
        ({"scores": np.zeros(2)}, "scores must be"),
        ({"radius_px": 0}, "radius must be"),
        ({"radius_px": np.inf}, "radius must be"),
    ],
)
def test_what_cannot_be_matched_is_refused(rule, changes, complaint):
    arguments = {"detections_yx": np.zeros((1, 2)), "scores": np.ones(1), "truth_yx": np.zeros((1, 2)), "radius_px": 1}
    with pytest.raises(ValueError, match=complaint):
        judge(rule, **{**arguments, **changes})


def test_a_rule_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'hugarian'; there are optimal, midog, greedy, hungarian, kdtree25"):
        judge("hugarian", NONE_YX, np.empty(0), NONE_YX, 1)


def test_too_many_pairs_are_refused_before_they_take_memory(monkeypatch):
    monkeypatch.setattr(point_matching, "_MAX_PAIRS", 99)
    heap = np.zeros((10, 2))
    for rule in ("optimal", "midog", "greedy"):
        with pytest.raises(UsageError, match=r"10 detections and 10 labelled .* 100 pairs within 5 px"):
            judge(rule, heap, np.ones(10), heap, 5)
    far = np.arange(20.0).reshape(10, 2) * 100
    assert judge("optimal", far, np.ones(10), far, 5).tp == 10  # as many points, few pairs
    assert judge("kdtree25", heap, np.ones(10), heap, 5).tp == 10
    monkeypatch.setattr(point_rules, "_MAX_DISTANCES", 99)
    with pytest.raises(UsageError, match=r"hungarian needs all distances between 10 detections and 10 labelled"):
        judge("hungarian", far, np.ones(10), far, 5)
    assert judge("hungarian", far[:9], np.ones(9), far, 5).tp == 9


@given(on_lattice(25, 25), radii, st.integers(0, 20))
def test_where_too_much_hangs_together_the_number_of_pairs_stays_the_largest(image, radius, limit):
    """Whether what is too big for the solver is one heap, or several that were put together."""
    detections_yx, _, truth_yx = image
    expected = len(matches(detections_yx, truth_yx, radius))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point_matching, "_MAX_ASSIGNMENT_PAIRS", limit)
        pairs = matches(detections_yx, truth_yx, radius)
        patch.setattr(point_matching, "_BLOCK_PAIRS", max(limit // 2, 1))
        assert len(matches(detections_yx, truth_yx, radius)) == expected
    assert len(pairs) == expected
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)
    assert (np.hypot(*(detections_yx[pairs[:, 0]] - truth_yx[pairs[:, 1]]).T) <= radius).all()


def test_what_does_not_hang_together_keeps_the_smallest_distance_beside_a_heap(monkeypatch):
    """Two points far away from a heap, before it and behind it, still take the nearer of their two detections."""
    heap = np.random.default_rng(0).random((30, 2)) * 5
    alone = np.array([[-100.0, -100.0], [100.0, 100.0]])
    detections_yx = np.concatenate([alone - 2, heap, alone - 1])
    truth_yx = np.concatenate([alone, heap[:20]])
    monkeypatch.setattr(point_matching, "_BLOCK_PAIRS", 5)
    monkeypatch.setattr(point_matching, "_MAX_ASSIGNMENT_PAIRS", 10)
    pairs = matches(detections_yx, truth_yx, 5).tolist()
    assert len(pairs) == 22
    assert [32, 0] in pairs
    assert [33, 1] in pairs


def test_curves_are_under_a_rule_that_never_takes_a_match_back():
    assert {rule: curve_rule(rule) for rule in RULES} == {
        "optimal": "optimal",
        "midog": "optimal",
        "greedy": "greedy",
        "hungarian": "optimal",
        "kdtree25": "optimal",
    }
