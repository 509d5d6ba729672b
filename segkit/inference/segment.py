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
            self._pass_on(class_index, labels, ~open_labels, foreground)
        rows = np.flatnonzero(still_open.any(axis=1))
        first = int(rows[0]) if rows.size else len(mask)
        self._top += first
        self._mask = still_open[first:] if rows.size else None
        self._foreground = foreground[first:] if rows.size else None

    def _pass_on(
        self, class_index: int, labels: NDArray[np.int32], wanted: NDArray[np.bool_], foreground: NDArray[np.uint8]
    ) -> None:
        """Measure and pass on the components that are wanted, all at once: thousands of them are usual."""
        wanted[0] = False
        area = np.bincount(labels.ravel())
        ys, xs = np.nonzero(labels)
        found = labels[ys, xs]
        sums = [np.bincount(found, weights, minlength=len(area)) for weights in (ys, xs, foreground[ys, xs])]
        for number, rings in trace_rings(labels, wanted).items():
            y, x, probability = (float(values[number] / area[number]) for values in sums)
            for ring in rings:
                ring[:, 1] += self._top
            self._on_object(
                MapObject(
                    class_index=class_index,
                    rings=rings,
                    area_px=int(area[number]),
                    x=x + 0.5,
                    y=y + self._top + 0.5,
                    perimeter_px=float(sum(np.hypot(*np.diff(ring, axis=0).T).sum() for ring in rings)),
                    probability=probability / 255,
                )
            )


def trace_rings(labels: NDArray[np.int32], wanted: NDArray[np.bool_]) -> dict[int, list[NDArray[np.float64]]]:
    """Return the outline of each wanted 4-connected component and then its holes, (N, 2) float64 x, y, closed.

    Points lie half-way between the centres of pixels inside and outside (marching squares at 0.5); those on a
    straight line between their neighbours are left out.

    Parameters
    ----------
    labels
        (H, W) numbers of components, 0 outside.
    wanted
        For each number, whether its rings are wanted.
    """
    if not wanted.any():
        return {}
    contours = find_contours(np.pad(wanted[labels], 1).astype(np.float64), 0.5, fully_connected="low")
    # Undo the padding. A point lies between a pixel inside and one outside; the one inside tells the component.
    first = np.array([contour[0] for contour in contours]) - 1
    (y0, x0), (y1, x1) = np.floor(first).astype(int).T, np.ceil(first).astype(int).T
    padded = np.pad(labels, 1)
    numbers = np.maximum(padded[y0 + 1, x0 + 1], padded[y1 + 1, x1 + 1])
    rings: dict[int, list[NDArray[np.float64]]] = {number: [] for number in np.flatnonzero(wanted).tolist()}
    # Pixel centres at + 0.5; (row, column) becomes (x, y).
    for number, ring in zip(
        numbers.tolist(), _without_collinear([one[:, ::-1] - 0.5 for one in contours]), strict=True
    ):
        rings[number].append(ring)
    for parts in rings.values():
        # The outline encloses the holes, so it is the ring that begins furthest left.
        parts.sort(key=lambda ring: float(ring[:, 0].min()))
    return rings


def _without_collinear(rings: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Leave out the points of closed rings that lie on a straight line between their neighbours."""
    points = np.concatenate([ring[:-1] for ring in rings])
    ends = np.cumsum([len(ring) - 1 for ring in rings])
    starts = np.concatenate([[0], ends[:-1]])
    before, after = np.arange(len(points)) - 1, np.arange(len(points)) + 1
    before[starts], after[ends - 1] = ends - 1, starts
    arriving, leaving = points - points[before], points[after] - points
    is_corner = arriving[:, 0] * leaving[:, 1] != arriving[:, 1] * leaving[:, 0]
    corners = points[is_corner]
    splits = np.cumsum(is_corner)[ends[:-1] - 1]
    return [np.concatenate([ring, ring[:1]]) for ring in np.split(corners, splits)]
