"""How well objects of each size are found: counts of matches by area.

**Which size.** A matched pair counts by the area of its true object, a missed object by its own, and so does a
predicted object without a match. So every object counts in exactly one bin and bins add up to the counts of
`objects.count_objects`; recall is that of true objects of the size. A predicted object that is matched is in the bin of
its true one, whatever its own area.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence
from segkit.evaluation.estimates import Estimate, estimate
from segkit.evaluation.objects import METRICS, Overlaps, matched_pairs

DEFINITIONS: Final = MappingProxyType(
    {
        "by_size": "counts at the first IoU threshold by area, low <= area < high, pooled: matched pairs and missed "
        "objects by the area of the true object, predicted objects without a match by their own",
    }
)
"""What files say about it."""


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Areas from `low` up to but not `high` (None: whatever is larger), in the unit of the edges: pixels or um2."""

    low: float
    high: float | None


@dataclass(frozen=True, slots=True)
class SizeBin:
    """Objects of a range of areas in all images, at one threshold.

    `metrics` has those of `objects.METRICS`, pooled.
    """

    range: SizeRange
    tp: int
    fp: int
    fn: int
    metrics: Mapping[str, Estimate]


def ranges(edges: Sequence[float]) -> tuple[SizeRange, ...]:
    """Return the ranges that E edges divide areas into, E + 1 of them, from 0 up."""
    return tuple(SizeRange(low, high) for low, high in zip([0, *edges], [*edges, None], strict=True))


def quartile_edges(overlaps: Sequence[Overlaps], pixel_areas: Sequence[float] | None = None) -> tuple[float, ...]:
    """Return areas of true objects in all images that a quarter, a half and three quarters of them stay below.

    Fewer than three where many have the same area, as each range holds a true object; none without true objects.
    `pixel_areas` is what a pixel of each image counts, such as um2; None: 1.
    """
    scales = [1.0] * len(overlaps) if pixel_areas is None else pixel_areas
    areas = np.concatenate([one.true_areas * scale for one, scale in zip(overlaps, scales, strict=True)])
    if not len(areas):
        return ()
    edges = np.unique(np.quantile(areas, (0.25, 0.5, 0.75), method="higher")).astype(np.float64)
    return tuple(edges[edges > areas.min()].tolist())


def count_by_size(
    overlaps: Overlaps, threshold: float, edges: Sequence[float], pixel_area: float = 1.0
) -> NDArray[np.float64]:
    """Match at an IoU threshold and count by area: float64 (E + 1, 4) of TP, FP, FN and the sum of matched IoUs.

    Parameters
    ----------
    edges
        E areas, ascending; see `ranges`.
    pixel_area
        What a pixel counts, in the unit of the edges.

    Raises
    ------
    ValueError
        The edges do not ascend, or are not positive.
    """
    if (np.diff(edges, prepend=0) <= 0).any():
        raise ValueError(f"edges of sizes must be positive and ascend, got {tuple(edges)}")
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
            np.bincount(np.searchsorted(edges, areas * pixel_area, side="right"), amounts, len(edges) + 1)
            for areas, amounts in columns
        ],
        axis=1,
    )


def size_bins(edges: Sequence[float], sizes: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[SizeBin, ...]:
    """Return the bins of counts by size in N images, float64 (N, E + 1, 4).

    `weights` are how often each image is in the set and in its samples, as of `weights_of_set_and_samples`.
    """
    sums = confidence.pooled_over_images(sizes, weights)
    values = {metric: of(sums) for metric, of in METRICS.items()}
    return tuple(
        SizeBin(
            range=of_size,
            tp=int(sums[0, index, 0]),
            fp=int(sums[0, index, 1]),
            fn=int(sums[0, index, 2]),
            metrics={metric: estimate(samples[:, index]) for metric, samples in values.items()},
        )
        for index, of_size in enumerate(ranges(edges))
    )
