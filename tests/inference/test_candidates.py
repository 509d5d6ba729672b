"""Sums over disks, runs and plateaus by themselves, against plain definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.inference.candidates import NO_RUNS, RIM, Disk, Runs, find_maxima, find_plateaus, join_runs, pad_outside
from segkit.points import FULL_SCORE
from tests.inference.plain_sums import plain_sums


@st.composite
def maps(draw: st.DrawFn, values: int = 65536) -> NDArray[np.uint16]:
    shape = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    return np.random.default_rng(draw(st.integers(0, 10**6))).integers(0, values, shape, dtype=np.uint16)


@given(scores=maps(), radius=st.floats(0, 12))
def test_sums_are_those_of_a_plain_convolution(scores: NDArray[np.uint16], radius: float) -> None:
    disk = Disk(radius)
    mirrored = np.pad(scores, disk.reach, mode="reflect")
    assert np.array_equal(disk.sums(mirrored), plain_sums(scores, radius))


@pytest.mark.parametrize(("shape", "radius"), [((211, 211), 105.0), ((1, 33000), 0.0), ((1025, 3), 1.0)])
def test_sums_of_saturated_maps_do_not_overflow(shape: tuple[int, int], radius: float) -> None:
    disk = Disk(radius)
    sums = disk.sums(np.full(shape, FULL_SCORE, np.uint16))
    assert sums.shape == (shape[0] - 2 * disk.reach, shape[1] - 2 * disk.reach)
    assert np.all(sums == disk.num_pixels * FULL_SCORE)


@pytest.mark.parametrize(("radius", "num_pixels"), [(0, 1), (0.99, 1), (1, 5), (1.42, 9), (2, 13), (10, 317)])
def test_disks_hold_the_pixels_up_to_their_radius(radius: float, num_pixels: int) -> None:
    disk = Disk(radius)
    assert (disk.num_pixels, disk.reach) == (num_pixels, int(radius))


def runs_by_hand(values: NDArray[np.uint16], lowest: int) -> list[tuple[int, ...]]:
    """Return row, first, last, value and slope of each run, pixel by pixel."""
    height, width = values.shape
    image = values.astype(int).tolist()

    def around(y: int, x: int) -> list[tuple[int, int]]:
        places = itertools.product(range(max(0, y - 1), min(height, y + 2)), range(max(0, x - 1), min(width, x + 2)))
        return [place for place in places if place != (y, x)]

    def is_top(y: int, x: int) -> bool:
        return all(image[b][a] <= image[y][x] for b, a in around(y, x))

    runs: list[tuple[int, ...]] = []
    for y, x in itertools.product(range(height), range(width)):
        if not (is_top(y, x) and image[y][x] >= lowest):
            continue
        slope = int(any(image[b][a] == image[y][x] and not is_top(b, a) for b, a in around(y, x)))
        if runs and runs[-1][0] == y and runs[-1][2] == x - 1:
            _, first, _, value, before = runs.pop()
            runs.append((y, first, x, value, max(slope, before)))
        else:
            runs.append((y, x, x, image[y][x], slope))
    return runs


@given(values=maps(values=4), lowest=st.integers(0, 4))
def test_runs_are_what_they_are_by_definition(values: NDArray[np.uint16], lowest: int) -> None:
    padded = pad_outside(values.astype(np.int32), rows=(RIM, RIM), columns=(RIM, RIM))
    found = find_maxima(padded, lowest)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == runs_by_hand(values, lowest)


def table(*rows: tuple[int, int, int, int, int, int]) -> Runs:
    columns = np.array(rows).reshape(-1, len(Runs._fields)).T
    return Runs(*(values.astype(like.dtype) for values, like in zip(columns, NO_RUNS, strict=True)))


def test_runs_that_go_on_in_the_next_block_are_one_with_the_slope_of_each() -> None:
    left = table((1, 3, 0, 3, 50, 0), (1, 4, 2, 3, 60, 0), (2, 3, 3, 3, 70, 0))
    middle = table((1, 3, 4, 7, 50, 0), (1, 4, 5, 6, 60, 0), (2, 4, 4, 5, 70, 0))
    right = table((1, 3, 8, 8, 50, 1), (1, 3, 10, 10, 50, 0))
    expected = table(
        (1, 3, 0, 8, 50, 1), (1, 3, 10, 10, 50, 0), (1, 4, 2, 3, 60, 0), (1, 4, 5, 6, 60, 0),
        (2, 3, 3, 3, 70, 0), (2, 4, 4, 5, 70, 0),
    )  # fmt: skip
    for blocks in itertools.permutations([left, middle, right]):
        joined = join_runs([None, *(block._asdict() for block in blocks)])
        for one, other in zip(joined, expected, strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


def test_plateaus_are_joined_at_corners_and_over_the_ends_of_rows_not() -> None:
    # The last pixel of one row and the first of the next are no neighbours in a map 10 pixels wide.
    runs = table((1, 0, 9, 9, 5, 0), (1, 1, 0, 0, 5, 0), (1, 2, 1, 2, 5, 0), (1, 5, 4, 4, 8, 0), (1, 6, 5, 5, 8, 1))
    positions, totals = find_plateaus(runs, 10)
    assert positions.tolist() == [[0.0, 9.0], [5 / 3, 1.0]]
    assert totals.tolist() == [5, 5]
