"""Pyramids joined from encoded blocks: the same files as those written row by row, however the blocks came to be."""

import errno
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.errors import ResourceError, UsageError
from segkit.geometry import BLOCK_PX, Box
from segkit.slides import open_slide
from segkit.slides.pyramid import PyramidWriter
from segkit.slides.pyramid_blocks import (
    EncodedBlock,
    PyramidKind,
    PyramidLayout,
    encode_block,
    join_pyramid,
    refuse_unfit_kind,
)
from segkit.slides.pyramid_levels import halve

Blocks = list[list[EncodedBlock | None]]


def layout_of(image: NDArray[Any], **options: Any) -> PyramidLayout:
    chosen = {"reduce": "nearest", "mpp": None, **options}
    return PyramidLayout(height=image.shape[0], width=image.shape[1], dtype=image.dtype.name, **chosen)


def pieces_of(image: NDArray[Any], side: int) -> Iterator[list[NDArray[Any]]]:
    for y in range(0, image.shape[0], side):
        yield [image[y : y + side, x : x + side] for x in range(0, image.shape[1], side)]


def encode(image: NDArray[Any], layout: PyramidLayout, *, empty_as_none: bool = True) -> Blocks:
    return [
        [None if empty_as_none and not piece.any() else encode_block(piece, layout) for piece in row]
        for row in pieces_of(image, layout.block_px)
    ]


def join(
    path: Path,
    layout: PyramidLayout,
    blocks: Blocks,
    kind: PyramidKind = "tiff",
    rows: Callable[[int], Sequence[EncodedBlock | None]] | None = None,
) -> None:
    join_pyramid(
        path, layout, rows or blocks.__getitem__, num_rows=len(blocks), kind=kind, on_row=lambda done, total: None
    )


def write_by_rows(path: Path, image: NDArray[Any], layout: PyramidLayout) -> None:
    with PyramidWriter(path, *image.shape, tile_px=layout.tile, mpp=layout.mpp, reduce=layout.reduce) as writer:
        writer.write_rows(image)


def patchy(height: int, width: int, side: int, seed: int) -> NDArray[np.uint8]:
    """Return noise in about half of the squares of `side` pixels, and zeros in the others."""
    random = np.random.default_rng(seed)
    filled = random.integers(0, 2, (-(-height // side), -(-width // side)), np.uint8)
    mask = filled.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    return mask * random.integers(0, 256, (height, width), np.uint8)


def levels_of(image: NDArray[Any], layout: PyramidLayout) -> list[NDArray[Any]]:
    levels = [image[..., np.newaxis]]
    while len(levels) < len(layout.sizes):
        levels.append(halve(levels[-1], layout.reduce))
    return [level[..., 0] for level in levels]


@settings(max_examples=50)
@given(
    st.integers(1, 230),
    st.integers(1, 230),
    st.sampled_from(["nearest", "mean"]),
    st.sampled_from([None, 0.25]),
    st.integers(0, 1000),
)
def test_joined_blocks_are_the_file_that_rows_are(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, reduce: Any, mpp: float | None, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("pyramid")
    image = patchy(height, width, 32, seed)
    layout = layout_of(image, reduce=reduce, mpp=mpp, tile=16)
    join(folder / "blocks.tif", layout, encode(image, layout))
    write_by_rows(folder / "rows.tif", image, layout)
    assert (folder / "blocks.tif").read_bytes() == (folder / "rows.tif").read_bytes()


REAL_SIZES = [(1, 1), (512, 511), (513, 1), (1023, 1025), (1024, 1024), (1025, 513), (2049, 1300), (600, 4200)]


@pytest.mark.parametrize("size", REAL_SIZES)
def test_all_readers_see_the_same_pixels_at_all_levels(tmp_path: Path, size: tuple[int, int]) -> None:
    image = patchy(*size, BLOCK_PX, seed=5) // 4
    layout = layout_of(image, reduce="mean", mpp=0.5)
    path = tmp_path / "a.tif"
    join(path, layout, encode(image, layout))
    expected = levels_of(image, layout)
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff, openslide.OpenSlide(path) as other:
        assert slide.mpp == pytest.approx(0.5)
        assert float(other.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert len(slide.levels) == len(tiff.pages) == other.level_count == len(expected)
        for number, pixels in enumerate(expected):
            np.testing.assert_array_equal(tiff.pages[number].asarray(), pixels)
            read = slide.read(Box(0, 0, *pixels.shape), number)
            np.testing.assert_array_equal(read[..., 0], pixels)
            region = np.asarray(other.read_region((0, 0), number, pixels.shape[::-1]))
            np.testing.assert_array_equal(region[..., 0], pixels)


@pytest.mark.parametrize("kind", ["tiff", "ome-tiff"])
def test_how_blocks_were_made_does_not_show(tmp_path: Path, kind: PyramidKind) -> None:
    """A block that was skipped is one of zeros; blocks encoded at once in threads are those made one by one."""
    image = patchy(300, 270, 64, seed=1)
    layout = layout_of(image, tile=32, reduce="mean")
    join(tmp_path / "a.tif", layout, encode(image, layout), kind)
    pieces = list(pieces_of(image, 64))
    with ThreadPoolExecutor(8) as pool:
        blocks: Blocks = [list(pool.map(lambda piece: encode_block(piece, layout), row)) for row in pieces]
    (tmp_path / "again").mkdir()
    join(tmp_path / "again" / "a.tif", layout, blocks, kind)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "again" / "a.tif").read_bytes()


@pytest.mark.parametrize("reduce", ["nearest", "mean"])
def test_float16_is_kept_to_the_last_bit(tmp_path: Path, reduce: Any) -> None:
    image = np.random.default_rng(0).random((150, 203)).astype(np.float16)
    image[:64, :64] = 0
    layout = layout_of(image, tile=16, reduce=reduce)
    join(tmp_path / "a.tif", layout, encode(image, layout))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        for number, pixels in enumerate(levels_of(image, layout)):
            found = tiff.pages[number].asarray()
            assert found.dtype == np.float16
            np.testing.assert_array_equal(found, pixels)
        assert len(tiff.pages) == 5


def test_the_mean_of_float16_is_rounded_once() -> None:
    image = np.random.default_rng(0).random((9, 12)).astype(np.float16)
    found = halve(image[..., np.newaxis], "mean")[..., 0]
    for i in range(5):
        for j in range(6):
            exact = image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].astype(np.float64).mean()
            assert found[i, j] == np.float16(exact)


def test_an_ome_tiff_has_its_levels_in_subifds_and_says_its_scale(tmp_path: Path) -> None:
    image = patchy(200, 130, 32, seed=2)
    layout = layout_of(image, tile=16, mpp=0.125, offset_um=(7.5, 1234.0))
    path = tmp_path / "mask.ome.tif"
    join(path, layout, encode(image, layout), "ome-tiff")
    expected = levels_of(image, layout)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert len(tiff.pages) == 1
        (series,) = tiff.series
        assert series.kind == "ome"
        assert series.axes == "YX"
        for level, pixels in zip(series.levels, expected, strict=True):
            np.testing.assert_array_equal(level.asarray(), pixels)
        text = tiff.pages[0].description
    (image_element,) = ET.fromstring(text)
    pixels_element = image_element[0]
    assert image_element.get("Name") == "mask"
    assert (pixels_element.get("SizeX"), pixels_element.get("SizeY")) == ("130", "200")
    for axis, position in (("X", 7.5), ("Y", 1234.0)):
        assert float(pixels_element.attrib[f"PhysicalSize{axis}"]) == 0.125
        assert pixels_element.get(f"PhysicalSize{axis}Unit") == "\N{MICRO SIGN}m"
        (plane,) = pixels_element.iterfind("{*}Plane")
        assert float(plane.attrib[f"Position{axis}"]) == position
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.125)
        for number, level in enumerate(expected):
            np.testing.assert_array_equal(slide.read(Box(0, 0, *level.shape), number)[..., 0], level)


def test_an_ome_tiff_without_scale_or_levels(tmp_path: Path) -> None:
    image = np.full((3, 5), 7, np.uint8)
    layout = layout_of(image)
    join(tmp_path / "a.ome.tif", layout, encode(image, layout), "ome-tiff")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        np.testing.assert_array_equal(tiff.series[0].asarray(), image)
        assert "PhysicalSize" not in tiff.pages[0].description
        assert "Plane " not in tiff.pages[0].description


def test_an_ome_tiff_of_float16_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    layout = layout_of(np.zeros((3, 5), np.float16))
    with pytest.raises(UsageError, match="tiff or ome-zarr"):
        join(tmp_path / "a.ome.tif", layout, [], "ome-tiff")
    assert list(tmp_path.iterdir()) == []
    refuse_unfit_kind(layout, "tiff")
    refuse_unfit_kind(layout, "ome-zarr")


@pytest.mark.parametrize("kind", ["tiff", "ome-tiff", "ome-zarr"])
def test_rows_are_asked_for_in_order_twice_and_told_of(tmp_path: Path, kind: PyramidKind) -> None:
    image = patchy(100, 40, 32, seed=3)
    layout = layout_of(image, tile=16)
    blocks = encode(image, layout)
    asked: list[int] = []
    told: list[tuple[int, int]] = []

    def rows(row: int) -> Sequence[EncodedBlock | None]:
        asked.append(row)
        return blocks[row]

    def on_row(done: int, total: int) -> None:
        told.append((done, total))

    join_pyramid(tmp_path / "a.tif", layout, rows, num_rows=4, kind=kind, on_row=on_row)
    assert asked == [0, 1, 2, 3] * 2
    assert told == [(done, 8) for done in range(1, 9)]


def test_a_large_file_is_bigtiff_by_the_bytes_of_all_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = patchy(100, 100, 32, seed=4)
    layout = layout_of(image, tile=16)
    blocks = encode(image, layout)
    join(tmp_path / "a.tif", layout, blocks)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        num_bytes = sum(sum(page.databytecounts) for page in tiff.pages)
        assert not tiff.is_bigtiff
    for limit in (num_bytes, num_bytes + 1):
        monkeypatch.setattr("segkit.slides.pyramid._BIGTIFF_FROM", limit)
        join(tmp_path / "b.tif", layout, blocks)
        with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
            assert tiff.is_bigtiff == (limit == num_bytes)
            np.testing.assert_array_equal(tiff.pages[0].asarray(), image)


@pytest.mark.parametrize("kind", ["tiff", "ome-tiff", "ome-zarr"])
@pytest.mark.parametrize("failing_call", [0, 2, 5])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, kind: PyramidKind, failing_call: int) -> None:
    image = patchy(100, 100, 32, seed=4)
    layout = layout_of(image, tile=16)
    blocks = encode(image, layout)
    calls = 0

    def rows(row: int) -> Sequence[EncodedBlock | None]:
        nonlocal calls
        calls += 1
        if calls > failing_call:
            raise ZeroDivisionError
        return blocks[row]

    with pytest.raises(ZeroDivisionError):
        join(tmp_path / "a", layout, blocks, kind, rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["pyramid_levels.TileSpool.store", "pyramid.tifffile.TiffWriter.write"])
def test_a_full_disk_is_an_error_of_segkits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"segkit.slides.{where}", full)
    image = patchy(100, 100, 32, seed=4)
    layout = layout_of(image, tile=16)
    path = tmp_path / "a.tif"
    path.write_bytes(b"earlier")
    with pytest.raises(ResourceError, match="disk is full"):
        join(path, layout, encode(image, layout))
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((8, 33), np.uint8), np.zeros((0, 8), np.uint8), np.zeros((8, 8), np.float16), np.zeros(8, np.uint8)],
)
def test_a_block_that_does_not_fit_is_a_programmers_mistake(pixels: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="a block is uint8 of up to 32 x 32"):
        encode_block(pixels, layout_of(np.zeros((100, 100), np.uint8), tile=16))


def test_blocks_of_another_map_are_a_programmers_mistake(tmp_path: Path) -> None:
    image = np.ones((100, 100), np.uint8)
    layout = layout_of(image, tile=16)
    blocks = encode(image, layout)
    with pytest.raises(ValueError, match="3 rows of blocks, and the map has 4"):
        join(tmp_path / "a.tif", layout, blocks[:3])
    with pytest.raises(ValueError, match="row 0 has 3 blocks"):
        join(tmp_path / "a.tif", layout, [row[:3] for row in blocks])
    with pytest.raises(ValueError, match="it needs 6 pieces"):
        join(tmp_path / "a.tif", layout, [row[::-1] for row in blocks])
    with pytest.raises(ValueError, match="cannot write 0 x 5"):
        layout_of(np.zeros((0, 5), np.uint8))
    assert list(tmp_path.iterdir()) == []


JOIN_MUCH = """
import resource, sys
from pathlib import Path
import numpy as np
from segkit.slides.pyramid_blocks import PyramidLayout, encode_block, join_pyramid
SIZE, SIDE = 20_000, 1024
layout = PyramidLayout(height=SIZE, width=SIZE, dtype="uint8", reduce="mean", mpp=0.25)
ramp = np.add.outer(np.arange(SIDE) // 3, np.arange(SIDE) // 5).astype(np.uint8)
last = SIZE % SIDE
made = {(h, w): encode_block(ramp[:h, :w], layout) for h in (SIDE, last) for w in (SIDE, last)}
def rows(row):
    height = min(SIDE, SIZE - SIDE * row)
    return [None if x % 3 == 0 else made[height, min(SIDE, SIZE - SIDE * x)] for x in range(20)]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
before = peak()
join_pyramid(Path(sys.argv[1]), layout, rows, num_rows=20, kind="tiff", on_row=lambda done, total: None)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    command = [sys.executable, "-c", JOIN_MUCH, str(tmp_path / "a.tif")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 100  # MB; the map has 400
