"""What changes the colours of one sample, drawn as albumentations draws it; and its colour matrix. Pure functions.

The device backend uses these; the pipeline of albumentations draws the same numbers from its own random state.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.config import AugmentConfig
from segkit.data.presets import BLUR_PROBABILITY, NOISE_PROBABILITY

# Luma of ITU-R BT.601, as OpenCV's grey.
GREY: Final = np.array([0.299, 0.587, 0.114])


class IntensityDraw(NamedTuple):
    """One sample's changes; 1 (turns, blur and noise: 0) changes nothing.

    `stains` are three factors, `hue` is in radians, `blur_px` a sigma, `noise` a standard deviation with white = 255,
    and `noise_seed` the seed of what has it.
    """

    stains: tuple[float, float, float]
    brightness: float
    contrast: float
    saturation: float
    hue: float
    gamma: float
    blur_px: float
    noise: float
    noise_seed: int


def draw_intensity(rng: np.random.Generator, config: AugmentConfig) -> IntensityDraw:
    """Draw the changes of one sample; the same number of draws whatever is switched off.

    Parameters
    ----------
    rng
        The only source of randomness.
    config
        With no `auto` (see `resolve_augment`).
    """
    values = config.model_dump()

    def factor(name: str) -> float:
        return 1 + float(values[name]) * rng.uniform(-1, 1)

    stains = (factor("stain"), factor("stain"), factor("stain"))
    brightness, contrast, saturation = factor("brightness"), factor("contrast"), factor("saturation")
    hue = math.radians(values["hue_degrees"]) * rng.uniform(-1, 1)
    gamma = rng.uniform(1 / (1 + values["gamma"]), 1 + values["gamma"])
    is_blurred, blur_px = rng.random() < BLUR_PROBABILITY, values["blur_px"] * rng.random()
    is_noisy, noise = rng.random() < NOISE_PROBABILITY, 255 * values["noise"] * rng.random()
    return IntensityDraw(
        stains=stains,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        gamma=gamma,
        blur_px=blur_px if is_blurred else 0.0,
        noise=noise if is_noisy else 0.0,
        noise_seed=int(rng.integers(2**63)),
    )


def colour_matrix(saturation: float, hue: float) -> NDArray[np.float64]:
    """Return the 3 x 3 matrix that scales the distance of an RGB pixel (a column) from its grey and turns its hue.

    Parameters
    ----------
    saturation
        Factor; 0 leaves the grey.
    hue
        Turn in radians, from red over green to blue: a rotation about the axis of greys (Rodrigues' formula), which
        keeps the mean of red, green and blue. OpenCV's turn in HSV keeps the largest of them instead.
    """
    grey = np.outer(np.ones(3), GREY)
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = np.eye(3) + math.sin(hue) * axis + (1 - math.cos(hue)) * axis @ axis
    matrix: NDArray[np.float64] = turn @ (saturation * np.eye(3) + (1 - saturation) * grey)
    return matrix
