"""Object metrics against brute force: all matchings tried, all pixels counted one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.evaluation import objects
from segkit.evaluation.objects import Overlaps, count_objects, match_objects, matched_pairs, of_class


@st.composite
def label_pairs(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 8)))
    values = st.lists(st.sampled_from([0, 1, 2, 5, 2**40]), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    return np.array(draw(values)).reshape(shape), np.array(draw(values)).reshape(shape)


def ious_by_definition(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
    rows, columns = (sorted(set(one.ravel().tolist()) - {0}) for one in (truth, predicted))
    return np.array(
        [
            [((truth == i) & (predicted == j)).sum() / ((truth == i) | (predicted == j)).sum() for j in columns]
            for i in rows
        ]
    ).reshape(len(rows), len(columns))


def best_by_trying(ious: NDArray[np.float64], threshold: float) -> tuple[int, float]:
    """Return the greatest (number of pairs, sum of IoUs) of all one-to-one matchings."""
    wide = ious if ious.shape[0] <= ious.shape[1] else ious.T
    best = (0, 0.0)
    for columns in itertools.permutations(range(wide.shape[1]), wide.shape[0]):
        values = wide[np.arange(wide.shape[0]), list(columns)]
        values = values[(values >= threshold) & (values > 0)]
        best = max(best, (len(values), float(values.sum())))
    return best


@settings(max_examples=40, deadline=None)
@given(label_pairs(), st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.75, 1.0]))
def test_counts_are_those_of_the_best_matching(
    pair: tuple[NDArray[np.int64], NDArray[np.int64]], threshold: float
) -> None:
    ious = ious_by_definition(*pair)
    number, iou_sum = best_by_trying(ious, threshold)
    tp, fp, fn, found_sum = count_objects(match_objects(*pair), [threshold])[0]
    assert (tp, fp, fn) == (number, ious.shape[1] - number, ious.shape[0] - number)
    assert found_sum == pytest.approx(iou_sum)


@settings(max_examples=40, deadline=None)
@given(label_pairs())
def test_overlaps_are_those_counted_pixel_by_pixel(pair: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
    ious = ious_by_definition(*pair)
    overlaps = match_objects(*pair)
    dense = np.zeros(ious.shape)
    dense[overlaps.true, overlaps.predicted] = overlaps.ious
    np.testing.assert_allclose(dense, ious)
    assert (overlaps.intersections > 0).all()


@settings(max_examples=20, deadline=None)
@given(label_pairs())
def test_truth_and_prediction_can_change_places(pair: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
    one, other = count_objects(match_objects(*pair)), count_objects(match_objects(*pair[::-1]))
    np.testing.assert_allclose(one[:, [0, 2, 1, 3]], other)


def test_a_matching_with_more_pairs_is_better_than_one_with_greater_overlap() -> None:
    truth = np.array([[1, 1, 1, 1, 2, 2, 2, 0, 0, 0]])
    predicted = np.array([[7, 0, 0, 9, 9, 9, 9, 0, 0, 0]])
    # 9 overlaps 2 most and 1 a little; 7 overlaps 1 only: both are matched.
    assert len(matched_pairs(match_objects(truth, predicted), 0.1)) == 2
    assert len(matched_pairs(match_objects(truth, predicted), 0.6)) == 1
    # 8 alone with 1 (9/11) is more than 1 with 9 and 2 with 8 together (1/11 + 1/10), and one pair less.
    overlaps = match_objects(np.array([[1] * 10 + [2, 0]]), np.array([[8] * 9 + [9, 8, 9]]))
    np.testing.assert_allclose(count_objects(overlaps, [0.05, 0.2]), [[2, 0, 0, 1 / 11 + 1 / 10], [1, 1, 1, 9 / 11]])


def test_two_halves_of_an_object_are_one_match_at_a_half() -> None:
    overlaps = match_objects(np.array([[3, 3]]), np.array([[1, 2]]))
    assert count_objects(overlaps, [0.5]).tolist() == [[1, 1, 0, 0.5]]


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        (0, 0, {}),
        (0, 1, {"average_precision": 0, "f1": 0, "precision": 0, "panoptic_quality": 0}),
        (1, 0, {"average_precision": 0, "f1": 0, "recall": 0, "panoptic_quality": 0}),
        (1, 1, dict.fromkeys(objects.METRICS, 1)),
    ],
)
def test_nothing_there_or_nothing_found_has_the_documented_values(
    truth: int, predicted: int, expected: dict[str, float]
) -> None:
    counts = count_objects(match_objects(np.full((3, 3), truth), np.full((3, 3), predicted)), [0.5])
    found = {name: metric(counts)[0] for name, metric in objects.METRICS.items()}
    assert {name: value for name, value in found.items() if not np.isnan(value)} == expected


def test_pixels_that_are_not_labelled_do_not_count() -> None:
    truth = np.array([[1, 1, 0, 0, 0, 0, 0, 0]])
    predicted = np.array([[4, 4, 4, 4, 0, 6, 6, 6]])
    ignored = np.array([[0, 0, 1, 1, 0, 0, 1, 1]], bool)
    # Object 4 is half outside and stays, cut to what is labelled; object 6 is mostly not labelled.
    overlaps = match_objects(truth, predicted, ignored=ignored)
    assert count_objects(overlaps, [1.0]).tolist() == [[1, 0, 0, 1]]
    assert overlaps.predicted_areas.tolist() == [2]


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        match_objects(np.zeros((2, 3), int), np.zeros((3, 2), int))


@settings(max_examples=30, deadline=None)
@given(label_pairs(), st.data())
def test_a_class_is_measured_as_if_there_were_no_other(
    pair: tuple[NDArray[np.int64], NDArray[np.int64]], data: st.DataObject
) -> None:
    overlaps = match_objects(*pair)
    classes = [
        np.array(data.draw(st.lists(st.integers(1, 2), min_size=len(ids), max_size=len(ids))), np.int64)
        for ids in (overlaps.true_ids, overlaps.predicted_ids)
    ]
    for index in (1, 2, 3):
        kept = [
            np.where(np.isin(labels, ids[of == index]), labels, 0)
            for labels, ids, of in zip(pair, (overlaps.true_ids, overlaps.predicted_ids), classes, strict=True)
        ]
        for name, mine, theirs in zip(
            Overlaps._fields, of_class(overlaps, *classes, index), match_objects(*kept), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs, err_msg=name)


def test_a_class_is_needed_for_each_object() -> None:
    overlaps = match_objects(np.array([[1, 2]]), np.array([[1, 0]]))
    with pytest.raises(ValueError, match="2 and 2 classes for 2 true and 1 predicted"):
        of_class(overlaps, np.array([1, 1]), np.array([1, 1]), 1)
