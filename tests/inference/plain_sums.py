"""Sums over disks by their definition."""

import math

import numpy as np
from numpy.typing import NDArray


def plain_sums(scores: NDArray[np.uint16], radius: float) -> NDArray[np.int64]:
    """Return the sum over the disk around each pixel of a map (h, w), mirrored at its borders."""
    height, width = scores.shape
    reach = math.floor(radius)
    padded = np.pad(scores.astype(np.int64), reach, mode="reflect")
    disk = [
        (dy, dx)
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
        if dy * dy + dx * dx <= radius * radius
    ]
    sums: NDArray[np.int64] = sum(
        (padded[reach + dy :, reach + dx :][:height, :width] for dy, dx in disk), np.zeros((height, width), np.int64)
    )
    return sums
