"""TIFF files of every make that segkit reads, written by tifffile and read region by region."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides import Slide, open_slide
from segkit.slides.tiff import TiffSlide

HEIGHT, WIDTH = 150, 203


def picture(channels: int, dtype: Any = np.uint8, high: int = 256) -> NDArray[Any]:
    """Return blocks of random values, `HEIGHT x WIDTH (x channels)`."""
    random = np.random.default_rng(channels)
    blocks = random.integers(0, high, (HEIGHT // 5 + 1, WIDTH // 5 + 1, channels)).repeat(5, axis=0).repeat(5, axis=1)
    blocks[0, 0, 0], blocks[0, 1, 0] = 0, high - 1
    return np.squeeze(blocks[:HEIGHT, :WIDTH].astype(dtype), axis=2 if channels == 1 else ())


def read_all(slide: Slide, level: int = 0) -> NDArray[np.uint8]:
    size = slide.levels[level]
    return slide.read(Box(0, 0, size.height, size.width), level)


def pixels_of(path: Path) -> NDArray[np.uint8]:
    with open_slide(path) as slide:
        return read_all(slide)


LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (64, 48)},
    "strips": {"rowsperstrip": 17},
    "one strip": {"rowsperstrip": HEIGHT},
}


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "packbits", "lzma", "jpeg2000"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_compressions_give_the_pixels_back(
    tmp_path: Path, compression: str | None, layout: str, channels: int
) -> None:
    image = picture(channels)
    options = {"compressionargs": {"reversible": True, "level": 0}} if compression == "jpeg2000" else {}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression=compression, **LAYOUTS[layout], **options)
    np.testing.assert_array_equal(pixels_of(path), image.reshape(HEIGHT, WIDTH, channels))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, {"tile": (32, 64)}, {"tile": (32, 64), "compression": "lzw", "predictor": 2}])
def test_byte_orders_and_planes(
    tmp_path: Path, byteorder: Any, bigtiff: bool, planar: str, options: dict[str, Any]
) -> None:
    image = picture(3, np.uint16, 65536)
    stored = image if planar == "contig" else np.moveaxis(image, 2, 0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stored, byteorder=byteorder, bigtiff=bigtiff, planarconfig=planar, photometric="rgb", **options
    )
    np.testing.assert_array_equal(pixels_of(path), np.rint(image / 257))


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr", "minisblack"])
@pytest.mark.parametrize("layout", ["tiles", "strips"])
def test_jpeg_equals_the_whole_page_decode(tmp_path: Path, photometric: str, layout: str) -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([columns, rows, 255 - rows], axis=2).astype(np.uint8)
    image = image[..., 0] if photometric == "minisblack" else image
    options: dict[str, Any] = {"tile": (64, 48)} if layout == "tiles" else {"rowsperstrip": 16}
    if photometric == "rgb":
        options |= {"subsampling": (1, 1), "compressionargs": {"outcolorspace": "rgb"}}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression="jpeg", photometric="rgb" if image.ndim == 3 else None, **options)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.photometric.name.lower() == photometric
    expected = tifffile.imread(path).reshape(HEIGHT, WIDTH, -1)
    np.testing.assert_array_equal(pixels_of(path), expected)
    difference = np.abs(expected.astype(int) - image.reshape(expected.shape))
    assert difference[:128, :192].max() < 20, "the colours are right, too"


def write_pyramid(path: Path, image: NDArray[Any], **options: Any) -> list[NDArray[Any]]:
    levels = [image, image[::2, ::2], image[::4, ::4]]
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            tiff.write(level, tile=(32, 32), subfiletype=min(number, 1), metadata=None, **options)
    return levels


def test_a_plain_pyramid_has_its_levels(tmp_path: Path) -> None:
    levels = write_pyramid(tmp_path / "a.tif", picture(3), compression="deflate")
    with open_slide(tmp_path / "a.tif") as slide:
        assert [(level.height, level.width) for level in slide.levels] == [one.shape[:2] for one in levels]
        assert [round(level.downsample) for level in slide.levels] == [1, 2, 4]
        for number, level in enumerate(levels):
            np.testing.assert_array_equal(read_all(slide, number), level)


def test_an_ome_tiff_has_its_levels_in_subifds(tmp_path: Path) -> None:
    image = picture(3)
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        metadata = {"axes": "YXS", "PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
        tiff.write(image, tile=(32, 32), subifds=2, metadata=metadata)
        for step in (2, 4):
            tiff.write(image[::step, ::step], tile=(32, 32), subfiletype=1)
    with open_slide(path) as slide:
        assert len(slide.levels) == 3
        assert slide.mpp == 0.5
        np.testing.assert_array_equal(read_all(slide, 2), image[::4, ::4])


def test_an_aperio_slide_leaves_out_thumbnail_label_and_macro(tmp_path: Path) -> None:
    image = picture(3)
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            image, tile=(32, 32), description="Aperio Image Library v1\n|MPP = 0.2520|AppMag = 40", metadata=None
        )
        tiff.write(image[::3, ::3], rowsperstrip=16, metadata=None)  # thumbnail, of the slide's proportions
        tiff.write(image[::4, ::4], tile=(32, 32), metadata=None)
        tiff.write(picture(3)[:40, :40], rowsperstrip=16, subfiletype=1, description="label", metadata=None)
        tiff.write(picture(3)[:30, :90], rowsperstrip=16, subfiletype=9, description="macro", metadata=None)
    with open_slide(path) as slide:
        assert [(level.height, level.width) for level in slide.levels] == [(HEIGHT, WIDTH), (38, 51)]
        assert slide.mpp == 0.252
        assert slide.properties["tiff.kind"] == "svs"


def test_levels_need_the_same_proportions(tmp_path: Path) -> None:
    image = picture(3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(image, tile=(32, 32), metadata=None)
        tiff.write(image[:50, :100], tile=(32, 32), subfiletype=1, metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        assert len(slide.levels) == 1


@given(data=st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_region_is_that_part_of_the_whole(
    shared_slide: tuple[Slide, NDArray[np.uint8]], data: st.DataObject
) -> None:
    slide, whole = shared_slide
    y, x = data.draw(st.integers(0, HEIGHT - 1)), data.draw(st.integers(0, WIDTH - 1))
    box = Box(y, x, data.draw(st.integers(1, HEIGHT - y)), data.draw(st.integers(1, WIDTH - x)))
    np.testing.assert_array_equal(slide.read(box), whole[box.slices])


@given(
    box=st.builds(Box, st.integers(-400, 400), st.integers(-400, 400), st.integers(1, 90), st.integers(1, 90)),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_outside_of_the_image_it_is_mirrored(shared_slide: tuple[Slide, NDArray[np.uint8]], box: Box) -> None:
    slide, whole = shared_slide
    margin = 500
    padded = np.pad(whole, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(slide.read_mirrored(box), padded[box.shift(margin, margin).slices])


@pytest.fixture(scope="module")
def shared_slide(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    image = picture(3)
    tifffile.imwrite(path, image, tile=(32, 48), compression="deflate")
    with open_slide(path) as slide:
        yield slide, image


@pytest.mark.parametrize("box", [Box(-1, 0, 5, 5), Box(0, 0, HEIGHT + 1, 5), Box(0, 0, 0, 5), Box(5, WIDTH, 1, 1)])
def test_a_box_outside_is_a_programmers_mistake(shared_slide: tuple[Slide, NDArray[np.uint8]], box: Box) -> None:
    with pytest.raises(ValueError, match="not inside level 0"):
        shared_slide[0].read(box)


def test_regions_are_the_callers_own(shared_slide: tuple[Slide, NDArray[np.uint8]]) -> None:
    slide, whole = shared_slide
    slide.read(Box(0, 0, 32, 48))[:] = 7
    np.testing.assert_array_equal(slide.read(Box(0, 0, 32, 48)), whole[:32, :48])


def test_many_threads_read_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.slides.tiff.CACHE_BYTES", 20_000)  # four tiles: they come and go
    image = picture(3)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 48), compression="zstd")
    boxes = [Box(y, x, 40, 40) for y, x in itertools.product(range(0, 110, 13), range(0, 160, 17))]
    with open_slide(tmp_path / "a.tif") as slide, ThreadPoolExecutor(8) as pool:
        for box, region in zip(boxes * 3, pool.map(slide.read, boxes * 3), strict=True):
            np.testing.assert_array_equal(region, image[box.slices])


def test_only_the_tiles_that_a_region_touches_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(3), tile=(48, 48), compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages.first.dataoffsets[-1], tiff.pages.first.databytecounts[-1]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = b"\xff" * count
    path.write_bytes(content)
    with open_slide(path) as slide:
        slide.read(Box(0, 0, 144, WIDTH))
        with pytest.raises(InputError, match=r"a\.tif: .*level 0, rows 140-150"):
            slide.read(Box(140, 193, 10, 10))


@pytest.mark.parametrize(("channels", "background"), [(1, 0), (3, 255)])
def test_tiles_without_data_are_background_and_counted(tmp_path: Path, channels: int, background: int) -> None:
    tile = np.full((64, 64, channels), 99, np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        shape = (64, 128, 3) if channels == 3 else (64, 128)
        options = {"photometric": "rgb" if channels == 3 else "minisblack", "metadata": None}
        tiff.write(iter([tile.squeeze(), None]), shape=shape, dtype=np.uint8, tile=(64, 64), **options)  # type: ignore[arg-type]
    with open_slide(tmp_path / "a.tif") as slide:
        pixels = read_all(slide)
        assert (pixels[:, :64] == 99).all()
        assert (pixels[:, 64:] == background).all()
        assert slide.properties["tiff.missing_tiles"] == "1"


@pytest.mark.parametrize("tag", range(9))
def test_orientation_is_applied_as_pillow_does(tmp_path: Path, tag: int) -> None:
    from PIL import Image, ImageOps

    image = picture(3)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for number, step in enumerate((1, 2)):
            options = {"subfiletype": number, "metadata": None, "extratags": [(274, "H", 1, tag, True)]}
            tiff.write(image[::step, ::step], tile=(32, 48), **options)  # type: ignore[arg-type]
    for level, step in enumerate((1, 2)):
        shown = Image.fromarray(np.ascontiguousarray(image[::step, ::step]))
        shown.getexif()[274] = tag
        expected = np.asarray(ImageOps.exif_transpose(shown))
        with open_slide(path) as slide:
            np.testing.assert_array_equal(read_all(slide, level), expected)
            box = Box(5, 9, 31, 17)
            np.testing.assert_array_equal(slide.read(box, level), expected[box.slices])


@pytest.mark.parametrize(
    ("image", "options", "found"),
    [
        (np.zeros((4, 64, 64), np.uint8), {"photometric": "minisblack"}, "several planes|4 planes"),
        (np.zeros((4, 64, 64), np.uint8), {"imagej": True}, "planes"),
        (np.zeros((64, 64, 4), np.uint8), {"photometric": "separated"}, "SEPARATED"),
        (np.zeros((64, 64, 3), np.uint8), {"photometric": "cielab"}, "CIELAB"),
        (np.zeros((64, 64, 3), np.uint8), {"photometric": "ycbcr", "compression": "deflate"}, "YCbCr"),
        (np.zeros((64, 64, 5), np.uint8), {"photometric": "rgb"}, "5 samples"),
        (np.zeros((64, 64), np.complex64), {}, "bits"),
        (np.zeros((64, 64, 3), np.uint8), {"compression": "webp"}, "WEBP"),
        (np.zeros((64, 64, 2), np.uint8), {"planarconfig": "contig", "photometric": "minisblack"}, "2 samples"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:tifffile")
def test_what_would_come_out_wrong_is_refused_in_one_line(
    tmp_path: Path, image: NDArray[Any], options: dict[str, Any], found: str
) -> None:
    path = tmp_path / "odd.tif"
    tifffile.imwrite(path, image, **options)
    with pytest.raises(InputError, match=found) as error:
        open_slide(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


def test_a_strip_that_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), compression="deflate", rowsperstrip=64, metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages.first.tags[name].overwrite(60_000)
    with pytest.raises(InputError, match=r"decodes to 3\.6 GB"):
        open_slide(path)


def test_a_jpeg_tile_that_declares_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), compression="jpeg", tile=(64, 64))
    content = path.read_bytes()
    frame = content.index(b"\xff\xc0") + 5
    path.write_bytes(content[:frame] + b"\xf0\x00\xf0\x00" + content[frame + 4 :])
    with open_slide(path) as slide, pytest.raises(InputError, match="holds a picture of 61440 x 61440"):
        read_all(slide)


def test_a_chain_of_pages_that_never_ends_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "ring.tif"
    write_pyramid(path, picture(1))
    with tifffile.TiffFile(path) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[2].offset
    content = bytearray(path.read_bytes())
    num_tags = int.from_bytes(content[last : last + 2], "little")
    link = last + 2 + 12 * num_tags
    assert content[link : link + 4] == b"\0\0\0\0"
    content[link : link + 4] = first.to_bytes(4, "little")
    path.write_bytes(content)
    with open_slide(path) as slide:
        assert len(slide.levels) == 3


def test_close_can_be_called_twice(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(1))
    slide = TiffSlide(tmp_path / "a.tif")
    slide.close()
    slide.close()
