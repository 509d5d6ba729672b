"""`segkit evaluate --pred --truth` of points and objects as a process: bad input is one line, odd input is measured."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segkit.slides.geojson import GeoJSONWriter
from segkit.slides.pyramid import PyramidWriter
from tests.processes import Start, message_of, run
from tests.tiny import save_png

HEIGHT, WIDTH = 40, 60
SQUARES = ((5, 5, 15), (5, 30, 12), (22, 40, 10))
"""Top, left and side."""


def ids_of(squares: Sequence[tuple[int, int, int]] = SQUARES, height: int = HEIGHT) -> NDArray[np.uint8]:
    ids = np.zeros((height, WIDTH), np.uint8)
    for number, (top, left, side) in enumerate(squares, start=1):
        ids[top : top + side, left : left + side] = number
    return ids


def save_pyramid(path: Path, ids: NDArray[np.uint8], mpp: float | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with PyramidWriter(path, *ids.shape, tile_px=16, mpp=mpp) as writer:
        writer.write_rows(ids)


def draw(path: Path, squares: Sequence[tuple[int, int, int]] = SQUARES, label: str = "cell") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with GeoJSONWriter(path) as writer:
        for top, left, side in squares:
            ring = [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]
            writer.add_polygon([np.array(ring)], label=label, colour=(0, 0, 0))


def table(path: Path, *rows: str, header: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]))


def record(folder: Path, *, height: int = HEIGHT, width: int = WIDTH, mpp: float | None = 0.5) -> None:
    """Leave the run.json of a slide that was predicted whole."""
    region = {"x": 0, "y": 0, "width": width, "height": height}
    content = {
        "command": "predict", "slide": {"height": height, "width": width, "mpp": mpp},
        "plan": {"mpp": mpp, "downsample": 1.0, "stride": 1, "region": region},
        "models": [{"classes": ["background", "cell"]}], "instances": {}, "complete": True,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content))


def scanned(folder: Path, *rows: str, **slide: int) -> None:
    table(folder / "detections.csv", *rows, header="x_px,y_px,score,label")
    record(folder, **slide)


def images(data: Path, *names: str, description: str = "") -> None:
    for name in names:
        save_png(data / "images" / f"{name}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (data / "dataset.yaml").write_text(description)


def points(data: Path, *rows: str, description: str = "mpp: 0.5\n") -> None:
    images(data, "a", description=description)
    table(data / "points.csv", *rows, header="image,x,y,label")


def evaluate(folder: Path, *more: object) -> tuple[object, ...]:
    settings = ("--set", "match_radius=3px", "--set", "bootstrap=20")
    return (
        "evaluate",
        "--pred",
        folder / "found",
        "--truth",
        folder / "truth",
        "--out",
        folder / "out",
        *settings,
        *more,
    )


# Each writes found/ and truth/ in a folder


def objects_unpaired(folder: Path) -> None:
    for name in ("a", "b"):
        save_png(folder / "truth" / "labels" / f"{name}.png", ids_of())
    for name in ("b", "c"):
        save_png(folder / "found" / f"{name}.png", ids_of())


def objects_without_image(folder: Path) -> None:
    images(folder / "truth", "a")
    save_png(folder / "truth" / "labels" / "a.png", ids_of())
    for name in ("a", "c"):
        save_png(folder / "found" / f"{name}.png", ids_of())


def objects_of_other_size(folder: Path) -> None:
    save_png(folder / "truth" / "labels" / "a.png", ids_of())
    save_png(folder / "found" / "a.png", ids_of(height=HEIGHT + 10))


def objects_of_other_mpp(folder: Path) -> None:
    save_pyramid(folder / "truth" / "labels" / "a.tif", ids_of(), 0.25)
    save_pyramid(folder / "found" / "a.tif", ids_of(), 0.5)


def polygons_on_other_mpp(folder: Path) -> None:
    images(folder / "truth", "a", description="mpp: 0.25\n")
    save_png(folder / "truth" / "labels" / "a.png", ids_of())
    draw(folder / "found" / "a" / "objects.geojson")
    record(folder / "found" / "a")


def polygons_of_other_class(folder: Path) -> None:
    draw(folder / "truth" / "a.geojson", label="nucleus")
    draw(folder / "found" / "a.geojson", label="gland")


def negative_ids(folder: Path) -> None:
    save_png(folder / "truth" / "labels" / "a.png", ids_of())
    (folder / "found").mkdir()
    Image.fromarray(-ids_of().astype(np.int32)).save(folder / "found" / "a.tif")


def points_unpaired(folder: Path) -> None:
    for name in ("a", "b"):
        table(folder / "truth" / f"{name}.csv", "5,5,cell", header="x,y,label")
    for name in ("b", "c"):
        scanned(folder / "found" / name, "5,5,0.9,cell")


def points_without_image(folder: Path) -> None:
    points(folder / "truth", "a,5,5,cell")
    table(folder / "found" / "c.csv", "5,5,0.9,cell", header="x,y,score,label")


def points_on_other_size(folder: Path) -> None:
    points(folder / "truth", "a,5,5,cell")
    scanned(folder / "found" / "a", "5,5,0.9,cell", height=2 * HEIGHT, width=2 * WIDTH)


def points_on_other_mpp(folder: Path) -> None:
    points(folder / "truth", "a,5,5,cell", description="mpp: 0.25\n")
    scanned(folder / "found" / "a", "5,5,0.9,cell")


def points_at_other_scale(folder: Path) -> None:
    points(folder / "truth", "a,50,35,cell")
    table(folder / "found" / "a.csv", "10,10,0.9,cell", "200,140,0.8,cell", header="x,y,score,label")


def points_of_other_class(folder: Path) -> None:
    points(folder / "truth", "a,5,5,cell")
    table(folder / "found" / "a.csv", "5,5,0.9,mitosis", header="x,y,score,label")


def scores_of_nan(folder: Path) -> None:
    points(folder / "truth", "a,5,5,cell")
    table(folder / "found" / "a.csv", "5,5,0.9,cell", "6,5,nan,cell", header="x,y,score,label")


def points_and_no_detections(folder: Path) -> None:
    points(folder / "truth", "a,5,5,cell")
    save_png(folder / "found" / "a.png", ids_of())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (objects_unpaired, "- a: no prediction in .*found\n  - c: no truth in .*labels"),
        (objects_without_image, r"found: these have no image of their name in .*truth:\n  - c$"),
        (objects_of_other_size, r"a: the prediction is 60 x 50 pixels .* the truth is 60 x 40 pixels"),
        (
            objects_of_other_mpp,
            r"a: the prediction is 60 x 40 pixels of 0\.5 um, and the truth 60 x 40 pixels of 0\.25",
        ),
        (polygons_on_other_mpp, r"predicted on a slide of 60 x 40 pixels of 0\.5 um, .* is 60 x 40 pixels of 0\.25 um"),
        (polygons_of_other_class, "has the classes background, nucleus, and .*found has background, gland. Both must"),
        (negative_ids, r"a\.tif: holds the id -3, and ids are 0 \(background\) and up"),
        (points_unpaired, "- a: no prediction in .*found\n  - c: no truth in .*truth"),
        (points_without_image, r"found: these have no image of their name in .*truth:\n  - c$"),
        (
            points_on_other_size,
            r"a: points were found on a slide of 120 x 80 pixels of 0\.5 um, .* 60 x 40 pixels of 0\.5",
        ),
        (points_on_other_mpp, r"a: points were found on a slide of 60 x 40 pixels of 0\.5 um, .* of 0\.25 um"),
        (
            points_at_other_scale,
            r"1 of 2 detections lie outside of a, which has 60 x 40 pixels, the first at x = 200, y",
        ),
        (points_of_other_class, r"line 2: the label is 'mitosis', which is none of the classes \(cell\)"),
        (scores_of_nan, "line 3: score is 'nan', which is no number"),
        (points_and_no_detections, "found: holds no detections"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_input_is_one_clear_line(start: Start, tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(tmp_path)
    ended = run(start, *evaluate(tmp_path))
    assert ended.code == 3
    assert re.search(words, message_of(ended), re.DOTALL), message_of(ended)
    assert not list((tmp_path / "out").glob("metrics*"))


def test_labels_of_no_objects_are_measured(start: Start, tmp_path: Path) -> None:
    for name, true, found in (("none", (), ()), ("invented", (), SQUARES), ("missed", SQUARES, ())):
        save_pyramid(tmp_path / "truth" / "labels" / f"{name}.tif", ids_of(true), 0.5)
        save_pyramid(tmp_path / "found" / f"{name}.tif", ids_of(found), 0.5)
    ended = run(start, *evaluate(tmp_path, "--json"))
    assert ended.code == 0, ended.err
    content = json.loads(ended.out, parse_constant=pytest.fail)
    assert (content["num_true"], content["num_predicted"], content["headline"]["value"]) == (3, 3, 0)
    assert content["mpp"] == 0.5
    assert content["area_mm2"] == pytest.approx(3 * HEIGHT * WIDTH * 0.25e-6)
    assert content["densities"]["true_per_mm2"]["value"] == pytest.approx(3 / content["area_mm2"])
    assert content["densities"]["mean_true_area_um2"]["value"] == pytest.approx((225 + 144 + 100) / 3 * 0.25)


def test_objects_at_scales_of_their_own_are_measured_in_um2(start: Start, tmp_path: Path) -> None:
    """The same slide, once at twice the resolution: the same sizes in um2; scanners have rows."""
    (tmp_path / "truth").mkdir()
    for name, repeat, mpp in (("a", 2, 0.25), ("b", 1, 0.5), ("c", 1, 0.5)):
        ids = ids_of().repeat(repeat, axis=0).repeat(repeat, axis=1)
        save_pyramid(tmp_path / "truth" / "images" / f"{name}.tif", ids, mpp)
        save_png(tmp_path / "truth" / "labels" / f"{name}.png", ids)
        save_png(tmp_path / "found" / f"{name}.png", np.where(ids == 3, 0, ids))
    table(tmp_path / "truth" / "splits.csv", "a,val,new", "b,val,old", "c,val,old", header="image,split,scanner")
    ended = run(start, *evaluate(tmp_path, "--json"))
    assert ended.code == 0, ended.err
    assert "pixels differ in size (0.25 um in a, 0.5 um in b): sizes of objects are in um2" in ended.err
    content = json.loads(ended.out, parse_constant=pytest.fail)
    assert content["mpp"] is None
    assert [(one["low_um2"], one["num_true"], one["tp"]) for one in content["by_size"]["bins"]] == [
        (0, 3, 0), (36, 3, 3), (56.25, 3, 3)
    ]  # fmt: skip
    assert content["densities"]["predicted_per_mm2"]["value"] == pytest.approx(6 / (3 * HEIGHT * WIDTH * 0.25e-6))
    assert [(one["by"], one["name"], one["num_images"]) for one in content["groups"]] == [
        ("scanner", "new", 1), ("scanner", "old", 2)
    ]  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text()
    assert "area of objects, µm²" in page
    assert "By scanner" in page


def test_forty_thousand_points_of_one_image_are_measured(start: Start, tmp_path: Path) -> None:
    """On a grid of 10 px, each found 1 px beside it, but for the first."""
    side = 200
    y, x = (10 * axis.ravel() + 5 for axis in np.mgrid[:side, :side])
    rows = np.column_stack([x, y]).tolist()
    table(tmp_path / "truth" / "a.csv", *(f"{x},{y},cell" for x, y in rows), header="x,y,label")
    scanned(
        tmp_path / "found" / "a", *(f"{x + 1},{y},0.5,cell" for x, y in rows[1:]), height=10 * side, width=10 * side
    )
    ended = run(start, *evaluate(tmp_path, "--json"))
    assert ended.code == 0, ended.err
    (cells,) = json.loads(ended.out)["classes"]
    assert (cells["tp"], cells["fp"], cells["fn"]) == (side**2 - 1, 0, 1)
    assert cells["densities"]["true_per_mm2"]["value"] == pytest.approx(side**2 / (10 * side * 0.0005) ** 2)


def test_a_folder_of_results_that_exists_is_replaced_if_it_is_its_own(start: Start, tmp_path: Path) -> None:
    points(tmp_path / "truth", "a,5,5,cell")
    table(tmp_path / "found" / "a.csv", "5,5,0.9,cell", header="x,y,score,label")
    assert run(start, *evaluate(tmp_path)).code == 0
    table(tmp_path / "found" / "a.csv", header="x,y,score,label")
    assert run(start, *evaluate(tmp_path)).code == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["headline"]["value"] == 0
    (tmp_path / "out" / "run.json").write_text('{"command": "train", "complete": true}')
    ended = run(start, *evaluate(tmp_path))
    assert ended.code == 2
    assert "out: holds what `segkit train` left (run.json), which would be replaced. Choose another" in message_of(
        ended
    )
