"""Objects of several classes: each measured as if alone, their mean as CoNIC defines it, and what files say."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.evaluation.comparison import Comparison, compare_metrics
from segkit.evaluation.comparison_rows import Rows, metrics_of, read_rows
from segkit.evaluation.estimates import Estimate
from segkit.evaluation.latex import as_latex
from segkit.evaluation.object_classes import ObjectClasses, classes_of, divide, majority_classes
from segkit.evaluation.object_exports import as_csv_rows, as_json, as_markdown, write_object_report
from segkit.evaluation.object_tables import AP, MEAN_AP, ObjectReport, measure_objects
from segkit.evaluation.objects import METRICS, match_objects

CLASSES = ("background", "gland", "vessel", "nerve")
Image = tuple[NDArray[np.int64], NDArray[np.int64], ObjectClasses]


def row(*ids: int) -> NDArray[np.int64]:
    return np.array([ids])


def image(truth: NDArray[np.int64], found: NDArray[np.int64], true: list[int], predicted: list[int]) -> Image:
    """Return an image; classes are those of the ids 1, 2, .."""
    return truth, found, ObjectClasses(np.array([0, *true]), np.array([0, *predicted]))


def images_of_three() -> list[Image]:
    """Return three true objects with one of three of the right class, an image of another class, and an empty one."""
    shapes = row(1, 1, 0, 2, 2, 0, 3, 3)
    return [
        image(shapes, shapes, [1, 1, 2], [1, 2, 1]),
        image(row(1, 1, 1, 0, 0, 0, 0, 0), row(1, 1, 0, 0, 0, 0, 0, 0), [2], [2]),
        image(row(*[0] * 8), row(*[0] * 8), [], []),
    ]


def report_of(images: list[Image], classes: tuple[str, ...] = CLASSES, **more: Any) -> ObjectReport:
    overlaps = [match_objects(truth, found) for truth, found, _ in images]
    settings: dict[str, Any] = {"num_samples": 20, "mpp": 0.5, "areas_px": [truth.size for truth, _, _ in images]}
    return measure_objects(
        [f"image{number}" for number in range(len(images))],
        overlaps,
        name="any class",
        classes=classes,
        object_classes=[classes_of(one, *of) for one, (_, _, of) in zip(overlaps, images, strict=True)],
        **settings | more,
    )


@st.composite
def drawn_images(draw: st.DrawFn) -> list[Image]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 8)))
        ids = st.lists(st.integers(0, 4), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
        truth, predicted = (np.array(draw(ids)).reshape(shape) for _ in range(2))
        keep = np.array(draw(st.lists(st.booleans(), min_size=truth.size, max_size=truth.size))).reshape(shape)
        classes = [np.array([0, *draw(st.lists(st.integers(1, 3), min_size=4, max_size=4))]) for _ in range(2)]
        found.append((truth, np.where(keep, truth, predicted), ObjectClasses(*classes)))
    return found


def conic_mpq_plus(images: list[Image]) -> float:
    """Derive mPQ+ anew from the paper: counts of each class over all images, PQ of each class, mean of the classes."""
    qualities = []
    for index in (1, 2, 3):
        tp = fp = fn = 0
        iou_sum = 0.0
        for truth, found, of in images:
            true = [truth == one for one in range(1, 5) if of.true[one] == index and (truth == one).any()]
            predicted = [found == one for one in range(1, 5) if of.predicted[one] == index and (found == one).any()]
            ious = np.array([[(a & b).sum() / (a | b).sum() for b in predicted] for a in true]).reshape(
                len(true), len(predicted)
            )
            pairs = ious[ious > 0.5]
            tp, fp, fn = tp + len(pairs), fp + len(predicted) - len(pairs), fn + len(true) - len(pairs)
            iou_sum += pairs.sum()
        if tp + fp + fn:
            qualities.append(iou_sum / (tp + fp / 2 + fn / 2))
    return float(np.mean(qualities)) if qualities else np.nan


@settings(max_examples=25, deadline=None)
@given(drawn_images())
def test_the_mean_of_pooled_pq_is_mpq_plus(images: list[Image]) -> None:
    report = report_of(images, thresholds=[0.5 + 1e-9])
    assert report.foreground is not None
    found = report.foreground.pooled.at["panoptic_quality"][0].value
    expected = conic_mpq_plus(images)
    assert found is None if np.isnan(expected) else found == pytest.approx(expected, abs=1e-6)


@settings(max_examples=8, deadline=None)
@given(drawn_images())
def test_a_class_is_measured_as_if_its_objects_were_all(images: list[Image]) -> None:
    groups = ["a", "b", "a"][: len(images)]
    report = report_of(images, groups=groups)
    assert [one.name for one in report.per_class] == list(CLASSES[1:])
    for index, one in enumerate(report.per_class, start=1):
        own = [
            match_objects(np.where(of.true[truth] == index, truth, 0), np.where(of.predicted[found] == index, found, 0))
            for truth, found, of in images
        ]
        alone = measure_objects(
            [row.image for row in report.images], own, name=one.name, groups=groups, mpp=0.5, num_samples=20,
            areas_px=[truth.size for truth, _, _ in images],
        )  # fmt: skip
        assert (one.pooled, one.mean, one.densities) == (alone.pooled, alone.mean, alone.densities)
        assert (one.num_true, one.num_predicted) == (alone.num_true, alone.num_predicted)
        rows = [row for row in report.rows if row.name == one.name]
        assert [row.counts for row in rows] == [row.counts for row in alone.images]
        assert [row.totals for row in rows] == [row.totals for row in alone.images]
        assert [of.pooled for of in report.groups if of.of == one.name] == [of.pooled for of in alone.groups]
    # What is there of any class is what there would be without classes.
    plain = measure_objects(
        [row.image for row in report.images], [match_objects(*one[:2]) for one in images], name="any class",
        groups=groups, mpp=0.5, num_samples=20, areas_px=[truth.size for truth, _, _ in images],
    )  # fmt: skip
    assert (report.pooled, report.mean, report.by_size) == (plain.pooled, plain.mean, plain.by_size)


def test_a_wrong_class_costs_what_two_errors_do() -> None:
    report = report_of(images_of_three())
    assert report.pooled.at[AP][0].value == 1
    gland, vessel, nerve = report.per_class
    # One gland is found, another is called a vessel; a vessel is called a gland, and another is found, with IoU 2/3.
    assert (gland.tp, gland.fp, gland.fn, gland.num_images) == (1, 1, 1, 1)
    assert (vessel.tp, vessel.fp, vessel.fn, vessel.num_images) == (1, 1, 1, 2)
    assert [one.pooled.at[AP][0].value for one in report.per_class] == [pytest.approx(1 / 3, abs=1e-6)] * 2 + [None]
    assert vessel.pooled.at["panoptic_quality"][0].value == pytest.approx(1 / 3, abs=1e-6)
    # Nobody has seen a nerve, so that it is not among what the mean is of.
    assert (nerve.num_true, nerve.num_predicted) == (0, 0)
    assert report.foreground is not None
    assert report.headline == report.foreground.pooled.at[AP][0]
    assert report.headline.value == pytest.approx(1 / 3, abs=1e-6)
    assert report.foreground.pooled.at["panoptic_quality"][0].value == pytest.approx((1 / 2 + 1 / 3) / 2, abs=1e-6)
    # Means over images: 1/3 of glands in the one image with any, and of vessels 0 and 1.
    assert report.foreground.mean.at[AP][0].value == pytest.approx((1 / 3 + 1 / 2) / 2, abs=1e-6)
    first, second, empty = report.images
    assert first.foreground[AP] == pytest.approx(1 / 6, abs=1e-6)
    assert (second.foreground[AP], empty.foreground[AP]) == (1, None)
    assert (first.score, empty.score) == (first.foreground[AP], None)
    assert (report.num_true, report.num_predicted) == (4, 4)


def test_a_class_that_is_only_invented_or_only_missed_counts_as_0() -> None:
    shape = row(1, 1, 0)
    for true, predicted in (([1], [2]), ([2], [1])):
        report = report_of([image(shape, shape, true, predicted)])
        assert report.foreground is not None
        assert [one.pooled.at[AP][0].value for one in report.per_class] == [0, 0, None]
        assert report.foreground.pooled.at["panoptic_quality"][0].value == 0
        assert report.foreground.pooled.at["matched_iou"][0].value is None


def test_groups_have_the_mean_of_their_classes() -> None:
    report = report_of(images_of_three(), groups=["a", "b", "b"], attributes={"scanner": ["x", "x", "y"]})
    found = {(one.by, one.name, one.of): one for one in report.groups}
    assert len(found) == len(report.groups) == 4 * 4
    b = found["group", "b", None]
    assert (b.pooled[AP].value, b.foreground[AP].value) == (1, 1)
    assert found["group", "b", "vessel"].tp == 1
    assert found["group", "b", "gland"].pooled[AP].value is None
    x = found["scanner", "x", None]
    assert x.foreground[AP] == report.headline
    assert x.foreground[AP].low is not None
    assert not found["scanner", "x", "gland"].foreground


def test_files_say_which_numbers_look_at_class(tmp_path: Path) -> None:
    report = report_of(images_of_three(), groups=["a", "b", "b"])
    write_object_report(report, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert (content["class"], content["headline"]["of"]) == ("any class", "foreground")
    assert content["headline"]["value"] == content["foreground"]["pooled"][AP][0]["value"]
    assert content["pooled"][AP][0]["value"] == 1
    assert [one["name"] for one in content["by_class"]] == list(CLASSES[1:])
    assert set(content["by_class"][0]["pooled"]) == set(content["pooled"])
    assert set(content["by_class"][0]["densities"]) == set(content["densities"])
    assert [one["class"] for one in content["groups"]] == ["any class", *CLASSES[1:]] * 2
    known = content["definitions"]
    assert "class is not looked at" in known["any_class"]
    assert "mPQ+ of CoNIC" in known["foreground"]
    assert {"class", "by_class"} <= set(known)
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(one["image"], one["class"]) for one in rows[:5]] == [
        *(("image0", of) for of in ("any class", *CLASSES[1:])), ("image1", "any class")
    ]  # fmt: skip
    # The mean of the classes follows from the rows.
    pooled = [
        [sum(float(one[f"{name}_0.5"]) for one in rows if one["class"] == of) for name in ("tp", "fp", "fn")]
        for of in CLASSES[1:3]
    ]
    assert np.mean([tp / (tp + fp + fn) for tp, fp, fn in pooled]) == pytest.approx(report.headline.value, abs=1e-6)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("# Object metrics\n\n**AP 0.333")
    assert "means over the 3 classes gland, vessel, nerve" in text
    assert "Any class, where an object may match one of another class and a wrong class costs nothing: AP 1.000" in text
    assert "| *any class* | 3 | 4 | 4 | 4 | 0 | 0 | 1.000" in text
    assert "| *mean of the classes* |  |" in text
    assert "## Any class, pooled over images" in text
    assert "## Pooled over images" not in text
    assert text.index("| image0 |") < text.index("| image1 |")
    latex = as_latex(report)
    assert latex.count(r"\begin{tabular}") == 2
    assert latex.index("vessel &") < latex.index("mean &") < latex.index("any class &") < latex.index("0.5 &")


def test_without_classes_files_say_nothing_of_them() -> None:
    overlaps = [match_objects(*images_of_three()[0][:2])]
    nuclei, others = (measure_objects(["a"], overlaps, name=name) for name in ("nucleus", "any class"))
    for report in (nuclei, others):
        content = as_json(report)
        assert (content["foreground"], content["by_class"], content["headline"]["of"]) == (None, [], report.name)
        assert "class" not in as_csv_rows(report)[0]
        assert "foreground" not in content["definitions"]
        assert report.headline == report.pooled.at[AP][0]
        assert report.images[0].score == 1
        assert (report.images[0].foreground, report.rows, report.foreground) == ({}, (), None)
    assert "any_class" not in as_json(nuclei)["definitions"]
    assert "any_class" in as_json(others)["definitions"]
    assert "class nucleus" in as_markdown(nuclei)
    assert "any class (class is not looked at)" in as_markdown(others)
    assert "class is not looked at" in as_latex(others)


def test_means_over_thresholds_are_those_of_the_classes() -> None:
    report = report_of(images_of_three())
    assert report.foreground is not None
    defined = [one.pooled.mean_average_precision.value or np.nan for one in report.per_class[:2]]
    assert report.foreground.pooled.mean_average_precision.value == pytest.approx(np.mean(defined), abs=1e-6)
    assert set(report.foreground.pooled.at) == set(METRICS)
    assert MEAN_AP in report.images[0].foreground


def random_images(seed: int) -> list[Image]:
    """Return images of the same truth, whatever the seed, with other predictions."""
    rng, found = np.random.default_rng(seed), []
    for number in range(6):
        known = np.random.default_rng(100 + number)
        truth = np.kron(known.integers(0, 9, (4, 4)), np.ones((5, 5), int)) * bool(number)
        predicted = np.where(rng.random(truth.shape) < 0.2, rng.integers(0, 9, truth.shape), truth) * bool(number)
        # Nobody ever sees a nerve.
        found.append(image(truth, predicted, known.integers(1, 3, 9).tolist(), rng.integers(1, 3, 9).tolist()))
    return found


def through_csv(rows: list[dict[str, Any]]) -> Rows:
    handle = io.StringIO()
    writer = csv.DictWriter(handle, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    reader = csv.DictReader(io.StringIO(handle.getvalue()))
    return read_rows(list(reader.fieldnames or []), list(reader))


def compared(reports: list[ObjectReport], groups: list[str]) -> Comparison:
    rows = [through_csv(as_csv_rows(report)) for report in reports]
    content = as_json(reports[0])
    metrics = metrics_of(rows, content["definitions"], content["thresholds"])
    return compare_metrics("objects", "AB", rows[0].images, metrics, groups=groups, num_samples=20)


def test_a_comparison_has_the_numbers_of_the_evaluations() -> None:
    groups = list("aabbcc")
    reports = [report_of(random_images(seed), groups=groups) for seed in (1, 2)]
    comparison = compared(reports, groups)
    assert (comparison.headline.name, comparison.headline.of) == (AP, "foreground, IoU 0.5")
    assert list(dict.fromkeys(one.of.partition(",")[0] for one in comparison.metrics)) == [
        "foreground", "any class", *CLASSES[1:]
    ]  # fmt: skip
    values: dict[Any, tuple[Estimate, ...]] = {(one.name, one.of, one.how): one.values for one in comparison.metrics}

    def near(name: str, of: str, how: str, place: int, expected: Estimate) -> None:
        ends = [(one.value, one.low, one.high) for one in (values[name, of, how][place], expected)]
        for mine, theirs in zip(*ends, strict=True):
            assert mine == theirs or mine == pytest.approx(theirs, abs=2e-6), (name, of, how)

    for place, report in enumerate(reports):
        assert report.foreground is not None
        parts: dict[str, Any] = {"foreground": report.foreground, "any class": report}
        for of, one in {**parts, **{one.name: one for one in report.per_class}}.items():
            for how, summary in (("pooled", one.pooled), ("mean", one.mean)):
                for metric, estimates in summary.at.items():
                    near(metric, f"{of}, IoU 0.5", how, place, estimates[0])
                near("average_precision_0.75", f"{of}, IoU 0.75", how, place, summary.at[AP][5])
                near(MEAN_AP, f"{of}, all IoUs", how, place, summary.mean_average_precision)
                for metric, estimate in summary.overall.items():
                    near(metric, of, how, place, estimate)
        # What is of no threshold and does not pool: any class is not among what the mean is of.
        areas: dict[str, list[float]] = {of: [] for of in ("any class", *CLASSES[1:3])}
        for row in (*report.images, *report.rows):
            area = row.densities["mean_predicted_area_um2"]
            if area is not None:
                areas[row.name or "any class"].append(area)
        means = {of: np.mean(of_images) for of, of_images in areas.items()}
        means["foreground"] = np.mean([means["gland"], means["vessel"]])
        for of, mean in means.items():
            found = values["mean_predicted_area_um2", of, "mean"][place].value
            assert found == pytest.approx(mean, abs=1e-5), of
    assert all(
        of.value == report.headline.value for of, report in zip(comparison.headline.values, reports, strict=True)
    )


def test_rows_of_classes_without_any_class_are_no_comparison() -> None:
    rows = [one for one in as_csv_rows(report_of(random_images(1))) if one["class"] != "any class"]
    read = through_csv(rows)
    with pytest.raises(ValueError, match="one row for each image must be of any class"):
        metrics_of([read, read], {}, [0.5])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_an_object_has_the_class_of_most_of_its_pixels(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 30))
    ids = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size)))
    mask = np.array(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    found = majority_classes(ids[np.newaxis], mask[np.newaxis], 4)
    assert len(found) == max(0, ids.max()) + 1
    for one in range(1, len(found)):
        counts = [np.sum((ids == one) & (mask == index)) for index in (1, 2, 3)]
        assert found[one] == 1 + counts.index(max(counts))


def test_classes_that_do_not_fit_are_refused() -> None:
    overlaps = match_objects(row(1, 0, 3), row(1, 0, 2))
    fit = ObjectClasses(np.array([1, 2]), np.array([1, 1]))
    with pytest.raises(ValueError, match="ids 1 to 3, and classes of 3 ids"):
        classes_of(overlaps, np.array([0, 1, 1]), np.array([0, 1, 1]))
    for classes, of in ((None, [fit]), (CLASSES, None)):
        with pytest.raises(ValueError, match="belong together"):
            divide([overlaps], classes, of)
    for names in (("background", "gland"), ("background", "gland", "gland")):
        with pytest.raises(ValueError, match="at least two classes of different names"):
            divide([overlaps], names, [fit])
    for indices in ([0, 1], [1, 4]):
        with pytest.raises(ValueError, match="and there are 4 classes"):
            divide([overlaps], CLASSES, [ObjectClasses(np.array(indices), np.array([1, 1]))])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        divide([overlaps] * 2, CLASSES, [fit])
    with pytest.raises(ValueError, match="shapes differ"):
        majority_classes(row(1, 0, 3), row(1, 0), 3)
    with pytest.raises(ValueError, match="class 1 to 3, and there are 3 classes"):
        majority_classes(row(1, 0, 3), row(1, 0, 3), 3)
