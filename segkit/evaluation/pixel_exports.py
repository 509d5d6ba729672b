"""Write a report of pixel metrics as JSON (everything), CSV (per image and class) and Markdown (to read)."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from segkit.evaluation import (
    calibration_tables,
    membrane_exports,
    pixel_curve_exports,
    pixel_curves,
    pixels,
    surface_tables,
)
from segkit.evaluation.calibration_tables import CalibrationSummary
from segkit.evaluation.estimates import Estimate, format_value
from segkit.evaluation.markdown import cell, table
from segkit.evaluation.pixel_summaries import Summary
from segkit.evaluation.pixel_tables import GROUP, NOT_BACKGROUND, ClassRow, ImageRow, PixelReport
from segkit.files import write_csv, write_json, write_text
from segkit.versions import version_of

_AGGREGATES = MappingProxyType(
    {
        "pooled": "confusion matrices (bins of probabilities, boundary pixels) added up over images, then the metric: "
        "every pixel counts the same; Hausdorff distances are of an image and have no pooled value",
        "mean": "the metric per image, then the mean of the defined values: every image counts the same",
        "num_defined": "images in which the metric is defined, which its mean is over (of the foreground: for any of "
        "its classes)",
        "num_images": "of a class: images whose truth holds it (of the foreground: any of its classes)",
        "foreground": "mean over all classes but the first, the background, for which the metric is defined",
        "groups": "the images of a group, or of one value of what else is known of them; with intervals where they are "
        "of at least two of the units that the bootstrap draws",
    }
)
_NUM_LOWEST = 5  # images that the summary lists
_MAX_GROUPS = 20  # groups that the summary lists
_NAMES = MappingProxyType({"dice": "Dice", "iou": "IoU", "nsd": "NSD", "ece": "ECE", "mce": "MCE", "brier": "Brier"})
_OF_IMAGE = "_not_background"


def write_report(report: PixelReport, folder: Path) -> None:
    """Write `metrics.csv`, `summary.md` and `metrics.json` into `folder`, each whole or not at all.

    Where probabilities are known, `curves.csv`, too.
    """
    rows = as_csv_rows(report)
    write_csv(folder / "metrics.csv", rows, list(rows[0]))
    if report.sweeps:
        write_csv(folder / "curves.csv", pixel_curve_exports.as_csv_rows(report.sweeps), pixel_curve_exports.COLUMNS)
    write_text(folder / "summary.md", as_markdown(report))
    write_json(folder / "metrics.json", as_json(report))


def name_of_metric(metric: str) -> str:
    """Return what a metric is called, for people: `Dice`, `HD95 (um)`."""
    base, _, unit = metric.rpartition("_")
    if unit in {"um", "px"}:
        return f"{base.upper()} ({unit})"
    return _NAMES.get(metric, metric.replace("_", " "))


def definitions_of(report: PixelReport) -> dict[str, str]:
    """Return what is said about each metric that the report has, by the names that files give them."""
    found = dict(pixels.DEFINITIONS)
    if report.surfaces is not None:
        found |= surface_tables.definitions(report.surfaces.unit, report.surfaces.tolerance)
    if report.calibrations:
        found |= calibration_tables.DEFINITIONS
    if report.sweeps:
        found |= pixel_curves.DEFINITIONS
    if report.membranes is not None:
        found |= membrane_exports.DEFINITIONS
    return {**found, **{name: text for name, text in _AGGREGATES.items() if name != "groups" or report.groups}}


def as_csv_rows(report: PixelReport) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv: one for each image and class, the background included; no sums or means.

    `pixel_error`, the calibration of a pixel's not being background (`ece_not_background`) and what was measured of
    membranes are the image's, over all classes, and so repeat.
    """
    images = {row.image: row for row in report.images}
    of_class = [metric for metric in report.rows[1].metrics if metric not in pixels.CLASS_METRICS]
    membranes = {} if report.membranes is None else membrane_exports.csv_cells(report.membranes)
    nothing = dict.fromkeys(membrane_exports.COLUMNS if membranes else ())
    return [_csv_row(row, images[row.image], of_class, membranes.get(row.image, nothing)) for row in report.rows]


def _csv_row(
    row: ClassRow, image: ImageRow, further: list[str], membranes: Mapping[str, float | None]
) -> dict[str, Any]:
    own = {
        "class": row.name,
        **{metric: row.metrics[metric] for metric in pixels.CLASS_METRICS},
        **{metric: row.metrics.get(metric) for metric in further},
        "pixel_error": image.pixel_error,
        **{f"{metric}{_OF_IMAGE}": value for metric, value in image.calibration.items()},
        **membranes,
        "tp_px": row.tp_px,
        "fp_px": row.fp_px,
        "fn_px": row.fn_px,
        "tn_px": row.tn_px,
    }
    # An attribute of the name of a metric gives way to it.
    return {"image": row.image, GROUP: row.group, **image.attributes, **own}


def as_json(report: PixelReport) -> dict[str, Any]:
    """Return the content of metrics.json: summaries with intervals, how they were made and what they mean."""
    rules = report.surfaces
    return {
        "segkit": version_of("segkit"),
        "num_images": len(report.images),
        "headline": {"metric": "dice", "of": "foreground", "how": "pooled", **asdict(report.headline)},
        "foreground": asdict(report.foreground),
        "classes": [asdict(summary) for summary in report.per_class],
        "pixel_error": {
            **_both(report.pixel_error_pooled, report.pixel_error_mean),
            "num_defined": report.num_defined,
        },
        "surface_tolerance": None if rules is None else rules.tolerance,
        "surfaces": None if rules is None else asdict(rules),
        "calibration": [asdict(one) for one in report.calibrations],
        "threshold_sweeps": pixel_curve_exports.as_json(report.sweeps),
        "membranes": None if report.membranes is None else membrane_exports.as_json(report.membranes),
        "groups": [
            {
                "by": one.by,
                "name": one.name,
                "num_images": one.num_images,
                "num_units": one.num_units,
                "foreground": asdict(one.foreground),
                "classes": [asdict(summary) for summary in one.per_class],
                "pixel_error": _both(one.pixel_error_pooled, one.pixel_error_mean),
            }
            for one in report.groups
        ],
        "intervals": report.intervals_as_json(),
        "definitions": definitions_of(report),
    }


def _both(pooled: Estimate, mean: Estimate) -> dict[str, Any]:
    return {"pooled": asdict(pooled), "mean": asdict(mean)}


def as_markdown(report: PixelReport) -> str:
    """Return the content of summary.md: the headline, the tables, the images with the lowest Dice, definitions."""
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
        _summary_table(report, "pooled", list(pixels.CLASS_METRICS)),
        "## Mean over images",
        _summary_table(report, "mean", list(pixels.CLASS_METRICS)),
        f"Pixel error: {report.pixel_error_mean}, n {report.num_defined}. n: how many images a mean is over, those "
        "where the metric is defined.",
        *_surface_parts(report),
        *_calibration_parts(report),
        *pixel_curve_exports.markdown_parts(report.sweeps, len(report.classes)),
        *([] if report.membranes is None else membrane_exports.markdown_parts(report.membranes)),
        *_group_parts(report),
        "## Images with the lowest Dice",
        table(
            ["image", "Dice", "pixel error"],
            [[cell(row.image), format_value(row.dice), format_value(row.pixel_error)] for row in lowest[:_NUM_LOWEST]],
        ),
        "All images are in `metrics.csv`, all numbers with their definitions in `metrics.json`.",
        "## Definitions",
        "\n".join(f"- {name}: {text}" for name, text in definitions_of(report).items()),
    ]
    return "\n\n".join(parts) + "\n"


def _summary_table(report: PixelReport, how: str, metrics: list[str], *, background: bool = True) -> str:
    """Return the table of all classes, foreground first; `how` is `pooled` or `mean`."""
    several = len(report.classes) > 2
    summaries = [
        *report.per_class[1:],
        *([report.foreground] if several else []),
        *([report.per_class[0]] if background else []),
    ]
    rows = [
        [cell(summary.name) if summary is not report.foreground else "*mean of the foreground*"]
        + [str(summary.num_images)]
        + [_of(summary, how, metric) for metric in metrics]
        for summary in summaries
    ]
    return table(["class", "images with it", *map(name_of_metric, metrics)], rows)


def _of(summary: Summary, how: str, metric: str) -> str:
    return _mean_of(summary, metric) if how == "mean" else str(summary.pooled[metric])


def _mean_of(summary: Summary, metric: str) -> str:
    """Return a mean over images with the number of these."""
    return f"{summary.mean[metric]}, n {summary.num_defined[metric]}"


def diagonals_in_words(report: PixelReport) -> str:
    """Return in how many images the diagonal stands for distances, of each class where it does; empty for none."""
    summaries = [one for one in report.per_class[1:] if one.num_diagonals]
    if not summaries:
        return ""
    of_classes = ", ".join(
        f"{one.num_diagonals} of {one.num_defined['nsd']} images of the class {one.name}" for one in summaries
    )
    return (
        f"Only one of truth and prediction is empty in {of_classes}: there the image's diagonal stands for HD95, HD "
        "and ASSD, which moves these means much, and NSD is 0."
    )


def _surface_parts(report: PixelReport) -> Iterator[str]:
    rules = report.surfaces
    if rules is None:
        return
    unit = rules.unit
    yield "## Distances between boundaries"
    yield (
        f"Means over images, of {rules.num_images} of {len(report.images)}; NSD with a tolerance of {rules.tolerance}."
    )
    if diagonals := diagonals_in_words(report):
        yield cell(diagonals)
    yield _summary_table(report, "mean", [f"hd95_{unit}", f"assd_{unit}", "nsd", f"hd_{unit}"], background=False)
    yield "Pooled over images, every boundary pixel counts the same:"
    yield _summary_table(report, "pooled", [f"assd_{unit}", "nsd"], background=False)


def _calibration_parts(report: PixelReport) -> Iterator[str]:
    if not report.calibrations:
        return
    yield "## Calibration"
    yield table(
        ["the pixel is", "images", "ECE, pooled", "ECE, mean over images", "MCE, pooled", "Brier, pooled"],
        [_calibration_row(one) for one in report.calibrations],
    )


def _calibration_row(one: CalibrationSummary) -> list[str]:
    name = f"*{NOT_BACKGROUND}*" if one.name == NOT_BACKGROUND else cell(one.name)
    estimates = (one.pooled["ece"], one.mean["ece"], one.pooled["mce"], one.pooled["brier"])
    return [name, str(one.num_images), *map(str, estimates)]


def _group_parts(report: PixelReport) -> Iterator[str]:
    """Yield a table for groups and for each attribute, those with the lowest Dice first."""
    further = [] if report.surfaces is None else [f"hd95_{report.surfaces.unit}", "nsd"]
    for by in dict.fromkeys(one.by for one in report.groups):
        groups = [one for one in report.groups if one.by == by]
        groups.sort(key=lambda one: (_rank(one.foreground.pooled["dice"].value), one.name))
        num_left = max(0, len(groups) - _MAX_GROUPS)
        means = " HD95 and NSD are means over images." if further else ""
        yield f"## By {cell(by)}"
        yield (
            f"Pooled, by Dice, the lowest first.{means}{f' {num_left} more are in `metrics.json`.' if num_left else ''}"
        )
        yield table(
            [cell(by), "images", *map(name_of_metric, ("dice", "iou", "precision", "recall", "pixel_error", *further))],
            [
                [
                    cell(one.name),
                    str(one.num_images),
                    *(str(one.foreground.pooled[metric]) for metric in ("dice", "iou", "precision", "recall")),
                    str(one.pixel_error_pooled),
                    *(_mean_of(one.foreground, metric) for metric in further),
                ]
                for one in groups[:_MAX_GROUPS]
            ],
        )


def _rank(value: float | None) -> tuple[bool, float]:
    """Return where a value comes in ascending order: undefined ones last."""
    return (value is None, value or 0.0)
