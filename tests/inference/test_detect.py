"""The list of detections is the same wherever rows are cut, and what plain definitions and known libraries give."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import label
from skimage.morphology import local_maxima

from segkit.inference.detect import Detector, DetectorSettings, MapGrid, _DiskSums, detect, suppress
from segkit.points import FULL_SCORE, Detections

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


@given(data=st.data(), scores=score_maps())
def test_detections_do_not_depend_on_where_rows_are_cut(data: st.DataObject, scores: Scores) -> None:
    settings = data.draw(settings_for(scores.shape[2]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scores)), max_size=30)))
    detector = Detector(scores.shape[1], settings)
    for band in np.split(scores, cuts):
        detector.add_rows(band)
    assert_same(detector.finish(), detect(scores, settings))


def test_large_maps_are_worked_on_in_blocks_with_the_same_result() -> None:
    scores = np.random.default_rng(0).integers(0, 65536, (700, 900, 2), dtype=np.uint16)
    settings = DetectorSettings(nms_radius=8, lowest=(0.2, 0.2), smooth_radius=3)
    detector = Detector(900, settings)
    assert detector._block_rows < 700
    for band in np.split(scores, range(1, 700, 37)):
        detector.add_rows(band)
    found = detector.finish()
    assert len(found.scores) > 1000
    assert_same(found, detect(scores, settings))


@given(scores=score_maps(), radius=st.floats(0, 12))
def test_sums_are_those_of_a_plain_convolution(scores: Scores, radius: float) -> None:
    reach = math.floor(radius)
    padded = np.pad(scores.astype(np.int64), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    disk = [
        (dy, dx)
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
        if dy * dy + dx * dx <= radius * radius
    ]
    height, width = scores.shape[:2]
    expected = sum(padded[reach + dy :, reach + dx :][:height, :width] for dy, dx in disk)
    smoother = _DiskSums(width, scores.shape[2], radius)
    sums = np.concatenate([smoother.add_rows(scores), smoother.finish()])
    assert smoother.num_pixels == len(disk)
    assert np.array_equal(sums, expected)


@pytest.mark.parametrize(("radius", "num_pixels"), [(0, 1), (0.99, 1), (1, 5), (1.42, 9), (2, 13), (10, 317)])
def test_disks_hold_the_pixels_up_to_their_radius(radius: float, num_pixels: int) -> None:
    assert _DiskSums(5, 1, radius).num_pixels == num_pixels


@given(scores=score_maps(max_classes=1))
def test_candidates_are_the_regional_maxima_of_a_known_library(scores: Scores) -> None:
    found = detect(scores, DetectorSettings(nms_radius=TINY, lowest=(0.0,)))
    image = scores[..., 0]
    if image.min() == image.max():  # the library's maxima are higher than something
        expected = [((len(image) / 2, image.shape[1] / 2), int(image[0, 0]))] if image[0, 0] else []
    else:
        plateaus = label(local_maxima(image, connectivity=2), connectivity=2)
        pixels = [np.argwhere(plateaus == number) for number in range(1, plateaus.max() + 1)]
        expected = [(tuple(where.mean(axis=0) + 0.5), int(image[tuple(where[0])])) for where in pixels]
        expected = [one for one in expected if one[1] > 0]
    # Plateaus around each other can have one centre, and are suppressed then.
    unique = {(round(y, 9), round(x, 9)): value for (y, x), value in sorted(expected, key=lambda one: one[1])}
    got = {
        (round(y, 9), round(x, 9)): round(score * FULL_SCORE)
        for (y, x), score in zip(found.positions.tolist(), found.scores.tolist(), strict=True)
    }
    assert got == unique


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


def test_a_shoulder_of_a_hill_is_no_candidate() -> None:
    scores = np.array([[1, 5, 5, 5, 5, 9, 2]], np.uint16)[..., None]
    found = detect(scores, DetectorSettings(nms_radius=TINY, lowest=(0.0,)))
    assert found.positions.tolist() == [[0.5, 5.5]]


def test_maps_that_hold_nothing_and_maps_that_hold_nothing_else() -> None:
    settings = DetectorSettings(nms_radius=3, lowest=(0.0,))
    assert len(detect(np.zeros((9, 9, 1), np.uint16), settings).scores) == 0
    assert detect(np.full((9, 12, 1), 65535, np.uint16), settings).positions.tolist() == [[4.5, 6.0]]
    without_rows = Detector(7, settings).finish()
    assert [values.shape for values in without_rows] == [(0, 2), (0,), (0,)]
    assert [values.dtype for values in without_rows] == [np.float64, np.int64, np.float64]


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


def test_memory_does_not_grow_with_the_height() -> None:
    def peak(num_bands: int) -> int:
        rows = np.full((64, 300, 1), 20000, np.uint16)
        detector = Detector(300, DetectorSettings(nms_radius=5, lowest=(0.9,), smooth_radius=6))
        tracemalloc.start()
        for _ in range(num_bands):
            detector.add_rows(rows)
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    peak(2)
    assert peak(120) < 1.2 * peak(4)


@pytest.mark.parametrize(
    "scores",
    [np.zeros((4, 5, 1), np.uint8), np.zeros((4, 6, 1), np.uint16), np.zeros((4, 5, 2), np.uint16)],
)
def test_rows_of_another_kind_are_refused(scores: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="rows are"):
        Detector(5, DetectorSettings(nms_radius=1, lowest=(0.5,))).add_rows(scores)


@pytest.mark.parametrize("wrong", [{"nms_radius": 0.0}, {"lowest": ()}, {"smooth_radius": -1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a detector needs"):
        DetectorSettings(**{"nms_radius": 1.0, "lowest": (0.5,), **wrong})
