"""One TIFF page: checked against the file before anything is allocated, then decoded tile by tile."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.files import format_bytes
from segkit.geometry import Box
from segkit.slides.bitstreams import jpeg2000_header, jpeg_has_end, jpeg_header
from segkit.slides.slide import refuse

MAX_TILE_BYTES = 256 * 1024**2
"""A tile or strip that decodes to more is refused: it could not be read in bounded memory."""

_RAW_STRIP_BYTES = 1 << 20  # uncompressed images are read in strips of this size, whatever their own strips are

_JPEG = 7
_APERIO_JPEG2000_YCBCR = 33003
_JPEG2000 = frozenset({_APERIO_JPEG2000_YCBCR, 33005, 34712})
# None, CCITT (2, 3, 4), LZW, JPEG, deflate (8 and 32946), PackBits, LZMA, zstd, JPEG 2000.
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, _JPEG, 8, 32773, 32946, 34925, 50000}) | _JPEG2000
_PHOTOMETRIC_YCBCR = 6
# MINISWHITE, MINISBLACK, RGB, palette, YCbCr
_PHOTOMETRICS = frozenset({0, 1, 2, 3, _PHOTOMETRIC_YCBCR})
_OPENJPEG_SCRATCH = 4  # OpenJPEG works on 32-bit samples
_CONVERT = "Convert it to 8-bit grey or RGB, e.g. with QuPath, Fiji or libvips"


class TiffPage:
    """The tiles or strips of one page, in a grid, as decoded samples.

    Attributes
    ----------
    height, width
        Size of the page in pixels.
    tile_height, tile_width
        Size of a tile; a strip is a tile of the image's width.
    samples
        Samples per pixel.
    dtype
        Type of the decoded samples.
    depth
        Declared bits per sample.
    photometric
        Value of PhotometricInterpretation.
    num_missing
        Tiles with no data in the file (sparse).

    Raises
    ------
    InputError
        The page is damaged, cut or of an unsupported kind.
    """

    def __init__(self, path: Path, page: tifffile.TiffPage, file_size: int) -> None:
        self._path = path
        self._page = page
        _refuse_unsupported(path, page)
        self.height, self.width = int(page.imagelength), int(page.imagewidth)
        self.samples = int(page.samplesperpixel)
        self.dtype = np.dtype(page.dtype)
        self.depth = int(page.bitspersample)
        self.photometric = int(page.photometric)
        self.compression = int(page.compression)
        self._planes = self.samples if page.planarconfig == 2 else 1
        self._jpegtables: bytes | None = page.jpegtables
        self._decode = page.decode
        row_bytes = self.width * self.samples // self._planes * self.dtype.itemsize
        self._raw = not page.is_tiled and page.is_final and self.dtype.itemsize * 8 == self.depth
        if self._raw:
            self.tile_height, self.tile_width = max(1, min(self.height, _RAW_STRIP_BYTES // row_bytes)), self.width
        elif page.is_tiled:
            self.tile_height, self.tile_width = int(page.tilelength), int(page.tilewidth)
        else:
            self.tile_height, self.tile_width = min(self.height, int(page.rowsperstrip)), self.width
        self.rows, self.columns = -(-self.height // self.tile_height), -(-self.width // self.tile_width)
        self._offsets: tuple[int, ...] = page.dataoffsets
        self._counts: tuple[int, ...] = page.databytecounts
        self._check_tile_size()
        self._check_extents(file_size)
        self.num_missing = sum(
            not (offset and count) for offset, count in zip(self._offsets, self._counts, strict=True)
        )
        if self.num_missing == len(self._offsets):
            raise refuse(path, "the image has no pixel data (all tiles are empty)", "Export it again")

    def _check_tile_size(self) -> None:
        tile_bytes = self.tile_height * self.tile_width * self.samples * self.dtype.itemsize
        if tile_bytes * (_OPENJPEG_SCRATCH if self.compression in _JPEG2000 else 1) > MAX_TILE_BYTES:
            raise refuse(
                self._path,
                f"one tile or strip of {self.tile_height} x {self.tile_width} pixels decodes to "
                f"{format_bytes(tile_bytes)}, which is too much at once",
                "Convert it to a tiled TIFF, e.g. `vips tiffsave IN OUT --tile --pyramid`",
            )

    def _check_extents(self, file_size: int) -> None:
        if self._raw:
            expected, table = 1, "pixel data"
            needed = self.height * self.width * self.samples * self.dtype.itemsize
            end = self._offsets[0] + needed if self._offsets else 0
        else:
            expected, table = self._planes * self.rows * self.columns, "table of tiles"
            end = max((o + c for o, c in zip(self._offsets, self._counts, strict=True) if o and c), default=0)
        if len(self._offsets) != len(self._counts) or len(self._offsets) < expected:
            raise refuse(
                self._path, f"the {table} is incomplete ({len(self._offsets)} of {expected} entries)", "Export it again"
            )
        if end > file_size:
            raise refuse(
                self._path,
                f"the file is cut: pixel data up to byte {end} is declared, the file has {file_size}",
                "Copy or download it again",
            )

    def tile_box(self, row: int, column: int) -> Box:
        """Return where a tile lies in the page, cut at the right and bottom border."""
        y, x = row * self.tile_height, column * self.tile_width
        return Box(y, x, min(self.tile_height, self.height - y), min(self.tile_width, self.width - x))

    def read_tile(self, file: int, row: int, column: int) -> NDArray[Any] | None:
        """Return the samples of a tile as `height x width x samples`, or None where the file has no data for it.

        Parameters
        ----------
        file
            File descriptor; it is read by `pread`, so threads may share it.
        row, column
            Position in the grid.
        """
        box = self.tile_box(row, column)
        planes = [
            self._read_raw(file, plane, box) if self._raw else self._read_encoded(file, plane, row, column)
            for plane in range(self._planes)
        ]
        present = [plane[: box.height, : box.width] for plane in planes if plane is not None]
        if len(present) < len(planes):
            return None
        samples = present[0] if len(present) == 1 else np.concatenate(present, axis=2)
        if samples.shape != (box.height, box.width, self.samples):
            raise ValueError(f"a tile decodes to {samples.shape} instead of {(*box[2:], self.samples)} samples")
        if self.compression == _APERIO_JPEG2000_YCBCR:
            return _rgb_of_ycbcr(samples)
        return samples

    def _read_raw(self, file: int, plane: int, box: Box) -> NDArray[Any]:
        samples = self.samples // self._planes
        row_bytes = self.width * samples * self.dtype.itemsize
        start = self._offsets[0] + (plane * self.height + box.y) * row_bytes
        data = _pread(file, start, box.height * row_bytes)
        stored = np.frombuffer(data, self.dtype.newbyteorder(self._page.parent.byteorder))
        return stored.reshape(box.height, self.width, samples)

    def _read_encoded(self, file: int, plane: int, row: int, column: int) -> NDArray[Any] | None:
        index = (plane * self.rows + row) * self.columns + column
        if not (self._offsets[index] and self._counts[index]):
            return None
        data = _pread(file, self._offsets[index], self._counts[index])
        self._check_stream(data)
        decoded, _, _ = self._decode(data, index, jpegtables=self._jpegtables)
        tile: NDArray[Any] = decoded[0]
        return tile

    def _check_stream(self, data: bytes) -> None:
        if self.compression == _JPEG:
            if not jpeg_has_end(data):
                raise ValueError("a JPEG tile is cut")
            declared = jpeg_header(data)
        elif self.compression in _JPEG2000:
            declared = jpeg2000_header(data)
        else:
            return
        # Some writers round edge tiles and last strips up to whole blocks; more is a lie that costs memory.
        if declared.height > self.tile_height + 64 or declared.width > self.tile_width + 64:
            raise ValueError(
                f"a tile of {self.tile_height} x {self.tile_width} pixels holds a picture of "
                f"{declared.height} x {declared.width}"
            )


def _pread(file: int, offset: int, count: int) -> bytes:
    data = os.pread(file, count, offset)
    if len(data) < count:
        raise ValueError(f"the file ends at byte {offset + len(data)}, {count - len(data)} bytes too early")
    return data


def _refuse_unsupported(path: Path, page: tifffile.TiffPage) -> None:
    """Raise InputError for kinds of pages whose pixels segkit would get wrong."""
    photometric, compression = page.photometric, page.compression
    if page.imagelength <= 0 or page.imagewidth <= 0 or page.imagedepth != 1:
        size = f"{page.imagedepth} x {page.imagelength} x {page.imagewidth}"
        raise refuse(path, f"declares a size of {size} pixels", "Only plane images are read; export it again")
    if int(compression) not in _COMPRESSIONS:
        raise refuse(path, f"TIFF compression {_name(compression)} is not supported", _CONVERT)
    if page.dtype is None or isinstance(page.bitspersample, tuple) or np.dtype(page.dtype).kind not in "buif":
        bits = page.bitspersample
        raise refuse(path, f"samples of {bits} bits (SampleFormat {page.sampleformat}) are not supported", _CONVERT)
    if int(photometric) not in _PHOTOMETRICS:
        raise refuse(path, f"the colour space {_name(photometric)} is not supported", _CONVERT)
    if int(photometric) == _PHOTOMETRIC_YCBCR and int(compression) not in {_JPEG, _APERIO_JPEG2000_YCBCR}:
        raise refuse(path, f"YCbCr colours with compression {_name(compression)} are not supported", _CONVERT)
    if int(compression) == _APERIO_JPEG2000_YCBCR and (page.samplesperpixel, page.bitspersample) != (3, 8):
        raise refuse(path, f"YCbCr colours of {page.samplesperpixel} x {page.bitspersample} bits", _CONVERT)
    if page.is_tiled and min(page.tilelength, page.tilewidth) <= 0:
        raise refuse(path, f"declares tiles of {page.tilelength} x {page.tilewidth} pixels", "Export it again")
    if not page.is_tiled and page.rowsperstrip <= 0:
        raise refuse(path, f"declares strips of {page.rowsperstrip} rows", "Export it again")


def _name(value: object) -> str:
    return str(getattr(value, "name", value))


def _rgb_of_ycbcr(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert full-range YCbCr (ITU-R BT.601, as in JFIF) to RGB."""
    luma, blue, red = np.moveaxis(samples.astype(np.float32), 2, 0)
    blue, red = blue - 128, red - 128
    rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=2)
    pixels: NDArray[np.uint8] = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return pixels
