"""What the page of an evaluation is made of, whatever was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from segkit.evaluation import confidence, membrane_exports
from segkit.evaluation.estimates import Estimate, Resampled
from segkit.report.page.content import Column, Headline, MetricRow, MetricTable, Row, Table
from segkit.report.page.number import Number
from segkit.report.page.plots import BarChart, LineChart

MAX_ROWS: Final = 3000
"""More images than these are not listed on a page: those with the best scores are left out."""

_LABELS: Final[Mapping[str, str]] = {
    "tp": "TP",
    "fp": "FP",
    "fn": "FN",
    "dice": "Dice",
    "iou": "IoU",
    "f1": "F1",
    "average_precision": "AP",
    "mean_average_precision": "mean AP",
    "matched_iou": "matched IoU (SQ)",
    "panoptic_quality": "PQ",
    "aji": "AJI",
    "aji_plus": "AJI+",
    "hd95_um": "HD95, µm",
    "hd95_px": "HD95, px",
    "hd_um": "HD, µm",
    "hd_px": "HD, px",
    "assd_um": "ASSD, µm",
    "assd_px": "ASSD, px",
    "brier": "Brier score",
    "nsd": "NSD",
    "froc_mean_per_image": "FROC mean, per image",
    "froc_mean_per_mm2": "FROC mean, per mm²",
    "mean_count_error": "count error",
    "mean_absolute_count_error": "absolute count error",
    "true_per_mm2": "true per mm²",
    "predicted_per_mm2": "predicted per mm²",
    "true_per_10_hpf": "true per 10 HPF",
    "predicted_per_10_hpf": "predicted per 10 HPF",
    "ece": "ECE",
    "mce": "MCE",
    "area_mm2": "area, mm²",
    "mean_true_area_um2": "mean area, true, µm²",
    "mean_predicted_area_um2": "mean area, predicted, µm²",
    "mean_true_area_px": "mean area, true, px",
    "mean_predicted_area_px": "mean area, predicted, px",
    "min_area_px": "smallest area, px",
    "smooth_px": "smoothing, px",
    "smooth_radius": "radius of smoothing",
    "froc": "FROC",
    **membrane_exports.LABELS,
}
_COUNTS: Final = frozenset({"count_error", "absolute_count_error", "mean_count_error", "mean_absolute_count_error"})
_ONE_DIGIT: Final = ("true_per_mm2", "predicted_per_mm2", "_per_10_hpf", "_area_um2", "_area_px")
# By parts of their names: everything else lies in 0..1.
_NOT_SHARES: Final = ("count_error", "hd95", "hd_", "assd", "_um", "_px", "_per_", "vi_")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportParts:
    """A report in parts of a page.

    `score_name` is what images are ranked by, `score_in_full` the same with all that belongs to it; `names`, `scores`
    and `texts` are of each image, in one order: the texts say what was found in it. `legend` names the kinds of layers
    of its picture.
    """

    score_name: str
    score_in_full: str
    headline: Headline
    numbers: tuple[MetricTable | Table, ...]
    charts: tuple[LineChart | BarChart, ...]
    groups: tuple[Table, ...]
    images: Table
    names: tuple[str, ...]
    scores: tuple[float | None, ...]
    texts: tuple[str, ...]
    legend: Mapping[str, str]


def number_of(estimate: Estimate) -> Number:
    """Return an estimate as a page has it."""
    return Number(estimate.value, estimate.low, estimate.high)


def label_of(metric: str) -> str:
    """Return what a metric is called on a page, by the name that files give it."""
    head, dot, tail = metric.partition(".")
    return _LABELS.get(head, head.replace("_", " ").replace("/", ", ")) + dot + tail


def metric_rows(ways: Sequence[Mapping[str, Estimate]], definitions: Mapping[str, str]) -> tuple[MetricRow, ...]:
    """Return a row for each metric of any way of counting, with its numbers in all ways, undefined where missing.

    Parameters
    ----------
    ways
        Such as pooled and as means: estimates by the names that files give them.
    definitions
        What each metric is, by the same names.
    """
    missing = Estimate(None, None, None)
    return tuple(
        MetricRow(
            name=label_of(metric),
            definition=definitions.get(metric, ""),
            numbers=tuple(number_of(way.get(metric, missing)) for way in ways),
            is_share=metric.startswith("froc") or not any(part in metric for part in _NOT_SHARES),
            digits=1 if metric in _COUNTS or metric.endswith(_ONE_DIGIT) else 3,
        )
        for metric in dict.fromkeys(metric for way in ways for metric in way)
    )


def headline_of(name: str, estimate: Estimate, what: str, report: Resampled) -> Headline:
    """Return the headline: what it is called, what it is in a sentence, and what its interval means."""
    if report.num_units < 2:
        meaning = report.intervals_in_words()
    else:
        meaning = (
            f"The interval says how much the number would move with other images of the same kind: percentile "
            f"bootstrap over {report.num_units} {report.unit}s, {report.num_samples} samples, seed {report.seed}."
        )
    return Headline(name, number_of(estimate), (what, meaning), f"{confidence.LEVEL:.0%} interval")


def images_table(columns: Sequence[Column], rows: Sequence[Row], score: int) -> Table:
    """Return the table of all images, the worst first by the column `score`, those without a score last."""

    def rank(row: Row) -> tuple[bool, float]:
        value = row.cells[score]
        return (True, 0.0) if not isinstance(value, int | float) else (False, float(value))

    ranked = sorted(rows, key=rank)
    left_out = len(rows) - MAX_ROWS
    note = f"The {left_out} images with the best scores are not listed; all are in metrics.csv." if left_out > 0 else ""
    return Table(
        caption="All images; the head of a column sorts by it",
        columns=tuple(columns),
        rows=tuple(ranked[:MAX_ROWS]),
        note=note,
        is_interactive=True,
        sorted_by=score,
    )


def in_plural(count: int, one: str) -> str:
    """Return such as `1 image`, `1,234 images`."""
    return f"{count:,} {one}" + ("" if count == 1 else "s")
