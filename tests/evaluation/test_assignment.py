"""The heaviest matching of sparse pairs against scipy's of the full matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from segkit.evaluation.assignment import heaviest_matching


def heaviest_sum(rows: NDArray[np.int64], columns: NDArray[np.int64], gains: NDArray[np.float64]) -> float:
    full = np.zeros((rows.max(initial=0) + 1, columns.max(initial=0) + 1))
    full[rows, columns] = gains
    return float(full[linear_sum_assignment(full, maximize=True)].sum())


def assert_heaviest(rows: NDArray[np.int64], columns: NDArray[np.int64], gains: NDArray[np.float64]) -> None:
    chosen = heaviest_matching(rows, columns, gains)
    assert (np.diff(chosen) > 0).all()
    assert len(np.unique(rows[chosen])) == len(np.unique(columns[chosen])) == len(chosen)
    assert (gains[chosen] > 0).all()
    assert gains[chosen].sum() == pytest.approx(heaviest_sum(rows, columns, gains), rel=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 7), st.integers(0, 7)),
        st.sampled_from([0.0, 1e-6, 0.1, 0.25, 0.5, 0.5, 1.0]) | st.floats(0, 1),
        max_size=30,
    )
)
def test_no_matching_of_the_full_matrix_is_heavier(pairs: dict[tuple[int, int], float]) -> None:
    ends = np.array(list(pairs), np.int64).reshape(-1, 2)
    # What is nearly worth nothing drowns in rounding, with scipy, too.
    gains = np.array(list(pairs.values()), np.float64)
    assert_heaviest(ends[:, 0], ends[:, 1], np.where(gains < 1e-9, 0, gains))


@pytest.mark.parametrize(("num_rows", "num_pairs"), [(600, 1500), (600, 700), (40, 1200)])
def test_large_and_many_groups_are_settled_as_well(num_rows: int, num_pairs: int) -> None:
    """Groups larger than a batch, batches of several groups, and more than a matching's worth of rivals."""
    rng = np.random.default_rng(num_pairs)
    codes = rng.choice(num_rows**2, num_pairs, replace=False)
    # Few different values: many are equal, so that no pair is clear.
    assert_heaviest(codes // num_rows, codes % num_rows, rng.integers(1, 4, num_pairs) / 3)
    assert_heaviest(codes // num_rows, codes % num_rows, rng.random(num_pairs))
