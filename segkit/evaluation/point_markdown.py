"""A report of point metrics to read: summary.md."""

from collections.abc import Iterable, Iterator, Sequence
from types import MappingProxyType

from segkit.evaluation import point_rules, points, threshold_choice
from segkit.evaluation.estimates import format_value
from segkit.evaluation.markdown import cell, table
from segkit.evaluation.point_definitions import definitions_of
from segkit.evaluation.point_summary import COUNT_ERRORS, METRICS, PointSummary
from segkit.evaluation.point_tables import PointReport, PointRow

_NAMES = MappingProxyType({metric: metric.replace("_", " ").replace("f1", "F1") for metric in METRICS})
_NUM_LOWEST = 5  # images that the summary lists
_MAX_GROUPS = 20  # groups that the summary lists


def as_markdown(report: PointReport) -> str:
    """Return the content of summary.md: the headline, the tables, the images with the lowest F1, definitions."""
    parts = [
        "# Point metrics",
        _headline(report),
        _rules_in_words(report),
        report.intervals_in_words(),
        "## Pooled and averaged over images",
        _metric_table(report),
        "## Counts",
        _count_table(report),
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
        "\n".join(f"- {name}: {text}" for name, text in definitions_of(report).items()),
    ]
    return "\n\n".join(parts) + "\n"


def _headline(report: PointReport) -> str:
    several, mean = len(report.classes) > 2, report.foreground_mean
    radius = f"{report.radius_px:.4g} px" + ("" if report.radius_um is None else f" = {report.radius_um:.4g} um")
    return (
        f"**F1 {report.headline}**, precision {report.foreground['precision']}, recall {report.foreground['recall']}, "
        f"average precision {report.foreground['average_precision']}; matched within {radius}; "
        f"pooled over {len(report.images)} {'image' if len(report.images) == 1 else 'images'}, "
        + ("mean of the foreground classes." if several else f"class {cell(report.classes[1])}.")
        + f" Mean over images: F1 {mean['f1']}, precision {mean['precision']}, recall {mean['recall']}, "
        f"average precision {mean['average_precision']}."
    )


def _rules_in_words(report: PointReport) -> str:
    text = f"Matched by the rule `{report.rule}`: {point_rules.DEFINITIONS[report.rule]}."
    if report.curve_rule == report.rule:
        return text
    return f"{text} Average precision, FROC and best thresholds are by the rule `{report.curve_rule}`."


def _metric_table(report: PointReport) -> str:
    ways = [(_name_of(one, report), one.pooled, one.mean, one.num_defined) for one in report.summaries]
    if len(report.classes) > 2:
        ways.append(("*mean of the foreground*", report.foreground, report.foreground_mean, {}))
    rows = [
        [name, _NAMES[metric], str(pooled[metric]), str(mean[metric]), str(num_defined.get(metric, ""))]
        for name, pooled, mean, num_defined in ways
        for metric in METRICS
    ]
    return table(["class", "metric", "pooled", "mean over images", "images where it is defined"], rows)


def _count_table(report: PointReport) -> str:
    rows = [
        [
            _name_of(summary, report),
            str(summary.num_images),
            "" if summary.threshold is None else f"{summary.threshold:.3f}",
            *(str(getattr(summary.counts, name)) for name in ("tp", "fp", "fn", "hard_negative_hits")),
        ]
        for summary in report.summaries
    ]
    return table(["class", "images with it", "threshold", "TP", "FP", "FN", "on hard negatives"], rows)


def _name_of(summary: PointSummary, report: PointReport) -> str:
    return "*any class*" if summary is report.any_class else cell(summary.name)


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
        for summary in report.summaries
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
        for summary in report.summaries
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
        left = f" {num_left} more are in `metrics.json`." if num_left else ""
        yield f"Pooled, by F1, the lowest first.{left} The other means over images are in `metrics.json`."
        per_area = [] if report.area_mm2 is None else ["labelled per mm2", "found per mm2"]
        yield table(
            [cell(by), "class", "images", "TP", "FP", "FN", *_NAMES.values(), "F1, mean over images", *per_area],
            [
                [
                    cell(one.name),
                    cell(one.summary.name),
                    str(one.num_images),
                    *(str(getattr(one.summary.counts, name)) for name in ("tp", "fp", "fn")),
                    *(str(one.summary.pooled[metric]) for metric in METRICS),
                    str(one.summary.mean["f1"]),
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
        ["image", "TP", "FP", "FN", "F1", "precision", "recall"],
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
