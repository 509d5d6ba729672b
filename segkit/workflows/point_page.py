"""A report of point metrics in parts of a page."""

import math
from collections.abc import Mapping
from types import MappingProxyType

from segkit.evaluation.estimates import number
from segkit.evaluation.point_summary import PointSummary
from segkit.evaluation.point_tables import PointReport
from segkit.evaluation.points import PointCounts
from segkit.evaluation.threshold_choice import sentences_of
from segkit.report.page.content import Cell, Column, MetricTable, Row, Table
from segkit.report.page.number import Number, briefly
from segkit.report.page.pictures import Kind
from segkit.report.page.plots import BarChart, LineChart
from segkit.report.page.standard_charts import (
    froc_chart,
    precision_recall_chart,
    score_histogram,
    threshold_chart,
)
from segkit.workflows.choice_page import OTHERS
from segkit.workflows.page_parts import ReportParts, headline_of, images_table, in_plural, metric_rows

_COUNTS = (("TP", "tp"), ("FP", "fp"), ("FN", "fn"))
_RATIOS = (("F1", "f1"), ("precision", "precision"), ("recall", "recall"))
_DEFINED_BY = MappingProxyType(
    {
        "froc_mean_per_image": "froc",
        "froc_mean_per_mm2": "froc",
        "mean_count_error": "count_error",
        "mean_absolute_count_error": "count_error",
        "predicted_per_mm2": "true_per_mm2",
        "predicted_per_10_hpf": "true_per_10_hpf",
    }
)
"""Definitions that stand under another name."""

_MAX_POINTS = 400


def point_parts(report: PointReport, definitions: Mapping[str, str]) -> ReportParts:
    """Return the parts of a page about points; `definitions` are those of metrics.json."""
    several = len(report.classes) > 2
    radius = f"{report.radius_px:.3g} px" + ("" if report.radius_um is None else f" = {report.radius_um:.3g} µm")
    of = "mean of the classes" if several else report.classes[1]
    counts = sum((one.counts for one in report.per_class), PointCounts())
    what = (
        f"2 TP / (2 TP + FP + FN), {of}: {in_plural(counts.tp + counts.fn, 'labelled point')}, matched with detections "
        f"at most {radius} away by the rule {report.rule}, counted over "
        f"{in_plural(len(report.images), 'image')} together."
    )
    scores = tuple(row.counts.f1 for row in report.images)
    return ReportParts(
        score_name="F1",
        score_in_full="F1" + (" of all classes together" if several else ""),
        headline=headline_of("F1", report.headline, what, report),
        numbers=(
            *_matching(report, definitions),
            _counts_table(report),
            _defined_table(report),
            _numbers(report, definitions),
            *_froc_tables(report),
            *_thresholds(report),
        ),
        charts=(*_curves(report), score_histogram(scores, "F1")),
        groups=tuple(_group_table(report, by) for by in dict.fromkeys(one.by for one in report.groups)),
        images=_images(report, definitions),
        names=tuple(str(row.image) for row in report.images),
        scores=scores,
        texts=tuple(
            f"{row.counts.tp} of {in_plural(row.counts.tp + row.counts.fn, 'point')} found, {row.counts.fn} missed, "
            f"{row.counts.fp} false"
            for row in report.images
        ),
        legend={
            Kind.RIGHT: "found",
            Kind.FALSE: "false",
            Kind.MISSED: "missed",
            Kind.LOOK_ALIKE: "labelled look-alike",
        },
    )


def _matching(report: PointReport, definitions: Mapping[str, str]) -> tuple[MetricTable, ...]:
    """Return precision and its kin, of each class and of their mean: pooled beside means."""
    num_images = in_plural(len(report.images), "image")
    ways = [("Mean of the classes", report.foreground, report.foreground_mean)] if len(report.classes) > 2 else []
    ways += [
        (f"{_name_of(one, report)}, in {one.num_images} of {num_images}", one.pooled, one.mean)
        for one in report.summaries
    ]
    return tuple(
        MetricTable(
            f"{caption}; open a metric's name for its definition",
            ("pooled over images", "mean of images"),
            metric_rows((pooled, mean), definitions),
        )
        for caption, pooled, mean in ways
    )


def _name_of(summary: PointSummary, report: PointReport) -> str:
    return "Any class" if summary is report.any_class else f"Class {summary.name}"


def _defined_table(report: PointReport) -> Table:
    metrics = (*_RATIOS, ("AP", "average_precision"))
    return Table(
        caption="Images in which a metric is defined, which its mean is over",
        columns=(Column("class", "text"), *(Column(name, "count") for name, _ in metrics)),
        rows=tuple(Row((one.name, *(one.num_defined[field] for _, field in metrics))) for one in report.summaries),
        note="Undefined: precision without detections, recall and AP without labelled points, F1 without either.",
    )


def _numbers(report: PointReport, definitions: Mapping[str, str]) -> MetricTable:
    """Return means of FROC, numbers and densities."""
    numbers = {}
    for one in report.summaries:
        per_area = {} if one.froc_mean_per_mm2 is None else {"froc_mean_per_mm2": one.froc_mean_per_mm2}
        frocs = {"froc_mean_per_image": one.froc_mean_per_image, **per_area}
        numbers[one.name] = {**frocs, **one.count_errors, **(one.densities or {})}
    defined = {**definitions, **{name: definitions.get(by, "") for name, by in _DEFINED_BY.items()}}
    per_area_too = "" if report.area_mm2 is None else " and numbers per area"
    caption = (
        f"FROC{per_area_too}, pooled over {in_plural(len(report.images), 'image')}; count errors, means over the images"
    )
    return MetricTable(caption, tuple(numbers), metric_rows(list(numbers.values()), defined))


def _counts_table(report: PointReport) -> Table:
    return Table(
        caption="What was counted",
        columns=(
            Column("class", "text"),
            Column("images with it", "count"),
            Column("threshold"),
            *(Column(name, "count") for name, _ in _COUNTS),
            *([Column("on look-alikes", "count")] if report.num_hard_negatives else []),
        ),
        rows=tuple(
            Row(
                (
                    *(one.name, one.num_images, one.threshold),
                    *(getattr(one.counts, field) for _, field in _COUNTS),
                    *([one.counts.hard_negative_hits] if report.num_hard_negatives else []),
                )
            )
            for one in report.summaries
        ),
        note=f"{in_plural(report.num_hard_negatives, 'look-alike')} (hard negatives) are labelled."
        if report.num_hard_negatives
        else "",
    )


def _froc_tables(report: PointReport) -> tuple[Table, ...]:
    frocs = [
        (one.name, unit, froc)
        for one in report.summaries
        for unit, froc in (("image", one.froc_per_image), ("mm²", one.froc_per_mm2))
        if froc is not None
    ]
    if not frocs:
        return ()
    rates = frocs[0][2].rates
    return (
        Table(
            caption="Sensitivity at numbers of false positives",
            columns=(
                Column("class", "text"),
                Column("per", "text"),
                *(Column(briefly(rate)) for rate in rates),
                Column("mean"),
            ),
            rows=tuple(Row((name, unit, *froc.sensitivities, froc.mean)) for name, unit, froc in frocs),
        ),
    )


def _thresholds(report: PointReport) -> tuple[Table, ...]:
    """Return how the thresholds were chosen, and what they and the best ones give on these images."""
    choice = report.choice
    if choice is None:
        return ()
    return (
        Table(
            caption="Thresholds, chosen on validation images in training",
            columns=(
                Column("class", "text"),
                Column("threshold used"),
                Column("F1 in validation"),
                Column("F1 here"),
                Column("best threshold here"),
                Column("F1 with that"),
            ),
            rows=tuple(
                Row(
                    (
                        *(one.name, one.threshold, choice.by_class.get(one.name), one.pooled["f1"].value),
                        *(one.best or (None, None)),
                    )
                )
                for one in report.per_class
            ),
            note=" ".join(
                (
                    *sentences_of(choice),
                    "The best thresholds here are for information: chosen on the images that they are measured on, "
                    "their F1 is not to be reported.",
                )
            ),
        ),
    )


def _curves(report: PointReport) -> tuple[LineChart | BarChart, ...]:
    with_truth = [one for one in report.per_class if one.curve.num_truth]
    if not with_truth:
        return ()
    size, unit = (report.area_mm2, "mm²") if report.area_mm2 else (len(report.images), "image")
    curves = {one.name: one.curve.thinned(_MAX_POINTS) for one in with_truth}
    charts: list[LineChart | BarChart] = [
        precision_recall_chart(
            {name: (curve.recall, curve.precision) for name, curve in curves.items()},
            {one.name: (_or_nan(one.counts.recall), _or_nan(one.counts.precision)) for one in with_truth},
        ),
        froc_chart({name: (curve.false_positives / size, curve.recall) for name, curve in curves.items()}, unit),
    ]
    then = {} if report.choice is None else {sweep.parameter: sweep.validation for sweep in report.choice.sweeps}
    for one in with_truth:
        curve = one.curve.spread(_MAX_POINTS)
        if len(curve.thresholds) < 2:
            continue
        validated = then.get(f"threshold/{one.name}")
        charts.append(
            threshold_chart(
                f"Over the threshold: {one.name}",
                "threshold",
                curve.thresholds,
                {
                    name: [Number(number(value)) for value in values]
                    for name, values in (("F1", curve.f1), ("precision", curve.precision), ("recall", curve.recall))
                },
                # Of detections that are there all count: their threshold is 0, which is none.
                used=one.threshold or None,
                others={} if validated is None else {"F1 in validation": (validated.values, validated.scores)},
                note="On these very images: a threshold that is chosen here makes the numbers too good."
                if report.choice is None
                else OTHERS,
            )
        )
    return tuple(charts)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _group_table(report: PointReport, by: str) -> Table:
    several, with_area = len(report.classes) > 2, report.area_mm2 is not None
    per_area = (("true per mm²", "true_per_mm2"), ("predicted per mm²", "predicted_per_mm2")) if with_area else ()
    ratios = (*_RATIOS[1:], ("AP", "average_precision"))
    return Table(
        caption=f"By {by}, pooled over its images; mean F1: of these images",
        columns=(
            Column(by, "text"),
            *([Column("class", "text")] if several else []),
            *(Column(name, "count") for name in ("images", "true", *(name for name, _ in _COUNTS))),
            Column("F1, interval", "text"),
            Column("mean F1"),
            *(Column(name) for name, _ in ratios),
            *(Column(name, "count") for name, _ in per_area),
        ),
        rows=tuple(
            Row(
                (
                    one.name,
                    *([one.summary.name] if several else []),
                    *(one.num_images, one.summary.counts.num_true),
                    *(getattr(one.summary.counts, field) for _, field in _COUNTS),
                    str(one.summary.pooled["f1"]),
                    one.summary.mean["f1"].value,
                    *(one.summary.pooled[field].value for _, field in ratios),
                    *(_rounded((one.summary.densities or {})[field].value) for _, field in per_area),
                )
            )
            for one in report.groups
            if one.by == by
        ),
        is_interactive=True,
        sorted_by=0,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value)


def _images(report: PointReport, definitions: Mapping[str, str]) -> Table:
    has_groups = any(row.group is not None for row in report.images)
    columns = [
        Column("image", "text"),
        *([Column("group", "text")] if has_groups else []),
        *(Column(name, "count", definitions.get(field, "")) for name, field in _COUNTS),
        *(Column(name, definition=definitions.get(field, "")) for name, field in _RATIOS),
    ]
    rows = [
        Row((str(row.image), *([row.group] if has_groups else []), *_cells(row.counts)), case=row.image)
        for row in report.images
    ]
    return images_table(columns, rows, len(columns) - len(_RATIOS))


def _cells(counts: PointCounts) -> list[Cell]:
    return [getattr(counts, field) for _, field in (*_COUNTS, *_RATIOS)]
