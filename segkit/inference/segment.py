"""From class maps to objects: connected components of each class with their outlines and measurements, row by row."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours


@dataclass(frozen=True, slots=True, kw_only=True)
class MapObject:
    """A connected component (4-neighbourhood) of one class; lengths in pixels of the map, pixel centres at + 0.5.

    Attributes
    ----------
    class_index
        Its class.
    rings
        Outline first, then holes, each (N, 2) float64 x, y, closed (first point = last). They run half-way between
        pixel centres inside and outside, so that filling them by the pixel-centre rule gives the component back.
    area_px
        Number of pixels.
    x, y
        Centroid.
    perimeter_px
        Length of all rings.
    probability
        Mean foreground probability over its pixels, 0..1.
    """

    class_index: int
    rings: list[NDArray[np.float64]]
    area_px: int
    x: float
    y: float
    perimeter_px: float
    probability: float


class ObjectTracer:
    """Finds the objects of a map that arrives in rows, top to bottom, and passes each on as soon as it ends.

    An object is the same wherever the rows were cut (the order of objects is not). Memory is bounded by the rows at
    hand and those that the objects still open reach back to.

    Parameters
    ----------
    num_classes
        Classes, background (0, which has no objects) included.
    on_object
        Called with each finished object.
    """

    def __init__(self, num_classes: int, on_object: Callable[[MapObject], None]) -> None:
        self._num_classes = num_classes
        self._on_object = on_object
        self._top = 0
        self._mask: NDArray[np.uint8] | None = None
        self._foreground: NDArray[np.uint8] | None = None

    def add_rows(self, mask: NDArray[np.uint8], foreground: NDArray[np.uint8]) -> None:
        """Take the next rows, class ids and foreground probability (0..255), both uint8 (n, width)."""
        if self._mask is not None and self._foreground is not None:
            mask, foreground = np.concatenate([self._mask, mask]), np.concatenate([self._foreground, foreground])
        self._trace(mask, foreground, last=False)

    def finish(self) -> None:
        """Pass on the objects that touch the bottom border."""
        if self._mask is not None and self._foreground is not None:
            self._trace(self._mask, self._foreground, last=True)

    def _trace(self, mask: NDArray[np.uint8], foreground: NDArray[np.uint8], *, last: bool) -> None:
        still_open = np.zeros_like(mask)
        for class_index in range(1, self._num_classes):
            labels, count = ndimage.label(mask == class_index)
            open_labels = np.zeros(count + 1, bool)
            if not last:
                open_labels[labels[-1]] = True
                open_labels[0] = False
                still_open[open_labels[labels]] = class_index
            for number, box in enumerate(ndimage.find_objects(labels), start=1):
                if not open_labels[number]:
                    self._on_object(_measure(class_index, labels[box] == number, foreground[box], box, self._top))
        rows = np.flatnonzero(still_open.any(axis=1))
        first = int(rows[0]) if rows.size else len(mask)
        self._top += first
        self._mask = still_open[first:] if rows.size else None
        self._foreground = foreground[first:] if rows.size else None


def _measure(
    class_index: int, inside: NDArray[np.bool_], foreground: NDArray[np.uint8], box: tuple[slice, slice], top: int
) -> MapObject:
    y0, x0 = box[0].start + top, box[1].start
    ys, xs = np.nonzero(inside)
    rings = trace_rings(inside)
    for ring in rings:
        ring += (x0, y0)  # noqa: PLW2901 (in place)
    return MapObject(
        class_index=class_index,
        rings=rings,
        area_px=len(ys),
        x=float(xs.mean()) + x0 + 0.5,
        y=float(ys.mean()) + y0 + 0.5,
        perimeter_px=float(sum(np.hypot(*np.diff(ring, axis=0).T).sum() for ring in rings)),
        probability=float(foreground[inside].mean()) / 255,
    )


def trace_rings(inside: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the outline of a 4-connected component and then its holes, (N, 2) float64 x, y, closed.

    Points lie half-way between the centres of pixels inside and outside (marching squares at 0.5); those on a
    straight line between their neighbours are left out.
    """
    contours = find_contours(np.pad(inside, 1).astype(np.float64), 0.5, fully_connected="low")
    # Undo the padding, put pixel centres at + 0.5, and turn (row, column) into (x, y).
    rings = [_without_collinear(contour[:, ::-1] - 0.5) for contour in contours]
    # The outline encloses the holes, so it is the ring that begins furthest left.
    return sorted(rings, key=lambda ring: float(ring[:, 0].min()))


def _without_collinear(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    points = ring[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    corners = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return np.concatenate([corners, corners[:1]])
