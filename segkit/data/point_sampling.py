"""Draw patches around and beside points: positives, near misses, hard negatives, anything else; reproducibly.

What a patch shows is decided by the pixel in its middle:

    positive        within `positive_px` of a point (pixel centre to point); classes, then points, evenly
    near miss       a negative at most `near_px` from a point
    hard negative   around a labelled look-alike, or at a false positive that mining found, in proportion to its score
    other           any negative, each place in the images being equally likely

A *negative* is further than `NEUTRAL` times `positive_px` from every point: in the ring between, a patch shows the
object a little beside its middle, and is neither. (Ciresan et al. 2013 draw 6.6 % positives, 9.5 % near misses and
83.9 % by the score of a first detector.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from segkit.data.mined import Mined, WeightedPlaces
from segkit.data.sampling import cut_mirrored
from segkit.geometry import Box
from segkit.points import Points

NEUTRAL: Final = 1.5
TRIES: Final = 64  # for a negative that keeps its distance from all points; crowded images have few


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Which share of the patches is of which kind; the rest are other negatives."""

    positives: float
    near_misses: float
    hard_negatives: float


class PointSource:
    """Draws patches with their surroundings from images that are in memory; see the module's text.

    Parameters
    ----------
    images
        (H, W, C) uint8 arrays of any sizes with equal C.
    points
        The labelled points of each; at least one in all is of a class.
    patch_px
        Side of the patches in pixels. The middle is pixel `patch_px // 2`.
    positive_px, near_px
        Distances in pixels.
    shares
        Of the kinds of patches. A kind that there is nothing of gives its share to other negatives.
    mined
        False positives in each image, if a detector has been run already.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]],
        points: Sequence[Points],
        *,
        patch_px: int,
        positive_px: float,
        near_px: float,
        shares: Shares,
        mined: Sequence[Mined] | None = None,
    ) -> None:
        self.images = images
        self.patch_px = patch_px
        self._positive_px, self._near_px, self._shares = positive_px, near_px, shares
        self._trees = [_tree(one.positions[one.classes > 0]) for one in points]
        numbers = np.concatenate([np.full(len(one.classes), number) for number, one in enumerate(points)])
        positions = np.concatenate([one.positions for one in points])
        classes = np.concatenate([one.classes for one in points])
        self._labelled = [
            (numbers[classes == index], positions[classes == index], index)
            for index in np.unique(classes[classes > 0]).tolist()
        ]
        assert self._labelled, "no points"
        self._objects = (numbers[classes > 0], positions[classes > 0])
        self._hard = WeightedPlaces(mined or [], numbers[classes == 0], positions[classes == 0])
        self._places = np.cumsum([image.shape[0] * image.shape[1] for image in images])

    def draw(self, rng: np.random.Generator, context_px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return a square of `context_px` pixels around a drawn patch, mirrored where it leaves the image.

        Returns
        -------
        image, target
            (context_px, context_px, C) and (context_px, context_px, 1) uint8; the target holds the patch's class.
        """
        number, y, x, index = self._place(rng)
        start = self.patch_px // 2 + (context_px - self.patch_px) // 2
        image = cut_mirrored(self.images[number], Box(y - start, x - start, context_px, context_px))
        return image, np.full((context_px, context_px, 1), index, np.uint8)

    def _place(self, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw image, row and column of the middle pixel, and class."""
        kind = rng.random()
        if kind < self._shares.positives:
            return self._positive(rng)
        kind -= self._shares.positives
        place: tuple[int, int, int] | None = None
        if kind < self._shares.near_misses:
            place = self._near_miss(rng)
        elif kind < self._shares.near_misses + self._shares.hard_negatives and self._hard.count:
            place = self._hard_negative(rng)
        place = place or self._anywhere(rng)
        # Images that are nothing but objects have no negatives.
        return self._positive(rng) if place is None else (*place, 0)

    def _positive(self, rng: np.random.Generator) -> tuple[int, int, int, int]:
        numbers, positions, index = self._labelled[int(rng.integers(len(self._labelled)))]
        chosen = int(rng.integers(len(numbers)))
        number = int(numbers[chosen])
        y, x = self._pixel_within(rng, number, positions[chosen], self._positive_px)
        return number, y, x, index

    def _pixel_within(
        self, rng: np.random.Generator, number: int, position: NDArray[np.float64], radius: float
    ) -> tuple[int, int]:
        """Draw a pixel of the image whose centre is within the radius of a position; the one that holds it, if none."""
        reach = int(np.ceil(radius)) + 1
        height, width = self.images[number].shape[:2]
        row, column = (int(value) for value in np.floor(position))
        rows = np.arange(max(row - reach, 0), min(row + reach + 1, height))
        columns = np.arange(max(column - reach, 0), min(column + reach + 1, width))
        near = np.hypot(rows[:, None] + 0.5 - position[0], columns[None, :] + 0.5 - position[1]) <= radius
        inside = np.flatnonzero(near)
        if not len(inside):
            return min(row, height - 1), min(column, width - 1)
        y, x = divmod(int(inside[rng.integers(len(inside))]), len(columns))
        return int(rows[y]), int(columns[x])

    def _near_miss(self, rng: np.random.Generator) -> tuple[int, int, int] | None:
        numbers, positions = self._objects
        for _ in range(TRIES):
            chosen = int(rng.integers(len(numbers)))
            distance = rng.uniform(NEUTRAL * self._positive_px, max(self._near_px, NEUTRAL * self._positive_px + 1))
            angle = rng.uniform(0, 2 * np.pi)
            y, x = positions[chosen] + distance * np.array([np.sin(angle), np.cos(angle)])
            place = self._if_negative(int(numbers[chosen]), y, x)
            if place is not None:
                return place
        return None

    def _hard_negative(self, rng: np.random.Generator) -> tuple[int, int, int] | None:
        for _ in range(TRIES):
            number, position = self._hard.draw(rng)
            # A detector fires around a look-alike, not at one pixel of it.
            y, x = self._pixel_within(rng, number, position, self._positive_px / 2)
            place = self._if_negative(number, y + 0.5, x + 0.5)
            if place is not None:
                return place
        return None

    def _anywhere(self, rng: np.random.Generator) -> tuple[int, int, int] | None:
        for _ in range(TRIES):
            place = int(rng.integers(self._places[-1]))
            number = int(np.searchsorted(self._places, place, side="right"))
            y, x = divmod(place - (int(self._places[number - 1]) if number else 0), self.images[number].shape[1])
            found = self._if_negative(number, y + 0.5, x + 0.5)
            if found is not None:
                return found
        return None

    def _if_negative(self, number: int, y: float, x: float) -> tuple[int, int, int] | None:
        """Return image, row and column if the pixel there lies inside and is a negative."""
        row, column = int(np.floor(y)), int(np.floor(x))
        height, width = self.images[number].shape[:2]
        if not (0 <= row < height and 0 <= column < width):
            return None
        tree = self._trees[number]
        if tree is not None and tree.query((row + 0.5, column + 0.5))[0] <= NEUTRAL * self._positive_px:
            return None
        return number, row, column


def _tree(positions: NDArray[np.float64]) -> cKDTree | None:
    return cKDTree(positions) if len(positions) else None
