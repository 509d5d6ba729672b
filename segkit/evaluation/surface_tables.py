"""Distances between boundaries of many images: what is kept of each, and the metrics of all of them.

*Mean* is, as everywhere, the mean of the images' values. *Pooled* are ASSD and NSD only: the boundary pixels of all
images together, each of which counts the same. HD and HD95 speak of the worst place of an image, and of many images
together they would speak of a single one.

Where only one of truth and prediction is empty, the image's diagonal stands for every distance, as Metrics Reloaded has
it (`surfaces.bounded`): infinity cannot be averaged, and leaving it out would reward a prediction for being empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence, surfaces
from segkit.evaluation.estimates import ratio
from segkit.evaluation.surfaces import SurfaceTally

Unit = Literal["um", "px"]

_HD95, _HD, _NUM, _SUM, _NEAR, _ONE_EMPTY = range(6)


def surface_row(tally: SurfaceTally, shape: Sequence[int], tolerance_px: float) -> NDArray[np.float64]:
    """Return what is kept of the distances of one class in one image.

    Parameters
    ----------
    tally
        All of them.
    shape
        Height and width of the image (or of what is compared of it), whose diagonal stands for infinite distances.
    tolerance_px
        Of NSD, in pixels.

    Returns
    -------
    float64 (6,), distances in pixels: HD95, HD (NaN where both masks are empty); number of boundary pixels of both
    masks, the sum of their distances, number of those within the tolerance; 1 where only one of the masks is empty, so
    that the diagonal stands for the distances, else 0.
    """
    both = tally.from_prediction + tally.from_truth
    values = np.array([surfaces.bounded(value, shape) for value in both.values_px], np.float64)
    return np.array(
        [
            surfaces.bounded(surfaces.hausdorff_95_px(tally), shape),
            surfaces.bounded(surfaces.hausdorff_px(tally), shape),
            both.counts.sum(),
            values @ both.counts,
            both.counts[both.values_px <= tolerance_px].sum(),
            tally.is_infinite,
        ],
        np.float64,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Surfaces:
    """The rows of N images, and the unit that their distances are told in.

    Attributes
    ----------
    rows
        float64 (N, C-1, 6), those of `surface_row`; NaN for images whose distances were not measured.
    units_per_px
        Micrometres, or 1, float64 (N,).
    unit
        `um` where the micrometres per pixel of all images are known, else `px`.
    """

    rows: NDArray[np.float64]
    units_per_px: NDArray[np.float64]
    unit: Unit

    @property
    def num_measured(self) -> int:
        """Images whose distances were measured."""
        return int((~np.isnan(self.rows[:, 0, _NUM])).sum())

    @property
    def one_empty(self) -> NDArray[np.bool_]:
        """Where only one of truth and prediction is empty, and the diagonal stands for distances: bool (N, C-1)."""
        empty: NDArray[np.bool_] = self.rows[..., _ONE_EMPTY] > 0
        return empty

    def of(self, members: NDArray[np.bool_]) -> "Surfaces":
        """Return the rows of some of the images, which `members` (N,) marks."""
        return replace(self, rows=self.rows[members], units_per_px=self.units_per_px[members])

    def by_image(self) -> dict[str, NDArray[np.float64]]:
        """Return the metrics of each image and class, by the names that files give them: float64 (N, C-1)."""
        scale = self.units_per_px[:, np.newaxis]
        known = np.nan_to_num(self.rows)
        return {
            f"hd95_{self.unit}": self.rows[..., _HD95] * scale,
            f"hd_{self.unit}": self.rows[..., _HD] * scale,
            f"assd_{self.unit}": ratio(known[..., _SUM] * scale, known[..., _NUM]),
            "nsd": ratio(known[..., _NEAR], known[..., _NUM]),
        }

    def pooled(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the metrics of all images together, of each class, for weights (B, N): float64 (B, C-1)."""
        known = np.nan_to_num(self.rows)
        number, near = (confidence.pooled_over_images(known[..., column], weights) for column in (_NUM, _NEAR))
        total = confidence.pooled_over_images(known[..., _SUM] * self.units_per_px[:, np.newaxis], weights)
        return {f"assd_{self.unit}": ratio(total, number), "nsd": ratio(near, number)}


def stack_surfaces(
    rows: Sequence[NDArray[np.float64] | None], mpps: Sequence[float | None], num_classes: int
) -> Surfaces | None:
    """Return the rows of N images as one, None where there are none of any image.

    Parameters
    ----------
    rows
        Of each image float64 (C-1, 6), or None: not measured.
    mpps
        Micrometres per pixel of each, None where unknown: then all distances are told in pixels.
    num_classes
        C.
    """
    if all(one is None for one in rows):
        return None
    missing = np.full((num_classes - 1, 6), np.nan)
    known = [mpp for mpp in mpps if mpp is not None]
    in_um = len(known) == len(mpps)
    return Surfaces(
        np.stack([missing if one is None else one for one in rows]),
        np.array(known if in_um else np.ones(len(rows)), np.float64),
        "um" if in_um else "px",
    )


_OF_UNIT: Final = ("hd95", "hd", "assd")


def definitions(unit: Unit, tolerance: str) -> Mapping[str, str]:
    """Return what files say about each metric, by the names that they give it.

    Parameters
    ----------
    unit
        Of distances.
    tolerance
        Of NSD, with its unit.
    """
    told = {f"{name}_{unit}" if name in _OF_UNIT else name: text for name, text in surfaces.DEFINITIONS.items()}
    told["nsd"] = told["nsd"].replace("tolerance", f"tolerance of {tolerance}")
    told["num_diagonals"] = "images where the diagonal stands for the distances in means (distance_of_empty)"
    return told
