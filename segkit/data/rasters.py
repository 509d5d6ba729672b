"""Read masks and labels as the integers that were written, or refuse: an id must never change on the way.

Images go through `segkit.slides.open_slide`, which scales 16 bit to 8 for the eye; ids must not be scaled.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import PngImagePlugin

from segkit.errors import InputError
from segkit.slides.slide import decoding_errors

RASTER_SUFFIXES: Final = frozenset({".png", ".tif", ".tiff"})
LOSSY_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jp2", ".webp"})
MAX_PIXELS: Final = 256_000_000  # 16000 x 16000: the most that is read whole
MAX_BYTES_PER_PIXEL: Final = 4  # of a mask: 32 bit ids, or RGBA

# TIFF compressions that return every value unchanged: none, CCITT (1 bit), LZW, deflate (two codes), PackBits,
# LZMA, Zstandard (two codes). All others can change ids.
LOSSLESS_TIFF: Final = frozenset({1, 2, 3, 4, 5, 8, 32946, 32773, 34925, 34926, 50000})
# Pillow multiplies grey values of 2 and 4 bit to fill 8 bit; dividing by the same number gives the ids back.
GREY_FACTOR: Final = {2: 85, 4: 17}

# tifffile reports oddities of files that it copes with; without a handler they would go to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def read_values(path: Path) -> NDArray[Any]:
    """Return the integers of a mask, (H, W), in the type in which they are stored.

    PNG (grey of 1 to 16 bit, palette: the indices, RGB with three equal channels) and TIFF (integers, any lossless
    compression; the first page of a pyramid).

    Raises
    ------
    InputError
        The file is missing, damaged, lossy, coloured, no integers, a stack of pages or larger than `MAX_PIXELS`.
    """
    suffix = path.suffix.lower()
    if suffix in LOSSY_SUFFIXES:
        raise InputError(f"{path}: {suffix[1:].upper()} is lossy and changes class ids. Save masks as PNG or TIFF.")
    if suffix == ".png":
        return _read_png(path)
    if suffix in RASTER_SUFFIXES:
        return _read_tiff(path)
    raise InputError(f"{path}: is no PNG or TIFF file, and masks are read from those only.")


def distinct_values(values: NDArray[Any]) -> list[int]:
    """Return the sorted distinct integers of a mask."""
    if values.dtype in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        return [int(value) for value in np.flatnonzero(np.bincount(values.ravel()))]
    return [int(value) for value in np.unique(values)]


def require_readable_size(path: Path, height: int, width: int) -> None:
    """Raise InputError when an image is too large to be read whole."""
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{path}: {width} x {height} pixels are too many to be read whole (at most {MAX_PIXELS // 10**6} million). "
            "Cut fields out of it and use those. To measure a model on it as it is, predict it (`segkit predict` or "
            "`sliding-window`) and give what that leaves to `segkit evaluate --pred --truth`, which reads blocks."
        )


def _read_png(path: Path) -> NDArray[Any]:
    # The plugin is used directly: `Image.open` guesses other formats from the content, and warns about large images.
    with decoding_errors(path, "the mask"), PngImagePlugin.PngImageFile(path) as image:
        image.verify()  # compares the checksums, which reading does not; the image cannot be read afterwards
    with decoding_errors(path, "the mask"), PngImagePlugin.PngImageFile(path) as image:
        require_readable_size(path, image.height, image.width)
        with path.open("rb") as file:
            bits, colour_type = file.read(26)[24:26]  # IHDR is always the first chunk
        if colour_type in {2, 4, 6} and bits == 16:
            raise InputError(f"{path}: 16-bit PNG with colour or transparency. Save the mask as one grey channel.")
        values = np.asarray(image)
        if values.dtype == np.bool_:
            return values.astype(np.uint8)
        if values.ndim == 3:
            return _equal_channels(path, values, alpha=colour_type in {4, 6})
        return values // GREY_FACTOR[bits] if colour_type == 0 and bits in GREY_FACTOR else values


def _read_tiff(path: Path) -> NDArray[Any]:
    with decoding_errors(path, "the mask"), tifffile.TiffFile(path) as file:
        page = file.pages[0]
        require_readable_size(path, page.imagelength, page.imagewidth)
        if page.compression not in LOSSLESS_TIFF:
            raise InputError(
                f"{path}: compressed with {_compression_name(page)}, which can change class ids. "
                "Save the mask with deflate or LZW."
            )
        if page.dtype is None or page.dtype.kind not in "uib":
            raise InputError(f"{path}: holds {page.dtype} numbers, and class ids are integers.")
        if page.dtype.itemsize * page.samplesperpixel > MAX_BYTES_PER_PIXEL:
            raise InputError(f"{path}: holds {page.samplesperpixel} values of {page.dtype} per pixel. Save 16 bit ids.")
        if page.tags.valueof(274, default=1) != 1:  # Orientation: the image's may differ, and nothing would fit
            raise InputError(
                f"{path}: is stored turned or mirrored. Save the mask upright, without an orientation tag."
            )
        if len(file.pages) > 1 and file.pages[1].shape == page.shape:
            raise InputError(f"{path}: holds {len(file.pages)} pages, and a mask is one. Save the planes one by one.")
        _require_extents(path, page)
        values = page.asarray()
        if values.dtype == np.bool_:
            values = values.astype(np.uint8)
        if page.samplesperpixel > 1 and page.planarconfig == 2:
            values = np.moveaxis(values, 0, -1)
        if values.ndim == 2:
            return np.asarray(values)
        if values.ndim == 3:
            return _equal_channels(path, values, alpha=values.shape[-1] in {2, 4})
        raise InputError(f"{path}: has the shape {values.shape}, and a mask has height and width.")


def _require_extents(path: Path, page: Any) -> None:
    """Refuse a file whose data lie outside of it: a decoder would fill them with zeros without a word."""
    size = path.stat().st_size
    ends = (offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))
    if any(end > size for end in ends):
        raise InputError(f"{path}: is cut off ({size} bytes, more are needed). Copy it again.")


def _equal_channels(path: Path, values: NDArray[Any], *, alpha: bool) -> NDArray[Any]:
    colours = values[..., :-1] if alpha else values
    if alpha and not (values[..., -1] == np.iinfo(values.dtype).max).all():
        raise InputError(f"{path}: has transparent pixels. Save the mask as one grey or palette channel of ids.")
    if not (colours == colours[..., :1]).all():
        raise InputError(
            f"{path}: is a colour picture, and a mask holds class ids. Save one grey or palette channel of ids."
        )
    return np.ascontiguousarray(colours[..., 0])


def _compression_name(page: Any) -> str:
    return str(getattr(page.compression, "name", page.compression))


def map_values(values: NDArray[Any], classes: Mapping[int, int], unknown: int) -> NDArray[np.uint8]:
    """Return class indices, uint8 of the same shape, for the values of a mask; `unknown` where there is none."""
    indices = np.full(values.shape, unknown, np.uint8)
    for value, index in classes.items():
        indices[values == value] = index
    return indices
