"""Evaluating what is too large to be read whole: the same integers and numbers block by block, in bounded memory."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.config import EvaluateConfig, build_config
from segkit.data import raster_blocks
from segkit.data.polygon_blocks import PolygonBlocks
from segkit.data.raster_blocks import RasterBlocks
from segkit.data.rasters import read_values
from segkit.errors import InputError
from segkit.evaluation.object_tables import ObjectReport
from segkit.evaluation.objects import count_objects, match_objects
from segkit.evaluation.pixel_tables import PixelReport
from segkit.evaluation.pixels import confusion
from segkit.evaluation.point_tables import PointReport
from segkit.evaluation.value_pairs import confusion_of_pairs, count_pairs, values_in
from segkit.geometry import Box
from segkit.masks import IGNORE
from segkit.slides.geojson import Feature, GeoJSONWriter, rasterise
from segkit.workflows import evaluate_given_objects, evaluate_given_points, placement
from segkit.workflows.evaluate import evaluate
from segkit.workflows.runs import peak_memory_bytes
from tests.processes import Running
from tests.tiny import draw_field, save_png, write_slide

LEVELS = np.array([0, 1, 2, 255], np.uint8)


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every TIFF file for a large one, and blocks of a few pixels."""
    monkeypatch.setattr(raster_blocks, "WHOLE_PX", 0)
    monkeypatch.setattr(placement, "BLOCK_PX", 48)


def field(seed: int, dtype: str = "uint8", height: int = 150, width: int = 201) -> NDArray[Any]:
    values = np.random.default_rng(seed).integers(0, 4, (height // 10 + 1, width // 10 + 1))
    return values.repeat(10, axis=0).repeat(10, axis=1)[:height, :width].astype(dtype)


# Files


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (32, 48)}, {"tile": (64, 64), "compression": "deflate"}, {"rowsperstrip": 7, "compression": "lzw"},
        {"rowsperstrip": 150}, {"tile": (32, 32), "compression": "packbits", "photometric": "miniswhite"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32"])
def test_boxes_hold_the_integers_that_were_written(
    tmp_path: Path, all_large: None, options: dict[str, Any], dtype: str
) -> None:
    values = field(3, dtype) * (1 if dtype == "uint8" else 17_000)
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    with RasterBlocks(tmp_path / "a.tif") as blocks:
        assert (blocks.height, blocks.width, blocks.in_strips) == (150, 201, "tile" not in options)
        for box in (Box(0, 0, 150, 201), Box(31, 40, 70, 90), Box(149, 200, 1, 1), Box(31, 40, 70, 90)):
            found = blocks.read(box)
            assert found.dtype == values.dtype
            assert np.array_equal(found, values[box.slices])


def test_a_small_file_a_png_and_masks_of_one_bit_are_read_as_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = field(1) > 1
    tifffile.imwrite(tmp_path / "bits.tif", mask, photometric="minisblack")
    save_png(tmp_path / "a.png", field(1))
    for whole_px in (0, 10**9):
        monkeypatch.setattr(raster_blocks, "WHOLE_PX", whole_px)
        for name in ("bits.tif", "a.png"):
            with RasterBlocks(tmp_path / name) as blocks:
                found = blocks.read(Box(3, 5, 100, 120))
            assert np.array_equal(found, read_values(tmp_path / name)[3:103, 5:125])


def test_a_pyramid_is_read_at_level_0_and_says_its_scale(tmp_path: Path, all_large: None) -> None:
    image, _ = draw_field(1, channels=1)
    path = write_slide(tmp_path / "a.tif", image, mpp=0.25)
    with RasterBlocks(path) as blocks:
        assert blocks.mpp == pytest.approx(0.25)
        assert np.array_equal(blocks.read(Box(0, 0, *image.shape[:2])), image[..., 0])


def sparse(path: Path) -> None:
    encoded = imagecodecs.deflate_encode(np.full((32, 32), 5, np.uint8))
    with tifffile.TiffWriter(path) as writer:
        tiles = iter([encoded, b"", b"", encoded])
        writer.write(tiles, shape=(64, 64), dtype="uint8", tile=(32, 32), compression="deflate")


def test_tiles_that_a_sparse_file_leaves_out_are_background(tmp_path: Path, all_large: None) -> None:
    sparse(tmp_path / "a.tif")
    with RasterBlocks(tmp_path / "a.tif") as blocks:
        assert np.array_equal(blocks.read(Box(16, 16, 32, 32)), np.kron(np.eye(2, dtype=int) * 5, np.ones((16, 16))))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: tifffile.imwrite(path, field(0), compression="jpeg", tile=(32, 32)), "can change ids"),
        (lambda path: tifffile.imwrite(path, field(0, "float32"), tile=(32, 32)), "1 samples of float32 per pixel"),
        (lambda path: tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), tile=(32, 32)), "3 samples of uint8"),
        (lambda path: tifffile.imwrite(path, np.stack([field(0)] * 2), tile=(32, 32)), "holds 2 pages"),
        (lambda path: tifffile.imwrite(path, field(0), extratags=[(274, 3, 1, 6, True)]), "turned or mirrored"),
        (lambda path: path.write_bytes(b"II*\0"), "is damaged"),
    ],
)
def test_large_files_that_hold_no_ids_are_refused(
    tmp_path: Path, all_large: None, write: Callable[[Path], None], words: str
) -> None:
    write(tmp_path / "a.tif")
    with pytest.raises(InputError, match=f"{tmp_path / 'a.tif'}: .*{words}"):
        RasterBlocks(tmp_path / "a.tif")


def test_a_large_file_that_is_cut_is_refused(tmp_path: Path, all_large: None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", field(0), tile=(32, 32), compression="deflate")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        start = file.pages[0].dataoffsets[3]
    content[start : start + 8] = b"\xff" * 8
    (tmp_path / "a.tif").write_bytes(content)
    with (
        RasterBlocks(tmp_path / "a.tif") as blocks,
        pytest.raises(InputError, match=r"a\.tif: is damaged .*\(rows 0-10"),
    ):
        blocks.read(Box(0, 0, 10, 201))


# Polygons


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.sampled_from([(1.0, (0.0, 0.0)), (2.0, (10.0, 20.0))]))
def test_polygons_are_painted_the_same_in_any_box(seed: int, scale: Any) -> None:
    step, origin = scale
    rng = np.random.default_rng(seed)
    height, width = 1150, 1100
    rings = []
    for _ in range(8):
        corners = (rng.uniform(900, 1200, 2) + rng.uniform(-200, 200, (5, 2))).round(2)
        rings.append(np.concatenate([corners, corners[:1]]))
    blocks = PolygonBlocks(
        [[ring] for ring in rings], range(1, 9), height, width, step=step, origin=origin
    )  # fmt: skip
    moved = [(ring - origin[::-1]) / step for ring in rings]
    features = [Feature(None, [[ring]], np.empty((0, 2))) for ring in moved]
    whole = rasterise(features, height, width, lambda _, index: index + 1)
    for box in (Box(1000, 900, 150, 200), Box(*rng.integers(0, 970, 2).tolist(), 90, 130), Box(450, 400, 99, 99)):
        assert np.array_equal(blocks.read(box), whole[box.slices])
        assert not (blocks.is_empty(box) and whole[box.slices].any())


def test_polygons_outside_are_counted_and_none_is_empty() -> None:
    square = np.array([[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]], float)
    blocks = PolygonBlocks([[square], [square - 9], [square + np.array([30, 0])], [square + 19]], [1, 2, 3, 4], 20, 30)
    assert blocks.num_outside == 2
    assert set(np.unique(blocks.read(Box(0, 0, 20, 30)))) == {0, 1, 4}
    assert PolygonBlocks([], [], 20, 3000).is_empty(Box(0, 2000, 20, 1000))


# Counting


@given(st.integers(0, 10**6), st.integers(1, 40))
def test_pairs_of_blocks_add_up_to_the_confusion_matrix(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = LEVELS[rng.integers(0, 4, (50, 31))], rng.integers(0, 3, (50, 31)).astype(np.uint8)
    blocks = [(truth[y : y + rows], found[y : y + rows]) for y in range(0, 50, rows)]
    constant = np.full((5, 5), 2, np.uint8)
    pairs = count_pairs([*blocks, (constant, constant * 0), (truth[:0], found[:0])])
    matrix = confusion_of_pairs(pairs, {0: 0, 1: 1, 2: 2, 255: IGNORE}, {0: 0, 1: 1, 2: 2}, 3)
    expected = confusion(found, truth, 3)
    expected[2, 0] += 25
    assert np.array_equal(matrix, expected)
    assert values_in([pairs])[1] == {0, 1, 2}


def test_what_is_no_mask_is_refused() -> None:
    mask = np.zeros((2, 2), np.uint8)
    for truth, found in ((mask, mask[:1]), (mask.astype(int), mask)):
        with pytest.raises(ValueError, match="truth"):
            count_pairs([(truth, found)])  # type: ignore[list-item]


# Evaluations


def config(*assignments: str) -> EvaluateConfig:
    return build_config(EvaluateConfig, assignments=["bootstrap=20", "compute.device=cpu", *assignments])


def write_pair(root: Path, truth: NDArray[Any], found: NDArray[Any], folder: str = "masks", **options: Any) -> None:
    for name, values in ((folder, truth), ("found", found)):
        (root / name).mkdir(exist_ok=True)
        tifffile.imwrite(root / name / "a.tif", values, **({"tile": (32, 32), "compression": "deflate"} | options))


@pytest.mark.parametrize("options", [{}, {"tile": None, "rowsperstrip": 9}])
def test_large_masks_have_the_numbers_of_small_ones(tmp_path: Path, all_large: None, options: dict[str, Any]) -> None:
    truth, found = LEVELS[field(0)], field(1) % 3
    write_pair(tmp_path, truth, found.astype(np.uint8), **options)
    told: list[tuple[str, int, int]] = []
    result = evaluate(
        config(), prediction=tmp_path / "found", truth=tmp_path / "masks", out=tmp_path / "out",
        on_progress=lambda stage, done, total, _: told.append((stage, done, total)),
    )  # fmt: skip
    assert isinstance(result.report, PixelReport)
    matrix = confusion(found.astype(np.uint8), truth, 3)
    assert [row.tp_px for row in result.report.rows] == np.diag(matrix).tolist()
    assert result.report.rows[0].tn_px == matrix[1:, 1:].sum()
    assert told[-2:] == [("count", 1, 1), ("measure", 1, 1)]
    assert told[:-2] == [("measure a", number, len(told) - 2) for number in range(1, len(told) - 1)]
    assert bool(options) or len(told) > 17


def test_objects_of_large_images_are_those_of_the_whole(
    tmp_path: Path, all_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = np.kron(np.arange(1, 316).reshape(15, 21), np.ones((10, 10), int))[:150, :201].astype(np.uint16) * 3
    truth[::10] = truth[:, ::10] = 0
    found = np.roll(truth, (1, 2), (0, 1)) * (np.random.default_rng(0).random(truth.shape) < 0.97)
    write_pair(tmp_path, truth, found.astype(np.uint16), folder="labels")
    save_png(tmp_path / "images" / "a.png", np.zeros((*truth.shape, 3), np.uint8))
    reports = []
    for largest in (10**9, 0):
        monkeypatch.setattr(evaluate_given_objects, "LARGEST_FIGURE_PX", largest)
        result = evaluate(
            config(), prediction=tmp_path / "found", truth=tmp_path / "labels", out=tmp_path / str(largest)
        )
        assert isinstance(result.report, ObjectReport)
        assert len(result.figures) == bool(largest)
        reports.append(result.report)
    assert reports[0] == reports[1]
    counts = count_objects(match_objects(truth, found), [0.5])[0]
    assert (reports[0].images[0].tp, reports[0].images[0].fp) == tuple(counts[:2])


def test_points_of_large_images_are_drawn_on_a_thumbnail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = draw_field(0, 300, 400)
    write_slide(tmp_path / "data" / "images" / "a.tif", image)
    (tmp_path / "data" / "points.csv").write_text("image,x,y,label\na,100,200,cell\na,300,40,cell\n")
    (tmp_path / "found" / "a").mkdir(parents=True)
    (tmp_path / "found" / "a" / "detections.csv").write_text("x_px,y_px,score,label\n101,200,0.5,cell\n3,3,0.4,cell\n")
    drawn: list[tuple[Any, Any]] = []
    monkeypatch.setattr(
        "segkit.workflows.evaluate_points.draw_points_case", lambda image, path, **marked: drawn.append((image, marked))
    )
    for largest in (10**9, 0):
        monkeypatch.setattr(evaluate_given_points, "LARGEST_WHOLE_PX", largest)
        monkeypatch.setattr(evaluate_given_points, "THUMBNAIL_PX", 200)
        result = evaluate(
            config("match_radius=2px"), prediction=tmp_path / "found", truth=tmp_path / "data", out=tmp_path / "out"
        )
        assert isinstance(result.report, PointReport)
        (row,) = result.report.images
        assert (row.counts.tp, row.counts.fp, row.counts.fn) == (1, 1, 1)
        assert result.report.area_mm2 == pytest.approx(300 * 400 * 0.25e-6)
    (whole, marked), (small, shrunk) = drawn
    assert (whole.shape[:2], small.shape[:2]) == ((300, 400), (150, 200))
    assert np.array_equal(marked["true_positives"], [[200, 101]])
    assert np.array_equal(shrunk["true_positives"], [[100, 50.5]])
    assert np.array_equal(shrunk["false_negatives"], [[20, 150]])


# Memory


SIDE, TILE = 20_000, 1024
MOST_BYTES = 300_000_000


def write_large(path: Path, shift: int, dtype: str) -> None:
    """Write a mask of many equal tiles, most of them of one value; two sorts of tiles are encoded, and no more."""
    path.parent.mkdir(parents=True)
    rows = np.arange(TILE) + shift
    disk = (rows[:, np.newaxis] - 500) ** 2 + (rows - 500) ** 2 < 300**2
    kinds = [imagecodecs.deflate_encode(values.astype(dtype)) for values in (disk, disk & False)]
    across = -(-SIDE // TILE)
    tiles = (kinds[(number % 7) > 0] for number in range(across * across))
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(tiles, shape=(SIDE, SIDE), dtype=dtype, tile=(TILE, TILE), compression="deflate")


def say_growth(prediction: str, truth: str, out: str) -> None:
    before = peak_memory_bytes()
    evaluate(config(), prediction=Path(prediction), truth=Path(truth), out=Path(out))
    sys.stdout.write(f"{peak_memory_bytes() - before}\n")


@pytest.mark.parametrize(("folder", "dtype"), [("masks", "uint8"), ("labels", "uint16")])
def test_memory_is_bounded_by_the_blocks(tmp_path: Path, folder: str, dtype: str) -> None:
    write_large(tmp_path / folder / "a.tif", 0, dtype)
    write_large(tmp_path / "found" / "a.tif", 20, dtype)
    ended = Running(tmp_path, say_growth, tmp_path / "found", tmp_path / folder, tmp_path / "out").wait()
    assert ended.code == 0, ended.err
    assert int(ended.out) < MOST_BYTES
    rows = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    if folder == "masks":
        assert int(last["tp_px"]) + int(last["fp_px"]) + int(last["fn_px"]) + int(last["tn_px"]) == SIDE * SIDE
        assert 0.9 < float(last["dice"]) < 1
    else:
        # One id in the whole image: an object of many pieces.
        assert (last["num_true"], last["num_predicted"], last["tp"]) == ("1", "1", "1")


def test_polygons_on_a_large_slide_take_little_memory(tmp_path: Path) -> None:
    write_large(tmp_path / "found" / "a.tif", 0, "uint8")
    (tmp_path / "truth").mkdir()
    with GeoJSONWriter(tmp_path / "truth" / "a.geojson") as writer:
        angles = np.linspace(0, 2 * np.pi, 60)
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 300 + 500
        across = -(-SIDE // TILE)
        for number in range(0, across * across, 7):
            row, column = divmod(number, across)
            writer.add_polygon([circle + np.array([column, row]) * TILE], label="gland", colour=(0, 0, 0))
    ended = Running(tmp_path, say_growth, tmp_path / "found", tmp_path / "truth", tmp_path / "out").wait()
    assert ended.code == 0, ended.err
    assert int(ended.out) < MOST_BYTES
    last = (tmp_path / "out" / "metrics.csv").read_text().splitlines()[-1].split(",")
    assert last[2] == "gland"
    assert 0.99 < float(last[3]) < 1
