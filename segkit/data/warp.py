"""Flips, rotation, scaling, shear and elastic deformation as one albumentations transform with one interpolation.

Chained transforms would blur the image at each step and compute pixels that a later crop throws away. Importing
this module imports albumentations, which takes over a second; `segkit.data.augment` does so when it builds a pipeline.
"""

from collections.abc import Callable
from typing import Any

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.data.deformation import WarpStrengths, draw_warp, source_coordinates


class Warp(albumentations.DualTransform):  # type: ignore[misc]  # albumentations has no types
    """Cut a warped patch out of the middle of a larger image; the warp is `draw_warp`'s.

    The image and the further planes of a target (the key `planes`, (H, W, P - 1)) are interpolated linearly, the
    classes (the key `mask`, (H, W)) are the nearest pixel's. Where there are only flips, they are exact.

    Parameters
    ----------
    patch_px
        Side of the square that is cut out.
    strengths
        What is drawn.
    """

    def __init__(self, patch_px: int, strengths: WarpStrengths) -> None:
        self.patch_px = patch_px
        self.strengths = strengths
        super().__init__(p=1.0)

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        """Return what is applied to each key."""
        return {**super().targets, "planes": self.apply}

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 (albumentations' interface)
        """Draw one warp; albumentations passes the result on to `apply` and `apply_to_mask`."""
        draw = draw_warp(self.random_generator, self.strengths, self.patch_px)
        if not self.strengths.warps:
            # A flip is a step of -1 through rows or columns.
            return {"view": (slice(None, None, int(draw.matrix[1, 1])), slice(None, None, int(draw.matrix[0, 0])))}
        map_x, map_y = source_coordinates(draw, self.patch_px, params["shape"][0])
        return {"map_x": map_x, "map_y": map_y}

    def apply(self, img: NDArray[np.uint8], **params: Any) -> Any:
        """Return the warped patch of an image, or of planes."""
        return _warped(img, params, cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: NDArray[np.uint8], **params: Any) -> Any:
        """Return the warped patch of class indices."""
        return _warped(mask, params, cv2.INTER_NEAREST)


def _warped(array: NDArray[np.uint8], params: dict[str, Any], interpolation: int) -> Any:
    if "view" in params:
        return array[params["view"]]
    # The context is large enough for every draw, so only rounding can reach the border.
    warped = cv2.remap(array, params["map_x"], params["map_y"], interpolation, borderMode=cv2.BORDER_REFLECT_101)
    return warped.reshape(*warped.shape[:2], *array.shape[2:])
