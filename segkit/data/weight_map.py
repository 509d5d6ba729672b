"""Weights that make a network learn the narrow gaps between touching cells (Ronneberger et al. 2015, equation 2).

    w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2))

d1 and d2 are the distances from a background pixel to the nearest and to the second nearest cell: Euclidean, in pixels,
between pixel centres. The second term is there for background pixels only; within cells and where there are fewer than
two it is 0, and pixels that are not labelled weigh nothing. Class weights w_c balance the classes.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.data.sampling import objects_of
from segkit.masks import IGNORE


def unet_weights(
    mask: NDArray[np.uint8],
    *,
    w0: float,
    sigma_px: float,
    class_weights: Sequence[float],
    labels: NDArray[np.integer] | None = None,
) -> tuple[NDArray[np.uint8], float]:
    """Return the weights of all pixels as whole numbers, and what a number stands for.

    Parameters
    ----------
    mask
        Class indices, (H, W) uint8, `IGNORE` where not labelled.
    w0, sigma_px
        Height of the second term, and its width in pixels; the paper has 10 and 5.
    class_weights
        w_c of each class.
    labels
        Which cell a pixel belongs to, (H, W), 0 and below: none. None: the connected regions (4 neighbours) of each
        foreground class.

    Returns
    -------
    plane, scale
        (H, W) uint8; the weight is `plane * scale`, right to half of `scale`, which depends on w0 and the class
        weights only (see `weight_scale`).
    """
    scale = weight_scale(w0, class_weights)
    by_class = np.zeros(256, np.float32)
    by_class[: len(class_weights)] = class_weights
    by_class[IGNORE] = 0
    weights = by_class[mask]
    # Further away the term is less than half of what can be told apart.
    reach_px = sigma_px * math.sqrt(2 * math.log(max(2 * w0 / scale, 1))) if w0 > 0 and sigma_px > 0 else 0.0
    if reach_px >= 2:  # a background pixel is at least 1 from both
        background = mask == 0
        total = _distance_to_two(objects_of(mask) if labels is None else labels, math.ceil(reach_px))
        near = background & (total <= reach_px)
        weights[near] += np.float32(w0) * np.exp(-(total[near] ** 2) / np.float32(2 * sigma_px**2))
    plane: NDArray[np.uint8] = np.rint(weights / np.float32(scale)).astype(np.uint8)
    return plane, scale


def weight_scale(w0: float, class_weights: Sequence[float]) -> float:
    """Return the weight that 1 stands for in the plane of `unet_weights`: the largest weight is 255."""
    return (w0 + max(class_weights)) / IGNORE


def _distance_to_two(labels: NDArray[np.integer], reach_px: int) -> NDArray[np.float32]:
    """Return d1 + d2, (H, W) float32, wherever that is at most `reach_px`; elsewhere it is larger or infinite.

    Each cell's distances are exact within a window around it that holds everything that is near enough.
    """
    height, width = labels.shape
    nearest = np.full(labels.shape, np.inf, np.float32)
    second = nearest.copy()
    ids = np.maximum(labels, 0)
    if ids.max(initial=0) > ids.size:
        ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape) + (0 if (ids == 0).any() else 1)
    ids = ids.astype(np.int32)
    for number, place in enumerate(ndimage.find_objects(ids), start=1):
        if place is None:
            continue
        window = tuple(
            slice(max(axis.start - reach_px, 0), min(axis.stop + reach_px, size))
            for axis, size in zip(place, (height, width), strict=True)
        )
        others = (ids[window] != number).view(np.uint8)
        distance = cv2.distanceTransform(others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        first = nearest[window]
        np.minimum(second[window], np.maximum(first, distance), out=second[window])
        np.minimum(first, distance, out=first)
    total: NDArray[np.float32] = nearest + second
    return total
