"""Bootstrap samples and intervals: reproducible, by groups, vectorised as a loop would have it, and calibrated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segkit.evaluation import confidence


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**32))
def test_a_sample_has_as_many_images_as_the_set(num_images, num_samples, seed):
    weights = confidence.resample(num_images, num_samples=num_samples, seed=seed)
    assert weights.shape == (num_samples, num_images)
    assert (weights.sum(axis=1) == num_images).all()
    assert (weights >= 0).all()
    np.testing.assert_array_equal(weights, confidence.resample(num_images, num_samples=num_samples, seed=seed))


def test_another_seed_gives_other_samples():
    assert (confidence.resample(50, seed=0) != confidence.resample(50, seed=1)).any()


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=20))
def test_images_of_a_group_are_drawn_together(groups):
    weights = confidence.resample(len(groups), groups=groups, num_samples=30)
    for group in set(groups):
        members = weights[:, [name == group for name in groups]]
        assert (members == members[:, :1]).all()
    firsts = [groups.index(group) for group in sorted(set(groups))]
    assert (weights[:, firsts].sum(axis=1) == len(firsts)).all()


@settings(deadline=None)
@given(
    arrays(np.float64, (6, 3), elements=st.floats(-5, 5) | st.just(np.nan)),
    arrays(np.int64, (6, 2, 2), elements=st.integers(0, 10**9)),
)
def test_weights_mean_the_same_as_images_written_out(values, counts):
    weights = confidence.resample(6, num_samples=8)
    means, sums = confidence.mean_over_images(values, weights), confidence.pooled_over_images(counts, weights)
    for sample, times in enumerate(weights.astype(int)):
        drawn = np.repeat(np.arange(6), times)
        np.testing.assert_array_equal(sums[sample], counts[drawn].sum(axis=0))
        for column in range(3):
            defined = [value for value in values[drawn, column] if not np.isnan(value)]
            expected = sum(defined) / len(defined) if defined else np.nan
            np.testing.assert_allclose(means[sample, column], expected, atol=1e-12)


def test_the_interval_is_the_middle_95_percent_of_the_defined_samples():
    samples = np.stack([np.arange(1001.0), np.where(np.arange(1001) % 2, np.nan, 7.0)], axis=1)
    np.testing.assert_allclose(confidence.interval(samples), [[25, 7], [975, 7]])


def test_a_statistic_that_most_samples_leave_undefined_has_no_interval():
    assert np.isnan(confidence.interval(np.array([1.0, np.nan, np.nan]))).all()
    assert np.isnan(confidence.interval(np.full((5, 2), np.nan))).all()


def test_intervals_cover_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    weights = confidence.resample(60, num_samples=400)
    trials = rng.beta(8, 2, (60, 500))
    low, high = confidence.interval(confidence.mean_over_images(trials, weights))
    covered = np.mean((low <= 0.8) & (high >= 0.8))
    assert 0.90 <= covered <= 0.98


def test_intervals_over_groups_are_wider_where_images_of_a_group_are_alike():
    rng = np.random.default_rng(0)
    groups = [str(image // 10) for image in range(100)]
    values = np.repeat(rng.random(10), 10)
    by_image = confidence.interval(confidence.mean_over_images(values, confidence.resample(100)))
    by_group = confidence.interval(confidence.mean_over_images(values, confidence.resample(100, groups=groups)))
    assert np.diff(by_group) > 2 * np.diff(by_image)


@pytest.mark.parametrize("arguments", [{"num_images": 0}, {"num_images": 3, "num_samples": 0}])
def test_nothing_to_draw_is_refused(arguments):
    with pytest.raises(ValueError, match="at least one"):
        confidence.resample(**arguments)


def test_every_image_needs_a_group():
    with pytest.raises(ValueError, match="2 groups for 3 images"):
        confidence.resample(3, groups=["a", "b"])
