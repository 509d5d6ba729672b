"""Truths that there is no prediction of: refused, or, where that was asked for, left out of the numbers and named.

A model that finds nothing to say of hard images would otherwise get better by saying nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

REMEDY: Final = "leave them out by --set allow_missing=true, which the results will say"
MAX_LISTED: Final = 20


@dataclass
class Missing:
    """What becomes of truths without a prediction: whether they are `allowed`, and `names` of those left out so far."""

    allowed: bool = False
    names: list[str] = field(default_factory=list)


def listed(problems: Collection[str]) -> list[str]:
    """Return problems or names, sorted, and, if there are many, how many more there are."""
    rest = len(problems) - MAX_LISTED
    return [*sorted(problems)[:MAX_LISTED], f"and {rest} more"] if rest > 0 else sorted(problems)
