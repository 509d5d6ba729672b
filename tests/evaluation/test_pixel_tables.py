"""Reports of pixel metrics and the files made of them."""

import csv
import importlib.metadata
import json

import numpy as np
import pytest

from segkit.evaluation import pixel_exports, pixels
from segkit.evaluation.calibration_tables import stack_calibrations
from segkit.evaluation.image_counts import ComparedImage, count_image
from segkit.evaluation.latex import as_latex
from segkit.evaluation.pixel_tables import PixelReport, dice_of_image, measure_pixels
from segkit.evaluation.surface_tables import stack_surfaces

CLASSES = ("background", "nucleus", "mitotic figure")


def images_like(num_images, seed=0):
    """Confusion matrices of images that are mostly right; every third has no mitotic figure at all."""
    rng = np.random.default_rng(seed)
    tables = rng.integers(1, 100, (num_images, 3, 3)) + np.eye(3, dtype=np.int64) * rng.integers(
        1, 2000, (num_images, 1, 1)
    )
    tables[::3, 2, :] = 0
    tables[::3, :, 2] = 0
    return tables


@pytest.fixture(scope="module")
def report() -> PixelReport:
    return measure_pixels([f"image_{i}" for i in range(9)], images_like(9), CLASSES)


def test_pooled_and_mean_are_what_they_say(report):
    tables = images_like(9)
    dice = pixels.dice(tables)
    nucleus = report.per_class[1]
    assert nucleus.pooled["dice"].value == pytest.approx(pixels.dice(tables.sum(axis=0))[1], abs=1e-6)
    assert nucleus.mean["dice"].value == pytest.approx(dice[:, 1].mean(), abs=1e-6)
    figure = report.per_class[2]
    assert figure.num_images == 6
    assert figure.mean["dice"].value == pytest.approx(np.nanmean(dice[:, 2]), abs=1e-6)
    assert report.pixel_error_pooled.value == pytest.approx(1 - np.trace(tables.sum(axis=0)) / tables.sum(), abs=1e-6)


def test_the_foreground_is_the_mean_of_its_classes(report):
    for how in ("pooled", "mean"):
        for metric in pixels.CLASS_METRICS:
            parts = [getattr(summary, how)[metric].value for summary in report.per_class[1:]]
            assert getattr(report.foreground, how)[metric].value == pytest.approx(np.mean(parts), abs=2e-6)
    assert report.headline == report.foreground.pooled["dice"]


def test_the_dice_of_an_image_by_itself_is_the_one_in_the_report(report):
    assert [dice_of_image(table) for table in images_like(9)] == [row.dice for row in report.images]
    assert dice_of_image(np.diag([5, 0, 0])) is None


def test_intervals_hold_their_estimates(report):
    for summary in (*report.per_class, report.foreground):
        for estimates in (summary.pooled, summary.mean):
            for estimate in estimates.values():
                assert estimate.low <= estimate.value <= estimate.high
                assert estimate.low < estimate.high


def test_reports_do_not_depend_on_anything_but_their_arguments(report):
    again = measure_pixels([f"image_{i}" for i in range(9)], images_like(9), CLASSES)
    assert again == report
    other_seed = measure_pixels([f"image_{i}" for i in range(9)], images_like(9), CLASSES, seed=1)
    assert other_seed.headline.value == report.headline.value
    assert other_seed.headline != report.headline


def test_intervals_over_groups_say_so():
    names, tables = [f"image_{i}" for i in range(9)], images_like(9)
    report = measure_pixels(names, tables, CLASSES, groups=["a", "a", "b", "b", "b", "c", "c", "d", "e"])
    assert (report.unit, report.num_units) == ("group", 5)
    assert report.images[3].group == "b"
    assert "over 5 groups" in pixel_exports.as_markdown(report)


@pytest.mark.parametrize("arguments", [{"names": ["one"]}, {"names": ["one", "two"], "groups": ["a", "a"]}])
def test_a_single_unit_has_no_intervals(arguments):
    report = measure_pixels(confusions=images_like(5)[1 : 1 + len(arguments["names"])], classes=CLASSES, **arguments)
    assert report.headline.value is not None
    assert (report.headline.low, report.headline.high) == (None, None)
    assert "No intervals" in pixel_exports.as_markdown(report)


def test_no_foreground_anywhere_is_undefined_and_still_written(tmp_path):
    tables = np.zeros((3, 2, 2), np.int64)
    tables[:, 0, 0] = 100
    report = measure_pixels(["a", "b", "c"], tables, ("background", "nucleus"))
    assert report.headline.value is None
    assert report.pixel_error_pooled.value == 0
    pixel_exports.write_report(report, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["headline"]["value"] is None
    assert "Dice undefined" in (tmp_path / "summary.md").read_text()
    assert "nan" not in (tmp_path / "metrics.csv").read_text().lower()


def test_csv_has_one_row_for_each_image_and_class_and_the_counts_behind_the_metrics(report, tmp_path):
    pixel_exports.write_report(report, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["image"], row["class"]) for row in rows] == [
        (f"image_{i}", name) for i in range(9) for name in CLASSES
    ]
    for row in rows:
        tp, fp, fn, tn = (int(row[column]) for column in ("tp_px", "fp_px", "fn_px", "tn_px"))
        assert tp + fp + fn + tn == images_like(9)[int(row["image"][-1])].sum()
        if tp + fp + fn:
            assert float(row["dice"]) == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-6)
        else:
            assert row["dice"] == row["iou"] == row["precision"] == row["recall"] == ""


def test_json_says_what_was_measured_and_how(report, tmp_path):
    pixel_exports.write_report(report, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["segkit"] == importlib.metadata.version("segkit")
    assert content["num_images"] == 9
    assert content["intervals"] == {
        "method": "percentile bootstrap",
        "level": 0.95,
        "samples": 1000,
        "seed": 0,
        "over": "image",
        "num_units": 9,
    }
    assert [summary["name"] for summary in content["classes"]] == list(CLASSES)
    assert set(pixels.CLASS_METRICS) | {"pixel_error", "undefined", "pooled", "mean"} <= set(content["definitions"])
    assert content["headline"]["value"] == content["foreground"]["pooled"]["dice"]["value"] == report.headline.value


def test_markdown_names_the_worst_images_and_keeps_strange_names_in_their_cells():
    names = [f"image|{i}" for i in range(9)]
    report = measure_pixels(names, images_like(9), ("background", "a|b", "*c*"))
    text = pixel_exports.as_markdown(report)
    worst = min(report.images, key=lambda row: row.dice)
    shown = worst.image.replace("|", "\\|").replace("_", "\\_")
    assert f"| {shown} | {worst.dice:.3f} |" in text
    assert f"**Dice {report.headline}**" in text
    tables = [line.replace("\\|", "").split("|") for line in text.splitlines() if line.startswith("|")]
    assert {len(cells) for cells in tables} == {5, 9}
    assert "\\*c\\*" in text


def full_report(**options):
    """A report with distances, probabilities, groups and scanners."""
    rng = np.random.default_rng(3)
    images = []
    for number in range(6):
        truth, prediction = rng.integers(0, 3, (2, 12, 15), dtype=np.uint8)
        maps = rng.integers(0, 256, (12, 15, 2), dtype=np.uint8)
        if number == 4:
            truth[truth == 2] = 0
        image = ComparedImage(
            name=f"image_{number}",
            truth=truth,
            prediction=prediction,
            mpp=0.5,
            foreground=maps[..., 0],
            of_classes=maps,
        )
        images.append(count_image(image, 3, tolerance_px=2.0))
    return images, measure_pixels(
        [one.name for one in images],
        np.stack([one.confusion for one in images]),
        CLASSES,
        surfaces=stack_surfaces([one.surfaces for one in images], [one.mpp for one in images], 3),
        tolerance="1um",
        calibrations=stack_calibrations([one.calibrations for one in images]),
        groups=["s1", "s1", "s1", "s2", "s2", "s3"],
        attributes={"scanner": ["x", "y", "x", "y", "x", "y"], "class": ["p", "q"] * 3},
        num_samples=50,
    )


def test_distances_and_calibrations_stand_beside_the_other_metrics():
    images, report = full_report()
    surfaces = np.stack([one.surfaces for one in images])
    nucleus = report.per_class[1]
    assert nucleus.mean["hd95_um"].value == pytest.approx(0.5 * surfaces[:, 0, 0].mean(), abs=1e-6)
    sums = surfaces[:, 0].sum(axis=0)
    assert nucleus.pooled["assd_um"].value == pytest.approx(0.5 * sums[3] / sums[2], abs=1e-6)
    assert nucleus.pooled["nsd"].value == pytest.approx(sums[4] / sums[2], abs=1e-6)
    assert "hd95_um" not in nucleus.pooled
    assert report.foreground.mean["hd95_um"].value == pytest.approx(
        np.mean([one.mean["hd95_um"].value for one in report.per_class[1:]]), abs=2e-6
    )
    # The third class is in no truth of the fifth image: its distances there are the diagonal.
    row = next(one for one in report.rows if (one.image, one.name) == ("image_4", "mitotic figure"))
    assert row.metrics["hd95_um"] == row.metrics["assd_um"] == pytest.approx(0.5 * np.hypot(12, 15), abs=1e-6)
    assert row.metrics["nsd"] == 0
    assert [one.name for one in report.calibrations] == ["not background", "nucleus", "mitotic figure"]
    assert report.calibrations[1].pooled == {name: nucleus.pooled[name] for name in ("ece", "mce", "brier")}
    assert report.per_class[0].pooled.keys() == set(pixels.CLASS_METRICS)
    assert (report.surfaces.unit, report.surfaces.tolerance, report.surfaces.num_images) == ("um", "1um", 6)
    assert [one.num_diagonals for one in (*report.per_class, report.foreground)] == [None, 0, 1, 1]


def test_each_mean_says_how_many_images_it_is_over(tmp_path):
    nothing, found, missed = np.diag([9, 0]), np.array([[5, 4], [0, 0]]), np.array([[5, 0], [4, 0]])
    right, whole = np.array([[5, 0], [0, 4]]), np.array([[0, 0], [0, 9]])
    tables = np.stack([nothing, found, missed, right, whole])
    tallies = [[0, 0], [0, 1], [0, 1], [0, 0], [0, 0]]
    rows = [np.array([[1.0, 1.0, 4 * (index > 0), 1.0, 1.0, one]]) for index, (_, one) in enumerate(tallies)]
    names, groups = ["nothing", "found", "missed", "right", "whole"], ["a", "a", "b", "b", "b"]
    report = measure_pixels(
        names, tables, ("background", "cell"), surfaces=stack_surfaces(rows, [1] * 5, 2), groups=groups
    )
    cell = report.per_class[1]
    assert cell.num_images == 3
    for metric, number in {"dice": 4, "iou": 4, "precision": 3, "recall": 3, "specificity": 4, "nsd": 4}.items():
        assert cell.num_defined[metric] == report.foreground.num_defined[metric] == number
        values = [one.metrics[metric] for one in report.rows if one.name == "cell"]
        assert sum(value is not None for value in values) == number
    assert (cell.num_diagonals, report.num_defined) == (2, 5)
    assert [one.per_class[1].num_diagonals for one in report.groups] == [1, 1]
    pixel_exports.write_report(report, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["classes"][1]["num_defined"] == dict(cell.num_defined)
    assert content["classes"][1]["num_diagonals"] == 2
    assert content["pixel_error"]["num_defined"] == 5
    assert {"num_defined", "num_diagonals", "num_images"} <= content["definitions"].keys()
    text = (tmp_path / "summary.md").read_text()
    assert f"| {cell.mean['precision']}, n 3 |" in text
    assert "Only one of truth and prediction is empty in 2 of 4 images of the class cell" in text
    assert "in 2 of them only one of truth and prediction is empty" in as_latex(report)


def test_the_diagonal_is_not_spoken_of_where_it_stands_nowhere():
    tables = np.stack([np.diag([5, 5])] * 2)
    row = np.array([[1.0, 1.0, 4.0, 1.0, 1.0, 0.0]])
    report = measure_pixels(
        ["a", "b"], tables, ("background", "cell"), surfaces=stack_surfaces([row] * 2, [1] * 2, 2), tolerance="2px"
    )
    assert report.per_class[1].num_diagonals == 0
    assert "only one of truth" not in pixel_exports.as_markdown(report).split("## Definitions")[0].lower()


def test_without_distances_there_are_no_diagonals(report):
    assert {one.num_diagonals for one in (*report.per_class, report.foreground)} == {None}


def test_groups_are_measured_as_if_there_were_no_other_images():
    images, report = full_report()
    assert [(one.by, one.name, one.num_images, one.num_units) for one in report.groups] == [
        ("group", "s1", 3, 1), ("group", "s2", 2, 1), ("group", "s3", 1, 1),
        ("scanner", "x", 3, 2), ("scanner", "y", 3, 3), ("class", "p", 3, 2), ("class", "q", 3, 3),
    ]  # fmt: skip
    for group, places in (("s1", [0, 1, 2]), ("x", [0, 2, 4])):
        found = next(one for one in report.groups if one.name == group)
        tables = np.stack([images[place].confusion for place in places])
        assert found.foreground.pooled["dice"].value == pytest.approx(
            np.nanmean(pixels.dice(tables.sum(axis=0))[1:]), abs=1e-6
        )
        assert found.pixel_error_mean.value == pytest.approx(pixels.pixel_error(tables).mean(), abs=1e-6)
        rows = np.stack([images[place].surfaces[0] for place in places])
        assert found.per_class[1].mean["hd95_um"].value == pytest.approx(0.5 * rows[:, 0].mean(), abs=1e-6)
        # A group that is a single unit of the bootstrap has no intervals.
        assert (found.foreground.pooled["dice"].low is None) == (group == "s1")


def test_files_have_everything_that_was_measured(tmp_path):
    _, report = full_report()
    pixel_exports.write_report(report, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    further = ["hd95_um", "hd_um", "assd_um", "nsd", "ece", "mce", "brier"]
    assert list(rows[0]) == [
        "image", "group", "scanner", "class", *pixels.CLASS_METRICS, *further, "pixel_error",
        *(f"{name}_not_background" for name in ("ece", "mce", "brier")), "tp_px", "fp_px", "fn_px", "tn_px",
    ]  # fmt: skip
    assert [row["scanner"] for row in rows[::3]] == ["x", "y", "x", "y", "x", "y"]
    assert [row["class"] for row in rows[:3]] == list(CLASSES)  # the column of that name gives way
    assert {row[name] for row in rows[::3] for name in further} == {""}
    assert float(rows[1]["hd95_um"]) == report.rows[1].metrics["hd95_um"]
    assert float(rows[1]["ece_not_background"]) == report.images[0].calibration["ece"]
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["classes"][1]["mean"]["hd95_um"]["value"] == report.per_class[1].mean["hd95_um"].value
    assert content["groups"][3]["foreground"]["pooled"]["dice"]["low"] is not None
    assert content["surface_tolerance"] == "1um"
    assert len(content["calibration"][0]["curve"]) == 15
    assert [one["name"] for one in content["threshold_sweeps"]] == ["not background", "nucleus", "mitotic figure"]
    with (tmp_path / "curves.csv").open(newline="") as handle:
        assert len(list(csv.DictReader(handle))) == 3 * 256
    measured = {name for one in content["classes"] for how in ("pooled", "mean") for name in one[how]}
    assert measured <= set(content["definitions"])
    text = (tmp_path / "summary.md").read_text()
    for words in (
        "## By scanner",
        "## Calibration",
        "| HD95 (um) |",
        "*not background*",
        "tolerance of 1um",
        "## By group",
        "## Thresholds of the probability",
    ):
        assert words in text
    assert str(report.per_class[1].mean["hd95_um"]) in text


@pytest.mark.parametrize(
    ("names", "classes"),
    [([], CLASSES), (["a", "a"], CLASSES), (["a"], CLASSES), (["a", "b"], CLASSES[:2]), (["a", "b"], CLASSES[:1])],
)
def test_arguments_that_do_not_fit_together_are_refused(names, classes):
    with pytest.raises(ValueError, match=r"names|classes"):
        measure_pixels(names, images_like(2), classes)
