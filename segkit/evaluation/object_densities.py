"""How many objects there are in an area, and how large they are on average, in micrometres where these are known.

Everything is computed from sums of each image, which pool by adding: objects in all images / their area, and so on.

**Undefined values.** A density is 0 where there is no object; a mean area is undefined there.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence
from segkit.evaluation.estimates import Estimate, estimate, ratio
from segkit.evaluation.object_totals import TOTALS

DEFINITIONS: Final = MappingProxyType(
    {
        "area_mm2": "what is labelled of an image, pixels times mpp squared",
        "true_per_mm2": "num_true / area_mm2; predicted_per_mm2 likewise; pooled: sum over images / summed area",
        "mean_true_area_um2": "area of all true objects / their number; mean_predicted_area_um2 likewise; without mpp "
        "in pixels, mean_true_area_px",
    }
)
"""What files say about it."""

_TRUE_PX, _PREDICTED_PX, _NUM_TRUE, _NUM_PREDICTED = map(
    TOTALS.index, ("true_px", "predicted_px", "num_true", "num_predicted")
)


def sums_of(
    totals: NDArray[np.float64], areas_px: NDArray[np.float64] | None, mpps: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return what adds up.

    Parameters
    ----------
    totals
        Of N images, see `object_totals.TOTALS`, float64 (N, 9).
    areas_px
        Labelled pixels of each image, float64 (N,), None: unknown.
    mpps
        Micrometres per pixel of each, float64 (N,), None: unknown.

    Returns
    -------
    float64 (N, 5): true and predicted objects, their areas in um2 (without mpp: pixels), mm2 that are labelled (NaN
    where unknown).
    """
    um2 = np.ones(len(totals)) if mpps is None else mpps**2
    known = areas_px is not None and mpps is not None
    return np.column_stack(
        [
            totals[:, [_NUM_TRUE, _NUM_PREDICTED]],
            totals[:, [_TRUE_PX, _PREDICTED_PX]] * um2[:, np.newaxis],
            areas_px * um2 / 1e6 if known else np.full(len(totals), np.nan),  # type: ignore[operator]
        ]
    )


def densities_of(sums: NDArray[np.float64], *, has_mpp: bool) -> dict[str, NDArray[np.float64]]:
    """Return numbers per mm2 (where the area is known) and mean areas, by the names that files give them.

    `sums` are those of `sums_of`, of images or of sets of them, float64 (..., 5) -> (...).
    """
    num_true, num_predicted, true_area, predicted_area, area = np.moveaxis(sums, -1, 0)
    unit = "um2" if has_mpp else "px"
    areas = {
        f"mean_true_area_{unit}": ratio(true_area, num_true),
        f"mean_predicted_area_{unit}": ratio(predicted_area, num_predicted),
    }
    if not has_mpp or np.isnan(area).all():
        return areas
    return {"true_per_mm2": ratio(num_true, area), "predicted_per_mm2": ratio(num_predicted, area), **areas}


def pooled_densities(
    sums: NDArray[np.float64], weights: NDArray[np.float64], *, has_mpp: bool
) -> Mapping[str, Estimate]:
    """Return the same of all images together, with intervals; `weights` as of `weights_of_set_and_samples`."""
    pooled = densities_of(confidence.pooled_over_images(sums, weights), has_mpp=has_mpp)
    return {name: estimate(values) for name, values in pooled.items()}
