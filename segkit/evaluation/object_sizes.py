"""How well objects of each size are found: counts of matches by area.

**Which size.** A matched pair counts by the area of its true object, a missed object by its own, and so does a
predicted object without a match. So every object counts in exactly one bin and bins add up to the counts of
`objects.count_objects`; recall is that of true objects of the size. A predicted object that is matched is in the bin of
its true one, whatever its own area.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.objects import Overlaps, matched_pairs

DEFINITIONS: Final = MappingProxyType(
    {
        "by_size": "counts at the first IoU threshold by area, low <= area < high, pooled: matched pairs and missed "
        "objects by the area of the true object, predicted objects without a match by their own",
    }
)
"""What files say about it."""


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Areas from `low_px` up to but not `high_px` (None: whatever is larger), in pixels."""

    low_px: float
    high_px: float | None


def ranges(edges_px: Sequence[float]) -> tuple[SizeRange, ...]:
    """Return the ranges that E edges divide areas into, E + 1 of them, from 0 up."""
    return tuple(SizeRange(low, high) for low, high in zip([0, *edges_px], [*edges_px, None], strict=True))


def quartile_edges(overlaps: Sequence[Overlaps]) -> tuple[float, ...]:
    """Return areas of true objects in all images that a quarter, a half and three quarters of them stay below.

    Fewer than three where many have the same area, as each range holds a true object; none without true objects.
    """
    areas = np.concatenate([one.true_areas for one in overlaps])
    if not len(areas):
        return ()
    edges = np.unique(np.quantile(areas, (0.25, 0.5, 0.75), method="higher")).astype(np.float64)
    return tuple(edges[edges > areas.min()].tolist())


def count_by_size(overlaps: Overlaps, threshold: float, edges_px: Sequence[float]) -> NDArray[np.float64]:
    """Match at an IoU threshold and count by area: float64 (E + 1, 4) of TP, FP, FN and the sum of matched IoUs.

    Parameters
    ----------
    edges_px
        E areas, ascending, in pixels; see `ranges`.

    Raises
    ------
    ValueError
        The edges do not ascend, or are not positive.
    """
    if (np.diff(edges_px, prepend=0) <= 0).any():
        raise ValueError(f"edges of sizes must be positive and ascend, got {tuple(edges_px)}")
    pairs = matched_pairs(overlaps, threshold)
    true, predicted = overlaps.true[pairs], overlaps.predicted[pairs]
    is_missed = np.ones(len(overlaps.true_areas), np.bool_)
    is_missed[true] = False
    is_wrong = np.ones(len(overlaps.predicted_areas), np.bool_)
    is_wrong[predicted] = False
    matched_areas, ious = overlaps.true_areas[true], overlaps.ious[pairs]
    columns = [
        (matched_areas, np.ones(len(pairs))),
        (overlaps.predicted_areas, is_wrong.astype(np.float64)),
        (overlaps.true_areas, is_missed.astype(np.float64)),
        (matched_areas, ious),
    ]
    return np.stack(
        [
            np.bincount(np.searchsorted(edges_px, areas, side="right"), amounts, len(edges_px) + 1)
            for areas, amounts in columns
        ],
        axis=1,
    )
