"""Other vendors' formats, through OpenSlide (the extra `openslide`)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides import metadata
from segkit.slides.intensity import mix_with_white
from segkit.slides.slide import Slide


class OpenSlideSlide(Slide):
    """A slide read by OpenSlide. Transparent pixels, where nothing was scanned, are white.

    At a level above 0, OpenSlide takes positions in whole pixels of level 0; where `downsample` is not a whole number,
    a region is therefore off by less than half a level-0 pixel.

    Raises
    ------
    InputError
        The extra is not installed, or OpenSlide cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            import openslide
        except (ImportError, OSError) as error:  # OSError: the Python half without the library
            raise InputError(
                f"{path}: is no plain TIFF, PNG, JPEG or JPEG 2000 file. Slides of other vendors are read through "
                "OpenSlide, which is not installed: run `pip install segkit[openslide]`."
            ) from error
        if openslide.OpenSlide.detect_format(path) is None:
            raise InputError(
                f"{path}: is no image that segkit or OpenSlide knows. Give a TIFF, SVS, PNG, JPEG or slide file."
            )
        self._slide = openslide.OpenSlide(path)
        properties = {str(key): str(value) for key, value in self._slide.properties.items()}
        pixel_size = metadata.from_numbers(
            properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y"), "OpenSlide"
        )
        super().__init__(
            path,
            sizes=[(height, width) for width, height in self._slide.level_dimensions],
            channels=3,
            mpp=pixel_size.mpp if pixel_size else None,
            backend="openslide",
            properties=properties,
        )

    def close(self) -> None:
        """Close the slide."""
        self._slide.close()

    def _read(self, box: Box, level: int) -> NDArray[np.uint8]:
        downsample = self._slide.level_downsamples[level]
        corner = (round(box.x * downsample), round(box.y * downsample))
        rgba = np.asarray(self._slide.read_region(corner, level, (box.width, box.height)))
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(rgba[..., :3])
        return mix_with_white(rgba[..., :3], alpha)
