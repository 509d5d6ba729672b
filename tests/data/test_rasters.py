"""Masks are read as the integers that were written, or refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segkit.data.rasters import distinct_values, map_values, read_values
from segkit.errors import InputError

IDS = np.add.outer(np.arange(24), np.arange(30)).astype(np.uint8) % 4


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_png_of_few_bits_keeps_its_ids(tmp_path: Path, bits: int) -> None:
    ids = (IDS.astype(int) * 37 % 2**bits).astype(np.uint8)
    path = tmp_path / "mask.png"
    write_png(path, ids, bits)
    assert np.array_equal(read_values(path), ids)


def test_palette_png_gives_indices_and_not_colours(tmp_path: Path) -> None:
    image = Image.frombytes("P", (30, 24), IDS.tobytes())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 7, 7, 7])
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_values(tmp_path / "mask.png"), IDS)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
def test_sixteen_bit_ids_survive(tmp_path: Path, dtype: type) -> None:
    ids = (IDS.astype(int) * 20_001 % (np.iinfo(dtype).max + 1)).astype(dtype)
    Image.fromarray(ids).save(tmp_path / "mask.png")
    tifffile.imwrite(tmp_path / "mask.tif", ids, compression="lzw")
    assert np.array_equal(read_values(tmp_path / "mask.png"), ids)
    assert np.array_equal(read_values(tmp_path / "mask.tif"), ids)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_equal_channels_are_one_mask(tmp_path: Path, planar: str) -> None:
    Image.fromarray(np.stack([IDS] * 3, axis=-1)).save(tmp_path / "mask.png")
    axis = -1 if planar == "contig" else 0
    tifffile.imwrite(tmp_path / "mask.tif", np.stack([IDS] * 3, axis=axis), photometric="rgb", planarconfig=planar)
    assert np.array_equal(read_values(tmp_path / "mask.png"), IDS)
    assert np.array_equal(read_values(tmp_path / "mask.tif"), IDS)


def test_first_page_of_a_pyramid_is_read(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        file.write(IDS, compression="deflate")
        file.write(IDS[::2, ::2], subfiletype=1, compression="deflate")
    assert np.array_equal(read_values(tmp_path / "mask.tif"), IDS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lossy.jpg", "lossy"),
        ("lossy.tif", "JPEG"),
        ("colour.png", "colour picture"),
        ("colour16.png", "16-bit PNG with colour"),
        ("transparent.png", "transparent"),
        ("float.tif", "integers"),
        ("stack.tif", "3 pages"),
        ("turned.tif", "turned or mirrored"),
        ("wide.tif", "per pixel"),
        ("missing.png", "cannot be decoded"),
        ("text.png", "cannot be decoded"),
        ("notes.txt", "no PNG or TIFF"),
    ],
)
def test_what_is_no_mask_is_refused_with_the_reason(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    colour = np.stack([IDS, IDS + 1, IDS], axis=-1)
    match name:
        case "lossy.jpg":
            Image.fromarray(IDS).save(path)
        case "lossy.tif":
            tifffile.imwrite(path, np.tile(IDS, (2, 2)), compression="jpeg")
        case "colour.png":
            Image.fromarray(colour).save(path)
        case "colour16.png":
            write_png(path, np.repeat(IDS, 6, axis=1), 8, colour_type=2, written_bits=16, width=IDS.shape[1])
        case "transparent.png":
            Image.fromarray(np.dstack([IDS, IDS, IDS, IDS])).save(path)
        case "float.tif":
            tifffile.imwrite(path, IDS.astype(np.float32))
        case "stack.tif":
            tifffile.imwrite(path, np.stack([IDS] * 3), photometric="minisblack")
        case "turned.tif":
            tifffile.imwrite(path, IDS, extratags=[(274, "H", 1, 6, True)])
        case "wide.tif":
            tifffile.imwrite(path, IDS.astype(np.int64))
        case "text.png" | "notes.txt":
            path.write_text("no picture")
    with pytest.raises(InputError, match=message) as caught:
        read_values(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"mask{suffix}"
    noise = np.random.default_rng(0).integers(0, 4, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError):
        read_values(path)


def test_a_changed_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 4, (64, 64), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_values(path)


def test_a_huge_mask_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    write_png(tmp_path / "mask.png", np.zeros((1, 1), np.uint8), 1, width=70_000, height=70_000)
    with pytest.raises(InputError, match="too many"):
        read_values(tmp_path / "mask.png")


@given(st.lists(st.integers(0, 300), min_size=1), st.sampled_from([np.uint16, np.int32, np.int64]))
def test_distinct_values_are_those_of_a_set(values: list[int], dtype: type) -> None:
    assert distinct_values(np.array([values], dtype)) == sorted(set(values))


@given(
    st.lists(st.integers(0, 255), min_size=1),
    st.dictionaries(st.integers(-5, 70_000), st.integers(0, 9), max_size=5),
)
def test_values_are_mapped_one_by_one(values: list[int], classes: dict[int, int]) -> None:
    mapped = map_values(np.array([values], np.uint8), classes, unknown=254)
    assert mapped.tolist() == [[classes.get(value, 254) for value in values]]


def write_png(
    path: Path,
    samples: np.ndarray,
    bits: int,
    *,
    colour_type: int = 0,
    written_bits: int | None = None,
    width: int | None = None,
    height: int | None = None,
) -> None:
    """Write a PNG file chunk by chunk, for bit depths that no library writes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = []
    for row in samples:
        digits = "".join(f"{value:0{bits}b}" for value in row)
        digits += "0" * (-len(digits) % 8)
        rows.append(b"\0" + int(digits, 2).to_bytes(len(digits) // 8))
    size = (width or samples.shape[1], height or samples.shape[0])
    header = struct.pack(">IIBBBBB", *size, written_bits or bits, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
