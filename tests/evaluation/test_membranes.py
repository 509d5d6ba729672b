"""Membrane scores against scikit-image, counting pairs of pixels one by one, and what the challenge's code gives."""

from collections import deque
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage
from skimage.measure import label
from skimage.metrics import adapted_rand_error

from segkit.evaluation import membranes
from segkit.evaluation.membranes import flooded, rand_score, thinned_scores
from segkit.evaluation.partitions import RandScore

cell_masks = st.tuples(st.integers(2, 8), st.integers(2, 8)).flatmap(
    lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
)


@settings(deadline=None)
@given(cell_masks)
def test_score_counts_pairs_of_pixels(masks):
    prediction, truth = masks
    segments = np.stack([label(prediction, connectivity=1)[truth], label(truth, connectivity=1)[truth]], axis=1)
    pairs = [(a == b) for a, b in combinations(segments, 2)]
    score = rand_score(prediction, truth)
    assert score.in_prediction == sum(bool(same[0]) for same in pairs)
    assert score.in_truth == sum(bool(same[1]) for same in pairs)
    assert score.both == sum(bool(same.all()) for same in pairs)


def test_score_is_one_minus_the_error_of_scikit_image_whose_precision_and_recall_are_exchanged():
    rng = np.random.default_rng(0)
    for _ in range(30):
        truth, prediction = ndimage.gaussian_filter(rng.random((2, 80, 90)), (0, 3, 3)) > 0.495
        error, precision, recall = adapted_rand_error(label(truth, connectivity=1), label(prediction, connectivity=1))
        score = rand_score(prediction, truth)
        assert score.score == pytest.approx(1 - error, abs=1e-12)
        assert (score.precision, score.recall) == pytest.approx((recall, precision), abs=1e-12)


@pytest.mark.real_data
def test_real_membranes_score_as_with_scikit_image(real_data):
    for name in ("20", "23"):
        image, mask = (
            np.asarray(Image.open(real_data / "isbi2012_em" / kind / f"{name}.png")) for kind in ("images", "masks")
        )
        prediction = ndimage.gaussian_filter(image.astype(float), 1.5) > 120
        error, _, _ = adapted_rand_error(label(mask > 0, connectivity=1), label(prediction, connectivity=1))
        assert rand_score(prediction, mask > 0).score == pytest.approx(1 - error, abs=1e-12)


def test_merging_cells_costs_precision_and_splitting_them_recall():
    two_cells = np.array([[1, 1, 0, 1, 1]], bool)
    one_cell = np.ones((1, 5), bool)
    merged, split = rand_score(one_cell, two_cells), rand_score(two_cells, one_cell)
    assert (merged.precision, merged.recall) == (2 / 6, 1)
    assert split.precision == 1
    assert split.recall == 2 / 10
    assert rand_score(two_cells, two_cells).score == 1


def test_cells_that_touch_at_a_corner_are_two():
    corners = np.array([[1, 0], [0, 1]], bool)
    assert rand_score(corners, corners).in_truth == 0


def test_what_is_predicted_on_the_membrane_counts_only_by_what_it_connects():
    truth = np.array([[1, 1, 0, 0, 1, 1]], bool)
    assert rand_score(np.array([[1, 1, 1, 0, 1, 1]], bool), truth).score == 1
    assert rand_score(np.array([[1, 1, 1, 1, 1, 1]], bool), truth).precision == 2 / 6


def test_without_pairs_scores_are_undefined():
    nothing = np.zeros((4, 4), bool)
    score = rand_score(np.ones((4, 4), bool), nothing)
    assert (score.score, score.precision, score.recall) == (None, None, None)


def test_scores_pool_by_adding_pairs():
    pooled = sum([RandScore(1, 2, 3), RandScore(10, 20, 30)], RandScore(0, 0, 0))
    assert pooled == RandScore(11, 22, 33)
    assert pooled.score == 22 / 55


def test_a_sweep_finds_the_threshold_between_membrane_and_cell():
    truth = np.ones((9, 40), bool)
    truth[:, ::8] = False
    probability = np.where(truth, 0.62, 0.33)
    scores = membranes.rand_scores(probability, truth)
    assert [score.score == 1 for score in scores] == [0.33 <= t < 0.62 for t in membranes.THRESHOLDS]
    threshold, mean = membranes.best_threshold(np.array([[score.score for score in scores]] * 2))
    assert (threshold, mean) == (0.5, 1)


def test_the_best_threshold_is_the_best_on_average_over_the_images_with_cells():
    empty = [np.nan] * 3
    scores = np.array([[0.9, 0.6, 0], [0.1, 0.6, 0.9], empty])
    assert membranes.best_threshold(scores, (0.2, 0.4, 0.6)) == (0.4, pytest.approx(0.6))
    assert membranes.best_threshold(np.array([[0.5, 1, 1, 1]]), (0.2, 0.4, 0.6, 0.8)) == (0.6, 1)
    # The standard error of the best average, 0.95, is 0.05.
    wide = np.array([[0.79, 0.9, 0.89, 0.88], [0.77, 1, 0.99, 0.98]])
    assert membranes.best_threshold(wide, (0.2, 0.4, 0.6, 0.8), standard_errors=1) == (0.6, pytest.approx(0.94))
    assert membranes.best_threshold(wide, (0.2, 0.4, 0.6, 0.8), standard_errors=0.3) == (0.6, pytest.approx(0.94))
    assert membranes.best_threshold(wide, (0.2, 0.4, 0.6, 0.8), standard_errors=0.1) == (0.4, pytest.approx(0.95))
    assert membranes.best_threshold(wide[:1], (0.2, 0.4, 0.6, 0.8), standard_errors=1) == (0.4, 0.9)
    for without in (np.array([empty]), np.empty((0, 3))):
        with pytest.raises(ValueError, match="no threshold"):
            membranes.best_threshold(without, (0.2, 0.4, 0.6))


def test_masks_of_another_kind_are_refused():
    mask = np.zeros((3, 3), bool)
    with pytest.raises(ValueError, match="must be bool"):
        rand_score(mask.astype(np.uint8), mask)
    with pytest.raises(ValueError, match="differ in shape"):
        rand_score(mask[:2], mask)


def flooded_by_queue(cells):
    """Flooding as the challenge's code does it, one pixel after the other."""
    height, width = cells.shape
    labels = np.where(cells, label(cells, connectivity=1), -1)

    def beside(y, x):
        return [
            (v, u) for v, u in ((y, x - 1), (y - 1, x), (y, x + 1), (y + 1, x)) if 0 <= v < height and 0 <= u < width
        ]

    by_columns = [(y, x) for x in range(width) for y in range(height) if not cells[y, x]]
    queue = deque(at for at in by_columns if any(labels[other] > 0 for other in beside(*at)))
    waiting = set(queue)
    while queue:
        at = queue.popleft()
        wet = {int(labels[other]) for other in beside(*at)} - {-1, 0}
        labels[at] = wet.pop() if len(wet) == 1 else 0
        for other in beside(*at):
            if labels[other] == -1 and other not in waiting:
                waiting.add(other)
                queue.append(other)
    return np.ones_like(labels) if (labels == -1).all() else labels


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_cells_flood_membranes_as_with_the_challenges_queue(cells):
    np.testing.assert_array_equal(flooded(cells), flooded_by_queue(cells))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_cells_far_apart_flood_membranes_as_with_the_challenges_queue(share):
    noise = ndimage.gaussian_filter(np.random.default_rng(1).random((90, 120)), 2)
    cells = noise > np.quantile(noise, 1 - share)
    found = flooded(cells)
    np.testing.assert_array_equal(found, flooded_by_queue(cells))
    assert len(np.unique(found)) > 10


def waves(width, bend, membrane):
    y, x = np.mgrid[:60, :80]
    return np.abs(np.sin(x / width + bend * np.sin(y / 9)) * np.sin(y / width)) > membrane


@pytest.mark.parametrize(
    ("truth", "prediction", "rand_precision", "rand_recall", "rand", "info"),
    [
        ((5, 0.5, 0.1), (5, 0.7, 0.25), 0.9979475858515178, 0.9330555730448422, 0.9644112204535037, 0.9659737742793459),
        ((4, 0.3, 0.15), (5, 0.3, 0.4), 0.4008325606171206, 0.5312161731100081, 0.4569047329906040, 0.7112514940501814),
        ((6, 0.9, 0.2), (6, 1.4, 0.05), 0.1279065364946605, 1.0, 0.2268034315895925, 0.3803739952725723),
    ],
)
def test_scores_are_those_of_the_challenges_code(truth, prediction, rand_precision, rand_recall, rand, info):
    # What Fiji's Trainable_Segmentation (commit 41c7083) gives for these masks.
    scores = thinned_scores(waves(*prediction), waves(*truth))
    assert scores.v_rand.precision == pytest.approx(rand_precision, abs=1e-12)
    assert scores.v_rand.recall == pytest.approx(rand_recall, abs=1e-12)
    assert scores.v_rand.score == pytest.approx(rand, abs=1e-12)
    assert scores.v_info.score == pytest.approx(info, abs=1e-12)


def test_how_thick_the_predicted_membrane_is_matters_only_without_thinning():
    truth = np.ones((40, 40), bool)
    truth[20] = truth[:, 20] = False
    thick = np.ones((40, 40), bool)
    thick[17:24] = thick[:, 17:24] = False
    assert rand_score(thick, truth).score < 0.95
    scores = thinned_scores(thick, truth)
    assert (scores.v_rand.score, scores.v_info.score) == (1, pytest.approx(1))
    assert (flooded(thick) == 0).sum() == 79


def test_a_membrane_that_ends_inside_a_cell_vanishes():
    cells = np.ones((9, 9), bool)
    cells[4, :6] = False
    assert (flooded(cells) == 1).all()


def test_a_map_without_cells_is_one_cell():
    truth = waves(5, 0.5, 0.1)
    nothing, everything = np.zeros_like(truth), np.ones_like(truth)
    assert thinned_scores(nothing, truth) == thinned_scores(everything, truth)
    assert thinned_scores(nothing, truth).v_rand.recall == 1


def test_a_truth_without_cells_has_no_scores():
    scores = thinned_scores(np.ones((4, 4), bool), np.zeros((4, 4), bool))
    assert (scores.v_rand.score, scores.v_info.score) == (None, None)


def test_thinned_scores_pool_by_adding():
    one, other = (thinned_scores(waves(5, 0.5, width), waves(5, 0.7, 0.1)) for width in (0.1, 0.3))
    assert (one + other).v_rand == one.v_rand + other.v_rand
    assert (one + other).v_info == one.v_info + other.v_info


def test_a_sweep_after_thinning_is_the_scores_at_each_threshold_and_chooses_by_either():
    truth = waves(5, 0.5, 0.1)
    probability = ndimage.gaussian_filter(truth.astype(float), 2)
    thresholds = (0.2, 0.7, 0.9)
    sweep = membranes.thinned_sweep(probability, truth, thresholds)
    assert list(sweep) == [thinned_scores(probability > threshold, truth) for threshold in thresholds]
    for name in ("v_rand", "v_info"):
        values = [getattr(scores, name).score for scores in sweep]
        chosen, mean = membranes.best_threshold(np.array([values]), thresholds)
        assert (chosen, mean) == (thresholds[int(np.argmax(values))], max(values))


def test_masks_of_another_kind_are_refused_for_thinning():
    mask = np.zeros((3, 3), bool)
    with pytest.raises(ValueError, match="must be bool"):
        thinned_scores(mask, mask.astype(np.uint8))
    with pytest.raises(ValueError, match="must be bool"):
        flooded(mask.astype(np.uint8))
    with pytest.raises(ValueError, match="differ in shape"):
        thinned_scores(mask[:2], mask)
