"""Distances between the boundaries of masks: Hausdorff distance, its 95th percentile, ASSD, NSD.

Several things go by these names. Here:

- The **boundary** of a mask are those of its pixels that have one of their four neighbours outside it; beyond the
  image there is nothing, so a mask's pixels at the image's edge are boundary. (scipy's `binary_erosion`, as in MONAI
  and Metrics Reloaded. DeepMind's surface-distance takes the corners between pixels and weights them by the
  contour's length, which gives other numbers.)
- Each boundary pixel of the one mask has a **distance** to the nearest boundary pixel of the other, between centres.
- **HD** is the greatest distance of both directions. **HD95** is the 95th percentile (linear interpolation) of each
  direction by itself, and the greater of the two (MONAI, Metrics Reloaded; medpy takes the percentile of both
  directions together).
- **ASSD** is the mean over the boundary pixels of both masks together (MONAI, medpy, Metrics Reloaded; the mean of the
  two directions' means is MASD there).
- **NSD** is the share of boundary pixels of both masks with a distance of at most the tolerance (surface Dice).

Sources: Huttenlocher et al. (1993), IEEE PAMI 15:850-863 (HD); Heimann et al. (2009), IEEE TMI 28:1251-1265 (ASSD);
Nikolov et al. (2021), J. Med. Internet Res. 23:e26151 (NSD); Maier-Hein, Reinke et al. (2024), Nature Methods
21:195-212 (Metrics Reloaded).

**Empty masks.**

==============  ==================  ===============================
truth           prediction          values
==============  ==================  ===============================
empty           empty               all undefined (NaN)
empty           not empty           HD, HD95, ASSD infinite; NSD 0
not empty       empty               HD, HD95, ASSD infinite; NSD 0
==============  ==================  ===============================

Infinite is not undefined: an average that leaves it out rewards a prediction for being empty. Metrics Reloaded
says to take the worst value that is possible instead: `bounded` puts the image's diagonal in its place.

**Tiles.** A tally says how many boundary pixels have which distance. Tallies of disjoint tiles add up to that of the
image, if every tile is given with the pixels around it (`halo_px`). A distance greater than `halo_px - 1` is not known
then and infinite; NSD of tolerances up to that is exact, and so is HD95 where it is finite.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from segkit.evaluation.estimates import ratio
from segkit.masks import IGNORE

PERCENTILE: Final = 95
"""Of HD95."""

# Trees with larger leaves are built faster and, for one round of questions, answer as fast.
_LEAF_SIZE = 32

# Most boundary pixels have the other boundary as near as that, where all of them look around step by step.
_NEAR_PX = 4

# The few that are left look farther, each in all directions at once: quicker than building a tree, unless that takes
# many looks for each pixel that the tree would hold.
_FAR_PX: Final = (9, 18, 40)
_LOOKS_PER_PIXEL: Final = 64
_LOOKS_AT_ONCE: Final = 1 << 18


def _steps_between(inner_px: int, outer_px: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return squared length, rows down and columns right of all steps longer than the one, the shortest first."""
    down, right = np.mgrid[-outer_px : outer_px + 1, -outer_px : outer_px + 1].reshape(2, -1)
    squares = down**2 + right**2
    order = np.argsort(squares, kind="stable")
    kept = order[(squares[order] > inner_px**2) & (squares[order] <= outer_px**2)]
    return squares[kept], down[kept], right[kept]


def _steps_by_length() -> list[tuple[int, list[tuple[int, int]]]]:
    """Return the steps (down, right) of up to `_NEAR_PX` by their squared length, the shortest first."""
    squares, down, right = _steps_between(0, _NEAR_PX)
    steps = list(zip(squares.tolist(), down.tolist(), right.tolist(), strict=True))
    return [(square, [step[1:] for step in steps if step[0] == square]) for square in np.unique(squares).tolist()]


_STEPS: Final = _steps_by_length()
_RINGS: Final = [_steps_between(*ends) for ends in zip((_NEAR_PX, *_FAR_PX), _FAR_PX, strict=False)]


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """How many boundary pixels of one mask are how far from the other's boundary.

    Attributes
    ----------
    values_px
        The K different distances, ascending, float64 (K,), in pixels; the last can be infinite.
    counts
        Boundary pixels with each, int64 (K,).
    """

    values_px: NDArray[np.float64]
    counts: NDArray[np.int64]

    def __add__(self, other: "Distances") -> "Distances":
        return _distances(
            np.concatenate([self.values_px, other.values_px]), np.concatenate([self.counts, other.counts])
        )


@dataclass(frozen=True, slots=True)
class SurfaceTally:
    """The distances of both directions, between a predicted and a true mask; those of tiles add up."""

    from_prediction: Distances
    from_truth: Distances

    def __add__(self, other: "SurfaceTally") -> "SurfaceTally":
        return SurfaceTally(self.from_prediction + other.from_prediction, self.from_truth + other.from_truth)

    @property
    def is_infinite(self) -> bool:
        """Whether some distance is: one mask is empty, or in tiles a boundary is farther than the halo."""
        return any(bool(np.isinf(one.values_px).any()) for one in (self.from_prediction, self.from_truth))


NOTHING: Final = SurfaceTally(*[Distances(np.zeros(0), np.zeros(0, np.int64))] * 2)
"""The tally of no pixels, to which others are added."""


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask's pixels that have one of four neighbours outside the mask or the image: bool (H, W) -> same."""
    return _inner_boundary(np.pad(mask, 1))


def tally_surfaces(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], *, halo_px: int | None = None
) -> SurfaceTally:
    """Measure the distances between the boundaries of two masks.

    Parameters
    ----------
    prediction, truth
        bool (H, W) of the same shape: a whole image or, with `halo_px`, a tile and what is around it, False beyond the
        image.
    halo_px
        Pixels on each side that belong to the neighbours of a tile, at least 1. Only the boundary pixels of the tile
        itself are counted; distances greater than `halo_px - 1` are infinite.

    Raises
    ------
    ValueError
        The arrays are not bool (H, W) of the same shape, or the halo is larger than they are.
    """
    for mask in (prediction, truth):
        if mask.dtype != np.bool_ or mask.ndim != 2:
            raise ValueError(f"a mask must be bool (H, W), got {mask.dtype} {mask.shape}")
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    if halo_px is None:
        return _tally(boundary(prediction), boundary(truth), margin_px=0, limit_px=np.inf)
    if not 1 <= halo_px < min(truth.shape) / 2:
        raise ValueError(f"a halo of {halo_px} pixels on each side does not fit into {truth.shape}")
    return _tally(
        _inner_boundary(prediction), _inner_boundary(truth), margin_px=halo_px - 1, limit_px=float(halo_px - 1)
    )


def tally_classes(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], num_classes: int, *, halo_px: int | None = None
) -> tuple[SurfaceTally, ...]:
    """Measure each foreground class's mask.

    Parameters
    ----------
    prediction
        Class indices 0 .. C-1, uint8 (H, W).
    truth
        The same or `IGNORE`. Ignored pixels are taken out of both masks, as in MONAI: what else there is of a class has
        a boundary there.
    num_classes
        C.
    halo_px
        As of `tally_surfaces`; beyond the image both arrays are 0.

    Returns
    -------
    The tallies of the classes 1 .. C-1.
    """
    labelled = truth != IGNORE
    return tuple(
        tally_surfaces((prediction == index) & labelled, truth == index, halo_px=halo_px)
        for index in range(1, num_classes)
    )


def hausdorff_px(tally: SurfaceTally) -> float:
    """Return the greatest distance (HD) in pixels; infinite where one mask is empty, NaN where both are."""
    return _greater(_percentile(one, 100) for one in (tally.from_prediction, tally.from_truth))


def hausdorff_95_px(tally: SurfaceTally) -> float:
    """Return the greater of the two directions' 95th percentiles (HD95) in pixels; infinite and NaN as of HD."""
    return _greater(_percentile(one, PERCENTILE) for one in (tally.from_prediction, tally.from_truth))


def assd_px(tally: SurfaceTally) -> float:
    """Return the mean distance of both masks' boundary pixels (ASSD) in pixels; infinite and NaN as of HD."""
    both = tally.from_prediction + tally.from_truth
    return _share(float(both.values_px @ both.counts), both.counts.sum())


def nsd(tally: SurfaceTally, tolerance_px: float) -> float:
    """Return the share of both masks' boundary pixels at most the tolerance away (NSD), 0..1 or NaN.

    Raises
    ------
    ValueError
        The tolerance is negative or not finite.
    """
    if not 0 <= tolerance_px < np.inf:
        raise ValueError(f"the tolerance must be 0 or more and finite, got {tolerance_px}")
    both = tally.from_prediction + tally.from_truth
    return _share(both.counts[both.values_px <= tolerance_px].sum(), both.counts.sum())


def surface_metrics(tally: SurfaceTally, *, tolerance_px: float, mpp: float | None = None) -> dict[str, float]:
    """Return all of them, by the names that files give them: `hd95_um`, `hd_um`, `assd_um`, `nsd`.

    Parameters
    ----------
    tolerance_px
        Of NSD, in pixels.
    mpp
        Micrometres per pixel. Without it distances are in pixels: `hd95_px`, `hd_px`, `assd_px`.
    """
    unit, scale = ("px", 1.0) if mpp is None else ("um", mpp)
    return {
        f"hd95_{unit}": hausdorff_95_px(tally) * scale,
        f"hd_{unit}": hausdorff_px(tally) * scale,
        f"assd_{unit}": assd_px(tally) * scale,
        "nsd": nsd(tally, tolerance_px),
    }


def bounded(distance: float, shape: Sequence[int], mpp: float | None = None) -> float:
    """Return a distance, or in place of an infinite one the diagonal of an image of the shape (H, W); NaN stays.

    In pixels, in micrometres with `mpp`.
    """
    return hypot(*shape) * (1.0 if mpp is None else mpp) if np.isinf(distance) else distance


DEFINITIONS: Final = MappingProxyType(
    {
        "boundary": "pixels of the mask with one of four neighbours outside the mask or the image (as MONAI and "
        "Metrics Reloaded, not contour length as DeepMind's surface-distance); pixels that are not labelled are "
        "outside both masks",
        "distance": "from the centre of a boundary pixel to that of the other mask's nearest; _um: micrometres, _px: "
        "pixels, where micrometres per pixel are unknown",
        "hd": "greatest distance of both directions (Hausdorff distance)",
        "hd95": "95th percentile (linear interpolation) of each direction's distances, then the greater of the two (as "
        "MONAI and Metrics Reloaded; medpy: percentile of both directions together)",
        "assd": "mean distance over the boundary pixels of both masks together (as MONAI and Metrics Reloaded, where "
        "the mean of the two directions' means is MASD)",
        "nsd": "share of the boundary pixels of both masks with a distance <= tolerance (surface Dice)",
        "distance_of_empty": "truth and prediction empty: undefined; one of them empty: nsd is 0 and the image's "
        "diagonal stands for all distances, the worst that is possible (Metrics Reloaded)",
    }
)
"""What files say about each metric."""


def _inner_boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the boundary of all but the outermost pixels: bool (H + 2, W + 2) -> (H, W)."""
    enclosed = mask[:-2, 1:-1] & mask[2:, 1:-1]
    enclosed &= mask[1:-1, :-2]
    enclosed &= mask[1:-1, 2:]
    return mask[1:-1, 1:-1] & ~enclosed


def _tally(predicted: NDArray[np.bool_], true: NDArray[np.bool_], *, margin_px: int, limit_px: float) -> SurfaceTally:
    """Measure between two boundaries (H, W), of which `margin_px` on each side are only there to be found."""
    # Boundaries that agree are most of them in a good prediction, and need no search.
    common = predicted & true
    return SurfaceTally(
        _measured(predicted, true, common, margin_px, limit_px), _measured(true, predicted, common, margin_px, limit_px)
    )


def _measured(
    boundary: NDArray[np.bool_],
    other: NDArray[np.bool_],
    common: NDArray[np.bool_],
    margin_px: int,
    limit_px: float,
) -> Distances:
    tile = tuple(slice(margin_px, side - margin_px) for side in boundary.shape)
    room = _FAR_PX[-1]
    # With room around for the longest step, so that a neighbour's place is a number away.
    padded = np.zeros([side + 2 * room for side in other.shape], np.bool_)
    padded[room:-room, room:-room] = other
    neighbours, width = padded.ravel(), padded.shape[1]
    asking = boundary[tile] ^ common[tile]
    rows, columns = np.divmod(np.flatnonzero(asking), max(1, asking.shape[1]))
    places = (rows + room + margin_px) * width + columns + room + margin_px
    squares, counts = [0], [int(np.count_nonzero(common[tile]))]
    for square, steps in _STEPS:
        if not len(places) or square > limit_px**2:
            break
        found = np.zeros(len(places), np.bool_)
        for down, right in steps:
            found |= neighbours.take(places + (down * width + right))
        squares.append(square)
        counts.append(int(np.count_nonzero(found)))
        places = places[~found]
    far = [np.sqrt(squares)]
    reached_px, most_looks = _NEAR_PX, _LOOKS_PER_PIXEL * np.count_nonzero(other)
    for (lengths, rows_down, columns_right), outer_px in zip(_RINGS, _FAR_PX, strict=True):
        if not 0 < len(places) * len(lengths) <= most_looks or limit_px <= reached_px:
            break
        nearest = _first_step(neighbours, places, rows_down * width + columns_right)
        far.append(np.sqrt(lengths[nearest[nearest >= 0]]))
        places, reached_px = places[nearest < 0], outer_px
    rest = np.full(len(places), np.inf)
    if len(places) and limit_px > reached_px and neighbours.any():
        # Squares of whole numbers are exact in a tree.
        points, start = (np.stack(np.divmod(at, width), axis=1) for at in (np.flatnonzero(neighbours), places))
        tree = KDTree(points, leafsize=_LEAF_SIZE, balanced_tree=False, compact_nodes=False)
        rest = tree.query(start, distance_upper_bound=limit_px + 0.5)[0]
    values = np.concatenate([*far, rest])
    values[values > limit_px] = np.inf
    return _distances(values, np.append(np.array(counts, np.int64), np.ones(len(values) - len(counts), np.int64)))


def _first_step(neighbours: NDArray[np.bool_], places: NDArray[np.intp], steps: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the index of the first of the steps that meets a boundary from each place, (N,); -1 where none does."""
    first = np.full(len(places), -1)
    at_once = max(1, _LOOKS_AT_ONCE // len(steps))
    for start in range(0, len(places), at_once):
        seen = neighbours.take(places[start : start + at_once, np.newaxis] + steps)
        nearest = seen.argmax(axis=1)
        first[start : start + at_once] = np.where(seen[np.arange(len(nearest)), nearest], nearest, -1)
    return first


def _distances(values_px: NDArray[np.float64], counts: NDArray[np.int64]) -> Distances:
    """Join equal distances, and leave out those that no pixel has."""
    different, which = np.unique(values_px, return_inverse=True)
    sums = np.bincount(which, weights=counts, minlength=len(different)).astype(np.int64)
    return Distances(different[sums > 0], sums[sums > 0])


def _percentile(distances: Distances, percent: float) -> float:
    """Return a percentile with linear interpolation between order statistics (as numpy's default); NaN of none."""
    ends = np.cumsum(distances.counts)
    if not len(ends):
        return np.nan
    place = (int(ends[-1]) - 1) * percent / 100
    low, high = (
        float(distances.values_px[np.searchsorted(ends, index, side="right")])
        for index in (int(place), min(int(place) + 1, int(ends[-1]) - 1))
    )
    # Between equal ones there is nothing to interpolate, and infinite ones have no difference.
    return low if place == int(place) or low == high else low + (high - low) * (place - int(place))


def _greater(values: Iterator[float]) -> float:
    """Return the greater of the two directions' values; a direction without boundary pixels has none."""
    defined = [value for value in values if not np.isnan(value)]
    return max(defined, default=np.nan)


def _share(part: float | np.integer, whole: np.integer) -> float:
    return float(ratio(np.array(float(part)), np.array(float(whole))))
