"""The Rand score against scikit-image and against counting pairs of pixels one by one."""

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
from segkit.evaluation.membranes import RandScore, rand_score

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
    threshold, mean = membranes.best_threshold([scores, scores])
    assert (threshold, mean) == (0.5, 1)


def test_the_best_threshold_is_the_best_on_average_over_the_images_with_cells():
    def with_scores(*values):
        return [RandScore(value, 10, 10) for value in values]

    empty = [RandScore(0, 0, 0)] * 3
    assert membranes.best_threshold([with_scores(9, 6, 0), with_scores(1, 6, 9), empty], (0.2, 0.4, 0.6)) == (
        0.4,
        pytest.approx(0.6),
    )
    with pytest.raises(ValueError, match="no threshold"):
        membranes.best_threshold([empty])
    with pytest.raises(ValueError, match="no threshold"):
        membranes.best_threshold([])


def test_masks_of_another_kind_are_refused():
    mask = np.zeros((3, 3), bool)
    with pytest.raises(ValueError, match="must be bool"):
        rand_score(mask.astype(np.uint8), mask)
    with pytest.raises(ValueError, match="differ in shape"):
        rand_score(mask[:2], mask)
