"""Haematoxylin and eosin made stronger and weaker: what differs most between laboratories."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

# Optical densities (R, G, B) of haematoxylin, eosin and a third stain at right angles to neither: Ruifrok and
# Johnston, Anal Quant Cytol Histol 23 (2001), as scikit-image's `rgb_from_hed`.
STAINS: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# A pixel of value v has the optical density -ln(v / 255); 0 is taken as 1, as black has none that is finite.
DENSITY: Final = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


def stain_matrix(factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 3 x 3 matrix that takes a pixel's optical densities (a column) to those with its stains multiplied.

    Parameters
    ----------
    factors
        (3,): of haematoxylin, eosin and the third stain.
    """
    change: NDArray[np.float64] = (np.linalg.inv(STAINS) @ np.diag(factors) @ STAINS).T
    return change


def scale_stains(image_HWC: NDArray[np.uint8], factors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a uint8 colour image whose three stains are multiplied by `factors` (Beer-Lambert law)."""
    density = cv2.transform(DENSITY[image_HWC], stain_matrix(factors).astype(np.float32))
    pixels: NDArray[np.uint8] = np.clip(255 * cv2.exp(-density) + 0.5, 0, 255).astype(np.uint8)
    return pixels
