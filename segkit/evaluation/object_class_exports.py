"""What files say of objects by class, and of the mean over the classes, beside what they say of any class."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from segkit.evaluation import object_classes
from segkit.evaluation.estimates import Estimate
from segkit.evaluation.markdown import cell, table
from segkit.evaluation.object_classes import ANY_CLASS, FOREGROUND
from segkit.evaluation.object_summary import Foreground, ObjectClass, ObjectSummary
from segkit.evaluation.object_tables import AP, MEAN_AP, ObjectReport

COLUMNS = (
    (AP, "AP"),
    ("f1", "F1"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("matched_iou", "SQ"),
    ("panoptic_quality", "PQ"),
    (MEAN_AP, "mean AP"),
    ("aji", "AJI"),
    ("dice", "Dice"),
)
"""Metrics that tables of classes have, and what they are called there."""


def definitions_of(report: ObjectReport) -> dict[str, str]:
    """Return what classes are about, where the report has several or does not look at them."""
    if report.foreground is not None:
        return dict(object_classes.DEFINITIONS)
    return {name: object_classes.DEFINITIONS[name] for name in ("class", "any_class") if report.name == ANY_CLASS}


def headline_of(report: ObjectReport) -> str:
    """Return what the headline is of: the mean over the classes, or the objects whatever their class."""
    return report.name if report.foreground is None else FOREGROUND


def estimates_as_json(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """Return estimates by name."""
    return {metric: asdict(estimate) for metric, estimate in estimates.items()}


def summary_as_json(summary: ObjectSummary) -> dict[str, Any]:
    """Return the metrics of a summary: of each threshold, where they know any, and overall."""
    return {
        **{metric: [asdict(estimate) for estimate in estimates] for metric, estimates in summary.at.items()},
        MEAN_AP: asdict(summary.mean_average_precision),
        **estimates_as_json(summary.overall),
    }


def as_json(report: ObjectReport) -> dict[str, Any]:
    """Return the part of metrics.json that is of classes."""
    return {
        FOREGROUND: None if report.foreground is None else _both(report.foreground),
        "by_class": [_class(one) for one in report.per_class],
    }


def at_first(summary: ObjectSummary) -> dict[str, Estimate]:
    """Return the metrics at the first threshold, and those that know none."""
    return {
        **{metric: estimates[0] for metric, estimates in summary.at.items()},
        MEAN_AP: summary.mean_average_precision,
        **summary.overall,
    }


def headline_parts(report: ObjectReport) -> Iterator[str]:
    """Yield the sentences that summary.md begins with."""
    num_images = f"{len(report.images)} {'image' if len(report.images) == 1 else 'images'}"
    over = f"pooled over {num_images} with {report.num_true} objects, {report.num_predicted} predicted."
    first = report.thresholds[0]
    if report.foreground is None:
        of = "any class (class is not looked at)" if report.name == ANY_CLASS else f"class {cell(report.name)}"
        yield f"**AP {report.headline}** at IoU {first:g}, {_further(report.pooled)}; {of}; {over}"
    else:
        names = ", ".join(cell(one.name) for one in report.per_class)
        yield (
            f"**AP {report.headline}** at IoU {first:g}, {_further(report.foreground.pooled, 'mPQ+')}; means over the "
            f"{len(report.per_class)} classes {names}, objects matched with those of their own class only; {over}"
        )
        yield (
            f"Any class, where an object may match one of another class and a wrong class costs nothing: AP "
            f"{report.pooled.at[AP][0]}, {_further(report.pooled)}."
        )


def markdown_parts(report: ObjectReport) -> Iterator[str]:
    """Yield the tables of classes; none where there are no classes."""
    if report.foreground is None:
        return
    first = f"at IoU {report.thresholds[0]:g}"
    counted = ["images", "true", "found", "TP", "FP", "FN"]
    names = [name for _, name in COLUMNS]
    # Of the mean over the classes nothing is counted; of any class as many are there, and others are matched.
    rows = [[str(getattr(one, name)) for name in _COUNTS] for one in report.per_class]
    sums = [sum(getattr(one, name) for one in report.images) for name in ("tp", "fp", "fn")]
    everything = [len(report.images), report.num_true, report.num_predicted, *sums]
    counts = [*rows, [""] * len(counted), [str(number) for number in everything]]
    yield f"## By class, pooled over images, {first}"
    yield table(
        ["class", *counted, *names],
        [
            [name, *numbers, *_cells(summary)]
            for (name, summary), numbers in zip(_summaries(report, "pooled"), counts, strict=True)
        ],
    )
    yield (
        "Images are those whose truth holds the class. The mean of the classes is of those for which a metric is "
        "defined; its PQ is mPQ+, as in CoNIC."
    )
    yield f"## By class, mean over images, {first}"
    yield table(["class", *names], [[name, *_cells(summary)] for name, summary in _summaries(report, "mean")])


_COUNTS = ("num_images", "num_true", "num_predicted", "tp", "fp", "fn")


def _summaries(report: ObjectReport, how: str) -> list[tuple[str, ObjectSummary]]:
    named: Sequence[tuple[str, ObjectClass | Foreground | ObjectReport | None]] = [
        *((cell(one.name), one) for one in report.per_class),
        ("*mean of the classes*", report.foreground),
        (f"*{ANY_CLASS}*", report),
    ]
    return [(name, getattr(one, how)) for name, one in named]


def _cells(summary: ObjectSummary) -> list[str]:
    values = at_first(summary)
    return [str(values[metric]) for metric, _ in COLUMNS]


def _further(summary: ObjectSummary, pq: str = "PQ") -> str:
    quality = summary.at["panoptic_quality"][0]
    return f"F1 {summary.at['f1'][0]}, {pq} {quality}, AJI {summary.aji}, Dice {summary.dice}"


def _class(one: ObjectClass) -> dict[str, Any]:
    return {
        "name": one.name,
        **{name: getattr(one, name) for name in _COUNTS},
        **_both(one),
        "densities": estimates_as_json(one.densities),
    }


def _both(one: ObjectClass | Foreground) -> dict[str, Any]:
    return {"pooled": summary_as_json(one.pooled), "mean": summary_as_json(one.mean)}
