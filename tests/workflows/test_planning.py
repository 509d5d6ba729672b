"""Plans of slides: the fastest tile that fits the memory, measured; the same parts on every machine."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segkit import files
from segkit.config import PredictConfig, build_config
from segkit.errors import ConfigError, InputError, ResourceError, UsageError
from segkit.geometry import BLOCK_PX, CELL_PX, Box, TileGrid
from segkit.inference.plan import Scale
from segkit.memory import MemoryLimit
from segkit.slides import open_slide
from segkit.slides.tissue import Tissue, everywhere
from segkit.workflows import planning
from segkit.workflows.planning import Planner, device_of_worker, free_device_bytes
from tests.empty_slide import EmptySlide
from tests.tiny import draw_field, save_png, write_slide

GRID = TileGrid(alignment=16, halo=32)
PLENTY = MemoryLimit(64_000_000_000, "machine")


class FakeNetwork:
    """A network that takes as long as it says, by the clock of the planner.

    Its pass takes `seconds(side, batch)`, the first one of a size ten times as long, and 50 bytes for each pixel.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int, int], float], grid: TileGrid = GRID
    ) -> None:
        self.grid = grid
        self.passes: list[tuple[int, int]] = []
        self._seconds, self._now = seconds, 0.0
        monkeypatch.setattr(planning.time, "perf_counter", lambda: self._now)
        monkeypatch.setattr(planning, "memory_limit", lambda: PLENTY)
        monkeypatch.setattr(planning, "resident_bytes", lambda: 500_000_000)

    def submit(self, images_BHWC: NDArray[np.uint8], crops: Sequence[tuple[slice, slice]]) -> Callable[[], Any]:
        batch, side, width, channels = images_BHWC.shape
        assert (side, channels, len(crops)) == (width, 3, batch)
        size = (side, batch)
        slow = 1 if size in self.passes else 10
        self.passes.append(size)

        def wait() -> None:
            self._now += slow * self._seconds(side, batch)

        return wait

    def peak_bytes(self, read_px: int, batch: int) -> int:
        return batch * read_px**2 * 50


def in_proportion(side: int, _: int) -> float:
    """Seconds for a machine on which every pixel takes as long, so that the halo costs small tiles most."""
    return side**2 * 1e-7


def slow_from(limit: int) -> Callable[[int, int], float]:
    """Seconds for a machine on which larger tiles leave the cache."""
    return lambda side, batch: side**2 * batch * (1e-7 if side < limit else 2e-7)


def planner_of(network: FakeNetwork, *assignments: str, **changes: Any) -> Planner:
    values: dict[str, Any] = {
        "model_mpp": 0.5, "channels": 3, "margin": lambda _: 0, "layer_bytes": 2, "device_bytes": None, "batch": "auto",
    }  # fmt: skip
    return Planner(network, build_config(PredictConfig, assignments=assignments), **{**values, **changes})


def tile_for(planner: Planner, slide: EmptySlide) -> int:
    return planner.plan(slide, everywhere(slide)).layout.tile_px


@pytest.mark.parametrize(("seconds", "tile"), [(in_proportion, 1024), (slow_from(1000), 512), (slow_from(2000), 1024)])
def test_the_fastest_tile_is_found_by_measuring(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int, int], float], tile: int
) -> None:
    network = FakeNetwork(monkeypatch, seconds)
    slide = EmptySlide(12_000, 14_000)
    assert tile_for(planner_of(network), slide) == tile
    # Halo included; each once more than the first time, which is slow for other reasons.
    assert sorted(set(network.passes)) == [(576, 1), (1088, 1)]
    assert len(network.passes) == 4


def test_larger_slides_have_larger_parts_and_may_have_larger_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = EmptySlide(20_000, 30_000)
    plan = planner_of(FakeNetwork(monkeypatch, in_proportion)).plan(slide, everywhere(slide))
    assert (plan.layout.part_px, plan.layout.tile_px) == (2 * BLOCK_PX, 2048)


def test_a_tile_is_measured_once_for_all_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    network = FakeNetwork(monkeypatch, in_proportion)
    planner = planner_of(network)
    for size in (12_000, 13_000, 14_000):
        tile_for(planner, EmptySlide(size, size))
    assert len(network.passes) == 4


def test_small_slides_are_not_measured_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement would take longer than it can save."""
    network = FakeNetwork(monkeypatch, in_proportion)
    slide = EmptySlide(1100, 1200)
    plan = planner_of(network).plan(slide, everywhere(slide))
    assert network.passes == []
    assert plan.seconds is None
    # And for a large one with little tissue: what is measured is compared with what is to be done.
    mask = np.zeros((20, 20), np.bool_)
    mask[3, 3] = True
    planner_of(network).plan(EmptySlide(10_000, 10_000), Tissue(mask, 10_000, 10_000, "file"))
    assert network.passes == []


def test_a_given_tile_is_taken_and_parts_grow_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = FakeNetwork(monkeypatch, slow_from(100))
    slide = EmptySlide(3000, 3000)
    plan = planner_of(network, "tile=1536").plan(slide, everywhere(slide))
    assert (plan.layout.tile_px, plan.layout.part_px) == (1536, 2048)
    assert planner_of(network, "tile=64").plan(slide, everywhere(slide)).layout.part_px == BLOCK_PX
    with pytest.raises(UsageError, match="--tile 100: this model needs a multiple of 16"):
        planner_of(network, "tile=100").plan(slide, everywhere(slide))


@pytest.mark.parametrize("batch", [1, 2])
def test_the_time_is_that_of_all_tiles(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    network = FakeNetwork(monkeypatch, lambda side, number: 2.0 * number)
    slide = EmptySlide(5120, 5120)
    plan = planner_of(network, "tile=512", batch=batch).plan(slide, everywhere(slide))
    assert plan.layout.num_tiles == 100
    assert plan.batch == batch
    assert plan.seconds == pytest.approx(200.0)
    mask = np.zeros((10, 10), np.bool_)
    mask[:5] = True
    assert planner_of(network, "tile=512").plan(slide, Tissue(mask, 5120, 5120, "file")).seconds == pytest.approx(100.0)


def test_little_memory_takes_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 50 bytes for each pixel tiles of 2048 px take 223 MB more than those of 256 px, and some for pixels."""
    slide = EmptySlide(20_000, 30_000)

    def planned(limit: str) -> tuple[int, int]:
        plan = planner_of(FakeNetwork(monkeypatch, in_proportion), f"max_memory={limit}").plan(slide, everywhere(slide))
        assert plan.memory_limit.source == "--max-memory"
        assert plan.memory_bytes <= plan.memory_limit.bytes
        return plan.layout.tile_px, plan.layout.part_px

    enough = planned("8GB")
    assert enough == (2048, 2048)
    network = FakeNetwork(monkeypatch, in_proportion)
    costs = {
        tile: planner_of(network, f"tile={tile}").plan(slide, everywhere(slide)).memory_bytes
        for tile in (256, 512, 1024, 2048)
    }
    assert list(costs.values()) == sorted(costs.values())
    assert len(set(costs.values())) == 4
    for tile, needed in costs.items():
        assert planned(str(needed)) == (tile, 2048)
    with pytest.raises(ResourceError, match=r"tiles of 256 px need about .* and --max-memory allows"):
        planned(str(costs[256] - 1))


def test_margins_take_memory_as_far_as_the_map_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds that grow far make parts of 16,384 px, 3 of which take 1.6 GB: a small image does not need that."""
    planner = planner_of(FakeNetwork(monkeypatch, in_proportion), "tile=256", margin=lambda _: 480)
    small, large = (planner.plan(slide, everywhere(slide)) for slide in (EmptySlide(300, 400), EmptySlide(4000, 4000)))
    assert small.layout.part_px == large.layout.part_px == 16_384
    assert small.memory_bytes < 1.2e9
    held, worked = 4000**2 - 400**2, (BLOCK_PX + 2 * 480) ** 2 - BLOCK_PX**2
    # Both are read in tiles of the same size.
    assert large.memory_bytes - small.memory_bytes > 3 * 2 * held + 30 * worked


def test_without_a_given_limit_the_machines_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    network = FakeNetwork(monkeypatch, in_proportion)
    slide = EmptySlide(2000, 2000)
    assert planner_of(network).plan(slide, everywhere(slide)).memory_limit == PLENTY
    monkeypatch.setattr(planning, "memory_limit", lambda: MemoryLimit(600_000_000, "cgroup"))
    with pytest.raises(ResourceError, match=r"the container may have 600\.0 MB"):
        planner_of(network).plan(slide, everywhere(slide))


def test_parts_and_weights_depend_on_nothing_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers on other machines with other memory have to divide the same parts."""
    slide = EmptySlide(9000, 13_000)
    mask = np.random.default_rng(0).random((90, 130)) < 0.01
    tissue = Tissue(mask, 9000, 13_000, "file")
    monkeypatch.setattr(planning, "find_tissue", lambda _: tissue)
    found = []
    for seconds, *assignments in ((in_proportion,), (slow_from(600),), (in_proportion, "max_memory=2GB"),
                                  (in_proportion, "tile=256"), (in_proportion, "batch=4")):  # fmt: skip
        planner = planner_of(FakeNetwork(monkeypatch, seconds), *assignments)
        plan = planner.plan(slide, planner.tissue(slide))
        assert planner.weights(slide) == plan.layout.weights()
        found.append((plan.layout.part_px, plan.layout.weights()))
    assert all(one == found[0] for one in found)
    assert len(found[0][1]) == math.ceil(9000 / BLOCK_PX) * math.ceil(13_000 / BLOCK_PX)
    # A cell is wanted wherever the mask has a pixel that it touches.
    cells = mask.repeat(100, axis=0).repeat(100, axis=1)
    expected = sum(
        cells[y : y + CELL_PX, x : x + CELL_PX].any()
        for y in range(0, 9000, CELL_PX)
        for x in range(0, 13_000, CELL_PX)
    )
    assert sum(found[0][1]) == expected


def test_weights_are_found_without_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    network = FakeNetwork(monkeypatch, in_proportion)
    slide = EmptySlide(20_000, 20_000)
    assert len(planner_of(network, "tissue=off").weights(slide)) == 100
    assert network.passes == []


def test_where_all_cells_have_tissue_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = EmptySlide(3000, 3000)
    planner = planner_of(FakeNetwork(monkeypatch, in_proportion))
    assert planner.plan(slide, Tissue(np.ones((6, 6), np.bool_), 3000, 3000, "file")).layout.wanted is None
    mask = np.ones((6, 6), np.bool_)
    mask[4:, 4:] = False
    plan = planner.plan(slide, Tissue(mask, 3000, 3000, "file"))
    assert plan.layout.wanted is not None
    assert plan.tissue_share == plan.layout.wanted.mean() < 1
    # In a region only its own cells count.
    inside = planner_of(FakeNetwork(monkeypatch, in_proportion), "region=0,0,1500,1500")
    assert inside.plan(slide, Tissue(mask, 3000, 3000, "file")).layout.wanted is None


def test_region_scale_and_margin_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slide of 0.25 um/px, read at 0.5; a margin of 4 um in map pixels of every second pixel."""
    seen: list[Scale] = []

    def margin(scale: Scale) -> int:
        seen.append(scale)
        assert scale.mpp is not None
        return round(4 / (2 * scale.mpp))

    network = FakeNetwork(monkeypatch, in_proportion, TileGrid(alignment=2, halo=20, margin=20, stride=2))
    slide = EmptySlide(8000, 8000, mpp=0.25)
    plan = planner_of(network, "region=1001,2002,3000,3000", margin=margin).plan(slide, everywhere(slide))
    assert seen[0].scale == 2.0
    assert plan.layout.region == Box(1000, 500, 1502, 1502)
    assert (plan.layout.margin, plan.layout.stride, plan.layout.alignment) == (4, 2, 2)
    assert (plan.map_mpp, plan.halo) == (1.0, 20)


def test_what_is_wrong_with_a_slide_is_said_by_plan_and_weights_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = EmptySlide(2000, 2000, mpp=None)
    network = FakeNetwork(monkeypatch, in_proportion)
    for ask in (lambda one: planner_of(network, "tissue=off").weights(one),
                lambda one: planner_of(network).plan(one, everywhere(one))):  # fmt: skip
        with pytest.raises(InputError, match="Give --mpp"):
            ask(slide)
    outside = planner_of(network, "tissue=off", "mpp=0.5", "region=9000,0,10,10")
    with pytest.raises(UsageError, match="lies outside"):
        outside.weights(slide)


def test_tissue_is_measured_left_out_or_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = FakeNetwork(monkeypatch, in_proportion)
    mask = np.zeros((30, 40), np.uint8)
    mask[:15] = 255
    file = save_png(tmp_path / "mask.png", mask[..., None])
    with open_slide(write_slide(tmp_path / "a.tif", draw_field(0, 300, 400)[0])) as slide:
        assert planner_of(network).tissue(slide).source == "measured"
        assert planner_of(network, "tissue=off").tissue(slide).source == "none"
        found = planner_of(network, f"tissue={file}").tissue(slide)
        assert found.source == "file"
        assert found.share == pytest.approx(0.5, abs=0.1)
    assert planner_of(network).tissue_key() == "auto"
    assert planner_of(network, "tissue=off").tissue_key() == "off"
    # Of a file its content, wherever it lies.
    moved = file.rename(tmp_path / "moved.png")
    assert planner_of(network, f"tissue={moved}").tissue_key() == files.sha256_of(moved)


def test_words_and_numbers_that_yaml_takes_for_something_else_are_understood(tmp_path: Path) -> None:
    """An unquoted `off` is false to YAML, and plain bytes are a number."""
    file = tmp_path / "config.yaml"
    file.write_text("tissue: off\nmax_memory: 4000000000\n")
    config = build_config(PredictConfig, file=file)
    assert (config.tissue, config.max_memory_bytes) == ("off", 4_000_000_000)
    for wrong in ("tissue=true", "tissue=3", "max_memory=true", "max_memory=-5", "max_memory=lots"):
        with pytest.raises(ConfigError):
            build_config(PredictConfig, assignments=[wrong])


def test_batches_on_cuda_are_as_large_as_fits_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is decided: no GPU is needed for it. 50 bytes for each pixel of 1088 px are 59 MB."""
    slide = EmptySlide(40_000, 40_000)

    def planned(device_bytes: int, *assignments: str, batch: int | str = "auto") -> tuple[int, int]:
        network = FakeNetwork(monkeypatch, lambda side, number: 0.01 + side**2 * number * 1e-9)
        planner = planner_of(network, *assignments, device_bytes=device_bytes, batch=batch)
        plan = planner.plan(slide, everywhere(slide))
        assert network.peak_bytes(plan.layout.tile_px + 64, plan.batch) <= 0.8 * device_bytes
        return plan.layout.tile_px, plan.batch

    assert planned(80 * 10**9) == (2048, 8)
    assert planned(400_000_000) == (1024, 4)
    assert planned(400_000_000, batch=1) == (2048, 1)
    assert planned(80 * 10**9, "tile=512") == (512, 8)


def test_workers_on_a_machine_take_their_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = build_config(PredictConfig, assignments=["compute.device=cpu"]).compute
    assert device_of_worker(compute) == torch.device("cpu")
    assert free_device_bytes(torch.device("cpu")) is None
    monkeypatch.setattr(planning, "resolve_device", lambda name: torch.device("cuda" if name == "auto" else name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for rank, device in (("1", "cuda:1"), ("6", "cuda:2")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert device_of_worker(build_config(PredictConfig).compute) == torch.device(device)
        named = build_config(PredictConfig, assignments=["compute.device=cuda:3"]).compute
        assert device_of_worker(named) == torch.device("cuda:3")
