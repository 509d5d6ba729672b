"""The membranes of an image of classes: which of its pixels are cells, and how probable that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.membrane_totals import MeasuredMembranes, Totals, measure_membranes, sweep_membranes
from segkit.evaluation.membranes import THRESHOLDS
from segkit.masks import IGNORE

MEMBRANES: Final = frozenset({"membrane", "membranes", "border", "borders", "boundary", "boundaries", "wall", "walls"})
"""A class of this name, in any case, is one of membranes if there is one other class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MembraneRules:
    """Which of the classes is membrane, by its index, and where probabilities are cut."""

    index: int
    thresholds: tuple[float, ...] = THRESHOLDS


def membrane_among(classes: Sequence[str]) -> int | None:
    """Return the index of the class of membranes, of two classes, None where none is called like one (or both are)."""
    found = [index for index, name in enumerate(classes) if name.lower() in MEMBRANES]
    return found[0] if len(classes) == 2 and len(found) == 1 else None


def cell_probability(
    foreground: NDArray[np.uint8] | None, of_classes: NDArray[np.uint8] | None, rules: MembraneRules, num_classes: int
) -> NDArray[np.float32] | None:
    """Return the probability of not being membrane, float32 (H, W), 0..1; None where it is not known.

    Parameters
    ----------
    foreground
        Probability of not being of class 0, uint8 (H, W), 255 = 1.
    of_classes
        Probability of each of the classes 1 .. C-1, uint8 (H, W, C-1).
    rules
        Which class is membrane.
    num_classes
        C.
    """
    if rules.index == 0:
        return None if foreground is None else foreground.astype(np.float32) / np.float32(255)
    of_membrane = foreground if num_classes == 2 else None
    if of_classes is not None:
        of_membrane = of_classes[..., rules.index - 1]
    # In whole numbers first: so a level is where the same level of another class would be.
    return None if of_membrane is None else (255 - of_membrane).astype(np.float32) / np.float32(255)


def membranes_of(
    prediction: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    rules: MembraneRules,
    *,
    probability: NDArray[np.float32] | None = None,
) -> MeasuredMembranes:
    """Measure the membranes of one whole image, in some 30 bytes a pixel: the cells of a part are not those of it.

    Parameters
    ----------
    prediction
        Class indices, uint8 (H, W).
    truth
        Class indices or `IGNORE`, uint8 (H, W).
    rules
        Which class is membrane; all others are cells.
    probability
        Result of `cell_probability`.
    """
    return measure_membranes(
        prediction != rules.index,
        truth != rules.index,
        unlabelled=truth == IGNORE,
        cell_probability=probability,
        thresholds=rules.thresholds,
    )


def sweep_of(truth: NDArray[np.uint8], rules: MembraneRules, probability: NDArray[np.float32]) -> Totals:
    """Return what `membrane_tables.choose_threshold` needs of one image; parameters as of `membranes_of`."""
    is_unlabelled = truth == IGNORE
    return sweep_membranes(probability, truth != rules.index, unlabelled=is_unlabelled, thresholds=rules.thresholds)
