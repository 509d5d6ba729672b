"""Predictions that are there, in every form, against the truth in every form: the same numbers, or one clear line."""

import csv
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segkit.config import DataConfig, EvaluateConfig, build_config
from segkit.errors import ConfigError, InputError, UsageError
from segkit.evaluation.object_tables import ObjectReport
from segkit.evaluation.pixel_tables import PixelReport
from segkit.evaluation.point_tables import PointReport
from segkit.files import sha256_of_ends
from segkit.geometry import Box
from segkit.slides.geojson import GeoJSONWriter
from segkit.slides.pyramid import PyramidWriter
from segkit.workflows.evaluate import LEAVES, EvaluateResult, evaluate
from segkit.workflows.evaluate_given import measure_given
from segkit.workflows.given_files import SlideRecord
from segkit.workflows.measured_masks import FoundMasks
from segkit.workflows.placement import Placed, Placement, Size, blocks_of, nearest, place
from tests.tiny import save_png

HEIGHT, WIDTH = 40, 60
# Rectangles: class, top, left, bottom, right.
TRUE = [("gland", 5, 5, 20, 25), ("gland", 25, 30, 39, 55), ("vessel", 2, 40, 12, 58)]
FOUND = [("gland", 5, 5, 20, 22), ("gland", 26, 30, 39, 55), ("vessel", 2, 42, 12, 58), ("gland", 30, 2, 36, 9)]
CLASSES = ["background", "gland", "vessel"]


def config(*assignments: str) -> EvaluateConfig:
    return build_config(EvaluateConfig, assignments=["bootstrap=20", "compute.device=cpu", *assignments])


def measured(prediction: Path, truth: Path, out: Path, *assignments: str, **options: Any) -> EvaluateResult:
    return evaluate(config(*assignments), prediction=prediction, truth=truth, out=out, **options)


def mask_of(rectangles: Any, *, binary: bool = False, ids: bool = False, scale: int = 1) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (name, top, left, bottom, right) in enumerate(rectangles, start=1):
        mask[top:bottom, left:right] = 255 if binary else number if ids else CLASSES.index(name)
    return mask.repeat(scale, axis=0).repeat(scale, axis=1)


def draw(path: Path, rectangles: Any, *, scale: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with GeoJSONWriter(path) as writer:
        for name, top, left, bottom, right in rectangles:
            ring = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) * scale
            writer.add_polygon([ring], label=name, colour=(0, 0, 0))
    return path


def data_folder(root: Path, names: Sequence[str] = ("a", "b"), **annotations: Any) -> Path:
    """Write a data folder of images that all have the same annotation."""
    for name in names:
        save_png(root / "images" / f"{name}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        if "masks" in annotations:
            save_png(root / "masks" / f"{name}.png", annotations["masks"])
        if "labels" in annotations:
            save_png(root / "labels" / f"{name}.png", annotations["labels"])
        if "geojson" in annotations:
            draw(root / "geojson" / f"{name}.geojson", annotations["geojson"])
    (root / "dataset.yaml").write_text(annotations.get("description", ""))
    return root


def leave(
    folder: Path,
    rectangles: Any,
    *,
    mask: NDArray[np.uint8] | None = None,
    level_0: tuple[int, int] = (HEIGHT, WIDTH),
    mpp: float | None = 0.5,
    downsample: float = 1.0,
    region: tuple[int, int, int, int] | None = None,
    classes: list[str] = CLASSES,
    instances: bool = False,
) -> Path:
    """Leave what `segkit predict` leaves of a slide: mask.tif, objects.geojson (in level-0 pixels) and run.json."""
    mask = mask_of(rectangles) if mask is None else mask
    folder.mkdir(parents=True)
    scaled = None if mpp is None else mpp * downsample
    with PyramidWriter(folder / "mask.tif", *mask.shape, tile_px=16, mpp=scaled) as writer:
        writer.write_rows(mask)
    draw(folder / "objects.geojson", rectangles, scale=round(level_0[0] / HEIGHT))
    y, x, height, width = region or (0, 0, *mask.shape)
    record: dict[str, Any] = {
        "command": "predict",
        "slide": {"height": level_0[0], "width": level_0[1], "mpp": mpp},
        "plan": {
            "mpp": scaled, "downsample": downsample, "stride": 1,
            "region": {"x": x, "y": y, "width": width, "height": height},
        },
        "models": [{"classes": classes}],
        "complete": True,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record | ({"instances": {}} if instances else {})))
    return folder


def by_pixels(prediction: Path, truth: Path) -> FoundMasks:
    settings = config("split=all", "measure=pixels")
    found = measure_given(settings, prediction, truth, prediction / "figures", lambda *_: None, lambda _: None)
    assert isinstance(found, FoundMasks)
    return found


def pixels_of(result: EvaluateResult) -> dict[str, tuple[int, int, int, int]]:
    """Return the counts of each class over all images."""
    assert isinstance(result.report, PixelReport)
    counts: dict[str, tuple[int, int, int, int]] = {}
    for row in result.report.rows:
        before = counts.get(row.name, (0, 0, 0, 0))
        now = (row.tp_px, row.fp_px, row.fn_px, row.tn_px)
        counts[row.name] = tuple(map(sum, zip(before, now, strict=True)))  # type: ignore[assignment]
    return counts


def expected_pixels(found: Any, true: Any, images: int = 1) -> dict[str, tuple[int, int, int, int]]:
    counts = {}
    for index, name in enumerate(CLASSES):
        f, t = mask_of(found) == index, mask_of(true) == index
        counts[name] = tuple(int(part.sum()) * images for part in (f & t, f & ~t, ~f & t, ~f & ~t))
    return counts  # type: ignore[return-value]


# Pixels


@pytest.mark.parametrize("prediction", ["masks", "polygons", "predict"])
@pytest.mark.parametrize("truth", ["masks", "geojson"])
def test_masks_and_polygons_have_the_same_pixels(tmp_path: Path, prediction: str, truth: str) -> None:
    data = data_folder(
        tmp_path / "data", description="classes: [background, gland, vessel]\nmpp: 0.5\n",
        **{truth: mask_of(TRUE) if truth == "masks" else TRUE},
    )  # fmt: skip
    for name in ("a", "b"):
        if prediction == "masks":
            save_png(tmp_path / "found" / f"{name}.png", mask_of(FOUND))
        elif prediction == "polygons":
            draw(tmp_path / "found" / f"{name}.geojson", FOUND)
        else:
            leave(tmp_path / "found" / name, FOUND)
    if prediction == "polygons" and truth == "geojson":
        return  # are objects, see below
    result = measured(tmp_path / "found", data, tmp_path / "out")
    assert pixels_of(result) == expected_pixels(FOUND, TRUE, images=2)
    assert result.report.classes == tuple(CLASSES)  # type: ignore[union-attr]


def test_polygons_are_measured_by_pixels_where_that_is_asked_for(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", geojson=TRUE)
    for name in ("a", "b"):
        draw(tmp_path / "found" / f"{name}.geojson", FOUND)
    confusion = sum(image.confusion for image in by_pixels(tmp_path / "found", data).images)
    assert [int(confusion[index, index]) for index in range(3)] == [
        counts[0] for counts in expected_pixels(FOUND, TRUE, images=2).values()
    ]


def test_polygons_of_some_of_the_classes_are_those_classes(tmp_path: Path) -> None:
    data = data_folder(
        tmp_path / "data", masks=mask_of(TRUE), description="classes: [background, gland, vessel]\n"
    )  # fmt: skip
    vessels = [one for one in FOUND if one[0] == "vessel"]
    for name in ("a", "b"):
        draw(tmp_path / "found" / f"{name}.geojson", vessels)
    counts = pixels_of(measured(tmp_path / "found", data, tmp_path / "out"))
    assert counts == expected_pixels(vessels, TRUE, images=2)


def test_labels_are_foreground_where_pixels_are_asked_for(tmp_path: Path) -> None:
    truth = mask_of(TRUE, ids=True)
    truth[0] = 9
    data = data_folder(tmp_path / "data", labels=truth, description="ignore: 9\n")
    for name in ("a", "b"):
        save_png(tmp_path / "found" / f"{name}.png", mask_of(FOUND, binary=True))
    found = by_pixels(tmp_path / "found", data)
    f, t = mask_of(FOUND) > 0, mask_of(TRUE) > 0
    expected = [[int((a & b)[1:].sum()) for b in (~f, f)] for a in (~t, t)]
    assert [one.confusion.tolist() for one in found.images] == [expected] * 2


def test_polygons_without_images_have_the_pixels_of_the_slide_that_was_predicted(tmp_path: Path) -> None:
    draw(tmp_path / "truth" / "a.geojson", TRUE)
    leave(tmp_path / "found" / "a", FOUND)
    assert pixels_of(measured(tmp_path / "found", tmp_path / "truth", tmp_path / "out")) == expected_pixels(FOUND, TRUE)
    draw(tmp_path / "plain" / "a.geojson", FOUND)
    with pytest.raises(InputError, match=r"a\.geojson: the size of its image is not known"):
        by_pixels(tmp_path / "plain", tmp_path / "truth")


@pytest.mark.parametrize("kind", ["masks", "labels", "geojson", "points"])
def test_only_the_split_that_is_asked_for_is_measured(tmp_path: Path, kind: str) -> None:
    truth, prediction = tmp_path / "data", tmp_path / "prediction"
    prediction.mkdir()
    data_folder(truth, **{kind: {"masks": mask_of(TRUE), "labels": mask_of(TRUE, ids=True), "geojson": TRUE}.get(kind)})
    (truth / "splits.csv").write_text("image,split\na,train\nb,test\n")
    if kind == "points":
        (truth / "points.csv").write_text("image,x,y,label\na,5,5,cell\nb,6,6,cell\n")
    for name in ("a", "b"):
        if kind == "points":
            (prediction / f"{name}.csv").write_text("x,y,score,label\n5,5,1,cell\n")
        elif kind == "geojson":
            draw(prediction / f"{name}.geojson", FOUND)
        else:
            save_png(prediction / f"{name}.png", mask_of(FOUND, ids=kind == "labels"))
    radius = ["match_radius=6px"] if kind == "points" else []

    def names(*assignments: str) -> list[str]:
        result = measured(prediction, truth, tmp_path / "out", *radius, *assignments)
        return [row.image for row in result.report.images]

    assert names() == names("split=all") == ["a", "b"]
    assert names("split=test") == ["b"]
    with pytest.raises(InputError, match="no images of the split `val`"):
        names("split=val")
    (prediction / f"b.{'csv' if kind == 'points' else 'geojson' if kind == 'geojson' else 'png'}").unlink()
    with pytest.raises(InputError, match="of any image of the split `test`"):
        names("split=test")


def test_a_folder_without_images_has_no_splits(tmp_path: Path) -> None:
    for folder in ("truth", "prediction"):
        save_png(tmp_path / folder / "a.png", mask_of(TRUE))
    with pytest.raises(UsageError, match=r"--split test: .*has no splits"):
        measured(tmp_path / "prediction", tmp_path / "truth", tmp_path / "out", "split=test")


def test_groups_of_a_data_folder_are_the_units(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", masks=mask_of(TRUE))
    (data / "splits.csv").write_text("image,split,group\na,val,slide1\nb,test,slide2\n")
    for name in ("a", "b"):
        save_png(tmp_path / "found" / f"{name}.png", mask_of(FOUND))
    assert measured(tmp_path / "found", data, tmp_path / "out").report.unit == "group"


def test_an_image_without_a_group_is_a_group_of_its_own(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    data = data_folder(tmp_path / "data", names, masks=mask_of(TRUE))
    # A group is called as the image without one is.
    (data / "splits.csv").write_text("image,split,group\na,val,slide1\nb,val,slide1\nc,val,\nd,val,c\n")
    for name in names:
        save_png(tmp_path / "found" / f"{name}.png", mask_of(FOUND))
    notes: list[str] = []
    report = measured(tmp_path / "found", data, tmp_path / "out", on_note=notes.append).report
    assert (report.unit, report.num_units) == ("group", 3)
    assert notes == ["splits: 1 of 4 images have no group and are groups of their own: c"]
    assert f"- {notes[0]}" in (tmp_path / "out" / "summary.md").read_text().splitlines()
    with (tmp_path / "out" / "metrics.csv").open(newline="") as handle:
        groups = {row["image"]: row["group"] for row in csv.DictReader(handle)}
    assert groups == {"a": "slide1", "b": "slide1", "c": "image c", "d": "c"}


# Predictions that are missing


def kept_and_missing(tmp_path: Path, kind: str) -> tuple[Path, Path]:
    """Two images of the split test, one of train; predictions of the latter and of one of the former."""
    data, found = data_folder(tmp_path / "data", ("a", "b", "c"), masks=mask_of(TRUE)), tmp_path / "found"
    (data / "splits.csv").write_text("image,split\na,train\nb,test\nc,test\n")
    for name in ("a", "b"):
        save_png(found / f"{name}.png", mask_of(FOUND))
    if kind == "data folder":
        return found, data
    (data / "masks" / "a.png").unlink()
    (found / "a.png").unlink()
    return found, data / "masks"


@pytest.mark.parametrize("kind", ["data folder", "plain folder"])
def test_a_truth_without_a_prediction_is_refused_or_left_out_and_named(tmp_path: Path, kind: str) -> None:
    found, truth = kept_and_missing(tmp_path, kind)
    split = ["split=test"] if kind == "data folder" else []
    with pytest.raises(InputError, match=r"leave them out by --set allow_missing=true") as caught:
        measured(found, truth, tmp_path / "out", *split)
    assert caught.value.problems == ["c" if kind == "data folder" else f"c: no prediction in {found}"]
    assert not (tmp_path / "out" / "metrics.json").exists()

    notes: list[str] = []
    result = measured(found, truth, tmp_path / "out", "allow_missing=true", *split, on_note=notes.append)
    words = "1 of 2 images have no prediction and are left out of all numbers, which may therefore be too good: c."
    assert [row.image for row in result.report.images] == ["b"]
    assert result.remarks.left_out == ("c",)
    assert notes == [words]
    for name in ("metrics.json", "run.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["left_out"] == ["c"]
    assert (tmp_path / "out" / "summary.md").read_text().splitlines()[2] == f"**{words}**"
    (warning,) = re.findall('<p class="warning"[^>]*>(1 of 2 .*?)</p>', (tmp_path / "out" / "report.html").read_text())
    assert warning == words

    # With all that is asked for nothing is left out, whatever else was predicted.
    save_png(found / "c.png", mask_of(FOUND))
    assert measured(found, truth, tmp_path / "out", *split).remarks.left_out == ()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["left_out"] == []


def test_splits_that_were_predicted_whole_are_proposed(tmp_path: Path) -> None:
    found, data = kept_and_missing(tmp_path, "data folder")
    with pytest.raises(
        InputError, match=r"1 of 3 images in .*measure those of the split train only \(--split train\), or"
    ):
        measured(found, data, tmp_path / "out")
    # Nothing of what is asked for: there is nothing to measure.
    (found / "b.png").unlink()
    with pytest.raises(InputError, match="of any image of the split `test`"):
        measured(found, data, tmp_path / "out", "split=test", "allow_missing=true")
    (found / "a.png").rename(found / "z.png")
    with pytest.raises(InputError, match="do not pair by name:"):
        measured(found, data / "masks", tmp_path / "out", "allow_missing=true")


# Scales


@pytest.mark.parametrize("truth", ["mask", "polygons"])
def test_what_was_predicted_at_a_lower_scale_is_compared_at_the_truths_pixels(tmp_path: Path, truth: str) -> None:
    """The slide is three times as large as the model's map."""
    big = (3 * HEIGHT, 3 * WIDTH)
    leave(tmp_path / "found" / "a", FOUND, level_0=big, mpp=0.25, downsample=3.0)
    if truth == "mask":
        save_png(tmp_path / "truth" / "a.png", mask_of(TRUE, scale=3))
    else:
        draw(tmp_path / "truth" / "a.geojson", TRUE, scale=3)
    notes: list[str] = []
    result = measured(tmp_path / "found", tmp_path / "truth", tmp_path / "out", on_note=notes.append)
    assert pixels_of(result) == expected_pixels(FOUND, TRUE, images=9)
    (note,) = notes
    assert note.startswith(f"a in {tmp_path / 'found'}: a pixel of the prediction is 3 of the truth's; compared are")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["scale"] == note


def test_a_scale_that_both_files_state_is_taken_if_it_fits_the_sizes(tmp_path: Path) -> None:
    for folder, mask, mpp in (("found", mask_of(FOUND), 0.5), ("truth", mask_of(TRUE, scale=2), 0.25)):
        (tmp_path / folder).mkdir()
        with PyramidWriter(tmp_path / folder / "a.tif", *mask.shape, tile_px=16, mpp=mpp) as writer:
            writer.write_rows(mask)
    notes: list[str] = []
    result = measured(tmp_path / "found", tmp_path / "truth", tmp_path / "out", on_note=notes.append)
    assert list(pixels_of(result).values()) == list(expected_pixels(FOUND, TRUE, images=4).values())
    assert "a pixel of the prediction is 2 of the truth's" in notes[0]


def test_only_the_region_that_was_predicted_is_compared(tmp_path: Path) -> None:
    top, left, height, width = 16, 24, 16, 20
    part = mask_of(FOUND)[top : top + height, left : left + width]
    leave(tmp_path / "found" / "a", FOUND, mask=part, region=(top, left, height, width))
    save_png(tmp_path / "truth" / "a.png", mask_of(TRUE))
    notes: list[str] = []
    result = measured(tmp_path / "found", tmp_path / "truth", tmp_path / "out", on_note=notes.append)
    true = mask_of(TRUE)[top : top + height, left : left + width]
    counts = pixels_of(result)
    assert sum(counts["gland"]) == height * width
    assert counts["gland"][0] == int(((part == 1) & (true == 1)).sum())
    assert notes == [f"a in {tmp_path / 'found'}: only a region was predicted, and nothing else is compared"]


def record(height: int, width: int, mpp: float | None, downsample: float, origin: tuple[float, float]) -> SlideRecord:
    return SlideRecord(
        height=height, width=width, mpp=mpp, map_mpp=None, downsample=downsample, origin=origin, end=(0, 0),
        classes=(), tells_objects=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("prediction", "truth", "slide", "words"),
    [
        ((10, 20, None), (20, 40, None), None, r"the prediction is 20 x 10 pixels .* the truth is 40 x 20 pixels"),
        ((10, 20, 0.5), (10, 20, 0.25), None, r"10 pixels of 0\.5 um, and the truth 20 x 10 pixels of 0\.25 um"),
        ((10, 20, 0.5), (20, 40, 0.4), None, r"20 x 10 pixels of 0\.5 um .* 40 x 20 pixels of 0\.4 um"),
        ((10, 20, 0.5), (20, 41, 0.25), None, None),  # a rounded size
        ((10, 20, 0.5), (20, 44, 0.25), None, r"20 x 10 pixels of 0\.5 um .* 44 x 20 pixels"),
        (
            (10, 20, 0.5),
            (30, 60, None),
            (20, 40, 0.25),
            r"on a slide of 40 x 20 pixels of 0\.25 um, and the truth is 60",
        ),
        (
            (10, 20, 0.5),
            (20, 40, 0.5),
            (20, 40, 0.25),
            r"slide of 40 x 20 pixels of 0\.25 um, .* 40 x 20 pixels of 0\.5",
        ),
        ((10, 20, 0.5), (20, 40, None), (20, 40, 0.25), None),
    ],
)
def test_sizes_and_scales_that_do_not_fit_are_named(prediction: Any, truth: Any, slide: Any, words: str | None) -> None:
    known = None if slide is None else record(*slide, 2.0, (0, 0))
    if words is None:
        assert place("x", Size(*prediction), Size(*truth), known).step == 2
    else:
        with pytest.raises(InputError, match=f"x: .*{words}"):
            place("x", Size(*prediction), Size(*truth), known)


def test_the_nearest_pixel_is_the_one_that_the_centre_lies_in() -> None:
    assert nearest(0, 6, 3, step=2.0, origin=0.0).tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest(0, 7, 3, step=2.0, origin=0.0).tolist() == [0, 0, 1, 1, 2, 2, 2]  # a rounded size goes on
    assert nearest(3, 4, 2, step=2.0, origin=3.0).tolist() == [0, 0, 1, 1]
    assert nearest(0, 4, 3, step=4 / 3, origin=0.0).tolist() == [0, 1, 1, 2]
    assert nearest(0, 2, 4, step=0.5, origin=0.0).tolist() == [1, 3]


@pytest.mark.parametrize("in_strips", [False, True])
def test_blocks_cover_a_box_once(in_strips: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.workflows.placement.BLOCK_PX", 7)
    seen = np.zeros((30, 40), int)
    for box in blocks_of(Box(3, 4, 20, 31), in_strips=in_strips):
        assert box.area <= 49
        assert box.width == 31 or not in_strips
        seen[box.slices] += 1
    assert seen[3:23, 4:35].min() == seen.max() == 1
    assert seen.sum() == 20 * 31


class Numbered:
    """A plane whose values say where they were read."""

    height, width = 9, 11

    def read(self, box: Box) -> NDArray[np.int64]:
        assert Box(0, 0, self.height, self.width).contains(box)
        return np.arange(99).reshape(9, 11)[box.slices]


@pytest.mark.parametrize(
    ("step", "origin"), [(1.0, (0, 0)), (2.0, (0, 0)), (1.7, (0, 0)), (2.5, (3.3, 4.1)), (0.6, (0, 0))]
)
def test_what_is_read_does_not_depend_on_the_blocks(step: float, origin: Any) -> None:
    whole = Box(0, 0, int(9 * step + origin[0]), int(11 * step + origin[1]))
    placed = Placed(Numbered(), Placement(step=step, origin=origin, box=whole))
    values = placed.read(whole)
    for box in (Box(0, 0, 3, 2), Box(2, 3, 2, 2), Box(whole.height - 1, whole.width - 1, 1, 1)):
        assert np.array_equal(placed.read(box), values[box.slices])


# Objects


def objects_of(result: EvaluateResult) -> tuple[int, int, int]:
    assert isinstance(result.report, ObjectReport)
    rows = result.report.images
    return sum(row.tp for row in rows), sum(row.fp for row in rows), sum(row.fn for row in rows)


@pytest.mark.parametrize("prediction", ["ids", "polygons", "predict"])
@pytest.mark.parametrize("truth", ["labels", "geojson", "plain labels", "plain geojson"])
def test_ids_and_polygons_are_the_same_objects(tmp_path: Path, prediction: str, truth: str) -> None:
    kind = truth.removeprefix("plain ")
    data = data_folder(tmp_path / "data", **{kind: mask_of(TRUE, ids=True) if kind == "labels" else TRUE})
    if truth.startswith("plain"):
        shutil.rmtree(data / "images")
    for name in ("a", "b"):
        if prediction == "ids":
            folder = "labels" if kind == "geojson" else "found"
            save_png(tmp_path / folder / f"{name}.png", mask_of(FOUND, ids=True))
        elif prediction == "polygons":
            draw(tmp_path / "found" / f"{name}.geojson", FOUND)
        else:
            leave(tmp_path / "found" / name, FOUND, instances=True)
    found = tmp_path / "labels" if (tmp_path / "labels").is_dir() else tmp_path / "found"
    result = measured(found, data, tmp_path / "out")
    assert objects_of(result) == (6, 2, 0)
    drawn = 0 if truth.startswith("plain") else 2
    assert len(result.figures) == drawn
    assert result.report.name == ("foreground" if kind == "labels" else "any class")  # type: ignore[union-attr]


def test_of_a_model_that_tells_no_objects_apart_pixels_are_measured(tmp_path: Path) -> None:
    draw(tmp_path / "truth" / "a.geojson", TRUE)
    leave(tmp_path / "found" / "a", FOUND, instances=False)
    assert isinstance(measured(tmp_path / "found", tmp_path / "truth", tmp_path / "out").report, PixelReport)
    leave(tmp_path / "other" / "a", FOUND, instances=True)
    assert isinstance(measured(tmp_path / "other", tmp_path / "truth", tmp_path / "out").report, ObjectReport)


def test_objects_of_a_slide_lie_at_level_0(tmp_path: Path) -> None:
    """Polygons are in its pixels, whatever scale the model had; a truth of another size is not that."""
    leave(tmp_path / "found" / "a", FOUND, level_0=(2 * HEIGHT, 2 * WIDTH), downsample=2.0, instances=True)
    save_png(tmp_path / "labels" / "a.png", mask_of(TRUE, ids=True, scale=2))
    assert objects_of(measured(tmp_path / "found", tmp_path / "labels", tmp_path / "out")) == (3, 1, 0)
    save_png(tmp_path / "labels" / "a.png", mask_of(TRUE, ids=True))
    with pytest.raises(InputError, match=r"a: was predicted on a slide of 120 x 80 pixels .* the truth is 60 x 40"):
        measured(tmp_path / "found", tmp_path / "labels", tmp_path / "out")


def test_only_objects_in_the_region_that_was_predicted_are_compared(tmp_path: Path) -> None:
    """One true object lies outside of it, and one that was found reaches out of it."""
    leave(tmp_path / "found" / "a", FOUND[:1], region=(0, 0, 22, 24), instances=True)
    save_png(tmp_path / "labels" / "a.png", mask_of(TRUE, ids=True))
    notes: list[str] = []
    result = measured(tmp_path / "found", tmp_path / "labels", tmp_path / "out", on_note=notes.append)
    assert objects_of(result) == (1, 0, 0)
    assert isinstance(result.report, ObjectReport)
    assert result.report.images[0].dice == pytest.approx(2 * 15 * 17 / (15 * 17 + 15 * 19), abs=1e-6)
    assert notes == [f"a in {tmp_path / 'found'}: only a region was predicted, and nothing else is compared"]


def test_labels_of_no_objects_are_measured(tmp_path: Path) -> None:
    empty, some = mask_of([], ids=True), mask_of(TRUE, ids=True)
    for name, truth, found in (("none", empty, empty), ("invented", empty, some), ("missed", some, empty)):
        save_png(tmp_path / "labels" / f"{name}.png", truth)
        save_png(tmp_path / "found" / f"{name}.png", found)
    report = measured(tmp_path / "found", tmp_path / "labels", tmp_path / "out").report
    assert isinstance(report, ObjectReport)
    assert {row.image: (row.tp, row.fp, row.fn, row.metrics["f1"]) for row in report.images} == {
        "none": (0, 0, 0, None), "invented": (0, 3, 0, 0), "missed": (0, 0, 3, 0)
    }  # fmt: skip
    for name, truth, found in (("none", [], []), ("invented", [], TRUE), ("missed", TRUE, [])):
        draw(tmp_path / "true_polygons" / f"{name}.geojson", truth)
        draw(tmp_path / "polygons" / f"{name}.geojson", found)
    polygons = measured(tmp_path / "polygons", tmp_path / "true_polygons", tmp_path / "out").report
    assert isinstance(polygons, ObjectReport)
    # Polygons tell their classes, labels none.
    assert [replace(row, foreground={}) for row in polygons.images] == list(report.images)
    assert [one.name for one in polygons.per_class] == ["gland", "vessel"]


# Points


def point_table(path: Path, rows: list[str], header: str = "x,y,score,label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]))
    return path


def scanned(folder: Path, rows: list[str], region: tuple[int, int, int, int] | None = None) -> None:
    leave(folder, [], region=region)
    point_table(folder / "detections.csv", rows, "x_px,y_px,score,label")


@pytest.mark.parametrize("form", ["csv", "geojson", "one table"])
def test_points_without_images_are_measured_on_the_slide_that_was_searched(tmp_path: Path, form: str) -> None:
    scanned(tmp_path / "found" / "a", ["10,10,0.9,cell", "30,30,0.8,cell"])
    if form == "csv":
        point_table(tmp_path / "truth" / "a.csv", ["11,10,cell", "50,5,cell"], "x,y,label")
    elif form == "one table":
        point_table(tmp_path / "truth" / "points.csv", ["a.svs,11,10,cell", "a,50,5,cell"], "image,x,y,label")
    else:
        (tmp_path / "truth").mkdir()
        with GeoJSONWriter(tmp_path / "truth" / "a.geojson") as writer:
            for x, y in ((11, 10), (50, 5)):
                writer.add_point(x, y, label="cell", colour=(0, 0, 0))
    report = measured(tmp_path / "found", tmp_path / "truth", tmp_path / "out", "match_radius=2um").report
    assert isinstance(report, PointReport)
    (row,) = report.images
    assert (row.counts.tp, row.counts.fp, row.counts.fn) == (1, 1, 1)
    assert (report.mpp, report.radius_px) == (0.5, 4)
    assert report.area_mm2 == pytest.approx(HEIGHT * WIDTH * 0.25e-6)


def test_tables_of_another_program_are_detections(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data")
    point_table(data / "points.csv", ["a,11,10,cell", "b,5,5,cell"], "image,x,y,label")
    for form in ("csv", "geojson"):
        folder = tmp_path / form
        folder.mkdir()
        for name in ("a", "b"):
            if form == "csv":
                point_table(folder / f"{name}.csv", ["10,10,0.9,cell"])
            else:
                with GeoJSONWriter(folder / f"{name}.geojson") as writer:
                    writer.add_point(10, 10, label="cell", colour=(0, 0, 0))
        notes: list[str] = []
        report = measured(folder, data, tmp_path / "out", "match_radius=3px", on_note=notes.append).report
        assert isinstance(report, PointReport)
        assert [(one.counts.tp, one.counts.fp, one.counts.fn) for one in report.images] == [(1, 0, 0), (0, 1, 1)]
        assert [note for note in notes if "has no scores" in note] == notes
        assert len(notes) == (form == "geojson")


def test_true_points_outside_of_the_region_that_was_searched_do_not_count(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", ["a"], description="mpp: 0.5\n")
    point_table(data / "points.csv", ["a,25,25,cell", "a,25,5,cell"], "image,x,y,label")
    scanned(tmp_path / "found" / "a", ["24,25,0.9,cell"], region=(20, 20, 10, 20))
    notes: list[str] = []
    report = measured(tmp_path / "found", data, tmp_path / "out", "match_radius=3px", on_note=notes.append).report
    assert isinstance(report, PointReport)
    (row,) = report.images
    assert (row.counts.tp, row.counts.fp, row.counts.fn) == (1, 0, 0)
    assert report.area_mm2 == pytest.approx(200 * 0.25e-6)
    assert any("only a region was searched" in note for note in notes)


def test_scores_that_are_no_numbers_are_named_with_their_lines(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", ["a"])
    point_table(data / "points.csv", ["a,11,10,cell"], "image,x,y,label")
    table = point_table(tmp_path / "found" / "a" / "detections.csv", ["1,1,nan,cell", "1,2,inf,cell", "1,3,,cell"])
    with pytest.raises(InputError, match="holds rows that are no detections") as caught:
        measured(tmp_path / "found", data, tmp_path / "out", "match_radius=3px")
    assert caught.value.problems == [
        f"{table}: line {line}: score is {text!r}, which is no number."
        for line, text in ((2, "nan"), (3, "inf"), (4, ""))
    ]


def test_points_of_other_classes_or_outside_are_named(tmp_path: Path) -> None:
    scanned(tmp_path / "found" / "a", ["10,10,0.9,mitosis"])
    truth = point_table(tmp_path / "truth" / "a.csv", ["11,10,cell"], "x,y,label").parent
    with pytest.raises(InputError, match="no detections") as caught:
        measured(tmp_path / "found", truth, tmp_path / "out", "match_radius=3px")
    assert "the label is 'mitosis', which is none of the classes (cell)" in caught.value.problems[0]
    point_table(truth / "a.csv", ["11,10,mitosis", "70,10,mitosis"], "x,y,label")
    with pytest.raises(InputError, match=r"1 of 2 points of a lie outside of its 60 x 40 pixels, the first at x = 70"):
        measured(tmp_path / "found", truth, tmp_path / "out", "match_radius=3px")
    point_table(truth / "a.csv", ["11,here,mitosis"], "x,y,label")
    with pytest.raises(InputError, match="holds rows that are no points") as caught:
        measured(tmp_path / "found", truth, tmp_path / "out", "match_radius=3px")


# One clear line


def test_class_names_that_differ_are_named(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", geojson=[("stroma", 5, 5, 20, 25), *TRUE])
    for name in ("a", "b"):
        leave(tmp_path / "found" / name, FOUND)
    with pytest.raises(InputError) as caught:
        measured(tmp_path / "found", data, tmp_path / "out")
    assert caught.value.message == (
        f"{data}: has the classes background, gland, stroma, vessel, and {tmp_path / 'found'} has background, gland, "
        "vessel. Both must name them alike."
    )


def test_classes_are_paired_by_name_where_both_have_names(tmp_path: Path) -> None:
    """The truth numbers them otherwise, and does not show all."""
    codes = np.array([0, 7, 3], np.uint8)
    data = data_folder(
        tmp_path / "data", masks=codes[mask_of(TRUE)], description="classes: {0: background, 3: vessel, 7: gland}\n"
    )  # fmt: skip
    for name in ("a", "b"):
        leave(tmp_path / "found" / name, FOUND, classes=[*CLASSES, "nerve"])
    counts = pixels_of(measured(tmp_path / "found", data, tmp_path / "out"))
    assert counts.pop("nerve") == (0, 0, 0, 2 * HEIGHT * WIDTH)
    assert counts == expected_pixels(FOUND, TRUE, images=2)
    # Masks of another program hold the values that the truth has.
    for name in ("a", "b"):
        save_png(tmp_path / "plain" / f"{name}.png", codes[mask_of(FOUND)])
    notes: list[str] = []
    counts = pixels_of(measured(tmp_path / "plain", data, tmp_path / "out", on_note=notes.append))
    assert counts == expected_pixels(FOUND, TRUE, images=2)
    assert notes == [f"{tmp_path / 'plain'}: does not name its classes; they are taken to be 1 = vessel, 2 = gland"]
    save_png(tmp_path / "plain" / "a.png", mask_of(FOUND) * 5)
    with pytest.raises(InputError, match=r"plain: holds the values 5, 10, which are no classes \(0 = background, 3 ="):
        measured(tmp_path / "plain", data, tmp_path / "out")


def test_masks_that_evaluate_left_have_the_classes_of_its_metrics(tmp_path: Path) -> None:
    data = data_folder(
        tmp_path / "data", masks=mask_of(TRUE), description="classes: [background, gland, vessel]\n"
    )  # fmt: skip
    turned = np.array([0, 2, 1], np.uint8)
    for name in ("a", "b"):
        save_png(tmp_path / "evaluation" / "predictions" / f"{name}.png", turned[mask_of(FOUND)])
    (tmp_path / "evaluation" / "run.json").write_text('{"command": "evaluate"}')
    classes = [{"name": name} for name in ("background", "vessel", "gland")]
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps({"classes": classes}))
    counts = pixels_of(measured(tmp_path / "evaluation" / "predictions", data, tmp_path / "out"))
    assert counts == expected_pixels(FOUND, TRUE, images=2)


def test_values_that_a_described_truth_does_not_name_are_named(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", masks=mask_of(TRUE), description="classes: {0: background, 1: gland}\n")
    for name in ("a", "b"):
        save_png(tmp_path / "found" / f"{name}.png", mask_of(FOUND))
    with pytest.raises(InputError, match=r"data: holds the values 2, which are no classes \(0 = background, 1 = gland"):
        measured(tmp_path / "found", data, tmp_path / "out")


def test_predictions_of_models_with_different_classes_are_not_mixed(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", masks=mask_of(TRUE))
    leave(tmp_path / "found" / "a", FOUND)
    leave(tmp_path / "found" / "b", FOUND, classes=["background", "vessel", "gland"])
    with pytest.raises(InputError, match="predictions of different classes"):
        measured(tmp_path / "found", data, tmp_path / "out")


def test_what_does_not_pair_is_listed_whatever_it_is(tmp_path: Path) -> None:
    draw(tmp_path / "truth" / "a.geojson", TRUE)
    draw(tmp_path / "truth" / "b.geojson", TRUE)
    leave(tmp_path / "found" / "a", FOUND)
    leave(tmp_path / "found" / "c", FOUND)
    with pytest.raises(InputError, match="do not pair by name") as caught:
        measured(tmp_path / "found", tmp_path / "truth", tmp_path / "out")
    assert caught.value.problems == [
        f"b: no prediction in {tmp_path / 'found'}", f"c: no truth in {tmp_path / 'truth'}"
    ]  # fmt: skip


def test_polygons_that_lie_outside_are_counted(tmp_path: Path) -> None:
    draw(tmp_path / "truth" / "a.geojson", TRUE, scale=4)
    leave(tmp_path / "found" / "a", FOUND)
    with pytest.raises(InputError, match=r"a\.geojson: 2 of 3 polygons lie outside of a, which has 60 x 40 pixels"):
        measured(tmp_path / "found", tmp_path / "truth", tmp_path / "out")


def test_the_folder_of_one_slide_is_not_taken_for_all(tmp_path: Path) -> None:
    draw(tmp_path / "truth" / "a.geojson", TRUE)
    leave(tmp_path / "found" / "a", FOUND)
    with pytest.raises(UsageError, match=f"holds what was found in one image. Give .* {tmp_path / 'found'}"):
        measured(tmp_path / "found" / "a", tmp_path / "truth", tmp_path / "out")


@pytest.mark.parametrize("what", ["zarr", "record", "mixed", "empty", "none", "unannotated", "ids"])
def test_folders_that_cannot_be_used_say_why(tmp_path: Path, what: str) -> None:
    truth, found = tmp_path / "truth", tmp_path / "found"
    save_png(truth / "a.png", mask_of(TRUE))
    leave(found / "a", FOUND)
    words = {
        "zarr": "holds mask.ome.zarr, which is not read here. Predict with --format tiff",
        "record": r"run\.json: is not what segkit writes \(KeyError: 'downsample'\)",
        "mixed": r"holds truths of several kinds \(a\.png and b\.geojson\)",
        "empty": "holds no masks",
        "none": "no such folder",
        "unannotated": "has images and no annotations of them",
        "ids": "class ids are 0 to 255, found 0 to 3000. Ids of objects are measured where",
    }[what]
    if what == "zarr":
        (found / "a" / "mask.tif").rename(found / "a" / "mask.ome.zarr")
    elif what == "record":
        (found / "a" / "run.json").write_text('{"command": "predict", "slide": {}, "plan": {}}')
    elif what == "mixed":
        draw(truth / "b.geojson", TRUE)
    elif what in {"empty", "none"}:
        shutil.rmtree(truth)
        if what == "empty":
            truth.mkdir()
    elif what == "unannotated":
        save_png(truth / "images" / "a.png", mask_of(TRUE))
    else:
        Image.fromarray(mask_of(TRUE).astype(np.uint16) * 1500).save(truth / "a.png")
    with pytest.raises(InputError, match=words):
        measured(found, truth, tmp_path / "out")


def test_what_cannot_be_measured_on_it_is_refused(tmp_path: Path) -> None:
    save_png(tmp_path / "truth" / "a.png", mask_of(TRUE))
    leave(tmp_path / "found" / "a", FOUND)
    point_table(tmp_path / "points" / "a.csv", ["1,1,cell"], "x,y,label")
    for truth, measure, words in (("truth", "objects", "tell no objects apart"), ("points", "pixels", "holds points")):
        with pytest.raises(UsageError, match=words):
            measure_given(
                config("split=all", f"measure={measure}"), tmp_path / "found", tmp_path / truth, tmp_path,
                lambda *_: None, lambda _: None,
            )  # fmt: skip


@pytest.mark.parametrize("command", ["train", "predict", "compare"])
def test_what_another_command_left_is_not_replaced(tmp_path: Path, command: str) -> None:
    save_png(tmp_path / "truth" / "a.png", mask_of(TRUE))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(json.dumps({"command": command, "images": []}))
    with pytest.raises(UsageError, match=f"out: holds what `segkit {command}` left"):
        measured(tmp_path / "truth", tmp_path / "truth", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("checkpoints", r"is the folder of a training \(checkpoints\), maybe one that was interrupted"),
        ("model.safetensors", r"is the folder of a training \(model\.safetensors\)"),
        ("config.yaml", r"is the folder of a training \(config\.yaml\)"),
        *((name, f"holds {name}, which would be replaced, and nothing says that `segkit evaluate`") for name in LEAVES),
        ("run.json", r"holds run\.json, which would be replaced"),
    ],
)
def test_files_that_nobody_signed_are_not_replaced(tmp_path: Path, name: str, words: str) -> None:
    save_png(tmp_path / "truth" / "a.png", mask_of(TRUE))
    out = tmp_path / "out"
    out.mkdir()
    if name == "checkpoints":
        (out / name).mkdir()
    else:
        (out / name).write_text("not of an evaluation")
    with pytest.raises(UsageError, match=f"out: {words}"):
        measured(tmp_path / "truth", tmp_path / "truth", out)
    assert [path.name for path in out.iterdir()] == [name]
    assert name == "checkpoints" or (out / name).read_text() == "not of an evaluation"


def test_a_configuration_beside_a_record_of_its_own_is_no_training(tmp_path: Path) -> None:
    save_png(tmp_path / "truth" / "a.png", mask_of(TRUE))
    measured(tmp_path / "truth", tmp_path / "truth", tmp_path / "out")
    (tmp_path / "out" / "config.yaml").write_text("split: all\n")
    measured(tmp_path / "truth", tmp_path / "truth", tmp_path / "out")
    (tmp_path / "out" / "checkpoints").mkdir()
    with pytest.raises(UsageError, match=r"is the folder of a training \(checkpoints\)"):
        measured(tmp_path / "truth", tmp_path / "truth", tmp_path / "out")


@pytest.mark.parametrize("stage", ["write_remarks", "write_table", "write_page"])
def test_an_evaluation_that_was_interrupted_is_replaced(
    tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_png(tmp_path / "truth" / "a.png", mask_of(TRUE))
    first = measured(tmp_path / "truth", tmp_path / "truth", tmp_path / "out")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"segkit.workflows.evaluate.{stage}", stop)
        with pytest.raises(KeyboardInterrupt):
            measured(tmp_path / "truth", tmp_path / "truth", tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()
    assert not (tmp_path / "out" / "report.html").exists()
    again = measured(tmp_path / "truth", tmp_path / "truth", tmp_path / "out")
    assert asdict(again.report) == asdict(first.report)
    assert not (tmp_path / "out" / ".started.json").exists()


# The images that were predicted


def predicted_on(folder: Path, image: Path) -> None:
    """Let what was predicted say of which file it is."""
    record = json.loads((folder / "run.json").read_text())
    content = {"bytes": image.stat().st_size, "sha256_of_ends": sha256_of_ends(image)}
    (folder / "run.json").write_text(json.dumps({**record, "input": str(image), "key": {"slide": content}}))


@pytest.mark.parametrize("kind", ["masks", "labels", "points", "plain"])
def test_an_image_that_is_not_the_one_that_was_predicted_is_named(tmp_path: Path, kind: str) -> None:
    truths = {"masks": mask_of(TRUE), "labels": mask_of(TRUE, ids=True)}
    data = data_folder(tmp_path / "data", **{one: truths[one] for one in truths if kind in (one, "plain")})
    if kind == "points":
        point_table(data / "points.csv", ["a,11,10,cell", "b,5,5,cell"], "image,x,y,label")
    for name in ("a", "b"):
        leave(tmp_path / "found" / name, FOUND, mpp=None)
        predicted_on(tmp_path / "found" / name, data / "images" / f"{name}.png")
        if kind == "points":
            point_table(tmp_path / "found" / name / "detections.csv", ["1,1,0.5,cell"], "x_px,y_px,score,label")

    def noted() -> list[str]:
        notes: list[str] = []
        truth = data / "masks" if kind == "plain" else data
        measured(tmp_path / "found", truth, tmp_path / "out", "match_radius=3px", on_note=notes.append)
        return [note for note in notes if "not the files" in note]

    assert noted() == []
    image = data / "images" / "b.png"
    save_png(image, np.full((HEIGHT, WIDTH, 3), 7, np.uint8))
    (note,) = noted()
    assert note.startswith("1 of 2 images are not the files that were predicted, or have changed since (their bytes ")
    assert f"differ): {image}. If" in note
    assert note in json.loads((tmp_path / "out" / "metrics.json").read_text())["notes"]
    assert "1 of 2 images are not the files that were predicted" in (tmp_path / "out" / "report.html").read_text()


def test_an_evaluation_that_exists_is_replaced(tmp_path: Path) -> None:
    save_png(tmp_path / "truth" / "a.png", mask_of(TRUE))
    save_png(tmp_path / "found" / "a.png", mask_of(FOUND))
    first = measured(tmp_path / "truth", tmp_path / "truth", tmp_path / "out").report.headline.value
    second = measured(tmp_path / "found", tmp_path / "truth", tmp_path / "out").report.headline.value
    assert first == 1
    assert second is not None
    assert second < 1
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["headline"]["value"] == second


def test_of_a_data_folder_with_too_large_an_image_the_other_way_is_named(
    tmp_path: Path, tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.data.rasters.MAX_PIXELS", 100)
    with pytest.raises(InputError) as caught:
        evaluate(config(), data=DataConfig(dir=tiny_data), model=tiny_run, out=tmp_path / "out")
    assert "too many to be read whole" in str(caught.value)
    assert "to `segkit evaluate --pred --truth`, which reads blocks." in str(caught.value)


def test_a_description_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", masks=mask_of(TRUE), description="clases: [a]\n")
    save_png(tmp_path / "found" / "a.png", mask_of(FOUND))
    with pytest.raises(ConfigError, match="clases"):
        measured(tmp_path / "found", data, tmp_path / "out")
