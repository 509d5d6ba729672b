"""A report of object metrics in parts of a page."""

from collections.abc import Mapping

import numpy as np

from segkit.evaluation.object_sizes import SizeBin
from segkit.evaluation.object_tables import AP, MEAN_AP, ObjectGroup, ObjectReport
from segkit.report.page.content import Column, MetricTable, Row, Table
from segkit.report.page.number import briefly
from segkit.report.page.pictures import Kind
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


def object_parts(report: ObjectReport, definitions: Mapping[str, str]) -> ReportParts:
    """Return the parts of a page about objects; `definitions` are those of metrics.json."""
    first = report.thresholds[0]
    name = f"AP at IoU {first:g}"
    what = (
        f"TP / (TP + FP + FN) of objects ({report.name}): {report.num_true:,} true and {report.num_predicted:,} "
        f"predicted ones in {in_plural(len(report.images), 'image')}, counted together."
    )
    ways = [
        {
            **{metric: values[0] for metric, values in summary.at.items()},
            MEAN_AP: summary.mean_average_precision,
            **summary.overall,
        }
        for summary in (report.pooled, report.mean)
    ]
    scores = tuple(row.metrics[AP] for row in report.images)
    return ReportParts(
        score_name="AP",
        score_in_full=name,
        headline=headline_of(name, report.headline, what, report),
        numbers=(
            MetricTable(
                f"Objects matched at an IoU of at least {first:g}; open a metric's name for its definition",
                ("pooled over images", "mean of images"),
                metric_rows(ways, definitions),
            ),
            MetricTable(
                ("Mean areas" if report.area_mm2 is None else "Densities and mean areas")
                + f", pooled over {in_plural(len(report.images), 'image')}",
                ("pooled over images",),
                metric_rows([dict(report.densities)], {**definitions, **_defined_by(definitions)}),
            ),
            *(() if report.choice is None else (choice_table(report.choice),)),
        ),
        charts=(
            threshold_chart(
                "By IoU threshold",
                "IoU threshold",
                np.array(report.thresholds, np.float64),
                {
                    label_of(metric): [number_of(one) for one in report.pooled.at[metric]]
                    for metric in (AP, "f1", "panoptic_quality")
                },
                note="Pooled over images; bands are intervals.",
            ),
            size_chart(
                [_range_in_words(one, report) for one in report.by_size],
                [number_of(one.metrics["f1"]) for one in report.by_size],
                [one.tp + one.fn for one in report.by_size],
                score_name="F1",
                size_label="area of objects, " + ("µm²" if report.mpp or report.sizes_in_um2 else "px"),
                note="Quarters of the true objects, by area." if report.has_quartiles else "",
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
        texts=tuple(
            f"{row.tp} of {in_plural(row.tp + row.fn, 'object')} found, {row.fn} missed, {row.fp} false"
            for row in report.images
        ),
        legend={Kind.RIGHT: "found", Kind.FALSE: "false", Kind.MISSED: "missed"},
    )


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
    columns = (Column(by, "text"), *(Column(name, "count") for name in ("images", "true", "TP", "FP", "FN")))
    return Table(
        caption=f"By {by}, pooled over its images",
        columns=(*columns, Column("AP, interval", "text"), *(Column(label_of(metric)) for metric in metrics[1:])),
        rows=tuple(
            Row(
                (
                    *(one.name, one.num_images, one.num_true, one.tp, one.fp, one.fn, str(one.pooled[AP])),
                    *(one.pooled[metric].value for metric in metrics[1:]),
                )
            )
            for one in groups
        ),
        is_interactive=True,
        sorted_by=0,
    )


def _images(report: ObjectReport, definitions: Mapping[str, str]) -> Table:
    has_groups = any(row.group is not None for row in report.images)
    overall = ("dice", "aji")
    columns = [
        Column("image", "text"),
        *([Column("group", "text")] if has_groups else []),
        *(Column(name, "count") for name in ("true", "TP", "FP", "FN")),
        Column(f"AP at {report.thresholds[0]:g}", definition=definitions.get(AP, "")),
        Column("mean AP", definition=definitions.get(MEAN_AP, "")),
        *(Column(label_of(metric), definition=definitions.get(metric, "")) for metric in overall),
    ]
    rows = [
        Row(
            (
                row.image,
                *([row.group] if has_groups else []),
                *(row.tp + row.fn, row.tp, row.fp, row.fn, row.metrics[AP], row.mean_average_precision),
                *(row.overall[metric] for metric in overall),
            ),
            case=row.image,
        )
        for row in report.images
    ]
    return images_table(columns, rows, len(columns) - 4)
