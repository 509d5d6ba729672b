"""The points of an image, compared with its size."""

import numpy as np

from segkit.data.layout import Dataset, Item
from segkit.errors import InputError
from segkit.points import Points


def read_points(item: Item, dataset: Dataset, height: int, width: int) -> Points:
    """Return the labelled points of an image; they are in memory, so this costs nothing.

    Parameters
    ----------
    item, dataset
        The image and its data set, which learns from points.
    height, width
        The image's size in pixels.

    Returns
    -------
    points
        Positions y, x in [0, height) and [0, width), so that their floor is a pixel of the image: a point exactly on
        the right or lower edge is moved into the last pixel.

    Raises
    ------
    InputError
        The image has no annotation, or points lie outside of it.
    """
    points = dataset.points.get(item.name)
    if points is None:
        raise InputError(f"{item.annotation or item.image}: no points of {item.image.name} could be read from it.")
    outside = np.any((points.positions < 0) | (points.positions > (height, width)), axis=1)
    if outside.any():
        y, x = points.positions[outside][0]
        raise InputError(
            f"{item.annotation}: points lie outside of {item.image.name}, which has {width} x {height} pixels: "
            f"{np.count_nonzero(outside)} of {len(outside)}, the first at x = {x:.10g}, y = {y:.10g}. Positions are in "
            "pixels of the image, not in micrometres, and count from its top left corner."
        )
    return Points(np.minimum(points.positions, np.nextafter((height, width), 0.0)), points.classes)


def repeated_points(dataset: Dataset) -> list[str]:
    """Return a line if points lie at the very same place of an image: most likely they were labelled twice."""
    lines, number = [], 0
    for item in dataset.items:
        positions = dataset.points[item.name].positions if item.name in dataset.points else np.empty((0, 2))
        places, counts = np.unique(positions, axis=0, return_counts=True)
        if (counts > 1).any():
            (y, x), count = places[counts > 1][0], counts[counts > 1][0]
            lines.append(f"{item.annotation}: {item.image.name} has {count} points at x = {x:.10g}, y = {y:.10g}.")
            number += int((counts - 1).sum())
    return [f"{lines[0]} Keep one of them ({number} points too many in the whole folder)."] if lines else []
