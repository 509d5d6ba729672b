"""What points are, for labels and detections alike.

Positions are (y, x) in pixels at level 0, in continuous coordinates: the centre of the first pixel is (0.5, 0.5), and
the pixel that holds a position is its floor.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

FULL_SCORE: Final = 65_535
"""What a probability of 1 is in a score map (uint16): whole numbers, so that what follows can count exactly."""


class Points(NamedTuple):
    """The labelled points of an image.

    `positions` are float64 (N, 2) y, x; `classes` int64 (N,) class indices, where 0 marks a hard negative: a
    look-alike that somebody has labelled as one.
    """

    positions: NDArray[np.float64]
    classes: NDArray[np.int64]

    def of_class(self, index: int) -> NDArray[np.float64]:
        """Return the positions of one class."""
        chosen: NDArray[np.float64] = self.positions[self.classes == index]
        return chosen


class Detections(NamedTuple):
    """What a detector found in an image, by descending score.

    `positions` are float64 (N, 2) y, x; `classes` int64 (N,) class indices from 1 on; `scores` float64 (N,), 0..1.
    """

    positions: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
