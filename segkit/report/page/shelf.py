"""Pictures of cases that are kept while images go by, of which nobody knows yet which are the best and the worst."""

from collections.abc import Callable, Mapping
from typing import Final

from segkit.report.page.gallery import EACH, SMALL_PX
from segkit.report.page.pictures import LONGEST_PX, Picture

CAPACITY: Final = 600
"""So many images are kept: about 100 MB."""

Draw = Callable[[int], Picture]
"""Draws an image with a longest side in pixels."""


class Shelf:
    """Keeps pictures of the first `capacity` images, and from then on of those that are worse or better than the rest.

    So the worst and the best of all images are kept, however many there are, and few of them are drawn in vain. What
    makes room is what is good, but not among the best.
    """

    def __init__(self, capacity: int = CAPACITY, each: int = EACH) -> None:
        if capacity <= 2 * each:
            raise ValueError(f"room for {capacity} pictures, and {each} of the worst and of the best are wanted")
        self._capacity, self._each = capacity, each
        self._pictures: dict[str, Mapping[int, Picture]] = {}
        # Those with a score, the worst first; each that has none makes room first.
        self._ranked: list[tuple[float, str]] = []
        self._unranked: list[str] = []

    def put(self, name: str, score: float | None, draw: Draw) -> None:
        """Draw an image and keep it, if it is worth it.

        Parameters
        ----------
        name
            Of the image, which none before had.
        score
            The higher the better, None where undefined.
        draw
            Is called before this returns, or not at all.
        """
        if len(self._pictures) >= self._capacity:
            if score is None or not self._is_extreme(score):
                return
            self._make_room()
        self._pictures[name] = {longest_px: draw(longest_px) for longest_px in (LONGEST_PX, SMALL_PX)}
        if score is None:
            self._unranked.append(name)
        else:
            self._ranked.append((score, name))
            self._ranked.sort()

    def pictures(self) -> Mapping[str, Draw]:
        """Return how to get at the pictures, by name; there are the sizes that a gallery asks for."""
        return {name: sizes.__getitem__ for name, sizes in self._pictures.items()}

    def _is_extreme(self, score: float) -> bool:
        if len(self._ranked) < 2 * self._each:
            return True
        return score < self._ranked[self._each - 1][0] or score > self._ranked[-self._each][0]

    def _make_room(self) -> None:
        gone = self._unranked.pop() if self._unranked else self._ranked.pop(-self._each - 1)[1]
        del self._pictures[gone]
