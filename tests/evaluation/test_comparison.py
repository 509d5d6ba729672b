"""Comparing evaluations: a bootstrap by hand, the numbers of the evaluations themselves, and what files say."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.evaluation import confidence, object_exports, pixel_exports, point_exports, point_summary
from segkit.evaluation.comparison import Comparison, Metric, compare_metrics
from segkit.evaluation.comparison_exports import as_csv_rows, as_json, as_markdown, write_comparison
from segkit.evaluation.comparison_rows import Rows, better_of, metrics_of, read_rows
from segkit.evaluation.estimates import ratio
from segkit.evaluation.latex import as_latex, escape, format_number, name_of_metric
from segkit.evaluation.object_tables import measure_objects
from segkit.evaluation.objects import match_objects
from segkit.evaluation.pixel_tables import measure_pixels
from segkit.evaluation.point_tables import measure_points
from segkit.points import Detections, Points

NAMES = [f"image{number}" for number in range(7)]
GROUPS = list("aabbccd")
SAMPLES = 60


def dice(counts: NDArray[np.generic]) -> NDArray[np.float64]:
    tp, wrong = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    return ratio(2 * tp, 2 * tp + wrong)


def dice_metric(seed: int, num_evaluations: int = 3, num_images: int = 7) -> Metric:
    counts = np.random.default_rng(seed).integers(0, 5, (num_evaluations, num_images, 1, 2))
    return Metric(name="dice", of="cell", better="higher", values=dice(counts), counts=counts, of_counts=dice)


def mean_metric(values: Sequence[Sequence[float]], better: Any = "higher") -> Metric:
    return Metric(name="dice", of="cell", better=better, values=np.array(values)[..., np.newaxis])


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("seed", range(3))
def test_differences_are_those_of_a_bootstrap_by_hand(groups: list[str] | None, seed: int) -> None:
    metric = dice_metric(seed)
    assert metric.counts is not None
    found = compare_metrics("pixels", "ABC", NAMES, [metric], groups=groups, num_samples=SAMPLES, seed=seed)
    drawn = confidence.resample(7, groups=groups, num_samples=SAMPLES, seed=seed).astype(int)
    pooled, means = found.metrics
    for place in (1, 2):
        by_sample: dict[str, list[float]] = {"pooled": [], "mean": []}
        for weights in drawn:
            images = np.repeat(np.arange(7), weights)
            sums = [metric.counts[which, images, 0].sum(axis=0) for which in (0, place)]
            per_image = [metric.values[which, images, 0] for which in (0, place)]
            by_sample["pooled"].append(float(dice(sums[1]) - dice(sums[0])))
            by_sample["mean"].append(float(np.nanmean(per_image[1]) - np.nanmean(per_image[0])))
        for one in (pooled, means):
            difference, samples = one.differences[place - 1], np.array(by_sample[one.how])
            estimate = difference.estimate
            assert [estimate.low, estimate.high] == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=1e-6)
            assert difference.share_better == pytest.approx((samples > 1e-12).mean(), abs=1e-6)
            assert difference.share_worse == pytest.approx((samples < -1e-12).mean(), abs=1e-6)
            assert estimate.value == pytest.approx(one.values[place].value - one.values[0].value, abs=2e-6)


def test_an_evaluation_does_not_differ_from_itself() -> None:
    metric = dice_metric(0, num_evaluations=1)
    assert metric.counts is not None
    twice = Metric(
        name="dice", of="cell", better="higher", values=metric.values.repeat(2, axis=0),
        counts=metric.counts.repeat(2, axis=0), of_counts=dice,
    )  # fmt: skip
    found = compare_metrics("pixels", "AB", NAMES, [twice], num_samples=SAMPLES)
    for one in found.metrics:
        (difference,) = one.differences
        assert (difference.estimate.value, difference.estimate.low, difference.estimate.high) == (0, 0, 0)
        assert (difference.share_better, difference.share_worse) == (0, 0)
    assert [image.largest_difference for image in found.images] == [0] * 7
    assert [image.image for image in found.images] == NAMES


def test_what_all_images_share_is_not_in_the_interval_of_the_difference() -> None:
    """Images are hard or easy for both; B is better by as much in each."""
    easy = np.linspace(0.1, 0.8, 7)
    (mean,) = compare_metrics("pixels", "AB", NAMES, [mean_metric([easy, easy + 0.1])], num_samples=SAMPLES).metrics
    (difference,) = mean.differences
    assert [difference.estimate.value, difference.estimate.low, difference.estimate.high] == pytest.approx([0.1] * 3)
    assert (difference.share_better, difference.share_worse) == (1, 0)
    assert mean.values[0].high is not None
    assert mean.values[1].low is not None
    assert mean.values[0].high > mean.values[1].low  # apart from each other they overlap


@pytest.mark.parametrize(("better", "shares"), [("higher", (1, 0)), ("lower", (0, 1)), (None, (None, None))])
def test_better_is_what_the_metric_says(better: Any, shares: tuple[float | None, float | None]) -> None:
    metric = mean_metric([[0.1, 0.2, 0.3], [0.2, 0.4, 0.5]], better)
    (mean,) = compare_metrics("pixels", "AB", NAMES[:3], [metric], num_samples=SAMPLES).metrics
    assert (mean.differences[0].share_better, mean.differences[0].share_worse) == shares


def test_images_where_they_differ_most_come_first_and_nothing_to_find_counts_as_found() -> None:
    nan = float("nan")
    metric = mean_metric([[0.5, nan, 0.9, nan], [0.6, 0.0, 0.5, nan], [0.5, nan, 0.7, nan]])
    found = compare_metrics("pixels", "ABC", NAMES[:4], [metric], num_samples=SAMPLES)
    assert [image.image for image in found.images] == ["image1", "image2", "image0", "image3"]
    assert [image.largest_difference for image in found.images] == pytest.approx([1, 0.4, 0.1, 0])
    assert found.images[0].values == (None, 0, None)


def test_a_single_image_or_group_has_no_intervals() -> None:
    for names, groups in ((NAMES[:1], None), (NAMES[:3], ["a"] * 3)):
        metric = mean_metric([[0.25] * len(names), [0.5] * len(names)])
        found = compare_metrics("pixels", "AB", names, [metric], groups=groups)
        (difference,) = found.metrics[0].differences
        assert (difference.estimate.value, difference.estimate.low) == (0.25, None)
        assert difference.share_better is None


def test_what_cannot_be_compared_is_refused() -> None:
    metric = dice_metric(0)
    for labels, names, metrics in (
        ("A", NAMES, [metric]),
        ("AB", NAMES, [metric]),
        ("ABC", NAMES[:6], [metric]),
        ("AAC", NAMES, [metric]),
        ("ABC", [NAMES[0]] * 7, [metric]),
        ("ABC", NAMES, []),
    ):
        with pytest.raises(ValueError, match=r"evaluations|repeat"):
            compare_metrics("pixels", labels, names, metrics)


# From the files of an evaluation


def through_csv(rows: Sequence[dict[str, Any]]) -> Rows:
    """Write rows as files have them, and read them again."""
    handle = io.StringIO()
    writer = csv.DictWriter(handle, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    reader = csv.DictReader(io.StringIO(handle.getvalue()))
    return read_rows(list(reader.fieldnames or []), list(reader))


def pixel_report(seed: int, num_classes: int = 3, groups: list[str] | None = None) -> Any:
    rng = np.random.default_rng(seed)
    confusions = rng.integers(0, 50, (7, num_classes, num_classes))
    confusions[0, 1:] = confusions[0, :, 1:] = 0  # an image with nothing to find, and nothing found
    classes = ["background", "gland", "nucleus"][:num_classes]
    return measure_pixels(NAMES, confusions, classes, groups=groups, num_samples=SAMPLES)


def object_report(seed: int, groups: list[str] | None = None) -> Any:
    rng = np.random.default_rng(seed)
    overlaps = []
    for number in range(7):
        truth = np.kron(np.random.default_rng(number).integers(0, 9, (4, 4)), np.ones((5, 5), int))
        found = np.where(rng.random(truth.shape) < 0.2, rng.integers(0, 12, truth.shape), truth)
        overlaps.append(match_objects(truth * bool(number), found * bool(number)))
    return measure_objects(NAMES, overlaps, name="nucleus", groups=groups, num_samples=SAMPLES)


def point_report(seed: int, groups: list[str] | None = None) -> Any:
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for number in range(7):
        known = np.random.default_rng(number)
        truth = known.uniform(0, 100, (5 * bool(number), 2))
        found = np.concatenate([truth + rng.normal(0, 3, truth.shape), rng.uniform(0, 100, (3 * bool(number), 2))])
        truths.append(Points(truth, known.integers(1, 3, len(truth))))
        detections.append(Detections(found, rng.integers(1, 3, len(found)), -np.sort(-rng.random(len(found)))))
    return measure_points(
        NAMES, detections, truths, ["background", "red", "blue"], radius_px=5, mpp=0.5, areas_px=[10_000] * 7,
        thresholds=[0, 0], groups=groups, num_samples=SAMPLES,
    )  # fmt: skip


def compared(make: Callable[..., Any], rows_of: Callable[..., Any], json_of: Callable[..., Any]) -> Comparison:
    reports = [make(seed, groups=GROUPS) for seed in (1, 2)]
    rows = [through_csv(rows_of(report)) for report in reports]
    metrics = metrics_of(rows, json_of(reports[0])["definitions"], json_of(reports[0]).get("thresholds", ()))
    return compare_metrics(rows[0].kind, "AB", rows[0].images, metrics, groups=GROUPS, num_samples=SAMPLES)


def values_of(comparison: Comparison) -> dict[tuple[str, str, str], Any]:
    return {(one.name, one.of, one.how): one.values for one in comparison.metrics}


def close(found: Any, expected: Any) -> bool:
    ends = [(one.value, one.low, one.high) for one in (found, expected)]
    return all(a == b or a == pytest.approx(b, abs=2e-6) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_pixels_have_the_numbers_of_the_evaluations(num_classes: int) -> None:
    def make(seed: int, groups: list[str]) -> Any:
        return pixel_report(seed, num_classes, groups)

    comparison = compared(make, pixel_exports.as_csv_rows, pixel_exports.as_json)
    values = values_of(comparison)
    assert comparison.headline.name == "dice"
    assert comparison.headline.of == ("foreground" if num_classes == 3 else "gland")
    for place, seed in enumerate((1, 2)):
        report = make(seed, GROUPS)
        summaries = [*report.per_class[1:], *([report.foreground] if num_classes == 3 else [])]
        for summary in summaries:
            for metric in summary.pooled:
                assert close(values[metric, summary.name, "pooled"][place], summary.pooled[metric])
                assert close(values[metric, summary.name, "mean"][place], summary.mean[metric])
        assert close(values["pixel_error", "all", "pooled"][place], report.pixel_error_pooled)
        assert close(values["pixel_error", "all", "mean"][place], report.pixel_error_mean)


def test_objects_have_the_numbers_of_the_evaluations() -> None:
    comparison = compared(object_report, object_exports.as_csv_rows, object_exports.as_json)
    values = values_of(comparison)
    assert (comparison.headline.name, comparison.headline.of) == ("average_precision", "IoU 0.5")
    for place, seed in enumerate((1, 2)):
        report = object_report(seed, GROUPS)
        for how, summary in (("pooled", report.pooled), ("mean", report.mean)):
            for metric, estimates in summary.at.items():
                assert close(values[metric, "IoU 0.5", how][place], estimates[0]), (metric, how)
            assert close(values["average_precision_0.75", "IoU 0.75", how][place], summary.at["average_precision"][5])
            assert close(values["mean_average_precision", "all IoUs", how][place], summary.mean_average_precision)
            for metric, estimate in summary.overall.items():
                assert close(values[metric, "all", how][place], estimate), (metric, how)


def test_points_have_the_numbers_of_the_evaluations() -> None:
    comparison = compared(point_report, point_exports.as_csv_rows, point_exports.as_json)
    values = values_of(comparison)
    assert (comparison.headline.name, comparison.headline.of) == ("f1", "foreground")
    for place, seed in enumerate((1, 2)):
        report = point_report(seed, GROUPS)
        for metric in ("f1", "precision", "recall"):
            assert close(values[metric, "foreground", "pooled"][place], report.foreground[metric])
            for summary in report.per_class:
                assert close(values[metric, summary.name, "pooled"][place], summary.pooled[metric])
        for metric in point_summary.METRICS:
            assert close(values[metric, "foreground", "mean"][place], report.foreground_mean[metric])
            for summary in report.per_class:
                assert close(values[metric, summary.name, "mean"][place], summary.mean[metric])
    assert ("average_precision", "foreground", "pooled") not in values


def test_other_columns_are_metrics_if_they_are_defined() -> None:
    """Distances of one class, a calibration of the image, an attribute that happens to be a number."""
    rows = pixel_exports.as_csv_rows(pixel_report(1))
    for number, row in enumerate(rows):
        row |= {"hd95_um": "" if number == 4 else number, "ece": row["image"][-1], "scanner": 3, "site": "north"}
    found = through_csv(rows)
    metrics = {(one.name, one.of): one for one in metrics_of([found, found], {"hd95", "ece", "dice"})}
    assert "scanner" not in {name for name, _ in metrics}
    assert [of for name, of in metrics if name == "ece"] == ["all"]
    assert [of for name, of in metrics if name == "hd95_um"] == ["foreground", "gland", "nucleus"]
    distances = metrics["hd95_um", "gland"]
    assert (distances.better, distances.counts) == ("lower", None)
    assert np.array_equal(distances.values[0, :, 0], [1, np.nan, 7, 10, 13, 16, 19], equal_nan=True)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("dice", "higher"), ("average_precision_0.75", "higher"), ("aji_plus", "higher"), ("nsd_2um", "higher"),
        ("pixel_error", "lower"), ("hd95_um", "lower"), ("assd_px", "lower"), ("absolute_count_error", "lower"),
        ("variation_of_information", "lower"), ("count_error", None), ("relative_count_error", None),
        ("true_per_mm2", None),
    ],
)  # fmt: skip
def test_which_values_are_better(name: str, better: str | None) -> None:
    assert better_of(name) == better


def test_rows_are_chosen_and_ordered_by_name() -> None:
    rows = pixel_exports.as_csv_rows(pixel_report(1, groups=GROUPS))
    whole, mixed = through_csv(rows), through_csv(rows[::-1])
    assert whole.images == mixed.images == tuple(NAMES)
    assert mixed.classes == whole.classes[::-1]
    chosen = whole.of_images(["image4", "image1"])
    assert chosen.groups == ("c", "a")
    assert np.array_equal(chosen.truth, whole.truth[[4, 1]])


def broken(rows: list[dict[str, Any]], how: str) -> list[dict[str, Any]]:
    if how == "row":
        return rows[:-1]
    if how == "twice":
        return [*rows[:-1], rows[0]]
    if how == "number":
        return [{**row, "tp_px": "many"} for row in rows]
    if how == "empty":
        return [{**row, "tp_px": ""} for row in rows]
    if how == "none":
        return [{"image": row["image"]} for row in rows]
    return [{name: value for name, value in row.items() if name != "fn_px"} for row in rows]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("row", "20 rows, and 7 images with 3 classes"), ("twice", "need a whole one of each"),
        ("number", "no numbers in its column tp_px"), ("empty", "empty cells in its column tp_px"),
        ("none", "not those of an evaluation"), ("column", "has no column fn_px"),
    ],
)  # fmt: skip
def test_damaged_tables_are_refused(how: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        through_csv(broken(pixel_exports.as_csv_rows(pixel_report(1)), how))


# What is written


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compared(pixel_report, pixel_exports.as_csv_rows, pixel_exports.as_json)


FACTS = {"folders": {"A": "eval/a_1", "B": "eval/b"}}


def test_files_say_what_was_compared(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(comparison, tmp_path, facts=FACTS, remarks=["B differs"], meanings={"dice": "2 TP / ..."})
    assert {path.name for path in tmp_path.iterdir()} == {
        "comparison.json", "comparison.csv", "comparison.md", "table.tex"
    }  # fmt: skip
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["headline"]["differences"]["B"]["share_better"] == comparison.headline.differences[0].share_better
    assert {"dice", "difference", "share_better"} <= content["definitions"].keys()
    assert content["notes"] == ["B differs"]
    assert len(content["metrics"]) == len(comparison.metrics)
    with (tmp_path / "comparison.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["image"] for row in rows] == [image.image for image in comparison.images]
    first, image = rows[0], comparison.images[0]
    assert [float(first["dice A"]), float(first["dice B"])] == pytest.approx(list(image.values), abs=1e-6)
    assert float(first["B - A"]) == pytest.approx(image.values[1] - image.values[0], abs=2e-6)  # type: ignore[operator]


def test_the_summary_has_whole_tables(comparison: Comparison) -> None:
    text = as_markdown(comparison, facts=FACTS, remarks=[], meanings={})
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") in {7, 5}, line
    assert "eval/a\\_1" in text
    assert "## Images where they differ most" in text
    assert "no p-value" in text.lower()


def test_an_image_without_a_value_has_an_empty_cell(comparison: Comparison) -> None:
    (row,) = [row for row in as_csv_rows(comparison) if row["image"] == "image0"]
    assert (row["dice A"], row["B - A"], row["largest_difference"]) == (None, None, 0)
    plain = as_json(comparison, facts={}, remarks=[], meanings={})
    json.dumps(plain, allow_nan=False)


# LaTeX


UNESCAPED = re.compile(r"(?<!\\)[$&#%_^~<>|]|(?<!\\)\{(?!\})")


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=30))
def test_names_are_escaped_for_latex(text: str) -> None:
    """No sign that LaTeX would take for its own is left, and taking the escapes back gives the text again."""
    escaped = escape(text)
    assert not UNESCAPED.search(re.sub(r"\\text\w+\{\}", "", escaped))
    words = {
        "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
        "textbar": "|",
    }  # fmt: skip
    back = re.sub(r"\\(text\w+)\{\}|\\(.)", lambda one: words[one[1]] if one[1] else one[2], escaped)
    assert back == " ".join(text.split())


def test_numbers_and_names_for_latex() -> None:
    assert [format_number(value) for value in (0.5, -0.25, None)] == ["$0.500$", "$-0.250$", "--"]
    assert format_number(0.25, signed=True) == "$+0.250$"
    names = ["average_precision_0.75", "aji_plus", "pixel_error", "hd95_um", "f1"]
    assert [name_of_metric(name) for name in names] == ["AP 0.75", "AJI+", "pixel error", r"HD95 ($\mu$m)", "F1"]


@pytest.mark.parametrize("kind", ["pixels", "one class", "objects", "points", "comparison"])
def test_every_report_makes_a_table_whose_rows_have_as_many_cells_as_its_header(
    kind: str, comparison: Comparison
) -> None:
    report = {
        "pixels": lambda: pixel_report(1), "one class": lambda: pixel_report(1, 2), "objects": lambda: object_report(1),
        "points": lambda: point_report(1), "comparison": lambda: comparison,
    }[kind]()  # fmt: skip
    lines = [line for line in as_latex(report).splitlines() if not line.startswith("%")]
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[0])
    assert columns
    rows = [line for line in lines if line.endswith(r" \\")]
    assert {line.count(" & ") + 1 for line in rows} == {len(columns[1])}
    assert lines[1:2] == [r"\toprule"]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    if kind != "comparison":
        headline = report.headline
        assert f"${headline.value:.3f}$ (${headline.low:.3f}$ to ${headline.high:.3f}$)" in as_latex(report)
