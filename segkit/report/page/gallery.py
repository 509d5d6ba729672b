"""Which cases a page shows, and how many of them it has room for."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from segkit.report.page.content import Case, Gallery
from segkit.report.page.pictures import LONGEST_PX

SMALL_PX: Final = 448
"""Longest side of the pictures that only the table of images opens."""

EACH: Final = 8
"""So many of the best, of the median and of the worst cases are shown."""

MAX_CHARACTERS: Final = 14_000_000
"""What the pictures of a page may take of its file, in characters: a page of 20 MB opens on a phone, too."""

CaseOf = Callable[[int, int], Case]
"""Makes the case of an image, by its index, with a picture of a longest side in pixels."""


class Choice(NamedTuple):
    """Indices of images, each in one of them, the worst first.

    `others` are those that are left, the worst first, those with an undefined score last.
    """

    worst: list[int]
    median: list[int]
    best: list[int]
    others: list[int]


def choose_cases(scores: Sequence[float | None], names: Sequence[str], each: int = EACH) -> Choice:
    """Choose the cases to show by their scores; images of one score come in the order of their names.

    With at most three times `each` images that have a score, all of them are in `worst`.
    """
    ranked = sorted(
        (index for index, score in enumerate(scores) if score is not None),
        key=lambda index: (scores[index] or 0.0, names[index]),
    )
    undefined = [index for index, score in enumerate(scores) if score is None]
    if len(ranked) <= 3 * each:
        return Choice(ranked, [], [], undefined)
    first = (len(ranked) - each) // 2
    worst, median, best = ranked[:each], ranked[first : first + each], ranked[-each:]
    shown = {*worst, *median, *best}
    return Choice(worst, median, best, [index for index in ranked if index not in shown] + undefined)


def make_gallery(
    scores: Sequence[float | None],
    names: Sequence[str],
    case_of: CaseOf,
    *,
    drawable: Collection[int],
    legend: Mapping[str, str],
    each: int = EACH,
    max_characters: int = MAX_CHARACTERS,
) -> Gallery:
    """Draw the worst, median and best cases, and of the others as many, the worst first, as there is room for.

    Parameters
    ----------
    scores, names
        Of all images.
    case_of
        Draws one.
    drawable
        Indices of images that can be drawn; the others are as if they were not there.
    legend
        By kind of layer: what it is called.
    each
        So many of each.
    max_characters
        What all pictures may take; those of the worst, median and best cases are in any case there.
    """
    places = sorted(drawable)
    choice = choose_cases([scores[index] for index in places], [names[index] for index in places], each)
    heading = "All images, the worst first" if not choice.best else "Worst"
    groups = ((heading, choice.worst), ("Median", choice.median), ("Best", choice.best))
    drawn = tuple(
        (heading, tuple(case_of(places[place], LONGEST_PX) for place in chosen)) for heading, chosen in groups if chosen
    )
    room = max_characters - sum(case.picture.num_characters for _, cases in drawn for case in cases)
    others = []
    for place in choice.others:
        case = case_of(places[place], SMALL_PX)
        room -= case.picture.num_characters
        if room < 0:
            break
        others.append(case)
    num_drawn = sum(len(cases) for _, cases in drawn) + len(others)
    note = f"Pictures of {num_drawn} of {len(names)} images are in this file"
    note += "." if room >= 0 else f", as many as {max_characters / 1e6:g} MB hold."
    return Gallery(drawn, tuple(others), legend, note)
