"""Instances are the same to the last bit however a slide is cut, and those of the whole map at once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segkit.geometry import Box, TileGrid
from segkit.inference.contours import Chains, count_segments, without_slits
from segkit.inference.instance_pieces import (
    SEED_REACH_PX,
    averaged_spec,
    find_instances,
    margin_px,
    picture_of,
    trace_instances,
)
from segkit.inference.instances import grow_seeds, label_instances, reach_px
from segkit.inference.joining import MapObject, ObjectJoiner
from segkit.inference.pipeline import Layers, run_jobs
from segkit.inference.sources import ArrayImage
from segkit.models.model_file import InstanceSpec
from tests.inference.jobs import Kept, layout_of, make_job
from tests.inference.maps import content
from tests.inference.test_joining import painted

Map = NDArray[np.uint8]
NUM_CLASSES = 3
SPEC = InstanceSpec(foreground_threshold=0.4, seed_threshold=0.5, min_area_px=0, grow_px=4)
WITH_SLITS = InstanceSpec(foreground_threshold=0.2, seed_threshold=0.5, min_area_px=0, grow_px=6)


def spec_with(**changes: Any) -> InstanceSpec:
    return SPEC.model_copy(update=changes)


def random_maps(seed: int, height: int, width: int) -> Map:
    """Return mask, foreground and distance, (H, W, 3): smooth noise, with seeds of any form and length."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, NUM_CLASSES, (height, width, 3)).astype(np.uint8)
    for layer in (1, 2):
        noise = ndimage.gaussian_filter(rng.normal(size=(height, width)), rng.uniform(0.5, 3))
        maps[..., layer] = np.clip(128 + 90 * noise / (noise.std() + 1e-9), 0, 255)
    return maps


def nuclei_maps(seed: int, height: int, width: int, radius: int = 9) -> Map:
    """Return the same of round objects that touch, as a network sees them."""
    rng = np.random.default_rng(seed)
    seeds = np.ones((height, width), np.bool_)
    number = height * width // (8 * radius**2)
    seeds[rng.integers(0, height, number), rng.integers(0, width, number)] = False
    inside = np.clip(1 - ndimage.distance_transform_edt(seeds) / radius, 0, 1)
    noise = rng.uniform(-0.05, 0.05, (2, height, width))
    classes = 1 + (np.indices((height, width)).sum(axis=0) // (3 * radius)) % 2
    return np.stack(
        [
            np.where(inside > 0, classes, 0),
            255 * np.clip(np.sqrt(inside) + noise[0], 0, 1),
            255 * np.clip(inside + noise[1], 0, 1),
        ],
        axis=-1,
    ).astype(np.uint8)


def join_blocks(maps: Map, spec: InstanceSpec, block_px: int, margin: int) -> list[MapObject]:
    """Return the instances of a map that is worked up in blocks."""
    found: list[MapObject] = []
    whole = Box(0, 0, *maps.shape[:2])
    joiner = joiner_of(whole, spec, block_px, found.append)
    for top in range(0, whole.height, block_px):
        row = []
        for left in range(0, whole.width, block_px):
            block = Box(top, left, block_px, block_px).intersect(whole)
            row.append(work_up(maps, block.expand(margin).intersect(whole), block, spec))
        joiner.add_row(row)
    joiner.finish()
    return found


def joiner_of(whole: Box, spec: InstanceSpec, block_px: int, on_object: Callable[[MapObject], None]) -> ObjectJoiner:
    return ObjectJoiner(
        whole.height,
        whole.width,
        NUM_CLASSES,
        on_object,
        block_px=block_px,
        instances=True,
        min_area_px=spec.min_area_px,
    )


def work_up(maps: Map, place: Box, block: Box, spec: InstanceSpec) -> dict[str, NDArray[Any]]:
    _, foreground, distance = np.moveaxis(maps[place.slices], -1, 0)
    found = find_instances(foreground, distance, place, block, spec)
    return trace_instances(maps[block.slices][..., 0], maps[block.slices][..., 1], found, NUM_CLASSES)


def facts_of(labels: NDArray[np.int32], maps: Map) -> list[tuple[float, ...]]:
    """Return class, area, centroid and probability of labelled objects, found one by one; sorted."""
    facts = []
    for label in range(1, int(labels.max()) + 1):
        area = labels == label
        counts = np.bincount(maps[..., 0][area], minlength=NUM_CLASSES)[1:]
        ys, xs = np.nonzero(area)
        probability = maps[..., 1][area].mean() / 255
        facts.append((1 + int(counts.argmax()), len(ys), ys.mean() + 0.5, xs.mean() + 0.5, probability))
    return sorted(facts)


def facts_of_objects(found: list[MapObject]) -> list[tuple[float, ...]]:
    return sorted((one.class_index, one.area_px, one.y, one.x, one.probability) for one in found)


sizes = st.integers(1, 40)
specs = st.builds(
    InstanceSpec,
    foreground_threshold=st.sampled_from([0.2, 0.4, 0.6]),
    seed_threshold=st.sampled_from([0.3, 0.5, 0.7]),
    min_area_px=st.sampled_from([0, 1, 12]),
    grow_px=st.integers(0, 9),
    smooth_px=st.sampled_from([0.0, 0.5, 1.0]),
)


# Exact


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), height=sizes, width=sizes, block_px=st.integers(3, 20), spec=specs)
def test_instances_do_not_depend_on_the_cut_where_all_seeds_are_seen(
    seed: int, height: int, width: int, block_px: int, spec: InstanceSpec
) -> None:
    maps = random_maps(seed, height, width)
    whole = join_blocks(maps, spec, 64, 0)
    labels = label_instances(maps[..., 1], maps[..., 2], spec)
    for one, other in zip(facts_of_objects(whole), facts_of(labels, maps), strict=True):
        assert one == pytest.approx(other)
    assert content(join_blocks(maps, spec, block_px, 64)) == content(whole)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), block_px=st.integers(40, 120), grow_px=st.integers(2, 12))
def test_the_margin_is_enough_for_seeds_smaller_than_it_reaches(seed: int, block_px: int, grow_px: int) -> None:
    """With blocks that are as small as the margin: each is looked at from many sides."""
    spec = spec_with(grow_px=grow_px, min_area_px=20)
    maps = nuclei_maps(seed, 150, 230)
    seeds = ndimage.find_objects(ndimage.label((maps[..., 1] >= 102) & (maps[..., 2] >= 128))[0])
    assert max(side.stop - side.start for box in seeds for side in box) < SEED_REACH_PX
    assert content(join_blocks(maps, spec, block_px, margin_px(spec, 1))) == content(join_blocks(maps, spec, 256, 0))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), height=sizes, width=sizes, block_px=st.integers(2, 12), spec=specs)
@example(seed=6, height=40, width=40, block_px=8, spec=WITH_SLITS)  # one of them closed in itself
@example(seed=14, height=40, width=40, block_px=8, spec=WITH_SLITS)
def test_whatever_seeds_reach_outlines_are_whole_and_cover_each_pixel_once(
    seed: int, height: int, width: int, block_px: int, spec: InstanceSpec
) -> None:
    """With the least margin blocks cannot follow long seeds, and learn later that what touches is one instance."""
    maps = random_maps(seed, height, width)
    spec = spec.model_copy(update={"min_area_px": 0})
    found = join_blocks(maps, spec, block_px, reach_px(spec) + 1)
    for one in found:
        for ring in one.rings:
            assert len(ring) > 3
            assert (ring[0] == ring[-1]).all()
        lengths = [np.hypot(*np.diff(ring, axis=0).T).sum() for ring in one.rings]
        assert one.perimeter_px == pytest.approx(sum(lengths))
    covered = grow_seeds(maps[..., 1], maps[..., 2], spec) > 0
    assert np.array_equal(painted(found, covered.shape) > 0, covered)


# By way of the pipeline


class MapsPredictor:
    """A network of one pixel that says of each what it is."""

    grid = TileGrid(alignment=4, halo=4)

    def submit(
        self, images_BHWC: Map, crops: Sequence[tuple[slice, slice]]
    ) -> Callable[[], Sequence[Layers]]:  # fmt: skip
        layers = [tuple(np.moveaxis(image[crop], -1, 0).copy()) for image, crop in zip(images_BHWC, crops, strict=True)]
        return lambda: layers


def rows_by_pipeline(
    maps: Map,
    spec: InstanceSpec,
    *,
    block_px: int,
    per_part: int,
    tile_px: int,
    batch: int,
    backwards: bool,
    **cut: Any,
) -> list[list[dict[str, NDArray[Any]] | None]]:
    """Return the rows of blocks that are kept of a slide with these maps."""
    source, kept = ArrayImage(maps), Kept()
    layout = layout_of(
        source,
        MapsPredictor.grid,
        tile_px=tile_px,
        part_px=block_px * per_part,
        block_px=block_px,
        margin=margin_px(spec, 4),
        **cut,
    )

    def keep(layers: Layers, place: Box, block: Box) -> dict[str, NDArray[Any]]:
        mask, foreground, _ = (layer[block.shift(-place.y, -place.x).slices] for layer in layers)
        found = find_instances(layers[1], layers[2], place, block, spec)
        return trace_instances(mask, foreground, found, NUM_CLASSES)

    parts = range(layout.num_parts)[:: -1 if backwards else 1]
    run_jobs(iter([make_job(source, layout, kept, parts=parts, work_up=keep, batch=batch)]), MapsPredictor())
    assert kept.errors == []
    return [
        [kept.parts[part][number] for part, number in layout.row_of_blocks(row)] for row in range(layout.block_rows)
    ]


def objects_of_rows(rows: list[list[dict[str, NDArray[Any]] | None]], maps: Map, block_px: int) -> list[MapObject]:
    found: list[MapObject] = []
    joiner = joiner_of(Box(0, 0, *maps.shape[:2]), SPEC, block_px, found.append)
    for row in rows:
        joiner.add_row(row)
    joiner.finish()
    return found


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6), height=st.integers(1, 110), width=st.integers(1, 110), block=st.integers(4, 12),
    per_part=st.integers(1, 4), tile=st.integers(2, 30), batch=st.integers(1, 3), backwards=st.booleans(),
)  # fmt: skip
def test_what_is_kept_is_the_same_for_all_parts_tiles_and_orders(
    seed: int, height: int, width: int, block: int, per_part: int, tile: int, batch: int, backwards: bool
) -> None:
    """Also where seeds are longer than the margin: only the lattice of blocks counts."""
    maps, block_px = random_maps(seed, height, width), 4 * block
    rows = rows_by_pipeline(
        maps, SPEC, block_px=block_px, per_part=per_part, tile_px=4 * tile, batch=batch, backwards=backwards
    )
    expected = rows_by_pipeline(maps, SPEC, block_px=block_px, per_part=32, tile_px=512, batch=1, backwards=False)
    for row, expected_row in zip(rows, expected, strict=True):
        for block_here, other in zip(row, expected_row, strict=True):
            assert block_here is not None
            assert other is not None
            assert list(block_here) == list(other)
            assert all(block_here[name].tobytes() == other[name].tobytes() for name in other)


@pytest.mark.parametrize("changes", [{}, {"smooth_px": 2.0}, {"foreground_threshold": 0.0}])
def test_cells_that_are_left_out_hold_no_instances_and_nothing_grows_into_them(changes: dict[str, float]) -> None:
    maps = np.full((600, 1100, 3), 255, np.uint8)
    maps[..., 0] = 1
    wanted = np.array([[True, False, True], [True, True, False]])
    rows = rows_by_pipeline(
        maps, spec_with(**changes), block_px=512, per_part=1, tile_px=256, batch=1, backwards=True, wanted=wanted
    )  # fmt: skip
    assert [[block is None for block in row] for row in rows] == [[False, True, False], [False, False, True]]
    found = objects_of_rows(rows, maps, 512)
    assert sorted(one.area_px for one in found) == [512 * 76, 512 * 512 + 88 * 1024]


# What an instance is


def test_class_and_size_are_those_of_the_whole_instance() -> None:
    """Three pixels on one side of a border and four on the other."""
    maps = np.zeros((4, 10, 3), np.uint8)
    maps[1, 2:9] = 255
    maps[1, 2:9, 0] = [2, 2, 2, 1, 1, 0, 0]
    for least, expected in ((7, [(2, 7)]), (8, [])):
        found = join_blocks(maps, spec_with(min_area_px=least), 5, 5)
        assert [(one.class_index, one.area_px) for one in found] == expected
    maps[1, 2:9, 0] = [2, 2, 0, 1, 1, 0, 0]
    assert [one.class_index for one in join_blocks(maps, SPEC, 5, 5)] == [1]


def test_instances_that_touch_across_a_border_stay_two() -> None:
    maps = np.full((6, 20, 3), 255, np.uint8)
    maps[..., 0] = 1
    maps[:, 9:11, 2] = 90  # no seeds: both grow there, and meet at the border of two blocks
    found = join_blocks(maps, SPEC, 10, 5)
    assert sorted((one.area_px, one.x) for one in found) == [(60, 5.0), (60, 15.0)]
    assert [one.perimeter_px for one in found] == pytest.approx([4 * np.sqrt(0.5) + 2 * 9 + 2 * 5] * 2)


def test_touching_instances_are_told_apart_in_the_picture() -> None:
    maps = np.full((6, 20, 3), 255, np.uint8)
    maps[..., 0], maps[:, 9:11, 2] = 2, 90
    whole = Box(0, 0, 6, 20)
    shown = picture_of(maps[..., 0], find_instances(maps[..., 1], maps[..., 2], whole, whole, SPEC))
    assert np.array_equal(shown, np.broadcast_to(2 * (np.arange(20) != 9), (6, 20)))


def test_several_models_agree_on_the_mean() -> None:
    other = InstanceSpec(foreground_threshold=0.6, seed_threshold=0.3, min_area_px=31, grow_px=9)
    mean = averaged_spec([SPEC, other])
    assert (mean.foreground_threshold, mean.seed_threshold) == pytest.approx((0.5, 0.4))
    assert (mean.min_area_px, mean.grow_px) == (16, 6)
    assert averaged_spec([other]) is other


@given(grow_px=st.integers(0, 300), alignment=st.sampled_from([1, 16, 24, 128]))
def test_the_margin_fits_the_network(grow_px: int, alignment: int) -> None:
    margin = margin_px(spec_with(grow_px=grow_px), alignment)
    assert margin % alignment == 0
    assert 0 <= margin - grow_px - 1 - SEED_REACH_PX < alignment


# Outlines that run between what is one


def chains(*rings: list[tuple[int, int]]) -> Chains:
    points = np.array([point for ring in rings for point in ring], np.int32).reshape(-1, 2)
    length = np.array([len(ring) for ring in rings], np.intp)
    return Chains(np.arange(len(rings)), length, np.ones(len(rings), bool), points)


def rings_of(found: Chains) -> dict[int, list[tuple[int, ...]]]:
    parts = np.split(found.points, np.cumsum(found.length)[:-1])
    return {owner: list(map(tuple, ring.tolist())) for owner, ring in zip(found.owner.tolist(), parts, strict=True)}


SQUARE = [(0, 0), (0, 8), (8, 8), (8, 0)]


def test_slits_are_cut_off() -> None:
    bent = [(0, 0), (0, 4), (4, 4), (4, 6), (4, 2), (4, 4), (0, 4), (0, 8), (8, 8), (8, 0)]
    only_a_slit = [(2, 2), (2, 6), (4, 8), (2, 6)]
    begins_in_one = [(-4, 4), (0, 4), (0, 8), (8, 8), (8, 0), (0, 0), (0, 4)]
    found = without_slits(chains(bent, SQUARE, only_a_slit, begins_in_one))
    assert rings_of(found) == {0: SQUARE, 1: SQUARE, 3: SQUARE}
    assert count_segments(found, 5).tolist() == [[16, 0], [16, 0], [0, 0], [16, 0], [0, 0]]


def test_rings_without_slits_stay_as_they_are() -> None:
    rings = chains(SQUARE, [(0, 1), (1, 2), (2, 1), (1, 0)])
    assert without_slits(rings) is rings
    assert count_segments(rings, 2).tolist() == [[16, 0], [0, 4]]
