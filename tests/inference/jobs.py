"""Slides on their way through the pipeline, with everything in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import SegkitError
from segkit.geometry import Box, TileGrid
from segkit.inference.layout import MapLayout
from segkit.inference.pipeline import Layers, SlideJob, TilePredictor, run_jobs
from segkit.inference.sources import ArrayImage, PixelSource

Blocks = list[dict[str, NDArray[Any]] | None]


@dataclass
class Kept:
    """What became of a slide: its parts in the order in which they were written, whether it was finished, errors."""

    parts: dict[int, Blocks] = field(default_factory=dict)
    finished: bool = False
    errors: list[SegkitError] = field(default_factory=list)
    tiles: list[int] = field(default_factory=list)

    def finish(self, check: Callable[[], None]) -> None:
        assert not self.finished
        check()
        self.finished = True


def layout_of(source: PixelSource, grid: TileGrid, *, tile_px: int, part_px: int, **changes: Any) -> MapLayout:
    """Cut the map of a whole image; `part_px` is in map pixels, and so is `block_px`, which is as large by itself."""
    values: dict[str, Any] = {
        "region": Box(0, 0, source.height, source.width), "stride": grid.stride, "part_px": part_px, "margin": 0,
        "tile_px": tile_px, "alignment": grid.alignment, "block_px": part_px,
    }  # fmt: skip
    return MapLayout(**values | changes)


def keep_layers(layers: Layers, place: Box, block: Box) -> dict[str, NDArray[Any]]:
    """Keep the layers of a block without its margin, as they are."""
    where = block.shift(-place.y, -place.x).slices
    return {str(number): layer[where].copy() for number, layer in enumerate(layers)}


def make_job(source: PixelSource, layout: MapLayout, kept: Kept, **changes: Any) -> SlideJob:
    """Return a job that does all parts and notes in `kept` what becomes of them."""
    values: dict[str, Any] = {
        "parts": range(layout.num_parts), "work_up": keep_layers, "write_part": kept.parts.__setitem__,
        "finish": kept.finish, "fail": kept.errors.append, "on_tiles": kept.tiles.append,
    }  # fmt: skip
    return SlideJob(source=source, layout=layout, **values | changes)


def joined(layout: MapLayout, kept: Kept) -> list[NDArray[Any]]:
    """Put the layers of all blocks together, 0 where nothing was kept; every pixel is in exactly one block."""
    whole: list[NDArray[Any]] = []
    times = np.zeros((layout.height, layout.width), np.int64)
    for index, blocks in kept.parts.items():
        for block, arrays in zip(layout.blocks(index), blocks, strict=True):
            if arrays is None:
                times[block.slices] += 1
                continue
            layers = list(arrays.values())
            whole = whole or [np.zeros((*times.shape, *layer.shape[2:]), layer.dtype) for layer in layers]
            for all_of_it, layer in zip(whole, layers, strict=True):
                all_of_it[block.slices] = layer
            times[block.slices] += 1
    assert (times == 1).all()
    return whole


def layers_of(
    image: NDArray[np.uint8], predictor: TilePredictor, *, tile_px: int, part_px: int, batch: int = 1, **changes: Any
) -> list[NDArray[Any]]:
    """Return the layers of an image by way of the pipeline, in parts of `part_px` map pixels."""
    source, kept = ArrayImage(image), Kept()
    layout = layout_of(source, predictor.grid, tile_px=tile_px, part_px=part_px, **changes)
    run_jobs(iter([make_job(source, layout, kept, batch=batch)]), predictor)
    assert kept.finished
    assert kept.errors == []
    assert kept.tiles[-1] == layout.num_tiles
    return joined(layout, kept)
