"""AJI and AJI+ against their definitions, followed pixel by pixel and pairing by pairing."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.evaluation.aggregated_jaccard import aggregated_jaccard, aji_plus_px, aji_px
from segkit.evaluation.objects import match_objects

Labels = NDArray[np.int64]


@st.composite
def label_pairs(draw: st.DrawFn) -> tuple[Labels, Labels]:
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    values = st.lists(st.sampled_from([0, 1, 2, 3, 70]), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    return np.array(draw(values)).reshape(shape), np.array(draw(values)).reshape(shape)


def masks_of(labels: Labels) -> list[NDArray[np.bool_]]:
    return [labels == value for value in np.unique(labels) if value]


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def aji_by_definition(truth: Labels, predicted: Labels) -> tuple[int, int]:
    intersection = union = 0
    used = set()
    for true in masks_of(truth):
        ious = [iou(true, one) for one in masks_of(predicted)]
        if max(ious, default=0) == 0:
            union += true.sum()
            continue
        best = ious.index(max(ious))
        used.add(best)
        intersection += (true & masks_of(predicted)[best]).sum()
        union += (true | masks_of(predicted)[best]).sum()
    union += sum(one.sum() for index, one in enumerate(masks_of(predicted)) if index not in used)
    return int(intersection), int(union)


def aji_plus_by_definition(truth: Labels, predicted: Labels) -> set[tuple[int, int]]:
    """Return intersection and union of every one-to-one pairing that has the greatest sum of IoUs."""
    true, found = masks_of(truth), masks_of(predicted)
    best, values = -1.0, set()
    # Pairs that share no pixel are no pairs: their union is the sum of both areas.
    for partners in itertools.permutations([*range(len(found)), *[None] * len(true)], len(true)):
        pairs = [(one, found[index]) for one, index in zip(true, partners, strict=True) if index is not None]
        total = sum(iou(*pair) for pair in pairs)
        if total < best - 1e-9:
            continue
        if total > best + 1e-9:
            best, values = total, set()
        intersection = sum(int((one & other).sum()) for one, other in pairs)
        values.add((intersection, int((truth > 0).sum() + (predicted > 0).sum()) - intersection))
    return values


@settings(max_examples=60, deadline=None)
@given(label_pairs())
def test_aji_is_what_the_paper_says(pair: tuple[Labels, Labels]) -> None:
    assert tuple(aji_px(match_objects(*pair))) == aji_by_definition(*pair)


@settings(max_examples=30, deadline=None)
@given(label_pairs())
def test_aji_plus_is_that_of_a_best_pairing(pair: tuple[Labels, Labels]) -> None:
    found = aji_plus_px(match_objects(*pair))
    assert tuple(found) in aji_plus_by_definition(*pair)
    assert 0 <= found[0] <= found[1]


def test_a_prediction_that_merges_two_counts_once_for_each_of_them_in_aji() -> None:
    overlaps = match_objects(np.array([[1, 1, 1, 2, 2, 0]]), np.array([[8, 8, 8, 8, 8, 9]]))
    # AJI pairs 8 with both: 3/5 and 2/5, and 9 is alone. AJI+ pairs it with 1 only: 3/5, and 2 and 9 are alone.
    assert aji_px(overlaps).tolist() == [5, 5 + 5 + 1]
    assert aji_plus_px(overlaps).tolist() == [3, 5 + 2 + 1]


def test_of_equal_ious_aji_takes_the_lowest_id() -> None:
    # 2/6 and 3/9: the sums of pixels depend on which is taken.
    overlaps = match_objects(np.array([[1] * 6 + [0] * 3]), np.array([[8] * 2 + [0] + [9] * 6]))
    assert aji_px(overlaps).tolist() == [2, 6 + 6]
    overlaps = match_objects(np.array([[1] * 6 + [0] * 3]), np.array([[9] * 2 + [0] + [8] * 6]))
    assert aji_px(overlaps).tolist() == [3, 9 + 2]


def test_aji_plus_takes_the_greatest_sum_not_the_most_pairs_nor_the_best_first() -> None:
    # Two lesser pairs (1 with 8 and 2 with 9: 8/25 each) outweigh the best (1 with 9: 17/33).
    overlaps = match_objects(np.array([[1] * 25 + [2] * 8]), np.array([[8] * 8 + [9] * 25]))
    assert aji_plus_px(overlaps).tolist() == [8 + 8, 25 + 25]
    # One pair (1 with 8: 9/11) outweighs two (1 with 9: 1/11, 2 with 8: 1/10).
    overlaps = match_objects(np.array([[1] * 10 + [2, 0]]), np.array([[8] * 9 + [9, 8, 9]]))
    assert aji_plus_px(overlaps).tolist() == [9, 11 + 1 + 2]


@pytest.mark.parametrize(("truth", "predicted", "expected"), [(0, 0, np.nan), (0, 1, 0), (1, 0, 0), (1, 1, 1)])
def test_nothing_there_or_nothing_found_has_the_documented_values(truth: int, predicted: int, expected: float) -> None:
    overlaps = match_objects(np.full((3, 3), truth), np.full((3, 3), predicted))
    for px in (aji_px(overlaps), aji_plus_px(overlaps)):
        np.testing.assert_equal(float(aggregated_jaccard(px)), float(expected))
    # Of several images pixels are added up; the empty one adds nothing.
    np.testing.assert_array_equal(aggregated_jaccard(np.array([[3, 4], [0, 0]])), [0.75, np.nan])
