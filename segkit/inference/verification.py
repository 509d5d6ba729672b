"""A dense score map compared with windows that are computed by themselves, at random positions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.inference.pipeline import PixelSource
from segkit.inference.window import WindowPredictor
from segkit.points import FULL_SCORE


class Verifier:
    """Remembers the scores at random positions of a map that arrives in rows, to compare them with naive ones.

    Parameters
    ----------
    height, width
        Of the map.
    number
        Positions; a seed makes them the same every time.
    """

    def __init__(self, height: int, width: int, number: int, seed: int = 0) -> None:
        places = np.random.default_rng(seed).integers(0, height * width, number)
        self._rows, self._columns = np.divmod(np.sort(places), width)
        self._found: list[NDArray[np.uint16]] = []
        self._next_row = 0

    def add_rows(self, scores: NDArray[np.uint16]) -> None:
        """Take the next rows of the map, uint16 (n, width, K)."""
        inside = (self._rows >= self._next_row) & (self._rows < self._next_row + len(scores))
        self._found.append(scores[self._rows[inside] - self._next_row, self._columns[inside]])
        self._next_row += len(scores)

    def largest_difference(self, source: PixelSource, naive: WindowPredictor, stride: int) -> float:
        """Return the largest difference of a probability, in steps of 1 / 65,535; 0.0 without positions.

        Parameters
        ----------
        source
            The pixels that the map was made from.
        naive
            The same networks with the method `naive`.
        stride
            Of the map.
        """
        found = np.concatenate(self._found)
        largest = 0
        for row, column, scores in zip(self._rows.tolist(), self._columns.tolist(), found, strict=True):
            core = Box(row * stride, column * stride, 1, 1)
            window = source.read(core.expand(naive.grid.halo))
            alone = naive.predict(window[None], [(slice(0, 1), slice(0, 1))])[0].scores[0, 0]
            largest = max(largest, _distance(scores.tolist(), alone.tolist()))
        return largest / FULL_SCORE


def _distance(one: Sequence[int], other: Sequence[int]) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
