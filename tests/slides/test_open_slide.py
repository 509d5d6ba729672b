"""The door: which reader a file gets, and what happens with things that are no slides."""

import os
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides import open_slide
from segkit.slides.pyramid import PyramidWriter

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        open_slide(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.png", IMAGE)
    Image.fromarray(IMAGE).save(tmp_path / "b.tif", format="PNG")
    with open_slide(tmp_path / "a.png") as tiff, open_slide(tmp_path / "b.tif") as png:
        assert (tiff.backend, png.backend) == ("tiff", "raster")
        for slide in (tiff, png):
            np.testing.assert_array_equal(slide.read(Box(0, 0, 64, 96)), IMAGE)


def test_missing_empty_folder_and_pipe(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.tif")
    (tmp_path / "empty.tif").touch()
    assert "empty" in refusal(tmp_path / "empty.tif")
    assert "folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.tif")
    assert "not a regular file" in refusal(tmp_path / "pipe.tif")


def test_text_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("this is text, whatever its name says")
    assert "no image" in refusal(tmp_path / "a.tif")


def test_without_openslide_the_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff")
    assert "pip install segkit[openslide]" in refusal(tmp_path / "a.mrxs")


def test_openslide_reads_what_it_can_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with PyramidWriter(path, 64, 96, channels=3, tile_px=32, mpp=0.5, reduce="mean") as writer:
        writer.write_rows(IMAGE)
    with open_slide(path) as ours, open_slide(path, backend="openslide") as theirs:
        assert theirs.backend == "openslide"
        assert theirs.levels == ours.levels
        assert theirs.mpp == ours.mpp
        for level, box in ((0, Box(3, 5, 40, 50)), (1, Box(1, 2, 20, 30))):
            np.testing.assert_array_equal(theirs.read(box, level), ours.read(box, level))


@pytest.mark.parametrize("cut", ["last byte", "half", "header"])
@pytest.mark.parametrize("compression", [None, "jpeg", "deflate", "lzw", "zstd", "jpeg2000"])
def test_a_cut_tiff_is_refused_when_it_is_opened(tmp_path: Path, compression: str | None, cut: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, tile=(32, 32), compression=compression)
    content = path.read_bytes()
    length = {"last byte": len(content) - 1, "half": len(content) // 2, "header": 4}[cut]
    path.write_bytes(content[:length])
    refusal(path)


def test_a_jpeg_tile_without_its_end_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, tile=(32, 32), compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        end = tiff.pages.first.dataoffsets[0] + tiff.pages.first.databytecounts[0]
    content = bytearray(path.read_bytes())
    content[end - 40 : end] = bytes(40)
    path.write_bytes(content)
    with open_slide(path) as slide, pytest.raises(InputError, match=r"a\.tif.*a JPEG tile is cut"):
        slide.read(Box(0, 0, 64, 96))


@pytest.mark.parametrize("compression", [None, "jpeg", "deflate", "lzw", "jpeg2000"])
def test_a_damaged_tiff_is_read_or_refused(tmp_path: Path, compression: str | None) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, tile=(32, 32), compression=compression)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    with tifffile.TiffFile(path) as tiff:
        header = min(tiff.pages.first.dataoffsets)
    for _ in range(60):
        damaged = content.copy()
        damaged[random.integers(0, header, 2)] = random.integers(0, 256, 2)
        damaged[random.integers(0, len(content))] ^= random.integers(1, 256)
        path.write_bytes(damaged.tobytes())
        message = read_or_refusal(path)
        assert message is None or (message.startswith(f"{path}: ") and "\n" not in message)


def read_or_refusal(path: Path) -> str | None:
    """Read a corner of every level; return the message where that is refused, and let any other exception out."""
    try:
        with open_slide(path) as slide:
            for number, level in enumerate(slide.levels):
                box = Box(0, 0, min(level.height, 200), min(level.width, 200))
                assert slide.read(box, number).shape == (*box[2:], slide.channels)
    except InputError as error:
        return str(error)
    return None


def test_the_colours_of_an_aperio_slide_in_jpeg_2000(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    red, green, blue = (
        channel.astype(float) for channel in np.moveaxis(np.kron(IMAGE[:8, :8], np.ones((8, 8, 1))), 2, 0)
    )
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    stored = np.stack([luma, (blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128], axis=2)
    tile = np.clip(np.rint(stored), 0, 255).astype(np.uint8)
    encoded = imagecodecs.jpeg2k_encode(tile, reversible=True, codecformat="J2K", mct=False)
    with tifffile.TiffWriter(path) as tiff:
        options = {
            "compression": 33003,
            "photometric": "rgb",
            "description": "Aperio Image Library v1",
            "metadata": None,
        }
        tiff.write(iter([encoded]), shape=(64, 64, 3), dtype=np.uint8, tile=(64, 64), **options)  # type: ignore[arg-type]
    with open_slide(path) as ours, open_slide(path, backend="openslide") as theirs:
        pixels = ours.read(Box(0, 0, 64, 64)).astype(int)
        assert np.abs(pixels - np.stack([red, green, blue], axis=2)).max() <= 2
        assert np.abs(pixels - theirs.read(Box(0, 0, 64, 64))).max() <= 2
