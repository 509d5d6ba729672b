"""One-to-one matchings of two sets, of which only a few pairs come into question."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

# Most pairs are clear in a few rounds, and what is left falls into small groups.
_ROUNDS: Final = 20
# The solver takes time for each member of a set and each of its steps: small groups of pairs are quicker than all.
_PAIRS_AT_ONCE: Final = 300


def heaviest_matching(
    rows: NDArray[np.int64], columns: NDArray[np.int64], gains: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Choose pairs such that none shares its row or its column with another, with the greatest sum of gains.

    Of matchings with the same sum one is taken, always the same for the same pairs.

    Parameters
    ----------
    rows, columns
        The two ends of each of P different pairs, int64 (P,), from 0 up.
    gains
        What a pair is worth, float64 (P,), at least 0; one that is worth nothing is never chosen.

    Returns
    -------
    int64 (K,): which of the pairs, ascending.
    """
    left = np.flatnonzero(gains > 0)
    row, column = rows[left], columns[left]
    if not ((np.bincount(row)[row] > 1) | (np.bincount(column)[column] > 1)).any():
        return left
    chosen = []
    for _ in range(_ROUNDS):
        row, column, gain = rows[left], columns[left], gains[left]
        # Whatever is chosen at the two ends of such a pair is worth less than the pair.
        clear = left[gain > _best_rival(row, gain) + _best_rival(column, gain)]
        if not len(clear):
            break
        chosen.append(clear)
        left = left[~np.isin(row, rows[clear]) & ~np.isin(column, columns[clear])]
    chosen += [batch[_settle(rows[batch], columns[batch], gains[batch])] for batch in _batches(rows, columns, left)]
    return np.sort(np.concatenate(chosen))


def _best_rival(ends: NDArray[np.int64], gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each pair, the greatest gain of another with the same end; 0 where there is none."""
    order = np.lexsort((-gains, ends))
    is_first = np.diff(ends[order], prepend=-1) > 0
    firsts = np.flatnonzero(is_first)
    best = gains[order][firsts]
    # The second of an end is what follows its first one, if that is still of this end.
    is_second = np.zeros(len(order), np.bool_)
    is_second[1:] = is_first[:-1] & ~is_first[1:]
    second = np.zeros(len(firsts))
    end = np.cumsum(is_first) - 1
    second[end[is_second]] = gains[order][is_second]
    rivals = np.empty(len(order))
    rivals[order] = np.where(is_first, second[end], best[end])
    return rivals


def _batches(rows: NDArray[np.int64], columns: NDArray[np.int64], left: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Divide pairs into batches, such that those that are linked by rivals are in one."""
    if not len(left):
        return []
    ends = (rows[left], rows.max() + 1 + columns[left])
    size = int(ends[1].max()) + 1
    graph = sparse.coo_array((np.ones(len(left)), ends), (size, size))
    component = csgraph.connected_components(graph, directed=False)[1][ends[0]]
    order = np.argsort(component, kind="stable")
    starts = np.flatnonzero(np.diff(component[order])) + 1
    borders = starts[np.diff(starts // _PAIRS_AT_ONCE, prepend=0) > 0]
    return np.split(left[order], borders)


def _settle(rows: NDArray[np.int64], columns: NDArray[np.int64], gains: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of the pairs make the heaviest matching, bool (P,)."""
    rows, row = np.unique(rows, return_inverse=True)
    columns, column = np.unique(columns, return_inverse=True)
    # The solver gives every row a column: each has one more, its own, for having none. 1 is added to all, as a weight
    # of 0 is no pair to it; as many are added up whatever is chosen.
    own = np.arange(len(rows))
    weights = np.concatenate([1 + gains, np.ones(len(rows))])
    ends = (np.concatenate([row, own]), np.concatenate([column, len(columns) + own]))
    pairs = sparse.csr_array((weights, ends), (len(rows), len(columns) + len(rows)))
    given, taken = csgraph.min_weight_full_bipartite_matching(pairs, maximize=True)
    partner = np.empty(len(rows), np.int64)
    partner[given] = taken
    is_chosen: NDArray[np.bool_] = partner[row] == column
    return is_chosen
