"""Write a report of object metrics as JSON (everything), CSV (per image) and Markdown (to read)."""

from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from segkit.evaluation import objects
from segkit.evaluation.estimates import format_value
from segkit.evaluation.markdown import cell, table
from segkit.evaluation.object_tables import AP, ObjectReport, ObjectSummary
from segkit.files import write_csv, write_json, write_text
from segkit.versions import version_of

_AGGREGATES = MappingProxyType(
    {
        "pooled": "counts added up over images, then the metric: every object counts the same",
        "mean": "the metric per image, then the mean of the defined values: every image counts the same",
        "mean_average_precision": "mean of average_precision over the IoU thresholds",
    }
)
_NUM_LOWEST = 5  # images that the summary lists


def write_object_report(report: ObjectReport, folder: Path) -> None:
    """Write `metrics.csv`, `summary.md` and `metrics.json` into `folder`, each whole or not at all."""
    rows = as_csv_rows(report)
    write_csv(folder / "metrics.csv", rows, list(rows[0]))
    write_text(folder / "summary.md", as_markdown(report))
    write_json(folder / "metrics.json", as_json(report))


def as_csv_rows(report: ObjectReport) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv, one for each image.

    Counts and metrics are those at the first threshold; `average_precision_0.75` is that at 0.75, and so on.
    """
    return [
        {
            "image": row.image,
            "group": row.group,
            "num_true": row.tp + row.fn,
            "num_predicted": row.tp + row.fp,
            "tp": row.tp,
            "fp": row.fp,
            "fn": row.fn,
            **row.metrics,
            "mean_average_precision": row.mean_average_precision,
            **{
                f"{AP}_{threshold:g}": value
                for threshold, value in zip(report.thresholds, row.average_precisions, strict=True)
            },
            "dice": row.dice,
        }
        for row in report.images
    ]


def as_json(report: ObjectReport) -> dict[str, Any]:
    """Return the content of metrics.json: metrics with intervals, how they were made and what they mean."""
    return {
        "segkit": version_of("segkit"),
        "num_images": len(report.images),
        "class": report.name,
        "num_true": report.num_true,
        "num_predicted": report.num_predicted,
        "headline": {"metric": AP, "iou": report.thresholds[0], "how": "pooled", **asdict(report.headline)},
        "thresholds": list(report.thresholds),
        "pooled": _summary(report.pooled),
        "mean": _summary(report.mean),
        "intervals": report.intervals_as_json(),
        "definitions": {**objects.DEFINITIONS, **_AGGREGATES},
    }


def as_markdown(report: ObjectReport) -> str:
    """Return the content of summary.md: the headline, both tables, the images with the lowest AP, definitions."""
    first = report.thresholds[0]
    num_images = f"{len(report.images)} {'image' if len(report.images) == 1 else 'images'}"
    lowest = sorted(
        (row for row in report.images if row.metrics[AP] is not None),
        key=lambda row: (row.metrics[AP], -row.fp - row.fn, row.image),
    )
    parts = [
        "# Object metrics",
        f"**AP {report.headline}** at IoU {first:g}, F1 {report.pooled.at['f1'][0]}, Dice {report.pooled.dice}; "
        f"class {cell(report.name)}; pooled over {num_images} "
        f"with {report.num_true} objects, {report.num_predicted} predicted.",
        report.intervals_in_words(),
        "## Pooled over images",
        _threshold_table(report, report.pooled),
        "## Mean over images",
        _threshold_table(report, report.mean),
        f"Dice: {report.mean.dice}.",
        "## Images with the lowest AP",
        table(
            ["image", "true", "found", "TP", "FP", "FN", f"AP at {first:g}", "mean AP", "Dice"],
            [
                [
                    cell(row.image),
                    *(str(count) for count in (row.tp + row.fn, row.tp + row.fp, row.tp, row.fp, row.fn)),
                    *(format_value(value) for value in (row.metrics[AP], row.mean_average_precision, row.dice)),
                ]
                for row in lowest[:_NUM_LOWEST]
            ],
        ),
        "All images are in `metrics.csv`, all numbers with their definitions in `metrics.json`.",
        "## Definitions",
        "\n".join(f"- {name}: {text}" for name, text in {**objects.DEFINITIONS, **_AGGREGATES}.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(summary: ObjectSummary) -> dict[str, Any]:
    return {
        **{metric: [asdict(estimate) for estimate in estimates] for metric, estimates in summary.at.items()},
        "mean_average_precision": asdict(summary.mean_average_precision),
        "dice": asdict(summary.dice),
    }


def _threshold_table(report: ObjectReport, summary: ObjectSummary) -> str:
    """Return the table of all metrics, a row for each threshold, the mean of AP below."""
    rows = [
        [f"{threshold:g}", *(str(summary.at[metric][index]) for metric in objects.METRICS)]
        for index, threshold in enumerate(report.thresholds)
    ]
    rows.append(["mean", str(summary.mean_average_precision), *[""] * (len(objects.METRICS) - 1)])
    return table(["IoU", "AP", "F1", "precision", "recall", "matched IoU", "PQ"], rows)
