"""What every slide offers, whatever its format: levels, micrometres per pixel, and regions as uint8 arrays."""

import contextlib
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError, ResourceError, SegkitError
from segkit.geometry import Box, read_mirrored

# What Python itself raises where a decoder stumbles over damage; the words say nothing about the file.
_UNTELLING = (TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, SyntaxError, struct.error)


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a slide.

    Attributes
    ----------
    height, width
        Size in pixels.
    downsample
        Level-0 pixels per pixel of this level, 1.0 at level 0: a whole number where both sizes are what rounding
        (up or down) leaves of it, else the ratio of the longer sides.
    """

    height: int
    width: int
    downsample: float


class Slide(ABC):
    """An open slide or image.

    Pixels are uint8 in `height x width x channels`; how other sample types become uint8 is written in
    `segkit.slides.intensity`. Reading is safe from several threads at once and starts no threads of its own.

    Attributes
    ----------
    path
        The file.
    levels
        Resolutions, largest first; at least one.
    channels
        1 (grey) or 3 (red, green, blue).
    mpp
        Micrometres per pixel at level 0, or None where the file does not say. Where both directions differ it
        is their mean; `properties` has both.
    backend
        `tiff`, `raster` or `openslide`.
    properties
        What else is known about the file, as text.
    """

    def __init__(
        self,
        path: Path,
        *,
        sizes: Sequence[tuple[int, int]],
        channels: int,
        mpp: float | None,
        backend: str,
        properties: Mapping[str, str],
    ) -> None:
        height, width = sizes[0]
        self.path = path
        self.levels = tuple(Level(h, w, _downsample((height, width), (h, w))) for h, w in sizes)
        self.channels = channels
        self.mpp = mpp
        self.backend = backend
        self.properties = dict(properties)

    @property
    def height(self) -> int:
        """Rows of level 0."""
        return self.levels[0].height

    @property
    def width(self) -> int:
        """Columns of level 0."""
        return self.levels[0].width

    def read(self, box: Box, level: int = 0) -> NDArray[np.uint8]:
        """Return the pixels of `box`.

        Parameters
        ----------
        box
            Region in pixels of `level`, inside of it and not empty.
        level
            Index into `levels`.

        Returns
        -------
        NDArray[np.uint8]
            `box.height x box.width x channels`, writable and owned by the caller.

        Raises
        ------
        ValueError
            The box is empty or reaches outside of the level.
        InputError
            The file is damaged there.
        """
        size = self.levels[level]
        if box.height <= 0 or box.width <= 0 or not Box(0, 0, size.height, size.width).contains(box):
            raise ValueError(f"{box} is not inside level {level} of {size.height} x {size.width} pixels")
        with decoding_errors(self.path, f"level {level}, rows {box.y}-{box.bottom}, columns {box.x}-{box.right}"):
            return self._read(box, level)

    def read_mirrored(self, box: Box, level: int = 0) -> NDArray[np.uint8]:
        """Return the pixels of `box`, which may reach any distance outside: the image is mirrored there.

        The border pixel is not repeated (see `segkit.geometry.mirror_indices`). Only the part of the image that
        the result needs is read.

        Raises
        ------
        ValueError
            The box is empty.
        InputError
            The file is damaged there.
        """
        size = self.levels[level]
        return read_mirrored(box, size.height, size.width, lambda inside: self.read(inside, level))

    @abstractmethod
    def _read(self, box: Box, level: int) -> NDArray[np.uint8]:
        """Return the pixels of a box that has been checked; any exception is turned into an InputError."""

    @abstractmethod
    def close(self) -> None:
        """Release the file and memory. No read may be running or follow."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _downsample(whole: tuple[int, int], level: tuple[int, int]) -> float:
    longer = int(whole[1] > whole[0])
    ratio = whole[longer] / level[longer]
    # Almost all pyramids halve; the last, tiny levels are rounded too much for their ratio to tell.
    for factor in (2 ** round(math.log2(ratio)), int(ratio), int(ratio) + 1):
        if all(small in (large // factor, -(-large // factor)) for large, small in zip(whole, level, strict=True)):
            return float(factor)
    return ratio


@contextlib.contextmanager
def decoding_errors(path: Path, place: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an error of segkit's, in one line, with the cause chained.

    Decoders of damaged files raise nearly anything (struct.error, IndexError, their own classes), so this is the
    one place that catches every exception.
    """
    try:
        yield
    except SegkitError:
        raise
    except MemoryError as error:
        raise ResourceError(f"{path}: not enough memory to decode {place}. Read smaller regions.") from error
    except Exception as error:
        said = "" if isinstance(error, _UNTELLING) else f"; {' '.join(str(error).split()):.200}"
        raise InputError(
            f"{path}: is damaged or of an unusual kind and cannot be decoded ({place}{said}). "
            "Copy it again, or open it in another program and export it."
        ) from error


def refuse(path: Path, found: str, remedy: str) -> InputError:
    """Return the error for a file that segkit does not read: what was found in it and what to do."""
    return InputError(f"{path}: {found}. {remedy}.")
