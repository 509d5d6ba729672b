"""The way of light: from stain concentrations to the pixels of a scanner."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.data.synthetic.noise import FloatMap, smoothstep
from segkit.data.synthetic.tissue import Concentrations

_HALO_PX = 12
# Optical density in red, green and blue of one unit of stain (after Ruifrok and Johnston, 2001).
_HAEMATOXYLIN = np.array([0.60, 0.74, 0.30])
_EOSIN = np.array([0.16, 0.88, 0.38])
_BLOOD = np.array([0.13, 0.72, 0.62])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """Stains and scanner of one patient's slide.

    Attributes
    ----------
    stains
        Optical density of one unit of haematoxylin, eosin and blood in red, green and blue, (3, 3).
    white
        Transmitted light on empty glass, in red, green and blue, 0 to 1.
    blur_px
        Standard deviation of the point spread in focus.
    defocus_px
        The same where focus is worst.
    sharpen
        Amount of the scanner's sharpening.
    noise
        Standard deviation of the sensor noise on white, 0 to 1.
    shading
        Loss of light at the corners of a field, 0 to 1.
    """

    stains: NDArray[np.float64]
    white: NDArray[np.float64]
    blur_px: float
    defocus_px: float
    sharpen: float
    noise: float
    shading: float


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Draw the stains and the scanner of one patient."""
    stains = []
    for vector, spread in ((_HAEMATOXYLIN, 0.035), (_EOSIN, 0.035), (_BLOOD, 0.03)):
        tinted = np.clip(vector + rng.normal(0, spread, 3), 0.02, None)
        stains.append(tinted / np.linalg.norm(tinted) * rng.uniform(0.88, 1.12))
    return Scanner(
        stains=np.array(stains),
        white=np.clip(0.955 + rng.normal(0, 0.012, 3), 0.9, 0.99),
        blur_px=rng.uniform(0.6, 0.85),
        defocus_px=rng.uniform(1.0, 1.9),
        sharpen=rng.uniform(0.2, 0.7),
        noise=rng.uniform(0.008, 0.016),
        shading=rng.uniform(0.0, 0.05),
    )


def halo_px() -> int:
    """Return how far around a block the concentrations must be known."""
    return _HALO_PX


def expose(
    rng: np.random.Generator,
    scanner: Scanner,
    stained: Concentrations,
    focus: FloatMap,
    light: FloatMap,
) -> NDArray[np.uint8]:
    """Photograph a block.

    Parameters
    ----------
    rng
        Source of the sensor's noise.
    scanner
        Stains and camera.
    stained
        Concentrations of the block with `halo_px()` pixels around it.
    focus
        Focus over the same area, noise of standard deviation 1: blurred where it is high.
    light
        Illumination over the same area, about 1.

    Returns
    -------
    NDArray[np.uint8]
        The block without its halo, (H, W, 3), RGB.
    """
    planes = np.stack([stained.haematoxylin, stained.eosin, stained.blood], axis=-1)
    density = np.maximum(planes, 0) @ scanner.stains.astype(np.float32)
    transmitted = np.exp(-np.float32(np.log(10)) * density)
    sharp = cv2.GaussianBlur(transmitted, (0, 0), scanner.blur_px)
    soft = cv2.GaussianBlur(transmitted, (0, 0), scanner.defocus_px)
    amount = smoothstep(focus, 0.2, 1.8)[..., None]
    seen = sharp + amount * (soft - sharp)
    seen += np.float32(scanner.sharpen) * (seen - cv2.GaussianBlur(seen, (0, 0), 1.4))
    seen *= light[..., None] * scanner.white.astype(np.float32)
    inner = seen[_HALO_PX:-_HALO_PX, _HALO_PX:-_HALO_PX]
    # Photon noise grows with the root of the light; the colour filter array correlates neighbours.
    noise = cv2.GaussianBlur(rng.standard_normal(inner.shape, np.float32), (0, 0), 0.6) * 1.8
    noisy = inner + np.float32(scanner.noise) * np.sqrt(np.clip(inner, 0.02, 1)) * noise
    return np.asarray(np.clip(noisy * 255 + 0.5, 0, 255), np.uint8)
