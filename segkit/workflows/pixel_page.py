"""A report of pixel metrics in parts of a page."""

from collections.abc import Mapping

from segkit.evaluation.pixel_tables import PixelReport, Summary
from segkit.report.page.content import Column, MetricTable, Row, Table
from segkit.report.page.pictures import Kind
from segkit.report.page.standard_charts import score_histogram
from segkit.workflows.page_parts import ReportParts, headline_of, images_table, in_plural, label_of, metric_rows


def pixel_parts(report: PixelReport, definitions: Mapping[str, str]) -> ReportParts:
    """Return the parts of a page about masks; `definitions` are those of metrics.json."""
    several = len(report.classes) > 2
    of = "mean of the foreground classes" if several else f"class {report.classes[1]}"
    what = f"2 TP / (2 TP + FP + FN) of the pixels of {in_plural(len(report.images), 'image')} together, {of}."
    summaries = ([report.foreground] if several else []) + [*report.per_class[1:], report.per_class[0]]
    scores = tuple(row.dice for row in report.images)
    return ReportParts(
        score_name="Dice",
        score_in_full="Dice" + (", mean of the foreground classes" if several else ""),
        headline=headline_of("Dice", report.headline, what, report),
        numbers=(*(_class_table(one, report, definitions) for one in summaries), _error_table(report, definitions)),
        charts=(score_histogram(scores, "Dice"),),
        groups=(),
        images=_images(report, definitions),
        names=tuple(row.image for row in report.images),
        scores=scores,
        texts=_texts(report),
        legend={
            Kind.RIGHT: "right",
            Kind.FALSE: "false",
            Kind.MISSED: "missed",
            Kind.CONFUSED: "wrong class",
            Kind.UNLABELLED: "not labelled",
        },
    )


def _class_table(summary: Summary, report: PixelReport, definitions: Mapping[str, str]) -> MetricTable:
    name = "Mean of the foreground classes" if summary is report.foreground else f"Class {summary.name}"
    return MetricTable(
        f"{name}, in {summary.num_images} of {in_plural(len(report.images), 'image')}; open a metric's name for its "
        "definition",
        ("pooled over images", "mean of images"),
        metric_rows((summary.pooled, summary.mean), definitions),
    )


def _error_table(report: PixelReport, definitions: Mapping[str, str]) -> MetricTable:
    pooled, mean = {"pixel_error": report.pixel_error_pooled}, {"pixel_error": report.pixel_error_mean}
    return MetricTable(
        "All classes", ("pooled over images", "mean of images"), metric_rows((pooled, mean), definitions)
    )


def _images(report: PixelReport, definitions: Mapping[str, str]) -> Table:
    has_groups = any(row.group is not None for row in report.images)
    of_class = {(row.image, row.name): row for row in report.rows}
    foreground = report.classes[1:]
    metric_of_class = "iou" if len(foreground) == 1 else "dice"
    columns = [
        Column("image", "text"),
        *([Column("group", "text")] if has_groups else []),
        Column("Dice", definition=definitions.get("dice", "")),
        *(Column(label_of(metric_of_class) if len(foreground) == 1 else f"Dice of {name}") for name in foreground),
        Column("pixel error", definition=definitions.get("pixel_error", "")),
    ]
    rows = [
        Row(
            (
                row.image,
                *([row.group] if has_groups else []),
                row.dice,
                *(of_class[row.image, name].metrics[metric_of_class] for name in foreground),
                row.pixel_error,
            ),
            case=row.image,
        )
        for row in report.images
    ]
    return images_table(columns, rows, 2 if has_groups else 1)


def _texts(report: PixelReport) -> tuple[str, ...]:
    """Return for each image which share of its pixels is false and which is missed, over the foreground classes."""
    false: dict[str, int] = {}
    missed: dict[str, int] = {}
    counted: dict[str, int] = {}
    for row in report.rows:
        if row.name != report.classes[0]:
            false[row.image] = false.get(row.image, 0) + row.fp_px
            missed[row.image] = missed.get(row.image, 0) + row.fn_px
        counted[row.image] = row.tp_px + row.fp_px + row.fn_px + row.tn_px
    return tuple(
        f"{false[one.image] / max(1, counted[one.image]):.1%} of the pixels false, "
        f"{missed[one.image] / max(1, counted[one.image]):.1%} missed"
        for one in report.images
    )
