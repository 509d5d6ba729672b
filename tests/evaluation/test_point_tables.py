"""Reports of point metrics and the files made of them."""

import csv
import importlib.metadata
import json

import numpy as np
import pytest

from segkit.errors import UsageError
from segkit.evaluation import confidence, point_exports, point_markdown, point_matching, point_rules, point_summary
from segkit.evaluation.point_curves import point_curve, score_hits
from segkit.evaluation.point_tables import PointReport, measure_points
from segkit.evaluation.points import DEFINITIONS, DENSITIES, PointCounts, count_points
from segkit.points import Detections, Points

CLASSES = ("background", "mitosis", "apoptosis")
THRESHOLDS = (0.5, 0.6)
NAMES = [f"image_{index}" for index in range(9)]
RADIUS = 6.0
NOTHING_FOUND = Detections(np.empty((0, 2)), np.empty(0, np.int64), np.empty(0))
NOTHING_THERE = Points(np.empty((0, 2)), np.empty(0, np.int64))


def image_like(rng, *, num_truth=12, num_strays=25):
    """Labelled points of three classes in 100 x 100 pixels; detections of most of them, and strays with low scores."""
    truth = Points(rng.random((num_truth, 2)) * 100, rng.integers(0, 3, num_truth))
    positions = np.vstack([truth.positions + rng.normal(0, 2, (num_truth, 2)), rng.random((num_strays, 2)) * 100])
    classes = np.concatenate([truth.classes, rng.integers(1, 3, num_strays)])
    classes[classes == 0] = 1  # look-alikes are taken for mitoses
    wrong = rng.random(len(classes)) < 0.1
    classes[wrong] = 3 - classes[wrong]
    scores = np.round(np.concatenate([rng.beta(5, 2, num_truth), rng.beta(2, 5, num_strays)]), 2)
    order = np.argsort(-scores, kind="stable")
    return Detections(positions[order], classes[order], scores[order]), truth


def images_like(num_images, seed=0):
    rng = np.random.default_rng(seed)
    images = [image_like(rng) for _ in range(num_images)]
    images[0] = (images[0][0], NOTHING_THERE)
    return [found for found, _ in images], [truth for _, truth in images]


def measure(num_images=9, **changes):
    detections, truths = images_like(num_images)
    arguments = {
        "names": NAMES[:num_images],
        "detections": detections,
        "truths": truths,
        "classes": CLASSES,
        "radius_px": RADIUS,
        "mpp": 0.25,
        "areas_px": [10_000] * num_images,
        "thresholds": THRESHOLDS,
    }
    return measure_points(**{**arguments, **changes})


def single_class(detections, truths):
    """The same images, all as one class; look-alikes stay look-alikes."""
    return (
        [found._replace(classes=np.ones_like(found.classes)) for found in detections],
        [truth._replace(classes=np.minimum(truth.classes, 1)) for truth in truths],
    )


@pytest.fixture(scope="module")
def report() -> PointReport:
    return measure()


def test_rows_are_the_counts_of_each_image_and_class_at_its_threshold(report):
    detections, truths = images_like(9)
    for index, row in enumerate(report.rows):
        image, label = index // 2, index % 2 + 1
        found, truth = detections[image], truths[image]
        kept = found.positions[(found.classes == label) & (found.scores >= THRESHOLDS[label - 1])]
        expected = count_points(kept, truth.of_class(label), RADIUS, hard_negatives_yx=truth.of_class(0))
        assert (row.image, row.name, row.counts) == (NAMES[image], CLASSES[label], expected)
    assert [row.counts for row in report.images] == [
        first.counts + second.counts for first, second in zip(report.rows[::2], report.rows[1::2], strict=True)
    ]


def test_a_score_of_just_the_threshold_counts():
    found = Detections(np.array([[5.0, 5.0]]), np.array([1]), np.array([0.5]))
    truth = Points(np.array([[5.0, 5.0]]), np.array([1]))
    shared = {"names": ["a"], "detections": [found], "truths": [truth], "areas_px": [100], "classes": CLASSES[:2]}
    assert measure(1, **shared, thresholds=[0.5]).headline.value == 1
    assert measure(1, **shared, thresholds=[np.nextafter(0.5, 1)]).headline.value == 0


def test_pooled_adds_the_counts_up(report):
    for label, summary in enumerate(report.per_class, start=1):
        counts = sum((row.counts for row in report.rows if row.name == CLASSES[label]), PointCounts())
        assert summary.counts == counts
        assert summary.threshold == THRESHOLDS[label - 1]
        assert summary.pooled["f1"].value == counts.f1
        assert summary.pooled["precision"].value == counts.precision
        assert summary.pooled["recall"].value == counts.recall
        assert summary.pooled["average_precision"].value == pytest.approx(summary.curve.average_precision, abs=1e-6)
        assert summary.counts.hard_negative_hits <= summary.counts.fp
    assert report.per_class[0].counts.hard_negative_hits > 5
    assert report.per_class[0].num_images == 8
    assert report.num_hard_negatives == sum((truth.classes == 0).sum() for truth in images_like(9)[1])


def by_image(report, detections, truths, name):
    """F1, precision, recall and average precision of one class in each image, NaN where undefined."""
    label = CLASSES.index(name)
    values = []
    for row, found, truth in zip(
        (row for row in report.rows if row.name == name), detections, truths, strict=True
    ):  # fmt: skip
        of_class = found.classes == label
        hits = score_hits(found.positions[of_class], found.scores[of_class], truth.of_class(label), RADIUS)
        counts = row.counts
        average = None
        if hits.num_truth:
            ranked = [(hits.hits[:rank].sum() / rank) for rank in range(1, len(hits.hits) + 1)]
            average = sum(np.array(ranked)[hits.hits]) / hits.num_truth
        values.append((counts.f1, counts.precision, counts.recall, average))
    return np.array(values, np.float64)


def test_means_are_over_the_images_in_which_the_metric_is_defined():
    detections, truths = images_like(9)
    rng = np.random.default_rng(3)
    # Without equal scores the area under the steps is the mean precision at the hits.
    detections = [one._replace(scores=one.scores + rng.random(len(one.scores)) * 1e-6) for one in detections]
    detections[2] = NOTHING_FOUND
    detections[3], truths[3] = NOTHING_FOUND, NOTHING_THERE
    groups = ["a", "a", "b", "b", "c", "c", "d", "e", "e"]
    report = measure(detections=detections, truths=truths, groups=groups, attributes={"scanner": SCANNERS})
    weights = confidence.resample(9, groups=groups)
    for summary in report.per_class:
        values = by_image(report, detections, truths, summary.name)
        assert np.isnan(values[3]).all()
        # Nothing there: what is found lowers F1 and precision; recall and average precision are undefined.
        assert values[0, :2].tolist() == [0, 0]
        assert np.isnan(values[0, 2:]).all()
        assert np.isnan(values[2, 1])  # nothing found: no precision
        assert (values[2, [0, 2, 3]] == 0).all()
        samples = [
            [np.nanmean(np.repeat(column, times)) for column in values.T] for times in weights.astype(int)
        ]  # fmt: skip
        low, high = confidence.interval(np.array(samples))
        for place, metric in enumerate(point_summary.METRICS):
            estimate = summary.mean[metric]
            found = (estimate.value, estimate.low, estimate.high)
            assert found == pytest.approx((np.nanmean(values[:, place]), low[place], high[place]), abs=2e-6), metric
            assert summary.num_defined[metric] == (~np.isnan(values[:, place])).sum()
        assert list(summary.num_defined.values()) == [8, 7, 7, 7]
        rows = [row.average_precision for row in report.rows if row.name == summary.name]
        assert np.array(rows, np.float64) == pytest.approx(values[:, 3], abs=1e-6, nan_ok=True)
        of_new = next(
            one.summary for one in report.groups if (one.name, one.summary.name) == ("new", summary.name)
        )  # fmt: skip
        assert [one.value for one in of_new.mean.values()] == pytest.approx(np.nanmean(values[2:6], axis=0), abs=2e-6)
        assert list(of_new.num_defined.values()) == [3, 2, 3, 3]
    assert {row.average_precision for row in report.images} == {None}


def test_a_mean_over_no_image_is_undefined():
    report = measure(detections=[NOTHING_FOUND] * 9, truths=[NOTHING_THERE] * 9)
    for summary in report.summaries:
        assert {one.value for one in summary.mean.values()} == {None}
        assert set(summary.num_defined.values()) == {0}
    assert {one.value for one in report.foreground_mean.values()} == {None}
    assert point_markdown.as_markdown(report).count("| undefined | undefined | 0 |") == 12


def test_the_foreground_is_the_mean_of_its_classes(report):
    for metric in point_summary.METRICS:
        for mean, parts in (
            (report.foreground, [summary.pooled[metric].value for summary in report.per_class]),
            (report.foreground_mean, [summary.mean[metric].value for summary in report.per_class]),
        ):
            assert mean[metric].value == pytest.approx(np.mean(parts), abs=2e-6)
    assert report.headline == report.foreground["f1"]


def test_any_class_forgives_a_wrong_class_only():
    truth = Points(np.array([[10.0, 10.0], [50.0, 50.0]]), np.array([1, 2]))
    found = Detections(np.array([[10.0, 10.0], [50.0, 50.0], [80.0, 80.0]]), np.array([2, 2, 1]), np.array([0.9] * 3))
    report = measure(1, detections=[found], truths=[truth])
    assert [summary.counts for summary in report.per_class] == [PointCounts(0, 1, 1), PointCounts(1, 1, 0)]
    assert report.any_class.counts == PointCounts(2, 1, 0)
    assert report.any_class.threshold is None
    # Each detection must reach the threshold of its own class.
    lower = found._replace(scores=np.full(3, 0.55))
    assert measure(1, detections=[lower], truths=[truth]).any_class.counts == PointCounts(0, 1, 2)


def test_a_single_class_has_no_any_class_which_would_be_the_same():
    detections, truths = single_class(*images_like(9))
    report = measure(detections=detections, truths=truths, classes=CLASSES[:2], thresholds=[0.5])
    assert report.any_class is None
    assert report.foreground == report.per_class[0].pooled
    assert report.foreground_mean == report.per_class[0].mean
    assert report.summaries == report.per_class
    assert "any class" not in point_markdown.as_markdown(report).split("## Definitions")[0]


def test_intervals_are_those_of_images_drawn_and_measured_anew(report):
    detections, truths = images_like(9)
    for label, summary in enumerate(report.per_class, start=1):
        hits = [
            score_hits(
                found.positions[found.classes == label],
                found.scores[found.classes == label],
                truth.of_class(label),
                RADIUS,
            )
            for found, truth in zip(detections, truths, strict=True)
        ]
        counts = [row.counts for row in report.rows if row.name == CLASSES[label]]
        samples = []
        for times in confidence.resample(9).astype(int):
            drawn = np.repeat(np.arange(9), times)
            total = sum((counts[image] for image in drawn), PointCounts())
            curve = point_curve([hits[image] for image in drawn])
            samples.append((total.f1, total.precision, total.recall, curve.average_precision))
        for metric, low, high in zip(point_summary.METRICS, *confidence.interval(np.array(samples)), strict=True):
            assert summary.pooled[metric].low == pytest.approx(low, abs=2e-6)
            assert summary.pooled[metric].high == pytest.approx(high, abs=2e-6)


def test_intervals_hold_their_estimates(report):
    for estimates in (report.foreground, report.any_class.pooled, *(summary.pooled for summary in report.per_class)):
        for estimate in estimates.values():
            assert estimate.low < estimate.value < estimate.high


def test_with_very_many_scores_the_estimate_stays_exact_and_the_interval_close(report, monkeypatch):
    monkeypatch.setattr(point_summary, "_MAX_BOOTSTRAP_THRESHOLDS", 12)
    fewer = measure()
    for summary, exact in zip(fewer.per_class, report.per_class, strict=True):
        estimate, reference = summary.pooled["average_precision"], exact.pooled["average_precision"]
        assert estimate.value == reference.value
        assert estimate != reference
        assert estimate.low == pytest.approx(reference.low, abs=0.02)
        assert estimate.high == pytest.approx(reference.high, abs=0.02)


@pytest.mark.parametrize("limit", [4, 2000])
@pytest.mark.parametrize("seed", range(5))
def test_shares_stay_between_0_and_1_in_every_sample(seed, limit, monkeypatch):
    """Of few points rounding and, where thresholds are left out, the shift could lead out of it, or to -0."""
    monkeypatch.setattr(point_summary, "_MAX_BOOTSTRAP_THRESHOLDS", limit)
    rng = np.random.default_rng(seed)
    images = [image_like(rng, num_truth=3, num_strays=4) for _ in range(5)]
    images[0] = (NOTHING_FOUND, images[0][1])
    report = measure(5, detections=[found for found, _ in images], truths=[truth for _, truth in images])
    for summary in report.summaries:
        for one in (summary.pooled["average_precision"], summary.froc_mean_per_image, summary.froc_mean_per_mm2):
            for share in (one.value, one.low, one.high):
                assert 0 <= share <= 1
                assert not np.signbit(share)


def test_reports_do_not_depend_on_anything_but_their_arguments(report):
    assert point_exports.as_json(measure()) == point_exports.as_json(report)
    other_seed = measure(seed=1)
    assert other_seed.headline.value == report.headline.value
    assert other_seed.headline != report.headline


def test_groups_have_rows_and_are_drawn_together():
    groups = ["a", "a", "b", "b", "b", "c", "c", "d", "e"]
    report = measure(groups=groups)
    assert (report.unit, report.num_units) == ("group", 5)
    assert [(one.by, one.name, one.summary.name) for one in report.groups] == [
        ("group", group, name) for group in "abcde" for name in CLASSES[1:]
    ]
    for one in report.groups:
        members = [row.counts for row in report.rows if (row.group, row.name) == (one.name, one.summary.name)]
        assert (one.num_images, one.num_units) == (len(members), 1)
        assert one.summary.counts == sum(members, PointCounts())
        # A group is drawn as a whole, so there is nothing to tell how it could have been otherwise.
        assert one.summary.pooled["f1"].low is None
    text = point_markdown.as_markdown(report)
    assert "over 5 groups" in text
    assert "| group | class | images |" in text
    assert measure().groups == ()


SCANNERS = ["old", "old", "new", "new", "new", "new", "old", "x|y", "x|y"]


def test_rows_by_attribute_are_what_these_images_give_alone():
    groups = ["a", "a", "b", "b", "c", "c", "d", "e", "e"]
    report = measure(groups=groups, attributes={"scanner": SCANNERS}, areas_px=range(10_000, 19_000, 1000))
    assert report.headline == measure(groups=groups).headline  # intervals are what they are without
    by_scanner = [one for one in report.groups if one.by == "scanner"]
    assert [(one.name, one.num_images, one.num_units) for one in by_scanner[::2]] == [
        ("new", 4, 2), ("old", 3, 2), ("x|y", 2, 1)
    ]  # fmt: skip
    detections, truths = images_like(9)
    for number, one in enumerate(by_scanner):
        members = [index for index, scanner in enumerate(SCANNERS) if scanner == one.name]
        alone = measure(
            len(members),
            detections=[detections[index] for index in members],
            truths=[truths[index] for index in members],
            areas_px=[10_000 + 1000 * index for index in members],
        ).per_class[number % 2]
        assert one.summary.counts == alone.counts
        for mine, its in ((one.summary.pooled, alone.pooled), (one.summary.densities, alone.densities)):
            assert {name: value.value for name, value in mine.items()} == {
                name: value.value for name, value in its.items()
            }
        assert one.summary.froc_per_mm2 == alone.froc_per_mm2
        interval = one.summary.pooled["f1"]
        assert (interval.low is None) == (one.num_units == 1)
        assert interval.low is None or interval.low <= interval.value <= interval.high


def test_groups_and_attributes_are_in_the_files(tmp_path):
    # A name that a column has already gives way to it.
    report = measure(
        groups=["a"] * 5 + ["b"] * 4, attributes={"scanner": SCANNERS, "class": ["1"] * 9, "f1": list("123456789")}
    )
    point_exports.write_point_report(report, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["scanner"] for row in rows[::2]] == SCANNERS
    assert {row["class"] for row in rows} == set(CLASSES[1:])
    assert [row["f1"] for row in rows] == ["" if row.counts.f1 is None else str(row.counts.f1) for row in report.rows]
    content = json.loads((tmp_path / "metrics.json").read_text())
    of_new = next(one for one in content["groups"] if (one["by"], one["name"]) == ("scanner", "new"))
    assert (of_new["class"], of_new["num_images"], of_new["num_units"]) == ("mitosis", 4, 2)
    assert of_new["num_true"] == of_new["tp"] + of_new["fn"]
    assert of_new["pooled"]["f1"]["low"] < of_new["pooled"]["f1"]["value"] < of_new["pooled"]["f1"]["high"]
    assert of_new["densities"]["true_per_mm2"]["value"] == pytest.approx(of_new["num_true"] / of_new["area_mm2"])
    text = (tmp_path / "summary.md").read_text()
    assert text.index("## By group") < text.index("## By scanner")
    assert "| x\\|y | mitosis | 2 |" in text
    for attributes in ({"scanner": ["old"]}, {"group": SCANNERS}):
        with pytest.raises(ValueError, match="for 9 images, or a name in use"):
            measure(attributes=attributes)


@pytest.mark.parametrize(("num_images", "groups"), [(1, None), (3, ["a", "a", "a"])])
def test_a_single_unit_has_no_intervals(num_images, groups):
    report = measure(num_images, groups=groups)
    assert (report.headline.low, report.headline.high) == (None, None)
    assert "No intervals" in point_markdown.as_markdown(report)


def test_froc_is_per_image_and_per_mm2_where_the_pixels_have_a_size(report):
    summary = report.per_class[0]
    assert report.radius_um == 1.5
    assert report.area_mm2 == pytest.approx(9 * 0.025**2)
    assert summary.froc_per_image == summary.curve.froc(9)
    assert summary.froc_per_mm2 == summary.curve.froc(report.area_mm2)
    assert summary.froc_mean_per_image.value == pytest.approx(summary.froc_per_image.mean, abs=1e-6)
    assert summary.froc_mean_per_mm2.value == pytest.approx(summary.froc_per_mm2.mean, abs=1e-6)
    without = measure(mpp=None)
    assert (without.area_mm2, without.radius_um, without.per_class[0].froc_per_mm2) == (None, None, None)
    assert without.per_class[0].froc_per_image == summary.froc_per_image
    assert (without.per_class[0].froc_mean_per_mm2, without.per_class[0].densities) == (None, None)
    assert set(without.rows[0].densities.values()) == {None}
    assert "no numbers per area" in point_markdown.as_markdown(without)


def test_the_mean_of_froc_has_the_interval_of_images_drawn_and_measured_anew():
    areas = [1_000_000 * (index + 1) for index in range(9)]
    report = measure(areas_px=areas)
    detections, truths = images_like(9)
    hits = [
        score_hits(found.positions[found.classes == 1], found.scores[found.classes == 1], truth.of_class(1), RADIUS)
        for found, truth in zip(detections, truths, strict=True)
    ]
    samples = []
    for times in confidence.resample(9).astype(int):
        drawn = np.repeat(np.arange(9), times)
        curve = point_curve([hits[image] for image in drawn])
        area = sum(areas[image] * 0.00025**2 for image in drawn)
        samples.append((curve.froc(9).mean, curve.froc(area).mean))
    summary = report.per_class[0]
    for mean, low, high in zip(
        (summary.froc_mean_per_image, summary.froc_mean_per_mm2), *confidence.interval(np.array(samples)), strict=True
    ):
        assert mean.low == pytest.approx(low, abs=2e-6)
        assert mean.high == pytest.approx(high, abs=2e-6)
        assert mean.low < mean.value < mean.high


def test_curves_are_by_the_rule_if_it_is_greedy():
    # The detection with the higher score takes the point that the other one needs.
    found = Detections(np.array([[0.0, 9.0], [0.0, 0.0]]), np.array([1, 1]), np.array([0.9, 0.8]))
    truth = Points(np.array([[0.0, 5.0], [0.0, 13.5]]), np.array([1, 1]))
    arguments = {"detections": [found], "truths": [truth], "classes": CLASSES[:2], "thresholds": [0.5], "radius_px": 5}
    curves = {
        rule: measure(1, rule=rule, **arguments).per_class[0].curve for rule in ("greedy", "optimal", "hungarian")
    }
    assert curves["greedy"].true_positives.tolist() == [1, 1]
    assert curves["optimal"].true_positives.tolist() == curves["hungarian"].true_positives.tolist() == [1, 2]


def test_densities_and_count_errors_are_of_what_was_searched():
    areas = [10_000 * (index + 1) for index in range(9)]
    report = measure(areas_px=areas, groups=["a", "a", "b", "b", "b", "c", "c", "d", "e"])
    for row in report.rows:
        area = areas[NAMES.index(row.image)] * 0.00025**2
        assert row.area_mm2 == pytest.approx(area)
        assert row.densities["true_per_mm2"] == pytest.approx((row.counts.tp + row.counts.fn) / area)
        assert row.densities["predicted_per_10_hpf"] == pytest.approx((row.counts.tp + row.counts.fp) * 2.37 / area)
    of_b = next(one for one in report.groups if (one.name, one.summary.name) == ("b", "mitosis"))
    assert of_b.area_mm2 == pytest.approx(sum(areas[2:5]) * 0.00025**2)
    assert of_b.summary.densities["true_per_mm2"].value == pytest.approx(of_b.summary.counts.num_true / of_b.area_mm2)
    for label, summary in enumerate(report.per_class, start=1):
        rows = [row for row in report.rows if row.name == CLASSES[label]]
        errors = [row.counts.fp - row.counts.fn for row in rows]
        assert summary.count_errors["mean_count_error"].value == pytest.approx(np.mean(errors), abs=1e-6)
        assert summary.count_errors["mean_absolute_count_error"].value == pytest.approx(
            np.mean(np.abs(errors)), abs=1e-6
        )
        num_true = sum(row.counts.num_true for row in rows)
        assert summary.densities["true_per_mm2"].value == pytest.approx(num_true / report.area_mm2)
        for estimate in summary.densities.values():
            assert estimate.low < estimate.value < estimate.high


@pytest.mark.parametrize("rule", point_rules.RULES)
def test_counts_are_by_the_rule_and_it_is_written_down(rule, report, tmp_path):
    radius = 25 if rule == "kdtree25" else RADIUS
    by_rule = measure(rule=rule, radius_px=radius)
    detections, truths = images_like(9)
    for index, row in enumerate(by_rule.rows):
        found, truth = detections[index // 2], truths[index // 2]
        kept = (found.classes == index % 2 + 1) & (found.scores >= THRESHOLDS[index % 2])
        arguments = found.positions[kept], found.scores[kept], truth.of_class(index % 2 + 1), radius
        verdict = point_rules.RULES[rule](*arguments)
        assert (row.counts.tp, row.counts.fp, row.counts.fn) == (verdict.tp, verdict.fp, verdict.fn)
        assert row.counts.num_predicted == kept.sum()
    if rule in {"midog", "hungarian"}:
        assert by_rule.per_class[0].pooled["average_precision"] == report.per_class[0].pooled["average_precision"]
    point_exports.write_point_report(by_rule, tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert (content["rule"], content["rule_of_curves"]) == (rule, "greedy" if rule == "greedy" else "optimal")
    assert content["definitions"][f"rule_{rule}"] == point_rules.DEFINITIONS[rule]
    assert f"by the rule `{rule}`" in (tmp_path / "summary.md").read_text()


def test_the_best_threshold_is_at_least_as_good_and_marked(report):
    for summary in report.per_class:
        assert summary.best[1] >= summary.pooled["f1"].value - 1e-6
    assert "are for information only" in point_markdown.as_markdown(report)
    assert "not to be reported" in point_exports.as_json(report)["definitions"]["best_on_this_set"]
    best = measure(thresholds=[summary.best[0] for summary in report.per_class])
    for summary, before in zip(best.per_class, report.per_class, strict=True):
        assert summary.pooled["f1"].value == pytest.approx(before.best[1], abs=1e-6)


@pytest.mark.parametrize(
    ("found", "there", "f1"), [(False, False, None), (False, True, 0), (True, False, 0)], ids=["none", "blind", "empty"]
)
def test_nothing_found_and_nothing_there_are_written_too(found, there, f1, tmp_path):
    detections, truths = images_like(9)
    report = measure(
        detections=detections if found else [NOTHING_FOUND] * 9, truths=truths if there else [NOTHING_THERE] * 9
    )
    assert report.headline.value == f1
    assert report.foreground["average_precision"].value == (0 if there else None)
    assert report.per_class[0].best is None
    point_exports.write_point_report(report, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["headline"]["value"] == f1
    for name in ("metrics.csv", "curves.csv"):
        assert "nan" not in (tmp_path / name).read_text().lower()


def test_csv_has_one_row_for_each_image_and_class(report, tmp_path):
    point_exports.write_point_report(report, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["image"], row["class"]) for row in rows] == [(name, label) for name in NAMES for label in CLASSES[1:]]
    for row, expected in zip(rows, report.rows, strict=True):
        assert [int(row[name]) for name in ("tp", "fp", "fn")] == [
            expected.counts.tp, expected.counts.fp, expected.counts.fn
        ]  # fmt: skip
        assert row["f1"] == ("" if expected.counts.f1 is None else str(expected.counts.f1))
        average = expected.average_precision
        assert row["average_precision"] == ("" if average is None else str(average))


@pytest.mark.parametrize("rule", ["optimal", "kdtree25"])
def test_pooled_numbers_can_be_made_anew_from_the_csv(rule, tmp_path):
    report = measure(areas_px=range(10_000, 19_000, 1000), rule=rule, radius_px=25)
    point_exports.write_point_report(report, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for summary in report.per_class:
        columns = [[float(row[name]) for row in rows if row["class"] == summary.name] for name in ("tp", "fp", "fn")]
        tp, fp, fn = map(sum, columns)
        assert summary.pooled["f1"].value == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-6)
        for kind in ("true", "predicted"):
            chosen = [row for row in rows if row["class"] == summary.name]
            density = sum(int(row[f"num_{kind}"]) for row in chosen) / sum(float(row["area_mm2"]) for row in chosen)
            assert summary.densities[f"{kind}_per_mm2"].value == pytest.approx(density)
        errors = [int(row["count_error"]) for row in rows if row["class"] == summary.name]
        assert summary.count_errors["mean_count_error"].value == pytest.approx(np.mean(errors), abs=1e-6)


def test_curves_are_written_with_at_most_1000_rows_of_each_class(tmp_path):
    rng = np.random.default_rng(0)
    found, truth = image_like(rng, num_truth=3000, num_strays=5000)
    found = found._replace(scores=np.sort(rng.random(8000))[::-1])
    report = measure(1, detections=[found], truths=[truth], num_samples=10)
    point_exports.write_point_report(report, tmp_path)
    with (tmp_path / "curves.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    by_class = {name: [row for row in rows if row["class"] == name] for name in (*CLASSES[1:], "any class")}
    assert sum(map(len, by_class.values())) == len(rows)
    for name, summary in zip(by_class, (*report.per_class, report.any_class), strict=True):
        assert 900 < len(by_class[name]) <= 1000
        thresholds = [float(row["threshold"]) for row in by_class[name]]
        assert (np.diff(thresholds) < 0).all()
        assert (thresholds[0], thresholds[-1]) == (summary.curve.thresholds[0], summary.curve.thresholds[-1])
        for row in by_class[name][::100]:
            tp, fp, fn = (int(row[column]) for column in ("tp", "fp", "fn"))
            assert tp + fp == (summary.curve.thresholds >= float(row["threshold"])).sum()
            assert tp + fn == summary.curve.num_truth
            assert float(row["f1"]) == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-6)


def test_json_says_what_was_measured_and_how():
    report = measure(groups=["a", "b", "b", "b", "b", "c", "c", "d", "e"])
    content = json.loads(json.dumps(point_exports.as_json(report), allow_nan=False))
    assert content["segkit"] == importlib.metadata.version("segkit")
    assert (content["num_images"], content["radius_px"], content["radius_um"]) == (9, 6, 1.5)
    assert content["intervals"]["over"] == "group"
    assert [summary["name"] for summary in content["classes"]] == list(CLASSES[1:])
    assert content["headline"]["value"] == content["foreground"]["f1"]["value"] == report.headline.value
    assert content["foreground_mean"]["recall"]["value"] == report.foreground_mean["recall"].value
    aggregates = {"pooled", "mean", "num_defined", "foreground", "foreground_mean", "best_on_this_set", "groups"}
    assert set(DEFINITIONS) | aggregates | {"rule_optimal"} == set(content["definitions"])
    assert {*DENSITIES, "predicted_per_mm2"} == set(content["classes"][0]["densities"])
    assert set(content["groups"][0]) >= {"by", "name", "class", "tp", "fp", "fn", "area_mm2", "pooled", "densities"}
    assert content["any_class"]["threshold"] is None
    first = content["classes"][0]
    assert first["tp"] + first["fn"] == report.per_class[0].curve.num_truth
    for one in (*content["classes"], content["any_class"], *content["groups"]):
        assert set(one["pooled"]) == set(one["mean"]) == set(one["num_defined"]) == set(point_summary.METRICS)
    assert first["mean"]["f1"]["low"] < first["mean"]["f1"]["value"] < first["mean"]["f1"]["high"]
    assert first["froc_per_image"]["false_positives"] == [0.25, 0.5, 1, 2, 4, 8]


def test_markdown_names_the_worst_images_and_keeps_strange_names_in_their_cells():
    report = measure(names=[f"image|{i}" for i in range(9)], classes=("background", "a|b", "*c*"))
    text = point_markdown.as_markdown(report)
    worst = min((row for row in report.images if row.image != "image|0"), key=lambda row: row.counts.f1)
    rows = text[text.index("## Images with the lowest F1") :]
    assert rows.index("| image\\|0 |") < rows.index(f"| {worst.image.replace('|', chr(92) + '|')} |")
    assert f"**F1 {report.headline}**" in text
    assert "matched within 6 px = 1.5 um" in text
    assert "\\*c\\*" in text
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 6
    of_a = report.per_class[0]
    for metric, name in (("f1", "F1"), ("average_precision", "average precision")):
        numbers = f"{of_a.pooled[metric]} | {of_a.mean[metric]} | {of_a.num_defined[metric]}"
        assert f"| a\\|b | {name} | {numbers} |" in text
    assert f"| *mean of the foreground* | F1 | {report.headline} | {report.foreground_mean['f1']} |  |" in text
    assert f"Mean over images: F1 {report.foreground_mean['f1']}, precision" in text
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_of_images_with_the_same_f1_the_one_with_more_errors_is_named_first():
    def ones(num, y):
        return np.stack([np.full(num, y), np.arange(num) * 30.0], axis=1), np.ones(num, np.int64)

    found, truth = Detections(*ones(4, 50.0), np.ones(4)), Points(*ones(4, 0.0))
    report = measure(2, detections=[NOTHING_FOUND, found], truths=[truth, truth])
    lines = [line for line in point_markdown.as_markdown(report).splitlines() if line.startswith("| image\\_")]
    assert [line.split(" | ")[0] for line in lines] == ["| image\\_1", "| image\\_0"]


@pytest.mark.parametrize(
    "changes",
    [
        {"names": []},
        {"names": ["a"] * 9},
        {"names": NAMES[:8]},
        {"areas_px": [1] * 8},
        {"areas_px": [0] * 9},
        {"thresholds": [0.5]},
        {"thresholds": [0.5, np.nan]},
        {"classes": CLASSES[:2], "thresholds": [0.5]},
        {"classes": CLASSES[:1], "thresholds": []},
        {"detections": [Detections(np.zeros((1, 2)), np.array([0]), np.ones(1))] * 9},
        {"truths": [Points(np.zeros((1, 2)), np.array([3]))] * 9},
    ],
)
def test_arguments_that_do_not_fit_together_are_refused(changes):
    with pytest.raises(ValueError, match=r"names|areas|thresholds|classes"):
        measure(**changes)


def test_numbers_that_are_none_are_refused_where_they_are():
    detections, truths = images_like(9)
    scores = detections[4].scores.copy()
    scores[2] = np.nan
    with pytest.raises(ValueError, match=r"image_4: score 2 is nan; all must be finite"):
        measure(detections=[*detections[:4], detections[4]._replace(scores=scores), *detections[5:]])
    positions = np.full_like(detections[3].positions, np.inf)
    with pytest.raises(ValueError, match=r"image_3: position 0 is \[inf inf\]"):
        measure(detections=[*detections[:3], detections[3]._replace(positions=positions), *detections[4:]])
    with pytest.raises(ValueError, match=r"image_8: true position 0 is \[ 1. nan\]"):
        measure(truths=[*truths[:8], Points(np.array([[1, np.nan]]), np.array([1]))])


def test_kdtree25_goes_with_its_own_radius_only_and_rules_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="kdtree25 goes with a radius of 25 px, got 6 px"):
        measure(rule="kdtree25")
    with pytest.raises(ValueError, match="'best'; there are optimal"):
        measure(rule="best")


def test_an_image_with_too_many_pairs_is_named(monkeypatch):
    monkeypatch.setattr(point_matching, "_MAX_PAIRS", 3)
    with pytest.raises(UsageError, match=r"image_1: \d+ detections and \d+ labelled points of one image make"):
        measure()
