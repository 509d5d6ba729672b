"""Write a report of object metrics as JSON (everything), CSV (per image) and Markdown (to read)."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from segkit.evaluation import object_densities, object_sizes, object_totals, objects, threshold_choice
from segkit.evaluation.estimates import Estimate, format_value, number
from segkit.evaluation.markdown import cell, table
from segkit.evaluation.object_sizes import SizeBin, SizeRange
from segkit.evaluation.object_tables import (
    AP,
    GROUP,
    MEAN_AP,
    ObjectGroup,
    ObjectReport,
    ObjectRow,
    ObjectSummary,
)
from segkit.files import write_csv, write_json, write_text
from segkit.versions import version_of

_AGGREGATES = MappingProxyType(
    {
        "pooled": "counts added up over images, then the metric: every object counts the same",
        "mean": "the metric per image, then the mean of the defined values: every image counts the same",
        MEAN_AP: "mean of average_precision over the IoU thresholds",
        "groups": "the images of a group, or of one value of what else is known of them, at the first IoU threshold; "
        "with intervals where they are of at least two of the units that the bootstrap draws",
    }
)
_DEFINITIONS = MappingProxyType(
    {
        **objects.DEFINITIONS,
        **object_totals.DEFINITIONS,
        **object_sizes.DEFINITIONS,
        **object_densities.DEFINITIONS,
        **_AGGREGATES,
    }
)
_OVERALL = MappingProxyType(
    {
        "dice": "Dice",
        "aji": "AJI",
        "aji_plus": "AJI+",
        "count_error": "count error",
        "absolute_count_error": "absolute count error",
        "relative_count_error": "relative count error",
    }
)
_DENSITIES = MappingProxyType(
    {
        "true_per_mm2": "true objects per mm2",
        "predicted_per_mm2": "found objects per mm2",
        "mean_true_area_um2": "mean area of a true object, um2",
        "mean_predicted_area_um2": "mean area of a found object, um2",
        "mean_true_area_px": "mean area of a true object, px",
        "mean_predicted_area_px": "mean area of a found object, px",
    }
)
_NUM_LOWEST = 5  # images that the summary lists
_MAX_GROUPS = 20  # groups that the summary lists


def write_object_report(report: ObjectReport, folder: Path) -> None:
    """Write `metrics.csv`, `summary.md` and `metrics.json` into `folder`, each whole or not at all."""
    rows = as_csv_rows(report)
    write_csv(folder / "metrics.csv", rows, list(rows[0]))
    write_text(folder / "summary.md", as_markdown(report))
    write_json(folder / "metrics.json", as_json(report))


def as_csv_rows(report: ObjectReport) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv, one for each image.

    Counts and metrics are those at the first threshold; `average_precision_0.75` is that at 0.75, and so on. What all
    metrics are made of, pooled ones too, stands last: totals in pixels, and the counts at each threshold.
    """
    return [_csv_row(report, row) for row in report.images]


def _csv_row(report: ObjectReport, row: ObjectRow) -> dict[str, Any]:
    at = [f"{threshold:g}" for threshold in report.thresholds]
    own = {
        "num_true": row.tp + row.fn,
        "num_predicted": row.tp + row.fp,
        "tp": row.tp,
        "fp": row.fp,
        "fn": row.fn,
        **row.metrics,
        MEAN_AP: row.mean_average_precision,
        **{f"{AP}_{threshold}": value for threshold, value in zip(at, row.average_precisions, strict=True)},
        **row.overall,
        "area_mm2": _area(row.area_mm2),
        **row.densities,
        **{name: value for name, value in row.totals.items() if name.endswith("_px")},
    }
    for threshold, counts in zip(at, row.counts, strict=True):
        own |= {f"{name}_{threshold}": value for name, value in counts._asdict().items()}
        own[f"iou_sum_{threshold}"] = number(counts.iou_sum)
    # An attribute of the name of a metric gives way to it.
    return {"image": row.image, GROUP: row.group, **row.attributes, **own}


def as_json(report: ObjectReport) -> dict[str, Any]:
    """Return the content of metrics.json: metrics with intervals, how they were made and what they mean."""
    return {
        "segkit": version_of("segkit"),
        "num_images": len(report.images),
        "class": report.name,
        "mpp": report.mpp,
        "area_mm2": _area(report.area_mm2),
        "num_true": report.num_true,
        "num_predicted": report.num_predicted,
        "headline": {"metric": AP, "iou": report.thresholds[0], "how": "pooled", **asdict(report.headline)},
        "thresholds": list(report.thresholds),
        "pooled": _summary(report.pooled),
        "mean": _summary(report.mean),
        "densities": _estimates(report.densities),
        "by_size": {
            "iou": report.thresholds[0],
            "ranges": "quartiles of true objects" if report.has_quartiles else "given",
            "bins": [_bin(one, report) for one in report.by_size],
        },
        "choice": threshold_choice.as_json(report.choice),
        "groups": [_group(one) for one in report.groups],
        "intervals": report.intervals_as_json(),
        "definitions": _definitions(report),
    }


def as_markdown(report: ObjectReport) -> str:
    """Return the content of summary.md: the headline, the tables, the images with the lowest AP, definitions."""
    first = report.thresholds[0]
    num_images = f"{len(report.images)} {'image' if len(report.images) == 1 else 'images'}"
    lowest = sorted(
        (row for row in report.images if row.metrics[AP] is not None),
        key=lambda row: (row.metrics[AP], -row.fp - row.fn, row.image),
    )
    parts = [
        "# Object metrics",
        f"**AP {report.headline}** at IoU {first:g}, F1 {report.pooled.at['f1'][0]}, "
        f"PQ {report.pooled.at['panoptic_quality'][0]}, AJI {report.pooled.aji}, Dice {report.pooled.dice}; "
        f"class {cell(report.name)}; pooled over {num_images} "
        f"with {report.num_true} objects, {report.num_predicted} predicted.",
        report.intervals_in_words(),
        "## Pooled over images",
        _threshold_table(report, report.pooled),
        "## Mean over images",
        _threshold_table(report, report.mean),
        "## At no threshold",
        table(
            ["", "pooled", "mean over images"],
            [
                [name, str(report.pooled.overall[metric]), str(report.mean.overall[metric])]
                for metric, name in _OVERALL.items()
            ],
        ),
        "## Densities and areas",
        table(["", "pooled"], [[_DENSITIES[name], one.in_words(1)] for name, one in report.densities.items()]),
        _area_in_words(report),
        f"## By size, at IoU {first:g}",
        _size_table(report),
        *_group_parts(report),
        "## Images with the lowest AP",
        table(
            ["image", "true", "found", "TP", "FP", "FN", f"AP at {first:g}", "mean AP", "AJI", "Dice"],
            [
                [
                    cell(row.image),
                    *(str(count) for count in (row.tp + row.fn, row.tp + row.fp, row.tp, row.fp, row.fn)),
                    *map(format_value, (row.metrics[AP], row.mean_average_precision, row.overall["aji"], row.dice)),
                ]
                for row in lowest[:_NUM_LOWEST]
            ],
        ),
        "All images are in `metrics.csv`, all numbers with their definitions in `metrics.json`.",
        *_threshold_parts(report),
        "## Definitions",
        "\n".join(f"- {name}: {text}" for name, text in _definitions(report).items()),
    ]
    return "\n\n".join(parts) + "\n"


def _definitions(report: ObjectReport) -> dict[str, str]:
    return {**_DEFINITIONS, **({} if report.choice is None else threshold_choice.DEFINITIONS)}


def _area(area_mm2: float | None) -> float | None:
    # A patch of 100 pixels is less than a thousandth of 1 mm2: more digits than for metrics.
    return None if area_mm2 is None else round(area_mm2, 9)


def _summary(summary: ObjectSummary) -> dict[str, Any]:
    return {
        **{metric: [asdict(estimate) for estimate in estimates] for metric, estimates in summary.at.items()},
        MEAN_AP: asdict(summary.mean_average_precision),
        **_estimates(summary.overall),
    }


def _bin(one: SizeBin, report: ObjectReport) -> dict[str, Any]:
    ends = {"low": one.range.low, "high": one.range.high}
    um2 = 1.0 if report.sizes_in_um2 else None if report.mpp is None else report.mpp**2
    return {
        **{f"{name}_px": None if report.sizes_in_um2 else end for name, end in ends.items()},
        **{f"{name}_um2": None if um2 is None or end is None else number(end * um2) for name, end in ends.items()},
        "num_true": one.tp + one.fn,
        "tp": one.tp,
        "fp": one.fp,
        "fn": one.fn,
        **_estimates(one.metrics),
    }


def _group(one: ObjectGroup) -> dict[str, Any]:
    counts = ("by", "name", "num_images", "num_units", "num_true", "num_predicted", "tp", "fp", "fn")
    return {
        **{name: getattr(one, name) for name in counts},
        "pooled": _estimates(one.pooled),
        "mean": _estimates(one.mean),
        "densities": _estimates(one.densities),
    }


def _estimates(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {metric: asdict(estimate) for metric, estimate in estimates.items()}


def _threshold_table(report: ObjectReport, summary: ObjectSummary) -> str:
    """Return the table of all metrics, a row for each threshold, the mean of AP below."""
    rows = [
        [f"{threshold:g}", *(str(summary.at[metric][index]) for metric in objects.METRICS)]
        for index, threshold in enumerate(report.thresholds)
    ]
    rows.append(["mean", str(summary.mean_average_precision), *[""] * (len(objects.METRICS) - 1)])
    return table(["IoU", "AP", "F1 (RQ)", "precision", "recall", "matched IoU (SQ)", "PQ"], rows)


def _size_table(report: ObjectReport) -> str:
    rows = [
        [
            _range_in_words(one.range, report),
            *(str(count) for count in (one.tp + one.fn, one.tp, one.fp, one.fn)),
            *(str(one.metrics[metric]) for metric in ("f1", "recall", "matched_iou")),
        ]
        for one in report.by_size
    ]
    return table(["area", "true", "TP", "FP", "FN", "F1", "recall", "matched IoU (SQ)"], rows)


def _range_in_words(of: SizeRange, report: ObjectReport) -> str:
    def words(low: float, high: float | None, unit: str) -> str:
        if high is None:
            return f"{low:.4g} {unit} or more" if low else "any"
        return f"{low:.4g} to {high:.4g} {unit}" if low else f"below {high:.4g} {unit}"

    own = words(of.low, of.high, "um2" if report.sizes_in_um2 else "px")
    if report.mpp is None or own == "any":
        return own
    um2 = report.mpp**2
    return f"{own} ({words(of.low * um2, None if of.high is None else of.high * um2, 'um2')})"


def _group_parts(report: ObjectReport) -> Iterator[str]:
    """Yield a table for groups and for each attribute, those with the lowest AP first."""
    for by in dict.fromkeys(one.by for one in report.groups):
        groups = [one for one in report.groups if one.by == by]
        defined = [(one.pooled[AP].value, one) for one in groups if one.pooled[AP].value is not None]
        defined.sort(key=lambda one: (one[0], one[1].name))
        shown = [one for _, one in defined[:_MAX_GROUPS]]
        num_left = len(groups) - len(shown)
        yield f"## By {cell(by)}"
        yield f"Pooled, by AP, the lowest first.{f' {num_left} more are in `metrics.json`.' if num_left else ''}"
        yield table(
            [cell(by), "images", "true", "found", "TP", "FP", "FN", "AP", "F1", "PQ", "AJI", "mean AP", "Dice"],
            [
                [
                    cell(one.name),
                    *(str(number) for number in (one.num_images, one.num_true, one.num_predicted)),
                    *(str(count) for count in (one.tp, one.fp, one.fn)),
                    *(str(one.pooled[metric]) for metric in (AP, "f1", "panoptic_quality", "aji", MEAN_AP, "dice")),
                ]
                for one in shown
            ],
        )


def _area_in_words(report: ObjectReport) -> str:
    if report.area_mm2 is None:
        return "The pixel size, or what is labelled, is not known, and so there are no numbers per mm2."
    return f"{report.area_mm2:.4g} mm2 are labelled."


def _threshold_parts(report: ObjectReport) -> Iterator[str]:
    """Yield how the thresholds were chosen, and what others would give on these images."""
    if report.choice is None:
        return
    yield "## Thresholds"
    yield " ".join(threshold_choice.sentences_of(report.choice))
    yield table(["parameter", "used"], [[cell(name), f"{value:g}"] for name, value in report.choice.parameters.items()])
    for sweep in report.choice.sweeps:
        yield f"{report.choice.metric_in_words} with other values of {cell(sweep.parameter)}, for information:"
        columns = [f"on {sweep.num_images} of these images", *(["in validation"] if sweep.validation else [])]
        yield table(
            [cell(sweep.parameter), *columns],
            [
                [
                    f"{value:g}{' (used)' if value == sweep.used else ''}",
                    *("" if one is None else format_value(one) for one in scores[: len(columns)]),
                ]
                for value, *scores in threshold_choice.side_by_side(sweep)
            ],
        )
