"""TIFF slides: SVS, OME-TIFF, plain pyramids and single images, read by tiles.

Which pages are levels: the first page that is not marked as reduced is level 0. Its SubIFDs and the other pages are
levels where they have the same kind of pixels and a smaller size with the same proportions. So the label and macro
pictures of SVS files are left out, and so is their thumbnail, which is striped. A file with several planes of the
same size (z stack, time series, channels in pages) is refused, as no rule says which one is meant.

Tiles without data (sparse) read as white in colour images, which is glass, and as 0 in grey ones;
`properties["tiff.missing_tiles"]` counts them.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.slides import metadata
from segkit.slides.intensity import (
    Alpha,
    Interpretation,
    Window,
    fixed_window,
    palette_of_colormap,
    window_of_values,
)
from segkit.slides.orientation import orientation_of_tag
from segkit.slides.slide import Slide, refuse
from segkit.slides.tiff_page import TiffPage
from segkit.slides.tile_cache import TileCache

CACHE_BYTES = 48 * 1024**2
_MAX_PAGES = 1000  # no slide has more; a chain of pages that never ends does
_MAX_TILES_SEEN = 64
_ALPHAS: dict[tuple[int, ...], Alpha] = {(1,): "associated", (2,): "unassociated"}  # by ExtraSamples
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_MINISWHITE, _PALETTE = 0, 3

# tifffile reports oddities of files that it copes with; without a handler they would go to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffSlide(Slide):
    """A TIFF file whose tiles are decoded on demand.

    Parameters
    ----------
    path
        A regular file that starts as a TIFF file does.

    Raises
    ------
    InputError
        The file is damaged, cut or of an unsupported kind.
    """

    def __init__(self, path: Path) -> None:
        with tifffile.TiffFile(path) as tiff:
            main = _main_page(path, tiff)
            _refuse_stacks(path, tiff, main)
            file_size = path.stat().st_size
            pages = [TiffPage(path, main, file_size)]
            pages += [TiffPage(path, page, file_size) for page in _smaller_levels(path, tiff, main)]
            orientation_tag = main.tags.valueof(274)
            properties = _properties(tiff, main)
            pixel_size = _pixel_size(tiff, main)
            colormap = None if pages[0].photometric != _PALETTE else main.colormap
            extrasamples = tuple(int(sample) for sample in main.extrasamples)
        self._pages = sorted(pages, key=lambda page: -page.height * page.width)
        self._orientation = orientation_of_tag(orientation_tag)
        self._file = os.open(path, os.O_RDONLY)
        self._cache = TileCache(CACHE_BYTES)
        try:
            self._interpretation = self._interpret(path, extrasamples, colormap)
        except BaseException:
            os.close(self._file)
            raise
        properties["intensity.window"] = str(self._interpretation.window)
        properties["tiff.missing_tiles"] = str(sum(page.num_missing for page in self._pages))
        if pixel_size:
            properties |= {
                "mpp.x": str(pixel_size.x_um),
                "mpp.y": str(pixel_size.y_um),
                "mpp.source": pixel_size.source,
            }
        super().__init__(
            path,
            sizes=[self._orientation.shown_size(page.height, page.width) for page in self._pages],
            channels=self._interpretation.channels,
            mpp=pixel_size.mpp if pixel_size else None,
            backend="tiff",
            properties=properties,
        )

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._cache.clear()

    def _read(self, box: Box, level: int) -> NDArray[np.uint8]:
        page = self._pages[level]
        stored = self._orientation.stored_box(box, self.levels[level].height, self.levels[level].width)
        region = np.empty((stored.height, stored.width, self.channels), np.uint8)
        for row in range(stored.y // page.tile_height, -(-stored.bottom // page.tile_height)):
            for column in range(stored.x // page.tile_width, -(-stored.right // page.tile_width)):
                tile_box = page.tile_box(row, column)
                part = tile_box.intersect(stored)
                tile = self._tile(level, row, column, used_up=part == tile_box)
                region[part.shift(-stored.y, -stored.x).slices] = tile[part.shift(-tile_box.y, -tile_box.x).slices]
        return self._orientation.show(region)

    def _tile(self, level: int, row: int, column: int, *, used_up: bool) -> NDArray[np.uint8]:
        key = (level, row, column)
        tile = self._cache.get(key)
        if tile is None:
            samples = self._pages[level].read_tile(self._file, row, column)
            if samples is None:
                box = self._pages[level].tile_box(row, column)
                return np.full((box.height, box.width, self.channels), 255 if self.channels == 3 else 0, np.uint8)
            tile = self._interpretation.pixels(samples)
            self._cache.put(key, tile, used_up=used_up)
        return tile

    def _interpret(
        self, path: Path, extrasamples: tuple[int, ...], colormap: NDArray[np.uint16] | None
    ) -> Interpretation:
        page = self._pages[0]
        if colormap is not None:
            if page.samples != 1 or page.dtype.kind not in "bu":
                raise refuse(path, f"a palette with {page.samples} samples of type {page.dtype}", _ODD)
            palette = palette_of_colormap(np.asarray(colormap))
            return Interpretation(window=Window(0, len(palette) - 1), colours=1, palette=palette)
        colours, alpha = _colours_and_alpha(path, page.samples, extrasamples)
        window = fixed_window(page.dtype, page.depth) or window_of_values(page.dtype, self._values_seen())
        return Interpretation(window=window, colours=colours, alpha=alpha, inverted=page.photometric == _MINISWHITE)

    def _values_seen(self) -> Iterator[NDArray[Any]]:
        """Yield the samples of tiles spread evenly over the coarsest level and level 0."""
        for page in {id(page): page for page in (self._pages[-1], self._pages[0])}.values():
            num_tiles = page.rows * page.columns
            for index in np.unique(np.linspace(0, num_tiles - 1, min(num_tiles, _MAX_TILES_SEEN)).astype(int)):
                samples = page.read_tile(self._file, *divmod(int(index), page.columns))
                if samples is not None:
                    yield samples


_ODD = "Convert it to 8-bit grey or RGB, e.g. with QuPath, Fiji or libvips"
_ONE_PLANE = "segkit reads one plane: export the one that you need, e.g. with Fiji (Image > Duplicate)"


def needs_openslide(path: Path) -> bool:
    """Tell whether a TIFF file is a vendor's dialect whose levels do not follow the rules of this module."""
    with tifffile.TiffFile(path) as tiff:
        return _vendor_dialect(tiff) is not None


def _vendor_dialect(tiff: tifffile.TiffFile) -> str | None:
    # NDPI has huge strips, Leica several images on one slide, Ventana overlapping tiles, Philips padded levels.
    return next((name for name in ("ndpi", "scn", "bif", "philips") if getattr(tiff, f"is_{name}")), None)


def _main_page(path: Path, tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    """Return level 0: the first page that is not marked as reduced or a mask, else the first page."""
    pages = list(_pages_of(tiff.pages))
    if not pages:
        raise refuse(path, "is a TIFF file without a page that can be read", "Copy or download it again")
    return next((page for page in pages if not int(page.subfiletype) & (_REDUCED | _MASK)), pages[0])


def _pages_of(pages: Any) -> Iterator[tifffile.TiffPage]:
    """Yield the pages of a chain, each once, at most `_MAX_PAGES`."""
    seen = set()
    for index in range(_MAX_PAGES):
        try:
            page = pages[index]
        except IndexError:
            return
        if page.offset in seen:
            return
        seen.add(page.offset)
        yield page


def _smaller_levels(path: Path, tiff: tifffile.TiffFile, main: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    """Return the other levels of the pyramid whose level 0 is `main`; one per size."""
    subpages = list(_pages_of(main.pages)) if main.subifds else []
    sizes = {(main.imagelength, main.imagewidth)}
    levels = []
    for page in [*subpages, *_pages_of(tiff.pages)]:
        if page.offset == main.offset or int(page.subfiletype) & _MASK or not _same_kind(page, main):
            continue
        size = (page.imagelength, page.imagewidth)
        if size == (main.imagelength, main.imagewidth) and not int(page.subfiletype) & _REDUCED:
            raise refuse(path, f"holds several planes of {size[0]} x {size[1]} pixels", _ONE_PLANE)
        if size not in sizes and _is_reduction(main, page):
            sizes.add(size)
            levels.append(page)
    return levels


def _same_kind(page: tifffile.TiffPage, main: tifffile.TiffPage) -> bool:
    return bool(
        page.dtype == main.dtype
        and page.bitspersample == main.bitspersample
        and page.samplesperpixel == main.samplesperpixel
        and page.is_tiled == main.is_tiled
        and (page.photometric == main.photometric or {page.photometric, main.photometric} == {2, 6})
    )


def _is_reduction(main: tifffile.TiffPage, page: tifffile.TiffPage) -> bool:
    """Tell whether `page` has the proportions of `main`, within the rounding of its size or 1 %, and is smaller."""
    ratios = main.imagelength / max(1, page.imagelength), main.imagewidth / max(1, page.imagewidth)
    if min(ratios) < 1 or max(ratios) <= 1:
        return False
    if max(ratios) / min(ratios) < 1.01:
        return True
    # One factor f explains both sizes: size - 1 < main / f < size + 1.
    lower = max(main.imagelength / (page.imagelength + 1), main.imagewidth / (page.imagewidth + 1))
    upper = min(main.imagelength / max(page.imagelength - 1, 1e-9), main.imagewidth / max(page.imagewidth - 1, 1e-9))
    return bool(lower < upper)


def _refuse_stacks(path: Path, tiff: tifffile.TiffFile, main: tifffile.TiffPage) -> None:
    """Raise InputError where metadata says that the file has planes besides those in its pages."""
    if dialect := _vendor_dialect(tiff):
        raise refuse(path, f"is a {dialect} slide, which OpenSlide reads", "Open it with that backend")
    for dialect in ("stk", "lsm", "fluoview", "nih", "scanimage", "mdgel", "eer"):
        if getattr(tiff, f"is_{dialect}"):
            raise refuse(path, f"is a {dialect.upper()} file, a stack format of another program", _ONE_PLANE)
    planes = 1
    if tiff.is_ome:
        pixels = metadata.ome_pixels_attributes(main.description)
        planes = int(pixels.get("SizeZ", 1)) * int(pixels.get("SizeT", 1)) * int(pixels.get("SizeC", 1))
        planes //= main.samplesperpixel
    elif tiff.is_imagej:
        planes = int((tiff.imagej_metadata or {}).get("images", 1))
    elif tiff.is_shaped:
        described: dict[str, Any] = (tiff.shaped_metadata or ({},))[0]
        shape = described.get("shape", main.shape)
        planes = int(np.prod(shape, dtype=object)) // max(1, main.size)
    if planes > 1:
        raise refuse(path, f"holds {planes} planes (z, time or channels)", _ONE_PLANE)


def _colours_and_alpha(path: Path, samples: int, extrasamples: tuple[int, ...]) -> tuple[int, Alpha]:
    """Return the number of colours and the kind of alpha; extra samples of another kind are dropped after RGB."""
    colours = samples - len(extrasamples)
    if colours not in {1, 3} or (colours == 1 and extrasamples not in {(), (1,), (2,)}) or len(extrasamples) > 1:
        raise refuse(path, f"has {samples} samples per pixel ({len(extrasamples)} of them extra)", _ODD)
    return colours, _ALPHAS.get(extrasamples, "none")


def _pixel_size(tiff: tifffile.TiffFile, main: tifffile.TiffPage) -> metadata.PixelSize | None:
    description = main.description
    resolution = (_ratio(main.tags.valueof(282)), _ratio(main.tags.valueof(283)))
    found = None
    if tiff.is_svs:
        found = metadata.from_aperio(description)
    elif tiff.is_ome:
        found = metadata.from_ome(description)
    elif tiff.is_imagej:
        found = metadata.from_imagej(description, resolution)
    return found or metadata.from_resolution(resolution, int(main.tags.valueof(296, 2) or 0))


def _ratio(value: object) -> float:
    """Return a TIFF rational as a number, 0 where it is missing or not a number."""
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0] / value[1])
    return 0.0


def _properties(tiff: tifffile.TiffFile, main: tifffile.TiffPage) -> dict[str, str]:
    kind = next((name for name in ("svs", "ome", "imagej", "shaped") if getattr(tiff, f"is_{name}")), "plain")
    return {
        "tiff.kind": kind,
        "tiff.byte_order": "big" if tiff.byteorder == ">" else "little",
        "tiff.compression": str(getattr(main.compression, "name", main.compression)),
        "tiff.photometric": str(getattr(main.photometric, "name", main.photometric)),
        "tiff.dtype": str(main.dtype),
        "tiff.tile": f"{main.tilelength} x {main.tilewidth}"
        if main.is_tiled
        else f"strips of {main.rowsperstrip} rows",
        "tiff.orientation": str(main.tags.valueof(274, 1)),
    }
