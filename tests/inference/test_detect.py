"""The list of detections is the same wherever a map is cut, and what plain definitions and known libraries give."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import label
from skimage.morphology import local_maxima

from segkit.geometry import Box
from segkit.inference.candidates import Disk
from segkit.inference.detect import (
    DetectorSettings,
    MapGrid,
    detect,
    detections_of_runs,
    find_runs,
    margin,
    suppress,
)
from segkit.points import FULL_SCORE, Detections
from tests.inference.plain_sums import plain_sums

TINY = 1e-3  # an NMS radius that suppresses nothing

Scores = NDArray[np.uint16]


@st.composite
def score_maps(draw: st.DrawFn, max_side: int = 24, max_classes: int = 3) -> Scores:
    """Maps of all textures: noise, plateaus of few values, saturated blobs, constant."""
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    shape = (height, width, draw(st.integers(1, max_classes)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(["noise", "plateaus", "saturated", "sparse", "constant"]))
    if kind == "noise":
        return rng.integers(0, 65536, shape, dtype=np.uint16)
    if kind == "plateaus":
        return (rng.integers(0, draw(st.integers(2, 5)), shape) * 16383).astype(np.uint16)
    if kind == "constant":
        return np.full(shape, rng.choice([0, 1, 40000, 65535]), np.uint16)
    seeds = rng.random(shape) < 0.03
    if kind == "sparse":
        return np.where(seeds, 65535, 0).astype(np.uint16)
    wide = np.pad(seeds, ((2, 2), (2, 2), (0, 0)))
    blobs = np.max([np.roll(wide, (dy, dx), (0, 1)) for dy in (-2, -1, 0, 1, 2) for dx in (-2, -1, 0, 1, 2)], axis=0)
    return np.where(blobs[2:-2, 2:-2], 65535, 100).astype(np.uint16)


@st.composite
def settings_for(draw: st.DrawFn, num_classes: int) -> DetectorSettings:
    return DetectorSettings(
        nms_radius=draw(st.sampled_from([TINY, 1.0, 2.0, 3.7, 9.0])),
        lowest=tuple(draw(st.sampled_from([0.0, 0.1, 0.5])) for _ in range(num_classes)),
        smooth_radius=draw(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.9, 6.0])),
        exclusive=draw(st.booleans()),
    )


def assert_same(a: Detections, b: Detections) -> None:
    for one, other in zip(a, b, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


Columns = dict[str, NDArray[np.generic]]


def blocks_of(height: int, width: int, block_px: int) -> Iterator[Box]:
    for y in range(0, height, block_px):
        for x in range(0, width, block_px):
            yield Box(y, x, block_px, block_px).intersect(Box(0, 0, height, width))


def runs_of(scores: Scores, block: Box, settings: DetectorSettings, *, more: int = 0) -> Columns:
    """Return the runs of a block, found with a copy of nothing but what it depends on."""
    height, width = scores.shape[:2]
    region = block.expand(margin(settings) + more).intersect(Box(0, 0, height, width))
    return find_runs(scores[region.slices].copy(), region, block, height, width, settings)


@given(
    data=st.data(), scores=score_maps(), block_px=st.integers(1, 25), more=st.integers(0, 9), seed=st.integers(0, 99)
)
def test_detections_do_not_depend_on_how_a_map_is_cut(
    data: st.DataObject, scores: Scores, block_px: int, more: int, seed: int
) -> None:
    settings = data.draw(settings_for(scores.shape[2]))
    height, width = scores.shape[:2]
    blocks = [runs_of(scores, block, settings, more=more) for block in blocks_of(height, width, block_px)]
    for block in blocks:
        assert [column.dtype for column in block.values()] == [np.int32] * 4 + [np.int64, np.uint8]
    order = np.random.default_rng(seed).permutation(len(blocks))
    found = detections_of_runs((blocks[number] for number in order), height, width, settings)
    assert_same(found, detect(scores, settings))
    assert_same(found, detect(scores, settings, block_px=block_px))


@given(data=st.data(), scores=score_maps(), block_px=st.integers(2, 12), share=st.floats(0.1, 0.9))
def test_blocks_far_from_every_score_can_be_left_out(
    data: st.DataObject, scores: Scores, block_px: int, share: float
) -> None:
    settings = data.draw(settings_for(scores.shape[2]))
    height, width = scores.shape[:2]
    blocks = list(blocks_of(height, width, block_px))
    empty = np.random.default_rng(len(blocks)).random(len(blocks)) < share
    for block in np.array(blocks)[empty]:
        scores[Box(*block).slices] = 0

    def is_far(block: Box) -> bool:
        return not scores[block.expand(margin(settings)).intersect(Box(0, 0, height, width)).slices].any()

    found = [None if is_far(block) else runs_of(scores, block, settings) for block in blocks]
    assert_same(detections_of_runs(found, height, width, settings), detect(scores, settings))


def test_large_maps_are_worked_on_in_blocks_with_the_same_result() -> None:
    scores = np.random.default_rng(0).integers(0, 65536, (300, 1100, 2), dtype=np.uint16)
    settings = DetectorSettings(nms_radius=8, lowest=(0.2, 0.2), smooth_radius=3)
    found = detect(scores, settings)
    assert len(found.scores) > 1000
    for block_px in (111, 512, 1100):
        assert_same(found, detect(scores, settings, block_px=block_px))


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_plateau_over_a_border_is_one_detection_in_its_middle(cut: int) -> None:
    scores = np.zeros((9, 9, 1), np.uint16)
    scores[2:8, 1:6] = 40000
    settings = DetectorSettings(nms_radius=TINY, lowest=(0.1,))
    assert detect(scores, settings, block_px=cut).positions.tolist() == [[5.0, 3.5]]


@pytest.mark.parametrize("cut", range(1, 8))
def test_what_is_higher_two_pixels_beyond_a_border_makes_a_shoulder(cut: int) -> None:
    """A pixel right of it is as high, and the next one higher: no plateau of which all pixels are in sight is one."""
    scores = np.array([[1, 5, 5, 5, 5, 9, 2]], np.uint16)[..., None]
    settings = DetectorSettings(nms_radius=TINY, lowest=(0.0,))
    assert detect(scores, settings, block_px=cut).positions.tolist() == [[0.5, 5.5]]


@pytest.mark.parametrize(("y", "x"), [(0, 4), (4, 0), (8, 4), (4, 11), (0, 0)])
def test_what_rises_up_to_the_border_has_its_middle_beyond(y: int, x: int) -> None:
    scores = np.zeros((9, 12, 1), np.uint16)
    scores[y, x] = 60000
    settings = DetectorSettings(nms_radius=20, lowest=(0.1,))
    assert len(detect(scores, settings).scores) == 0
    scores[3, 5] = 20000  # which it would suppress, as the better one
    assert detect(scores, settings).positions.tolist() == [[3.5, 5.5]]


def test_a_saturated_object_at_the_border_is_detected_where_its_middle_is_inside() -> None:
    scores = np.zeros((9, 12, 1), np.uint16)
    scores[0:5, 4:7] = 65535
    settings = DetectorSettings(nms_radius=2, lowest=(0.1,))
    assert detect(scores, settings).positions.tolist() == [[2.5, 5.5]]


@pytest.mark.parametrize("smooth_radius", [0.0, 2.5])
def test_a_region_that_lacks_the_margin_is_refused(smooth_radius: float) -> None:
    scores = np.zeros((40, 40, 1), np.uint16)
    settings = DetectorSettings(nms_radius=1, lowest=(0.1,), smooth_radius=smooth_radius)
    block = Box(15, 15, 10, 10)
    runs_of(scores, block, settings)
    with pytest.raises(ValueError, match="needs Box"):
        runs_of(scores, block, settings, more=-1)
    with pytest.raises(ValueError, match="of a map of 20 x 40"):
        find_runs(scores, Box(0, 0, 40, 40), block, 20, 40, settings)


def regional_maxima(values: NDArray[np.integer[Any]]) -> list[tuple[tuple[float, ...], int]]:
    """Return centre and value of each regional maximum above 0, by a known library."""
    if values.min() == values.max():  # the library's maxima are higher than something
        return [((len(values) / 2, values.shape[1] / 2), int(values[0, 0]))] if values[0, 0] else []
    plateaus = label(local_maxima(values, connectivity=2), connectivity=2)
    pixels = [np.argwhere(plateaus == number) for number in range(1, plateaus.max() + 1)]
    found = [(tuple(where.mean(axis=0) + 0.5), int(values[tuple(where[0])])) for where in pixels]
    return [one for one in found if one[1] > 0]


@given(
    scores=score_maps(max_classes=1),
    radius=st.sampled_from([0.0, 1.0, 1.5, 2.9, 6.0]),
    block_px=st.integers(1, 25),
)
def test_candidates_are_the_regional_maxima_of_the_smoothed_map(scores: Scores, radius: float, block_px: int) -> None:
    settings = DetectorSettings(nms_radius=TINY, lowest=(0.0,), smooth_radius=radius)
    found = detect(scores, settings, block_px=block_px)
    height, width = scores.shape[:2]
    # Plateaus around each other can have one centre, and are suppressed then.
    expected = {
        (round(y, 9), round(x, 9)): value
        for (y, x), value in sorted(regional_maxima(plain_sums(scores[..., 0], radius)), key=lambda one: one[1])
        if (height <= 2 or 0.5 < y < height - 0.5) and (width <= 2 or 0.5 < x < width - 0.5)
    }
    full = FULL_SCORE * Disk(radius).num_pixels
    got = {
        (round(y, 9), round(x, 9)): round(score * full)
        for (y, x), score in zip(found.positions.tolist(), found.scores.tolist(), strict=True)
    }
    assert got == expected


def naive_suppression(positions: NDArray[np.float64], radius: float) -> list[bool]:
    kept: list[int] = []
    for index, position in enumerate(positions):
        if all(((positions[other] - position) ** 2).sum() > radius * radius for other in kept):
            kept.append(index)
    return [index in kept for index in range(len(positions))]


@given(
    st.lists(st.tuples(st.integers(-60, 60), st.integers(-60, 60)), max_size=80),
    st.sampled_from([0.01, 0.5, 1.0, 2.0, 2.5, 5.0, 7.3, 20.0, 500.0]),
    st.sampled_from([0.25, 0.5, 1.0]),
)
def test_suppression_is_what_it_is_by_definition(corners: list[tuple[int, int]], radius: float, spacing: float) -> None:
    positions = np.array(corners, np.float64).reshape(-1, 2) * spacing
    assert suppress(positions, radius).tolist() == naive_suppression(positions, radius)


def test_suppression_includes_the_radius_itself() -> None:
    positions = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 4.01]])
    assert suppress(positions, 5.0).tolist() == [True, False, True]


def test_many_close_candidates_are_suppressed_without_comparing_all_pairs() -> None:
    positions = np.random.default_rng(0).random((50_000, 2)) * 40
    kept = positions[suppress(positions, 10.0)]
    distances = np.linalg.norm(kept[:, None] - kept, axis=2) + 100 * np.eye(len(kept))
    assert distances.min() > 10
    assert np.linalg.norm(positions[:, None] - kept, axis=2).min(axis=1).max() <= 10


@given(scores=score_maps(max_side=16), smooth_radius=st.sampled_from([0.0, 1.0, 2.3]))
def test_a_map_turned_over_has_the_detections_turned_over(scores: Scores, smooth_radius: float) -> None:
    height, width, num_classes = scores.shape
    settings = DetectorSettings(
        nms_radius=TINY, lowest=(0.0,) * num_classes, smooth_radius=smooth_radius, exclusive=False
    )
    plain = detect(scores, settings)

    def sorted_list(positions: NDArray[np.float64], found: Detections) -> list[tuple[float, ...]]:
        rows = np.column_stack([positions.round(6), found.classes, found.scores])
        return sorted(map(tuple, rows.tolist()))

    for turned, back in (
        (scores[::-1], lambda yx: np.column_stack([height - yx[:, 0], yx[:, 1]])),
        (scores[:, ::-1], lambda yx: np.column_stack([yx[:, 0], width - yx[:, 1]])),
        (scores.transpose(1, 0, 2), lambda yx: yx[:, ::-1]),
    ):
        found = detect(np.ascontiguousarray(turned), settings)
        assert sorted_list(back(found.positions), found) == sorted_list(plain.positions, plain)


@given(data=st.data(), scores=score_maps(), threshold=st.sampled_from([0.2, 0.5, 0.9]))
def test_a_list_cut_at_a_threshold_is_the_list_found_with_it(
    data: st.DataObject, scores: Scores, threshold: float
) -> None:
    settings = data.draw(settings_for(scores.shape[2]))
    same = {"nms_radius": settings.nms_radius, "smooth_radius": settings.smooth_radius}
    low = detect(scores, DetectorSettings(lowest=(0.1,) * scores.shape[2], **same))
    high = detect(scores, DetectorSettings(lowest=(threshold,) * scores.shape[2], **same))
    assert_same(Detections(*(values[low.scores >= threshold] for values in low)), high)


@given(scores=score_maps(max_classes=1), smooth_radius=st.sampled_from([0.0, 1.0, 2.0, 6.0]))
def test_a_threshold_at_a_score_keeps_that_detection(scores: Scores, smooth_radius: float) -> None:
    found = detect(scores, DetectorSettings(nms_radius=2, lowest=(0.0,), smooth_radius=smooth_radius))
    for number, score in enumerate(found.scores.tolist()):
        settings = DetectorSettings(nms_radius=2, lowest=(score,), smooth_radius=smooth_radius)
        again = detect(scores, settings)
        assert len(again.scores) >= number + 1
        assert again.scores.min() == score


def test_a_saturated_object_is_detected_in_its_middle() -> None:
    scores = np.zeros((60, 80, 1), np.uint16)
    y, x = np.mgrid[:60, :80]
    scores[(y - 30) ** 2 + (x - 41) ** 2 <= 9**2] = 65535
    for smooth_radius in (0.0, 3.0, 5.0):
        found = detect(scores, DetectorSettings(nms_radius=12, lowest=(0.5,), smooth_radius=smooth_radius))
        assert found.positions.tolist() == [[30.5, 41.5]]
        assert found.scores.tolist() == [1.0]


def test_maps_that_hold_nothing_and_maps_that_hold_nothing_else() -> None:
    settings = DetectorSettings(nms_radius=3, lowest=(0.0,))
    assert len(detect(np.zeros((9, 9, 1), np.uint16), settings).scores) == 0
    assert detect(np.full((9, 12, 1), 65535, np.uint16), settings).positions.tolist() == [[4.5, 6.0]]
    for nothing in (detections_of_runs([], 5, 7, settings), detections_of_runs([None], 5, 7, settings)):
        assert [values.shape for values in nothing] == [(0, 2), (0,), (0,)]
        assert [values.dtype for values in nothing] == [np.float64, np.int64, np.float64]


def test_the_best_comes_first_and_of_equals_the_upper_then_the_left() -> None:
    scores = np.zeros((20, 40, 1), np.uint16)
    for y, x, value in ((15, 5, 500), (5, 30, 500), (5, 10, 500), (15, 30, 60000)):
        scores[y, x] = value
    found = detect(scores, DetectorSettings(nms_radius=2, lowest=(0.0,)))
    assert found.positions.tolist() == [[15.5, 30.5], [5.5, 10.5], [5.5, 30.5], [15.5, 5.5]]
    assert found.scores.tolist() == [60000 / 65535] + [500 / 65535] * 3


def test_positions_are_those_of_level_0() -> None:
    scores = np.zeros((8, 8, 1), np.uint16)
    scores[2, 5] = 65535
    settings = DetectorSettings(nms_radius=1, lowest=(0.5,))
    assert detect(scores, settings).positions.tolist() == [[2.5, 5.5]]
    strided = detect(scores, settings, MapGrid(stride=4, downsample=2.0))
    assert strided.positions.tolist() == [[(2 * 4 + 0.5) * 2, (5 * 4 + 0.5) * 2]]
    even_window = detect(scores, settings, MapGrid(stride=4, offset=1.0))
    assert even_window.positions.tolist() == [[9.0, 21.0]]
    region = detect(scores, settings, MapGrid(stride=4, downsample=2.0, origin=(96, 1000)))
    assert region.positions.tolist() == [[(2 * 4 + 96.5) * 2, (5 * 4 + 1000.5) * 2]]


def two_classes_at_one_place() -> Scores:
    scores = np.zeros((30, 30, 2), np.uint16)
    scores[10, 10, 0], scores[10, 13, 1], scores[25, 25, 0] = 30000, 50000, 20000
    return scores


@pytest.mark.parametrize(("exclusive", "classes"), [(True, [2, 1]), (False, [2, 1, 1])])
def test_of_two_classes_at_one_place_the_better_stays(exclusive: bool, classes: list[int]) -> None:
    settings = DetectorSettings(nms_radius=5, lowest=(0.1, 0.1), exclusive=exclusive)
    found = detect(two_classes_at_one_place(), settings)
    assert found.classes.tolist() == classes
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_classes_have_their_own_lowest_score() -> None:
    settings = DetectorSettings(nms_radius=5, lowest=(0.4, 0.9), exclusive=True)
    found = detect(two_classes_at_one_place(), settings)
    assert found.classes.tolist() == [1]
    assert found.positions.tolist() == [[10.5, 10.5]]


@pytest.mark.parametrize(
    "scores",
    [np.zeros((4, 5, 1), np.uint8), np.zeros((4, 6, 1), np.uint16), np.zeros((4, 5, 2), np.uint16)],
)
def test_scores_of_another_kind_are_refused(scores: Scores) -> None:
    place = Box(0, 0, 4, 5)
    with pytest.raises(ValueError, match=r"expected uint16 \(4, 5, 1\)"):
        find_runs(scores, place, place, 4, 5, DetectorSettings(nms_radius=1, lowest=(0.5,)))


@pytest.mark.parametrize("wrong", [{"nms_radius": 0.0}, {"lowest": ()}, {"smooth_radius": -1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a detector needs"):
        DetectorSettings(**{"nms_radius": 1.0, "lowest": (0.5,), **wrong})
