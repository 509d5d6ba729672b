"""PNG, JPEG and JPEG 2000 images: decoded once, a slide of one level.

The orientation in the EXIF data of a JPEG file is applied, as viewers do.
"""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from segkit.files import format_bytes
from segkit.geometry import Box
from segkit.slides.bitstreams import (
    Declared,
    jpeg2000_header,
    jpeg_header,
    jpeg_is_complete,
    png_header,
)
from segkit.slides.intensity import Interpretation, fixed_window, window_of_values
from segkit.slides.orientation import Orientation, orientation_of_tag
from segkit.slides.slide import Slide, refuse

MAX_DECODED_BYTES = 400 * 1024**2
"""A larger image is refused; with the decoders' scratch space it would take more than 1 GB."""

_OPENJPEG_SCRATCH = 4  # OpenJPEG works on 32-bit samples
_EXIF_ORIENTATION = 274
_BAND_ROWS = 1024


class RasterSlide(Slide):
    """An image that is held in memory.

    Parameters
    ----------
    path
        A regular file.
    kind
        `png`, `jpeg` or `jpeg2000`.

    Raises
    ------
    InputError
        The image is damaged, cut, too large or of an unsupported kind.
    """

    def __init__(self, path: Path, kind: str) -> None:
        decode = {"png": _decode_png, "jpeg": _decode_jpeg, "jpeg2000": _decode_jpeg2000}[kind]
        samples, orientation = decode(path)
        if samples.ndim == 2:
            samples = samples[:, :, None]
        count = samples.shape[2]
        if count > 4 or samples.dtype.kind not in "bu":
            raise refuse(path, f"has {count} channels of {samples.dtype}", "Convert it to 8-bit grey or RGB")
        window = fixed_window(samples.dtype, samples.dtype.itemsize * 8) or window_of_values(samples.dtype, [samples])
        interpretation = Interpretation(
            window=window,
            colours=3 if count >= 3 else 1,
            alpha="unassociated" if count in {2, 4} else "none",
        )
        self._pixels = orientation.show(interpretation.pixels(samples))
        super().__init__(
            path,
            sizes=[self._pixels.shape[:2]],
            channels=interpretation.channels,
            mpp=None,
            backend="raster",
            properties={"raster.kind": kind, "raster.dtype": str(samples.dtype), "intensity.window": str(window)},
        )

    def close(self) -> None:
        """Release the pixels."""
        self._pixels = np.empty((0, 0, self.channels), np.uint8)

    def _read(self, box: Box, level: int) -> NDArray[np.uint8]:
        del level  # there is one
        return self._pixels[box.slices].copy()


def _require_size(path: Path, declared: Declared, scratch: int = 1) -> None:
    if declared.num_bytes * scratch > MAX_DECODED_BYTES:
        raise refuse(
            path,
            f"an image of {declared.height} x {declared.width} pixels is too large to be decoded at once "
            f"({format_bytes(declared.num_bytes)})",
            "Convert it to a tiled TIFF, e.g. `vips tiffsave IN OUT --tile --pyramid --compression jpeg`",
        )


def _decode_png(path: Path) -> tuple[NDArray[Any], Orientation]:
    data = path.read_bytes()
    _require_size(path, png_header(data))
    return imagecodecs.png_decode(data), Orientation()


def _decode_jpeg(path: Path) -> tuple[NDArray[Any], Orientation]:
    data = path.read_bytes()
    _require_size(path, jpeg_header(data))
    if not jpeg_is_complete(data):
        raise refuse(path, "the JPEG image is cut or has lost a part", "Copy or download it again")
    # Pillow's own class, as `Image.open` would try all formats and warn about large images by a global setting.
    with JpegImagePlugin.JpegImageFile(path) as image:
        if image.mode not in {"L", "RGB"}:
            raise refuse(path, f"the colour space {image.mode} is not supported", "Convert it to grey or RGB")
        pixels = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
        for top in range(0, image.height, _BAND_ROWS):  # a conversion in one go takes three times the memory
            band = image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height)))
            pixels[top : top + _BAND_ROWS] = np.asarray(band).reshape(band.height, image.width, -1)
        return pixels, orientation_of_tag(image.getexif().get(_EXIF_ORIENTATION))


def _decode_jpeg2000(path: Path) -> tuple[NDArray[Any], Orientation]:
    data = path.read_bytes()
    _require_size(path, jpeg2000_header(data), scratch=_OPENJPEG_SCRATCH)
    return imagecodecs.jpeg2k_decode(data), Orientation()
