"""Write a report of point metrics as JSON (everything), CSV (per image and class; curves) and Markdown (to read)."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segkit.evaluation import points, threshold_choice
from segkit.evaluation.estimates import Estimate, number
from segkit.evaluation.point_curves import Froc
from segkit.evaluation.point_definitions import definitions_of
from segkit.evaluation.point_markdown import as_markdown
from segkit.evaluation.point_summary import PointSummary
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
    "average_precision",
    "count_error",
    "area_mm2",
    *points.DENSITIES,
)
"""Columns of metrics.csv: all that is needed to pool counts, densities and errors anew, and to average metrics.

What else is known of the images stands after `group`.
"""

CURVE_COLUMNS = ("class", "threshold", "tp", "fp", "fn", "precision", "recall", "f1")
"""Columns of curves.csv."""

_BEST = "best_on_this_set"
_MAX_CURVE_ROWS = 1000


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
    for summary in report.summaries:
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
        "foreground_mean": _estimates(report.foreground_mean),
        "classes": [_summary(summary) for summary in report.per_class],
        "any_class": None if report.any_class is None else _summary(report.any_class),
        "choice": threshold_choice.as_json(report.choice),
        "groups": [_group(one) for one in report.groups],
        "intervals": report.intervals_as_json(),
        "definitions": definitions_of(report),
    }


def _row(row: PointRow) -> dict[str, Any]:
    counts = row.counts
    return {
        **_counts(counts),
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "average_precision": row.average_precision,
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
        "mean": _estimates(summary.mean),
        "num_defined": dict(summary.num_defined),
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
        "mean": _estimates(summary.mean),
        "num_defined": dict(summary.num_defined),
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
