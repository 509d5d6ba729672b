"""What a PNG, JPEG or JPEG 2000 stream says about itself, read before a decoder may allocate memory for it."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

_CODESTREAM_START = b"\xff\x4f\xff\x51"  # SOC and SIZ of JPEG 2000

# PNG: samples per pixel and legal depths by colour type; palettes are decoded to colours, perhaps with alpha.
_PNG_TYPES = {0: (1, {1, 2, 4, 8, 16}), 2: (3, {8, 16}), 3: (4, {1, 2, 4, 8}), 4: (2, {8, 16}), 6: (4, {8, 16})}

# Markers of JPEG (ITU-T T.81, table B.1). Start of frame: 0xC0 to 0xCF without DHT, JPG and DAC.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # not 0xFF in scan data (escaped), not restart markers


class Declared(NamedTuple):
    """What a stream declares: size in pixels, samples per pixel, bits per sample."""

    height: int
    width: int
    samples: int
    depth: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the decoded samples."""
        return self.height * self.width * self.samples * (2 if self.depth > 8 else 1)


def png_header(data: bytes) -> Declared:
    """Return what the header of a PNG file declares; ValueError where it is damaged."""
    if data[12:16] != b"IHDR" or len(data) < 26:
        raise ValueError("the PNG file has no header")
    width, height, depth, colour_type = struct.unpack_from(">IIBB", data, 16)
    samples, depths = _PNG_TYPES.get(colour_type, (0, set()))
    if depth not in depths:
        raise ValueError(f"the PNG file declares colour type {colour_type} with {depth} bits, which does not exist")
    return Declared(height, width, samples, depth)


def jpeg_header(data: bytes) -> Declared:
    """Return what the frame header of a JPEG stream declares; ValueError where there is none."""
    for marker, start in _jpeg_segments(data):
        if marker in _START_OF_FRAME and start + 6 <= len(data):
            depth, height, width, samples = struct.unpack_from(">BHHB", data, start)
            return Declared(height, width, samples, depth)
    raise ValueError("the JPEG stream has no frame header")


def jpeg_has_end(data: bytes) -> bool:
    """Tell whether a JPEG stream has its end marker; decoders fill up a cut stream with grey, without a word."""
    return data.rfind(b"\xff\xd9") >= 0


def jpeg_is_complete(data: bytes) -> bool:
    """Tell whether a JPEG file has its end marker and, for every component, a scan with the blocks' mean (DC).

    Decoders return grey for what is missing, without a word. Slower than `jpeg_has_end`, and not misled by
    thumbnails inside of the file.
    """
    with_mean: set[int] = set()
    for marker, start in _jpeg_segments(data):
        if marker == _END_OF_IMAGE:
            return len(with_mean) >= jpeg_header(data).samples
        if marker == _START_OF_SCAN:
            count = data[start]
            first_coefficient, approximation = data[start + 1 + 2 * count], data[start + 3 + 2 * count]
            if first_coefficient == 0 and approximation >> 4 == 0:  # not only a refinement of an earlier scan
                with_mean.update(data[start + 1 : start + 1 + 2 * count : 2])
    return False


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield marker and start of the content of each segment, up to the end marker; as libjpeg does, skip garbage."""
    position = 2
    while found := _MARKER.search(data, position):
        marker, start = found[1][0], found.end() + 2
        yield marker, start
        if marker == _END_OF_IMAGE:
            return
        length = 0 if marker == _START_OF_IMAGE else int.from_bytes(data[found.end() : start])
        position = found.end() + length


def jpeg2000_header(data: bytes) -> Declared:
    """Return what a JPEG 2000 file or codestream declares; ValueError where there is no codestream."""
    start = data.find(_CODESTREAM_START)
    if start < 0 or start + 43 > len(data):
        raise ValueError("the JPEG 2000 stream has no size header")
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    samples, depth = struct.unpack_from(">HB", data, start + 40)
    return Declared(bottom - top, right - left, samples, (depth & 0x7F) + 1)
