"""A report of pixel metrics in parts of a page."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from segkit.evaluation.calibration_tables import CalibrationSummary
from segkit.evaluation.estimates import Estimate
from segkit.evaluation.pixel_exports import diagonals_in_words
from segkit.evaluation.pixel_summaries import Summary
from segkit.evaluation.pixel_tables import NOT_BACKGROUND, PixelGroup, PixelReport
from segkit.evaluation.pixels import CLASS_METRICS
from segkit.report.page.content import Block, Column, MetricTable, Row, Section, Table
from segkit.report.page.pictures import Kind
from segkit.report.page.plots import LineChart
from segkit.report.page.standard_charts import as_floats, reliability_chart, score_histogram
from segkit.workflows.membrane_page import membrane_cells, membrane_columns, membrane_section
from segkit.workflows.page_parts import (
    ReportParts,
    headline_of,
    images_table,
    in_plural,
    label_of,
    metric_rows,
    number_of,
)
from segkit.workflows.pixel_curve_page import threshold_section


def pixel_parts(report: PixelReport, definitions: Mapping[str, str]) -> ReportParts:
    """Return the parts of a page about masks; `definitions` are those of metrics.json."""
    several = len(report.classes) > 2
    of = "mean of the foreground classes" if several else f"class {report.classes[1]}"
    what = f"2 TP / (2 TP + FP + FN) of the pixels of {in_plural(len(report.images), 'image')} together, {of}."
    summaries = [*_foreground(report), report.per_class[0]]
    scores = tuple(row.dice for row in report.images)
    return ReportParts(
        score_name="Dice",
        score_in_full="Dice" + (", mean of the foreground classes" if several else ""),
        headline=headline_of("Dice", report.headline, what, report),
        numbers=(
            *(_class_table(one, report, definitions) for one in summaries),
            _error_table(report, definitions),
            _num_defined_table(report, summaries),
        ),
        charts=(score_histogram(scores, "Dice"),),
        groups=tuple(
            _group_table(by, [one for one in report.groups if one.by == by], report, definitions)
            for by in dict.fromkeys(one.by for one in report.groups)
        ),
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


def pixel_sections(report: PixelReport, definitions: Mapping[str, str]) -> tuple[Section, ...]:
    """Return the sections about thresholds, distances, membranes and probabilities, each where it was measured."""
    membranes = () if report.membranes is None else (membrane_section(report.membranes, definitions),)
    return (
        *threshold_section(report, definitions),
        *_boundaries(report, definitions),
        *membranes,
        *_calibration(report, definitions),
    )


def _boundaries(report: PixelReport, definitions: Mapping[str, str]) -> tuple[Section, ...]:
    rules = report.surfaces
    if rules is None:
        return ()
    num_images = in_plural(len(report.images), "image")
    measured = num_images if rules.num_images == len(report.images) else f"{rules.num_images} of {num_images}"
    scale = "" if rules.unit == "um" else " Micrometres per pixel are not known of all images, so they are in pixels."
    intro = (
        f"Distances between the boundaries of truth and prediction, means of {measured}; NSD allows {rules.tolerance}. "
        f"Where only one of the two is empty, the image's diagonal stands for them.{scale}",
        *filter(None, [diagonals_in_words(report)]),
    )
    metrics = (f"hd95_{rules.unit}", f"assd_{rules.unit}", "nsd", f"hd_{rules.unit}")
    tables = [
        MetricTable(
            _boundaries_of(one, report),
            ("mean of images",),
            metric_rows(({metric: one.mean[metric] for metric in metrics},), definitions),
        )
        for one in _foreground(report)
    ]
    return (Section("Boundaries", tuple(tables), intro),)


def _boundaries_of(summary: Summary, report: PixelReport) -> str:
    diagonals = f", {summary.num_diagonals} by the diagonal" if summary.num_diagonals else ""
    return f"{_name_of(summary, report)}, in {in_plural(summary.num_defined['nsd'], 'image')}{diagonals}"


def _calibration(report: PixelReport, definitions: Mapping[str, str]) -> tuple[Section, ...]:
    if not report.calibrations:
        return ()
    intro = (
        "Of the pixels that were said to be of a class with a probability of 0.8, 80 % should be of it. Probabilities "
        "are as the model gives them; nothing was calibrated.",
    )
    blocks: list[Block] = [_calibration_table(one, report, definitions) for one in report.calibrations]
    return (Section("Calibration", (*blocks, *map(_reliability_chart, report.calibrations)), intro),)


def _calibration_table(one: CalibrationSummary, report: PixelReport, definitions: Mapping[str, str]) -> MetricTable:
    name = "Any class but the background" if one.name == NOT_BACKGROUND else f"Class {one.name}"
    return MetricTable(
        f"{name}, in {one.num_images} of {in_plural(len(report.images), 'image')}",
        ("pooled over images", "mean of images"),
        metric_rows((one.pooled, one.mean), definitions),
    )


def _reliability_chart(one: CalibrationSummary) -> LineChart:
    chart = reliability_chart(
        as_floats([part.mean_probability for part in one.curve]),
        as_floats([part.share for part in one.curve]),
        np.array([part.pixels for part in one.curve]),
        ece=number_of(one.pooled["ece"]),
    )
    return replace(chart, title=f"Reliability: {one.name}")


def _group_table(by: str, groups: list[PixelGroup], report: PixelReport, definitions: Mapping[str, str]) -> Table:
    pooled = ("iou", "precision", "recall")
    means = () if report.surfaces is None else (f"hd95_{report.surfaces.unit}", "nsd")
    of = ", mean of the foreground classes" if len(report.classes) > 2 else ""
    distances = "; distances are means of images" if means else ""
    return Table(
        caption=f"By {by}{of}, pooled over its images{distances}",
        columns=(
            Column(by, "text"),
            Column("images", "count"),
            Column("Dice, interval", "text", definitions.get("dice", "")),
            *(
                Column(label_of(metric), definition=definitions.get(metric, ""))
                for metric in (*pooled, "pixel_error", *means)
            ),
            *([Column("images with distances", "count")] if means else []),
        ),
        rows=tuple(
            Row(
                (
                    one.name,
                    one.num_images,
                    str(one.foreground.pooled["dice"]),
                    *(one.foreground.pooled[metric].value for metric in pooled),
                    one.pixel_error_pooled.value,
                    *(one.foreground.mean[metric].value for metric in means),
                    *([one.foreground.num_defined["nsd"]] if means else []),
                )
            )
            for one in groups
        ),
        is_interactive=True,
        sorted_by=0,
    )


def _class_table(summary: Summary, report: PixelReport, definitions: Mapping[str, str]) -> MetricTable:
    images = f"in {summary.num_images} of {in_plural(len(report.images), 'image')}"
    return MetricTable(
        f"{_name_of(summary, report)}, {images}; open a metric's name for its definition",
        ("pooled over images", "mean of images"),
        metric_rows((_overlaps(summary.pooled), _overlaps(summary.mean)), definitions),
    )


def _foreground(report: PixelReport) -> list[Summary]:
    """Return the summaries of the foreground classes, behind their mean where there are several."""
    return ([report.foreground] if len(report.classes) > 2 else []) + list(report.per_class[1:])


def _name_of(summary: Summary, report: PixelReport) -> str:
    return "Mean of the foreground classes" if summary is report.foreground else f"Class {summary.name}"


def _overlaps(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return the metrics that do not have a section of their own."""
    return {metric: estimates[metric] for metric in CLASS_METRICS}


def _error_table(report: PixelReport, definitions: Mapping[str, str]) -> MetricTable:
    pooled, mean = {"pixel_error": report.pixel_error_pooled}, {"pixel_error": report.pixel_error_mean}
    return MetricTable(
        "All classes", ("pooled over images", "mean of images"), metric_rows((pooled, mean), definitions)
    )


def _num_defined_table(report: PixelReport, summaries: Sequence[Summary]) -> Table:
    metrics = tuple(CLASS_METRICS)
    return Table(
        caption="How many images each mean is over",
        columns=(
            Column("mean", "text"),
            Column("images with it", "count"),
            *(Column(label_of(metric), "count") for metric in metrics),
        ),
        rows=tuple(
            Row((_name_of(one, report), one.num_images, *(one.num_defined[metric] for metric in metrics)))
            for one in summaries
        ),
        note="Images whose truth holds the class; then those where each metric is defined, which its mean is over. "
        f"That of the pixel error is over {in_plural(report.num_defined, 'image')}.",
    )


def _images(report: PixelReport, definitions: Mapping[str, str]) -> Table:
    has_groups = any(row.group is not None for row in report.images)
    of_class = {(row.image, row.name): row for row in report.rows}
    foreground = report.classes[1:]
    metric_of_class = "iou" if len(foreground) == 1 else "dice"
    further = [] if report.surfaces is None else [f"hd95_{report.surfaces.unit}", "nsd"]
    further += ["ece"] if "ece" in report.images[0].foreground else []
    membranes = {} if report.membranes is None else membrane_cells(report.membranes)
    nothing = (None,) * len(membrane_columns(definitions) if membranes else ())
    columns = [
        Column("image", "text"),
        *([Column("group", "text")] if has_groups else []),
        Column("Dice", definition=definitions.get("dice", "")),
        *(Column(label_of(metric_of_class) if len(foreground) == 1 else f"Dice of {name}") for name in foreground),
        *(Column(label_of(metric), definition=definitions.get(metric, "")) for metric in (*further, "pixel_error")),
        *(membrane_columns(definitions) if membranes else ()),
    ]
    rows = [
        Row(
            (
                row.image,
                *([row.group] if has_groups else []),
                row.dice,
                *(of_class[row.image, name].metrics[metric_of_class] for name in foreground),
                *(row.foreground[metric] for metric in further),
                row.pixel_error,
                *membranes.get(row.image, nothing),
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
