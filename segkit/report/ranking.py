"""Which of many images a picture shows."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np

MAX_SHOWN: Final = 6

CaseT = TypeVar("CaseT")


def worst_to_best(cases: Sequence[CaseT], rank: Callable[[CaseT], tuple[Any, ...]]) -> tuple[list[CaseT], str]:
    """Return some of the cases, evenly spread by rank, the worst and the best among them; and what they are, in words.

    Parameters
    ----------
    cases
        At least one. `MAX_SHOWN` of them are returned, or all.
    rank
        What they are sorted by, the worst first.
    """
    ranked = sorted(cases, key=rank)
    places = np.linspace(0, len(ranked) - 1, min(len(ranked), MAX_SHOWN)).round()
    shown = [ranked[int(place)] for place in places]
    images = "validation images" if len(shown) == len(cases) else f"{len(shown)} of {len(cases)} validation images"
    return shown, f"{images}, worst to best".capitalize()
