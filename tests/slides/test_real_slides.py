"""Real slides: every file opens with the right pixels, or is refused in one clear line.

"Right" is tifffile's decode of the whole page, interpreted in a second, simple way (conftest.py), and OpenSlide's
picture where OpenSlide opens the file.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides import Slide, open_slide

Interpreter = Callable[[tifffile.TiffPage], NDArray[Any]]

pytestmark = pytest.mark.real_data

THREE = [(2967, 2220), (1483, 1110), (741, 555)]
CELLS = [(131, 93)]

# backend, sizes of the levels, channels, mpp
OPENED: dict[str, tuple[str, list[tuple[int, int]], int, float | None]] = {
    "CMU-1-Small-Region.svs": ("tiff", [(2967, 2220)], 3, 0.499),
    "derived_from_CMU/crop1024_16bit_zlib.tif": ("tiff", [(1024, 1024)], 3, None),
    "derived_from_CMU/crop1024_gray_float32.tif": ("tiff", [(1024, 1024)], 1, None),
    "derived_from_CMU/crop1024_lzw_striped.tif": ("tiff", [(1024, 1024), (512, 512), (256, 256)], 3, 0.499),
    "derived_from_CMU/pyr_jpeg2000_t256_flat.tif": ("tiff", THREE, 3, 0.499),
    "derived_from_CMU/pyr_jpeg_t256_subifd.ome.tif": ("tiff", THREE, 3, 0.499),
    "derived_from_CMU/pyr_jpeg_t512_flat.tif": ("tiff", THREE, 3, 0.499),
    "hamamatsu_test3-TRITC.ndpi": ("openslide", [(4864 >> level, 3968 >> level) for level in range(7)], 3, 0.22818),
    "highdicom/sm_image.dcm": ("openslide", [(50, 50)], 3, 0.499),
    "highdicom/sm_image_dots.dcm": ("openslide", [(50, 50)], 3, 0.499),
    **{f"large_image/test_orient{n}.tif": ("tiff", [(180, 120), (90, 60), (45, 30)], 1, None) for n in range(5)},
    **{f"large_image/test_orient{n}.tif": ("tiff", [(120, 180), (60, 90), (30, 45)], 1, None) for n in (5, 7, 8)},
    **{f"libvips/{bits}bit.tif": ("tiff", [(4, 256)], 1, None) for bits in (1, 2, 4)},
    "openslide/boxes.tiff": ("tiff", [(250, 300), (125, 150), (62, 75), (31, 37)], 3, None),
    "openslide/boxes_0.dcm": ("openslide", [(16, 16)], 3, 0.499),
    "openslide/boxes_1.dcm": ("openslide", [(16, 16)], 3, 0.499),
    "openslide/small.svs": ("tiff", [(16, 16)], 3, 0.499),
    "pathml_smalltif.tif": ("tiff", [(480, 640)], 1, None),
    "qupath/cells-1.jp2": ("raster", [(261, 185)], 3, None),
    "qupath/cells-gray16.tif": ("tiff", CELLS, 1, 0.25),
    "qupath/cells-gray32.tif": ("tiff", CELLS, 1, 0.25),
    "qupath/cells.ome.tif": ("tiff", CELLS, 3, 0.25),
    "qupath/cells.png": ("raster", CELLS, 3, None),
    "qupath/cells.tif": ("tiff", CELLS, 3, 0.25),
    "stardist/histo.jpg": ("raster", [(300, 500)], 3, None),
    "stardist/img2d.tif": ("tiff", [(512, 512)], 1, None),
    "stardist/mask2d.tif": ("tiff", [(512, 512)], 1, None),
}
REFUSED = {
    "highdicom/seg_image_sm_dots.dcm": "no image that segkit or OpenSlide knows",
    "highdicom/sm_annotations.dcm": "no image that segkit or OpenSlide knows",
    "highdicom/sm_image_grayscale.dcm": "BitsAllocated value 16",
    "large_image/sample.geojson": "no image",
    "libvips/multi-channel-z-series.ome.tif": "15 planes",
    "libvips/ojpeg-strip.tif": "OJPEG",
    "libvips/ojpeg-tile.tif": "OJPEG",
    "libvips/subsampled.tif": "YCbCr colours with compression LZW",
    "openslide/unopenable.tiff": "compression 52479",
    "openslide/unreadable.svs": "Bogus marker length",
    "pathml_small_dicom.dcm": "image flavor",
    "qupath/cells-2t.ome.tif": "2 planes",
    "qupath/cells-2z.ome.tif": "2 planes",
    "qupath/polygon.geojson": "no image",
    "stardist/qupath_example_project.zip": "no image",
}


def read_all(slide: Slide, level: int = 0) -> NDArray[np.uint8]:
    size = slide.levels[level]
    return slide.read(Box(0, 0, size.height, size.width), level)


def test_the_tables_name_every_file(real_data: Path) -> None:
    files = {str(path.relative_to(real_data / "wsi")) for path in (real_data / "wsi").rglob("*") if path.is_file()}
    assert files == OPENED.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", OPENED)
def test_size_channels_and_mpp(real_data: Path, name: str) -> None:
    backend, sizes, channels, mpp = OPENED[name]
    with open_slide(real_data / "wsi" / name) as slide:
        assert slide.backend == backend
        assert [(level.height, level.width) for level in slide.levels] == sizes
        assert slide.channels == channels
        assert slide.mpp == (pytest.approx(mpp, abs=1e-5) if mpp else None)
        small = Box(1, 2, min(13, slide.height - 1), min(17, slide.width - 2))
        np.testing.assert_array_equal(slide.read(small), read_all(slide)[small.slices])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(real_data: Path, name: str) -> None:
    path = real_data / "wsi" / name
    with pytest.raises(InputError, match=REFUSED[name]) as error, open_slide(path) as slide:
        read_all(slide)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name, (backend, *_) in OPENED.items() if backend == "tiff"])
def test_pixels_equal_the_whole_page_decode(real_data: Path, name: str, simple_pixels: Interpreter) -> None:
    path = real_data / "wsi" / name
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        pages = [level.pages[0].aspage() for level in tiff.series[0].levels]
        assert len(pages) == len(slide.levels)
        for number, page in enumerate(pages):
            expected = simple_pixels(page).astype(np.uint8)
            if (orientation := page.tags.valueof(274, 1)) > 1:
                image = Image.fromarray(expected[..., 0])
                image.getexif()[274] = orientation
                expected = np.asarray(ImageOps.exif_transpose(image))[..., None]
            np.testing.assert_array_equal(read_all(slide, number), expected)


@pytest.mark.parametrize(
    "name", [name for name in OPENED if not name.startswith(("large_image/test_orient", "derived_from_CMU/crop1024"))]
)
def test_pixels_equal_openslide_where_it_opens_the_file(real_data: Path, name: str) -> None:
    path = real_data / "wsi" / name
    try:
        other = openslide.OpenSlide(path)
    except openslide.OpenSlideError:
        pytest.skip("OpenSlide does not open it")
    with other, open_slide(path) as slide:
        assert slide.mpp is None or slide.mpp == pytest.approx(float(other.properties["openslide.mpp-x"]), rel=1e-3)
        for number in range(other.level_count):  # of OME pyramids, OpenSlide sees level 0 only
            level = slide.levels[number]
            assert other.level_dimensions[number] == (level.width, level.height)
            theirs = np.asarray(other.read_region((0, 0), number, (level.width, level.height)))
            np.testing.assert_array_equal(read_all(slide, number), theirs[..., :3])


def test_orient1_equals_openslide(real_data: Path) -> None:
    path = real_data / "wsi" / "large_image" / "test_orient1.tif"
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        theirs = np.asarray(other.read_region((0, 0), 0, (slide.width, slide.height)))
        np.testing.assert_array_equal(read_all(slide)[..., 0], theirs[..., 0])


def test_a_vendors_dialect_is_recognised_by_its_content(real_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "renamed.tif"
    path.write_bytes((real_data / "wsi" / "hamamatsu_test3-TRITC.ndpi").read_bytes())
    with open_slide(path) as slide:
        assert slide.backend == "openslide"
    with pytest.raises(InputError, match="ndpi slide, which OpenSlide reads"):
        open_slide(path, backend="tiff")


@pytest.mark.parametrize("name", ["qupath/cells.png", "stardist/histo.jpg", "qupath/cells-1.jp2"])
def test_images_equal_pillow(real_data: Path, name: str) -> None:
    path = real_data / "wsi" / name
    with open_slide(path) as slide:
        np.testing.assert_array_equal(read_all(slide), np.asarray(Image.open(path).convert("RGB")))
