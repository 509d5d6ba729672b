"""The numbers behind a warp: its matrix, its smooth random displacement, and how far it reaches. Pure functions.

The pixel at p of a patch comes from `centre + A (p - middle) + e(p)` of its context: A undoes rotation, shear, scaling
and flips, and e is a cubic B-spline through a coarse grid of random displacements, much as Ronneberger et al. 2015
(section 3.1) deform, smooth and limited.
"""

import functools
import math
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from segkit.config import AugmentConfig

ELASTIC_SPACING_PX: Final = 64  # distance of the elastic grid's nodes in the patch
# A displacement is a sum of node displacements weighted by the cubic B-spline; its standard deviation, averaged
# over places, is this part of the nodes': the integral of the squared B-spline is 151/315 along each axis.
SPLINE_RMS: Final = 151 / 315
# Nodes are drawn evenly up to sqrt(3) standard deviations, and the spline lies within its nodes: the largest
# displacement for an RMS of 1.
ELASTIC_LIMIT: Final = math.sqrt(3) / SPLINE_RMS
FIXED_POINT_STEPS: Final = 40


class WarpStrengths(NamedTuple):
    """What a warp is drawn from; see `segkit.data.presets`."""

    flips: bool
    rotate_degrees: float
    scale: tuple[float, float]
    shear_degrees: float
    elastic_px: float

    @classmethod
    def of(cls, config: AugmentConfig) -> Self:
        """Return the strengths in a configuration without `auto`."""
        values = config.model_dump()
        values["scale"] = tuple(sorted(values["scale"]))  # a range, in whatever order it is given
        return cls(**{name: values[name] for name in cls._fields})

    @property
    def warps(self) -> bool:
        """Whether pixels are interpolated, and not only mirrored."""
        return bool(self.rotate_degrees or self.scale != (1.0, 1.0) or self.shear_degrees or self.elastic_px)

    def margin(self, patch_px: int) -> int:
        """Return the pixels of context that a patch needs on each side."""
        if not self.warps:
            return 0
        return context_margin(
            patch_px,
            rotate_degrees=self.rotate_degrees,
            smallest_scale=min(self.scale),
            shear_degrees=self.shear_degrees,
            elastic_px=self.elastic_px,
        )


class WarpDraw(NamedTuple):
    """One sample's warp.

    `matrix` float32 (2, 2), rows and columns x, y, is A; `nodes` float32 (2, n, n), of x and y, are the displacements
    at the nodes of e in pixels, (2, 0, 0) where there are none.
    """

    matrix: NDArray[np.float32]
    nodes: NDArray[np.float32]


def draw_warp(rng: np.random.Generator, strengths: WarpStrengths, patch_px: int) -> WarpDraw:
    """Draw one warp: angles evenly in both directions, the magnification evenly on a logarithmic scale."""
    flips = 1 - 2 * rng.integers(0, 2, 2) if strengths.flips else np.ones(2)
    angle = math.radians(strengths.rotate_degrees) * rng.uniform(-1, 1)
    shear = math.radians(strengths.shear_degrees) * rng.uniform(-1, 1)
    scale = math.exp(rng.uniform(math.log(strengths.scale[0]), math.log(strengths.scale[1])))
    # Mirroring within the matrix leaves e as it is, which is as random mirrored as not.
    matrix = source_matrix(angle, scale, shear) * flips.astype(np.float32)
    limit = ELASTIC_LIMIT * strengths.elastic_px
    num_nodes = node_count(patch_px, ELASTIC_SPACING_PX) if limit else 0
    return WarpDraw(matrix, rng.uniform(-limit, limit, (2, num_nodes, num_nodes)).astype(np.float32))


def source_coordinates(
    draw: WarpDraw, patch_px: int, source_px: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return where a patch's pixels come from: x and y, float32 (patch_px, patch_px), in pixels of the context.

    Parameters
    ----------
    draw
        See `draw_warp`.
    patch_px, source_px
        Sides of the patch and of its context.
    """
    offsets = np.arange(patch_px, dtype=np.float32) - np.float32((patch_px - 1) / 2)
    maps = []
    for row, nodes in zip(draw.matrix, draw.nodes, strict=True):
        along_y = row[1] * offsets + np.float32((source_px - 1) / 2)
        coordinates: NDArray[np.float32] = along_y[:, None] + (row[0] * offsets)[None, :]
        if nodes.size:
            spline = spline_weights(patch_px, ELASTIC_SPACING_PX)
            coordinates += spline @ nodes @ spline.T
        maps.append(coordinates)
    return maps[0], maps[1]


def warp_points(points_yx: NDArray[np.floating], draw: WarpDraw, patch_px: int, source_px: int) -> NDArray[np.float64]:
    """Return where points of a context lie in its warped patch, the inverse of `source_coordinates`.

    Parameters
    ----------
    points_yx
        (N, 2) y, x; the first pixel's centre is at 0.5, as `segkit.points` has it.
    draw, patch_px, source_px
        As in `source_coordinates`.

    Returns
    -------
    points_yx
        float64 (N, 2), likewise; they may lie outside of the patch.

    Notes
    -----
    A fixed-point iteration, which finds the place as long as the displacement folds nothing over.
    """
    offsets_xy = np.asarray(points_yx, np.float64)[:, ::-1] - source_px / 2
    inverse = np.linalg.inv(draw.matrix.astype(np.float64))
    places = offsets_xy @ inverse.T
    for _ in range(FIXED_POINT_STEPS if draw.nodes.size else 0):
        weights_x, weights_y = (
            _spline_at((places[:, axis] + patch_px / 2) / ELASTIC_SPACING_PX, draw.nodes.shape[1]) for axis in (0, 1)
        )
        displacement = np.einsum("py,dyx,px->pd", weights_y, draw.nodes, weights_x)
        places = (offsets_xy - displacement) @ inverse.T
    found: NDArray[np.float64] = (places + patch_px / 2)[:, ::-1]
    return found


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


def node_count(size: int, spacing: int) -> int:
    """Return the number of an axis's nodes: from one before its start to one behind its end, at least."""
    return math.ceil(size / spacing) + 3


@functools.cache
def spline_weights(size: int, spacing: int) -> NDArray[np.float32]:
    """Return the weights, (size, nodes), of uniform cubic B-splines at the pixels of an axis; rows sum to 1."""
    weights = _spline_at((np.arange(size) + 0.5) / spacing, node_count(size, spacing)).astype(np.float32)
    weights.setflags(write=False)
    return weights


def _spline_at(positions: NDArray[np.float64], num_nodes: int) -> NDArray[np.float64]:
    """Return the weights, (positions, nodes), of nodes at -1, 0, 1, .. for positions in units of their distance."""
    distance = np.abs(positions[:, None] - np.arange(-1, num_nodes - 1)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far)


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
