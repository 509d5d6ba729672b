"""Counts by size against a plain loop over the objects."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.evaluation.object_sizes import count_by_size, quartile_edges, ranges
from segkit.evaluation.objects import count_objects, match_objects, matched_pairs

ids = st.lists(st.sampled_from([0, 1, 1, 1, 2, 3, 4]), min_size=30, max_size=30).map(np.sort)


@settings(max_examples=50, deadline=None)
@given(ids, ids, st.sampled_from([0.1, 0.5, 0.8]), st.lists(st.integers(1, 12), unique=True, max_size=4).map(sorted))
def test_every_object_counts_once_by_the_size_that_is_documented(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], threshold: float, edges: list[float]
) -> None:
    overlaps = match_objects(truth[np.newaxis], predicted[np.newaxis])
    pairs = matched_pairs(overlaps, threshold)
    partner = dict(zip(overlaps.true[pairs].tolist(), pairs.tolist(), strict=True))
    expected = []
    for one in ranges(edges):
        tp = fp = fn = 0
        iou_sum = 0.0
        high = np.inf if one.high is None else one.high
        for index, area in enumerate(overlaps.true_areas):
            if one.low <= area < high:
                tp += index in partner
                fn += index not in partner
                iou_sum += overlaps.ious[partner[index]] if index in partner else 0
        for index, area in enumerate(overlaps.predicted_areas):
            fp += one.low <= area < high and index not in overlaps.predicted[pairs]
        expected.append([tp, fp, fn, iou_sum])
    found = count_by_size(overlaps, threshold, edges)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found.sum(axis=0), count_objects(overlaps, [threshold])[0])


def test_quartiles_hold_a_quarter_each_where_sizes_differ() -> None:
    labels = np.repeat(np.arange(1, 9), np.arange(1, 9))[np.newaxis]
    overlaps = match_objects(labels, labels)
    edges = quartile_edges([overlaps])
    assert count_by_size(overlaps, 0.5, edges)[:, 0].tolist() == [2, 2, 2, 2]
    # Of equal sizes there is one range, and of no objects, too.
    same = match_objects(np.array([[1, 2, 3, 0]]), np.array([[0, 0, 0, 1]]))
    nothing = match_objects(np.zeros((1, 4), int), np.array([[0, 0, 0, 1]]))
    for one in (same, nothing):
        assert quartile_edges([one]) == ()
    assert count_by_size(same, 0.5, ()).tolist() == [[0, 1, 3, 0]]


@pytest.mark.parametrize("edges", [[0], [-1, 4], [4, 4], [5, 4]])
def test_edges_that_do_not_ascend_are_refused(edges: list[float]) -> None:
    overlaps = match_objects(np.array([[1]]), np.array([[1]]))
    with pytest.raises(ValueError, match="must be positive and ascend"):
        count_by_size(overlaps, 0.5, edges)


@settings(max_examples=50, deadline=None)
@given(ids, ids, st.sampled_from([1.0, 0.25**2, 0.1, 3.7]))
def test_areas_in_um2_fall_where_their_pixels_do(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], pixel_area: float
) -> None:
    overlaps = match_objects(truth[np.newaxis], predicted[np.newaxis])
    edges = quartile_edges([overlaps])
    assert quartile_edges([overlaps], [pixel_area]) == tuple(edge * pixel_area for edge in edges)
    np.testing.assert_array_equal(
        count_by_size(overlaps, 0.5, [edge * pixel_area for edge in edges], pixel_area),
        count_by_size(overlaps, 0.5, edges),
    )
