"""Write encoded tiles as an OME-Zarr: a folder with one array for each level and one file for each tile.

NGFF 0.4 on zarr version 2: the chunks are the same zlib streams as the tiles of a TIFF, named `level/row/column`. A
tile of zeros has no file: the fill value stands for it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.files import atomic_folder
from segkit.slides.pyramid_levels import DEFLATE_LEVEL, Page


def write_zarr(
    path: Path,
    pages: Sequence[Page],
    attributes: dict[str, Any],
    dtype: np.dtype[Any],
    tile_px: int,
    zero_tile: bytes,
) -> None:
    """Write levels as a folder that appears whole at `path`.

    Parameters
    ----------
    path
        The folder; an earlier one is replaced.
    pages
        The levels, level 0 first.
    attributes
        Of the group: `multiscales`.
    dtype
        Of the pixels.
    tile_px
        Side of a tile.
    zero_tile
        The encoded tile of zeros.

    Raises
    ------
    ResourceError
        The disk is full.
    UsageError
        The folder cannot be written.
    """
    with atomic_folder(path) as add:
        add(".zgroup", _json({"zarr_format": 2}))
        add(".zattrs", _json(attributes))
        for level, page in enumerate(pages):
            add(f"{level}/.zarray", _json(_array(page, dtype, tile_px)))
            num_columns = -(-page.width // tile_px)
            for index, tile in enumerate(page.tiles):
                if tile != zero_tile:
                    add(f"{level}/{index // num_columns}/{index % num_columns}", tile)


def _array(page: Page, dtype: np.dtype[Any], tile_px: int) -> dict[str, Any]:
    return {
        "zarr_format": 2,
        "shape": [page.height, page.width],
        "chunks": [tile_px, tile_px],
        "dtype": dtype.str,
        "compressor": {"id": "zlib", "level": DEFLATE_LEVEL},
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2, allow_nan=False).encode()
