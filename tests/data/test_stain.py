"""Stain jitter multiplies amounts of stain, and nothing else."""

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.color import rgb2hed, rgb_from_hed

from segkit.data.stain import STAINS, scale_stains


def stained(amounts: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A row of pixels with amounts (n, 3) of the three stains, in natural optical density."""
    pixels = 255 * np.exp(-amounts @ STAINS)
    return pixels.round().astype(np.uint8)[None]


def test_stains_are_those_of_scikit_image() -> None:
    assert np.allclose(STAINS, rgb_from_hed)


def test_factors_of_one_change_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    # Black counts as 1, as its density is not finite.
    assert np.abs(scale_stains(image, np.ones(3)).astype(int) - np.maximum(image, 1)).max() <= 1


@pytest.mark.parametrize("stain", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_one_stain_is_multiplied_and_the_others_stay(stain: int, factor: float) -> None:
    amounts = np.array([[0.8, 0.4, 0.1], [0.3, 0.9, 0.2], [0.5, 0.1, 0.6]])
    factors = np.ones(3)
    factors[stain] = factor
    expected = stained(amounts * factors)
    assert np.abs(scale_stains(stained(amounts), factors).astype(int) - expected).max() <= 3
    # The same in another library's eyes: only that channel of its colour deconvolution moves.
    before, after = rgb2hed(stained(amounts)), rgb2hed(expected)
    assert np.allclose(after[..., stain], before[..., stain] * factor, atol=0.02)


def test_glass_stays_glass() -> None:
    white = np.full((3, 3, 3), 255, np.uint8)
    assert np.array_equal(scale_stains(white, np.array([0.6, 1.4, 0.7])), white)
