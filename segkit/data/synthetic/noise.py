"""Random textures that can be read at any place of a large plane, block by block, without seams.

All of them are functions of the position: a block of a slide gets the same values whichever block is drawn first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.geometry import Box

FloatMap = NDArray[np.float32]

_PERIOD_PX = 1024
_LIC_STEP_PX = 1.5


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float, mode: str = "reflect") -> FloatMap:
    """Return Gaussian noise of mean 0 and standard deviation 1 that varies over about `sigma` pixels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode=mode)
    noise -= noise.mean()
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)


def smoothstep(values: FloatMap, low: float, high: float) -> FloatMap:
    """Return 0 below `low`, 1 above `high` and a smooth ramp between them."""
    ramp = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def gradient(values: FloatMap) -> tuple[FloatMap, FloatMap]:
    """Return the derivatives of a map along y and x, per pixel of the map."""
    along_y, along_x = np.gradient(values)
    return np.asarray(along_y, np.float32), np.asarray(along_x, np.float32)


class NoisePlane:
    """An endless plane of noise at several scales, made of periodic squares.

    Parameters
    ----------
    rng
        Source of the noise.
    sigmas
        The scales, in pixels, that can be read.
    """

    def __init__(self, rng: np.random.Generator, sigmas: Sequence[float]) -> None:
        shape = (_PERIOD_PX, _PERIOD_PX)
        self._squares = {sigma: smooth_noise(rng, shape, sigma, mode="wrap") for sigma in sigmas}
        self._jitter = rng.uniform(-1, 1, (*shape, 2))

    def read(self, box: Box, sigma: float, layer: int = 0) -> FloatMap:
        """Return the noise of scale `sigma` in `box`; `layer` tells unrelated uses of one scale apart."""
        y = np.arange(box.y, box.bottom) + 389 * layer
        x = np.arange(box.x, box.right) + 613 * layer
        return self._squares[sigma].take(y % _PERIOD_PX, axis=0).take(x % _PERIOD_PX, axis=1)

    def jitter(self, row: NDArray[np.int_], column: NDArray[np.int_]) -> NDArray[np.float64]:
        """Return two numbers from -1 to 1 for each cell (row, column) of an endless grid, shape (N, 2)."""
        return self._jitter[row % _PERIOD_PX, column % _PERIOD_PX]


@dataclass(frozen=True, slots=True)
class CoarseGrid:
    """Where the pixels of coarse maps lie on the image: every `scale` pixels, from `margin` outside of it on."""

    height: int
    width: int
    scale: int = 4
    margin: int = 128

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a coarse map."""
        return (
            -(-(self.height + 2 * self.margin) // self.scale),
            -(-(self.width + 2 * self.margin) // self.scale),
        )

    def read(self, coarse: FloatMap, box: Box) -> FloatMap:
        """Return a coarse map's values, interpolated, at the pixels of `box`."""
        y = self._position(np.arange(box.y, box.bottom, dtype=np.float32))
        x = self._position(np.arange(box.x, box.right, dtype=np.float32))
        grid_y, grid_x = np.broadcast_to(y[:, None], (len(y), len(x))), np.broadcast_to(x, (len(y), len(x)))
        return np.asarray(
            cv2.remap(
                coarse,
                np.ascontiguousarray(grid_x),
                np.ascontiguousarray(grid_y),
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
        )

    def at(self, coarse: FloatMap, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a coarse map's values, interpolated, at points of the image (pixel centres at integers)."""
        where = [self._position(y), self._position(x)]
        return np.asarray(ndimage.map_coordinates(coarse, where, order=1, mode="nearest"), np.float64)

    def _position(self, pixel: NDArray[np.floating]) -> NDArray[np.floating]:
        return (pixel + self.margin + 0.5) / self.scale - 0.5


def smear_along(noise_HWC: FloatMap, cos2: FloatMap, sin2: FloatMap, length_px: float) -> FloatMap:
    """Average noise along the streamlines of a direction field: fibres (line integral convolution, Cabral 1993).

    Parameters
    ----------
    noise_HWC
        Any number of noise channels, float32.
    cos2, sin2
        Cosine and sine of twice the direction's angle, (H, W); a fibre has no head and no tail.
    length_px
        Half of the length over which is averaged.

    Returns
    -------
    FloatMap
        The smeared channels, shaped like `noise_HWC`; near the border, streamlines are cut off.
    """
    angle = 0.5 * np.arctan2(sin2, cos2)
    step = np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32) * np.float32(_LIC_STEP_PX)
    num_steps = max(1, round(length_px / _LIC_STEP_PX))
    height, width = angle.shape
    start_x, start_y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    total, weights = noise_HWC.copy(), 1.0
    for sign in (1.0, -1.0):
        x, y, heading = start_x.copy(), start_y.copy(), step * np.float32(sign)
        for index in range(num_steps):
            x, y = x + heading[..., 0], y + heading[..., 1]
            weight = 0.5 + 0.5 * np.cos(np.pi * (index + 1) / (num_steps + 1))
            sampled = cv2.remap(noise_HWC, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
            total += np.float32(weight) * sampled.reshape(noise_HWC.shape)
            weights += weight
            turned = cv2.remap(step, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
            # The field gives a line, not an arrow: keep going the way we came.
            forward = np.sign((turned * heading).sum(axis=-1, keepdims=True)) + np.float32(1e-6)
            heading = turned * np.sign(forward)
    return total / np.float32(weights)
