"""Panels arrive unchanged on the sheet; words stay in their place; scale bars have the length that they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segkit.errors import UsageError
from segkit.report import sheet
from segkit.report.sheet import LegendEntry, Panel


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def position(picture, panel):
    """Find a panel in a sheet by its pixels."""
    height, width = panel.shape[:2]
    rows, columns = np.nonzero((picture[..., :] == panel[0, 0]).all(axis=2))
    for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
        if np.array_equal(picture[y : y + height, x : x + width], panel):
            return y, x
    return None


def test_panels_arrive_pixel_by_pixel_in_a_grid():
    images = [noise(40, 60, seed) for seed in range(3)]
    picture = sheet.compose(
        [[Panel(images[0], "a"), Panel(images[1], "b")], [Panel(images[2], "c")]],
        title="Title",
        legends=[[LegendEntry("nucleus", (1, 2, 3))]],
    )
    places = [position(picture, image) for image in images]
    assert None not in places
    first, right, below = places
    assert first[0] == right[0]
    assert right[1] >= first[1] + 60
    assert below[0] >= first[0] + 40
    assert below[1] == first[1]
    swatch = (picture == (1, 2, 3)).all(axis=2)
    assert swatch.sum() >= 100
    assert np.nonzero(swatch)[0].min() > below[0] + 40


def test_words_cannot_widen_a_sheet():
    long = "a very long name that does not fit " * 20
    entries = [[LegendEntry(long, (1, 2, 3)), LegendEntry("b", (4, 5, 6)), LegendEntry(long, (7, 8, 9))]]
    picture = sheet.compose([[Panel(noise(50, 400), long)]], title=long, legends=entries)
    assert picture.shape[1] == sheet.compose([[Panel(noise(50, 400))]]).shape[1]
    for entry in entries[0]:
        assert (picture == entry.colour).all(axis=2).any()


@pytest.mark.parametrize("words", ["", "核 ядро ☢ \U0001f600 \x00 \n $x_1$", "µm²"])
def test_any_words_can_be_drawn(words):
    picture = sheet.compose([[Panel(noise(50, 400), words)]], title=words, legends=[[LegendEntry(words)]])
    assert position(picture, noise(50, 400)) is not None


def test_a_sheet_without_panels_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        sheet.compose([[]])


@given(st.floats(1e-3, 1e9))
@settings(deadline=None)
def test_scale_bars_are_round_lengths_up_to_a_quarter_of_the_width(width_um):
    length = sheet.scale_bar_um(width_um)
    assert width_um / 10.001 <= length <= width_um / 4 * 1.000001
    digits = f"{length:.6e}"
    assert digits[0] in "125"
    assert float(digits[:8]) in (1, 2, 5)


@pytest.mark.parametrize(("um_per_px", "length_px"), [(0.5, 200), (1.0, 200), (8.0, 250)])
def test_the_bar_on_the_picture_has_the_length_it_says(um_per_px, length_px):
    image = np.full((400, 1000, 3), 180, np.uint8)
    marked = sheet.add_scale_bar(image, um_per_px)
    dark = (marked < 60).all(axis=2)
    assert dark.sum(axis=1).max() == length_px == sheet.scale_bar_um(1000 * um_per_px) / um_per_px
    changed = np.nonzero((marked != image).any(axis=2))
    assert changed[0].min() > 300
    assert changed[1].max() < 300


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (10, 10)])
def test_pictures_too_small_for_a_bar_stay_as_they_are(shape):
    image = noise(*shape)
    np.testing.assert_array_equal(sheet.add_scale_bar(image, 0.25), image)


def test_files_are_whole_rgb_pngs_and_the_same_each_time(tmp_path):
    image = noise(20, 30)
    for name in ("a.png", "b.png"):
        sheet.write_png(image, tmp_path / name)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_folder_that_cannot_be_written_is_an_error_for_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        sheet.write_png(noise(2, 2), tmp_path / "file" / "picture.png")
