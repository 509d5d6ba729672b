"""Rotation, scaling, shear and elastic deformation as one albumentations transform with one interpolation.

Chained transforms would blur the image at each step and compute pixels that a later crop throws away. Importing
this module imports albumentations, which takes over a second; `segkit.data.augment` does so when it builds a pipeline.
"""

import math
from typing import Any

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.data.deformation import ELASTIC_LIMIT, ELASTIC_SPACING_PX, source_matrix, spline_weights


class Warp(albumentations.DualTransform):  # type: ignore[misc]  # albumentations has no types
    """Cut a warped patch out of the middle of a larger image: linear for the image, nearest for the mask.

    The pixel at p in the patch comes from `centre + A (p - middle) + e(p)`: A undoes rotation, shear and scaling,
    and e is a cubic B-spline through a coarse grid of random displacements, much as Ronneberger et al. 2015
    (section 3.1) deform, smooth and limited.

    Parameters
    ----------
    patch_px
        Side of the square that is cut out.
    rotate_degrees, shear_degrees
        Drawn evenly up to these, in both directions.
    scale
        Magnification, drawn evenly on a logarithmic scale, so that shrinking is as likely as growing.
    elastic_px
        Root mean square of e in each direction, in pixels of the source.
    """

    def __init__(
        self,
        patch_px: int,
        rotate_degrees: float,
        scale: tuple[float, float],
        shear_degrees: float,
        elastic_px: float,
    ) -> None:
        super().__init__(p=1.0)
        self.patch_px = patch_px
        self.rotate_degrees = rotate_degrees
        self.scale = scale
        self.shear_degrees = shear_degrees
        self.elastic_px = elastic_px
        self._offsets = np.arange(patch_px, dtype=np.float32) - np.float32((patch_px - 1) / 2)
        self._spline = spline_weights(patch_px, ELASTIC_SPACING_PX)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 (albumentations' interface)
        """Draw one warp; albumentations passes the result on to `apply` and `apply_to_mask`."""
        rng = self.random_generator
        angle = math.radians(self.rotate_degrees) * rng.uniform(-1, 1)
        shear = math.radians(self.shear_degrees) * rng.uniform(-1, 1)
        scale = math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        height, width = params["shape"][:2]
        matrix = source_matrix(angle, scale, shear)
        return {
            "map_x": self._coordinates(matrix[0], width, rng),
            "map_y": self._coordinates(matrix[1], height, rng),
        }

    def apply(self, img: NDArray[np.uint8], map_x: NDArray[np.float32], map_y: NDArray[np.float32], **_: Any) -> Any:
        """Return the warped patch of an image."""
        return _remap(img, map_x, map_y, cv2.INTER_LINEAR)

    def apply_to_mask(
        self, mask: NDArray[np.uint8], map_x: NDArray[np.float32], map_y: NDArray[np.float32], **_: Any
    ) -> Any:
        """Return the warped patch of a mask."""
        return _remap(mask, map_x, map_y, cv2.INTER_NEAREST)

    def _coordinates(self, row: NDArray[np.float32], source_size: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return one source coordinate, (patch_px, patch_px), for every pixel of the patch."""
        along_y = row[1] * self._offsets + np.float32((source_size - 1) / 2)
        coordinates: NDArray[np.float32] = along_y[:, None] + (row[0] * self._offsets)[None, :]
        if self.elastic_px:
            limit = ELASTIC_LIMIT * self.elastic_px
            nodes = rng.uniform(-limit, limit, (self._spline.shape[1], self._spline.shape[1])).astype(np.float32)
            coordinates += self._spline @ nodes @ self._spline.T
        return coordinates


def _remap(array: Any, map_x: Any, map_y: Any, interpolation: int) -> Any:
    # The context is large enough for every draw, so only rounding can reach the border.
    warped = cv2.remap(array, map_x, map_y, interpolation, borderMode=cv2.BORDER_REFLECT_101)
    return warped.reshape(*warped.shape[:2], *array.shape[2:])
