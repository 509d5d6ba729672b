"""The picture of what was computed: skipped ground is dimmed, tissue is outlined, its share is said."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segkit.report import tissue as module
from segkit.report.tissue import draw_tissue


def panels(path: Path, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the two panels of a sheet, side by side, found by the hairlines around them."""
    sheet = np.asarray(Image.open(path))
    hairline = (sheet == 200).all(axis=2)
    top = int(np.flatnonzero(hairline.sum(axis=1) >= width)[0]) + 1
    lefts = np.flatnonzero(hairline[top : top + height].all(axis=0)) + 1
    first, second = lefts[0], lefts[2]
    return tuple(sheet[top : top + height, left : left + width] for left in (first, second))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 60), (400, 600), (4, 6), (1600, 2400)])
def test_blank_ground_is_dimmed_and_tissue_outlined(tmp_path: Path, channels: int, size: tuple[int, int]) -> None:
    """Masks of any size lie over the slide in the same place."""
    thumbnail = np.full((400, 600, channels), 240, np.uint8)
    mask = np.zeros(size, bool)
    mask[size[0] // 4 : size[0] // 2, size[1] // 3 : size[1] // 2] = True
    draw_tissue(thumbnail, mask, tmp_path / "t.png", title="slide", um_per_px=None)
    plain, computed = panels(tmp_path / "t.png", 400, 600)
    assert (plain == 240).all()
    tissue = np.zeros((400, 600), bool)
    tissue[100:200, 200:300] = True
    dim = round(0.4 * 240 + 0.6 * 70)
    assert (computed[~tissue] == dim).all()
    assert (computed[104:196, 204:296] == 240).all()
    assert (computed[100, 200:300] == module._OUTLINE).all()
    assert (computed[100:200, 299] == module._OUTLINE).all()


def test_everything_computed_is_left_as_it_is(tmp_path: Path) -> None:
    thumbnail = np.random.default_rng(0).integers(0, 256, (400, 600, 3)).astype(np.uint8)
    draw_tissue(thumbnail, np.ones((1, 1), bool), tmp_path / "t.png", title="slide", um_per_px=None)
    for panel in panels(tmp_path / "t.png", 400, 600):
        np.testing.assert_array_equal(panel, thumbnail)


@pytest.mark.parametrize(("height", "width"), [(3000, 2000), (400, 5000), (5000, 400), (1, 3000), (1, 1)])
def test_pictures_of_any_shape_stay_of_a_size_to_look_at(tmp_path: Path, height: int, width: int) -> None:
    draw_tissue(
        np.zeros((height, width, 3), np.uint8), np.eye(5, dtype=bool), tmp_path / "t.png", title="t", um_per_px=8.0
    )
    shape = np.asarray(Image.open(tmp_path / "t.png")).shape
    assert max(shape) <= 2200
    assert min(shape[:2]) >= 60


def test_the_scale_bar_and_the_share_are_in_the_picture(tmp_path: Path) -> None:
    thumbnail = np.full((400, 600, 3), 120, np.uint8)
    mask = np.zeros((2, 2), bool)
    for name, share, um_per_px in (("a", 0, None), ("b", 0, 10.0), ("c", 1, None)):
        mask[0, 0] = share
        draw_tissue(thumbnail, mask, tmp_path / f"{name}.png", title="slide", um_per_px=um_per_px)
    without, with_bar, other_share = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    plain, _ = panels(tmp_path / "b.png", 400, 600)
    # 600 px are 6 mm, so the bar is 1 mm.
    assert (plain == 34).all(axis=2).sum(axis=1).max() == 100
    assert (without[:-40] != with_bar[:-40]).any()
    assert (without[-25:] == with_bar[-25:]).all()
    assert (without[-25:] != other_share[-25:]).any()
