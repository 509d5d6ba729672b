"""What the comparisons with reference implementations have in common: cases, and how far the two agree on them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How one metric of segkit compares with one of a reference implementation, over many cases.

    `undefined` counts the cases that either leaves undefined and that `note` explains; they are not in `cases`.
    `expected` is False where the two are known to differ, for a reason that `note` gives.
    """

    metric: str
    reference: str
    cases: int
    equal: int
    undefined: int
    largest_difference: float
    expected: bool = True
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether there is nothing to explain: all cases are equal, or a difference is expected and explained."""
        return self.cases > 0 and (self.equal == self.cases or not self.expected)


def agreement(
    metric: str,
    reference: str,
    pairs: Iterable[tuple[float | None, float | None]],
    *,
    tolerance: float = 1e-9,
    expected: bool = True,
    note: str = "",
) -> Agreement:
    """Compare pairs of values, segkit's first: equal within `tolerance`, undefined where either is."""
    values = np.array([[np.nan if value is None else float(value) for value in pair] for pair in pairs], np.float64)
    values = values.reshape(-1, 2)
    defined = values[~np.isnan(values).any(axis=1)]
    with np.errstate(invalid="ignore"):  # both infinite: equal
        differences = np.where(defined[:, 0] == defined[:, 1], 0, np.abs(defined[:, 0] - defined[:, 1]))
    return Agreement(
        metric=metric,
        reference=reference,
        cases=len(defined),
        equal=int((differences <= tolerance).sum()),
        undefined=len(values) - len(defined),
        largest_difference=float(differences.max(initial=0)),
        expected=expected,
        note=note,
    )
