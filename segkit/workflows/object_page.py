"""A report of object metrics in parts of a page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from segkit.evaluation.estimates import Estimate
from segkit.evaluation.object_class_exports import at_first
from segkit.evaluation.object_classes import ANY_CLASS
from segkit.evaluation.object_sizes import SizeBin
from segkit.evaluation.object_summary import ObjectSummary
from segkit.evaluation.object_tables import AP, MEAN_AP, ObjectGroup, ObjectReport
from segkit.report.page.content import Cell, Column, MetricTable, Row, Table
from segkit.report.page.number import briefly
from segkit.report.page.pictures import Kind
from segkit.report.page.plots import LineChart
from segkit.report.page.standard_charts import score_histogram, size_chart, threshold_chart
from segkit.workflows.choice_page import choice_table, sweep_charts
from segkit.workflows.page_parts import (
    ReportParts,
    headline_of,
    images_table,
    in_plural,
    label_of,
    metric_rows,
    number_of,
)

OF_CLASSES: Final = "mean of the classes"
_COUNTS: Final = (
    ("images with it", "num_images"), ("true", "num_true"), ("found", "num_predicted"), ("TP", "tp"), ("FP", "fp"),
    ("FN", "fn"),
)  # fmt: skip


def object_parts(report: ObjectReport, definitions: Mapping[str, str]) -> ReportParts:
    """Return the parts of a page about objects; `definitions` are those of metrics.json."""
    first = report.thresholds[0]
    several = bool(report.per_class)
    name = f"AP at IoU {first:g}" + (f", {OF_CLASSES}" if several else "")
    scores = tuple(row.score for row in report.images)
    return ReportParts(
        score_name=f"AP at IoU {first:g}",
        score_in_full=name,
        headline=headline_of(name, report.headline, _what(report), report),
        numbers=(
            *_metric_tables(report, definitions),
            MetricTable(
                ("Mean areas" if report.area_mm2 is None else "Densities and mean areas")
                + f", pooled over {in_plural(len(report.images), 'image')}",
                (ANY_CLASS, *(one.name for one in report.per_class)) if several else ("pooled over images",),
                metric_rows(
                    [report.densities, *(one.densities for one in report.per_class)],
                    {**definitions, **_defined_by(definitions)},
                ),
            ),
            *(() if report.choice is None else (choice_table(report.choice),)),
        ),
        charts=(
            *_threshold_charts(report),
            size_chart(
                [_range_in_words(one, report) for one in report.by_size],
                [number_of(one.metrics["f1"]) for one in report.by_size],
                [one.tp + one.fn for one in report.by_size],
                score_name="F1",
                size_label="area of objects, " + ("µm²" if report.mpp or report.sizes_in_um2 else "px"),
                note=" ".join(
                    [
                        *(["Quarters of the true objects, by area."] if report.has_quartiles else []),
                        *(["Objects of any class."] if several else []),
                    ]
                ),
            ),
            *(() if report.choice is None else sweep_charts(report.choice)),
            score_histogram(scores, name),
        ),
        groups=tuple(
            _group_table(by, [one for one in report.groups if one.by == by])
            for by in dict.fromkeys(one.by for one in report.groups)
        ),
        images=_images(report, definitions),
        names=tuple(row.image for row in report.images),
        scores=scores,
        texts=_texts(report),
        legend={Kind.RIGHT: "found", Kind.FALSE: "false", Kind.MISSED: "missed"},
    )


def _what(report: ObjectReport) -> str:
    """Return what the headline is, in a sentence."""
    images = in_plural(len(report.images), "image")
    objects = f"{report.num_true:,} true and {report.num_predicted:,} predicted ones in {images}, counted together."
    if not report.per_class:
        of = f"{ANY_CLASS}: class is not looked at" if report.name == ANY_CLASS else report.name
        return f"TP / (TP + FP + FN) of objects ({of}): {objects}"
    names = ", ".join(one.name for one in report.per_class)
    return (
        f"TP / (TP + FP + FN) of the objects of each class ({names}), matched with those of the same class only, then "
        f"the mean of the classes: {objects} Whatever their class ({ANY_CLASS}) it is {report.pooled.at[AP][0]}."
    )


def _metric_tables(report: ObjectReport, definitions: Mapping[str, str]) -> tuple[MetricTable | Table, ...]:
    """Return the metrics; where there are classes, of their mean, of any class, and of each of them."""
    first = report.thresholds[0]
    if report.foreground is None:
        ways = [at_first(summary) for summary in (report.pooled, report.mean)]
        caption = f"Objects matched at an IoU of at least {first:g}; open a metric's name for its definition"
        return (MetricTable(caption, ("pooled over images", "mean of images"), metric_rows(ways, definitions)),)
    summaries = {OF_CLASSES: report.foreground, ANY_CLASS: report, **{one.name: one for one in report.per_class}}
    defined = {**definitions, "panoptic_quality": f"{definitions['panoptic_quality']}; {definitions['foreground']}"}
    return (
        *(
            # Short, as a caption is as wide as its table, and a phone shows the left of it.
            MetricTable(
                f"By class at IoU {first:g}, {how_in_words}",
                tuple(summaries),
                metric_rows([at_first(getattr(one, how)) for one in summaries.values()], defined),
            )
            for how, how_in_words in (("pooled", "pooled over images"), ("mean", "means of images"))
        ),
        Table(
            caption="What was counted within each class",
            columns=(Column("class", "text"), *(Column(name, "count") for name, _ in _COUNTS)),
            rows=tuple(Row((one.name, *(getattr(one, field) for _, field in _COUNTS))) for one in report.per_class),
            note="Any class: class is not looked at, an object may match one of another class.",
        ),
    )


def _threshold_charts(report: ObjectReport) -> tuple[LineChart, ...]:
    thresholds = np.array(report.thresholds, np.float64)
    note = "Pooled over images; bands are intervals."

    def chart(title: str, summary: ObjectSummary) -> LineChart:
        lines = {label_of(name): list(map(number_of, summary.at[name])) for name in (AP, "f1", "panoptic_quality")}
        return threshold_chart(title, "IoU threshold", thresholds, lines, note=note)

    if report.foreground is None:
        return (chart("By IoU threshold", report.pooled),)
    lines = {one.name: list(map(number_of, one.pooled.at[AP])) for one in report.per_class}
    return (
        chart(f"By IoU threshold, {OF_CLASSES}", report.foreground.pooled),
        threshold_chart("AP by IoU threshold and class", "IoU threshold", thresholds, lines, note=note),
        chart(f"By IoU threshold, {ANY_CLASS}", report.pooled),
    )


def _texts(report: ObjectReport) -> tuple[str, ...]:
    """Return what was found in each image: within the classes, where there are some."""
    kind = " of their class" if report.per_class else ""
    return tuple(
        f"{tp} of {in_plural(tp + fn, 'object')} found{kind}, {fn} missed, {fp} false"
        for tp, fp, fn in _counts_of_images(report)
    )


def _counts_of_images(report: ObjectReport) -> list[tuple[int, int, int]]:
    """Return TP, FP and FN of each image: with classes those within each of them, added up."""
    num_classes = len(report.per_class)
    starts = range(0, len(report.rows), num_classes) if num_classes else ()
    rows = [report.rows[start : start + num_classes] for start in starts] or [(row,) for row in report.images]
    return [
        (sum(row.tp for row in of_image), sum(row.fp for row in of_image), sum(row.fn for row in of_image))
        for of_image in rows
    ]


def _defined_by(definitions: Mapping[str, str]) -> dict[str, str]:
    """Return the definitions that stand under another name."""
    return {
        "predicted_per_mm2": definitions.get("true_per_mm2", ""),
        **{
            f"mean_{what}_area_{unit}": definitions.get("mean_true_area_um2", "")
            for what in ("true", "predicted")
            for unit in ("um2", "px")
        },
    }


def _range_in_words(one: SizeBin, report: ObjectReport) -> str:
    scale = 1.0 if report.mpp is None else report.mpp**2
    low, high = one.range.low * scale, None if one.range.high is None else one.range.high * scale
    if high is None:
        return f"from {briefly(round(low, 1))}" if low else "any"
    return f"{briefly(round(low, 1))}–{briefly(round(high, 1))}" if low else f"below {briefly(round(high, 1))}"


def _group_table(by: str, groups: list[ObjectGroup]) -> Table:
    metrics = (AP, "f1", "panoptic_quality", "aji", "dice")
    several = any(one.of for one in groups)
    counted = (Column(name, "count") for name in ("images", "true", "TP", "FP", "FN"))
    columns = (Column(by, "text"), *([Column("class", "text")] if several else []), *counted)
    return Table(
        caption=f"By {by}, pooled over its images" + (f"; {ANY_CLASS}: class is not looked at" if several else ""),
        columns=(*columns, Column("AP, interval", "text"), *(Column(label_of(metric)) for metric in metrics[1:])),
        rows=tuple(Row(cells) for one in groups for cells in _cells_of_group(one, metrics, several=several)),
        is_interactive=True,
        sorted_by=0,
    )


def _cells_of_group(one: ObjectGroup, metrics: Sequence[str], *, several: bool) -> Iterator[tuple[Cell, ...]]:
    """Yield the row of the mean over the classes, of which nothing is counted, before that of any class."""

    def values(of: Mapping[str, Estimate]) -> list[Cell]:
        return [str(of[AP]), *(of[metric].value for metric in metrics[1:])]

    if one.foreground:
        yield (one.name, OF_CLASSES, one.num_images, one.num_true, None, None, None, *values(one.foreground))
    counts = (one.num_images, one.num_true, one.tp, one.fp, one.fn)
    yield (one.name, *([one.of or ANY_CLASS] if several else []), *counts, *values(one.pooled))


def _images(report: ObjectReport, definitions: Mapping[str, str]) -> Table:
    has_groups = any(row.group is not None for row in report.images)
    several = bool(report.per_class)
    # Beside the mean over the classes, what knows none says so.
    of_any = f", {ANY_CLASS}" if several else ""
    overall = ("dice", "aji")
    ap = f"AP at {report.thresholds[0]:g}"
    columns = [
        Column("image", "text"),
        *([Column("group", "text")] if has_groups else []),
        Column("true", "count"),
        *(Column(f"{name} within class" if several else name, "count") for name in ("TP", "FP", "FN")),
        *([Column(f"{ap}, {OF_CLASSES}", definition=definitions.get("foreground", ""))] if several else []),
        Column(f"{ap}{of_any}", definition=definitions.get(AP, "")),
        Column(f"mean AP{of_any}", definition=definitions.get(MEAN_AP, "")),
        *(Column(f"{label_of(metric)}{of_any}", definition=definitions.get(metric, "")) for metric in overall),
    ]
    rows = [
        Row(
            (
                row.image,
                *([row.group] if has_groups else []),
                *(row.tp + row.fn, *counts),
                *([row.score] if several else []),
                *(row.metrics[AP], row.mean_average_precision),
                *(row.overall[metric] for metric in overall),
            ),
            case=row.image,
        )
        for row, counts in zip(report.images, _counts_of_images(report), strict=True)
    ]
    return images_table(columns, rows, len(columns) - (5 if several else 4))
