"""The eight ways in which TIFF and EXIF let stored rows and columns be shown."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box


class Orientation(NamedTuple):
    """The shown image is the stored one, transposed first and then flipped."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def shown_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the shown image for those of the stored one."""
        return (width, height) if self.transpose else (height, width)

    def stored_box(self, box: Box, height: int, width: int) -> Box:
        """Return where `box` of the shown image, which has `height` x `width` pixels, is stored."""
        y = height - box.bottom if self.flip_rows else box.y
        x = width - box.right if self.flip_columns else box.x
        if self.transpose:
            return Box(x, y, box.width, box.height)
        return Box(y, x, box.height, box.width)

    def show(self, stored_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return stored pixels as they are shown."""
        shown = stored_HWC.swapaxes(0, 1) if self.transpose else stored_HWC
        if self.flip_rows:
            shown = shown[::-1]
        if self.flip_columns:
            shown = shown[:, ::-1]
        return np.ascontiguousarray(shown)


# TIFF 6.0, tag 274, by value; other values are not defined and mean 1, as in libtiff.
_BY_TAG = {
    1: Orientation(),
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_columns=True),
    7: Orientation(transpose=True, flip_rows=True, flip_columns=True),
    8: Orientation(transpose=True, flip_rows=True),
}


def orientation_of_tag(value: object) -> Orientation:
    """Return the orientation for the value of TIFF or EXIF tag 274."""
    return _BY_TAG.get(value, Orientation()) if isinstance(value, int) else Orientation()
