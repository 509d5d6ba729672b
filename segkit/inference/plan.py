"""What a prediction will do, decided before it starts: scale, region, cells, parts, tiles, memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError, ResourceError, UsageError
from segkit.files import format_bytes
from segkit.geometry import BLOCK_PX, CELL_PX, Box, TileGrid
from segkit.inference.layout import MapLayout
from segkit.inference.pipeline import PARTS_AHEAD, READ_THREADS, WORK_THREADS
from segkit.memory import MemoryLimit
from segkit.models.footprint import PROCESS_FACTOR
from segkit.slides import Slide
from segkit.slides.tiff import CACHE_BYTES
from segkit.slides.tissue import Tissue

SAME_SCALE = 1.05
"""A level is read as it is where its pixel size differs from the model's by no more than this factor."""
FURTHEST_SCALE = 4.0
"""Beyond this factor a level is not resampled: the scale of the slide or of the model is probably wrong."""
TILES_PX = {"cpu": (256, 512, 1024, 2048), "cuda": (512, 1024, 2048, 4096)}
_CUDA_BATCH = 8
# A block that is worked up: labels, contours and what numpy makes on the way, in bytes for each of its pixels.
_WORK_BYTES_PER_PX = 64
_JOIN_BYTES = 64_000_000
_PART_PER_MARGIN = 32  # (1 + 2 / 32)^2 is 1.13


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What is read of a slide: a level, resampled where its pixels are not the model's.

    `scale` is pixels of the level per pixel that is read (1.0: as it is), `height` and `width` the size of the whole
    slide in pixels that are read, `downsample` level-0 pixels and `mpp` micrometres per pixel that is read (None where
    unknown).
    """

    level: int
    scale: float
    height: int
    width: int
    downsample: float
    mpp: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a slide is predicted.

    Attributes
    ----------
    level_0_size
        Height and width of the slide.
    scale
        What is read.
    layout
        How the map is cut into parts and tiles.
    halo
        Pixels read around a tile.
    batch
        Tiles per pass of the network.
    tissue_share
        Share of the map's cells that are computed.
    memory_bytes
        Estimated peak of the process.
    memory_limit
        What it may have, and what says so.
    seconds
        Estimated, None where nothing was measured.
    """

    level_0_size: tuple[int, int]
    scale: Scale
    layout: MapLayout
    halo: int
    batch: int
    tissue_share: float
    memory_bytes: int
    memory_limit: MemoryLimit
    seconds: float | None = None

    @property
    def origin(self) -> tuple[float, float]:
        """Where the map begins, y and x in level-0 pixels."""
        region = self.layout.region
        return region.y * self.scale.downsample, region.x * self.scale.downsample

    @property
    def region_on_level_0(self) -> Box:
        """What is predicted, in whole level-0 pixels."""
        region, scale = self.layout.region, self.scale
        if (region.height, region.width) == (scale.height, scale.width):
            return Box(0, 0, *self.level_0_size)
        top, left = (int(at) for at in self.origin)
        bottom, right = (
            min(size, max(start + 1, round(end * scale.downsample)))
            for size, start, end in zip(self.level_0_size, (top, left), (region.bottom, region.right), strict=True)
        )
        return Box(top, left, bottom - top, right - left)

    @property
    def map_downsample(self) -> float:
        """Level-0 pixels per pixel of the map."""
        return self.scale.downsample * self.layout.stride

    @property
    def map_mpp(self) -> float | None:
        """Micrometres per pixel of the map, None where unknown."""
        return self.scale.mpp and self.scale.mpp * self.layout.stride

    @property
    def level_0_mpp(self) -> float | None:
        """Micrometres per pixel of level 0, None where unknown."""
        return self.scale.mpp and self.scale.mpp / self.scale.downsample

    def describe(self) -> str:
        """Return the plan in one line."""
        scale, layout = self.scale, self.layout
        counts = (layout.num_tiles, "tile"), (layout.num_parts, "part")
        mpp = "unknown um/px" if scale.mpp is None else f"{scale.mpp:.4g} um/px"
        said = [f"level {scale.level}"]
        if scale.scale != 1:
            said.append(f"{'shrunk' if scale.scale > 1 else 'enlarged'} {max(scale.scale, 1 / scale.scale):.3g} x")
        region = layout.region
        said.append(f"{region.width} x {region.height} px of {mpp}")
        if (region.height, region.width) != (scale.height, scale.width):
            said.append(f"from {region.x}, {region.y} on")
        if layout.stride > 1:
            said.append(f"every {layout.stride} px")
        tiles, parts = (f"{number:,} {word}{'s' * (number != 1)}" for number, word in counts)
        said.append(f"{tiles} of {layout.tile_px} + 2 x {self.halo} px in {parts}")
        if self.tissue_share < 1:
            said.append(f"tissue in {100 * self.tissue_share:.0f} % of the cells")
        if self.batch > 1:
            said.append(f"batch {self.batch}")
        limit, source = self.memory_limit
        said.append(f"about {format_bytes(self.memory_bytes)} of memory (limit {format_bytes(limit)}, {source})")
        if self.seconds is not None:
            said.append(f"about {format_duration(self.seconds)}")
        return ", ".join(said)

    def as_record(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        region, layout = self.layout.region, self.layout
        return {
            "level": self.scale.level,
            "resampled": self.scale.scale,
            "mpp": self.scale.mpp,
            "downsample": self.scale.downsample,
            "region": {"x": region.x, "y": region.y, "width": region.width, "height": region.height},
            "stride": layout.stride,
            "tile_px": layout.tile_px,
            "halo_px": self.halo,
            "batch": self.batch,
            "num_tiles": layout.num_tiles,
            "part_px": layout.part_px,
            "num_parts": layout.num_parts,
            "cells": None
            if layout.wanted is None
            else {"all": layout.wanted.size, "computed": int(layout.wanted.sum())},
            "memory_bytes": self.memory_bytes,
            "memory_limit_bytes": self.memory_limit.bytes,
            "estimated_s": None if self.seconds is None else round(self.seconds, 1),
        }


def format_duration(seconds: float) -> str:
    """Return a duration for people, rounded as an estimate deserves."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def choose_scale(slide: Slide, model_mpp: float | None, given_mpp: float | None) -> Scale:
    """Return what is read of a slide for a model: level 0 as it is for a model without a scale.

    Otherwise the coarsest level that is no coarser than the model's scale is read, and resampled to that scale if it
    differs by more than `SAME_SCALE`; a slide that is coarser at level 0 is enlarged.

    Parameters
    ----------
    slide, model_mpp
        The slide, and micrometres per pixel that the model was trained at.
    given_mpp
        Micrometres per pixel at level 0, where the slide's own value is missing or wrong.

    Raises
    ------
    InputError
        The slide's scale is unknown, or differs by more than `FURTHEST_SCALE`.
    """
    slide_mpp = given_mpp or slide.mpp
    if model_mpp is None:
        return Scale(level=0, scale=1.0, height=slide.height, width=slide.width, downsample=1.0, mpp=slide_mpp)
    if slide_mpp is None:
        raise InputError(
            f"{slide.path}: the file does not say its micrometres per pixel, and the model was trained at "
            f"{model_mpp:.4g}. Give --mpp."
        )
    mpps = [slide_mpp * level.downsample for level in slide.levels]
    fine_enough = [number for number, mpp in enumerate(mpps) if mpp <= model_mpp * SAME_SCALE]
    number = fine_enough[-1] if fine_enough else 0
    level, factor = slide.levels[number], model_mpp / mpps[number]
    if not 1 / FURTHEST_SCALE <= factor <= FURTHEST_SCALE:
        there = ", ".join(f"{mpp:.4g}" for mpp in mpps)
        raise InputError(
            f"{slide.path}: its levels have {there} um/px, and the model was trained at {model_mpp:.4g}: more than a "
            f"factor of {FURTHEST_SCALE:g} from the nearest. Correct the slide's scale with --mpp, or use a model of "
            "its scale."
        )
    if 1 / SAME_SCALE <= factor <= SAME_SCALE:
        return Scale(
            level=number,
            scale=1.0,
            height=level.height,
            width=level.width,
            downsample=level.downsample,
            mpp=mpps[number],
        )
    return Scale(
        level=number,
        scale=factor,
        height=max(1, round(level.height / factor)),
        width=max(1, round(level.width / factor)),
        downsample=level.downsample * factor,
        mpp=model_mpp,
    )


def choose_region(slide: Slide, scale: Scale, alignment: int, given: tuple[int, int, int, int] | None) -> Box:
    """Return what is predicted, in pixels that are read: all, or a region grown to the network's grid.

    Parameters
    ----------
    given
        x, y, width and height in level-0 pixels.

    Raises
    ------
    UsageError
        It lies outside of the slide.
    """
    whole = Box(0, 0, scale.height, scale.width)
    if given is None:
        return whole
    x, y, width, height = given
    if Box(y, x, height, width).intersect(Box(0, 0, slide.height, slide.width)).area == 0:
        raise UsageError(
            f"{slide.path}: --region {x},{y},{width},{height} lies outside of its {slide.width} x {slide.height} px. "
            "Give x, y, width and height in level-0 pixels."
        )
    top, left = (math.floor(max(0, at) / scale.downsample / alignment) * alignment for at in (y, x))
    bottom, right = (math.ceil(end / scale.downsample / alignment) * alignment for end in (y + height, x + width))
    # A region within the last pixel that is left after rounding is that pixel.
    top, left = (
        min(top, (scale.height - 1) // alignment * alignment),
        min(left, (scale.width - 1) // alignment * alignment),
    )
    return Box(top, left, bottom - top, right - left).intersect(whole)


def wanted_cells(tissue: Tissue, scale: Scale, region: Box, stride: int) -> NDArray[np.bool_]:
    """Return which cells of the map have tissue, bool (rows, columns)."""
    cell = CELL_PX * stride
    return tissue.wanted_cells(
        y0=region.y * scale.downsample,
        x0=region.x * scale.downsample,
        cell=cell * scale.downsample,
        rows=-(-region.height // cell),
        columns=-(-region.width // cell),
        margin=0.0,
    )


def choose_part_px(longest_map_px: int, *, on_cuda: bool, tile_map_px: int, margin_px: int = 0) -> int:
    """Return the side of a part: small enough that little is lost when a run is killed, large enough for a tile.

    It depends on nothing that is measured, because a run that is resumed needs the same. With a margin of `margin_px`,
    which neighbouring parts both compute, parts are so large that this is no more than an eighth of the work.
    """
    part = BLOCK_PX
    for limit in (8_192, 16_384) if on_cuda else (16_384,):
        part *= 2 if longest_map_px > limit else 1
    while part < max(tile_map_px, _PART_PER_MARGIN * margin_px):
        part *= 2
    return part


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the network and the work behind it need, for choosing tiles.

    Attributes
    ----------
    baseline_bytes
        What the process has before it starts.
    network_bytes
        Of a pass of the network with tiles of a side, halo included, and a batch; of the device's own memory it counts
        only where the device is the CPU.
    layer_bytes
        Of a map pixel of what the network says.
    device_bytes
        Free memory of a device of its own, None on the CPU.
    work_px
        Side of what is worked up at once, a block with its margin, in map pixels.
    """

    baseline_bytes: int
    network_bytes: Callable[[int, int], int]
    layer_bytes: int
    channels: int
    device_bytes: int | None = None
    work_px: int = BLOCK_PX

    def host_bytes(self, read_px: int, batch: int, part_px: int) -> int:
        """Return the estimated peak of the process; `part_px` is the side of what is held of a part."""
        pixels = (3 * batch + READ_THREADS + 1) * read_px**2 * self.channels
        network = self.network_bytes(read_px, batch) * PROCESS_FACTOR if self.device_bytes is None else 2 * pixels
        parts = (PARTS_AHEAD + 2) * part_px**2 * self.layer_bytes
        work = WORK_THREADS * self.work_px**2 * _WORK_BYTES_PER_PX
        return int(self.baseline_bytes + network + pixels + parts + work + CACHE_BYTES + _JOIN_BYTES)

    def fits(self, read_px: int, batch: int, part_px: int, limit: MemoryLimit) -> bool:
        """Tell whether host and device have room for it."""
        if self.device_bytes is not None and self.network_bytes(read_px, batch) > 0.8 * self.device_bytes:
            return False
        return self.host_bytes(read_px, batch, part_px) <= limit.bytes


def read_px_of(tile_px: int, grid: TileGrid, margin_px: int) -> int:
    """Return the side of what is read for a tile with margin and halo."""
    return grid.legal_size(max(tile_px + 2 * margin_px + 2 * grid.halo, grid.smallest))


def tile_candidates(
    grid: TileGrid, *, longest_px: int, largest_px: int, on_cuda: bool, tile: int | Literal["auto"]
) -> list[int]:
    """Return sides of tiles to choose from, ascending, in pixels that are read.

    Parameters
    ----------
    longest_px
        Longer side of what is predicted: no tile needs to be larger.
    largest_px
        Side of a part.
    tile
        As configured.

    Raises
    ------
    UsageError
        The tile is no multiple of the model's alignment.
    """
    step = grid.alignment
    if tile != "auto":
        if tile % step:
            below = max(tile // step, 1) * step
            raise UsageError(f"--tile {tile}: this model needs a multiple of {step}, e.g. {below} or {below + step}.")
        return [tile]
    needed = -(-longest_px // step) * step
    sides = {min(-(-side // step) * step, needed) for side in TILES_PX["cuda" if on_cuda else "cpu"]}
    return sorted(side for side in sides if side <= largest_px) or [min(needed, largest_px)]


def choose_batch(batch: int | Literal["auto"], *, on_cuda: bool, fits: Callable[[int], bool]) -> int:
    """Return the tiles per pass of the network: as configured, 1 on a CPU, else as many as fit, up to 8."""
    if batch != "auto":
        return batch
    size = _CUDA_BATCH if on_cuda else 1
    while size > 1 and not fits(size):
        size //= 2
    return size


def tiles_that_fit(
    candidates: list[int], costs: Costs, grid: TileGrid, *, margin_px: int, part_px: int, batch: int, limit: MemoryLimit
) -> list[int]:
    """Return the tiles for which there is memory, ascending.

    Raises
    ------
    ResourceError
        There is none.
    """
    fitting = [side for side in candidates if costs.fits(read_px_of(side, grid, margin_px), batch, part_px, limit)]
    if not fitting:
        needed = costs.host_bytes(read_px_of(candidates[0], grid, margin_px), batch, part_px)
        where = {"--max-memory": "--max-memory allows", "cgroup": "the container may have"}.get(
            limit.source, "the machine has"
        )
        raise ResourceError(
            f"tiles of {candidates[0]} px need about {format_bytes(needed)} of memory, and {where} "
            f"{format_bytes(limit.bytes)}. Use a smaller --tile or a smaller model, or allow more memory."
        )
    return fitting
