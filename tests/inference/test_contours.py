"""Sequences, chains and rings: the same as walking along them step by step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.inference.contours import Chains, follow, join, ring_order, tidied


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 20), st.data())
def test_following_is_walking_step_by_step(count: int, data: st.DataObject) -> None:
    permutation = data.draw(st.permutations(range(count)))
    cut = data.draw(st.sets(st.integers(0, max(count - 1, 0))))
    following = [-1 if number in cut else to for number, to in enumerate(permutation)]
    order, length, closed = follow(np.array(following, np.int64))
    assert sorted(order.tolist()) == list(range(count))
    first = 0
    for number, is_cycle in zip(length.tolist(), closed.tolist(), strict=True):
        sequence = order[first : first + number].tolist()
        assert [following[one] for one in sequence[:-1]] == sequence[1:]
        assert following[sequence[-1]] == (sequence[0] if is_cycle else -1)
        assert not is_cycle or sequence[0] == min(sequence)
        assert is_cycle or sequence[0] not in following
        first += number


def chains(*lines: tuple[int, bool, list[tuple[int, int]]]) -> Chains:
    return Chains(
        np.array([owner for owner, _, _ in lines]),
        np.array([len(points) for _, _, points in lines]),
        np.array([closed for _, closed, _ in lines]),
        np.array([point for _, _, points in lines for point in points], np.int32),
    )


def listed(found: Chains) -> list[tuple[int, bool, list[tuple[int, int]]]]:
    lines = np.split(found.points, np.cumsum(found.length)[:-1])
    rows = zip(found.owner.tolist(), found.closed.tolist(), lines, strict=True)
    return [(owner, closed, list(map(tuple, line.tolist()))) for owner, closed, line in rows]


SQUARE = [(2, 2), (1, 3), (0, 2), (0, 1), (0, 0), (1, -1), (2, 0), (2, 1)]


def test_straight_points_go_and_rings_begin_with_their_uppermost_point() -> None:
    found = tidied(chains((4, True, SQUARE), (5, False, [(0, 0), (2, 0), (4, 0), (5, 1), (6, 2)]), (6, True, SQUARE)))
    ring = [(0, 0), (1, -1), (2, 0), (2, 2), (1, 3), (0, 2)]
    assert listed(found) == [(4, True, ring), (5, False, [(0, 0), (4, 0), (6, 2)]), (6, True, ring)]


@pytest.mark.parametrize("shift", range(8))
def test_a_ring_is_the_same_wherever_it_was_begun_and_cut(shift: int) -> None:
    turned = SQUARE[shift:] + SQUARE[:shift]
    (whole,) = listed(tidied(chains((0, True, turned))))
    cut = chains((0, False, turned[3:6]), (0, False, [*turned[5:], turned[0]]), (0, False, turned[:4]))
    assert listed(join(cut, np.array([1, 2, 0]))) == [whole]


def test_chains_that_are_not_followed_stay_open() -> None:
    cut = chains((1, False, [(4, 0), (3, 1)]), (0, False, [(0, 0), (0, 2)]), (1, False, [(8, 0), (6, 0), (4, 0)]))
    found = listed(join(cut, np.array([-1, -1, 0])))
    assert sorted(found) == [(0, False, [(0, 0), (0, 2)]), (1, False, [(8, 0), (4, 0), (3, 1)])]


def test_rings_are_sorted_by_owner_and_first_point() -> None:
    lower = [(y + 10, x) for y, x in SQUARE]
    found = tidied(chains((1, True, lower), (0, True, lower), (1, True, SQUARE)))
    assert ring_order(found).tolist() == [1, 2, 0]
