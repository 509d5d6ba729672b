"""Thumbnails show the whole slide, in proportion, whichever level they are made from."""

from pathlib import Path

import numpy as np
import pytest

from segkit.slides import open_slide
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
