"""The plan of a slide: what is given, what is measured, what the machine has."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from segkit import files
from segkit.config import AUTO, ComputeConfig, SlideConfig
from segkit.geometry import BLOCK_PX, Box, count_tiles
from segkit.inference.layout import MapLayout
from segkit.inference.pipeline import TilePredictor
from segkit.inference.plan import (
    Costs,
    Plan,
    Scale,
    choose_batch,
    choose_part_px,
    choose_region,
    choose_scale,
    read_px_of,
    tile_candidates,
    tiles_that_fit,
    wanted_cells,
)
from segkit.memory import MemoryLimit, memory_limit, resident_bytes
from segkit.models.inference_form import resolve_device
from segkit.slides import Slide
from segkit.slides.tissue import Tissue, everywhere, find_tissue, tissue_of_file
from segkit.workflows.sharing import local_rank

# A measurement may take this share of a slide's pixels; for fewer neither a better tile nor an estimate pays.
_PROBE_SHARE = 1 / 30
_SMALLEST_MEASURED, _LARGEST_UNMEASURED = 512, 1024


def device_of_worker(compute: ComputeConfig) -> torch.device:
    """Return the device; of several on a machine, the one that falls to this worker where none is named."""
    device = resolve_device(compute.device)
    if compute.device != AUTO or device.type != "cuda":
        return device
    return torch.device("cuda", local_rank(os.environ) % torch.cuda.device_count())


def free_device_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device that has its own, None for the CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


class Network(TilePredictor, Protocol):
    """What a plan has to know of a network."""

    def peak_bytes(self, read_px: int, batch: int) -> int:
        """Return the memory of a pass with a batch of square images of a side, on the device."""


class Planner:
    """Makes the plans of all slides of a run; what is measured is measured once.

    Parameters
    ----------
    network
        The network, on its device.
    config
        What is given.
    model_mpp
        Micrometres per pixel of the model, None for one without a scale.
    channels
        Of the network's input.
    margin
        Map pixels around a part that its results depend on, for micrometres per map pixel and their stride.
    layer_bytes
        Bytes of a map pixel of what the network says.
    on_cuda
        Whether the network has a device of its own.
    batch
        Tiles per pass of the network.
    """

    def __init__(
        self,
        network: Network,
        config: SlideConfig,
        *,
        model_mpp: float | None,
        channels: int,
        margin: Callable[[Scale], int],
        layer_bytes: int,
        device_bytes: int | None,
        batch: int | Literal["auto"],
    ) -> None:
        self._network, self._config, self._model_mpp, self._channels = network, config, model_mpp, channels
        self._margin, self._batch, self._on_cuda = margin, batch, device_bytes is not None
        given = config.max_memory_bytes
        self._limit = memory_limit() if given is None else MemoryLimit(given, "--max-memory")
        self._costs = Costs(
            baseline_bytes=resident_bytes(),
            network_bytes=network.peak_bytes,
            layer_bytes=layer_bytes,
            channels=channels,
            device_bytes=device_bytes,
        )
        self._seconds: dict[tuple[int, int], float] = {}

    def tissue(self, slide: Slide) -> Tissue:
        """Return where in a slide to look."""
        match self._config.tissue:
            case "auto":
                return find_tissue(slide)
            case "off":
                return everywhere(slide)
            case path:
                return tissue_of_file(Path(path), slide)

    def tissue_key(self) -> str:
        """Return what the choice of tissue depends on beside the slide."""
        given = self._config.tissue
        return given if given in {AUTO, "off"} else files.sha256_of(Path(given))

    def plan(self, slide: Slide, tissue: Tissue) -> Plan:
        """Return the plan of a slide.

        Raises
        ------
        InputError
            The slide's scale is unknown or does not fit the model's.
        UsageError
            The region lies outside, or the tile is no multiple of the model's alignment.
        ResourceError
            There is too little memory for the smallest tile.
        """
        config, grid = self._config, self._network.grid
        scale, layout = self._cut(slide, tissue)
        region, stride, part_px = layout.region, layout.stride, layout.part_px
        margin_px = layout.margin * stride
        candidates = tile_candidates(
            grid,
            longest_px=max(region.height, region.width),
            largest_px=part_px * stride,
            on_cuda=self._on_cuda,
            tile=config.tile,
        )
        # Parts and blocks have their margin with them, as far as the map reaches.
        longest_px = max(layout.height, layout.width)
        held_px, work_px = (min(side + 2 * layout.margin, longest_px) for side in (part_px, BLOCK_PX))
        costs = dataclasses.replace(self._costs, work_px=max(work_px, BLOCK_PX))
        share = 1.0 if layout.wanted is None else float(layout.wanted.mean())

        def fits(side: int, batch: int) -> bool:
            return costs.fits(read_px_of(side, grid, margin_px), batch, held_px, self._limit)

        batch = choose_batch(
            self._batch, on_cuda=self._on_cuda, fits=lambda size: fits(candidates[min(1, len(candidates) - 1)], size)
        )
        fitting = tiles_that_fit(
            candidates, costs, grid, margin_px=margin_px, part_px=held_px, batch=batch, limit=self._limit
        )
        tile_px = self._fastest(fitting, margin_px, batch, region, share)
        layout = dataclasses.replace(layout, tile_px=tile_px)
        read_px = read_px_of(tile_px, grid, margin_px)
        plan = Plan(
            level_0_size=(slide.height, slide.width),
            scale=scale,
            layout=layout,
            halo=grid.halo,
            batch=batch,
            tissue_share=share,
            memory_bytes=costs.host_bytes(read_px, batch, held_px),
            memory_limit=self._limit,
        )
        if tile_px**2 * batch > _PROBE_SHARE * region.area * share:
            return plan
        seconds = self._seconds_of(tile_px, margin_px, batch) * layout.num_tiles / batch
        return dataclasses.replace(plan, seconds=seconds)

    def weights(self, slide: Slide) -> list[int]:
        """Return how much work each part of a slide is; the same on every machine with the same kind of device.

        Raises
        ------
        InputError, UsageError
            As `plan` does.
        """
        _, layout = self._cut(slide, self.tissue(slide))
        return layout.weights()

    def _cut(self, slide: Slide, tissue: Tissue) -> tuple[Scale, MapLayout]:
        """Return what is read and how the map is cut into parts; the tiles are those of whole parts."""
        config, grid = self._config, self._network.grid
        scale = choose_scale(slide, self._model_mpp, None if config.mpp == AUTO else config.mpp)
        region = choose_region(slide, scale, grid.alignment, config.region_box)
        part_px = choose_part_px(
            -(-max(region.height, region.width) // grid.stride),
            on_cuda=self._on_cuda,
            tile_map_px=0 if config.tile == AUTO else config.tile // grid.stride,
            margin_px=self._margin(scale),
        )
        wanted = wanted_cells(tissue, scale, region, grid.stride)
        layout = MapLayout(
            region=region,
            stride=grid.stride,
            part_px=part_px,
            margin=self._margin(scale),
            tile_px=part_px * grid.stride,
            alignment=grid.alignment,
            wanted=None if wanted.all() else wanted,
        )
        return scale, layout

    def _fastest(self, fitting: Sequence[int], margin_px: int, batch: int, region: Box, share: float) -> int:
        """Return the tile with most pixels per second, of those worth measuring; `share` of the region is to be done.

        What is not worth measuring is judged by how many pixels are read with the tile, halo included.
        """
        # Small tiles are for little memory: their halo costs too much to be worth a measurement.
        sides = [side for side in fitting if side >= _SMALLEST_MEASURED] or list(fitting[-1:])
        grid = self._network.grid

        def read_pixels(side: int) -> int:
            rows, columns = count_tiles(region.height, region.width, side)
            return rows * columns * read_px_of(side, grid, margin_px) ** 2

        best = min((side for side in sides if side <= _LARGEST_UNMEASURED), key=read_pixels, default=sides[0])
        affordable = _PROBE_SHARE * region.area * share / batch
        if best**2 > affordable:
            return best
        for side in sides:
            if side != best and side**2 <= affordable:
                rate = best**2 / self._seconds_of(best, margin_px, batch)
                best = side if side**2 / self._seconds_of(side, margin_px, batch) > rate else best
        return best

    def _seconds_of(self, tile_px: int, margin_px: int, batch: int) -> float:
        """Return how long a batch of whole tiles takes, measured once."""
        grid = self._network.grid
        read_px = read_px_of(tile_px, grid, margin_px)
        key = read_px, batch
        if key not in self._seconds:
            noise = np.random.default_rng(0).integers(0, 256, (batch, read_px, read_px, self._channels), np.uint8)
            side = tile_px // grid.stride
            start = (grid.halo - grid.margin) // grid.stride
            crop = slice(start, start + side)
            taken = []
            for _ in range(2):  # the first pass prepares what the second finds prepared
                started = time.perf_counter()
                self._network.submit(noise, [(crop, crop)] * batch)()
                taken.append(time.perf_counter() - started)
            self._seconds[key] = min(taken)
        return self._seconds[key]
