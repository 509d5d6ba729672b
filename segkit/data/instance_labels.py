"""Read which object each pixel of an image belongs to."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.data.instance_targets import compact_ids
from segkit.data.layout import Dataset, Item, read_mask
from segkit.data.rasters import read_values
from segkit.data.sampling import objects_of
from segkit.masks import IGNORE
from segkit.slides.geojson import rasterise, read_geojson

UNLABELLED: Final = -1
"""The id of pixels that are not labelled."""


def read_instances(item: Item, dataset: Dataset) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Read the annotation of an image as classes and as objects.

    Returns
    -------
    mask, labels
        (H, W) class indices, as `read_mask` gives them, and ids 1 .. N, 0 = background, `UNLABELLED`. Objects are the
        ids of a labels file, the polygons of a GeoJSON file, the connected regions (4 neighbours) of each class of a
        mask.

    Raises
    ------
    InputError
        As `read_mask`.
    """
    mask = read_mask(item, dataset)
    assert item.annotation is not None  # or `read_mask` had refused it
    if dataset.annotation == "labels":
        ids = compact_ids(np.where(mask == 1, read_values(item.annotation), 0))
    elif dataset.annotation == "geojson":
        polygons = [feature for feature in read_geojson(item.annotation) if feature.polygons]
        height, width = mask.shape
        ids = compact_ids(rasterise(polygons, height, width, lambda _, index: index + 1))
    else:
        ids = objects_of(mask)
    return mask, np.where(mask == IGNORE, np.int32(UNLABELLED), np.where(mask == 0, np.int32(0), ids))
