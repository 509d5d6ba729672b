"""The numbers behind a warp: its matrix, its smooth random displacement, and how far it reaches. Pure functions."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

ELASTIC_SPACING_PX: Final = 64  # distance of the elastic grid's nodes in the patch
# A displacement is a sum of node displacements weighted by the cubic B-spline; its standard deviation, averaged
# over places, is this part of the nodes': the integral of the squared B-spline is 151/315 along each axis.
SPLINE_RMS: Final = 151 / 315
# Nodes are drawn evenly up to sqrt(3) standard deviations, and the spline lies within its nodes: the largest
# displacement for an RMS of 1.
ELASTIC_LIMIT: Final = math.sqrt(3) / SPLINE_RMS


def source_matrix(angle: float, scale: float, shear: float) -> NDArray[np.float32]:
    """Return the 2 x 2 matrix (rows x, y) that takes offsets in the patch to offsets in the source.

    Parameters
    ----------
    angle
        Turn in radians.
    scale
        Magnification: 2 shows the source twice as large.
    shear
        Angle in radians: x grows by tan(shear) per unit of y.
    """
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.asarray(turn @ [[1, math.tan(shear)], [0, 1]] / scale, np.float32)


def spline_weights(size: int, spacing: int) -> NDArray[np.float32]:
    """Return the weights, (size, nodes), of uniform cubic B-splines at the pixels of an axis; rows sum to 1."""
    position = (np.arange(size) + 0.5) / spacing
    distance = np.abs(position[:, None] - np.arange(-1, math.ceil(size / spacing) + 2)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def context_margin(
    patch_px: int, *, rotate_degrees: float, smallest_scale: float, shear_degrees: float, elastic_px: float
) -> int:
    """Return the pixels around a patch that the strongest of all possible warps reaches.

    Parameters
    ----------
    patch_px
        Side of the patch.
    rotate_degrees, shear_degrees, elastic_px
        The largest values, as in `AugmentConfig`.
    smallest_scale
        The smallest magnification.
    """
    half = (patch_px - 1) / 2
    turn = math.radians(rotate_degrees)
    shift = half * math.tan(math.radians(shear_degrees))
    reach = 0.0
    # A sheared square lies within the corners of the largest shears; opposite corners reach equally far.
    for x, y in ((half + shift, half), (half - shift, half)):
        direction, radius = math.atan2(y, x), math.hypot(x, y)
        along_x = _largest_cosine(direction - turn, direction + turn)
        along_y = _largest_cosine(direction - math.pi / 2 - turn, direction - math.pi / 2 + turn)
        reach = max(reach, radius * max(along_x, along_y))
    # Rounding must not cost a pixel where nothing is reached: a quarter turn of the square is the square.
    return max(math.ceil(reach / smallest_scale + ELASTIC_LIMIT * elastic_px - half - 1e-6), 0)


def _largest_cosine(start: float, stop: float) -> float:
    """Return the largest |cos| on the interval."""
    if math.floor(stop / math.pi) > math.floor(start / math.pi) or start % math.pi == 0:
        return 1.0
    return max(abs(math.cos(start)), abs(math.cos(stop)))
