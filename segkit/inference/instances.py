"""From foreground and distance maps to instances: seeds that grow, by a rule that looks only a few pixels far.

A network says of every pixel whether it is foreground, and how far it is from its object's border, as a share of the
object's own greatest distance. Objects that touch have a valley of distance between them, so what is left above a
threshold are their cores, the *seeds*. The rule, for maps of any size:

0. Both maps are smoothed by a Gaussian of `smooth_px`, cut at 3 standard deviations: a rugged crest would be several.
1. A pixel is foreground where `foreground` reaches `foreground_threshold`, and was not 0 before smoothing: that is what
   cells say that were not computed. Seeds are the 4-connected regions of foreground where `distance` reaches
   `seed_threshold`.
2. Seeds grow by `grow_px` rounds. In each round every free foreground pixel that has a labelled 4-neighbour takes its
   label; among several, that of the neighbour above, else left, else right, else below. The rounds are dealt to
   `STAGES` equal stages (the last has what is over), and in stage s = 1 .. STAGES only pixels whose distance reaches
   seed_threshold * (1 - s / STAGES) are free: growth keeps to the crests first, so that objects of different size meet
   in the valley between them.
3. Objects of fewer than `min_area_px` pixels are dropped, and the others numbered in reading order.

A grown object is 4-connected, and foreground that no seed reaches belongs to none. This is a watershed by immersion
(Vincent and Soille 1991) with a limited number of levels and steps. The limit is what makes it local: a pixel's object
depends on the seeds within `grow_px` and on the maps between, and 3 `smooth_px` around these, so that a slide can be
worked up in blocks with a margin and has the very objects of the whole map; a flooding by priority queue has no such
bound. The order of seeds and the position in the map play no part.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.models.model_file import InstanceSpec

STAGES: Final = 4
"""In so many steps the distance that a pixel needs falls from the seeds' to none."""


def label_instances(
    foreground: NDArray[np.uint8], distance: NDArray[np.uint8], spec: InstanceSpec
) -> NDArray[np.int32]:
    """Return the instances of whole maps.

    Parameters
    ----------
    foreground
        Probability of not being background, uint8 (H, W), 255 = 1.
    distance
        Distance to the border of the pixel's object, divided by the greatest in the object, uint8 (H, W), 255 = 1.
    spec
        Thresholds (shares of 255) and limits.

    Returns
    -------
    int32 (H, W): 1 .. N in reading order of the objects' first pixels, 0 = background.
    """
    labels = grow_seeds(foreground, distance, spec)
    return number_in_reading_order(drop_small(labels, spec.min_area_px))


def seed_mask(foreground: NDArray[np.uint8], distance: NDArray[np.uint8], spec: InstanceSpec) -> NDArray[np.bool_]:
    """Return where seeds are, bool (H, W); maps as for `label_instances`, smoothed already."""
    seeds: NDArray[np.bool_] = (foreground >= _cut(spec.foreground_threshold)) & (distance >= _cut(spec.seed_threshold))
    return seeds


def grow_seeds(foreground: NDArray[np.uint8], distance: NDArray[np.uint8], spec: InstanceSpec) -> NDArray[np.int32]:
    """Return the grown seeds before any is dropped, with labels in no particular order: rules 1 and 2.

    Which pixels share a label depends on the maps alone. In a window of a larger map, pixels further than `reach_px`
    from the window's border have the objects that they have in the whole, but that a seed which the border cuts in two
    has two labels.
    """
    height, width = foreground.shape
    is_foreground = foreground > 0
    foreground, distance = smoothed(foreground, spec.smooth_px), smoothed(distance, spec.smooth_px)
    is_foreground &= foreground >= _cut(spec.foreground_threshold)
    seeds = seed_mask(foreground, distance, spec) & is_foreground
    found = cv2.connectedComponents(seeds.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)[1]
    # A frame of background, so that no neighbour is looked for outside.
    labels = np.zeros((height + 2, width + 2), np.int32)
    labels[1:-1, 1:-1] = found
    free = np.zeros((height + 2, width + 2), np.bool_)
    inside = free[1:-1, 1:-1]
    for stage, rounds in enumerate(_rounds_of_stages(spec.grow_px), start=1):
        if rounds:
            np.greater_equal(distance, _cut(spec.seed_threshold * (1 - stage / STAGES)), out=inside)
            inside &= is_foreground
            inside &= labels[1:-1, 1:-1] == 0
            _grow(labels, free, rounds)
    return np.ascontiguousarray(labels[1:-1, 1:-1])


def reach_px(spec: InstanceSpec) -> int:
    """Return how far from a pixel the maps decide which object it belongs to, but for where seeds are connected."""
    return spec.grow_px + _radius(spec.smooth_px)


def smoothed(values: NDArray[np.uint8], sigma_px: float) -> NDArray[np.uint8]:
    """Return a map (H, W) smoothed by a Gaussian, mirrored at the border; the same bits wherever a pixel lies.

    OpenCV computes 8-bit maps in whole numbers.
    """
    if not sigma_px:
        return values
    side = 2 * _radius(sigma_px) + 1
    blurred: NDArray[np.uint8] = cv2.GaussianBlur(values, (side, side), sigma_px, borderType=cv2.BORDER_REFLECT_101)
    return blurred


def _radius(sigma_px: float) -> int:
    return int(np.ceil(3 * sigma_px))


def drop_small(labels: NDArray[np.int32], min_area_px: int) -> NDArray[np.int32]:
    """Return labels (H, W) without the objects of fewer than `min_area_px` pixels: 0 there."""
    areas = np.bincount(labels.ravel())
    if len(areas) < 2 or areas[1:].min() >= min_area_px:
        return labels
    kept = np.arange(len(areas), dtype=np.int32)
    kept[areas < min_area_px] = 0
    return kept[labels]


def number_in_reading_order(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return labels (H, W) renumbered 1 .. N by their first pixel, row by row; 0 stays."""
    flat = labels.ravel()
    pixels = np.flatnonzero(flat)
    first = np.full(int(flat.max(initial=0)) + 1, flat.size, np.int64)
    # Backwards, as of several values for one place the last stays.
    first[flat[pixels[::-1]]] = pixels[::-1]
    order = np.argsort(first, kind="stable")
    order = order[first[order] < flat.size]
    new = np.zeros(len(first), np.int32)
    new[order] = np.arange(1, len(order) + 1)
    return new[labels]


def _cut(threshold: float) -> int:
    """Return the lowest uint8 value that reaches a share of 255 (0.2 * 255 is 51.000000000000006 or so)."""
    return int(np.ceil(threshold * 255 - 1e-6))


def _rounds_of_stages(grow_px: int) -> list[int]:
    each = grow_px // STAGES
    return [each] * (STAGES - 1) + [grow_px - each * (STAGES - 1)]


def _grow(labels: NDArray[np.int32], free: NDArray[np.bool_], rounds: int) -> None:
    """Grow framed labels (H + 2, W + 2) into free pixels, in place; what is taken is free no more."""
    width = labels.shape[1]
    flat_labels, flat_free = labels.reshape(-1), free.reshape(-1)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    beside_free = cv2.dilate(free.view(np.uint8), cross).view(np.bool_)
    front = np.flatnonzero((beside_free & (labels != 0)).reshape(-1))
    # Where the new pixel lies, seen from the labelled one: the label from above is written last, and so stays.
    steps = (-width, -1, 1, width)
    taken_by = np.empty(labels.size, np.int32)
    for _ in range(rounds):
        reached, origins = [], []
        for step in steps:
            beside = front + step
            is_free = flat_free[beside]
            reached.append(beside[is_free])
            origins.append(front[is_free])
        new, origin = np.concatenate(reached), np.concatenate(origins)
        if not len(new):
            return
        # A pixel reached from several sides is in `new` several times: the last one counts.
        turn = np.arange(len(new), dtype=np.int32)
        taken_by[new] = turn
        last = taken_by[new] == turn
        front = new[last]
        flat_labels[front] = flat_labels[origin[last]]
        flat_free[front] = False
