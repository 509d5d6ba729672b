"""Stain augmentation as a transform of albumentations, whose import takes over a second."""

from typing import Any

import albumentations
import numpy as np
from numpy.typing import NDArray

from segkit.data.stain import STAINS, scale_stains


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
