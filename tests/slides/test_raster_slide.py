"""PNG, JPEG and JPEG 2000 files."""

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides import open_slide

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (30, 40, 3), np.uint8)


def read(path: Path) -> NDArray[np.uint8]:
    with open_slide(path) as slide:
        assert slide.backend == "raster"
        assert slide.mpp is None
        return slide.read(Box(0, 0, slide.height, slide.width))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_png_equals_pillow(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.convert("L" if mode in {"1", "L"} else "RGB"))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), expected.reshape(30, 40, -1))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_png_with_alpha_is_composited_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RANDOM.integers(0, 256, (30, 40, 4), np.uint8)).convert(mode)
    image.save(tmp_path / "a.png")
    values = np.asarray(image).astype(float)
    expected = np.floor((values[..., :-1] * values[..., -1:] + 255 * (255 - values[..., -1:])) / 255 + 0.5)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_follows_the_intensity_rule(tmp_path: Path, channels: int) -> None:
    image = RANDOM.integers(0, 65536, (30, 40, channels)).astype(np.uint16)
    image[0, 0] = 65535
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(image.squeeze()))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.floor(image / 257 + 0.5))


def test_jpeg_equals_pillow_also_with_progressive_scans_and_trailing_bytes(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(RGB).resize((1300, 1100), Image.Resampling.BICUBIC))
    for options in ({}, {"progressive": True}, {"subsampling": 0}):
        path = tmp_path / "a.jpg"
        Image.fromarray(smooth).save(path, **options)
        path.write_bytes(path.read_bytes() + b"a camera's own data")
        np.testing.assert_array_equal(read(path), np.asarray(Image.open(path)))
    Image.fromarray(smooth[..., 0]).save(tmp_path / "grey.jpg")
    np.testing.assert_array_equal(read(tmp_path / "grey.jpg")[..., 0], np.asarray(Image.open(tmp_path / "grey.jpg")))


def test_the_orientation_of_a_photograph_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    pixels = read(tmp_path / "a.jpg")
    assert pixels.shape == (40, 30, 3)
    assert np.abs(pixels.astype(int) - np.rot90(RGB, -1)).mean() < 3


def test_jpeg_2000(tmp_path: Path) -> None:
    for format_name in ("JP2", "J2K"):
        (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(RGB, reversible=True, codecformat=format_name))
        np.testing.assert_array_equal(read(tmp_path / "a.jp2"), RGB)


def saved(path: Path, image: NDArray[Any], **options: Any) -> bytes:
    Image.fromarray(image).save(path, **options)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_every_cut_is_refused(tmp_path: Path, name: str) -> None:
    content = saved(tmp_path / name, RGB)
    for length in range(0, len(content) - 2, max(1, len(content) // 60)):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(InputError, match=name):
            open_slide(tmp_path / name)


def test_a_progressive_jpeg_that_lost_its_first_scan_is_refused(tmp_path: Path) -> None:
    content = saved(tmp_path / "a.jpg", RGB, progressive=True)
    first, second = (content.index(b"\xff\xda"), content.index(b"\xff\xc4", content.index(b"\xff\xda")))
    (tmp_path / "a.jpg").write_bytes(content[:first] + content[second:])
    with pytest.raises(InputError, match="lost a part"):
        open_slide(tmp_path / "a.jpg")


def png_that_declares(height: int, width: int, depth: int = 8, colour_type: int = 2) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + bytes(100)


def test_a_small_file_that_declares_a_large_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_that_declares(60_000, 60_000))
    with pytest.raises(InputError, match=r"too large to be decoded at once \(10\.8 GB\)"):
        open_slide(tmp_path / "bomb.png")
    content = saved(tmp_path / "bomb.jpg", RGB)
    frame = content.index(b"\xff\xc0") + 5
    (tmp_path / "bomb.jpg").write_bytes(content[:frame] + b"\xff\xff\xff\xff" + content[frame + 4 :])
    with pytest.raises(InputError, match="too large"):
        open_slide(tmp_path / "bomb.jpg")
    content = imagecodecs.jpeg2k_encode(RGB, codecformat="J2K")
    (tmp_path / "bomb.jp2").write_bytes(content[:8] + b"\x00\x01\x00\x00" * 2 + content[16:])
    with pytest.raises(InputError, match="too large"):
        open_slide(tmp_path / "bomb.jp2")


def test_impossible_headers_are_refused_without_a_word_from_the_decoder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(png_that_declares(10, 10, depth=99))
    with pytest.raises(InputError, match="colour type 2 with 99 bits"):
        open_slide(tmp_path / "a.png")
    assert capfd.readouterr() == ("", "")


def test_cmyk_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="CMYK"):
        open_slide(tmp_path / "a.jpg")
