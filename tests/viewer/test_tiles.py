"""A tile has the pixels of the slide, at every halving, in bounded memory."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides import open_slide
from segkit.slides.pyramid_levels import halve
from segkit.slides.scaling import ScaledLevel
from segkit.viewer.tiles import OVERVIEW_PX, TILE_PX, MapTiles, SlideTiles
from tests.tiny import write_slide
from tests.viewer.made_slides import MemorySlide, draw_tissue, make_results, make_slide

Pixels = NDArray[np.uint8]


def assembled(tiles: SlideTiles, halving: int) -> Pixels:
    """Return a halving put together from its tiles."""
    height, width = tiles.size(halving)
    rows = [
        np.concatenate([tiles.read(halving, row, column) for column in range(-(-width // TILE_PX))], axis=1)
        for row in range(-(-height // TILE_PX))
    ]
    return np.concatenate(rows)


def ramp(height: int, width: int) -> Pixels:
    """Return an image whose value says where it is: it grows by 1 every 8 columns."""
    columns = np.broadcast_to(np.arange(width) / 8, (height, width))
    return columns.astype(np.uint8)[..., None]


def test_the_levels_of_a_file_are_shown_as_they_are(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide.tif", draw_tissue(1111, 1301))
    with open_slide(path) as slide:
        tiles = SlideTiles(slide)
        assert [tiles.size(halving) for halving in range(tiles.num_halvings)] == [(1111, 1301), (556, 651), (278, 326)]
        for halving in range(tiles.num_halvings):
            level = slide.levels[halving]
            read = slide.read(Box(0, 0, level.height, level.width), halving)
            np.testing.assert_array_equal(assembled(tiles, halving), read)


def test_halvings_that_the_file_lacks_are_made_of_the_nearest_finer_level() -> None:
    image = draw_tissue(1100, 1500)
    slide = MemorySlide(image, image[::4, ::4])
    tiles = SlideTiles(slide)
    np.testing.assert_array_equal(assembled(tiles, 2), image[::4, ::4])
    expected = ScaledLevel(slide, 0, scale=2.0, height=550, width=750).read(Box(0, 0, 550, 750))
    np.testing.assert_array_equal(assembled(tiles, 1), expected)
    # As the mean of four pixels, but for the filter.
    mean = image.reshape(550, 2, 750, 2, 3).mean(axis=(1, 3))
    assert np.abs(assembled(tiles, 1) - mean).mean() < 1


@pytest.mark.parametrize("width", [1601, 1602, 1603, 1604])
def test_positions_are_kept_where_sizes_are_odd(width: int) -> None:
    image = ramp(40, width)
    rounded_down = MemorySlide(
        image, image[:, : width // 4 * 4].reshape(40, -1, 4, 1).mean(axis=2).astype(np.uint8)[2::4]
    )
    for slide in (MemorySlide(image), rounded_down):
        tiles = SlideTiles(slide)
        for halving in range(tiles.num_halvings):
            shown = assembled(tiles, halving)[5 >> halving, :, 0]
            assert len(shown) == -(-width // 2**halving)
            middles = (np.arange(len(shown)) + 0.5) * 2**halving / 8 - 0.5
            # Beyond the last whole pixel the border is mirrored.
            assert np.abs(shown - middles)[2:-2].max() <= 1.5


def test_a_level_that_was_rounded_down_has_its_last_column_mirrored() -> None:
    image = draw_tissue(64, 1025)
    tiles = SlideTiles(MemorySlide(image, image[::2, :1024:2]))
    assert tiles.size(1) == (32, 513)
    np.testing.assert_array_equal(tiles.read(1, 0, 1), image[::2, 1020:1021])


def test_a_slide_without_a_pyramid_is_read_once_for_its_small_halvings() -> None:
    image = draw_tissue(90, 5000)
    slide = MemorySlide(image)
    tiles = SlideTiles(slide)
    assert tiles.needs_overview
    direct = {halving: assembled(tiles, halving) for halving in range(tiles.num_halvings)}
    reported = []
    slide.areas.clear()
    tiles.make_overview(lambda done, total: reported.append((done, total)))
    assert reported[-1][0] == reported[-1][1] == len(reported) == 3
    assert max(slide.areas) < 90 * 2200
    slide.areas.clear()
    np.testing.assert_array_equal(assembled(tiles, 3), direct[3])
    np.testing.assert_array_equal(assembled(tiles, 4), halve(direct[3], "mean"))
    assert slide.areas == []
    np.testing.assert_array_equal(assembled(tiles, 2), direct[2])


def test_slides_with_levels_or_few_pixels_need_no_overview() -> None:
    image = draw_tissue(40, 5000)
    assert not SlideTiles(MemorySlide(image, image[::4, ::4], image[::16, ::16])).needs_overview
    assert not SlideTiles(MemorySlide(image[:, :4096])).needs_overview
    assert OVERVIEW_PX >= 4096


def test_a_tile_of_many_pixels_is_read_in_strips() -> None:
    slide = MemorySlide(np.zeros((6000, 6000, 1), np.uint8))
    assert SlideTiles(slide).read(4, 0, 0).shape == (375, 375, 1)
    assert len(slide.areas) > 1
    assert max(slide.areas) < 10_000_000


@pytest.mark.parametrize("tile", [(0, 2, 0), (0, 0, 3), (2, 0, 0), (9, 0, 0), (-1, 0, 0), (0, -1, 0)])
def test_there_are_no_tiles_outside(tile: tuple[int, int, int]) -> None:
    with pytest.raises(LookupError):
        SlideTiles(MemorySlide(draw_tissue(600, 1000))).read(*tile)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tile_is_a_jpeg_of_its_pixels(channels: int) -> None:
    tiles = SlideTiles(MemorySlide(draw_tissue(300, 400)[..., :channels]))
    decoded = imagecodecs.jpeg8_decode(tiles.jpeg(0, 0, 0)).reshape(300, 400, channels)
    assert np.abs(decoded.astype(float) - tiles.read(0, 0, 0)).mean() < 4


def test_a_map_keeps_its_values(tmp_path: Path) -> None:
    folder = make_results(tmp_path / "out", make_slide(tmp_path))
    with open_slide(folder / "mask.tif") as mask:
        tiles = MapTiles(mask)
        assert (tiles.num_halvings, tiles.height, tiles.width) == (2, 700, 900)
        np.testing.assert_array_equal(tiles.read(0, 1, 1), mask.read(Box(512, 512, 188, 388))[..., 0])
        np.testing.assert_array_equal(tiles.read(1, 0, 0), mask.read(Box(0, 0, 350, 450), 1)[..., 0])
        np.testing.assert_array_equal(tiles.coarsest, tiles.read(1, 0, 0))
        for missing in ((2, 0, 0), (0, 2, 0), (0, 0, 2)):
            with pytest.raises(LookupError):
                tiles.read(*missing)


def test_a_map_has_one_channel(tmp_path: Path) -> None:
    with open_slide(make_slide(tmp_path)) as slide, pytest.raises(InputError, match="3 channels"):
        MapTiles(slide)
