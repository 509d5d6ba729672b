"""What is decided before a slide is predicted: scale, region, parts, tiles, memory."""

import dataclasses
import json
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import InputError, ResourceError, UsageError
from segkit.geometry import BLOCK_PX, Box, TileGrid
from segkit.inference.layout import MapLayout
from segkit.inference.plan import (
    FURTHEST_SCALE,
    SAME_SCALE,
    Costs,
    Plan,
    Scale,
    choose_batch,
    choose_part_px,
    choose_region,
    choose_scale,
    format_duration,
    read_px_of,
    tile_candidates,
    tiles_that_fit,
    wanted_cells,
)
from segkit.memory import MemoryLimit
from segkit.slides import Slide
from segkit.slides.tissue import Tissue
from tests.empty_slide import EmptySlide

GRID = TileGrid(alignment=16, halo=32)


def test_without_a_models_scale_level_0_is_read_as_it_is() -> None:
    slide = EmptySlide(3000, 4000, mpp=None, halvings=3)
    assert choose_scale(slide, None, None) == Scale(
        level=0, scale=1.0, height=3000, width=4000, downsample=1.0, mpp=None
    )
    assert choose_scale(slide, None, 0.3).mpp == 0.3


@pytest.mark.parametrize(
    ("model_mpp", "level", "factor"),
    [
        *((0.25, 0, 1.0), (0.5, 1, 1.0), (1.0, 2, 1.0), (2.0, 3, 1.0)),  # the levels as they are
        *((0.25 * 1.04, 0, 1.0), (0.25 / 1.04, 0, 1.0), (0.5 * 1.04, 1, 1.0), (0.5 / 1.04, 1, 1.0)),  # nearly
        *((0.3, 0, 1.2), (0.4, 0, 1.6), (0.75, 1, 1.5), (0.5 * 1.06, 1, 1.06), (0.5 / 1.06, 0, 2 / 1.06)),  # shrunk
        *((4.0, 3, 2.0), (8.0, 3, 4.0)),
        *((0.2, 0, 0.8), (0.125, 0, 0.5), (0.0625, 0, 0.25)),  # enlarged
    ],
)
def test_the_coarsest_level_that_is_fine_enough_is_resampled(model_mpp: float, level: int, factor: float) -> None:
    slide = EmptySlide(8000, 6000, mpp=0.25, halvings=3)
    scale = choose_scale(slide, model_mpp, None)
    assert (scale.level, scale.scale) == (level, pytest.approx(factor))
    assert scale.downsample == pytest.approx(2**level * factor)
    assert (scale.height, scale.width) == (round(8000 / scale.downsample), round(6000 / scale.downsample))
    assert scale.mpp == pytest.approx(model_mpp if factor != 1 else 0.25 * 2**level)


@settings(max_examples=50, deadline=None)
@given(
    slide_mpp=st.floats(0.1, 4), model_mpp=st.floats(0.1, 4), halvings=st.integers(0, 4), by=st.sampled_from([2, 4]),
    size=st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)),
)  # fmt: skip
def test_what_is_read_has_the_models_scale_and_the_slides_extent(
    slide_mpp: float, model_mpp: float, halvings: int, by: int, size: tuple[int, int]
) -> None:
    slide = EmptySlide(*size, mpp=slide_mpp, halvings=halvings, by=by)
    there = [slide_mpp * level.downsample for level in slide.levels]
    usable = [mpp for mpp in there if mpp <= model_mpp * SAME_SCALE] or there[:1]
    if not 1 / FURTHEST_SCALE <= model_mpp / usable[-1] <= FURTHEST_SCALE:
        with pytest.raises(InputError):
            choose_scale(slide, model_mpp, None)
        return
    scale = choose_scale(slide, model_mpp, None)
    assert scale.mpp is not None
    assert 1 / SAME_SCALE <= scale.mpp / model_mpp <= SAME_SCALE
    assert scale.mpp == pytest.approx(slide_mpp * scale.downsample)
    # Nothing is enlarged for which there is a level.
    assert scale.scale >= 1 or scale.level == 0
    for read, whole in ((scale.height, slide.height), (scale.width, slide.width)):
        assert read >= 1
        # Rounded twice: by the pyramid, whose rest is spread over a level's pixels, and to pixels that are read.
        assert abs(read - whole / scale.downsample) <= 1.5 + 1 / scale.scale


@pytest.mark.parametrize(("slide_mpp", "model_mpp"), [(0.5, 2.0), (2.0, 0.5)])
def test_a_factor_of_four_is_the_most(slide_mpp: float, model_mpp: float) -> None:
    slide = EmptySlide(3000, 3000, mpp=slide_mpp)
    assert choose_scale(slide, model_mpp, None).scale == model_mpp / slide_mpp
    further = model_mpp * (1.01 if model_mpp > slide_mpp else 0.99)
    with pytest.raises(InputError, match=r"a\.svs: its levels have .* factor of 4 .*--mpp") as caught:
        choose_scale(slide, further, None)
    assert f"have {slide_mpp:g} um/px, and the model was trained at {further:g}" in str(caught.value)


def test_a_slide_without_a_scale_says_so_and_takes_a_given_one() -> None:
    slide = EmptySlide(2000, 2000, mpp=None)
    with pytest.raises(InputError, match=r"a\.svs: .* micrometres per pixel, .* trained at 0\.5\. Give --mpp\."):
        choose_scale(slide, 0.5, None)
    assert choose_scale(slide, 0.5, 0.25).scale == 2.0
    # What is given counts for more than what the file says.
    assert choose_scale(EmptySlide(2000, 2000, mpp=3.0), 0.5, 0.5).scale == 1.0


def scale_of(slide: Slide, downsample: float) -> Scale:
    return Scale(
        level=0,
        scale=downsample,
        height=max(1, round(slide.height / downsample)),
        width=max(1, round(slide.width / downsample)),
        downsample=downsample,
        mpp=0.5 * downsample,
    )


def test_without_a_region_all_is_predicted() -> None:
    slide = EmptySlide(1001, 700)
    assert choose_region(slide, scale_of(slide, 1.0), 16, None) == Box(0, 0, 1001, 700)
    assert choose_region(slide, scale_of(slide, 3.0), 16, None) == Box(0, 0, 334, 233)


def test_a_region_grows_to_the_networks_grid_and_not_beyond_the_slide() -> None:
    slide = EmptySlide(1000, 700)
    scale = scale_of(slide, 1.0)
    assert choose_region(slide, scale, 16, (32, 48, 64, 16)) == Box(48, 32, 16, 64)
    assert choose_region(slide, scale, 16, (33, 47, 64, 16)) == Box(32, 32, 32, 80)
    assert choose_region(slide, scale, 16, (690, 995, 500, 500)) == Box(992, 688, 8, 12)
    assert choose_region(slide, scale, 16, (0, 0, 5000, 5000)) == Box(0, 0, 1000, 700)
    assert choose_region(slide, scale_of(slide, 2.0), 16, (64, 96, 64, 32)) == Box(48, 32, 16, 32)


def test_a_region_in_what_rounding_took_from_the_end_is_the_last_pixel() -> None:
    """Of 1001 px at half the size 500 are read, and the last pixel of level 0 is the 501st."""
    slide = EmptySlide(1001, 1001)
    scale = scale_of(slide, 2.0)
    assert (scale.height, scale.width) == (500, 500)
    assert choose_region(slide, scale, 1, (1000, 0, 1, 4)) == Box(0, 499, 2, 1)
    assert choose_region(slide, scale, 1, (0, 1000, 4, 1)) == Box(499, 0, 1, 2)
    assert choose_region(slide, scale, 4, (1000, 1000, 1, 1)) == Box(496, 496, 4, 4)


@pytest.mark.parametrize("given", [(700, 0, 10, 10), (0, 1000, 10, 10), (900, 1200, 5, 5)])
def test_a_region_outside_is_refused_with_the_slides_size(given: tuple[int, int, int, int]) -> None:
    slide = EmptySlide(1000, 700)
    with pytest.raises(UsageError, match=r"a\.svs: --region [0-9,]+ lies outside of its 700 x 1000 px"):
        choose_region(slide, scale_of(slide, 1.0), 16, given)


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)), alignment=st.sampled_from([1, 3, 16, 128]),
    downsample=st.sampled_from([0.25, 0.8, 1.0, 1.5, 2.0, 7.3]), data=st.data(),
)  # fmt: skip
def test_a_region_is_on_the_grid_inside_and_little_larger_than_asked(
    size: tuple[int, int], alignment: int, downsample: float, data: st.DataObject
) -> None:
    slide = EmptySlide(*size)
    scale = scale_of(slide, downsample)
    y, x = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    height, width = data.draw(st.integers(1, 6000)), data.draw(st.integers(1, 6000))
    region = choose_region(slide, scale, alignment, (x, y, width, height))
    assert region.area > 0
    assert Box(0, 0, scale.height, scale.width).contains(region)
    for start, end, first, last, whole in (
        (region.y, region.bottom, y, y + height, scale.height),
        (region.x, region.right, x, x + width, scale.width),
    ):
        assert start % alignment == 0
        assert end % alignment == 0 or end == whole
        first_read, last_read = first / downsample, min(last / downsample, whole)
        # Less than a step of the grid on each side; what rounding leaves of the slide's end is its last pixel.
        assert min(first_read, whole - 1) - alignment < start <= first_read
        assert last_read <= end < max(last_read, start + 1) + alignment


def test_cells_are_wanted_where_there_is_tissue_in_the_region() -> None:
    """A slide of 4096 x 6144 px whose tissue is one pixel of a mask of 16 px; read at half its size."""
    slide = EmptySlide(4096, 6144)
    mask = np.zeros((256, 384), np.bool_)
    mask[100, 300] = True  # at 1600..1615, 4800..4815
    tissue = Tissue(mask, 4096, 6144, "file")
    scale = scale_of(slide, 2.0)
    whole = wanted_cells(tissue, scale, Box(0, 0, 2048, 3072), 1)
    assert whole.shape == (4, 6)
    assert np.argwhere(whole).tolist() == [[1600 // 1024, 4800 // 1024]]
    part = wanted_cells(tissue, scale, Box(512, 1024, 1000, 2000), 1)
    assert part.shape == (2, 4)
    assert np.argwhere(part).tolist() == [[(1600 - 1024) // 1024, (4800 - 2048) // 1024]]
    with_stride = wanted_cells(tissue, scale, Box(0, 0, 2048, 3072), 2)
    assert with_stride.shape == (2, 3)
    assert np.argwhere(with_stride).tolist() == [[1600 // 2048, 4800 // 2048]]
    assert not wanted_cells(tissue, scale, Box(1024, 0, 1024, 3072), 1).any()


def test_parts_grow_with_the_slide_and_with_the_tile() -> None:
    assert choose_part_px(1, on_cuda=False, tile_map_px=0) == BLOCK_PX
    assert choose_part_px(16_384, on_cuda=False, tile_map_px=0) == BLOCK_PX
    assert choose_part_px(16_385, on_cuda=False, tile_map_px=0) == 2 * BLOCK_PX
    assert choose_part_px(500_000, on_cuda=False, tile_map_px=0) == 2 * BLOCK_PX
    assert choose_part_px(8_192, on_cuda=True, tile_map_px=0) == BLOCK_PX
    assert choose_part_px(8_193, on_cuda=True, tile_map_px=0) == 2 * BLOCK_PX
    assert choose_part_px(16_385, on_cuda=True, tile_map_px=0) == 4 * BLOCK_PX
    assert choose_part_px(1000, on_cuda=False, tile_map_px=1024) == BLOCK_PX
    assert choose_part_px(1000, on_cuda=False, tile_map_px=1040) == 2 * BLOCK_PX
    assert choose_part_px(1000, on_cuda=False, tile_map_px=4112) == 8 * BLOCK_PX


@pytest.mark.parametrize("margin_px", [1, 32, 33, 80, 128, 300])
def test_parts_are_large_against_the_margin_that_neighbours_share(margin_px: int) -> None:
    part_px = choose_part_px(1000, on_cuda=False, tile_map_px=0, margin_px=margin_px)
    assert (part_px + 2 * margin_px) ** 2 < 1.13 * part_px**2
    assert part_px == BLOCK_PX or part_px < 64 * margin_px


def candidates(
    longest_px: int, *, largest_px: int = 1024, alignment: int = 16, tile: int | Literal["auto"] = "auto",
    on_cuda: bool = False,
) -> list[int]:  # fmt: skip
    grid = TileGrid(alignment=alignment, halo=32)
    return tile_candidates(grid, longest_px=longest_px, largest_px=largest_px, on_cuda=on_cuda, tile=tile)


def test_tiles_to_choose_from_are_no_larger_than_the_image_or_a_part() -> None:
    assert candidates(20_000) == [256, 512, 1024]
    assert candidates(20_000, largest_px=2048) == [256, 512, 1024, 2048]
    assert candidates(20_000, largest_px=4096, on_cuda=True) == [512, 1024, 2048, 4096]
    assert candidates(600) == [256, 512, 608]
    assert candidates(100) == [112]
    assert candidates(1, alignment=1) == [1]
    assert candidates(20_000, alignment=48, largest_px=3072) == [288, 528, 1056, 2064]
    assert candidates(20_000, largest_px=1024, on_cuda=True, alignment=1) == [512, 1024]


@settings(max_examples=50, deadline=None)
@given(
    longest=st.integers(1, 30_000), stride=st.sampled_from([1, 2, 8, 64]), on_cuda=st.booleans(),
    alignment=st.sampled_from([1, 2, 64, 128]),
)  # fmt: skip
def test_tiles_to_choose_from_fit_the_grid(longest: int, stride: int, on_cuda: bool, alignment: int) -> None:
    alignment = stride if stride > 1 else alignment
    largest = 1024 * stride
    sides = candidates(longest, largest_px=largest, alignment=alignment, on_cuda=on_cuda)
    assert sides
    assert sides == sorted(set(sides))
    assert all(0 < side <= largest and side % alignment == 0 for side in sides)
    assert all(side < longest + alignment for side in sides)


def test_a_given_tile_is_taken_or_refused_with_its_neighbours() -> None:
    assert candidates(20_000, tile=64) == [64]
    assert candidates(100, tile=4096) == [4096]
    with pytest.raises(UsageError, match=r"--tile 100: this model needs a multiple of 16, e\.g\. 96 or 112"):
        candidates(20_000, tile=100)
    with pytest.raises(UsageError, match=r"--tile 7: this model needs a multiple of 16, e\.g\. 16 or 32"):
        candidates(20_000, tile=7)


def test_batches_are_as_configured_or_as_large_as_fits() -> None:
    assert choose_batch(3, on_cuda=False, fits=lambda _: False) == 3
    assert choose_batch("auto", on_cuda=False, fits=lambda _: True) == 1
    for most, batch in ((0, 1), (1, 1), (2, 2), (5, 4), (9, 8)):
        assert choose_batch("auto", on_cuda=True, fits=lambda size, most=most: size <= most) == batch


def costs(bytes_per_px: int = 100, **changes: Any) -> Costs:
    values: dict[str, Any] = {
        "baseline_bytes": 10**9, "network_bytes": lambda side, batch: batch * side**2 * bytes_per_px, "layer_bytes": 2,
        "channels": 3,
    }  # fmt: skip
    return Costs(**{**values, **changes})


def fitting(gigabytes: float, source: Any = "machine", batch: int = 1, **changes: Any) -> list[int]:
    limit = MemoryLimit(round(gigabytes * 1e9), source)
    return tiles_that_fit(
        [256, 512, 1024, 2048], costs(**changes), GRID, margin_px=0, part_px=2048, batch=batch, limit=limit
    )


def test_less_memory_leaves_fewer_and_smaller_tiles() -> None:
    """Of 2048 px with halo the network's pass takes 3 kB x 2112^2 = 13.4 GB, of 1024 px 3.6 GB."""
    assert fitting(100, bytes_per_px=3000) == [256, 512, 1024, 2048]
    assert fitting(10, bytes_per_px=3000) == [256, 512, 1024]
    assert fitting(10, bytes_per_px=3000, batch=4) == [256, 512]
    sizes = [len(fitting(size, bytes_per_px=3000)) for size in (4, 5, 8, 16, 32)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("source", "said"),
    [("machine", "the machine has"), ("cgroup", "the container may have"), ("--max-memory", "--max-memory allows")],
)
def test_too_little_memory_says_how_much_is_needed_who_limits_it_and_what_to_do(source: str, said: str) -> None:
    needed = costs().host_bytes(read_px_of(256, GRID, 0), 1, 2048)
    with pytest.raises(ResourceError) as caught:
        fitting(0.25, source)
    assert str(caught.value) == (
        f"tiles of 256 px need about {needed / 1e9:.1f} GB of memory, and {said} 250.0 MB. "
        "Use a smaller --tile or a smaller model, or allow more memory."
    )


def test_memory_grows_with_tiles_batches_parts_and_layers() -> None:
    least = costs().host_bytes(512, 1, 1024)
    assert least > 10**9
    assert costs().host_bytes(1024, 1, 1024) > least
    assert costs().host_bytes(512, 2, 1024) > least
    assert costs().host_bytes(512, 1, 2048) > least
    assert costs(layer_bytes=4).host_bytes(512, 1, 1024) > least
    assert costs(baseline_bytes=2 * 10**9).host_bytes(512, 1, 1024) == least + 10**9


def test_a_device_of_its_own_has_to_have_room_too_and_spares_the_host() -> None:
    on_host, on_device = costs(10_000), costs(10_000, device_bytes=2 * 10**9)
    assert on_device.host_bytes(1024, 1, 1024) < on_host.host_bytes(1024, 1, 1024)
    plenty = MemoryLimit(10**12, "machine")
    assert on_device.fits(256, 1, 1024, plenty)
    assert not on_device.fits(1024, 1, 1024, plenty)  # 10 GB
    assert on_host.fits(1024, 1, 1024, plenty)


def plan_of(**changes: Any) -> Plan:
    """The upper right part of a slide of 20,000 x 30,000 px at half its size, every fourth pixel."""
    scale = Scale(level=1, scale=1.25, height=8000, width=12_000, downsample=2.5, mpp=0.625)
    layout = MapLayout(
        region=Box(0, 8000, 6000, 4000), stride=4, part_px=1024, margin=2, tile_px=512, alignment=4,
        wanted=np.array([[True, False], [True, True], [False, False]]),
    )  # fmt: skip
    values: dict[str, Any] = {
        "level_0_size": (20_000, 30_000), "scale": scale, "layout": layout, "halo": 20, "batch": 1, "tissue_share": 0.5,
        "memory_bytes": 1_500_000_000, "memory_limit": MemoryLimit(8_000_000_000, "cgroup"), "seconds": 600.0,
    }  # fmt: skip
    return Plan(**{**values, **changes})


def test_places_and_scales_are_those_of_level_0() -> None:
    plan = plan_of()
    assert plan.origin == (0.0, 20_000.0)
    assert plan.region_on_level_0 == Box(0, 20_000, 15_000, 10_000)
    assert (plan.map_downsample, plan.map_mpp, plan.level_0_mpp) == (10.0, 2.5, 0.25)
    unknown = plan_of(scale=Scale(level=0, scale=1.0, height=8000, width=12_000, downsample=1.0, mpp=None))
    assert (unknown.map_downsample, unknown.map_mpp, unknown.level_0_mpp) == (4.0, None, None)


def test_the_region_of_a_whole_slide_is_the_slide_whatever_was_rounded() -> None:
    scale = Scale(level=0, scale=2.0, height=500, width=350, downsample=2.0, mpp=1.0)
    layout = MapLayout(region=Box(0, 0, 500, 350), stride=1, part_px=1024, margin=0, tile_px=512, alignment=16)
    plan = plan_of(level_0_size=(1001, 701), scale=scale, layout=layout)
    assert plan.region_on_level_0 == Box(0, 0, 1001, 701)


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)), downsample=st.floats(0.25, 9), data=st.data(),
    alignment=st.sampled_from([1, 16]),
)  # fmt: skip
def test_regions_on_level_0_lie_in_the_slide(
    size: tuple[int, int], downsample: float, data: st.DataObject, alignment: int
) -> None:
    slide = EmptySlide(*size)
    scale = scale_of(slide, downsample)
    x, y = data.draw(st.integers(0, size[1] - 1)), data.draw(st.integers(0, size[0] - 1))
    region = choose_region(slide, scale, alignment, (x, y, data.draw(st.integers(1, 500)), 40))
    layout = MapLayout(region=region, stride=1, part_px=1024, margin=0, tile_px=512, alignment=alignment)
    found = plan_of(level_0_size=size, scale=scale, layout=layout).region_on_level_0
    assert found.area > 0
    assert Box(0, 0, *size).contains(found)
    assert abs(found.y - region.y * downsample) <= 1
    assert abs(found.bottom - min(region.bottom * downsample, size[0])) <= max(1, downsample)


def test_a_plan_is_told_in_one_line() -> None:
    plan = plan_of()
    text = plan.describe()
    assert "\n" not in text
    tiles = plan.layout.num_tiles
    for part in (
        *("level 1", "shrunk 1.25 x", "4000 x 6000 px of 0.625 um/px", "from 8000, 0 on", "every 4 px"),
        f"{tiles:,} tiles of 512 + 2 x 20 px in 2 parts",
        *("tissue in 50 % of the cells", "about 1.5 GB of memory (limit 8.0 GB, cgroup)", "about 10 min"),
    ):
        assert part in text
    plain = plan_of(
        scale=Scale(level=0, scale=1.0, height=6000, width=4000, downsample=1.0, mpp=None),
        layout=MapLayout(region=Box(0, 0, 6000, 4000), stride=1, part_px=1024, margin=0, tile_px=512, alignment=16),
        tissue_share=1.0, seconds=None, batch=8,
    ).describe()  # fmt: skip
    assert "unknown um/px" in plain
    assert "batch 8" in plain
    for absent in ("shrunk", "enlarged", "from", "every", "tissue", " min", " s,"):
        assert absent not in plain
    enlarged = plan_of(scale=Scale(level=0, scale=0.5, height=8000, width=12_000, downsample=0.5, mpp=0.25)).describe()
    assert "enlarged 2 x" in enlarged


def test_a_plan_is_recorded_in_plain_values() -> None:
    plan = plan_of()
    record = plan.as_record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["region"] == {"x": 8000, "y": 0, "width": 4000, "height": 6000}
    assert (record["level"], record["resampled"], record["mpp"], record["downsample"]) == (1, 1.25, 0.625, 2.5)
    assert (record["tile_px"], record["halo_px"], record["stride"], record["part_px"]) == (512, 20, 4, 1024)
    assert record["num_tiles"] == plan.layout.num_tiles
    assert record["num_parts"] == 2
    assert record["cells"] == {"all": 6, "computed": 3}
    assert (record["memory_bytes"], record["memory_limit_bytes"]) == (1_500_000_000, 8_000_000_000)
    assert record["estimated_s"] == 600.0
    everywhere = dataclasses.replace(plan, layout=dataclasses.replace(plan.layout, wanted=None), seconds=None)
    assert everywhere.as_record()["cells"] is None
    assert everywhere.as_record()["estimated_s"] is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.001, "1 s"), (1.4, "1 s"), (89.4, "89 s"), (90, "2 min"), (600, "10 min"), (5399, "90 min"), (5400, "1.5 h"),
     (360_000, "100.0 h")],
)  # fmt: skip
def test_durations_are_rounded_as_estimates(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


@settings(max_examples=30, deadline=None)
@given(tile=st.integers(1, 100), margin=st.integers(0, 40), halo=st.integers(0, 90), smallest=st.integers(0, 400))
def test_what_is_read_for_a_tile_is_as_large_as_its_read_box(tile: int, margin: int, halo: int, smallest: int) -> None:
    grid = TileGrid(alignment=16, halo=halo, smallest=smallest)
    side = tile * 16
    core = Box(0, 0, side + 2 * margin, side + 2 * margin)
    assert (read_px_of(side, grid, margin),) * 2 == grid.read_box(core)[2:]
