"""Random positions of a map are the same every time, taken from whatever block they lie in, and compared there."""

from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.geometry import CELL_PX, Box, TileGrid
from segkit.inference.sources import ArrayImage
from segkit.inference.verification import largest_difference, positions, take
from segkit.inference.window import WindowPrediction, WindowPredictor


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 300), st.integers(0, 9))
def test_positions_are_sorted_inside_and_the_same_every_time(height: int, width: int, number: int, seed: int) -> None:
    found = positions(height, width, number, seed)
    assert (found.shape, found.dtype) == ((number, 2), np.int64)
    assert found.tolist() == sorted(found.tolist())
    assert np.all((found >= 0) & (found < [height, width]))
    assert np.array_equal(found, positions(height, width, number, seed))


def test_positions_lie_everywhere() -> None:
    found = positions(40, 1000, 50_000)
    counts = np.histogram2d(found[:, 0], found[:, 1], bins=[4, 10], range=[[0, 40], [0, 1000]])[0]
    assert counts.min() > 1000
    assert counts.max() < 1500
    assert not np.array_equal(found, positions(40, 1000, 50_000, seed=1))


def test_positions_lie_in_wanted_cells_only_and_as_often_as_these_are_large() -> None:
    wanted = np.array([[True, False, True], [False, False, False], [False, True, True]])
    height, width = 2 * CELL_PX + 100, 2 * CELL_PX + 50
    found = positions(height, width, 20_000, wanted=wanted)
    assert found.tolist() == sorted(found.tolist())
    assert np.all(found < [height, width])
    counts = np.zeros(wanted.shape)
    np.add.at(counts, tuple((found // CELL_PX).T), 1)
    areas = np.outer([CELL_PX, CELL_PX, 100], [CELL_PX, CELL_PX, 50]) * wanted
    assert np.array_equal(counts > 0, wanted)
    assert np.abs(counts / 20_000 - areas / areas.sum()).max() < 0.01
    for row, column in np.argwhere(wanted).tolist():
        inside = found[(found // CELL_PX == (row, column)).all(axis=1)] % CELL_PX
        spread = np.ptp(inside, axis=0) / [(CELL_PX, CELL_PX, 100)[row], (CELL_PX, CELL_PX, 50)[column]]
        assert spread.min() > 0.8


def test_where_nothing_is_wanted_there_are_no_positions() -> None:
    assert positions(600, 600, 10, wanted=np.zeros((2, 2), np.bool_)).shape == (0, 2)


class Brightness:
    """Stands for a naive predictor whose probability is the brightness of its pixel."""

    grid = TileGrid(alignment=1, halo=3, margin=3)

    def predict(self, images: NDArray[np.uint8], _: object) -> list[WindowPrediction]:
        return [WindowPrediction(257 * one[3:-3, 3:-3].astype(np.uint16)) for one in images]


NAIVE = cast(WindowPredictor, Brightness())
STRIDE = 2


def image_and_map(
    origin: tuple[int, int] = (0, 0), size: tuple[int, int] = (41, 67)
) -> tuple[ArrayImage, NDArray[np.uint16]]:
    """Return an image, 90 x 150 pixels in 2 channels, and the map of a region of it."""
    image = np.random.default_rng(0).integers(0, 256, (90, 150, 2), dtype=np.uint8)
    y, x = origin
    part = image[y : y + STRIDE * size[0] : STRIDE, x : x + STRIDE * size[1] : STRIDE]
    return ArrayImage(image), 257 * part.astype(np.uint16)


@given(block_px=st.integers(1, 80), grown=st.integers(0, 9))
def test_every_position_is_taken_once_wherever_the_map_is_cut(block_px: int, grown: int) -> None:
    source, scores = image_and_map()
    height, width = scores.shape[:2]
    places = positions(height, width, 60)
    whole = Box(0, 0, height, width)
    found = []
    for y in range(0, height, block_px):
        for x in range(0, width, block_px):
            block = Box(y, x, block_px, block_px).intersect(whole)
            region = block.expand(grown).intersect(whole)
            found.append(take(scores[region.slices].copy(), region, block, places))
    assert sorted(np.concatenate([one["index"] for one in found]).tolist()) == list(range(60))
    assert {(one["index"].dtype, one["scores"].dtype) for one in found} == {(np.dtype(np.int64), np.dtype(np.uint16))}
    assert largest_difference([None, *found], places, source, NAIVE, STRIDE) == 0.0


@pytest.mark.parametrize(("channel", "change"), [(0, 900), (1, -900)])
def test_the_largest_difference_is_found(channel: int, change: int) -> None:
    source, scores = image_and_map(origin=(8, 10), size=(40, 60))
    places = positions(40, 60, 30)
    whole = Box(0, 0, 40, 60)
    found = take(scores, whole, whole, places)
    assert largest_difference([found], places, source, NAIVE, STRIDE, origin=(8, 10)) == 0.0
    assert largest_difference([found], places, source, NAIVE, STRIDE) > 0.1
    changed = found["scores"].astype(np.int64)
    number = int(np.argmin(np.abs(changed[:, channel] - 32_768)))
    changed[number, channel] += change
    changed[(number + 1) % 30, channel] += change // 30
    found["scores"] = changed.clip(0, 65_535).astype(np.uint16)
    assert largest_difference([found], places, source, NAIVE, STRIDE, origin=(8, 10)) == 900 / 65_535


def test_without_positions_there_is_no_difference() -> None:
    source, scores = image_and_map()
    places = positions(41, 67, 0)
    whole = Box(0, 0, 41, 67)
    assert largest_difference([take(scores, whole, whole, places)], places, source, NAIVE, STRIDE) == 0.0
    assert largest_difference([None], places, source, NAIVE, STRIDE) == 0.0
