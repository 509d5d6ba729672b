"""Thumbnails show the whole slide, in proportion, whichever level they are made from."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.slides import Slide, open_slide
from segkit.slides import thumbnail as module
from segkit.slides.pyramid import PyramidWriter
from segkit.slides.thumbnail import read_thumbnail, thumbnail_size


def test_sizes_keep_the_proportion_and_never_grow() -> None:
    assert thumbnail_size(4000, 1000, 500) == (500, 125)
    assert thumbnail_size(40, 30, 500) == (40, 30)
    assert thumbnail_size(1, 100_000, 500) == (1, 500)


@pytest.mark.parametrize("band", [2_000, 16_000_000])
def test_a_thumbnail_has_the_slides_mean_colours_in_place(
    tmp_path: Path, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BAND_PX", band)
    image = np.zeros((600, 900), np.uint8)
    image[:300, 450:] = 200
    with PyramidWriter(tmp_path / "a.tif", 600, 900, tile_px=256, reduce="mean") as writer:
        writer.write_rows(image)
    with PyramidWriter(tmp_path / "ids.tif", 600, 900, tile_px=256, reduce="nearest") as writer:
        writer.write_rows(image)
    with open_slide(tmp_path / "a.tif") as slide, open_slide(tmp_path / "ids.tif") as mask:
        small = read_thumbnail(slide, 60, 90)
        ids = read_thumbnail(mask, 60, 90, nearest=True)
    assert small.shape == ids.shape == (60, 90, 1)
    assert (small[:29, 46:] == 200).all()
    assert (small[31:] == 0).all()
    assert set(np.unique(ids)) <= {0, 200}


RAMP_HEIGHT, RAMP_WIDTH = 700, 1000


def ramp() -> NDArray[np.uint8]:
    """An image that becomes redder downwards and greener to the right."""
    rows, columns = np.mgrid[:RAMP_HEIGHT, :RAMP_WIDTH]
    return np.stack([rows / 3, columns / 4, np.full(rows.shape, 40)], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    """The ramp, in levels of 700, 350, 175, 88 and 44 rows."""
    path = tmp_path_factory.mktemp("thumbnails") / "ramp.tif"
    with PyramidWriter(path, RAMP_HEIGHT, RAMP_WIDTH, channels=3, tile_px=64, reduce="mean") as writer:
        writer.write_rows(ramp())
    with open_slide(path) as slide:
        assert len(slide.levels) == 5
        yield slide


@settings(max_examples=50)
@given(
    y=st.integers(0, RAMP_HEIGHT - 16), x=st.integers(0, RAMP_WIDTH - 16), longest=st.integers(1, 200),
    size=st.tuples(st.integers(16, RAMP_HEIGHT), st.integers(16, RAMP_WIDTH)),
)  # fmt: skip
def test_a_region_has_the_colours_of_its_place(
    slide: Slide, y: int, x: int, longest: int, size: tuple[int, int]
) -> None:
    region = Box(y, x, *size).intersect(Box(0, 0, RAMP_HEIGHT, RAMP_WIDTH))
    height, width = thumbnail_size(region.height, region.width, longest)
    small = read_thumbnail(slide, height, width, region=region)
    assert small.shape == (height, width, 3)
    # Pixels of coarse levels lie across the region's border: they are at most about one pixel of the picture off.
    step = max(region.height / height, region.width / width)
    rows = (np.arange(height) + 0.5) * region.height / height + region.y
    columns = (np.arange(width) + 0.5) * region.width / width + region.x
    assert np.abs(small[..., 0] - rows[:, None] / 3).max() <= 2 + 1.5 * step / 3
    assert np.abs(small[..., 1] - columns / 4).max() <= 2 + 1.5 * step / 4
    assert (small[..., 2] == 40).all()


def test_a_region_that_is_not_shrunk_is_the_slides_own_pixels(slide: Slide) -> None:
    assert np.array_equal(read_thumbnail(slide, 30, 50, region=Box(90, 201, 30, 50)), ramp()[90:120, 201:251])


def test_the_region_of_the_whole_slide_is_the_whole_slide(slide: Slide) -> None:
    whole = Box(0, 0, RAMP_HEIGHT, RAMP_WIDTH)
    for height, width in ((700, 1000), (70, 100), (44, 63), (10, 14), (1, 1)):
        assert np.array_equal(read_thumbnail(slide, height, width, region=whole), read_thumbnail(slide, height, width))


def test_a_region_is_read_from_the_coarsest_level_that_is_large_enough(
    slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[Box, int]] = []
    original = type(slide).read

    def noting(self: Slide, box: Box, level: int = 0) -> NDArray[np.uint8]:
        read.append((box, level))
        return original(self, box, level)

    monkeypatch.setattr(type(slide), "read", noting)
    region = Box(80, 160, 320, 480)
    for shrunk in range(5):
        read.clear()
        read_thumbnail(slide, 320 >> shrunk, 480 >> shrunk, region=region)
        assert read == [(Box(80 >> shrunk, 160 >> shrunk, 320 >> shrunk, 480 >> shrunk), shrunk)]
    read.clear()
    read_thumbnail(slide, 319, 479, region=region)
    assert read == [(region, 0)]


@pytest.mark.parametrize("region", [Box(699, 999, 1, 1), Box(0, 999, 700, 1), Box(697, 0, 3, 1000)])
def test_regions_of_a_pixel_at_the_border_are_read(slide: Slide, region: Box) -> None:
    assert read_thumbnail(slide, 1, 1, region=region).shape == (1, 1, 3)


def test_bands_of_a_region_are_put_together_in_place(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    region = Box(51, 33, 600, 900)
    whole = read_thumbnail(slide, 100, 150, region=region)
    monkeypatch.setattr(module, "_BAND_PX", 20_000)
    # Bands are cut at whole pixels of the level.
    assert np.abs(read_thumbnail(slide, 100, 150, region=region).astype(int) - whole).max() <= 1
