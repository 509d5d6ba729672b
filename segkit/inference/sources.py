"""What networks read: one level of a slide, or an image in memory; uint8, mirrored outside."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box, mirror_indices
from segkit.slides import Slide
from segkit.slides.scaling import ScaledLevel


class PixelSource(Protocol):
    """Pixels of one scale, uint8 (H, W, C), mirrored outside."""

    height: int
    width: int

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box that may reach outside."""


class SlideLevel:
    """One level of a slide, with the number of channels that the model wants.

    Parameters
    ----------
    slide, level
        What is read.
    channels
        1 or 3.
    scale
        Pixels of the level per pixel that is read; 1.0: as it is.
    size
        Height and width of the image that is read, where `scale` is not 1.
    """

    def __init__(
        self, slide: Slide, level: int, channels: int, *, scale: float = 1.0, size: tuple[int, int] | None = None
    ) -> None:
        self._slide, self._level, self._channels = slide, level, channels
        self.height, self.width = size or (slide.levels[level].height, slide.levels[level].width)
        self._scaled = (
            None if scale == 1 else ScaledLevel(slide, level, scale=scale, height=self.height, width=self.width)
        )

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box that may reach outside."""
        pixels = self._slide.read_mirrored(box, self._level) if self._scaled is None else self._scaled.read(box)
        return with_channels(pixels, self._channels)


class ArrayImage:
    """An image in memory, uint8 (H, W, C)."""

    def __init__(self, image_HWC: NDArray[np.uint8]) -> None:
        self._image = image_HWC
        self.height, self.width = image_HWC.shape[:2]

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box that may reach outside."""
        rows = mirror_indices(box.y, box.height, self.height)
        columns = mirror_indices(box.x, box.width, self.width)
        return self._image[rows[:, None], columns]


def with_channels(image_HWC: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Return an image with 1 or 3 channels: grey is repeated, colour becomes luminance (ITU-R 601-2)."""
    if image_HWC.shape[2] == channels:
        return image_HWC
    if channels == 3:
        return np.repeat(image_HWC, 3, axis=2)
    luminance = image_HWC.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return luminance.round().astype(np.uint8)[..., None]
