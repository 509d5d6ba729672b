"""Write a report of pixel metrics as JSON (everything), CSV (per image and class) and Markdown (to read)."""

from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from segkit.evaluation import pixels
from segkit.evaluation.estimates import format_value
from segkit.evaluation.markdown import cell, table
from segkit.evaluation.pixel_tables import PixelReport
from segkit.files import write_csv, write_json, write_text
from segkit.versions import version_of

_AGGREGATES = MappingProxyType(
    {
        "pooled": "confusion matrices added up over images, then the metric: every pixel counts the same",
        "mean": "the metric per image, then the mean of the defined values: every image counts the same",
        "foreground": "mean over all classes but the first, the background, for which the metric is defined",
    }
)
_NUM_LOWEST = 5  # images that the summary lists


CSV_COLUMNS = (
    "image", "group", "class", *pixels.CLASS_METRICS, "pixel_error", "tp_px", "fp_px", "fn_px", "tn_px",
)  # fmt: skip
"""Columns of metrics.csv; `pixel_error` is the image's, over all classes, and so repeats."""


def write_report(report: PixelReport, folder: Path) -> None:
    """Write `metrics.csv`, `summary.md` and `metrics.json` into `folder`, each whole or not at all."""
    write_csv(folder / "metrics.csv", as_csv_rows(report), CSV_COLUMNS)
    write_text(folder / "summary.md", as_markdown(report))
    write_json(folder / "metrics.json", as_json(report))


def as_csv_rows(report: PixelReport) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv: one for each image and class, the background included; no sums or means."""
    error_of_image = {row.image: row.pixel_error for row in report.images}
    return [
        {
            "image": row.image,
            "group": row.group,
            "class": row.name,
            **row.metrics,
            "pixel_error": error_of_image[row.image],
            "tp_px": row.tp_px,
            "fp_px": row.fp_px,
            "fn_px": row.fn_px,
            "tn_px": row.tn_px,
        }
        for row in report.rows
    ]


def as_json(report: PixelReport) -> dict[str, Any]:
    """Return the content of metrics.json: summaries with intervals, how they were made and what they mean."""
    return {
        "segkit": version_of("segkit"),
        "num_images": len(report.images),
        "headline": {"metric": "dice", "of": "foreground", "how": "pooled", **asdict(report.headline)},
        "foreground": asdict(report.foreground),
        "classes": [asdict(summary) for summary in report.per_class],
        "pixel_error": {
            "pooled": asdict(report.pixel_error_pooled),
            "mean": asdict(report.pixel_error_mean),
        },
        "intervals": report.intervals_as_json(),
        "definitions": {**pixels.DEFINITIONS, **_AGGREGATES},
    }


def as_markdown(report: PixelReport) -> str:
    """Return the content of summary.md: the headline, both tables, the images with the lowest Dice, definitions."""
    lowest = sorted((row for row in report.images if row.dice is not None), key=lambda row: (row.dice, row.image))
    headline = (
        f"**Dice {report.headline}**, pixel error {report.pixel_error_pooled}; pooled over {len(report.images)} "
        f"{'image' if len(report.images) == 1 else 'images'}"
        + (", mean of the foreground classes." if len(report.classes) > 2 else f", class {cell(report.classes[1])}.")
    )
    parts = [
        "# Pixel metrics",
        headline,
        report.intervals_in_words(),
        "## Pooled over images",
        _summary_table(report, "pooled"),
        "## Mean over images",
        _summary_table(report, "mean"),
        f"Pixel error: {report.pixel_error_mean}.",
        "## Images with the lowest Dice",
        table(
            ["image", "Dice", "pixel error"],
            [[cell(row.image), format_value(row.dice), format_value(row.pixel_error)] for row in lowest[:_NUM_LOWEST]],
        ),
        "All images are in `metrics.csv`, all numbers with their definitions in `metrics.json`.",
        "## Definitions",
        "\n".join(f"- {name}: {text}" for name, text in {**pixels.DEFINITIONS, **_AGGREGATES}.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _summary_table(report: PixelReport, how: str) -> str:
    """Return the table of all classes, foreground first; `how` is `pooled` or `mean`."""
    several = len(report.classes) > 2
    summaries = [*report.per_class[1:], *([report.foreground] if several else []), report.per_class[0]]
    rows = [
        [cell(summary.name) if summary is not report.foreground else "*mean of the foreground*"]
        + [str(summary.num_images)]
        + [str(getattr(summary, how)[metric]) for metric in pixels.CLASS_METRICS]
        for summary in summaries
    ]
    return table(["class", "images with it", "Dice", "IoU", "precision", "recall", "specificity"], rows)
