"""Where tissue is: nothing stained is ever skipped, blank glass is, and cells are wanted by what they touch."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from segkit.errors import InputError
from segkit.slides import Slide, open_slide
from segkit.slides import tissue as module
from segkit.slides.pyramid import PyramidWriter
from segkit.slides.tissue import Tissue, everywhere, find_tissue, find_tissue_in, tissue_of_file

GLASS = np.array([243.0, 242.0, 244.0])
STROMA = np.array([225.0, 160.0, 200.0])
UM_PER_PX = 12.0


def glass(height: int = 300, width: int = 400, *, noise: float = 0.7, seed: int = 0) -> NDArray[np.float64]:
    """Return blank glass with a scanner's noise, still as float."""
    return GLASS + np.random.default_rng(seed).normal(0, noise, (height, width, 3))


def as_picture(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def stained(height: int, width: int, colour: NDArray[np.float64] = STROMA, texture: float = 6.0) -> NDArray[np.float64]:
    return colour + np.random.default_rng(1).normal(0, texture, (height, width, 3))


def disk(height: int, width: int, y: float, x: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:height, :width]
    return (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 <= radius**2


def save(image: NDArray[np.uint8], path: Path) -> Path:
    Image.fromarray(image.squeeze()).save(path)
    return path


def open_blank(folder: Path, height: int, width: int) -> Slide:
    return open_slide(save(np.full((height, width, 3), 243, np.uint8), folder / "blank.png"))


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Slide]]:
    """Return a folder and an open slide of 300 x 400 px."""
    folder = tmp_path_factory.mktemp("blank")
    with open_blank(folder, 300, 400) as slide:
        yield folder, slide


# Cells


def wanted_slowly(tissue: Tissue, y0: float, x0: float, cell: float, shape: tuple[int, int], margin: float):
    """Ask each pixel of the mask for itself whether it overlaps with a cell."""
    h, w = tissue.mask.shape
    result = np.zeros(shape, bool)
    for row, column in np.ndindex(*shape):
        top, left = y0 + row * cell - margin, x0 + column * cell - margin
        for i, j in np.argwhere(tissue.mask):
            rows = i * tissue.height / h < top + cell + 2 * margin and (i + 1) * tissue.height / h > top
            columns = j * tissue.width / w < left + cell + 2 * margin and (j + 1) * tissue.width / w > left
            result[row, column] |= rows and columns
    return result


# Powers of two, so that the slow way and the fast way compute the same numbers.
@settings(max_examples=50)
@given(
    mask=st.integers(0, 2**16 - 1),
    size=st.sampled_from([(64, 64), (32, 128), (128, 256)]),
    origin=st.tuples(st.sampled_from([0, 0.5, 8, 40]), st.sampled_from([0, 0.25, 16, 33])),
    cell=st.sampled_from([4, 7.5, 16, 64]),
    margin=st.sampled_from([0, 0.5, 3, 20]),
)
def test_a_cell_is_wanted_if_it_touches_tissue(mask, size, origin, cell, margin) -> None:
    bits = np.array([mask >> bit & 1 for bit in range(16)], bool).reshape(4, 4)
    tissue = Tissue(bits, *size, "file")
    shape = (5, 6)
    found = tissue.wanted_cells(y0=origin[0], x0=origin[1], cell=cell, rows=5, columns=6, margin=margin)
    np.testing.assert_array_equal(found, wanted_slowly(tissue, *origin, cell, shape, margin))


@settings(max_examples=30)
@given(
    y=st.floats(0, 39_999),
    x=st.floats(0, 29_999),
    cell=st.floats(200, 3000),
    margin=st.floats(0, 500),
    seed=st.integers(0, 99),
)
def test_no_cell_is_lost_at_any_scale(y, x, cell, margin, seed) -> None:
    """The cell that holds a point of a tissue pixel is wanted, however crooked the numbers."""
    random = np.random.default_rng(seed)
    mask = np.zeros((int(random.integers(1, 2048)), int(random.integers(1, 2048))), bool)
    mask[int(y * mask.shape[0] / 40_000), int(x * mask.shape[1] / 30_000)] = True
    rows, columns = int(40_000 / cell) + 1, int(30_000 / cell) + 1
    tissue = Tissue(mask, 40_000, 30_000, "measured")
    wanted = tissue.wanted_cells(y0=0, x0=0, cell=cell, rows=rows, columns=columns, margin=margin)
    assert wanted[int(y / cell), int(x / cell)]


def test_cells_off_the_slide_hold_no_tissue_but_their_margin_may() -> None:
    tissue = Tissue(np.ones((3, 3), bool), 300, 300, "none")
    grid = {"y0": 250.0, "x0": -200.0, "cell": 100.0, "rows": 2, "columns": 3}
    assert tissue.wanted_cells(**grid, margin=0).tolist() == [[False, False, True], [False, False, False]]
    assert tissue.wanted_cells(**grid, margin=60).tolist() == [[False, True, True], [False, True, True]]


def test_a_large_grid_is_quick_and_right() -> None:
    mask = np.random.default_rng(0).random((2048, 2048)) < 1e-5
    tissue = Tissue(mask, 40_960, 40_960, "measured")
    found = tissue.wanted_cells(y0=0, x0=0, cell=204.8 * 2, rows=100, columns=100, margin=0)
    blocks = np.zeros((100, 100), bool)
    rows, columns = (mask.nonzero()[axis] * 20 // 409.6 for axis in range(2))
    blocks[rows.astype(int), columns.astype(int)] = True
    assert (found | blocks).tolist() == found.tolist()
    assert found.sum() < 2 * blocks.sum()


@pytest.mark.parametrize("wrong", [{"cell": 0}, {"cell": -5}, {"margin": -1}, {"rows": -1}])
def test_grids_that_make_no_sense_are_refused(wrong) -> None:
    grid = {"y0": 0, "x0": 0, "cell": 10, "rows": 2, "columns": 2, "margin": 0} | wrong
    with pytest.raises(ValueError, match="no grid"):
        Tissue(np.ones((1, 1), bool), 10, 10, "none").wanted_cells(**grid)


# Finding


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    drop=st.sampled_from([10.0, 25.0, 80.0]),
    radius=st.sampled_from([3.0, 8.0, 40.0]),
    noise=st.sampled_from([0.0, 0.5, 1.0, 1.5]),
    brightness=st.sampled_from([190.0, 225.0, 243.0, 252.0]),
)
def test_no_stained_region_is_skipped_but_most_glass_is(seed, drop, radius, noise, brightness) -> None:
    """Faint and strong, small and large, on dark and bright, quiet and noisy glass."""
    random = np.random.default_rng(seed)
    y, x = random.uniform(50, 250), random.uniform(50, 350)
    region = disk(300, 400, y, x, radius)
    values = glass(noise=noise, seed=seed) - 243 + brightness
    # A stain takes most from one channel and something from the others.
    values[region] -= drop * random.permutation([1.0, 0.5, 0.3])
    found = find_tissue_in(as_picture(values), UM_PER_PX)
    assert found[region].all()
    near = ndimage.distance_transform_edt(~region) <= 20
    assert found[~near].mean() < 0.05


def test_a_single_cell_is_kept_with_its_surroundings() -> None:
    """A lymphocyte of 8 um covers about a third of a pixel of 12 um."""
    values = glass(noise=0.2)
    values[100, 200] -= [8, 12, 5]
    found = find_tissue_in(as_picture(values), UM_PER_PX)
    grown = 50 / UM_PER_PX
    assert found[disk(300, 400, 100.5, 200.5, grown)].all()
    assert found.sum() < 3 * np.pi * (grown + 1) ** 2


def test_fat_and_its_membranes_are_kept() -> None:
    values = glass(600, 600)
    inside = np.zeros((600, 600), bool)
    inside[100:500, 100:500] = True
    membranes = inside & ((np.arange(600) % 12 == 0)[:, None] | (np.arange(600) % 12 == 0))
    values[membranes] -= [6, 16, 9]
    found = find_tissue_in(as_picture(values), UM_PER_PX)
    assert found[104:492, 104:492].all()
    assert not found[:60].any()


def test_what_is_wide_may_be_paler_than_what_is_small() -> None:
    values = glass()
    values[100:200, 100:300] -= [1, 3.8, 2]
    found = find_tissue_in(as_picture(values), UM_PER_PX)
    assert found[104:196, 104:296].all()
    assert not found[:80].any()


def test_pale_mucin_that_covers_more_than_the_glass_is_no_glass() -> None:
    values = glass()
    values[:, :360] -= [10, 6, 3]  # smooth and faint, 90 % of the slide
    found = find_tissue_in(as_picture(values), UM_PER_PX)
    assert found[:, :360].all()
    assert not found[:, 380:].any()


def test_a_slide_full_of_tissue_is_kept_whole() -> None:
    smooth = ndimage.gaussian_filter(np.random.default_rng(3).normal(0, 1, (300, 400, 1)), (5, 5, 0))
    pale = np.array([238.0, 222.0, 232.0]) + 60 * smooth
    assert find_tissue_in(as_picture(pale), UM_PER_PX).all()
    assert find_tissue_in(as_picture(stained(300, 400)), UM_PER_PX).all()


def test_a_pale_region_among_brighter_gaps_is_no_glass() -> None:
    """The gaps are too small to be flat, so the flat pale region would be the brightest peak."""
    values = stained(300, 400)
    values[:150] = [225, 212, 220]
    gaps = np.zeros((300, 400), bool)
    gaps[150::4], gaps[151::4] = True, True
    values[gaps] = 248
    assert find_tissue_in(as_picture(values), UM_PER_PX).all()


@pytest.mark.parametrize("background", [0, 20, 128])
def test_dark_backgrounds_are_kept_whole(background: int) -> None:
    values = np.full((200, 200, 3), float(background))
    values[50:150, 50:150, 1] += 100
    assert find_tissue_in(as_picture(values), UM_PER_PX).all()


def test_pictures_without_colour_are_kept_whole() -> None:
    values = np.full((200, 200, 3), 240.0)
    values[50:150, 50:150] = 100
    assert find_tissue_in(as_picture(values), UM_PER_PX).all()


@pytest.mark.parametrize("value", [0, 254, 255])
def test_what_was_not_scanned_is_blank_and_not_taken_for_glass(value: int) -> None:
    picture = as_picture(glass(noise=1.0))
    picture[100:200, 100:200] = as_picture(stained(100, 100))
    picture[:, 300:], picture[250:] = value, value
    found = find_tissue_in(picture, UM_PER_PX)
    assert found[100:200, 100:200].all()
    assert not found[:, 310:].any()
    assert found.mean() < 0.2


def test_overexposed_glass_is_glass_and_faint_tissue_on_it_is_kept() -> None:
    """Here white has crooked borders: were it left out as not scanned, the faint tissue would be the brightest peak."""
    picture = np.full((300, 400, 3), 255, np.uint8)
    faint = disk(300, 400, 150, 200, 100)
    picture[faint] = [245, 240, 248]
    picture[disk(300, 400, 150, 200, 40)] = STROMA
    found = find_tissue_in(picture, UM_PER_PX)
    assert found[faint].all()
    assert not found[:30].any()


def test_small_holes_are_filled_and_large_ones_are_not() -> None:
    values = stained(400, 400)
    for y, radius in ((100, 20), (280, 90)):  # growth and smoothing take some 10 px: 0.05 mm2 and 2.9 mm2 are left
        hole = disk(400, 400, y, 200, radius)
        values[hole] = glass(400, 400)[hole]
    values[:28, :28] = glass(28, 28)  # small, but no hole: how far the glass goes on is not known
    found = find_tissue_in(as_picture(values), UM_PER_PX)
    assert found[disk(400, 400, 100, 200, 20)].all()
    assert not found[disk(400, 400, 280, 200, 75)].any()
    assert not found[:8, :8].any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (17, 33)])
def test_pictures_of_any_size_can_be_looked_at(shape: tuple[int, int]) -> None:
    for values in (glass(*shape), stained(*shape)):
        assert find_tissue_in(as_picture(values), UM_PER_PX).shape == shape


def test_a_slide_is_looked_at_whole_with_its_pixel_size(tmp_path: Path) -> None:
    image = as_picture(glass(1500, 1200))
    image[300:1100, 200:800] = as_picture(stained(800, 600))
    with PyramidWriter(tmp_path / "a.tif", 1500, 1200, tile_px=256, reduce="mean", channels=3, mpp=1.0) as writer:
        writer.write_rows(image)
    with open_slide(tmp_path / "a.tif") as slide:
        found = find_tissue(slide)
    assert (found.height, found.width, found.source) == (1500, 1200, "measured")
    assert found.mask.shape == (750, 600)  # 2 um per pixel
    assert found.mask[150:550, 100:400].all()
    # The tissue, 800 x 600 um, and 50 um around it, a little more for the smoothing.
    expected = 900 * 700 / (1500 * 1200)
    assert expected < found.share < 1.1 * expected


def test_grey_slides_are_kept_whole(tmp_path: Path) -> None:
    image = np.full((100, 150), 240, np.uint8)
    image[20:40, 20:40] = 50
    with open_slide(save(image, tmp_path / "grey.png")) as slide:
        assert find_tissue(slide).share == 1
        assert find_tissue(slide).source == "measured"


def test_everywhere_is_everywhere(tmp_path: Path) -> None:
    with open_blank(tmp_path, 30, 50) as slide:
        found = everywhere(slide)
    assert (found.share, found.source, found.height, found.width) == (1, "none", 30, 50)
    assert found.wanted_cells(y0=0, x0=0, cell=10, rows=3, columns=5, margin=0).all()


@pytest.mark.real_data
def test_real_tissue_is_found_and_real_glass_skipped(real_data: Path) -> None:
    with open_slide(real_data / "wsi" / "CMU-1-Small-Region.svs") as slide:
        found = find_tissue(slide)
        pixels = slide.read(module.Box(0, 0, slide.height, slide.width))
    height, width = found.mask.shape
    rows, columns = np.arange(slide.height) * height // slide.height, np.arange(slide.width) * width // slide.width
    in_mask = found.mask[np.ix_(rows, columns)]
    plainly_stained = pixels.min(axis=2) < 180
    assert in_mask[plainly_stained].all()
    assert found.share < 0.8


@pytest.mark.real_data
@pytest.mark.parametrize(
    "folder", ["glioma_nuclei/images", "crc_nuclei/images", "hpf_fields", "icpr2012_patches/images"]
)
def test_real_fields_of_tissue_are_kept_whole(real_data: Path, folder: str) -> None:
    for path in sorted((real_data / folder).iterdir())[:12]:
        with open_slide(path) as slide:
            assert find_tissue(slide).share == 1, path.name


@pytest.mark.real_data
def test_real_fluorescence_is_kept_whole(real_data: Path) -> None:
    with open_slide(real_data / "wsi" / "hamamatsu_test3-TRITC.ndpi") as slide:
        assert find_tissue(slide).share == 1


# Files


@pytest.mark.parametrize("size", [(300, 400), (30, 40), (75, 101), (3, 4), (600, 800)])
def test_a_mask_of_any_size_says_where_tissue_is(tmp_path: Path, size: tuple[int, int]) -> None:
    mask = np.zeros(size, np.uint8)
    mask[-1, 0] = 1
    with open_blank(tmp_path, 300, 400) as slide:
        found = tissue_of_file(save(mask, tmp_path / "mask.png"), slide)
    assert (found.height, found.width, found.source) == (300, 400, "file")
    np.testing.assert_array_equal(found.mask, mask.astype(bool))


def test_single_pixels_of_a_large_mask_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ_PX", 1000)
    height, width = 2500, 3001
    mask = np.zeros((height, width), np.uint8)
    positions = np.random.default_rng(0).integers(0, (height, width), (40, 2))
    mask[tuple(positions.T)] = 1
    mask[0, 0] = mask[-1, -1] = mask[999, 1000] = 1
    with PyramidWriter(tmp_path / "mask.tif", height, width, tile_px=256, reduce="nearest") as writer:
        writer.write_rows(mask)
    with open_blank(tmp_path, 500, 600) as slide:
        found = tissue_of_file(tmp_path / "mask.tif", slide).mask
    h, w = found.shape
    assert max(h, w) == 2048
    expected = np.zeros((h, w), bool)
    for y, x in np.argwhere(mask):
        top, bottom = y * h // height, -(-(y + 1) * h // height)
        left, right = x * w // width, -(-(x + 1) * w // width)
        assert found[top:bottom, left:right].all()
        expected[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
    assert not (found & ~expected).any()


def test_the_colours_of_a_mask_count_alike(tmp_path: Path) -> None:
    mask = np.zeros((30, 40, 3), np.uint8)
    mask[5, 6, 2], mask[7, 8, 0] = 1, 255
    with open_blank(tmp_path, 300, 400) as slide:
        found = tissue_of_file(save(mask, tmp_path / "mask.png"), slide).mask
    assert np.argwhere(found).tolist() == [[5, 6], [7, 8]]


@pytest.mark.parametrize("size", [(400, 300), (300, 420), (320, 400), (1, 400)])
def test_masks_of_other_proportions_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save(np.ones(size, np.uint8), tmp_path / "mask.png")
    with (
        open_blank(tmp_path, 300, 400) as slide,
        pytest.raises(InputError, match=r"mask\.png.* \d+ x \d+ px has other proportions than the slide blank\.png"),
    ):
        tissue_of_file(path, slide)


def test_masks_without_tissue_and_files_that_are_no_images_are_refused(tmp_path: Path) -> None:
    empty = save(np.zeros((30, 40), np.uint8), tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("nothing")
    with open_blank(tmp_path, 300, 400) as slide:
        with pytest.raises(InputError, match=r"empty\.png: holds no tissue"):
            tissue_of_file(empty, slide)
        with pytest.raises(InputError, match=r"text\.png"):
            tissue_of_file(tmp_path / "text.png", slide)


def geojson(path: Path, *polygons: list[list[list[float]]], kind: str = "Polygon") -> Path:
    features = [
        {"type": "Feature", "geometry": {"type": kind, "coordinates": rings}, "properties": {}} for rings in polygons
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def ring(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def test_polygons_say_where_tissue_is_and_holes_where_not(tmp_path: Path) -> None:
    path = geojson(tmp_path / "a.geojson", [ring(50, 100, 150, 200), ring(80, 130, 120, 170)], [ring(300, 10, 320, 20)])
    with open_blank(tmp_path, 300, 400) as slide:
        found = tissue_of_file(path, slide)
    assert found.source == "file"
    exact = np.zeros((300, 400), bool)
    exact[100:200, 50:150], exact[130:170, 80:120], exact[10:20, 300:320] = True, False, True
    assert found.mask[exact].all()
    assert (ndimage.distance_transform_cdt(~exact)[found.mask] <= 2).all()


@settings(max_examples=40)
@given(corners=st.lists(st.tuples(st.floats(-300, 700), st.floats(-300, 600)), min_size=3, max_size=5))
def test_every_pixel_that_an_outline_runs_through_is_tissue(
    blank: tuple[Path, Slide], corners: list[tuple[float, float]]
) -> None:
    """Slivers narrower than a pixel have no pixel's centre inside."""
    folder, slide = blank
    points = np.array([*corners, corners[0]])
    steps = np.linspace(0, 1, 2000)[:, None]
    line = np.concatenate([a + (b - a) * steps for a, b in itertools.pairwise(points)])
    inside = line[((line >= 0) & (line < [400, 300])).all(axis=1)]
    path = geojson(folder / "a.json", [points.tolist()])
    if not len(inside):
        return
    found = tissue_of_file(path, slide).mask
    x, y = inside.astype(int).T
    assert found[y, x].all()


def test_far_corners_do_not_upset_the_polygons(tmp_path: Path) -> None:
    path = geojson(tmp_path / "a.geojson", [ring(-1e15, -1e15, 200, 1e15)])
    with open_blank(tmp_path, 300, 400) as slide:
        found = tissue_of_file(path, slide).mask
    assert found[:, :200].all()
    assert not found[:, 203:].any()


def test_polygons_are_conservative_on_a_large_slide(tmp_path: Path) -> None:
    image = np.full((4500, 3000, 3), 243, np.uint8)
    with PyramidWriter(tmp_path / "a.tif", 4500, 3000, tile_px=512, reduce="mean", channels=3) as writer:
        writer.write_rows(image)
    with open_slide(tmp_path / "a.tif") as slide:
        found = tissue_of_file(geojson(tmp_path / "a.geojson", [ring(2000.2, 1000.1, 2000.4, 1000.3)]), slide)
    assert max(found.mask.shape) == 2048
    wanted = found.wanted_cells(y0=0, x0=0, cell=100, rows=45, columns=30, margin=0)
    assert wanted[10, 20]
    assert wanted.sum() <= 4


def test_geojson_without_a_polygon_on_the_slide_is_refused(tmp_path: Path) -> None:
    with open_blank(tmp_path, 300, 400) as slide:
        with pytest.raises(InputError, match=r"points\.geojson: holds no polygon"):
            tissue_of_file(geojson(tmp_path / "points.geojson", [5, 5], kind="Point"), slide)
        with pytest.raises(InputError, match=r"x 500 to 600, y 10 to 20\) lie outside of the slide blank\.png"):
            tissue_of_file(geojson(tmp_path / "off.geojson", [ring(500, 10, 600, 20)]), slide)
        with pytest.raises(InputError, match=r"missing\.geojson"):
            tissue_of_file(tmp_path / "missing.geojson", slide)
