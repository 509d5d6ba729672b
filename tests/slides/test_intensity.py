"""The rule from samples to uint8, as documented in segkit.slides.intensity."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.slides import open_slide
from segkit.slides.intensity import (
    Interpretation,
    Window,
    apply_window,
    fixed_window,
    palette_of_colormap,
    window_of_values,
)


@pytest.mark.parametrize(
    ("dtype", "largest", "high"),
    [
        (np.uint16, 0, 255),
        (np.uint16, 255, 255),
        (np.uint16, 256, 1023),
        (np.uint16, 1023, 1023),
        (np.uint16, 4095, 4095),
        (np.uint16, 4096, 16383),
        (np.uint16, 65535, 65535),
        (np.uint32, 65536, 2**24 - 1),
        (np.uint32, 2**32 - 1, 2**32 - 1),
        (np.int16, 20000, 32767),
        (np.int8, 3, 127),
    ],
)
def test_the_window_of_integers_is_the_smallest_depth_that_holds_them(dtype: Any, largest: int, high: int) -> None:
    assert window_of_values(np.dtype(dtype), [np.array([0, largest], dtype)]) == Window(0, high)


@pytest.mark.parametrize(
    ("values", "window"),
    [
        ([0.2, 0.7], Window(0, 1)),
        ([0, 1, np.nan], Window(0, 1)),
        ([0, 1.5], Window(0, 255)),
        ([-0.1, 0.5], Window(-0.1, 0.5)),
        ([0, 300, np.inf], Window(0, 300)),
        ([np.nan], Window(0, 1)),
        ([-7, -7], Window(-7, -7)),
    ],
)
def test_the_window_of_floats(values: list[float], window: Window) -> None:
    assert window_of_values(np.dtype(np.float64), [np.array(values)]) == window


def test_the_sample_type_alone_decides_where_it_can() -> None:
    assert fixed_window(np.dtype(np.uint8), 8) == Window(0, 255)
    assert fixed_window(np.dtype(bool), 1) == Window(0, 1)
    assert fixed_window(np.dtype(np.uint8), 4) == Window(0, 15)
    assert fixed_window(np.dtype(np.uint16), 12) == Window(0, 4095)
    assert fixed_window(np.dtype(np.uint16), 16) is None
    assert fixed_window(np.dtype(np.float32), 32) is None


@given(hnp.arrays(np.uint16, (5, 7)))
def test_full_range_16_bit_is_divided_by_257(samples: NDArray[np.uint16]) -> None:
    np.testing.assert_array_equal(apply_window(samples, Window(0, 65535)), np.floor(samples / 257 + 0.5))


@given(hnp.arrays(np.float32, (4, 6)), st.floats(-100, 100), st.floats(0.01, 1000))
def test_a_window_maps_its_ends_to_0_and_255_and_keeps_the_order(
    samples: NDArray[np.float32], low: float, extent: float
) -> None:
    window = Window(low, low + extent)
    mapped = apply_window(samples, window)
    assert (mapped[samples <= window.low] == 0).all()
    assert (mapped[samples >= window.high] == 255).all()
    assert (mapped[np.isnan(samples)] == 0).all()
    known = samples[~np.isnan(samples)]
    assert (np.diff(apply_window(np.sort(known), window).astype(int)) >= 0).all()


def test_an_image_of_one_value_outside_of_the_usual_windows_is_0() -> None:
    assert (apply_window(np.full((3, 3), -7.0), Window(-7, -7)) == 0).all()


def test_alpha_is_composited_over_white() -> None:
    samples = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [100, 50, 0, 128]]], np.uint8)
    plain = Interpretation(window=Window(0, 255), colours=3, alpha="unassociated").pixels(samples)
    assert plain.tolist() == [[[200, 100, 0], [255, 255, 255], [177, 152, 127]]]
    premultiplied = Interpretation(window=Window(0, 255), colours=3, alpha="associated").pixels(samples)
    assert premultiplied[0, 2].tolist() == [227, 177, 127]
    assert premultiplied[0, 0].tolist() == [200, 100, 0]


def test_a_palette_of_8_bit_entries_is_recognised() -> None:
    wide = np.array([[0, 257, 65535], [256, 512, 65280], [0, 0, 0]], np.uint16)
    assert palette_of_colormap(wide).tolist() == [[0, 1, 0], [1, 2, 0], [255, 255, 0]]
    narrow = np.array([[0, 255], [7, 8], [1, 2]], np.uint16)
    assert palette_of_colormap(narrow).tolist() == [[0, 7, 1], [255, 8, 2]]


def read(path: Path) -> NDArray[np.uint8]:
    with open_slide(path) as slide:
        return slide.read(Box(0, 0, slide.height, slide.width))


def test_a_large_conversion_goes_in_chunks_with_the_same_result() -> None:
    samples = np.random.default_rng(0).integers(0, 4096, (1500, 1000, 1)).astype(np.uint16)
    pixels = Interpretation(window=Window(0, 4095), colours=1, inverted=True).pixels(samples)
    np.testing.assert_array_equal(pixels, 255 - apply_window(samples, Window(0, 4095)))


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_the_window_is_that_of_the_whole_pyramid_and_is_stated(tmp_path: Path, tile: Any) -> None:
    image = np.zeros((64, 64), np.uint16)
    image[17, 21] = 4000  # vanishes in the smaller level
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(image, tile=tile, metadata=None)
        tiff.write(image[::2, ::2], tile=tile, subfiletype=1, metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.properties["intensity.window"] == "[0, 4095]"
        assert slide.read(Box(17, 21, 1, 1)).item() == round(4000 / 4095 * 255)


def test_grey_is_inverted_where_0_is_white(tmp_path: Path) -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[..., 0], 255 - image)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_bilevel_is_black_and_white(tmp_path: Path, photometric: str) -> None:
    image = np.random.default_rng(0).random((20, 37)) < 0.5
    tifffile.imwrite(tmp_path / "a.tif", image, photometric=photometric)  # type: ignore[arg-type]
    white = image if photometric == "minisblack" else ~image
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[..., 0], white * 255)


def test_palette_images_are_colours(tmp_path: Path) -> None:
    indices = np.random.default_rng(0).integers(0, 256, (20, 37), np.uint8)
    colours = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=colours * 257)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), colours.T[indices])


def test_float_images(tmp_path: Path) -> None:
    image = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    image[3, 4] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", image)
    expected = np.rint(np.nan_to_num(image) * 255)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[..., 0], expected)


@pytest.mark.parametrize(("kind", "alpha"), [("assocalpha", "associated"), ("unassalpha", "unassociated")])
def test_rgba_files_are_composited(tmp_path: Path, kind: str, alpha: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extrasamples=[kind])  # type: ignore[list-item]
    expected = Interpretation(window=Window(0, 255), colours=3, alpha=alpha).pixels(image)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), expected)


def test_an_extra_sample_that_is_no_alpha_is_dropped(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), image[..., :3])
