"""Heat maps of points, the target of a U-Net that finds them: a Gaussian around every point.

Of several points the nearest counts (the maximum of Gaussians of one width, as in Zhou et al. 2019, arXiv 1904.07850),
so that two that touch keep a summit each. Positions are not rounded to pixels: where the summit lies between pixels,
those around it show on which side.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.masks import IGNORE
from segkit.points import Points

REACH: Final = 4.0
"""In sigmas: 255 exp(-4^2 / 2) is less than 1/2, so that nothing is lost by the cut."""
FULL_HEAT: Final = 255
"""What the summit of a Gaussian is in a plane."""


class HeatTarget:
    """The target planes of an image with points, made where they are looked at (see `data.class_index.RegionTarget`).

    A patch is made in a millisecond or so, and planes of whole images would take more memory than the images.

    Parameters
    ----------
    points
        Positions y, x in pixels (0.5 is the centre of the first one), anywhere; those of class 0, which are hard
        negatives, leave no trace.
    height, width
        Of the image in pixels.
    num_classes
        Classes, background included, less than `IGNORE`.
    sigma_px
        Standard deviation of the Gaussians in pixels, > 0.
    positive_px
        Pixels whose centre is at most this far from a point are of the nearest one's class in plane 0; >= 0.
    """

    def __init__(
        self, points: Points, height: int, width: int, num_classes: int, *, sigma_px: float, positive_px: float
    ) -> None:
        assert sigma_px > 0
        assert positive_px >= 0
        assert 2 <= num_classes < IGNORE
        self.shape = height, width, num_classes
        self._sigma_px, self._positive_px = sigma_px, positive_px
        self._reach = max(REACH * sigma_px, positive_px)
        by_class = [points.of_class(index) for index in range(1, num_classes)]
        # By rows, so that those around a box are found without a look at all.
        self._positions = [positions[np.argsort(positions[:, 0], kind="stable")] for positions in by_class]

    def cut(self, box: Box) -> NDArray[np.uint8]:
        """Return the planes of a box, uint8 (height, width, num_classes).

        Plane 0 holds class indices; plane k holds 255 exp(-d^2 / (2 sigma^2)), rounded, where d is the distance of the
        pixel's centre to the nearest point of class k. Beyond the image plane 0 is `IGNORE`: a mirrored image shows an
        object that the border cuts as a whole one around the border, where nobody has labelled a point.
        """
        height, width = self.shape[:2]
        planes = self._heat(box)
        is_outside = np.ones(planes.shape[:2], bool)
        is_outside[max(0, -box.y) : max(0, height - box.y), max(0, -box.x) : max(0, width - box.x)] = False
        planes[is_outside, 0] = IGNORE
        return planes

    def is_background(self, box: Box) -> bool:
        """Tell whether it is known without looking that all of a box inside is class 0."""
        return not any(len(self._around(positions, box, self._positive_px)) for positions in self._positions)

    def _heat(self, box: Box) -> NDArray[np.uint8]:
        planes = np.zeros((box.height, box.width, self.shape[2]), np.uint8)
        nearest = np.full(planes.shape[:2], np.nextafter(np.float32(self._positive_px**2), np.float32(np.inf)))
        for index, positions in enumerate(self._positions, start=1):
            around = self._around(positions, box, self._reach)
            if not len(around):
                continue
            squared = _squared_distances(around, box, self._reach)
            near = np.isfinite(squared)
            planes[near, index] = np.rint(FULL_HEAT * np.exp(squared[near] * np.float32(-0.5 / self._sigma_px**2)))
            closer = squared < nearest
            planes[closer, 0] = index
            nearest[closer] = squared[closer]
        return planes

    @staticmethod
    def _around(positions: NDArray[np.float64], box: Box, reach: float) -> NDArray[np.float64]:
        """Return those of the positions, by rows, whose squares of side 2 `reach` touch a box."""
        first, last = np.searchsorted(positions[:, 0], [box.y - reach, box.bottom + reach])
        rows = positions[first:last]
        around: NDArray[np.float64] = rows[(rows[:, 1] >= box.x - reach) & (rows[:, 1] <= box.right + reach)]
        return around


def heat_planes(
    points: Points,
    height: int,
    width: int,
    num_classes: int,
    *,
    sigma_px: float,
    positive_px: float,
    ignore: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Return the target planes of a whole image, uint8 (height, width, num_classes); see `HeatTarget`.

    Where `ignore`, bool (height, width), is set, nothing counts: plane 0 holds `IGNORE`.
    """
    target = HeatTarget(points, height, width, num_classes, sigma_px=sigma_px, positive_px=positive_px)
    planes = target.cut(Box(0, 0, height, width))
    if ignore is not None:
        planes[ignore, 0] = IGNORE
    return planes


def _squared_distances(positions: NDArray[np.float64], box: Box, reach: float) -> NDArray[np.float32]:
    """Return the squared distances of a box's pixel centres to the nearest position, float32 (height, width).

    It is infinite where no position lies in the square that reaches `reach` (or a pixel more) up, down, left and right.
    """
    squared = np.full((box.height, box.width), np.inf, np.float32)
    corner = np.array([box.y, box.x])
    first = (np.floor(positions - reach).astype(np.int64) - corner).clip(0)
    last = (np.ceil(positions + reach).astype(np.int64) - corner).clip(0)
    for (y, x), (top, left), (bottom, right) in zip(positions.tolist(), first.tolist(), last.tolist(), strict=True):
        window = squared[top:bottom, left:right]
        dy = np.arange(box.y + top, box.y + top + window.shape[0]) + (0.5 - y)
        dx = np.arange(box.x + left, box.x + left + window.shape[1]) + (0.5 - x)
        np.minimum(window, (dy * dy).astype(np.float32)[:, None] + (dx * dx).astype(np.float32), out=window)
    return squared
