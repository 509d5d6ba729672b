"""Levels read at another pixel size: the same pixel wherever it is read from, and a picture that is right."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segkit.geometry import Box, mirror_indices
from segkit.slides import Slide, scaling
from segkit.slides.scaling import ScaledLevel

Pixels = NDArray[np.uint8]

SCALES = (0.25, 0.5, 0.8, 1.003, 1.37, 2.0, 2.5, 3.7, 4.0, 8.0)
some_scale = st.one_of(st.sampled_from(SCALES), st.floats(0.25, 8.0))


class PixelSlide(Slide):
    """An image in memory."""

    def __init__(self, *levels: Pixels) -> None:
        sizes = [level.shape[:2] for level in levels]
        channels = levels[0].shape[2]
        super().__init__(Path("none"), sizes=sizes, channels=channels, mpp=None, backend="raster", properties={})
        self.pixels = levels
        self.largest = 0

    def _read(self, box: Box, level: int) -> Pixels:
        self.largest = max(self.largest, box.area)
        return self.pixels[level][box.slices].copy()

    def close(self) -> None:
        pass


def scaled(pixels: Pixels, scale: float) -> ScaledLevel:
    height, width = (max(1, round(size / scale)) for size in pixels.shape[:2])
    return ScaledLevel(PixelSlide(pixels), 0, scale=scale, height=height, width=width)


def whole(level: ScaledLevel) -> Pixels:
    return level.read(Box(0, 0, level.height, level.width))


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    """Return pixels that are 0 or 255 half of the time, so that filters overshoot."""
    random = np.random.default_rng(seed)
    values = random.integers(-128, 384, (height, width, channels))
    return values.clip(0, 255).astype(np.uint8)


@st.composite
def boxes(draw: st.DrawFn, reach: int) -> Box:
    return Box(
        draw(st.integers(-reach, reach)),
        draw(st.integers(-reach, reach)),
        draw(st.integers(1, 90)),
        draw(st.integers(1, 90)),
    )


def slow(pixels: Pixels, scale: float, height: int, width: int) -> NDArray[np.float64]:
    """Return the filter's result by its definition, in float64."""

    def axis(size: int, count: int) -> NDArray[np.float64]:
        widened = max(1.0, scale)
        reach = int(3 * widened) + 2
        level_px = np.arange(-reach, size + reach)
        x = np.abs(level_px + 0.5 - (np.arange(count)[:, None] + 0.5) * scale) / widened
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        kernel = np.where(x < 1, near, np.where(x < 2, far, 0))
        matrix = np.zeros((count, size))
        np.add.at(matrix.T, mirror_indices(-reach, len(level_px), size), kernel.T)
        return matrix / matrix.sum(axis=1, keepdims=True)

    rows, columns = axis(pixels.shape[0], height), axis(pixels.shape[1], width)
    return np.einsum("iy,jx,yxc->ijc", rows, columns, pixels.astype(float), optimize=True).clip(0, 255)


@settings(max_examples=50, deadline=None)
@given(some_scale, st.data(), st.sampled_from([1, 3]), st.integers(1, 300), st.integers(1, 300))
def test_a_pixel_depends_on_its_position_only(
    scale: float, data: st.DataObject, channels: int, height: int, width: int
) -> None:
    level = scaled(noise(height, width, channels), scale)
    image = whole(level)
    assert image.shape == (level.height, level.width, channels)
    box = data.draw(boxes(reach=200))
    rows = mirror_indices(box.y, box.height, level.height)
    columns = mirror_indices(box.x, box.width, level.width)
    assert np.array_equal(level.read(box), image[rows][:, columns])


def test_a_pixel_does_not_depend_on_how_the_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    level = scaled(noise(700, 500), 2.3)
    image = whole(level)
    for name, value in {"_CHUNK_ROWS": 5, "_CHUNK_COLUMNS": 37, "_BAND_ROWS": 21, "_STRIP_PX": 9000}.items():
        monkeypatch.setattr(scaling, name, value)
        assert np.array_equal(whole(level), image), name


@settings(max_examples=50, deadline=None)
@given(some_scale, st.integers(-100, 500_000))
def test_every_sum_is_exact(scale: float, start: int) -> None:
    # The largest partial sum adds up what is positive, the smallest what is negative, where pixels are 255.
    rows, columns = (scaling._taps(start, 900, scale, bits) for bits in (scaling._ROW_BITS, scaling._COLUMN_BITS))
    assert (rows.weights.sum(axis=1) == 1 << scaling._ROW_BITS).all()
    assert (columns.weights.sum(axis=1) == 1 << scaling._COLUMN_BITS).all()
    highest = 255 * np.maximum(rows.weights, 0).sum(axis=1).max()
    lowest = 255 * np.minimum(rows.weights, 0).sum(axis=1).min()
    assert highest - lowest < 2**24
    between = max(highest, -lowest) / (1 << (scaling._ROW_BITS - scaling._FRACTION_BITS)) + 1
    assert between * np.abs(columns.weights).sum(axis=1).max() < 2**24


@settings(max_examples=50, deadline=None)
@given(some_scale, st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_pixels_are_those_of_the_filter_by_its_definition(scale: float, height: int, width: int, seed: int) -> None:
    pixels = noise(height, width, 1, seed)
    level = scaled(pixels, scale)
    expected = slow(pixels, scale, level.height, level.width)
    assert np.abs(whole(level) - expected).max() < 1.0  # half a level by rounding, the rest by the weights' 13 bits


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_a_constant_image_stays_constant(scale: float, value: int) -> None:
    assert (whole(scaled(np.full((77, 91, 3), value, np.uint8), scale)) == value).all()


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.7, 1.37, 2.0, 2.5, 4.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_ramp_keeps_its_values(scale: float, axis: int) -> None:
    ramp = np.arange(240, dtype=np.uint8)[:, None, None].repeat(240, axis=1)
    level = scaled(np.ascontiguousarray(np.swapaxes(ramp, 0, axis)), scale)
    found = np.swapaxes(whole(level), 0, axis)[:, :, 0]
    expected = (np.arange(len(found)) + 0.5) * scale - 0.5
    inside = slice(int(2 * max(1, 1 / scale)) + 2, -int(2 * max(1, 1 / scale)) - 2)
    assert np.abs(found - expected[:, None])[inside].max() <= 0.75


@pytest.mark.parametrize("scale", [0.5, 1.37, 2.0, 3.7, 8.0])
def test_the_mean_is_kept(scale: float) -> None:
    pixels = np.random.default_rng(1).integers(60, 196, (400, 400, 3), np.uint8)  # no overshoot to clip
    assert abs(whole(scaled(pixels, scale)).mean() - pixels.mean()) < 0.5


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.37, 2.0, 2.5, 4.0, 8.0])
def test_agrees_with_pillow(scale: float) -> None:
    random = np.random.default_rng(2)
    coarse = Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8))
    pixels = np.asarray(coarse.resize((320, 240), Image.Resampling.BILINEAR))
    height, width = int(240 / scale), int(320 / scale)
    found = scaled(pixels, scale).read(Box(0, 0, height, width)).astype(int)
    same = (0, 0, width * scale, height * scale)
    expected = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box=same))
    inside = int(2 * max(1, 1 / scale)) + 2  # Pillow cuts the filter off at the border
    difference = np.abs(found - expected)[inside:-inside, inside:-inside]
    assert difference.mean() < 0.5
    assert difference.max() <= 8  # Pillow clips between its two passes


def test_fine_stripes_become_grey_and_not_stripes() -> None:
    stripes = np.zeros((256, 256, 1), np.uint8)
    stripes[:, ::2] = 255
    found = whole(scaled(stripes, 2.9))[3:-3, 3:-3]
    assert np.abs(found - 127.5).max() < 12


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_tiny_images(scale: float, height: int, width: int) -> None:
    level = scaled(noise(height, width), scale)
    image = whole(level)
    assert image.shape == (max(1, round(height / scale)), max(1, round(width / scale)), 3)
    far = level.read(Box(-9, -7, 30, 25))
    assert np.array_equal(far, image[mirror_indices(-9, 30, level.height)][:, mirror_indices(-7, 25, level.width)])


def test_any_level_is_read() -> None:
    level0, level1 = noise(80, 60, seed=3), noise(40, 30, seed=4)
    of_slide = ScaledLevel(PixelSlide(level0, level1), 1, scale=1.5, height=27, width=20)
    assert np.array_equal(whole(of_slide), whole(scaled(level1, 1.5)))


def test_pixels_are_read_in_pieces_of_bounded_size() -> None:
    slide = PixelSlide(np.zeros((9000, 6000, 1), np.uint8))
    image = whole(ScaledLevel(slide, 0, scale=8.0, height=1125, width=750))
    assert image.shape == (1125, 750, 1)
    assert slide.largest <= scaling._STRIP_PX


def test_the_result_is_the_callers() -> None:
    level = scaled(noise(40, 40), 2.0)
    first = level.read(Box(-3, -3, level.height + 6, level.width + 6))
    kept = first.copy()
    second = whole(level)
    second[:] = 0
    assert np.array_equal(first, kept)
    assert first.flags.writeable
    assert first.flags.c_contiguous


def test_several_threads_read_at_once() -> None:
    level = scaled(noise(600, 600), 1.7)
    image = whole(level)
    corners = [(y, x) for y in range(0, 300, 60) for x in range(0, 300, 60)]
    start = threading.Barrier(4)

    def read(number: int) -> bool:
        start.wait()
        return all(
            np.array_equal(level.read(Box(y, x, 50, 50)), image[y : y + 50, x : x + 50]) for y, x in corners[number::4]
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_none_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be a positive number"):
        ScaledLevel(PixelSlide(noise(8, 8)), 0, scale=scale, height=8, width=8)


@pytest.mark.parametrize(("height", "width"), [(0, 20), (30, 17), (25, 20), (35, 20), (30, 23)])
def test_sizes_that_do_not_fit_the_scale_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="cannot have"):
        ScaledLevel(PixelSlide(noise(60, 40)), 0, scale=2.0, height=height, width=width)


@pytest.mark.parametrize("box", [Box(0, 0, 0, 5), Box(0, 0, 5, 0), Box(3, 3, -1, 4)])
def test_empty_boxes_are_refused(box: Box) -> None:
    with pytest.raises(ValueError, match="is empty"):
        scaled(noise(20, 20), 2.0).read(box)
