"""What holds for the objects of an image whatever the IoU that they match at: pixels, AJI, numbers.

Everything is computed from a few *totals* of each image, which pool by adding.

**Undefined values.** Dice, AJI and AJI+ are undefined where there are no objects, true or predicted, and 0 where there
are none of one kind; a relative count error is undefined without true objects.
"""

from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import aggregated_jaccard
from segkit.evaluation.aggregated_jaccard import aji_plus_px, aji_px
from segkit.evaluation.estimates import ratio
from segkit.evaluation.objects import Overlaps

TOTALS: Final = (
    "both_px", "true_px", "predicted_px", "aji_intersection_px", "aji_union_px", "aji_plus_intersection_px",
    "aji_plus_union_px", "num_true", "num_predicted",
)  # fmt: skip
"""The totals of an image, by the names that files give them."""

Totals = NDArray[np.integer | np.floating]


def totals_of(overlaps: Overlaps) -> NDArray[np.int64]:
    """Return the totals of an image, int64 (9,), in the order of `TOTALS`."""
    return np.array(
        [
            overlaps.intersections.sum(),
            overlaps.true_areas.sum(),
            overlaps.predicted_areas.sum(),
            *aji_px(overlaps),
            *aji_plus_px(overlaps),
            len(overlaps.true_areas),
            len(overlaps.predicted_areas),
        ],
        np.int64,
    )


def dice(totals: Totals) -> NDArray[np.float64]:
    """2 |both| / (|true| + |predicted|) of the pixels in any object: (..., 9) -> (...), in 0..1 or NaN."""
    both, true, predicted = np.moveaxis(np.asarray(totals[..., :3], np.float64), -1, 0)
    return ratio(2 * both, true + predicted)


def aji(totals: Totals) -> NDArray[np.float64]:
    """Aggregated Jaccard index, see `aggregated_jaccard`: (..., 9) -> (...), in 0..1 or NaN."""
    return aggregated_jaccard.aggregated_jaccard(totals[..., 3:5])


def aji_plus(totals: Totals) -> NDArray[np.float64]:
    """AJI+, see `aggregated_jaccard`: (..., 9) -> (...), in 0..1 or NaN."""
    return aggregated_jaccard.aggregated_jaccard(totals[..., 5:7])


def count_error(totals: Totals) -> NDArray[np.float64]:
    """Predicted minus true objects: (..., 9) -> (...)."""
    true, predicted = np.moveaxis(np.asarray(totals[..., 7:9], np.float64), -1, 0)
    difference: NDArray[np.float64] = predicted - true
    return difference


def absolute_count_error(totals: Totals) -> NDArray[np.float64]:
    """Difference of the numbers of predicted and true objects: (..., 9) -> (...), at least 0."""
    return np.abs(count_error(totals))


def relative_count_error(totals: Totals) -> NDArray[np.float64]:
    """Predicted minus true objects, as a share of the true ones: (..., 9) -> (...), at least -1, or NaN."""
    return ratio(count_error(totals), np.asarray(totals[..., 7], np.float64))


METRICS: Final = MappingProxyType(
    {
        "dice": dice,
        "aji": aji,
        "aji_plus": aji_plus,
        "count_error": count_error,
        "absolute_count_error": absolute_count_error,
        "relative_count_error": relative_count_error,
    }
)
"""The metrics by the names that files give them."""

DEFINITIONS: Final = MappingProxyType(
    {
        "dice": "2 |both| / (|true| + |predicted|), pixels in any object",
        **aggregated_jaccard.DEFINITIONS,
        "count_error": "predicted minus true objects; pooled: of all images together, mean: the average per image",
        "absolute_count_error": "the same without its sign, so that the mean shows errors that cancel one another out",
        "relative_count_error": "count_error / true objects, undefined without these",
    }
)
"""What files say about each metric."""
