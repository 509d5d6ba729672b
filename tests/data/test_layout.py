"""Data folders: what is understood, and that everything wrong is listed at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from data_pictures import save

from segkit.config import DataConfig
from segkit.data.layout import MAX_SHOWN, Dataset, load_dataset, read_image, read_mask
from segkit.errors import InputError
from segkit.masks import IGNORE

MakeData = Callable[..., Path]
BINARY = np.zeros((8, 10), np.uint8)
BINARY[2:5, 3:6] = 255
IDS = np.arange(80, dtype=np.uint8).reshape(8, 10) % 3


def load(root: Path, **settings: Any) -> Dataset:
    return load_dataset(DataConfig(dir=root, **settings))


def problems_of(root: Path, **settings: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(root, **settings)
    assert caught.value.exit_code == 3
    return caught.value.problems


# What is understood


@pytest.mark.parametrize("high", [1, 255])
def test_binary_masks_are_background_and_foreground(make_data: MakeData, high: int) -> None:
    dataset = load(make_data({"a": BINARY // 255 * high, "b": BINARY // 255 * high}))
    assert dataset.annotation == "masks"
    assert dataset.classes == ("background", "foreground")
    assert [item.name for item in dataset.items] == ["a", "b"]
    assert all(item.split is None and item.group is None for item in dataset.items)
    assert np.array_equal(read_mask(dataset.items[0], dataset), BINARY // 255)


def test_class_ids_are_counted_and_named(make_data: MakeData) -> None:
    dataset = load(make_data({"a": np.minimum(IDS, 1), "b": IDS}))
    assert dataset.classes == ("background", "class_1", "class_2")
    assert np.array_equal(read_mask(dataset.items[1], dataset), IDS)


def test_configuration_wins_over_the_description_which_wins_over_the_content(make_data: MakeData) -> None:
    root = make_data({"a": IDS}, yaml="classes: [stroma, gland, nucleus]\nmpp: 0.5\n")
    assert load(root).classes == ("stroma", "gland", "nucleus")
    assert load(root).mpp == 0.5
    chosen = load(root, classes=["a", "b", "c"], mpp=0.25)
    assert (chosen.classes, chosen.mpp) == (("a", "b", "c"), 0.25)


def test_description_may_name_values_and_ignore_one(make_data: MakeData) -> None:
    mask = np.array([[0, 100, 200, 255]], np.uint8)
    root = make_data({"a": mask}, yaml="classes: {100: gland, 200: nucleus}\nignore: 255\n")
    dataset = load(root)
    assert dataset.classes == ("background", "gland", "nucleus")
    assert read_mask(dataset.items[0], dataset).tolist() == [[0, 1, 2, IGNORE]]


def test_two_names_fit_masks_of_0_and_255(make_data: MakeData) -> None:
    dataset = load(make_data({"a": BINARY}), classes=["membrane", "cell"])
    assert dataset.classes == ("membrane", "cell")
    assert read_mask(dataset.items[0], dataset).max() == 1


def test_instance_ids_become_one_class(make_data: MakeData) -> None:
    ids = np.array([[0, 1, 300], [65535, 0, 2]], np.uint16)
    dataset = load(make_data({"a": ids}, kind="labels"), ignore=300)
    assert dataset.classes == ("background", "foreground")
    assert read_mask(dataset.items[0], dataset).tolist() == [[0, 1, IGNORE], [1, 0, 1]]


def write_polygons(path: Path, **boxes: tuple[float, float, float, float]) -> None:
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": label}} if label != "none" else {},
            "geometry": {"type": "Polygon", "coordinates": [[[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]]},
        }
        for label, (x, y, w, h) in boxes.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def test_polygons_are_drawn_by_their_classification(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", np.zeros((4, 6, 3), np.uint8))
    write_polygons(tmp_path / "geojson/a.geojson", Tumour=(1, 1, 3, 2), Gland=(3, 1, 3, 2))
    dataset = load(tmp_path)
    assert dataset.classes == ("background", "Gland", "Tumour")
    assert read_mask(dataset.items[0], dataset).tolist() == [[0] * 6, [0, 2, 2, 1, 1, 1], [0, 2, 2, 1, 1, 1], [0] * 6]
    given = load(tmp_path, classes=["rest", "Tumour", "Gland"])
    assert read_mask(given.items[0], given)[1].tolist() == [0, 1, 1, 2, 2, 2]


def test_polygons_without_a_classification_are_foreground(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", np.zeros((4, 6, 3), np.uint8))
    write_polygons(tmp_path / "geojson/a.geojson", none=(0, 0, 2, 2))
    dataset = load(tmp_path)
    assert dataset.classes == ("background", "foreground")
    assert read_mask(dataset.items[0], dataset).sum() == 4


def test_the_annotation_can_be_chosen_where_there_are_several(make_data: MakeData) -> None:
    root = make_data({"a": BINARY})
    make_data({"a": IDS}, kind="labels")
    assert load(root).annotation == "masks"
    assert load(root, annotation="labels").annotation == "labels"
    (root / "dataset.yaml").write_text("annotation: labels")
    assert load(root).annotation == "labels"


def test_splits_name_images_by_stem_or_file_name_and_may_have_other_columns(make_data: MakeData) -> None:
    rows = "image,split,group,stain\na,train,p1,he\nb.png,val,p2,\nc,test,,x\n"
    dataset = load(make_data({"a": BINARY, "b": BINARY, "c": BINARY}, splits=rows))
    assert [(item.split, item.group) for item in dataset.items] == [("train", "p1"), ("val", "p2"), ("test", None)]
    assert [item.name for item in dataset.of_split("val")] == ["b"]


def test_split_folders_are_understood(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        save(tmp_path / split / "images" / f"{name}.png", np.zeros((8, 10), np.uint8))
        save(tmp_path / split / "masks" / f"{name}.png", BINARY)
    dataset = load(tmp_path)
    assert [(item.name, item.split) for item in dataset.items] == [("a", "train"), ("b", "val")]


def test_mpp_comes_from_the_files_where_they_agree(tmp_path: Path) -> None:
    for name, um in (("a", 0.5), ("b", 0.501)):
        path = tmp_path / "images" / f"{name}.tif"
        path.parent.mkdir(exist_ok=True)
        pixels_per_cm = 10_000 / um
        resolution = {"resolution": (pixels_per_cm, pixels_per_cm), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, np.zeros((8, 10), np.uint8), **resolution)
        save(tmp_path / "masks" / f"{name}.png", BINARY)
    assert load(tmp_path).mpp == pytest.approx(0.5)


def test_ome_names_pair_with_plain_ones(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.ome.tif", np.zeros((8, 10), np.uint8), metadata={"axes": "YX"})
    save(tmp_path / "masks/a.png", BINARY)
    assert [item.name for item in load(tmp_path).items] == ["a"]


def test_files_of_other_kinds_are_left_out_and_named(make_data: MakeData) -> None:
    root = make_data({"a": BINARY})
    (root / "images" / "Thumbs.db").write_bytes(b"x")
    (root / "images" / ".hidden.png").write_bytes(b"x")
    dataset = load(root)
    assert len(dataset.items) == 1
    assert [note for note in dataset.notes if "Thumbs.db" in note]
    assert not [note for note in dataset.notes if ".hidden" in note]


def test_grey_images_can_be_read_as_colour(tmp_path: Path) -> None:
    grey = np.arange(80, dtype=np.uint8).reshape(8, 10)
    save(tmp_path / "images/a.png", grey)
    save(tmp_path / "masks/a.png", BINARY)
    item = load(tmp_path).items[0]
    assert np.array_equal(read_image(item), grey[..., None])
    assert np.array_equal(read_image(item, 3), np.stack([grey] * 3, axis=-1))


def test_colour_images_are_not_read_as_grey(make_data: MakeData) -> None:
    with pytest.raises(InputError, match="3 channels, and 1"):
        read_image(load(make_data({"a": BINARY})).items[0], 1)


# What is wrong with a folder


def test_everything_wrong_is_listed_at_once_and_sorted(make_data: MakeData) -> None:
    rows = "image,split,group\na,train,p1\nb,val,p1\nz,train,\nc,dev,\na,val,\n"
    root = make_data(dict.fromkeys("abcd", BINARY), splits=rows, yaml="clases: [x, y]\n")
    save(root / "images/e.png", BINARY)
    save(root / "images/a.jpg", BINARY)
    save(root / "masks/f.png", BINARY)
    problems = problems_of(root)
    expected = [
        "dataset.yaml: clases",
        "did you mean `classes`",
        "images/e.png: has no annotation masks/e.png",
        "images/a.png: has the same name as",
        "masks/f.png: has no image",
        "line 4: there is no image 'z'",
        "line 5: the split of c is 'dev'; use train, val or test",
        "a is in train and in val (line 2 and line 6)",
        "has no row for d.png",
        "has no row for e.png",
        "group p1 is in train and in val",
    ]
    for text in expected:
        assert [problem for problem in problems if text in problem], (text, problems)
    assert len(problems) == len(expected) - 1  # the first two are one problem
    assert problems == sorted(problems)


def test_many_problems_are_counted(make_data: MakeData) -> None:
    root = make_data({"a": BINARY})
    for number in range(MAX_SHOWN + 7):
        save(root / "images" / f"extra{number}.png", BINARY)
    problems = problems_of(root)
    assert len(problems) == MAX_SHOWN + 1
    assert problems[-1].startswith("and 7 more")


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is no folder" in problems_of(tmp_path / "nothing")[0]
    assert "is no folder" in problems_of(tmp_path / "file")[0]


def test_an_empty_folder_says_what_it_needs(tmp_path: Path) -> None:
    problems = problems_of(tmp_path)
    assert any("has no folder images/" in problem for problem in problems)
    assert any("has no annotations" in problem for problem in problems)


def test_an_empty_images_folder_names_what_it_holds_instead(make_data: MakeData) -> None:
    root = make_data({"a": BINARY})
    (root / "images/a.png").rename(root / "images/a.bmp")
    assert any("holds no images (only .bmp" in problem for problem in problems_of(root))


def test_a_missing_annotation_folder_is_one_problem(make_data: MakeData) -> None:
    root = make_data({"a": BINARY, "b": BINARY})
    assert [text for text in problems_of(root, annotation="labels") if "labels: is missing" in text]
    assert len(problems_of(root, annotation="labels")) == 1


def test_both_layouts_at_once_are_refused(make_data: MakeData) -> None:
    root = make_data({"a": BINARY})
    save(root / "train/images/b.png", BINARY)
    assert any("two layouts" in problem for problem in problems_of(root))


def test_split_folders_and_a_table_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "train/images/a.png", BINARY)
    save(tmp_path / "train/masks/a.png", BINARY)
    (tmp_path / "splits.csv").write_text("image,split\na,train\n")
    assert any("Keep one" in problem for problem in problems_of(tmp_path))


def test_a_split_table_without_its_columns_is_refused(make_data: MakeData) -> None:
    problems = problems_of(make_data({"a": BINARY}, splits="image;split\na;train\n"))
    assert any("needs the columns image and split, and has: image;split" in problem for problem in problems)


def test_an_image_listed_twice_is_a_problem(make_data: MakeData) -> None:
    problems = problems_of(make_data({"a": BINARY}, splits="image,split\na,train\na.png,train\n"))
    assert any("a is listed twice (line 2 and line 3)" in problem for problem in problems)


@pytest.mark.parametrize(
    ("mask", "yaml", "message"),
    [
        (np.zeros((8, 10), np.uint8), None, "all pixels of all masks are background"),
        (np.arange(80, dtype=np.uint8).reshape(8, 10), None, "look like instance ids. Rename masks/ to labels/"),
        (np.array([[0, 1, 255]], np.uint8), None, "hold the values 0, 1, 255, not 0, 1, 2"),
        (np.array([[0, 2, 3]], np.uint8), None, "hold the values 0, 2, 3, not 0, 1, 2"),
        (BINARY, "classes: [one]", "from 2 to"),
        (BINARY, "classes: [cell, cell]", "its own name"),
        (IDS, "classes: {1: a, 2: b}\nignore: 2", "ignore: 2 is the value of class b"),
    ],
)
def test_classes_that_cannot_be_found_are_a_problem(
    make_data: MakeData, mask: Any, yaml: str | None, message: str
) -> None:
    assert any(message in problem for problem in problems_of(make_data({"a": mask}, yaml=yaml)))


def test_labels_have_two_classes(make_data: MakeData) -> None:
    root = make_data({"a": IDS}, kind="labels", yaml="classes: [a, b, c]")
    assert any("Name two" in problem for problem in problems_of(root))


def test_classifications_that_are_no_class_are_a_problem(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", BINARY)
    write_polygons(tmp_path / "geojson/a.geojson", Tumour=(1, 1, 3, 2))
    problems = problems_of(tmp_path, classes=["background", "tumor"])
    assert any("holds the classification Tumour" in problem for problem in problems)


def test_damaged_masks_are_listed_with_the_other_problems(make_data: MakeData) -> None:
    root = make_data({"a": BINARY, "b": BINARY, "c": BINARY})
    (root / "masks/b.png").write_bytes(b"no picture")
    save(root / "masks/c.jpg", BINARY)
    (root / "masks/c.png").unlink()
    problems = problems_of(root)
    assert any("masks/b.png" in problem and "cannot be decoded" in problem for problem in problems)
    assert any("masks/c.jpg" in problem and "lossy" in problem for problem in problems)
    assert len(problems) == 2


def test_scales_that_differ_are_a_problem(tmp_path: Path) -> None:
    for name, um in (("a", 0.5), ("b", 0.25)):
        (tmp_path / "images").mkdir(exist_ok=True)
        resolution = {"resolution": (10_000 / um, 10_000 / um), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", np.zeros((8, 10), np.uint8), **resolution)
        save(tmp_path / "masks" / f"{name}.png", BINARY)
    assert any("Bring the images to one scale" in problem for problem in problems_of(tmp_path))
    assert load(tmp_path, mpp=0.5).mpp == 0.5


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((8, 11), np.uint8), "is 11 x 8 pixels, and its image a.png is 10 x 8"),
        (np.full((8, 10), 7, np.uint8), "holds the values 7, which are no classes"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_when_it_is_read(make_data: MakeData, mask: Any, message: str) -> None:
    root = make_data({"a": BINARY, "b": BINARY})
    dataset = load(root)
    save(root / "masks/a.png", mask)
    with pytest.raises(InputError, match=message):
        read_mask(dataset.items[0], dataset)


# Real data


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "kind", "num_images", "share"),
    [("isbi2012_em", "masks", 24, 0.775), ("glioma_nuclei", "labels", 58, 0.248), ("dsb2018", "labels", 351, None)],
)
def test_real_folders_load(real_data: Path, name: str, kind: str, num_images: int, share: float | None) -> None:
    dataset = load(real_data / name)
    assert (dataset.annotation, dataset.classes, len(dataset.items)) == (kind, ("background", "foreground"), num_images)
    assert all(dataset.of_split(split) for split in ("train", "val"))
    if share is not None:
        masks = [read_mask(item, dataset) for item in dataset.items[::4]]
        assert np.mean([mask.mean() for mask in masks]) == pytest.approx(share, abs=0.05)


@pytest.mark.real_data
def test_polygons_of_real_nuclei_cover_the_labels(real_data: Path, tmp_path: Path) -> None:
    problems = problems_of(real_data / "glioma_nuclei", annotation="geojson")
    assert any("GBM40_02.png: has no annotation geojson/GBM40_02.geojson" in problem for problem in problems)
    for path in sorted((real_data / "glioma_nuclei/geojson").iterdir())[:4]:
        for kind, name in (("images", f"{path.stem}.png"), ("labels", f"{path.stem}.tif"), ("geojson", path.name)):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / name).symlink_to(real_data / "glioma_nuclei" / kind / name)
    polygons, labels = load(tmp_path, annotation="geojson"), load(tmp_path, annotation="labels")
    assert polygons.classes == ("background", "Nucleus")
    for drawn, truth in zip(polygons.items, labels.items, strict=True):
        a, b = read_mask(drawn, polygons) == 1, read_mask(truth, labels) == 1
        # Not 1: these polygons take pixel centres for whole numbers, half a pixel off QuPath's convention.
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.94
