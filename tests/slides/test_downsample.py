"""Positions on a level are scaled by its downsample: sizes that were rounded must not change it."""

from pathlib import Path

import numpy as np
import pytest

from segkit.slides import open_slide
from segkit.slides.pyramid import PyramidWriter


@pytest.mark.parametrize(("height", "width"), [(1, 700), (4097, 300), (1023, 1025), (2220, 2967)])
def test_halved_levels_have_powers_of_two(tmp_path: Path, height: int, width: int) -> None:
    with PyramidWriter(tmp_path / "a.tif", height, width, tile_px=64) as writer:
        writer.write_rows(np.zeros((height, width), np.uint8))
    with open_slide(tmp_path / "a.tif") as slide:
        factors = [level.downsample for level in slide.levels]
    assert len(factors) > 1
    assert factors == [2.0**number for number in range(len(factors))]
