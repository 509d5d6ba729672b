"""Matching against brute force and against scipy, curves against matching from scratch, and numbers worked by hand."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial.distance import cdist

from segkit.evaluation.point_curves import FROC_RATES, PointCurve, ScoredHits, point_curve, resampled_curve, score_hits
from segkit.evaluation.point_matching import matches
from segkit.evaluation.points import DENSITIES, PointCounts, count_points, densities, outcomes
from segkit.points import Detections, Points

NONE_YX = np.empty((0, 2))

# On a lattice many distances are equal and many are exactly the radius.
lattice = st.integers(0, 6).map(float)


def point_sets(max_size, elements=lattice):
    return st.integers(0, max_size).flatmap(lambda size: arrays(np.float64, (size, 2), elements=elements))


def scored_points(max_size):
    return st.integers(0, max_size).flatmap(
        lambda size: st.tuples(
            arrays(np.float64, (size, 2), elements=lattice),
            arrays(np.float64, size, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])),
        )
    )


radii = st.sampled_from([0.5, 1.0, np.sqrt(2), 2.0, 3.0, 5.0])


def best_by_trying_all(detections_yx, truth_yx, radius):
    """Size and total distance of the best matching, from all ways to give each detection a different point or none."""
    distances = cdist(detections_yx, truth_yx) if len(detections_yx) and len(truth_yx) else np.empty((0, 0))
    blanks = [-1] * len(detections_yx)
    results = [(0, 0.0)]
    for chosen in set(permutations([*range(len(truth_yx)), *blanks], len(detections_yx))):
        pairs = [(detection, truth) for detection, truth in enumerate(chosen) if truth >= 0]
        if all(distances[pair] <= radius for pair in pairs):
            results.append((len(pairs), -sum(distances[pair] for pair in pairs)))
    size, negative = max(results)
    return size, -negative


def maximum_from_scratch(detections_yx, truth_yx, radius):
    if not len(detections_yx) or not len(truth_yx):
        return 0
    near = sparse.csr_array(cdist(detections_yx, truth_yx) <= radius)
    return int((maximum_bipartite_matching(near, perm_type="column") >= 0).sum())


def crowd(num_detections, num_truths, side, seed=0):
    """Points so dense that most hang together, half of the detections beside a point."""
    rng = np.random.default_rng(seed)
    truth = rng.random((num_truths, 2)) * side
    beside = truth[: num_detections // 2] + rng.normal(0, 2, (min(num_detections // 2, num_truths), 2))
    return np.vstack([beside, rng.random((num_detections - len(beside), 2)) * side]), truth


def require_matching(pairs, detections_yx, truth_yx, radius):
    assert pairs.shape == (len(pairs), 2)
    assert pairs.dtype == np.int64
    for column, points in zip(pairs.T, (detections_yx, truth_yx), strict=True):
        assert len(np.unique(column)) == len(column)
        assert not len(column) or 0 <= column.min() <= column.max() < len(points)
    assert (np.diff(pairs[:, 0]) > 0).all()
    assert (np.hypot(*(detections_yx[pairs[:, 0]] - truth_yx[pairs[:, 1]]).T) <= radius).all()


@given(point_sets(4), point_sets(4), radii)
def test_matching_is_the_best_of_all(detections_yx, truth_yx, radius):
    pairs = matches(detections_yx, truth_yx, radius)
    require_matching(pairs, detections_yx, truth_yx, radius)
    size, total = best_by_trying_all(detections_yx, truth_yx, radius)
    assert len(pairs) == size
    np.testing.assert_allclose(
        np.hypot(*(detections_yx[pairs[:, 0]] - truth_yx[pairs[:, 1]]).T).sum(), total, atol=1e-12
    )


@given(point_sets(25, st.floats(0, 10)), point_sets(25, st.floats(0, 10)), st.floats(0.01, 8))
def test_no_matching_is_larger_whatever_the_order(detections_yx, truth_yx, radius):
    pairs = matches(detections_yx, truth_yx, radius)
    require_matching(pairs, detections_yx, truth_yx, radius)
    assert len(pairs) == maximum_from_scratch(detections_yx, truth_yx, radius)
    assert len(pairs) == len(matches(detections_yx[::-1], truth_yx[::-1], radius))
    assert len(pairs) == len(matches(truth_yx, detections_yx, radius))


@pytest.mark.parametrize(("side", "radius"), [(400, 6), (150, 6), (60, 20)])
def test_thousands_of_points_that_hang_together_or_not_are_matched_in_full(side, radius):
    detections_yx, truth_yx = crowd(2500, 2000, side)
    pairs = matches(detections_yx, truth_yx, radius)
    require_matching(pairs, detections_yx, truth_yx, radius)
    assert len(pairs) == maximum_from_scratch(detections_yx, truth_yx, radius)


def test_the_nearest_point_is_given_up_where_that_matches_more():
    truth_yx = np.array([[0.0, 0.0], [0.0, 10.0]])
    detections_yx = np.array([[0.0, 4.0], [0.0, -6.0]])
    # The first is nearer to the first point, which the second needs.
    np.testing.assert_array_equal(matches(detections_yx, truth_yx, 6), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(matches(detections_yx, truth_yx, 5), [[0, 0]])


def test_the_nearer_of_two_detections_is_taken():
    np.testing.assert_array_equal(matches(np.array([[3.0, 0.0], [1.0, 0.0]]), np.zeros((1, 2)), 5), [[1, 0]])


def test_a_distance_of_just_the_radius_is_a_match():
    truth_yx = np.array([[100.5, 200.5]])
    assert len(matches(np.add(truth_yx, (3, 4)), truth_yx, 5)) == 1
    assert len(matches(np.add(truth_yx, (18, 24)), truth_yx, 7.5 / 0.25)) == 1
    assert len(matches(np.add(truth_yx, (3, 4)), truth_yx, np.nextafter(5, 0))) == 0
    # Also where the squares, as they are rounded, say otherwise.
    for shift in np.random.default_rng(0).random((50, 2)):
        assert len(matches(shift[np.newaxis], np.zeros((1, 2)), np.hypot(*shift))) == 1


@pytest.mark.parametrize(
    ("detections_yx", "truth_yx", "radius"),
    [
        (np.zeros((2, 3)), NONE_YX, 1),
        (NONE_YX, np.array([[0, np.nan]]), 1),
        (NONE_YX, NONE_YX, 0),
        (NONE_YX, NONE_YX, np.inf),
        (NONE_YX, NONE_YX, np.nan),
    ],
)
def test_what_cannot_be_matched_is_refused(detections_yx, truth_yx, radius):
    with pytest.raises(ValueError, match=r"points must be|radius must be"):
        matches(detections_yx, truth_yx, radius)


POINT_YX = np.array([[5.0, 5.0]])


@pytest.mark.parametrize(
    ("detections_yx", "truth_yx", "values"),
    [
        (NONE_YX, NONE_YX, (None, None, None)),
        (POINT_YX, NONE_YX, (0, None, 0)),
        (NONE_YX, POINT_YX, (None, 0, 0)),
        (POINT_YX + 50, POINT_YX, (0, 0, 0)),
        (POINT_YX, POINT_YX, (1, 1, 1)),
    ],
)
def test_undefined_values_are_as_documented(detections_yx, truth_yx, values):
    counts = count_points(detections_yx, truth_yx, 3)
    assert (counts.precision, counts.recall, counts.f1) == values


def test_a_second_detection_of_a_point_is_a_false_positive():
    assert count_points(np.vstack([POINT_YX, POINT_YX + 1]), POINT_YX, 5) == PointCounts(tp=1, fp=1, fn=0)


def test_under_kdtree25_detections_may_be_neither_true_nor_false_positives():
    forgiven = count_points(np.vstack([POINT_YX, POINT_YX + 1, POINT_YX + 2]), POINT_YX, 25, rule="kdtree25")
    assert forgiven == PointCounts(tp=1, fp=0, fn=0, surplus=2)
    assert (forgiven.num_true, forgiven.num_predicted, forgiven.count_error) == (1, 3, 2)
    shared = count_points(POINT_YX, np.vstack([POINT_YX, POINT_YX + 1, POINT_YX + 90]), 25, rule="kdtree25")
    assert shared == PointCounts(tp=2, fp=0, fn=1, surplus=-1)
    assert (shared.num_true, shared.num_predicted, shared.count_error) == (3, 1, -2)
    assert (forgiven + shared).num_predicted == 4
    assert count_points(np.vstack([POINT_YX, POINT_YX + 1]), POINT_YX, 25).num_predicted == 2


def test_counts_by_score_need_scores():
    with pytest.raises(ValueError, match="greedy goes by the scores"):
        count_points(POINT_YX, POINT_YX, 5, rule="greedy")
    assert count_points(POINT_YX, POINT_YX, 5, rule="greedy", scores=np.ones(1)).tp == 1


def test_outcomes_are_those_of_the_rule():
    truth = Points(np.array([[0.0, 5.0], [0.0, 13.5], [0.0, 90.0]]), np.array([1, 1, 0]))
    positions = np.array([[0.0, 9.0], [0.0, 0.0], [0.0, 5.0]])
    found = Detections(positions, np.array([1, 1, 1]), np.array([0.9, 0.8, 0.1]))
    by_rule = {rule: outcomes(found, truth, [0.5], 5, rule) for rule in ("optimal", "greedy")}
    np.testing.assert_array_equal(by_rule["optimal"].right, positions[:2])
    assert len(by_rule["optimal"].wrong) == len(by_rule["optimal"].missed) == 0
    np.testing.assert_array_equal(by_rule["greedy"].right, positions[:1])
    np.testing.assert_array_equal(by_rule["greedy"].wrong, positions[1:2])
    np.testing.assert_array_equal(by_rule["greedy"].missed, truth.positions[1:2])


def test_densities_by_hand():
    per_area = densities(np.array([10, 0]), np.array([5, 3]), np.array([2.0, 4.0]))
    assert tuple(per_area) == DENSITIES
    np.testing.assert_allclose(per_area["true_per_mm2"], [5, 0])
    np.testing.assert_allclose(per_area["predicted_per_mm2"], [2.5, 0.75])
    np.testing.assert_allclose(per_area["true_per_10_hpf"], [11.85, 0])
    np.testing.assert_allclose(per_area["predicted_per_10_hpf"], [5.925, 1.7775])
    # Ten fields of view 0.55 mm across.
    assert densities(np.array(1), np.array(1), np.array(10 * np.pi * 0.275**2))["true_per_10_hpf"] == pytest.approx(
        1, rel=0.003
    )


def test_false_positives_on_hard_negatives_are_counted_apart():
    truth_yx = np.array([[0.0, 0.0], [0.0, 100.0]])
    hard_negatives_yx = np.array([[0.0, 4.0], [0.0, 50.0]])
    detections_yx = np.array([[0.0, 2.0], [0.0, 51.0], [0.0, 48.0], [0.0, 80.0]])
    # The first is near a look-alike and near a point: it is a hit. Two are near the other look-alike.
    counts = count_points(detections_yx, truth_yx, 5, hard_negatives_yx=hard_negatives_yx)
    assert counts == PointCounts(tp=1, fp=3, fn=1, hard_negative_hits=2)
    assert counts + counts == PointCounts(tp=2, fp=6, fn=2, hard_negative_hits=4)
    assert count_points(detections_yx, truth_yx, 5, hard_negatives_yx=NONE_YX).hard_negative_hits == 0


def test_the_counts_of_the_first_mitosis_contest_give_its_published_scores():
    """ICPR 2012, team IDSIA: 70 of 100 mitoses and 9 false positives; precision 0.886, recall 0.70, F1 0.782."""
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2) * 200.0
    detections_yx = np.vstack([np.add(grid[:70], (12, -16)), np.add(grid[70:79], (80, 80))])
    counts = count_points(detections_yx, grid, 8 / 0.2456)
    assert (counts.tp, counts.fp, counts.fn) == (70, 9, 30)
    assert counts.precision == pytest.approx(0.886, abs=5e-4)
    assert counts.recall == pytest.approx(0.70, abs=5e-4)
    assert counts.f1 == pytest.approx(0.782, abs=5e-4)


@given(scored_points(20), point_sets(12), radii)
def test_the_curve_is_the_maximum_matching_at_every_threshold(detections, truth_yx, radius):
    positions, scores = detections
    curve = point_curve([score_hits(positions, scores, truth_yx, radius)])
    np.testing.assert_array_equal(curve.thresholds, np.unique(scores)[::-1])
    for index, threshold in enumerate(curve.thresholds):
        kept = positions[scores >= threshold]
        assert curve.num_detections[index] == len(kept)
        assert curve.true_positives[index] == maximum_from_scratch(kept, truth_yx, radius)
        assert curve.true_positives[index] == count_points(kept, truth_yx, radius).tp
    assert curve.num_truth == len(truth_yx)


@given(scored_points(20), point_sets(12), radii)
def test_the_curve_under_greedy_is_greedy_at_every_threshold(detections, truth_yx, radius):
    positions, scores = detections
    curve = point_curve([score_hits(positions, scores, truth_yx, radius, "greedy")])
    for index, threshold in enumerate(curve.thresholds):
        kept = scores >= threshold
        counts = count_points(positions[kept], truth_yx, radius, scores=scores[kept], rule="greedy")
        assert (curve.true_positives[index], curve.false_positives[index]) == (counts.tp, counts.fp)


@pytest.mark.parametrize("rule", ["midog", "hungarian", "kdtree25"])
def test_no_curves_are_drawn_under_rules_that_take_matches_back(rule):
    with pytest.raises(ValueError, match="no curves under"):
        score_hits(NONE_YX, np.empty(0), NONE_YX, 1, rule)


@given(st.lists(st.tuples(scored_points(8), point_sets(6)), min_size=1, max_size=4), radii, st.integers(0, 1000))
def test_resampled_curves_are_the_curves_of_the_images_drawn(images, radius, seed):
    hits = [score_hits(*detections, truth_yx, radius) for detections, truth_yx in images]
    weights = np.random.default_rng(seed).integers(0, 3, (3, len(images))).astype(float)
    weights[0] = 1
    sizes = np.maximum(weights.sum(axis=1), 1)
    resampled = resampled_curve(hits, point_curve(hits).thresholds, weights)
    averages, means = resampled.average_precisions(), resampled.froc_means(sizes)
    for row, times in enumerate(weights.astype(int)):
        curve = point_curve([hits[image] for image in np.repeat(np.arange(len(images)), times)])
        froc = curve.froc(sizes[row])
        expected = (np.nan, np.nan) if froc is None else (curve.average_precision, froc.mean)
        np.testing.assert_allclose((averages[row], means[row]), expected, atol=1e-12)


@given(st.lists(st.tuples(scored_points(8), point_sets(6)), max_size=4), radii)
def test_the_curve_of_several_images_adds_up_what_each_has_at_the_same_threshold(images, radius):
    curve = point_curve([score_hits(*detections, truth_yx, radius) for detections, truth_yx in images])
    for index, threshold in enumerate(curve.thresholds):
        counts = sum(
            (
                count_points(positions[scores >= threshold], truth_yx, radius)
                for (positions, scores), truth_yx in images
            ),
            PointCounts(),
        )
        assert curve.true_positives[index] == counts.tp
        assert curve.false_positives[index] == counts.fp
        assert curve.false_negatives[index] == counts.fn
        assert curve.f1[index] == pytest.approx(np.nan if counts.f1 is None else counts.f1, abs=1e-6, nan_ok=True)
    assert (np.diff(curve.true_positives) >= 0).all()
    assert (np.diff(curve.false_positives) >= 0).all()


def test_the_curve_of_a_crowd_is_the_maximum_matching_too():
    positions, truth_yx = crowd(900, 700, 120)
    scores = np.random.default_rng(1).permutation(900) / 900
    curve = point_curve([score_hits(positions, scores, truth_yx, 6)])
    for index in (*range(0, 900, 60), 899):
        kept = positions[scores >= curve.thresholds[index]]
        assert curve.true_positives[index] == maximum_from_scratch(kept, truth_yx, 6)


def test_a_single_detection_can_shift_all_others_by_one_point():
    num = 3000
    truth_yx = np.stack([np.zeros(num + 1), np.arange(num + 1) * 10.0], axis=1)
    # Each is between two points and a little nearer to the left one; the last has the first point only.
    positions = np.vstack([np.add(truth_yx[:-1], (0, 4.9)), [[0.0, -6.0]]])
    hits = score_hits(positions, np.linspace(1, 0.1, num + 1), truth_yx, 6)
    assert hits.hits.all()


def curve_of(*hits, num_truth):
    """The curve of one image whose detections have different, descending scores."""
    hits = np.array(hits, bool)
    return PointCurve(
        np.linspace(0.9, 0.1, len(hits)), np.cumsum(hits, dtype=np.int64), np.arange(1, len(hits) + 1), num_truth
    )


def test_average_precision_by_hand():
    # Recall rises at the 1st, 3rd and 6th detection, where precision is 1/1, 2/3 and 3/6; the 4th point is not found.
    assert curve_of(1, 0, 1, 0, 0, 1, num_truth=4).average_precision == pytest.approx((1 + 2 / 3 + 1 / 2) / 4)
    assert curve_of(1, 1, 1, num_truth=3).average_precision == 1
    assert curve_of(0, 0, 1, num_truth=1).average_precision == pytest.approx(1 / 3)
    assert curve_of(0, 0, num_truth=2).average_precision == 0
    assert curve_of(num_truth=2).average_precision == 0
    assert curve_of(0, 0, num_truth=0).average_precision is None


def test_average_precision_of_equal_scores_takes_them_together():
    """As scikit-learn documents: y_true 0 0 1 1 with scores 0.1 0.4 0.35 0.8 has 0.83; equal ones are one step."""
    truth_yx = np.array([[0.0, 0.0], [0.0, 100.0]])
    positions = np.array([[500.0, 0.0], [600.0, 0.0], [0.0, 0.0], [0.0, 100.0]])
    curve = point_curve([score_hits(positions, np.array([0.1, 0.4, 0.35, 0.8]), truth_yx, 5)])
    assert curve.average_precision == pytest.approx(0.8333, abs=1e-4)
    equal = point_curve([score_hits(positions, np.full(4, 0.5), truth_yx, 5)])
    assert len(equal.thresholds) == 1
    assert equal.average_precision == 0.5


@given(scored_points(20), point_sets(8), radii)
def test_the_best_threshold_keeps_its_promise(detections, truth_yx, radius):
    positions, scores = detections
    curve = point_curve([score_hits(positions, scores, truth_yx, radius)])
    best = curve.best_threshold()
    if not len(scores) or not len(truth_yx):
        assert best is None
        return
    threshold, f1 = best
    assert count_points(positions[scores >= threshold], truth_yx, radius).f1 == pytest.approx(f1, abs=1e-6)
    assert f1 == max(curve.f1)
    higher = curve.f1[curve.thresholds > scores[scores >= threshold].min()]
    assert (higher < f1).all()


def test_the_best_threshold_lies_midway():
    positions, truth_yx = np.arange(8.0).reshape(4, 2) * 100, np.arange(4.0).reshape(2, 2) * 100
    hits = score_hits(positions, np.array([0.9, 0.8, 0.4, 0.3]), truth_yx, 5)
    assert point_curve([hits]).best_threshold() == (pytest.approx(0.6), 1)
    assert point_curve([score_hits(positions[:2], np.array([0.9, 0.8]), truth_yx, 5)]).best_threshold() == (0.4, 1)
    # Between neighbours there is no middle, and rounding takes it up here and down there.
    for lowest in (0.8, np.nextafter(0.8, 1)):
        hits = score_hits(positions, np.array([0.9, lowest, np.nextafter(lowest, 0), 0.3]), truth_yx, 5)
        assert point_curve([hits]).best_threshold() == (lowest, 1)
    assert point_curve([score_hits(positions[2:], np.zeros(2), truth_yx, 5)]).best_threshold() == (0, 0)


def test_froc_by_hand():
    # False positives after each detection: 0 1 1 2 3 3 4 5 6 7 8 9
    curve = curve_of(1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, num_truth=4)
    froc = curve.froc(4)  # images
    assert froc.rates == FROC_RATES == (0.25, 0.5, 1, 2, 4, 8)
    # 1, 2, 4, 8 .. false positives are allowed: with one the third detection is in, with three the sixth
    assert froc.sensitivities == (0.5, 0.5, 0.75, 0.75, 0.75, 0.75)
    assert froc.mean == pytest.approx(4 / 6)
    assert curve.froc(0.5, rates=(1, 8)) == ((1, 8), (0.25, 0.75), 0.5)
    assert curve_of(0, 1, num_truth=1).froc(1, rates=(0.9, 1)).sensitivities == (0, 1)
    assert curve_of(num_truth=3).froc(2).mean == 0
    assert curve_of(0, 0, num_truth=0).froc(2) is None
    with pytest.raises(ValueError, match="more than nothing"):
        curve.froc(0)


@given(st.lists(st.booleans(), max_size=60), st.integers(3, 30))
def test_a_thinned_curve_keeps_its_ends_and_where_recall_rises(hits, limit):
    curve = curve_of(*hits, num_truth=sum(hits) + 1)
    thinned = curve.thinned(limit)
    assert len(thinned.thresholds) <= limit
    assert set(thinned.thresholds) <= set(curve.thresholds)
    if hits:
        assert (thinned.thresholds[0], thinned.thresholds[-1]) == (curve.thresholds[0], curve.thresholds[-1])
    if sum(hits) <= limit - 2 or len(hits) <= limit:
        assert thinned.average_precision == pytest.approx(curve.average_precision)
        assert thinned.froc(2) == curve.froc(2)


@pytest.mark.parametrize("limit", [10, 25, 100])
@pytest.mark.parametrize("seed", range(3))
def test_a_thinned_curve_reads_nearly_the_same_froc(limit, seed):
    hits = np.random.default_rng(seed).random(500) < np.linspace(0.9, 0.1, 500)
    curve = curve_of(*hits, num_truth=hits.sum() + 20)
    thinned = curve.thinned(limit)
    for size in (1, 4, 20):
        lost = np.subtract(curve.froc(size).sensitivities, thinned.froc(size).sensitivities)
        assert lost.max() > 0
        assert ((lost >= 0) & (lost < 1 / (limit - 3))).all()


@pytest.mark.parametrize("scores", [np.array([0.5]), np.array([0.5, np.nan])])
def test_every_detection_needs_a_score(scores):
    with pytest.raises(ValueError, match="scores must be"):
        score_hits(np.zeros((2, 2)), scores, NONE_YX, 1)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(2, 20))
def test_a_curve_spread_over_the_scores_holds_what_holds_there(scores, limit):
    values = np.array(scores) / 1000
    curve = point_curve([ScoredHits(values, np.arange(len(values)) % 2 == 0, len(values))])
    spread = curve.spread(limit)
    assert len(spread.thresholds) <= limit
    assert (spread.thresholds[0], spread.thresholds[-1]) == (curve.thresholds[0], curve.thresholds[-1])
    for threshold, found in zip(spread.thresholds, spread.num_detections, strict=True):
        assert found == (values >= threshold).sum()
    # No stretch of an even division is left out where there is a threshold in it.
    steps = np.linspace(curve.thresholds[0], curve.thresholds[-1], limit)[::-1]
    for low, high in pairwise(steps):
        inside = (curve.thresholds >= low) & (curve.thresholds <= high)
        assert not inside.any() or ((spread.thresholds >= low) & (spread.thresholds <= high)).any()
