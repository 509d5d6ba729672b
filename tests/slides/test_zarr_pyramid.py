"""OME-Zarr folders as joined from blocks, read with the zarr library and by hand."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit.slides.ome import Place, multiscales
from segkit.slides.pyramid_blocks import encode_block, join_pyramid
from tests.slides.test_pyramid_blocks import encode, layout_of, levels_of, patchy


def write(path: Path, image: NDArray[Any], *, empty_as_none: bool = True, **options: Any) -> list[NDArray[Any]]:
    """Write an image in tiles of 16 and return its levels."""
    layout = layout_of(image, tile=16, **options)
    blocks = encode(image, layout, empty_as_none=empty_as_none)
    join_pyramid(
        path, layout, blocks.__getitem__, num_rows=len(blocks), kind="ome-zarr", on_row=lambda done, total: None
    )
    return levels_of(image, layout)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [(1, 1), (16, 17), (33, 31), (100, 230)])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("reduce", ["nearest", "mean"])
def test_zarr_reads_every_level(tmp_path: Path, size: tuple[int, int], dtype: str, reduce: str) -> None:
    image = (patchy(*size, 32, seed=6) / (1 if dtype == "uint8" else 255)).astype(dtype)
    levels = write(tmp_path / "map.ome.zarr", image, reduce=reduce)
    group = zarr.open_group(tmp_path / "map.ome.zarr", mode="r")
    attributes = dict(group.attrs)
    assert group.metadata.zarr_format == 2
    (image_attributes,) = attributes["multiscales"]
    assert image_attributes["version"] == "0.4"
    assert [dataset["path"] for dataset in image_attributes["datasets"]] == [str(n) for n in range(len(levels))]
    for number, level in enumerate(levels):
        array = group[str(number)]
        assert array.dtype == dtype
        assert array.chunks == (16, 16)
        np.testing.assert_array_equal(array[:], level)


def test_a_chunk_is_a_zlib_stream_of_a_whole_tile(tmp_path: Path) -> None:
    image = patchy(20, 40, 64, seed=0) | np.uint8(1)
    write(tmp_path / "a", image)
    chunk = (tmp_path / "a" / "0" / "1" / "2").read_bytes()
    tile = np.frombuffer(zlib.decompress(chunk), np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(tile[:4, :8], image[16:, 32:])
    array = json.loads((tmp_path / "a" / "0" / ".zarray").read_text())
    assert array["compressor"] == {"id": "zlib", "level": 6}
    assert array["dimension_separator"] == "/"
    assert array["shape"] == [20, 40]
    assert array["filters"] is None


def test_tiles_of_zeros_have_no_files_whether_they_were_computed_or_skipped(tmp_path: Path) -> None:
    image = np.zeros((64, 64), np.uint8)
    image[5, 5] = 1
    write(tmp_path / "skipped" / "map", image)
    write(tmp_path / "computed" / "map", image, empty_as_none=False)
    files = files_below(tmp_path / "skipped")
    assert files == files_below(tmp_path / "computed")
    assert sorted(name for name in files if "." not in name) == ["map/0/0/0"]


def test_an_earlier_folder_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "map.ome.zarr"
    write(path, patchy(100, 100, 32, seed=1))
    write(path, np.ones((16, 16), np.uint8))
    assert sorted(files_below(path)) == [".zattrs", ".zgroup", "0/.zarray", "0/0/0"]
    (tmp_path / "file").write_bytes(b"earlier")
    with pytest.raises(UsageError, match="cannot be written"):
        write(tmp_path / "file", np.ones((16, 16), np.uint8))
    assert (tmp_path / "file").read_bytes() == b"earlier"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "map.ome.zarr"]


def transforms(attributes: dict[str, Any], level: int) -> tuple[list[float], list[float]]:
    scale, translation = attributes["multiscales"][0]["datasets"][level]["coordinateTransformations"]
    assert (scale["type"], translation["type"]) == ("scale", "translation")
    return scale["scale"], translation["translation"]


def test_all_levels_cover_the_same_area_of_the_slide(tmp_path: Path) -> None:
    attributes = multiscales(Place("map", 0.5, (10.0, 200.0)), 4, "mean")
    for level in range(4):
        (height, width), (y, x) = transforms(attributes, level)
        assert height == width == 0.5 * 2**level
        assert (y - height / 2, x - width / 2) == (199.75, 9.75)  # the corner of the first pixel
    assert [axis["name"] for axis in attributes["multiscales"][0]["axes"]] == ["y", "x"]
    assert all(axis["unit"] == "micrometer" for axis in attributes["multiscales"][0]["axes"])


def test_without_a_pixel_size_the_axes_count_pixels() -> None:
    attributes = multiscales(Place("map", None, (10.0, 200.0)), 2, "nearest")
    assert transforms(attributes, 1) == ([2.0, 2.0], [0.5, 0.5])
    assert all("unit" not in axis for axis in attributes["multiscales"][0]["axes"])


def test_the_blocks_of_a_tiff_and_a_zarr_are_the_same() -> None:
    image = patchy(32, 32, 32, seed=8)
    with_place = layout_of(image, tile=16, mpp=0.5, offset_um=(1.0, 2.0))
    without = layout_of(image, tile=16)
    assert encode_block(image, with_place)["data"].tobytes() == encode_block(image, without)["data"].tobytes()
