"""Pyramids as written, read back by segkit, tifffile and OpenSlide."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segkit.errors import ResourceError
from segkit.geometry import Box
from segkit.slides import open_slide
from segkit.slides.pyramid import PyramidWriter
from segkit.slides.pyramid_levels import halve, pyramid_sizes


def picture(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    shape = (height // 8 + 1, width // 8 + 1, channels)
    blocks = np.random.default_rng(height).integers(0, 256, shape, np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def write(path: Path, image: NDArray[np.uint8], rows_at_a_time: int = 37, **options: Any) -> None:
    height, width, channels = image.shape
    with PyramidWriter(path, height, width, channels=channels, **options) as writer:
        for y in range(0, height, rows_at_a_time):
            writer.write_rows(image[y : y + rows_at_a_time])


CASES = [
    (1, "nearest", "deflate", (301, 517)),
    (3, "mean", "deflate", (300, 129)),
    (3, "mean", "jpeg", (257, 300)),
    (1, "mean", "jpeg", (200, 150)),
    (1, "nearest", "deflate", (1, 300)),
    (3, "nearest", "deflate", (1, 1)),
]


@pytest.mark.parametrize(("channels", "reduce", "compression", "size"), CASES)
@pytest.mark.parametrize("rows_at_a_time", [1, 64, 1000])
def test_all_readers_see_the_same_pixels_at_all_levels(
    tmp_path: Path, channels: int, reduce: Any, compression: Any, size: tuple[int, int], rows_at_a_time: int
) -> None:
    image = picture(*size, channels)
    path = tmp_path / "a.tif"
    write(path, image, rows_at_a_time, reduce=reduce, compression=compression, tile_px=64, mpp=0.25)
    expected = image
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff, openslide.OpenSlide(path) as other:
        assert slide.mpp == pytest.approx(0.25)
        assert float(other.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        assert len(slide.levels) == len(tiff.pages) == other.level_count == len(pyramid_sizes(*size, 64))
        for number, level in enumerate(slide.levels):
            pixels = slide.read(Box(0, 0, level.height, level.width), number)
            np.testing.assert_array_equal(pixels, tiff.pages[number].asarray().reshape(pixels.shape))
            region = np.asarray(other.read_region((0, 0), number, (level.width, level.height)))[..., :3]
            np.testing.assert_array_equal(np.broadcast_to(pixels, region.shape), region)
            if compression == "deflate":
                np.testing.assert_array_equal(pixels, expected)
            expected = halve(expected, reduce)


def test_jpeg_keeps_the_colours(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:200, :250]
    image = np.stack([columns, rows, 255 - rows], axis=2).astype(np.uint8)
    write(tmp_path / "a.tif", image, compression="jpeg", tile_px=64, reduce="mean")
    with open_slide(tmp_path / "a.tif") as slide:
        pixels = slide.read(Box(0, 0, 200, 250))
        assert np.abs(pixels.astype(int) - image).max() < 12
        assert slide.properties["tiff.photometric"] == "YCBCR"


def test_rows_without_a_channel_axis_are_grey(tmp_path: Path) -> None:
    image = picture(50, 60, 1)
    with PyramidWriter(tmp_path / "a.tif", 50, 60, tile_px=32) as writer:
        writer.write_rows(image[:, :, 0])
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.read(Box(0, 0, 50, 60)), image)
        assert slide.mpp is None


def test_a_large_file_is_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.slides.pyramid._BIGTIFF_FROM", 1000)
    write(tmp_path / "a.tif", picture(100, 100, 3), tile_px=32)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_bigtiff


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(2))))
def test_halving(image: NDArray[np.uint8]) -> None:
    nearest, mean = halve(image, "nearest"), halve(image, "mean")
    for i in range(nearest.shape[0]):
        for j in range(nearest.shape[1]):
            block = image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].astype(int)
            assert nearest[i, j].tolist() == block[0, 0].tolist()
            assert mean[i, j].tolist() == np.floor(block.mean(axis=(0, 1)) + 0.5).tolist()
    assert nearest.shape == mean.shape == (-(-image.shape[0] // 2), -(-image.shape[1] // 2), 2)


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_the_last_level_is_one_tile(height: int, width: int) -> None:
    sizes = pyramid_sizes(height, width, 512)
    assert sizes[0] == (height, width)
    assert max(sizes[-1]) <= 512
    assert all(max(size) > 512 for size in sizes[:-1])


def write_some(path: Path, image: NDArray[np.uint8], height: int) -> None:
    with PyramidWriter(path, height, image.shape[1], channels=image.shape[2], tile_px=32) as writer:
        writer.write_rows(image)


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"earlier")
    image = picture(100, 100, 1)
    with pytest.raises(ValueError, match="90 of 100 rows"):
        write_some(path, image[:90], height=100)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_of_segkits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("segkit.slides.pyramid_levels.TileSpool.store", full)
    with pytest.raises(ResourceError, match="disk is full"):
        write(tmp_path / "a.tif", picture(100, 100, 1), tile_px=32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "rows", [np.zeros((3, 99), np.uint8), np.zeros((3, 100), np.int32), np.zeros((101, 100), np.uint8)]
)
def test_rows_that_do_not_fit_are_a_programmers_mistake(tmp_path: Path, rows: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="rows"), PyramidWriter(tmp_path / "a.tif", 100, 100) as writer:
        writer.write_rows(rows)
