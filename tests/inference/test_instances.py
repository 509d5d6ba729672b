"""Instances from maps: the rule against itself written out, its invariances, its reach, real shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segkit.data.instance_targets import target_planes
from segkit.inference.instances import (
    STAGES,
    drop_small,
    grow_seeds,
    label_instances,
    number_in_reading_order,
    reach_px,
    seed_mask,
    smoothed,
)
from segkit.models.model_file import InstanceSpec

Maps = tuple[NDArray[np.uint8], NDArray[np.uint8]]
SIDES = ((-1, 0), (0, -1), (0, 1), (1, 0))  # above, left, right, below: the order in which neighbours are asked


def spec(*, foreground: float = 0.5, seed: float = 0.5, area: int = 0, grow: int = 12) -> InstanceSpec:
    return InstanceSpec(foreground_threshold=foreground, seed_threshold=seed, min_area_px=area, grow_px=grow)


def by_the_rule(foreground: NDArray[np.uint8], distance: NDArray[np.uint8], rule: InstanceSpec) -> NDArray[np.int32]:
    """Return the grown seeds, pixel by pixel as the module's docstring says."""
    is_known = foreground > 0
    foreground, distance = smoothed(foreground, rule.smooth_px), smoothed(distance, rule.smooth_px)
    is_foreground = (foreground / 255 >= rule.foreground_threshold - 1e-9) & is_known
    labels = ndimage.label(is_foreground & (distance / 255 >= rule.seed_threshold - 1e-9))[0].astype(np.int32)
    each = rule.grow_px // STAGES
    for stage in range(1, STAGES + 1):
        level = rule.seed_threshold * (1 - stage / STAGES)
        allowed = is_foreground & (distance / 255 >= level - 1e-9)
        for _ in range(each if stage < STAGES else rule.grow_px - each * (STAGES - 1)):
            before = np.pad(labels, 1)
            for y, x in np.argwhere(allowed & (labels == 0)):
                beside = [before[y + 1 + dy, x + 1 + dx] for dy, dx in SIDES]
                labels[y, x] = next((one for one in beside if one), 0)
    return labels


def same_objects(one: NDArray[np.int32], other: NDArray[np.int32]) -> bool:
    return np.array_equal(number_in_reading_order(one), number_in_reading_order(other))


@st.composite
def random_maps(draw: st.DrawFn, side: int = 24) -> Maps:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    blur = draw(st.sampled_from([0.0, 1.0, 2.0]))
    maps = []
    for _ in range(2):
        noise = ndimage.gaussian_filter(rng.normal(size=(side, side)), blur) if blur else rng.normal(size=(side, side))
        scaled = (noise - noise.min()) / (noise.max() - noise.min())
        maps.append((scaled * 255).astype(np.uint8))
    return maps[0], maps[1]


@st.composite
def rules(draw: st.DrawFn) -> InstanceSpec:
    return spec(
        foreground=draw(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0])),
        seed=draw(st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7])),
        grow=draw(st.integers(0, 17)),
    )


@settings(max_examples=30, deadline=None)
@given(random_maps(), rules())
def test_growing_is_what_the_rule_says(maps: Maps, rule: InstanceSpec) -> None:
    rule = rule.model_copy(update={"smooth_px": 0.5 * (rule.grow_px % 3)})
    assert same_objects(grow_seeds(*maps, rule), by_the_rule(*maps, rule))


@settings(max_examples=30, deadline=None)
@given(random_maps(), rules(), st.integers(0, 9), st.integers(0, 9))
def test_the_position_in_a_larger_map_makes_no_difference(maps: Maps, rule: InstanceSpec, top: int, left: int) -> None:
    rule = rule.model_copy(update={"foreground_threshold": max(rule.foreground_threshold, 0.2)})
    framed = [np.pad(one, ((top, 3), (left, 5))) for one in maps]
    moved = grow_seeds(framed[0], framed[1], rule)[top:-3, left:-5]
    assert same_objects(moved, grow_seeds(*maps, rule))


@settings(max_examples=30, deadline=None)
@given(random_maps(side=60), st.integers(4, 10), st.sampled_from([0.0, 0.5, 1.0]))
def test_nothing_depends_on_maps_further_away_than_growth_and_the_seeds_own_extent(
    maps: Maps, grow: int, smooth: float
) -> None:
    rule = spec(foreground=0.4, seed=0.6, grow=grow).model_copy(update={"smooth_px": smooth})
    smooth_maps = smoothed(maps[0], smooth), smoothed(maps[1], smooth)
    seeds = ndimage.label(seed_mask(*smooth_maps, rule))[0]
    extent = max((max(s.stop - s.start for s in box) for box in ndimage.find_objects(seeds)), default=0)
    margin = reach_px(rule) + extent
    whole = grow_seeds(*maps, rule)
    window = grow_seeds(maps[0][5:55, 3:57].copy(), maps[1][5:55, 3:57].copy(), rule)
    if 2 * margin < 50:
        inside = (slice(margin, 50 - margin), slice(margin, 54 - margin))
        assert same_objects(window[inside].copy(), whole[5:55, 3:57][inside].copy())


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_smoothing_is_a_gaussian_and_the_same_wherever_a_pixel_lies(sigma: float) -> None:
    values = np.random.default_rng(1).integers(0, 256, (90, 120)).astype(np.uint8)
    found = smoothed(values, sigma)
    expected = ndimage.gaussian_filter(values.astype(float), sigma, mode="mirror", radius=int(np.ceil(3 * sigma)))
    assert np.abs(found - expected).max() <= 2  # OpenCV's weights are whole numbers of 1/256
    reach = reach_px(spec(grow=0).model_copy(update={"smooth_px": sigma}))
    for top, left in ((1, 2), (13, 7), (32, 50)):
        part = smoothed(values[top : top + 50, left : left + 61].copy(), sigma)
        inside = (slice(reach, 50 - reach), slice(reach, 61 - reach))
        assert np.array_equal(part[inside], found[top : top + 50, left : left + 61][inside])
    assert (smoothed(np.full((5, 9), 255, np.uint8), sigma) == 255).all()


@settings(max_examples=20, deadline=None)
@given(random_maps(), rules())
def test_every_object_is_one_piece_of_foreground_with_one_seed(maps: Maps, rule: InstanceSpec) -> None:
    labels = label_instances(*maps, rule)
    seeds, num_seeds = ndimage.label(seed_mask(*maps, rule) & (maps[0] > 0))
    assert labels.max(initial=0) == num_seeds
    for index in range(1, num_seeds + 1):
        assert ndimage.label(labels == index)[1] == 1
        assert len(np.unique(seeds[(labels == index) & (seeds > 0)])) == 1
    assert (maps[0][labels > 0] / 255 >= rule.foreground_threshold - 1e-9).all()


def test_touching_discs_of_different_size_come_out_as_they_were() -> None:
    y, x = np.mgrid[:90, :120]
    truth = np.zeros((90, 120), np.int32)
    truth[np.hypot(y - 45, x - 40) < 30] = 1
    truth[(np.hypot(y - 45, x - 80) < 14) & (truth == 0)] = 2
    truth[(np.hypot(y - 20, x - 73) < 9) & (truth == 0)] = 3
    planes = target_planes(truth)
    labels = label_instances(planes[..., 0] * np.uint8(255), planes[..., 1].copy(), spec(seed=0.4, grow=45))
    assert labels.max() == 3
    for index in (1, 2, 3):
        found = labels == np.bincount(labels[truth == index]).argmax()
        assert (found & (truth == index)).sum() / (found | (truth == index)).sum() > 0.97


def test_small_objects_are_dropped_and_the_others_numbered_in_reading_order() -> None:
    maps = np.zeros((12, 12), np.uint8)
    maps[1:3, 8:11] = 255  # 6 px, first in reading order
    maps[2:5, 1:4] = 255  # 9 px
    maps[8, 8] = 255  # 1 px
    labels = label_instances(maps, maps, spec(area=6, grow=0))
    assert (labels[1, 8], labels[2, 1], labels[8, 8], labels.max()) == (1, 2, 0, 2)
    assert label_instances(maps, maps, spec(area=7, grow=0)).max() == 1
    assert drop_small(labels, 0) is labels


def test_foreground_without_a_seed_and_beyond_reach_belongs_to_no_object() -> None:
    foreground = np.full((1, 30), 255, np.uint8)
    foreground[0, 20] = 0
    distance = np.zeros((1, 30), np.uint8)
    distance[0, 0] = 255
    assert np.count_nonzero(label_instances(foreground, distance, spec(grow=40))) == 11  # a quarter of the rounds + 1
    assert np.count_nonzero(label_instances(foreground, distance, spec(grow=400))) == 20


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.7, 1.0])
def test_a_threshold_is_reached_by_the_value_that_it_names(share: float) -> None:
    value = round(share * 255, 6)
    for map_value in range(256):
        maps = np.full((1, 1), map_value, np.uint8)
        assert seed_mask(maps, maps, spec(foreground=share, seed=share))[0, 0] == (map_value >= value)


def test_empty_maps_have_no_instances() -> None:
    nothing = np.zeros((5, 7), np.uint8)
    assert not label_instances(nothing, nothing, spec()).any()
    assert label_instances(nothing, nothing, spec()).dtype == np.int32
