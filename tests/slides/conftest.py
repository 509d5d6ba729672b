"""A second opinion on pixels, for the tests with real files."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def simple_pixels() -> Callable[[tifffile.TiffPage], NDArray[Any]]:
    """Return the function that interprets a page which tifffile has decoded whole, without segkit."""
    return _simple_pixels


def _simple_pixels(page: tifffile.TiffPage) -> NDArray[Any]:
    samples = page.asarray()
    if page.axes == "SYX":
        samples = np.moveaxis(samples, 0, 2)
    samples = samples.reshape(page.imagelength, page.imagewidth, -1)
    if page.photometric == 3:
        return page.colormap.T[samples[..., 0].astype(int)] // 256
    high = _full_scale(samples, page.bitspersample)
    scaled = np.floor(np.clip(np.nan_to_num(samples.astype(float)), 0, high) / high * 255 + 0.5)
    if page.photometric == 0:
        scaled = 255 - scaled
    if scaled.shape[2] == 4:
        if page.extrasamples[0] == 1:
            return np.minimum(scaled[..., :3] + 255 - scaled[..., 3:], 255)
        return scaled[..., :3]
    return scaled


def _full_scale(samples: NDArray[Any], bits: int) -> float:
    """Return the largest value of the window; no file here has a float below 0."""
    if samples.dtype.kind == "f":
        return 1.0 if np.nanmax(samples) <= 1 else 255.0
    if samples.dtype.kind == "i":
        return float(min(2 ** _holding(samples), 2 ** (bits - 1)) - 1)
    return float(2 ** (_holding(samples) if bits in {16, 32} else bits) - 1)


def _holding(samples: NDArray[Any]) -> int:
    return next(bits for bits in (8, 10, 12, 14, 16, 24, 32) if samples.max() < 2**bits)
