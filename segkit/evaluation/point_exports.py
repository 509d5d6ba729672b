"""Write a report of point metrics as JSON (everything), CSV (per image and class; curves) and Markdown (to read)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from segkit.evaluation import point_rules, points, threshold_choice
from segkit.evaluation.estimates import Estimate, format_value, number
from segkit.evaluation.markdown import cell, table
from segkit.evaluation.point_curves import Froc
from segkit.evaluation.point_summary import COUNT_ERRORS, METRICS, PointSummary
from segkit.evaluation.point_tables import PointGroup, PointReport, PointRow
from segkit.evaluation.points import PointCounts
from segkit.files import write_csv, write_json, write_text
from segkit.versions import version_of

CSV_COLUMNS = (
    "image",
    "group",
    "class",
    "num_true",
    "num_predicted",
    "tp",
    "fp",
    "fn",
    "hard_negative_hits",
    "precision",
    "recall",
    "f1",
    "count_error",
    "area_mm2",
    *points.DENSITIES,
)
"""Columns of metrics.csv: all that is needed to pool counts, densities and errors anew.

What else is known of the images stands after `group`.
"""

CURVE_COLUMNS = ("class", "threshold", "tp", "fp", "fn", "precision", "recall", "f1")
"""Columns of curves.csv."""

_AGGREGATES = MappingProxyType(
    {
        "pooled": "counts added up over images, then the metric: every point counts the same",
        "foreground": "mean over all classes but the first, the background, for which the metric is defined",
        "groups": "the images of a group, or of one value of what else is known of them; with intervals where they are "
        "of at least two of the units that the bootstrap draws",
        "best_on_this_set": "the threshold with the highest F1 on these very images: for information, not to be "
        "reported as a result, as it was chosen on the images that it is measured on",
    }
)
_BEST = "best_on_this_set"
_MAX_CURVE_ROWS = 1000
_NUM_LOWEST = 5  # images that the summary lists
_MAX_GROUPS = 20  # groups that the summary lists
_HEADER = ("F1", "precision", "recall")


def write_point_report(report: PointReport, folder: Path) -> None:
    """Write `metrics.csv`, `curves.csv`, `summary.md` and `metrics.json` into `folder`, each whole or not at all."""
    rows = as_csv_rows(report)
    write_csv(folder / "metrics.csv", rows, list(rows[0]))
    write_csv(folder / "curves.csv", as_curve_rows(report), CURVE_COLUMNS)
    write_text(folder / "summary.md", as_markdown(report))
    write_json(folder / "metrics.json", as_json(report))


def as_csv_rows(report: PointReport) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv: one for each image and foreground class; no sums, no `any class`."""
    # An attribute of the name of another column gives way to it.
    return [
        {"image": row.image, "group": row.group, **row.attributes, "class": row.name, **_row(row)}
        for row in report.rows
    ]


def as_curve_rows(report: PointReport) -> list[dict[str, Any]]:
    """Return the rows of curves.csv: by class (and any class), then by descending threshold; at most 1000 of each.

    Where there are more thresholds, those where recall rises are kept, evenly spread, with the first and the last.
    """
    rows = []
    for summary in _all_summaries(report):
        curve = summary.curve.thinned(_MAX_CURVE_ROWS)
        columns = (
            curve.thresholds.tolist(),
            curve.true_positives.tolist(),
            curve.false_positives.tolist(),
            curve.false_negatives.tolist(),
            *(map(number, values) for values in (curve.precision, curve.recall, curve.f1)),
        )
        rows += [
            dict(zip(CURVE_COLUMNS, (summary.name, *values), strict=True)) for values in zip(*columns, strict=True)
        ]
    return rows


def as_json(report: PointReport) -> dict[str, Any]:
    """Return the content of metrics.json: counts and metrics with intervals, how they were made and what they mean."""
    return {
        "segkit": version_of("segkit"),
        "num_images": len(report.images),
        "rule": report.rule,
        "rule_of_curves": report.curve_rule,
        "radius_px": report.radius_px,
        "radius_um": None if report.radius_um is None else number(report.radius_um),
        "mpp": report.mpp,
        "area_mm2": _area(report.area_mm2),
        "num_hard_negatives": report.num_hard_negatives,
        "headline": {"metric": "f1", "of": "foreground", "how": "pooled", **asdict(report.headline)},
        "foreground": _estimates(report.foreground),
        "classes": [_summary(summary) for summary in report.per_class],
        "any_class": None if report.any_class is None else _summary(report.any_class),
        "choice": threshold_choice.as_json(report.choice),
        "groups": [_group(one) for one in report.groups],
        "intervals": report.intervals_as_json(),
        "definitions": _definitions(report),
    }


def as_markdown(report: PointReport) -> str:
    """Return the content of summary.md: the headline, the tables, the images with the lowest F1, definitions."""
    parts = [
        "# Point metrics",
        _headline(report),
        _rules_in_words(report),
        report.intervals_in_words(),
        "## Pooled over images",
        _pooled_table(report),
        _hard_negatives_in_words(report),
        "## Numbers and densities",
        _density_table(report),
        _density_in_words(report),
        "## Sensitivity at numbers of false positives",
        _froc_table(report),
        *_group_parts(report),
        "## Images with the lowest F1",
        _rows_table(_lowest(report.images)[:_NUM_LOWEST]),
        "All images are in `metrics.csv`, all thresholds in `curves.csv`, all numbers with their definitions in "
        "`metrics.json`.",
        "## Thresholds",
        *_threshold_parts(report),
        "## Definitions",
        "\n".join(f"- {name}: {text}" for name, text in _definitions(report).items()),
    ]
    return "\n\n".join(parts) + "\n"


def _all_summaries(report: PointReport) -> list[PointSummary]:
    return [*report.per_class, *([] if report.any_class is None else [report.any_class])]


def _definitions(report: PointReport) -> dict[str, str]:
    rules = {f"rule_{name}": point_rules.DEFINITIONS[name] for name in (report.rule, report.curve_rule)}
    choice = {} if report.choice is None else threshold_choice.DEFINITIONS
    return {**points.DEFINITIONS, **rules, **choice, **_AGGREGATES}


def _row(row: PointRow) -> dict[str, Any]:
    counts = row.counts
    return {
        **_counts(counts),
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "count_error": counts.count_error,
        "area_mm2": _area(row.area_mm2),
        **row.densities,
    }


def _counts(counts: PointCounts) -> dict[str, int]:
    names = ("num_true", "num_predicted", "tp", "fp", "fn", "hard_negative_hits")
    return {name: getattr(counts, name) for name in names}


def _area(area_mm2: float | None) -> float | None:
    # A patch of 100 pixels is less than a thousandth of 1 mm2: more digits than for metrics.
    return None if area_mm2 is None else round(area_mm2, 9)


def _estimates(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {metric: asdict(estimate) for metric, estimate in estimates.items()}


def _summary(summary: PointSummary) -> dict[str, Any]:
    return {
        "name": summary.name,
        "num_images": summary.num_images,
        "threshold": summary.threshold,
        **_counts(summary.counts),
        "pooled": _estimates(summary.pooled),
        "count_errors": _estimates(summary.count_errors),
        "densities": None if summary.densities is None else _estimates(summary.densities),
        "froc_per_image": _froc(summary.froc_per_image, summary.froc_mean_per_image),
        "froc_per_mm2": _froc(summary.froc_per_mm2, summary.froc_mean_per_mm2),
        _BEST: None if summary.best is None else {"threshold": summary.best[0], "f1": number(summary.best[1])},
    }


def _group(one: PointGroup) -> dict[str, Any]:
    summary = one.summary
    return {
        "by": one.by,
        "name": one.name,
        "class": summary.name,
        "num_images": one.num_images,
        "num_units": one.num_units,
        **_counts(summary.counts),
        "area_mm2": _area(one.area_mm2),
        "pooled": _estimates(summary.pooled),
        "count_errors": _estimates(summary.count_errors),
        "densities": None if summary.densities is None else _estimates(summary.densities),
    }


def _froc(froc: Froc | None, mean: Estimate | None) -> dict[str, Any] | None:
    if froc is None or mean is None:
        return None
    return {
        "false_positives": list(froc.rates),
        "sensitivities": [number(value) for value in froc.sensitivities],
        "mean": mean.value,
        "mean_low": mean.low,
        "mean_high": mean.high,
    }


def _headline(report: PointReport) -> str:
    several = len(report.classes) > 2
    radius = f"{report.radius_px:.4g} px" + ("" if report.radius_um is None else f" = {report.radius_um:.4g} um")
    return (
        f"**F1 {report.headline}**, precision {report.foreground['precision']}, recall {report.foreground['recall']}, "
        f"average precision {report.foreground['average_precision']}; matched within {radius}; "
        f"pooled over {len(report.images)} {'image' if len(report.images) == 1 else 'images'}, "
        + ("mean of the foreground classes." if several else f"class {cell(report.classes[1])}.")
    )


def _rules_in_words(report: PointReport) -> str:
    text = f"Matched by the rule `{report.rule}`: {point_rules.DEFINITIONS[report.rule]}."
    if report.curve_rule == report.rule:
        return text
    return f"{text} Average precision, FROC and best thresholds are by the rule `{report.curve_rule}`."


def _pooled_table(report: PointReport) -> str:
    rows = [
        [
            cell(summary.name) if summary is not report.any_class else "*any class*",
            str(summary.num_images),
            "" if summary.threshold is None else f"{summary.threshold:.3f}",
            *(str(getattr(summary.counts, name)) for name in ("tp", "fp", "fn", "hard_negative_hits")),
            *(str(summary.pooled[metric]) for metric in METRICS),
        ]
        for summary in _all_summaries(report)
    ]
    if len(report.classes) > 2:
        rows.append(["*mean of the foreground*", *[""] * 6, *(str(report.foreground[metric]) for metric in METRICS)])
    return table(
        ["class", "images with it", "threshold", "TP", "FP", "FN", "on hard negatives", *_HEADER, "average precision"],
        rows,
    )


def _hard_negatives_in_words(report: PointReport) -> str:
    if not report.num_hard_negatives:
        return "No hard negatives (look-alikes) are labelled."
    hits = sum(summary.counts.hard_negative_hits for summary in report.per_class)
    false = sum(summary.counts.fp for summary in report.per_class)
    return f"{hits} of {false} false positives lie on one of {report.num_hard_negatives} labelled hard negatives."


def _density_table(report: PointReport) -> str:
    rows = [
        [
            cell(summary.name),
            str(summary.counts.num_true),
            str(summary.counts.num_predicted),
            *(summary.count_errors[name].in_words(1) for name in COUNT_ERRORS),
            *(summary.densities[name].in_words(1) for name in points.DENSITIES if summary.densities),
        ]
        for summary in _all_summaries(report)
    ]
    per_area = ["labelled per mm2", "found per mm2", "labelled per 10 HPF", "found per 10 HPF"]
    header = ["class", "labelled", "found", "mean count error per image", "mean absolute count error"]
    return table([*header, *([] if report.area_mm2 is None else per_area)], rows)


def _density_in_words(report: PointReport) -> str:
    if report.area_mm2 is None:
        return "The pixel size is not known, and so there are no numbers per area."
    return f"{report.area_mm2:.4g} mm2 were searched. 10 HPF are {points.TEN_HPF_MM2} mm2."


def _froc_table(report: PointReport) -> str:
    frocs = [
        (summary, unit, froc, mean)
        for summary in _all_summaries(report)
        for unit, froc, mean in (
            ("image", summary.froc_per_image, summary.froc_mean_per_image),
            ("mm2", summary.froc_per_mm2, summary.froc_mean_per_mm2),
        )
        if froc is not None
    ]
    if not frocs:
        return "Undefined: there is no labelled point."
    rows = [
        [cell(summary.name), unit, *map(format_value, froc.sensitivities), str(mean)]
        for summary, unit, froc, mean in frocs
    ]
    return table(["class", "per", *(f"{rate:g}" for rate in frocs[0][2].rates), "mean"], rows)


def _group_parts(report: PointReport) -> Iterator[str]:
    """Yield a table for groups and for each attribute, those with the lowest F1 first."""
    for by in dict.fromkeys(one.by for one in report.groups):
        groups = [one for one in report.groups if one.by == by and one.summary.counts.f1 is not None]
        groups.sort(key=lambda one: (one.summary.counts.f1, one.name))
        shown = groups[:_MAX_GROUPS]
        num_left = sum(one.by == by for one in report.groups) - len(shown)
        yield f"## By {cell(by)}"
        yield f"Pooled, by F1, the lowest first.{f' {num_left} more are in `metrics.json`.' if num_left else ''}"
        per_area = [] if report.area_mm2 is None else ["labelled per mm2", "found per mm2"]
        yield table(
            [cell(by), "class", "images", "TP", "FP", "FN", *_HEADER, "average precision", *per_area],
            [
                [
                    cell(one.name),
                    cell(one.summary.name),
                    str(one.num_images),
                    *(str(getattr(one.summary.counts, name)) for name in ("tp", "fp", "fn")),
                    *(str(one.summary.pooled[metric]) for metric in METRICS),
                    *(
                        one.summary.densities[name].in_words(1)
                        for name in points.DENSITIES[:2]
                        if one.summary.densities
                    ),
                ]
                for one in shown
            ],
        )


def _lowest(rows: Iterable[PointRow]) -> list[PointRow]:
    """Return the rows with a defined F1, the lowest first, among equals those with more errors."""
    defined = [(row.counts.f1, row) for row in rows if row.counts.f1 is not None]
    defined.sort(key=lambda one: (one[0], -one[1].counts.fp - one[1].counts.fn, one[1].image))
    return [row for _, row in defined]


def _rows_table(rows: Sequence[PointRow]) -> str:
    return table(
        ["image", "TP", "FP", "FN", *_HEADER],
        [
            [
                cell(row.image),
                *(str(count) for count in (row.counts.tp, row.counts.fp, row.counts.fn)),
                *(format_value(value) for value in (row.counts.f1, row.counts.precision, row.counts.recall)),
            ]
            for row in rows
        ],
    )


def _threshold_parts(report: PointReport) -> Iterator[str]:
    """Yield how the thresholds were chosen, and what they and others give on these images."""
    if report.choice is not None:
        yield " ".join(threshold_choice.sentences_of(report.choice))
    yield (
        "The best thresholds on these images are for information only. They were chosen on the images that they are "
        "measured on, so their F1 is too good to be reported: choose thresholds on other images."
    )
    then = {} if report.choice is None else report.choice.by_class
    yield table(
        ["class", "threshold used", *(["F1 in validation"] if then else []), "F1", "best threshold", "best F1"],
        [
            [
                cell(one.name),
                format_value(one.threshold),
                *([format_value(then.get(one.name))] if then else []),
                format_value(one.pooled["f1"].value),
                *(map(format_value, one.best) if one.best else ["undefined"] * 2),
            ]
            for one in report.per_class
        ],
    )
