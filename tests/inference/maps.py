"""Maps of classes to find objects in, and objects found the slow way: each by itself, in the whole map."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from segkit.inference.joining import MapObject, ObjectJoiner
from segkit.inference.pieces import trace_block

Mask = NDArray[np.uint8]


def blobs(seed: int, height: int, width: int) -> tuple[Mask, Mask]:
    """Return a map of three classes of smooth or ragged areas, and a foreground probability of its own."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(height, width)), rng.uniform(0.3, 2.5))
    mask = np.digitize(smooth, np.quantile(smooth, [0.4, 0.8])).astype(np.uint8)
    return mask, rng.integers(0, 256, (height, width), np.uint8)


def join_blocks(mask: Mask, foreground: Mask, block_px: int, num_classes: int = 3) -> list[MapObject]:
    """Return the objects of a map that is cut into blocks; every other empty block is None."""
    found: list[MapObject] = []
    height, width = mask.shape
    joiner = ObjectJoiner(height, width, num_classes, found.append, block_px=block_px)
    for top in range(0, height, block_px):
        row = []
        for left in range(0, width, block_px):
            cut = slice(top, top + block_px), slice(left, left + block_px)
            is_left_out = not mask[cut].any() and (top + left) // block_px % 2
            row.append(None if is_left_out else trace_block(mask[cut], foreground[cut], num_classes))
        joiner.add_row(row)
    joiner.finish()
    return found


def content(found: list[MapObject]) -> list[object]:
    """Return everything that objects hold, to the last bit, sorted."""
    return sorted(
        (one.class_index, [ring.tolist() for ring in one.rings], one.area_px, one.x, one.y, one.perimeter_px,
         one.probability)
        for one in found
    )  # fmt: skip


def objects_one_by_one(mask: Mask, foreground: Mask) -> list[MapObject]:
    """Return the objects of a map with the labels of scipy and the contours of scikit-image."""
    found = []
    for index in range(1, int(mask.max(initial=0)) + 1):
        labels, count = ndimage.label(mask == index)
        for number in range(1, count + 1):
            area = labels == number
            ys, xs = np.nonzero(area)
            contours = contours_of(np.pad(area, 1), is_corner_needed)
            rings = sorted((canonical(contour - 1) for contour in contours), key=lambda ring: ring[0][::-1])
            contour_lengths = [np.hypot(*np.diff(ring, axis=0).T).sum() for ring in map(np.array, rings)]
            found.append(
                MapObject(
                    class_index=index,
                    rings=[np.array(ring) for ring in rings],
                    area_px=len(ys),
                    x=xs.mean() + 0.5,
                    y=ys.mean() + 0.5,
                    perimeter_px=math.fsum(contour_lengths),
                    probability=foreground[area].mean() / 255,
                )
            )
    return found


def is_corner_needed(before: NDArray[np.float64], point: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
    arriving, leaving = point - before, after - point
    return bool(arriving[0] * leaving[1] != arriving[1] * leaving[0])


def contours_of(
    area: NDArray[np.bool_], keep: Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], bool]
) -> list[NDArray[np.float64]]:
    """Return an area's contours, (N, 2) y and x, with the points that `keep` wants and the ends of open ones."""
    contours = []
    for contour in find_contours(area.astype(float), 0.5, fully_connected="low"):
        closed = bool((contour[0] == contour[-1]).all())
        line = contour[:-1] if closed else contour
        kept = [
            point
            for number, point in enumerate(line)
            if (not closed and number in {0, len(line) - 1})
            or keep(line[number - 1], point, line[(number + 1) % len(line)])
        ]
        contours.append(np.array([*kept, kept[0]] if closed else kept))
    return contours


def canonical(contour: NDArray[np.float64]) -> list[list[float]]:
    """Return a closed contour of y and x, pixel centres at whole numbers, as a ring of x and y from its first point."""
    points = [(float(y), float(x)) for y, x in contour[:-1]]
    first = points.index(min(points))
    turned = points[first:] + points[:first]
    return [[x + 0.5, y + 0.5] for y, x in [*turned, turned[0]]]
