"""Write a report of object metrics as JSON (everything), CSV (per image) and Markdown (to read)."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from segkit.evaluation import (
    object_class_exports,
    object_densities,
    object_sizes,
    object_totals,
    objects,
    threshold_choice,
)
from segkit.evaluation.estimates import format_value, number
from segkit.evaluation.markdown import cell, table
from segkit.evaluation.object_class_exports import estimates_as_json, summary_as_json
from segkit.evaluation.object_classes import ANY_CLASS
from segkit.evaluation.object_sizes import SizeBin, SizeRange
from segkit.evaluation.object_summary import ObjectSummary
from segkit.evaluation.object_tables import AP, GROUP, MEAN_AP, ObjectGroup, ObjectReport, ObjectRow
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
    """Return the rows of metrics.csv, one for each image; with classes one for any class, and one for each of them.

    Counts and metrics are those at the first threshold; `average_precision_0.75` is that at 0.75, and so on. What all
    metrics are made of, pooled ones too, stands last: totals in pixels, and the counts at each threshold.
    """
    num_classes = len(report.per_class)
    return [
        _csv_row(report, row)
        for place, image in enumerate(report.images)
        for row in (image, *report.rows[place * num_classes : (place + 1) * num_classes])
    ]


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
    of = {"class": row.name or ANY_CLASS} if report.per_class else {}
    return {"image": row.image, GROUP: row.group, **row.attributes, **of, **own}


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
        "headline": {
            "metric": AP,
            "of": object_class_exports.headline_of(report),
            "iou": report.thresholds[0],
            "how": "pooled",
            **asdict(report.headline),
        },
        "thresholds": list(report.thresholds),
        **object_class_exports.as_json(report),
        "pooled": summary_as_json(report.pooled),
        "mean": summary_as_json(report.mean),
        "densities": estimates_as_json(report.densities),
        "by_size": {
            "iou": report.thresholds[0],
            "ranges": "quartiles of true objects" if report.has_quartiles else "given",
            "bins": [_bin(one, report) for one in report.by_size],
        },
        "choice": threshold_choice.as_json(report.choice),
        "groups": [_group(one, report) for one in report.groups],
        "intervals": report.intervals_as_json(),
        "definitions": _definitions(report),
    }


def as_markdown(report: ObjectReport) -> str:
    """Return the content of summary.md: the headline, the tables, the images with the lowest AP, definitions."""
    first = report.thresholds[0]
    scored = [(row.score, row) for row in report.images if row.score is not None]
    lowest = [row for _, row in sorted(scored, key=lambda pair: (pair[0], -pair[1].fp - pair[1].fn, pair[1].image))]
    parts = [
        "# Object metrics",
        *object_class_exports.headline_parts(report),
        report.intervals_in_words(),
        *object_class_exports.markdown_parts(report),
        *(
            []
            if report.foreground is None
            else ["## Mean of the classes, pooled over images", _threshold_table(report, report.foreground.pooled)]
        ),
        _title(report, "pooled over images"),
        _threshold_table(report, report.pooled),
        _title(report, "mean over images"),
        _threshold_table(report, report.mean),
        _title(report, "at no threshold"),
        table(
            ["", "pooled", "mean over images"],
            [
                [name, str(report.pooled.overall[metric]), str(report.mean.overall[metric])]
                for metric, name in _OVERALL.items()
            ],
        ),
        "## Densities and areas",
        _density_table(report),
        _area_in_words(report),
        _title(report, f"by size, at IoU {first:g}"),
        _size_table(report),
        *_group_parts(report),
        "## Images with the lowest AP",
        _images_table(report, lowest[:_NUM_LOWEST]),
        *(["Counts, mean AP, AJI and Dice are of any class."] if report.per_class else []),
        "All images are in `metrics.csv`, all numbers with their definitions in `metrics.json`.",
        *_threshold_parts(report),
        "## Definitions",
        "\n".join(f"- {name}: {text}" for name, text in _definitions(report).items()),
    ]
    return "\n\n".join(parts) + "\n"


def _definitions(report: ObjectReport) -> dict[str, str]:
    return {
        **_DEFINITIONS,
        **object_class_exports.definitions_of(report),
        **({} if report.choice is None else threshold_choice.DEFINITIONS),
    }


def _area(area_mm2: float | None) -> float | None:
    # A patch of 100 pixels is less than a thousandth of 1 mm2: more digits than for metrics.
    return None if area_mm2 is None else round(area_mm2, 9)


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
        **estimates_as_json(one.metrics),
    }


def _group(one: ObjectGroup, report: ObjectReport) -> dict[str, Any]:
    counts = ("by", "name", "num_images", "num_units", "num_true", "num_predicted", "tp", "fp", "fn")
    return {
        **{name: getattr(one, name) for name in counts},
        **({} if report.foreground is None else {"class": one.of or ANY_CLASS}),
        "pooled": estimates_as_json(one.pooled),
        "mean": estimates_as_json(one.mean),
        "densities": estimates_as_json(one.densities),
        **({"foreground": estimates_as_json(one.foreground)} if one.foreground else {}),
    }


def _threshold_table(report: ObjectReport, summary: ObjectSummary) -> str:
    """Return the table of all metrics, a row for each threshold, the mean of AP below."""
    rows = [
        [f"{threshold:g}", *(str(summary.at[metric][index]) for metric in objects.METRICS)]
        for index, threshold in enumerate(report.thresholds)
    ]
    rows.append(["mean", str(summary.mean_average_precision), *[""] * (len(objects.METRICS) - 1)])
    return table(["IoU", "AP", "F1 (RQ)", "precision", "recall", "matched IoU (SQ)", "PQ"], rows)


def _title(report: ObjectReport, what: str) -> str:
    """Return a heading of what is measured of objects whatever their class, which is said where they have some."""
    return f"## Any class, {what}" if report.per_class else f"## {what[0].upper()}{what[1:]}"


def _density_table(report: ObjectReport) -> str:
    header = ["any class", *(cell(one.name) for one in report.per_class)] if report.per_class else ["pooled"]
    columns = [report.densities, *(one.densities for one in report.per_class)]
    rows = [[_DENSITIES[name], *(one[name].in_words(1) for one in columns)] for name in report.densities]
    return table(["", *header], rows)


def _images_table(report: ObjectReport, rows: Sequence[ObjectRow]) -> str:
    several, at = bool(report.per_class), f"AP at {report.thresholds[0]:g}"
    scores = [f"{at}, mean of the classes", f"{at}, any class"] if several else [at]
    return table(
        ["image", "true", "found", "TP", "FP", "FN", *scores, "mean AP", "AJI", "Dice"],
        [
            [
                cell(row.image),
                *(str(count) for count in (row.tp + row.fn, row.tp + row.fp, row.tp, row.fp, row.fn)),
                *map(format_value, [*([row.score] if several else []), row.metrics[AP]]),
                *map(format_value, (row.mean_average_precision, row.overall["aji"], row.dice)),
            ]
            for row in rows
        ],
    )


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
    """Yield a table for groups and for each attribute, those with the lowest AP first; with classes, of each class."""
    several = bool(report.per_class)
    for by in dict.fromkeys(one.by for one in report.groups):
        groups = [one for one in report.groups if one.by == by]
        defined = [(one.pooled[AP].value, one) for one in groups if one.pooled[AP].value is not None]
        defined.sort(key=lambda one: (one[0], one[1].name, one[1].of or ""))
        shown = [one for _, one in defined[:_MAX_GROUPS]]
        num_left = len(groups) - len(shown)
        yield f"## By {cell(by)}"
        yield f"Pooled, by AP, the lowest first.{f' {num_left} more are in `metrics.json`.' if num_left else ''}"
        counted = ["images", "true", "found", "TP", "FP", "FN"]
        yield table(
            [cell(by), *(["class"] if several else []), *counted, "AP", "F1", "PQ", "AJI", "mean AP", "Dice"],
            [
                [
                    cell(one.name),
                    *([cell(one.of) if one.of else f"*{ANY_CLASS}*"] if several else []),
                    *(str(number) for number in (one.num_images, one.num_true, one.num_predicted)),
                    *(str(count) for count in (one.tp, one.fp, one.fn)),
                    *(str(one.pooled[metric]) for metric in (AP, "f1", "panoptic_quality", "aji", MEAN_AP, "dice")),
                ]
                for one in shown
            ],
        )
        if several:
            whole = [one for one in groups if one.foreground and one.foreground[AP].value is not None]
            yield "Means of the classes:"
            yield table(
                [cell(by), "AP", "F1", "PQ (mPQ+)", "mean AP"],
                [
                    [cell(one.name), *(str(one.foreground[name]) for name in (AP, "f1", "panoptic_quality", MEAN_AP))]
                    for one in sorted(whole, key=lambda one: (one.foreground[AP].value or 0.0, one.name))[:_MAX_GROUPS]
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
    if report.per_class:
        yield "They were chosen, and the numbers below are, whatever the class of the objects."
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
