"""Pyramids made block by block: a block's tiles are encoded once, wherever and whenever it is computed, and joined.

A block is a square of 2 x 2 tiles, cut at the map's right and bottom border. `encode_block` makes all that the pyramid
needs of it: its tiles of levels 0 and 1, which lie wholly in it, and its pixels of level 2, where a tile needs several
blocks. `join_pyramid` copies the tiles without decoding them, and makes the levels from 2 on from the pixels, row of
blocks by row of blocks: memory is bounded by one row of blocks and one row of tiles for each level.

Every byte depends on the map's pixels and their positions only, so the file is the same however its blocks came to be.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit.files import translated_os_errors
from segkit.geometry import CELL_PX
from segkit.slides.ome import Place, multiscales, ome_xml
from segkit.slides.pyramid import write_tiff
from segkit.slides.pyramid_levels import (
    Cascade,
    Level,
    Page,
    Reduce,
    TileSpool,
    deflate,
    encoding_threads,
    halve,
    pyramid_sizes,
    spool_beside,
    whole_tile,
)
from segkit.slides.zarr_pyramid import write_zarr

PyramidKind = Literal["tiff", "ome-tiff", "ome-zarr"]
EncodedBlock = Mapping[str, NDArray[Any]]
Rows = Callable[[int], Sequence[EncodedBlock | None]]

_LEVELS_IN_BLOCK = 2  # levels of which a block holds whole tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidLayout:
    """What a pyramid is made of.

    Attributes
    ----------
    height, width
        Size of the map, which is level 0, in pixels.
    dtype
        Of its pixels.
    reduce
        How a level is made from the one above, as `PyramidWriter` does it; the mean of float16 is a float16.
    mpp
        Micrometres per map pixel, or None where unknown.
    offset_um
        Position (x, y) of the map's top left corner on the slide in micrometres, or None where unknown; only OME files
        have a place for it.
    tile
        Side of a tile in pixels, a multiple of 16.

    Raises
    ------
    ValueError
        A size that cannot be written (a programmer's mistake).
    """

    height: int
    width: int
    dtype: Literal["uint8", "float16"]
    reduce: Reduce
    mpp: float | None
    offset_um: tuple[float, float] | None = None
    tile: int = CELL_PX

    def __post_init__(self) -> None:
        if self.height <= 0 or self.width <= 0 or self.tile <= 0 or self.tile % 16:
            raise ValueError(f"cannot write {self.height} x {self.width} in tiles of {self.tile}")

    @property
    def block_px(self) -> int:
        """Side of a block in pixels."""
        return _LEVELS_IN_BLOCK * self.tile

    @property
    def num_rows(self) -> int:
        """Number of rows of blocks."""
        return -(-self.height // self.block_px)

    @property
    def num_columns(self) -> int:
        """Number of blocks in a row."""
        return -(-self.width // self.block_px)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of all levels."""
        return pyramid_sizes(self.height, self.width, self.tile)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The type of pixels as tiles have it, little-endian on any machine."""
        return np.dtype(self.dtype).newbyteorder("<")


def encode_block(pixels: NDArray[Any], layout: PyramidLayout) -> dict[str, NDArray[Any]]:
    """Return all that the pyramid needs of one block; may run in several threads at once.

    Parameters
    ----------
    pixels
        The block, `h x w` of the layout's dtype; sides of the layout's `block_px`, less at the right and bottom border.
    layout
        The pyramid.

    Returns
    -------
    dict of str to ndarray
        `data`: uint8, the deflated tiles of levels 0 and 1 in row-major order, then the deflated pixels of level 2 (of
        those levels that the pyramid has). `lengths`: int64, bytes of each.

    Raises
    ------
    ValueError
        The pixels are of another type or too large (a programmer's mistake).
    """
    side = layout.block_px
    fits = pixels.ndim == 2 and 0 < min(pixels.shape) <= max(pixels.shape) <= side
    if not fits or pixels.dtype != np.dtype(layout.dtype):
        raise ValueError(f"a block is {layout.dtype} of up to {side} x {side}, not {pixels.dtype} {pixels.shape}")
    image_HWC = pixels.astype(layout.stored_dtype, copy=False)[..., np.newaxis]
    num_levels = len(layout.sizes)
    pieces = []
    for _ in range(min(num_levels, _LEVELS_IN_BLOCK)):
        height, width = image_HWC.shape[:2]
        for y in range(0, height, layout.tile):
            for x in range(0, width, layout.tile):
                tile = image_HWC[y : y + layout.tile, x : x + layout.tile]
                pieces.append(deflate(whole_tile(tile, layout.tile)))
        image_HWC = halve(image_HWC, layout.reduce)
    if num_levels > _LEVELS_IN_BLOCK:
        pieces.append(deflate(image_HWC))
    return {
        "data": np.frombuffer(b"".join(pieces), np.uint8),
        "lengths": np.array([len(piece) for piece in pieces], np.int64),
    }


def refuse_unfit_kind(layout: PyramidLayout, kind: PyramidKind) -> None:
    """Raise UsageError where a kind of file cannot hold such pixels; to be asked before any work is done."""
    if kind == "ome-tiff" and layout.dtype == "float16":
        raise UsageError("OME-TIFF has no float16 pixels. Choose tiff or ome-zarr for them.")


def join_pyramid(
    path: Path,
    layout: PyramidLayout,
    rows: Rows,
    *,
    num_rows: int,
    kind: PyramidKind,
    on_row: Callable[[int, int], None],
) -> None:
    """Join encoded blocks into a pyramid that appears whole at `path`; after an exception nothing appears.

    Parameters
    ----------
    path
        The file to write; with `ome-zarr` the folder.
    layout
        The pyramid.
    rows
        Returns the encoded blocks of a row, from left to right; None is a block whose pixels are all 0. It is called
        for each row in order, twice over.
    num_rows
        Number of rows of blocks.
    kind
        `tiff`: pages as `PyramidWriter` writes them. `ome-tiff`: SubIFDs and OME-XML. `ome-zarr`: a folder after NGFF
        0.4.
    on_row
        Called with the number of rows read so far and that of all rows to be read (twice `num_rows`).

    Raises
    ------
    ValueError
        The blocks do not fit the layout (a programmer's mistake).
    UsageError
        `kind` has no such pixels, or the folder cannot be written.
    ResourceError
        The disk is full.
    """
    refuse_unfit_kind(layout, kind)
    if num_rows != layout.num_rows:
        raise ValueError(f"{num_rows} rows of blocks, and the map has {layout.num_rows}")
    sizes = layout.sizes
    join = _Join(layout, rows, on_row)
    with contextlib.ExitStack() as stack, translated_os_errors(path):
        spools = [stack.enter_context(spool_beside(path)) for _ in sizes[1:]]
        levels = [
            Level(*size, 1, layout.tile, spool, layout.stored_dtype.str)
            for size, spool in zip(sizes[_LEVELS_IN_BLOCK:], spools[1:], strict=False)
        ]
        cascade = Cascade(levels, deflate, layout.reduce, stack.enter_context(encoding_threads()))
        num_bytes = join.make_upper_levels(spools[:1], cascade)
        num_bytes += sum(spool.num_bytes for spool in spools)
        tiles: list[Iterable[bytes]] = [join.tiles_of_level_0(), *spools]
        pages = [Page(height, width, own) for (height, width), own in zip(sizes, tiles, strict=True)]
        _write(path, layout, pages, kind, num_bytes)


def _write(path: Path, layout: PyramidLayout, pages: Sequence[Page], kind: PyramidKind, num_bytes: int) -> None:
    place = Place(name=path.name.split(".")[0], mpp=layout.mpp, offset_um=layout.offset_um)
    if kind == "ome-zarr":
        attributes = multiscales(place, len(pages), layout.reduce)
        write_zarr(path, pages, attributes, layout.stored_dtype, layout.tile, encoded_zeros(layout))
        return
    xml = ome_xml(place, layout.height, layout.width) if kind == "ome-tiff" else None
    options = {
        "dtype": layout.stored_dtype,
        "tile": (layout.tile, layout.tile),
        "photometric": "minisblack",
        "compression": "deflate",
    }
    write_tiff(path, pages, options, num_bytes=num_bytes, mpp=layout.mpp, ome_xml=xml)


def encoded_zeros(layout: PyramidLayout) -> bytes:
    """Return the encoded tile of zeros: tiles at the border are whole too, so that there is only one."""
    return deflate(np.zeros((layout.tile, layout.tile), layout.stored_dtype))


class _Join:
    """Reads all rows of encoded blocks, once for the upper levels and once for level 0."""

    def __init__(self, layout: PyramidLayout, rows: Rows, on_row: Callable[[int, int], None]) -> None:
        self._layout = layout
        self._rows = rows
        self._on_row = on_row
        self._num_read = 0
        self._zero_tile = encoded_zeros(layout)

    def make_upper_levels(self, level_1: Sequence[TileSpool], above: Cascade) -> int:
        """Store the tiles of level 1 (if any), fill the levels above it, and return the bytes of level 0."""
        num_bytes = 0
        for row in self._all_rows():
            num_bytes += row.num_bytes_of_level_0
            for spool in level_1:
                for tile in row.tiles_of_level_1():
                    spool.store(tile)
            if above.levels:
                above.append(row.pixels_of_level_2())
        return num_bytes

    def tiles_of_level_0(self) -> Iterator[bytes]:
        """Yield the tiles of level 0, row of tiles by row of tiles."""
        for row in self._all_rows():
            yield from row.tiles_of_level_0()

    def _all_rows(self) -> Iterator["_BlockRow"]:
        for index in range(self._layout.num_rows):
            row = _BlockRow(self._layout, index, self._rows(index), self._zero_tile)
            # Not after the yield: who takes the last tile does not come back.
            self._num_read += 1
            self._on_row(self._num_read, 2 * self._layout.num_rows)
            yield row


class _BlockRow:
    """A row of encoded blocks."""

    def __init__(
        self, layout: PyramidLayout, index: int, blocks: Sequence[EncodedBlock | None], zero_tile: bytes
    ) -> None:
        if len(blocks) != layout.num_columns:
            raise ValueError(f"row {index} has {len(blocks)} blocks, and the map is {layout.num_columns} blocks wide")
        side = layout.block_px
        self._dtype = layout.stored_dtype
        self._height = min(side, layout.height - index * side)
        self._widths = [min(side, layout.width - x) for x in range(0, layout.width, side)]
        self._tile_rows = -(-self._height // layout.tile)
        self._tile_columns = [-(-width // layout.tile) for width in self._widths]
        self._zero_tile = zero_tile
        num_upper = min(len(layout.sizes) - 1, _LEVELS_IN_BLOCK)  # the tile of level 1, the pixels of level 2
        self._blocks = [
            None if block is None else _Pieces.of(block, self._tile_rows * columns + num_upper)
            for block, columns in zip(blocks, self._tile_columns, strict=True)
        ]

    @property
    def num_bytes_of_level_0(self) -> int:
        """Bytes of the encoded tiles of level 0."""
        return sum(
            self._tile_rows * columns * len(self._zero_tile)
            if block is None
            else int(block.bounds[self._tile_rows * columns])
            for block, columns in zip(self._blocks, self._tile_columns, strict=True)
        )

    def tiles_of_level_0(self) -> Iterator[bytes]:
        """Yield the encoded tiles of level 0 in row-major order."""
        for tile_row in range(self._tile_rows):
            for block, columns in zip(self._blocks, self._tile_columns, strict=True):
                for column in range(columns):
                    yield self._zero_tile if block is None else block.piece(tile_row * columns + column)

    def tiles_of_level_1(self) -> Iterator[bytes]:
        """Yield the encoded tiles of level 1: one for each block."""
        for block, columns in zip(self._blocks, self._tile_columns, strict=True):
            yield self._zero_tile if block is None else block.piece(self._tile_rows * columns)

    def pixels_of_level_2(self) -> NDArray[Any]:
        """Return the pixels of level 2, `h x W x 1`."""
        strips = []
        for block, columns, width in zip(self._blocks, self._tile_columns, self._widths, strict=True):
            shape = -(-self._height // 4), -(-width // 4), 1
            if block is None:
                strips.append(np.zeros(shape, self._dtype))
                continue
            num_bytes = shape[0] * shape[1] * self._dtype.itemsize
            encoded = block.piece(self._tile_rows * columns + 1)
            decoded = imagecodecs.deflate_decode(encoded, out=num_bytes)
            strips.append(np.frombuffer(decoded, self._dtype).reshape(shape))
        return np.concatenate(strips, axis=1)


class _Pieces(NamedTuple):
    """The encoded pieces of a block: piece `i` is `data[bounds[i] : bounds[i + 1]]`."""

    data: NDArray[Any]
    bounds: NDArray[Any]

    @classmethod
    def of(cls, block: EncodedBlock, number: int) -> Self:
        bounds = np.concatenate([[0], np.cumsum(block["lengths"])])
        if len(bounds) != number + 1 or bounds[-1] != len(block["data"]):
            raise ValueError(
                f"an encoded block has {len(bounds) - 1} pieces of {bounds[-1]} bytes, {len(block['data'])} bytes are "
                f"there, and it needs {number} pieces"
            )
        return cls(block["data"], bounds)

    def piece(self, index: int) -> bytes:
        return self.data[self.bounds[index] : self.bounds[index + 1]].tobytes()
