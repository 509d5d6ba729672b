"""Patches of slides by region are those of the same image in memory; polygons are drawn where they are looked at."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.data import slide_fields
from segkit.data.class_index import BLOCK_PX, BlockIndex, RowIndex
from segkit.data.sampling import PatchSource, sample_rng
from segkit.data.slide_fields import PolygonTarget, SlideImage
from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides.geojson import GeoJSONWriter, rasterise, read_geojson
from segkit.slides.pyramid import PyramidWriter

CLASSES = ("background", "tumour", "stroma")


def write_slide(path: Path, height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, channels), dtype=np.uint8)
    with PyramidWriter(path, height, width, channels=channels, tile_px=128, mpp=0.5, reduce="mean") as writer:
        writer.write_rows(pixels)
    return pixels


def write_polygons(path: Path, *polygons: tuple[str, list[tuple[float, float]]]) -> Path:
    with GeoJSONWriter(path) as writer:
        for label, corners in polygons:
            writer.add_polygon([np.array(corners, np.float64)], label=label, colour=(200, 0, 0))
    return path


POLYGONS = [
    ("tumour", [(20.0, 30.0), (180.5, 35.25), (150.0, 160.0), (40.0, 170.0)]),
    ("stroma", [(100.0, 100.0), (620.0, 110.0), (600.0, 300.0)]),
    ("tumour", [(640.0, 690.0), (660.0, 690.0), (660.0, 700.0), (640.0, 700.0)]),
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[PolygonTarget, NDArray[np.uint8]]:
    path = write_polygons(tmp_path_factory.mktemp("polygons") / "one.geojson", *POLYGONS)
    whole = rasterise(read_geojson(path), 700, 660, lambda one, _: CLASSES.index(one.label or "")).astype(np.uint8)
    return PolygonTarget(path, CLASSES, 700, 660), whole


@settings(max_examples=40, deadline=None)
@given(y=st.integers(-40, 700), x=st.integers(-40, 660), height=st.integers(1, 90), width=st.integers(1, 90))
def test_polygons_of_a_box_are_that_part_of_all(
    drawn: tuple[PolygonTarget, NDArray[np.uint8]], y: int, x: int, height: int, width: int
) -> None:
    target, whole = drawn
    padded = np.pad(whole, 130, mode="reflect")
    found = target.cut(Box(y, x, height, width))
    assert np.array_equal(found[..., 0], padded[y + 130 :, x + 130 :][:height, :width])
    inside = Box(y, x, height, width).intersect(Box(0, 0, 700, 660))
    if inside.area and target.is_background(inside):
        assert not whole[inside.slices].any()


def test_blocks_find_the_same_pixels_as_rows(drawn: tuple[PolygonTarget, NDArray[np.uint8]]) -> None:
    target, whole = drawn
    blocks, rows = BlockIndex(target, 3), RowIndex(whole[..., np.newaxis], 3)
    assert BLOCK_PX < 660
    assert blocks.counts.tolist() == rows.counts.tolist()
    for index in range(3):
        ranks = np.unique(np.linspace(0, blocks.counts[index] - 1, 60).astype(int)).tolist()
        places = [blocks.pixel(index, rank) for rank in ranks]
        assert len(set(places)) == len(ranks)
        assert all(whole[place] == index for place in places)
        in_order = [rows.pixel(index, rank) for rank in range(0, int(rows.counts[index]), 997)]
        assert in_order == [tuple(place) for place in np.argwhere(whole == index)[::997].tolist()]


def test_patches_of_a_slide_are_those_of_the_image_in_memory(tmp_path: Path) -> None:
    pixels = write_slide(tmp_path / "slide.tif", 300, 420)
    path = write_polygons(tmp_path / "slide.geojson", ("tumour", [(20, 30), (180, 35), (150, 160), (40, 170)]))
    slide, target = SlideImage(tmp_path / "slide.tif", 3), PolygonTarget(path, CLASSES, 300, 420)
    whole = target.cut(Box(0, 0, 300, 420))
    by_region = PatchSource([slide], [target], patch_px=32, balanced=0.6, num_classes=3)
    in_memory = PatchSource([pixels], [whole], patch_px=32, balanced=0.6, num_classes=3)
    for number in range(40):  # the one block is smaller than BLOCK_PX, so ranks are the same, too
        found, expected = (one.draw(sample_rng(0, 0, number), 64) for one in (by_region, in_memory))
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])


def test_grey_slides_can_be_used_among_colour_ones_and_not_the_other_way(tmp_path: Path) -> None:
    pixels = write_slide(tmp_path / "grey.tif", 100, 120, channels=1)
    found = SlideImage(tmp_path / "grey.tif", 3).cut(Box(10, 20, 30, 40))
    assert np.array_equal(found, np.repeat(pixels[10:40, 20:60], 3, axis=2))
    write_slide(tmp_path / "colour.tif", 100, 120)
    with pytest.raises(InputError, match="has 3 channels, and 1 are needed"):
        SlideImage(tmp_path / "colour.tif", 1)


def test_only_some_slides_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slide_fields, "MAX_OPEN", 2)
    pixels = [write_slide(tmp_path / f"{side}.tif", side, side) for side in (100, 110, 120, 130)]
    images = [SlideImage(tmp_path / f"{len(one)}.tif", 3) for one in pixels]
    for _ in range(2):
        for image, whole in zip(images, pixels, strict=True):
            assert np.array_equal(image.cut(Box(5, 6, 20, 30)), whole[5:25, 6:36])
            assert len(slide_fields._opened._slides) <= 2


def _cut_many(image: SlideImage, expected: NDArray[np.uint8], start: int, found: "multiprocessing.Queue[bool]") -> None:
    boxes = [Box(y, x, 40, 40) for y in range(start, 250, 30) for x in range(0, 350, 30)]
    is_its_own = not slide_fields._opened._slides
    found.put(is_its_own and all(np.array_equal(image.cut(box), expected[box.slices]) for box in boxes * 3))


def test_forked_processes_do_not_disturb_each_others_reading(tmp_path: Path) -> None:
    """With a shared file position, reads of one process would move the others': files are opened anew."""
    pixels = write_slide(tmp_path / "slide.tif", 300, 420)
    image = SlideImage(tmp_path / "slide.tif", 3)
    image.cut(Box(0, 0, 10, 10))  # opened before the fork
    context = multiprocessing.get_context("fork")
    found: multiprocessing.Queue[bool] = context.Queue()
    workers = [context.Process(target=_cut_many, args=(image, pixels, number, found)) for number in range(3)]
    for worker in workers:
        worker.start()
    assert np.array_equal(image.cut(Box(100, 100, 64, 64)), pixels[100:164, 100:164])
    assert [found.get(timeout=30) for _ in workers] == [True] * 3
    for worker in workers:
        worker.join()


def test_an_unknown_classification_is_named(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "one.geojson", ("necrosis", [(0, 0), (5, 0), (5, 5)]))
    with pytest.raises(InputError, match="the classification necrosis, which is none of background, tumour, stroma"):
        PolygonTarget(path, CLASSES, 10, 10)
