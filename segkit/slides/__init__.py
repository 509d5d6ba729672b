"""Slides and images of every format behind one door: `open_slide`."""

import stat
from pathlib import Path
from typing import Literal

from segkit.errors import InputError
from segkit.slides.slide import Level, Slide, decoding_errors, refuse

__all__ = ["IMAGE_SUFFIXES", "Backend", "Level", "Slide", "open_slide"]

Backend = Literal["auto", "tiff", "raster", "openslide"]

IMAGE_SUFFIXES = frozenset(
    {
        ".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif", ".mrxs", ".vms",
        ".vmu", ".svslide", ".czi", ".dcm",
    }
)  # fmt: skip
"""What is taken for an image when a folder is listed; a file given by name may have any suffix."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RASTER_STARTS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"\0\0\0\x0cjP  \r\n\x87\n": "jpeg2000",
    b"\xff\x4f\xff\x51": "jpeg2000",
}
# Formats whose levels or tiles do not follow the plain rules of TIFF, or that are no TIFF files although they
# may start like an image file (the index of a MIRAX slide is a JPEG image).
_OPENSLIDE_SUFFIXES = frozenset({".ndpi", ".scn", ".bif", ".mrxs", ".vms", ".vmu", ".svslide", ".czi", ".dcm"})


def open_slide(path: Path, backend: Backend = "auto") -> Slide:
    """Open a slide or image.

    Parameters
    ----------
    path
        The file: SVS, OME-TIFF or another TIFF, PNG, JPEG, JPEG 2000, or, with the extra `openslide`, what OpenSlide
        reads (NDPI, MIRAX, DICOM, ...).
    backend
        Which reader to use: `tiff`, `raster`, `openslide`, or `auto` by the file's content and suffix.

    Returns
    -------
    Slide
        To be closed, or used as a context manager.

    Raises
    ------
    InputError
        The file is missing, damaged or of an unsupported kind.
    """
    path = Path(path)
    start = _start_of(path)
    with decoding_errors(path, "opening"):
        if backend == "auto":
            backend = _choose(path, start)
        if backend == "tiff":
            from segkit.slides.tiff import TiffSlide

            return TiffSlide(path)
        if backend == "raster":
            from segkit.slides.raster import RasterSlide

            return RasterSlide(path, _raster_kind(start) or "png")
        from segkit.slides.openslide_backend import OpenSlideSlide

        return OpenSlideSlide(path)


def _start_of(path: Path) -> bytes:
    """Return the first bytes of a regular file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise refuse(path, f"is {kind}", "Give an image file")
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}). Check the name and the permissions.") from error
    if not start:
        raise refuse(path, "is empty (0 bytes)", "Copy or download it again")
    return start


def _choose(path: Path, start: bytes) -> Backend:
    if path.suffix.lower() in _OPENSLIDE_SUFFIXES:
        return "openslide"
    if start.startswith(_TIFF_STARTS):
        from segkit.slides.tiff import needs_openslide

        return "openslide" if needs_openslide(path) else "tiff"
    return "raster" if _raster_kind(start) else "openslide"


def _raster_kind(start: bytes) -> str | None:
    return next((kind for magic, kind in _RASTER_STARTS.items() if start.startswith(magic)), None)
