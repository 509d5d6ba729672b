"""What a network for instances learns: the class of every pixel, and how far it is from its object's border.

Objects that touch are one region in the class map. The distance to the border, divided by the greatest one in the
object, tells them apart, whatever their size: it falls to nearly 0 where two of them meet (Naylor et al. 2019 regress
the distance itself, Koerber 2022, MIA, and others the normalised one).
"""

from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.masks import IGNORE

CLASS_PLANE: Final = 0
DISTANCE_PLANE: Final = 1
NUM_PLANES: Final = 2

FULL: Final = 255
"""The value of the distance plane in the middle of an object."""


def target_planes(labels: NDArray[np.integer], *, ignore: int | None = None) -> NDArray[np.uint8]:
    """Return what is learned from the instance ids of an image.

    Parameters
    ----------
    labels
        Instance ids, any integers (H, W); 0 is background. An id stands for one object, also in several pieces.
    ignore
        The id of pixels that are not labelled.

    Returns
    -------
    uint8 (H, W, 2). Plane 0: 1 in objects, 0 outside, `IGNORE` where not labelled. Plane 1: Euclidean distance to
    the nearest pixel that is not of this object, divided by the greatest in the object, times 255, rounded; at least 1
    in objects, 0 outside. What is beyond the image's border counts as more of the object, so
    that an object cut by the border does not seem to end there; one that fills the image is 255 throughout.
    """
    unlabelled = np.zeros(labels.shape, np.bool_) if ignore is None else labels == ignore
    ids = compact_ids(np.where(unlabelled, 0, labels))
    planes = np.zeros((*labels.shape, NUM_PLANES), np.uint8)
    planes[..., CLASS_PLANE] = ids > 0
    planes[unlabelled, CLASS_PLANE] = IGNORE
    plane = planes[..., DISTANCE_PLANE]
    for around, inside, distance in _objects(ids):
        shares = distance * (FULL / distance.max())
        plane[around][inside] = np.maximum(1, np.rint(shares[inside]))
    return planes


def compact_ids(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return ids (H, W) renumbered 1 .. N without gaps, in the order of their values; 0 stays 0.

    Ids of any integer type and size fit: the file's may be hashes or positions.
    """
    largest = int(labels.max(initial=0))
    if int(labels.min(initial=0)) >= 0 and largest <= labels.size:
        known = np.bincount(labels.ravel(), minlength=largest + 1) > 0
        known[0] = False
        new = np.where(known, np.cumsum(known), 0)
        places: NDArray[np.integer] = labels
    else:
        values, inverse = np.unique(labels, return_inverse=True)
        new = np.where(values == 0, 0, np.cumsum(values != 0))
        places = inverse.reshape(labels.shape)
    compact: NDArray[np.int32] = new.astype(np.int32)[places]
    return compact


def object_radii_px(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the greatest distance to the border in each object of `labels` (H, W), in pixels, float64 (N,).

    As in `target_planes`; an object that fills the image has no border and is left out.
    """
    return np.array([float(one.max()) for _, inside, one in _objects(compact_ids(labels)) if not inside.all()])


def _objects(ids: NDArray[np.int32]) -> Iterator[tuple[tuple[slice, ...], NDArray[np.bool_], NDArray[np.float32]]]:
    """Yield of each object a box, where it is in it, and the distance to the nearest pixel outside, all (h, w)."""
    for index, box in enumerate(ndimage.find_objects(ids), start=1):
        # One pixel more on every side, where there is one: what the object ends at.
        around = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
        inside = ids[around] == index
        if inside.all():
            yield around, inside, np.ones(inside.shape, np.float32)
        else:
            yield around, inside, cv2.distanceTransform(inside.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
