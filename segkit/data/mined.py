"""Places that are worth drawing again: labelled look-alikes and what a detector took for an object by mistake."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Mined(NamedTuple):
    """False positives of a detector in one image: `positions` float64 (N, 2) y, x and `scores` float64 (N,)."""

    positions: NDArray[np.float64]
    scores: NDArray[np.float64]


class WeightedPlaces:
    """Places in images that are drawn in proportion to their weights.

    Parameters
    ----------
    mined
        False positives in each image; they weigh their scores.
    numbers, positions
        More places, each of weight 1: int64 (N,) image numbers and float64 (N, 2) y, x.
    """

    def __init__(
        self,
        mined: Sequence[Mined],
        numbers: NDArray[np.int64] | None = None,
        positions: NDArray[np.float64] | None = None,
    ) -> None:
        if numbers is None or positions is None:
            numbers, positions = np.zeros(0, np.int64), np.zeros((0, 2))
        self._numbers = np.concatenate(
            [numbers, *(np.full(len(one.scores), number) for number, one in enumerate(mined))]
        )
        self._positions = np.concatenate([positions, *(one.positions for one in mined)])
        self._sums = np.cumsum(np.concatenate([np.ones(len(numbers)), *(one.scores for one in mined)]))
        # Places that weigh nothing are never drawn: if there are no others, there are none.
        self.count = len(self._sums) if len(self._sums) and self._sums[-1] > 0 else 0

    def draw(self, rng: np.random.Generator) -> tuple[int, NDArray[np.float64]]:
        """Return image number and position; there must be a place."""
        chosen = min(int(np.searchsorted(self._sums, rng.random() * self._sums[-1], side="right")), self.count - 1)
        return int(self._numbers[chosen]), self._positions[chosen]
