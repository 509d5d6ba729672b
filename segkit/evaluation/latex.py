r"""Rows of tables for LaTeX, with booktabs: `\input{table.tex}` where the table is to stand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from segkit.evaluation.comparison import ComparedMetric, Comparison, Difference
from segkit.evaluation.estimates import Estimate, Resampled
from segkit.evaluation.membrane_exports import BRIEF, LABELS, chosen_in_words, latex_rows
from segkit.evaluation.membrane_tables import MembraneReport
from segkit.evaluation.object_class_exports import at_first
from segkit.evaluation.object_classes import ANY_CLASS
from segkit.evaluation.object_tables import MEAN_AP, ObjectReport
from segkit.evaluation.pixel_tables import PixelReport
from segkit.evaluation.point_tables import PointReport
from segkit.evaluation.reports import Report
from segkit.files import write_text

TABLE: Final = "table.tex"
"""What the table is called beside metrics.json."""

NAMES: Final = MappingProxyType(
    {
        "dice": "Dice",
        "iou": "IoU",
        "f1": "F1",
        "average_precision": "AP",
        "mean_average_precision": "mean AP",
        "matched_iou": "SQ",
        "panoptic_quality": "PQ",
        "aji": "AJI",
        "aji_plus": "AJI+",
        "hd95_um": r"HD95 ($\mu$m)",
        "hd95_px": "HD95 (px)",
        "hd_um": r"HD ($\mu$m)",
        "hd_px": "HD (px)",
        "assd_um": r"ASSD ($\mu$m)",
        "assd_px": "ASSD (px)",
        "nsd": "NSD",
        "ece": "ECE",
        "mce": "MCE",
        "brier": "Brier score",
        **LABELS,
        "vi_bits": "VI, bits",
    }
)
"""What papers call metrics whose name in files is another; for the others `_` becomes a space."""

_SIGNS: Final = MappingProxyType(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)
_UNDEFINED: Final = "--"
_PIXELS: Final = ("dice", "iou", "precision", "recall", "specificity")
_OBJECTS: Final = ("average_precision", "f1", "precision", "recall", "matched_iou", "panoptic_quality")
_POINTS: Final = ("f1", "precision", "recall", "average_precision")
_WHAT_AP_IS: Final = (
    "AP is TP / (TP + FP + FN), as in StarDist and the Data Science Bowl 2018; not COCO's area under a curve."
)

Tabular = Report | Comparison


def escape(text: str) -> str:
    """Return `text` such that LaTeX prints it as it is, in one line."""
    return "".join(_SIGNS.get(char, char) for char in " ".join(text.split()))


def name_of_metric(name: str) -> str:
    """Return what a metric is called in tables, for people: `AP`, `pixel error`."""
    base, _, threshold = name.rpartition("_")
    if threshold[:1].isdigit() and base:
        return f"{name_of_metric(base)} {threshold}"
    return NAMES.get(name, name.replace("_", " "))


def format_number(value: float | None, *, signed: bool = False) -> str:
    """Return a number with 3 digits behind the point in mathematics mode, `--` where it is undefined."""
    return _UNDEFINED if value is None else f"${value:{'+' if signed else ''}.3f}$"


def format_estimate(estimate: Estimate, *, signed: bool = False) -> str:
    """Return a value with its interval in brackets, without them where there is none."""
    value = format_number(estimate.value, signed=signed)
    if estimate.low is None or estimate.high is None:
        return value
    low, high = (format_number(end, signed=signed) for end in (estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def write_table(report: Tabular, folder: Path) -> None:
    """Write `table.tex` into `folder`."""
    write_text(folder / TABLE, as_latex(report))


def as_latex(report: Tabular) -> str:
    """Return a whole `tabular` of what a report says first: metrics pooled over images, with their intervals."""
    match report:
        case PixelReport():
            return _pixel_table(report)
        case ObjectReport():
            return _object_table(report)
        case PointReport():
            return _point_table(report)
    return _comparison_table(report)


def _pixel_table(report: PixelReport) -> str:
    several = len(report.classes) > 2
    summaries = [*report.per_class[1:], *([report.foreground] if several else [])]
    rules = report.surfaces
    means = () if rules is None else (f"hd95_{rules.unit}", f"assd_{rules.unit}", "nsd")
    pooled = (*_PIXELS, *(["ece"] if "ece" in report.foreground.pooled else []))
    rows = [
        [
            "mean" if one is report.foreground else escape(one.name),
            *_cells(one.pooled, pooled),
            *_cells(one.mean, means),
        ]
        for one in summaries
    ]
    remarks = [
        f"Pooled over {len(report.images)} images, every pixel counts the same.",
        f"Pixel error over all classes: {report.pixel_error_pooled}.",
        *(f"ECE that a pixel is {one.name}: {one.pooled['ece']}." for one in report.calibrations),
    ]
    if rules is not None:
        remarks.append(
            f"HD95, ASSD and NSD (tolerance {rules.tolerance}) are means over images, of which {rules.num_images} were "
            "measured."
        )
        remarks += [
            f"{one.name}: of {one.num_defined['nsd']} images; in {one.num_diagonals} of them only one of truth and "
            "prediction is empty, and the image's diagonal stands for distances."
            for one in report.per_class[1:]
        ]
    tables = [_tabular(["class", *map(name_of_metric, (*pooled, *means))], rows, report, remarks)]
    tables += [] if report.membranes is None else [_membrane_table(report.membranes)]
    return "\\par\\medskip\n".join(tables)


def _membrane_table(report: MembraneReport) -> str:
    rows = [[name, *map(format_estimate, estimates)] for name, estimates in latex_rows(report)]
    remarks = [
        f"Cells between the class {report.membrane}: means over {len(report.images)} images. V-Rand and V-Info after "
        "border thinning, as in the ISBI 2012 challenge; Rand error and variation of information (VI) without.",
        *filter(None, [chosen_in_words(report)]),
    ]
    return _tabular(["cells of", *map(name_of_metric, BRIEF)], rows, report, remarks)


def _object_table(report: ObjectReport) -> str:
    rows = [
        [f"{threshold:g}", *(format_estimate(report.pooled.at[metric][place]) for metric in _OBJECTS)]
        for place, threshold in enumerate(report.thresholds)
    ]
    rows.append(["mean", format_estimate(report.pooled.mean_average_precision), *[""] * (len(_OBJECTS) - 1)])
    looked_at = "; class is not looked at" if report.name == ANY_CLASS else ""
    remarks = [
        f"Objects ({report.name}{looked_at}) matched at an IoU of at least the threshold; {report.num_true} true and "
        f"{report.num_predicted} predicted ones, pooled over {len(report.images)} images.",
        _WHAT_AP_IS,
        f"Dice {report.pooled.dice}.",
    ]
    of_any = _tabular(["IoU", *map(name_of_metric, _OBJECTS)], rows, report, remarks)
    return of_any if report.foreground is None else "\\par\\medskip\n".join([_class_table(report), of_any])


def _class_table(report: ObjectReport) -> str:
    """Return the table of objects by class, of their mean, and below a line of any class."""
    metrics = (*_OBJECTS, MEAN_AP)
    named = [(escape(one.name), one.pooled) for one in report.per_class]
    named += [("mean", report.foreground.pooled)] if report.foreground is not None else []
    cells = [[name, *_cells(at_first(summary), metrics)] for name, summary in named]
    rows: list[list[str] | None] = [*cells, None, [ANY_CLASS, *_cells(at_first(report.pooled), metrics)]]
    remarks = [
        f"Objects of each class matched at an IoU of at least {report.thresholds[0]:g} with those of the same class "
        f"only, pooled over {len(report.images)} images; mean: of the classes, whose PQ is mPQ+, as in CoNIC; "
        f"{ANY_CLASS}: class is not looked at.",
        _WHAT_AP_IS,
    ]
    return _tabular(["class", *map(name_of_metric, metrics)], rows, report, remarks)


def _point_table(report: PointReport) -> str:
    named = [(escape(one.name), one.pooled, one.mean) for one in report.per_class]
    if len(named) > 1:
        named.append(("mean of classes", report.foreground, report.foreground_mean))
    rows = [
        [name, how, *_cells(estimates, _POINTS)]
        for name, *ways in named
        for how, estimates in zip(("pooled", "mean"), ways, strict=True)
    ]
    radius = f"{report.radius_px:.4g} px" + ("" if report.radius_um is None else f" = {report.radius_um:.4g} um")
    remarks = [
        f"Points matched within {radius} by the rule {report.rule}; pooled over {len(report.images)} images, and means "
        "over those of them for which the metric is defined."
    ]
    return _tabular(["class", "over images", *map(name_of_metric, _POINTS)], rows, report, remarks, words=2)


def _comparison_table(report: Comparison) -> str:
    first, *others = report.labels
    header = ["metric", "of", escape(first)]
    for label in others:
        header += [escape(label), "difference", "better in"]
    groups = [[metric for metric in report.metrics if metric.how == how] for how in ("pooled", "mean")]
    blocks = [[_compared_row(metric) for metric in group] for group in groups if group]
    remarks = [
        f"The same {len(report.images)} images; the first rows are pooled over images, those below the line means over "
        "images." if len(blocks) > 1 else f"The same {len(report.images)} images; means over images.",
        f"Differences to {first}, paired bootstrap; better in: share of the samples in which the metric is better.",
    ]  # fmt: skip
    rows: list[list[str] | None] = []
    for block in blocks:
        rows += [*([None] if rows else []), *block]
    return _tabular(header, rows, report, remarks, words=2)


def _compared_row(metric: ComparedMetric) -> list[str]:
    row = [name_of_metric(metric.name), escape(metric.of), format_number(metric.values[0].value)]
    for value, difference in zip(metric.values[1:], metric.differences, strict=True):
        row += [format_number(value.value), format_estimate(difference.estimate, signed=True), _share(difference)]
    return row


def _share(difference: Difference) -> str:
    return _UNDEFINED if difference.share_better is None else rf"${100 * difference.share_better:.1f}\,\%$"


def _cells(estimates: Mapping[str, Estimate], metrics: Sequence[str]) -> list[str]:
    return [format_estimate(estimates[metric]) for metric in metrics]


def _tabular(
    header: Sequence[str],
    rows: Sequence[Sequence[str] | None],
    resampled: Resampled,
    remarks: Sequence[str],
    *,
    words: int = 1,
) -> str:
    """Return a tabular of rows (None: a line between them), of which the first `words` columns are aligned left."""
    comments = [
        r"\usepackage{booktabs} in the preamble, then \input{table.tex}.", *remarks, resampled.intervals_in_words()
    ]  # fmt: skip
    lines = [
        *(f"% {' '.join(comment.split())}" for comment in comments),
        rf"\begin{{tabular}}{{{'l' * words}{'r' * (len(header) - words)}}}",
        r"\toprule",
        rf"{' & '.join(header)} \\",
        r"\midrule",
        *(r"\midrule" if row is None else rf"{' & '.join(row)} \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
