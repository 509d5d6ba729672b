"""Points: every kind of file, their classes, and that everything wrong with them is listed."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_pictures import save
from hypothesis import given
from hypothesis import strategies as st

from segkit.config import DataConfig
from segkit.data import point_files
from segkit.data.boxes import read_boxes
from segkit.data.classes import HARD_NEGATIVES, point_classes
from segkit.data.layout import Dataset, load_dataset, read_mask
from segkit.data.point_files import MAX_PROBLEMS, RawPoints, read_features, read_table
from segkit.data.points import read_points, repeated_points
from segkit.errors import InputError

MakePoints = Callable[..., Path]
HEIGHT, WIDTH = 60, 50


@pytest.fixture
def make_points(tmp_path: Path) -> MakePoints:
    """Return a function that makes a data folder: images of `HEIGHT` x `WIDTH` by name, text files by path."""

    def make(files: Mapping[str, str | bytes], images: Sequence[str] = ("a", "b"), under: str = "") -> Path:
        root = tmp_path / "data"
        for number, name in enumerate(images):
            rng = np.random.default_rng(number)
            save(root / under / "images" / f"{name}.png", rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        for name, content in files.items():
            path = root / under / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return make


def load(root: Path, **settings: Any) -> Dataset:
    return load_dataset(DataConfig(dir=root, **settings))


def problems_of(root: Path, **settings: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(root, **settings)
    assert caught.value.exit_code == 3
    return caught.value.problems


def points_of(dataset: Dataset) -> dict[str, list[tuple[float, float, int]]]:
    """Return y, x and class of all points by image."""
    found = {item.name: read_points(item, dataset, HEIGHT, WIDTH) for item in dataset.items}
    return {
        name: [(y, x, index) for (y, x), index in zip(points.positions.tolist(), points.classes.tolist(), strict=True)]
        for name, points in found.items()
    }


def feature(kind: str, coordinates: Any, label: str | None = None) -> dict[str, Any]:
    properties = {"classification": {"name": label}} if label else {}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def features(*items: dict[str, Any]) -> str:
    return json.dumps({"type": "FeatureCollection", "features": items})


POLYGON = feature("Polygon", [[[0, 0], [5, 0], [5, 5], [0, 0]]], "Tumour")


def boxes_json(boxes: Sequence[Any], **others: Any) -> str:
    """Return JSON with boxes, in image a and of category 1 and 2 in turn."""
    content = {
        "images": [
            {"id": 1, "file_name": "a.tiff", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": r"images\b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 1, "name": "mitotic figure"}, {"id": 2, "name": "hard negative"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1 + number % 2, "bbox": box}
            for number, box in enumerate(boxes)
        ],
    }
    return json.dumps({**content, **others})


# Tables


def test_a_table_gives_every_image_its_points(make_points: MakePoints) -> None:
    rows = "image,x,y,label\na,1,2,cell\nb.png,3.5,4,look-alike\na,49.9,59.9,cell\n"
    dataset = load(make_points({"points.csv": rows}, "abc"))
    assert (dataset.annotation, dataset.classes) == ("points", ("background", "cell"))
    assert dataset.hard_negatives == ("look-alike",)
    assert points_of(dataset) == {"a": [(2, 1, 1), (59.9, 49.9, 1)], "b": [(4, 3.5, 0)], "c": []}
    assert not dataset.notes
    assert {point.positions.dtype for point in dataset.points.values()} == {np.dtype(np.float64)}
    assert {point.classes.dtype for point in dataset.points.values()} == {np.dtype(np.int64)}
    assert {item.annotation for item in dataset.items} == {dataset.root / "points.csv"}


@pytest.mark.parametrize(
    "content",
    [
        "image,x,y\na,1,2\n",
        "image,x_px,y_px,x_um,y_um,score\na,1,2,9,9,0.5\n",
        "y,z,Image, X \n2,,a,1\n",
        b"\xef\xbb\xbfimage,x,y\r\n\r\na,1,2\r\n,,\r\n",
        '"image","x","y"\n"a"," 1 ",2.0\n',
        "image,x,y,label\na,1,2,\n",
        "image,x,y,label\na,1,2\n",
        "image,x,y\na,1,2,,,\n",
    ],
)
def test_tables_come_in_many_forms(make_points: MakePoints, content: str | bytes) -> None:
    dataset = load(make_points({"points.csv": content}))
    assert dataset.classes == ("background", "point")
    assert points_of(dataset) == {"a": [(2, 1, 1)], "b": []}


@given(
    rows=st.lists(
        st.tuples(
            st.floats(0, 1e6, allow_nan=False),
            st.floats(-1e6, 1e6, allow_nan=False),
            st.text(min_size=1).filter(lambda text: text == text.strip() and "\0" not in text),
        )
    )
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float, str]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([("label", "x", "y"), *((label, repr(x), repr(y)) for x, y, label in rows)])
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_bytes(text.getvalue().encode())
    raw = read_table(path, has_images=False)
    assert raw.positions.tolist() == [[y, x] for x, y, _ in rows]
    assert raw.labels == [label for _, _, label in rows]
    assert not raw.problems


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,x,2", "line 2: x is 'x', which is no number."),
        ("a,,2", "line 2: has no x."),
        ("a,1", "line 2: has no y."),
        ("a,1,nan", "line 2: y is 'nan', which is no position."),
        ("a,1e999,2", "line 2: x is '1e999', which is no position."),
        (",1,2", "line 2: has no image."),
        ('a,"1,5",2', "line 2: x is '1,5', which is no number. Use a point, and no comma, for decimals."),
        ("a,1,5,2,5", "line 2: has 5 cells, and the header has 3. Use a point, and no comma, for decimals."),
        ("z,1,2", "there is no image 'z' (line 2). Correct the names, or add the images."),
    ],
)
def test_bad_rows_are_named_by_line(make_points: MakePoints, row: str, message: str) -> None:
    root = make_points({"points.csv": f"image,x,y\n{row}\na,1,2\n"})
    assert problems_of(root) == [f"{root / 'points.csv'}: {message}"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no points, and its first line is empty. Write the names of the columns there: image, x, y."),
        ("image,x,y,label\n", "holds no points"),
        ("image,label\na,cell\n", "needs the columns image, x and y in its first line, and has: image, label."),
        ("a,1,2\n", "needs the columns image, x and y in its first line, and has: a, 1, 2."),
        ("image;x;y\na;1;2\n", "seem to be separated by semicolons: save it with commas"),
        ("image\tx\ty\na\t1\t2\n", "seem to be separated by tabs: save it with commas"),
        ('image,x,y\na,"1,2\nb,1,2\n', "is no valid CSV"),
        ("image,x,y,label\na,1,2,Tumör\n".encode("latin-1"), "is no text in UTF-8"),
        ("image,x,y\na,1,2\n".encode("utf-16"), "is no text in UTF-8"),
    ],
)
def test_tables_that_cannot_be_used_are_one_problem(
    make_points: MakePoints, content: str | bytes, message: str
) -> None:
    (problem,) = problems_of(make_points({"points.csv": content}))
    assert "points.csv: " in problem
    assert message in problem


def test_many_bad_rows_and_many_unknown_images_are_counted(make_points: MakePoints) -> None:
    bad = "".join(f"a,x,{number}\n" for number in range(MAX_PROBLEMS + 5))
    unknown = "".join(f"z{number},1,1\n" for number in range(9))
    problems = problems_of(make_points({"points.csv": f"image,x,y\na,1,2\n{bad}{unknown}"}))
    assert len(problems) == MAX_PROBLEMS + 2
    assert any(f"lines with something wrong: {MAX_PROBLEMS + 5}, of which the first" in text for text in problems)
    assert any("'z0' (line 18), 'z1' (line 19)" in text and "and 4 more" in text for text in problems)


def test_large_files_are_refused(make_points: MakePoints, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_points({"points.csv": "image,x,y\na,1,2\n", "points.json": boxes_json([[1, 1, 1, 1]])})
    (root / "geojson").mkdir()
    (root / "geojson/a.geojson").write_text(features(feature("Point", [1, 1])))
    monkeypatch.setattr(point_files, "MAX_FILE_BYTES", 10)
    readers: list[Callable[[], RawPoints]] = [
        lambda: read_table(root / "points.csv", has_images=True),
        lambda: read_boxes(root / "points.json", None),
        lambda: read_features(root / "geojson/a.geojson"),
    ]
    for read in readers:
        with pytest.raises(InputError, match="at most 10 B of points are read"):
            read()


# A file for every image


def test_every_image_may_have_its_own_file(make_points: MakePoints) -> None:
    files = {
        "points/a.csv": "x_px,y_px,x_um,y_um,score,label\n1,2,,,0.9,cell\n",
        "points/b.csv": "x,y\n",
        "points/c.geojson": features(
            feature("MultiPoint", [[3, 4], [5, 6]], "cell"), feature("Point", [7, 8], "other")
        ),
    }
    dataset = load(make_points(files, "abc"))
    assert dataset.classes == ("background", "cell", "other")
    assert points_of(dataset) == {"a": [(2, 1, 1)], "b": [], "c": [(4, 3, 1), (6, 5, 1), (8, 7, 2)]}


def test_an_image_may_be_called_points(make_points: MakePoints) -> None:
    dataset = load(make_points({"points/points.csv": "x,y\n1,2\n"}, ["points"]))
    assert points_of(dataset) == {"points": [(2, 1, 1)]}


def test_missing_and_superfluous_files_are_problems(make_points: MakePoints) -> None:
    root = make_points({"points/a.csv": "x,y\n1,2\n", "points/z.csv": "x,y\n1,2\n", "points/c.csv": ""}, "abc")
    problems = problems_of(root)
    assert len(problems) == 3
    for text in ("b.png: has no annotation points/b.csv", "z.csv: has no image", "c.csv: holds no points, and its"):
        assert any(text in problem for problem in problems), text


def test_files_without_any_point_are_a_problem_together(make_points: MakePoints) -> None:
    root = make_points({"points/a.csv": "x,y\n", "points/b.csv": "x,y\n"})
    assert problems_of(root) == [f"{root / 'points'}: holds no points, so there is nothing to learn."]


def test_a_geojson_folder_of_points_only_means_points(make_points: MakePoints) -> None:
    root = make_points({f"geojson/{name}.geojson": features(feature("Point", [1, 2], "Cell")) for name in "ab"})
    assert points_of(load(root)) == {"a": [(2, 1, 1)], "b": [(2, 1, 1)]}


def test_polygons_come_first_and_are_left_out_of_points(make_points: MakePoints) -> None:
    both = features(POLYGON, feature("Point", [1, 2], "Cell"))
    root = make_points({"geojson/a.geojson": both, "geojson/b.geojson": features(feature("Point", [3, 4]))})
    assert load(root).annotation == "geojson"
    dataset = load(root, annotation="points")
    assert points_of(dataset) == {"a": [(2, 1, 1)], "b": [(4, 3, 2)]}
    assert any("geojson: polygons are left out (1)" in note for note in dataset.notes)


def test_damaged_geojson_is_listed(make_points: MakePoints) -> None:
    root = make_points({"points/a.geojson": "{", "points/b.csv": "x,y\n1,2\n"})
    (problem,) = problems_of(root)
    assert "a.geojson: is no valid JSON" in problem


# Boxes


@pytest.mark.parametrize(
    ("boxes", "form"),
    [
        ([[40, 30, 6, 8], [0, 10, 4, 4]], "[x, y, width, height]"),
        ([[40, 30, 46, 38], [0, 10, 4, 14]], "[x1, y1, x2, y2]"),
    ],
)
def test_boxes_become_centres(make_points: MakePoints, boxes: list[list[float]], form: str) -> None:
    dataset = load(make_points({"MIDOG.json": boxes_json(boxes)}))
    assert points_of(dataset) == {"a": [(34, 43, 1), (12, 2, 0)], "b": []}
    assert (dataset.classes, dataset.hard_negatives) == (("background", "mitotic figure"), ("hard negative",))
    assert [note for note in dataset.notes if f"boxes are read as {form}" in note]


@given(
    centres=st.lists(st.tuples(st.floats(100, 1950), st.floats(100, 1450)), min_size=3, max_size=30),
    form=st.sampled_from(["xywh", "xyxy"]),
    side=st.sampled_from([20, 50]),
)
def test_the_form_of_boxes_is_found_or_asked_for(
    tmp_path_factory: pytest.TempPathFactory, centres: list[tuple[float, float]], form: str, side: int
) -> None:
    half = side / 2
    boxes = [[x - half, y - half, *((side, side) if form == "xywh" else (x + half, y + half))] for x, y in centres]
    images = [{"id": 1, "file_name": "a.tiff", "width": 2000, "height": 1500}]
    path = tmp_path_factory.getbasetemp() / "boxes.json"
    path.write_text(boxes_json(boxes, images=images))
    raw = read_boxes(path, None)
    if raw.problems:  # only near the top left corner do x2, y2 pass for sizes
        assert form == "xyxy"
        assert all(1.5 * x - half / 2 < 2000.001 and 1.5 * y - half / 2 < 1500.001 for x, y in centres)
    else:
        np.testing.assert_allclose(raw.positions[:, ::-1], centres, atol=1e-9)


@pytest.mark.parametrize(("form", "centre"), [("xywh", [14.5, 10]), ("xyxy", [10.5, 7.5])])
def test_boxes_that_may_be_both_need_a_word(make_points: MakePoints, form: str, centre: list[float]) -> None:
    categories = [{"id": 1, "name": "cell"}]
    root = make_points({"points.json": boxes_json([[5, 8, 10, 13]], categories=categories)})
    (problem,) = problems_of(root)
    assert "Say which with `boxes: xywh` or `boxes: xyxy` in dataset.yaml" in problem
    (root / "dataset.yaml").write_text(f"boxes: {form}")
    dataset = load(root)
    assert dataset.points["a"].positions.tolist() == [centre]
    assert not dataset.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (boxes_json([[1, 2, 3]]), "annotation 1: its bbox is [1, 2, 3], and four numbers are needed."),
        (boxes_json([None]), "annotation 1: its bbox is null"),
        (boxes_json([[1, 2, "3", True]]), "annotation 1: its bbox is"),
        (boxes_json([[1, 2, 3, 10**400]]), "annotation 1: int too large"),
        (boxes_json([], annotations=[7]), "annotation 1: its bbox is null"),
        (boxes_json([], annotations=[{"bbox": [1, 2, 3, 4], "image_id": 9}]), "its image_id is 9, which is none of"),
        (boxes_json([], annotations=[{"bbox": [1, 2, 3, 4], "image_id": [1]}]), "its image_id is [1], which is none"),
        (boxes_json([[1, 2, 3, 4]], categories=[{"id": 7, "name": "x"}]), "its category_id is 1, which is none of"),
        (boxes_json([], images=[{"id": 1}]), "its images need an id of their own and a file_name each"),
        (boxes_json([], categories=[{"id": 1, "name": "x"}] * 2), "its categories need an id of their own"),
        (boxes_json([], images={}), "its images are no list"),
        ("[]", "its images are no list"),
        (boxes_json([]), "holds no points"),
        ('{"images": [], "annotations": [NaN]}', "it contains NaN"),
        ('{"images": [], "annotations": ' + "[" * 100_000, "is no valid JSON"),
        (boxes_json([[40, 30, 6, 8]])[:-20], "is no valid JSON"),
        (boxes_json([[40, 30, 6, 8]], images=[{"id": 1, "file_name": "q.png"}]), "there is no image 'q.png' (annot"),
    ],
)
def test_damaged_boxes_are_named(make_points: MakePoints, content: str, message: str) -> None:
    assert any(message in problem for problem in problems_of(make_points({"points.json": content})))


def test_boxes_without_categories_are_one_class(make_points: MakePoints) -> None:
    dataset = load(make_points({"points.json": boxes_json([[40, 30, 6, 8]], categories=[])}))
    assert dataset.classes == ("background", "point")


def test_two_files_of_boxes_are_one_too_many(make_points: MakePoints) -> None:
    content = boxes_json([[40, 30, 6, 8], [3, 30, 6, 8]])
    root = make_points({"one.json": content, "two.json": content, "other.json": "{}"})
    (problem,) = problems_of(root)
    assert "one.json, two.json all hold images and annotations. Rename the one to use to points.json." in problem
    (root / "two.json").rename(root / "points.json")
    assert load(root).items[0].annotation == root / "points.json"


# Where points come from


def test_of_several_sources_the_first_counts(make_points: MakePoints) -> None:
    files = {
        "points.json": boxes_json([[40, 30, 6, 8]]),
        "geojson/a.geojson": features(feature("Point", [1, 1])),
        "points/a.csv": "x,y\n2,2\n",
        "points.csv": "image,x,y\na,3,3\n",
    }
    root = make_points(files, "a")
    for name, x in (("points.csv", 3), ("points/a.csv", 2), ("geojson/a.geojson", 1), ("points.json", 43)):
        dataset = load(root, annotation="points")
        assert dataset.points["a"].positions[0, 1] == x
        assert dataset.items[0].annotation == root / name
        path = root / name
        path.unlink()
        if path.parent != root:
            path.parent.rmdir()
    assert any(
        "points.csv: is missing. Put the points there" in text for text in problems_of(root, annotation="points")
    )
    assert any("or points into points.csv" in text for text in problems_of(root))


def test_masks_come_first_and_points_can_be_chosen(make_points: MakePoints) -> None:
    root = make_points({"points.csv": "image,x,y,label\na,1,2,cell\n"}, "a")
    save(root / "masks/a.png", np.eye(HEIGHT, WIDTH, dtype=np.uint8))
    (root / "dataset.yaml").write_text("classes: [rest, diagonal]\n")
    assert (load(root).annotation, load(root).classes) == ("masks", ("rest", "diagonal"))
    assert not load(root).points
    chosen = load(root, annotation="points")
    assert (chosen.annotation, chosen.classes) == ("points", ("background", "cell"))
    (root / "dataset.yaml").write_text("classes: [rest, cell]\nannotation: points\n")
    assert (load(root).annotation, load(root).classes) == ("points", ("rest", "cell"))
    assert load(root, annotation="masks").classes == ("background", "foreground")


def test_classes_of_a_description_apply_where_points_are_all_there_is(make_points: MakePoints) -> None:
    root = make_points({"points.csv": "image,x,y,label\na,1,2,q\nb,1,2,p\n", "dataset.yaml": "classes: {1: q, 2: p}"})
    assert load(root).classes == ("background", "q", "p")
    assert points_of(load(root)) == {"a": [(2, 1, 1)], "b": [(2, 1, 2)]}


def test_split_folders_have_their_own_points_or_share_them(make_points: MakePoints) -> None:
    make_points({"points.csv": "image,x,y\na,1,2\n"}, "a", under="train")
    root = make_points({"points/b.csv": "x,y\n3,4\n"}, "b", under="val")
    dataset = load(root)
    assert [(item.name, item.split) for item in dataset.items] == [("a", "train"), ("b", "val")]
    assert points_of(dataset) == {"a": [(2, 1, 1)], "b": [(4, 3, 1)]}
    (root / "train/points.csv").write_text("image,x,y\nb,1,2\n")
    assert any("train/points.csv: there is no image 'b'" in problem for problem in problems_of(root))
    (root / "points.csv").write_text("image,x,y\na,5,6\nb,7,8\n")
    assert points_of(load(root)) == {"a": [(6, 5, 1)], "b": [(8, 7, 1)]}


def test_a_split_folder_without_points_is_a_problem(make_points: MakePoints) -> None:
    make_points({}, "b", under="val")
    root = make_points({"points.csv": "image,x,y\na,1,2\n"}, "a", under="train")
    assert any("val/points.csv: is missing" in problem for problem in problems_of(root))


# Classes


def classes_of(labels: Mapping[str, int], given: Any = None, hard: Sequence[str] | None = None) -> Any:
    return point_classes({Path("p.csv"): labels}, given, hard)


@pytest.mark.parametrize(
    "label", [*sorted(HARD_NEGATIVES), "Look-Alike", "hard negative", "Non-mitotic figure", "not mitotic figure"]
)
def test_hard_negatives_are_known_by_their_names(label: str) -> None:
    classes = classes_of({label: 3, "mitosis": 1})
    assert classes.names == ("background", "mitosis")
    assert classes.labels == {label: 0, "mitosis": 1}
    assert not classes.problems


def test_hard_negatives_can_be_named() -> None:
    classes = classes_of({"odd": 3, "mitosis": 1, "imposter": 1}, hard=["odd"])
    assert classes.labels == {"odd": 0, "imposter": 1, "mitosis": 2}
    given = classes_of({"odd": 3, "mitosis": 1, "imposter": 1}, given=["none", "imposter", "mitosis"], hard=["odd"])
    assert given.labels == {"odd": 0, "imposter": 1, "mitosis": 2}
    assert not classes.problems + given.problems


def test_a_named_class_is_no_hard_negative() -> None:
    assert classes_of({"imposter": 3}, given=["rest", "imposter"]).labels == {"imposter": 1}
    assert classes_of({"rest": 3, "a": 1}, given=["rest", "a"]).labels == {"rest": 0, "a": 1}


@pytest.mark.parametrize(
    ("labels", "given", "hard", "message"),
    [
        ({"a": 1, "q": 2}, ["rest", "a"], None, "p.csv: holds the label q, which is none of the classes (rest, a)"),
        ({"a": 1}, ["rest", "a", "b"], None, "classes: b: no point has this label (the labels are a)"),
        ({"look_alike": 1}, None, None, "only hard negatives (look_alike)"),
        ({"a": 1}, ["rest", "a"], ["a"], "hard_negatives: a is a class, too"),
        ({"a": 1}, ["rest", "a", "a"], None, "its own name"),
        ({"a": 1}, ["rest"], None, "from 2 to"),
    ],
)
def test_labels_that_fit_no_class_are_a_problem(
    labels: dict[str, int], given: list[str], hard: list[str] | None, message: str
) -> None:
    assert any(message in problem for problem in classes_of(labels, given, hard).problems)


def test_misspelt_hard_negatives_and_missing_labels_are_noted() -> None:
    notes = classes_of({"a": 1, "point": 2}, None, ["lookalike"]).notes
    assert any("hard_negatives: lookalike: no point has this label (the labels are a, point)" in note for note in notes)
    assert any("2 of 3 points have no label" in note for note in notes)


def test_hard_negatives_of_the_configuration_win_over_the_description(make_points: MakePoints) -> None:
    root = make_points({"points.csv": "image,x,y,label\na,1,2,p\na,3,4,q\n", "dataset.yaml": "hard_negatives: [p]"})
    assert (load(root).classes, load(root).hard_negatives) == (("background", "q"), ("p",))
    chosen = load(root, hard_negatives=["q"])
    assert (chosen.classes, chosen.hard_negatives) == (("background", "p"), ("q",))


def test_a_damaged_description_is_the_only_problem(make_points: MakePoints) -> None:
    root = make_points({"points.csv": "image,x,y,label\na,1,2,p\n", "dataset.yaml": "boxes: corners"})
    (problem,) = problems_of(root)
    assert "dataset.yaml: boxes" in problem


# An image's points


def test_points_on_the_edge_are_in_the_last_pixel(make_points: MakePoints) -> None:
    dataset = load(make_points({"points.csv": f"image,x,y\na,{WIDTH},{HEIGHT}\na,0,0\n"}))
    points = read_points(dataset.items[0], dataset, HEIGHT, WIDTH)
    assert np.floor(points.positions).tolist() == [[HEIGHT - 1, WIDTH - 1], [0, 0]]
    assert dataset.points["a"].positions[0].tolist() == [HEIGHT, WIDTH]  # as they are in the file


@pytest.mark.parametrize("position", [(WIDTH + 0.01, 5), (5, HEIGHT + 1), (-0.5, 5), (5, -1e-9)])
def test_points_outside_of_their_image_are_refused(make_points: MakePoints, position: tuple[float, float]) -> None:
    x, y = position
    dataset = load(make_points({"points.csv": f"image,x,y\na,1,1\na,{x},{y}\nb,1,1\n"}))
    with pytest.raises(InputError, match=r"outside of a.png, which has 50 x 60 pixels: 1 of 2,") as caught:
        read_points(dataset.items[0], dataset, HEIGHT, WIDTH)
    assert f"the first at x = {x:.10g}, y = {y:.10g}" in caught.value.message
    assert len(read_points(dataset.items[1], dataset, HEIGHT, WIDTH).classes) == 1


def test_an_image_without_an_annotation_has_no_points(make_points: MakePoints) -> None:
    dataset = replace(load(make_points({"points.csv": "image,x,y\na,1,1\n"})), points={})
    with pytest.raises(InputError, match=r"no points of b.png could be read"):
        read_points(dataset.items[1], dataset, HEIGHT, WIDTH)


def test_points_are_no_mask(make_points: MakePoints) -> None:
    dataset = load(make_points({"points.csv": "image,x,y\na,1,1\n"}))
    with pytest.raises(InputError, match="points are learned from, and masks are needed"):
        read_mask(dataset.items[0], dataset)


def test_points_at_one_place_are_counted(make_points: MakePoints) -> None:
    rows = "a,1,1,p\na,1,1,q\na,1,1,p\na,2,1,p\nb,1,1,p\nb,5,5,p\nb,5,5,p\n"
    dataset = load(make_points({"points.csv": f"image,x,y,label\n{rows}"}))
    (line,) = repeated_points(dataset)
    assert "points.csv: a.png has 3 points at x = 1, y = 1. Keep one of them (3 points too many" in line
    assert not repeated_points(load(make_points({"points.csv": "image,x,y\na,1,1\nb,1,1\n"})))


# Real data


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "side", "classes", "num_points", "num_hard"),
    [
        ("crc_nuclei", 500, ("background", "nucleus"), 10865, 0),
        ("amibr_mitosis", 128, ("background", "mitotic"), 1081, 4),
    ],
)
def test_real_folders_load(
    real_data: Path, name: str, side: int, classes: tuple[str, ...], num_points: int, num_hard: int
) -> None:
    dataset = load(real_data / name)
    assert (dataset.annotation, dataset.classes) == ("points", classes)
    points = [read_points(item, dataset, side, side) for item in dataset.items]
    assert sum(len(one.classes) for one in points) == num_points
    assert sum(int((one.classes == 0).sum()) for one in points) == num_hard


def test_sample_data_has_mitoses_and_look_alikes(sample_data: Path) -> None:
    dataset = load(sample_data, annotation="points")
    assert (dataset.classes, dataset.hard_negatives) == (("background", "mitotic_figure"), ("look_alike",))
    points = [read_points(item, dataset, 512, 512) for item in dataset.items]
    assert [sum(int((one.classes == index).sum()) for one in points) for index in (0, 1)] == [25, 43]
