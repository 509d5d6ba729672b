"""The synthetic tissue: the same every time, truth that agrees with itself, and a threshold that does not solve it."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu

from segkit.data.synthetic import generate
from segkit.data.synthetic.noise import NoisePlane, smear_along
from segkit.data.synthetic.nuclei import CLASSES, STROMA, TUMOUR, Chromatin, Nucleus
from segkit.data.synthetic.specimen import FIELD_RECIPES, draw_patient, grow
from segkit.data.synthetic.write import SAMPLE_SEED, make_field, plan_fields
from segkit.errors import UsageError
from segkit.geometry import Box
from segkit.slides import open_slide
from segkit.slides.geojson import read_geojson

MEGABYTE = 1_000_000
FIELD_PX, SLIDE_PX = 192, 640


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    steps: list[tuple[int, int]] = []
    generate(
        folder,
        seed=5,
        fields=3,
        field_px=FIELD_PX,
        slide_px=SLIDE_PX,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(done, 5) for done in range(1, 6)]  # three fields and two bands of the slide
    return folder


def pixels(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


# The folder


@pytest.mark.parametrize("which", ["small", "sample_data"])
def test_every_instance_has_one_class_and_the_mask_is_made_of_instances(
    which: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which)
    names = [row["image"] for row in rows(folder / "splits.csv")]
    assert sorted(names) == sorted(path.stem for path in (folder / "images").iterdir())
    for name in names:
        image = pixels(folder / "images" / f"{name}.jpg")
        mask, labels = (pixels(folder / kind / f"{name}.png") for kind in ("masks", "labels"))
        assert image.shape == (*mask.shape, 3)
        assert mask.shape == labels.shape
        np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
        np.testing.assert_array_equal(mask > 0, labels > 0)
        instances = np.arange(1, labels.max() + 1)
        lowest = ndimage.minimum(mask, labels, instances)
        np.testing.assert_array_equal(lowest, ndimage.maximum(mask, labels, instances))


@pytest.mark.parametrize("which", ["small", "sample_data"])
def test_points_lie_at_tumour_nuclei(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    points = rows(folder / "points.csv")
    assert points
    for row in points:
        mask = pixels(folder / "masks" / f"{row['image']}.png")
        y, x = int(float(row["y"])), int(float(row["x"]))
        # The point of an anaphase or telophase lies between its two plates, at most 10 px from each.
        near = mask[max(0, y - 10) : y + 11, max(0, x - 10) : x + 11]
        assert (near == TUMOUR).any(), row


def test_the_description_names_classes_and_scale(small: Path) -> None:
    description = yaml.safe_load((small / "dataset.yaml").read_text())
    assert description == {"classes": dict(enumerate(CLASSES)), "mpp": 0.5, "annotation": "masks"}


def test_the_slide_is_a_pyramid_with_its_truth(small: Path) -> None:
    with open_slide(small / "slide" / "tissue.tif") as slide:
        assert (slide.height, slide.width, slide.channels) == (SLIDE_PX, SLIDE_PX, 3)
        assert slide.mpp == pytest.approx(0.5, rel=1e-3)
        assert len(slide.levels) > 1
        image = slide.read(Box(0, 0, SLIDE_PX, SLIDE_PX))
    darkness = 255.0 - image.mean(axis=2)
    nuclei = read_geojson(small / "slide" / "tissue.geojson")
    assert {feature.label for feature in nuclei} <= set(CLASSES[1:])
    centres = np.array([feature.polygons[0][0][:-1].mean(axis=0) for feature in nuclei])
    assert (centres >= 0).all()
    assert (centres <= SLIDE_PX).all()
    at_nuclei = darkness[
        centres[:, 1].astype(int).clip(0, SLIDE_PX - 1), centres[:, 0].astype(int).clip(0, SLIDE_PX - 1)
    ]
    assert np.median(at_nuclei) > 2 * np.median(darkness)
    for feature in read_geojson(small / "slide" / "tissue_figures.geojson"):
        assert feature.label in {"mitotic_figure", "look_alike"}
        assert feature.points.shape == (1, 2)


# Determinism


def test_a_field_depends_on_its_seed_and_number_only() -> None:
    plan = plan_fields(3)[1]
    first, again, other = (make_field(seed, plan, FIELD_PX) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.points == again.points
    assert (first.image != other.image).mean() > 0.5


def test_a_block_looks_the_same_whichever_block_it_is_seen_in() -> None:
    rng = np.random.default_rng(0)
    tissue = grow(rng, draw_patient(rng), FIELD_RECIPES[0], 256, 256)
    whole = tissue.concentrations(Box(0, 0, 256, 256))
    part = tissue.concentrations(Box(64, 96, 128, 96))
    for name in ("haematoxylin", "eosin", "blood"):
        difference = np.abs(getattr(part, name) - getattr(whole, name)[64:192, 96:192])
        # Streamlines are followed in block coordinates, rounded to float32.
        assert difference.max() < 0.05
        assert difference.mean() < 1e-3


# Splits


@given(st.integers(3, 300))
def test_splits_share_out_all_fields_and_no_patient_is_in_two(fields: int) -> None:
    plans = plan_fields(fields)
    assert [plan.index for plan in plans] == list(range(fields))
    assert len({plan.name for plan in plans}) == fields
    splits_of = defaultdict(set)
    for plan in plans:
        splits_of[plan.patient].add(plan.split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    counts = [sum(plan.split == split for plan in plans) for split in ("train", "val", "test")]
    assert min(counts) >= 1
    assert counts[0] >= max(counts[1:])


# Single nuclei


@settings(deadline=None)
@given(
    major=st.floats(4, 16),
    ratio=st.floats(1, 3),
    angle=st.floats(0, 6.28),
    ripple=st.floats(0.02, 0.1),
    bend=st.floats(-0.01, 0.01),
    seed=st.integers(0, 2**31),
)
def test_the_outline_encloses_what_the_mask_shows(
    major: float, ratio: float, angle: float, ripple: float, bend: float, seed: int
) -> None:
    nucleus = Nucleus(
        y=30.3,
        x=41.7,
        major=major,
        minor=max(major / ratio, 2.5),
        angle=angle,
        label=STROMA,
        chromatin=Chromatin(density=0.5),
        seed=seed,
        ripple=ripple,
        bend=bend,
    )
    inside = nucleus.depth() >= 0
    assert not inside[[0, -1]].any()
    assert not inside[:, [0, -1]].any()
    x, y = nucleus.outline(64).T
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    assert inside.sum() == pytest.approx(area, rel=0.1, abs=8)  # pixels at the border are in or out
    rows_inside, columns_inside = np.nonzero(inside)
    assert columns_inside.mean() + 0.5 + nucleus.box.x == pytest.approx(x.mean(), abs=1.0)
    assert rows_inside.mean() + 0.5 + nucleus.box.y == pytest.approx(y.mean(), abs=1.0)


def test_fibres_run_along_the_direction_field() -> None:
    noise = NoisePlane(np.random.default_rng(1), [1.5]).read(Box(0, 0, 96, 96), 1.5)
    flat = np.zeros((96, 96), np.float32)
    fibres = smear_along(noise[..., None], flat + 1, flat, 20)[..., 0]  # angle 0: along x
    assert np.abs(np.diff(fibres, axis=1)).mean() < 0.25 * np.abs(np.diff(fibres, axis=0)).mean()


# Bad arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [("seed", -1), ("fields", 2), ("field_px", 64), ("field_px", 10**6), ("slide_px", 100), ("slide_px", 10**6)],
)
def test_an_argument_out_of_range_is_named_with_its_value(tmp_path: Path, argument: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{argument} is {value}"):
        generate(tmp_path / "out", **{argument: value})
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        generate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# The data that ships with the project


def test_the_shipped_data_is_small(sample_data: Path) -> None:
    assert sum(path.stat().st_size for path in sample_data.rglob("*") if path.is_file()) <= 6 * MEGABYTE


def test_the_shipped_data_is_what_the_generator_makes(sample_data: Path) -> None:
    plan = plan_fields(16)[0]
    field = make_field(SAMPLE_SEED, plan, 512)
    # Another processor's rounding may move a border by a pixel; anything else is a change of the generator, after
    # which the shipped data must be made again.
    for kind, made in (("masks", field.mask), ("labels", field.labels)):
        assert (pixels(sample_data / kind / f"{plan.name}.png") == made).mean() > 0.999
    shipped = pixels(sample_data / "images" / f"{plan.name}.jpg")
    assert np.abs(shipped - field.image).mean() < 4
    points = [(float(row["x"]), float(row["y"]), row["label"]) for row in rows(sample_data / "points.csv")
              if row["image"] == plan.name]  # fmt: skip
    assert points == field.points


def test_every_split_of_the_shipped_data_has_every_class_and_every_kind_of_point(sample_data: Path) -> None:
    split_of = {row["image"]: row["split"] for row in rows(sample_data / "splits.csv")}
    assert sorted(split_of.values()) == ["test"] * 3 + ["train"] * 10 + ["val"] * 3
    classes, kinds = defaultdict(set), defaultdict(set)
    for name, split in split_of.items():
        classes[split].update(np.unique(pixels(sample_data / "masks" / f"{name}.png")))
    for row in rows(sample_data / "points.csv"):
        kinds[split_of[row["image"]]].add(row["label"])
    assert all(found == {0, 1, 2, 3} for found in classes.values())
    assert all(found == {"mitotic_figure", "look_alike"} for found in kinds.values())


def test_a_threshold_does_not_solve_the_shipped_data(sample_data: Path) -> None:
    overlap = total = 0
    for row in rows(sample_data / "splits.csv"):
        if row["split"] == "test":
            haematoxylin = rgb2hed(pixels(sample_data / "images" / f"{row['image']}.jpg").astype(np.uint8))[..., 0]
            nuclei = pixels(sample_data / "masks" / f"{row['image']}.png") > 0
            above = haematoxylin > threshold_otsu(haematoxylin)
            overlap, total = overlap + 2 * (above & nuclei).sum(), total + above.sum() + nuclei.sum()
    # Stain says something about nuclei, as in real tissue, but not enough.
    assert 0.5 < overlap / total < 0.78
