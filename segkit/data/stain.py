"""Haematoxylin and eosin made stronger and weaker: what differs most between laboratories."""

from typing import Any, Final

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

# Optical densities (R, G, B) of haematoxylin, eosin and a third stain at right angles to neither: Ruifrok and
# Johnston, Anal Quant Cytol Histol 23 (2001), as scikit-image's `rgb_from_hed`.
STAINS: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# A pixel of value v has the optical density -ln(v / 255); 0 is taken as 1, as black has none that is finite.
DENSITY: Final = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


class StainJitter(albumentations.ImageOnlyTransform):  # type: ignore[misc]  # albumentations has no types
    """Multiply the amount of each stain in a colour image by its own factor, drawn from 1 - s .. 1 + s.

    Tellez et al., IEEE Trans Med Imaging 37 (2018), without their shifts, which would tint the glass.

    Parameters
    ----------
    strength
        s, 0 <= s < 1.
    """

    def __init__(self, strength: float) -> None:
        super().__init__(p=1)
        self.strength = strength

    def get_params(self) -> dict[str, Any]:
        """Draw the factors of one sample."""
        draw = self.random_generator.uniform(1 - self.strength, 1 + self.strength, len(STAINS))
        return {"factors": draw}

    def apply(self, img: NDArray[np.uint8], factors: NDArray[np.float64], **_: Any) -> NDArray[np.uint8]:
        """Return the image with its stains multiplied."""
        return scale_stains(img, factors)


def scale_stains(image_HWC: NDArray[np.uint8], factors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a uint8 colour image whose three stains are multiplied by `factors` (Beer-Lambert law)."""
    change = np.linalg.inv(STAINS) @ np.diag(factors) @ STAINS
    density = cv2.transform(DENSITY[image_HWC], change.T.astype(np.float32))
    pixels: NDArray[np.uint8] = np.clip(255 * cv2.exp(-density) + 0.5, 0, 255).astype(np.uint8)
    return pixels
