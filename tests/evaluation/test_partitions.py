"""Rand and information scores against counting pairs and entropies by their definitions, and against scikit-image."""

from collections import Counter
from itertools import combinations, product
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import adapted_rand_error, variation_of_information

from segkit.evaluation import partitions
from segkit.evaluation.partitions import Contingency, InformationScore, RandScore, contingency

NO_INFORMATION = InformationScore(0, 0.0, 0.0, 0.0)

label_pairs = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(*[arrays(np.int32, shape, elements=st.integers(0, 4))] * 2)
)


def in_truth(truth, prediction):
    """The pixels inside the truth's segments, as pairs of ids."""
    return [(t, p) for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True) if t]


def with_zeros_apart(pixels):
    """Each pixel that is predicted as 0 gets a segment of its own."""
    return [(t, p or f"pixel {place}") for place, (t, p) in enumerate(pixels)]


def entropy(ids):
    return -sum(n / len(ids) * log2(n / len(ids)) for n in Counter(ids).values()) if ids else 0


def information_of(pixels):
    """N, N I, N H(S), N H(T) by definition."""
    true, predicted = [t for t, _ in pixels], [p for _, p in pixels]
    mutual = entropy(true) + entropy(predicted) - entropy(pixels)
    return [len(pixels), *(len(pixels) * bits for bits in (mutual, entropy(predicted), entropy(true)))]


def values_of(score):
    return [score.num_pixels, score.mutual, score.in_prediction, score.in_truth]


@given(label_pairs)
def test_the_table_counts_every_pixel_once(pair):
    table = contingency(*pair)
    found = dict(
        zip(zip(table.true_ids.tolist(), table.predicted_ids.tolist(), strict=True), table.counts.tolist(), strict=True)
    )
    assert found == Counter(zip(pair[0].ravel().tolist(), pair[1].ravel().tolist(), strict=True))
    assert list(found) == sorted(found)


@given(label_pairs)
def test_adapted_rand_counts_pairs_of_pixels_inside_the_truth(pair):
    pixels = in_truth(*pair)
    pairs = [(a[0] == b[0], a[1] == b[1]) for a, b in combinations(pixels, 2)]
    expected = RandScore(
        both=sum(t and p for t, p in pairs), in_prediction=sum(p for _, p in pairs), in_truth=sum(t for t, _ in pairs)
    )
    assert partitions.adapted_rand(contingency(*pair)) == expected


@given(label_pairs)
def test_v_rand_counts_ordered_pairs_and_pixels_predicted_as_0_apart(pair):
    pixels = with_zeros_apart(in_truth(*pair))
    pairs = [(a[0] == b[0], a[1] == b[1]) for a, b in product(pixels, pixels)]
    expected = RandScore(
        both=sum(t and p for t, p in pairs), in_prediction=sum(p for _, p in pairs), in_truth=sum(t for t, _ in pairs)
    )
    assert partitions.v_rand(contingency(*pair)) == expected


@given(label_pairs)
def test_information_is_that_of_the_entropies(pair):
    table, pixels = contingency(*pair), list(zip(pair[0].ravel().tolist(), pair[1].ravel().tolist(), strict=True))
    assert values_of(partitions.information(table)) == pytest.approx(information_of(pixels), abs=1e-9)
    inside = in_truth(*pair)
    assert values_of(partitions.information(table.within_truth())) == pytest.approx(information_of(inside), abs=1e-9)
    apart = information_of(with_zeros_apart(inside))
    assert values_of(partitions.v_info(table)) == pytest.approx(apart, abs=1e-9)


@given(label_pairs)
def test_scores_agree_with_scikit_image(pair):
    truth, prediction = pair
    table = contingency(truth, prediction)
    splits, merges = variation_of_information(truth, prediction)
    information = partitions.information(table)
    assert (information.split_bits, information.merge_bits) == pytest.approx((splits, merges), abs=1e-9)
    assert information.variation_bits == pytest.approx(splits + merges, abs=1e-9)
    rand = partitions.adapted_rand(table)
    if rand.in_prediction and rand.in_truth:
        error, precision, recall = adapted_rand_error(truth, prediction)
        assert (rand.error, rand.recall, rand.precision) == pytest.approx((error, precision, recall), abs=1e-12)


@settings(max_examples=40)
@given(label_pairs, st.permutations(range(1, 5)), st.permutations(range(1, 5)))
def test_renaming_segments_changes_nothing(pair, true_names, predicted_names):
    renamed = [
        np.array([0, *names])[labels] * 1_000_003
        for labels, names in zip(pair, (true_names, predicted_names), strict=True)
    ]
    one, other = contingency(*pair), contingency(*renamed)
    assert partitions.adapted_rand(one) == partitions.adapted_rand(other)
    assert partitions.v_rand(one) == partitions.v_rand(other)
    assert values_of(partitions.v_info(one)) == pytest.approx(values_of(partitions.v_info(other)), abs=1e-9)


@settings(max_examples=40)
@given(label_pairs)
def test_exchanging_truth_and_prediction_exchanges_splits_and_merges(pair):
    forth, back = (partitions.information(contingency(*labels)) for labels in (pair, pair[::-1]))
    assert (forth.split_bits, forth.merge_bits) == pytest.approx((back.merge_bits, back.split_bits), abs=1e-9)
    inside = [labels + 1 for labels in pair]
    one, other = (partitions.adapted_rand(contingency(*labels)) for labels in (inside, inside[::-1]))
    assert (one.both, one.in_prediction, one.in_truth) == (other.both, other.in_truth, other.in_prediction)


@settings(max_examples=40)
@given(label_pairs, st.integers(0, 6))
def test_tiles_add_up_to_the_image(pair, row):
    whole = contingency(*pair)
    total = contingency(*(labels[:row] for labels in pair)) + contingency(*(labels[row:] for labels in pair))
    for name in Contingency.__slots__:
        np.testing.assert_array_equal(getattr(total, name), getattr(whole, name))


@settings(max_examples=40)
@given(label_pairs, st.integers(0, 2**32))
def test_ignored_pixels_do_not_count(pair, seed):
    ignored = np.random.default_rng(seed).random(pair[0].shape) < 0.5
    one = contingency(*pair, ignored=ignored)
    other = contingency(*(labels[~ignored] for labels in pair))
    for name in Contingency.__slots__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@settings(max_examples=40)
@given(label_pairs)
def test_scores_lie_between_0_and_1_and_the_same_partition_has_1(pair):
    table, itself = contingency(*pair), contingency(pair[0], pair[0])
    for measure in (partitions.adapted_rand, partitions.v_rand, partitions.v_info):
        score, best = measure(table).score, measure(itself).score
        assert score is None or 0 <= score <= 1
        assert best is None or best == pytest.approx(1)
    assert partitions.information(itself).variation_bits == pytest.approx(0, abs=1e-12)


def test_splitting_costs_recall_and_merging_precision():
    two, one = np.array([[1, 1, 2, 2]]), np.ones((1, 4), int)
    split, merged = contingency(one, two), contingency(two, one)
    for measure in (partitions.adapted_rand, partitions.v_rand):
        assert measure(split).precision == 1 > measure(split).recall
        assert measure(merged).recall == 1 > measure(merged).precision
    assert (partitions.information(split).split_bits, partitions.information(split).merge_bits) == (1, 0)
    assert (partitions.information(merged).split_bits, partitions.information(merged).merge_bits) == (0, 1)
    assert partitions.v_info(split).recall == 0
    assert partitions.v_info(merged).precision == 0


def test_scores_of_images_pool_by_adding():
    tables = [contingency(np.array([1, 1, 2]), np.array([1, 2, 2])), contingency(np.array([1] * 4), np.array([1] * 4))]
    pooled = sum((partitions.v_info(table) for table in tables), NO_INFORMATION)
    assert pooled.num_pixels == 7
    assert pooled.in_truth == pytest.approx(3 * (log2(3) - 2 / 3))
    assert sum((partitions.v_rand(table) for table in tables), RandScore(0, 0, 0)) == RandScore(3 + 16, 5 + 16, 5 + 16)


def test_the_pairs_of_a_whole_slide_are_counted_exactly():
    size = 10**10
    table = Contingency(np.array([1]), np.array([1]), np.array([size]))
    assert partitions.v_rand(table).both == size**2
    assert partitions.adapted_rand(table).in_truth == size * (size - 1) // 2


def test_without_pixels_or_information_scores_are_undefined():
    nothing = contingency(np.zeros((2, 2), int), np.ones((2, 2), int))
    for score in (partitions.adapted_rand(nothing), partitions.v_rand(nothing), partitions.v_info(nothing)):
        assert (score.score, score.precision, score.recall) == (None, None, None)
    assert partitions.adapted_rand(nothing).error is None
    information = partitions.v_info(nothing)
    assert (information.split_bits, information.merge_bits, information.variation_bits) == (None, None, None)
    one_segment = partitions.v_info(contingency(np.ones(3, int), np.ones(3, int)))
    assert one_segment.score is None
    assert one_segment.variation_bits == 0
    assert values_of(partitions.information(contingency(np.zeros(0, int), np.zeros(0, int)))) == [0, 0, 0, 0]


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        contingency(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="shapes differ"):
        contingency(np.zeros((2, 2), int), np.zeros((2, 2), int), ignored=np.zeros((2, 3), bool))
