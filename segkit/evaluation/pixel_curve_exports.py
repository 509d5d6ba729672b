"""What files say about thresholds of pixels: curves.csv, a part of metrics.json, a part of summary.md."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from segkit.evaluation.estimates import format_value, number
from segkit.evaluation.markdown import cell, table
from segkit.evaluation.pixel_curves import METRICS, SHOWN, PixelSweep, sentences_of

COLUMNS: Final = ("class", "threshold", "tp_px", "fp_px", "fn_px", *METRICS)
"""Columns of curves.csv."""

_DIGITS: Final = 6
_STEP: Final = 2  # of the thresholds that metrics.json has, summary.md shows every second


def as_csv_rows(sweeps: Sequence[PixelSweep]) -> list[dict[str, Any]]:
    """Return the rows of curves.csv: by class, then by descending threshold, 256 of each."""
    rows = []
    for one in sweeps:
        curve = one.curve
        columns = (
            curve.thresholds.round(_DIGITS).tolist(),
            curve.true_positives.tolist(),
            curve.false_positives.tolist(),
            curve.false_negatives.tolist(),
            *(map(number, getattr(curve, metric)) for metric in METRICS),
        )
        rows += [dict(zip(COLUMNS, (one.name, *values), strict=True)) for values in zip(*columns, strict=True)]
    return rows


def as_json(sweeps: Sequence[PixelSweep]) -> list[dict[str, Any]]:
    """Return the part `threshold_sweeps` of metrics.json."""
    return [
        {
            "name": one.name,
            "num_images": one.num_images,
            "average_precision": asdict(one.average_precision),
            "used": one.used,
            "of_masks": dict(one.of_masks),
            "best_on_validation": None
            if one.best is None
            else {"threshold": number(one.best[0]), "dice": number(one.best[1])},
            "sweep": [{"threshold": threshold, **one.curve.at(threshold)} for threshold in SHOWN],
        }
        for one in sweeps
    ]


def markdown_parts(sweeps: Sequence[PixelSweep], num_classes: int) -> Iterator[str]:
    """Yield the parts of summary.md, a heading first; nothing without sweeps."""
    if not sweeps:
        return
    has_best = any(one.best is not None for one in sweeps)
    yield "## Thresholds of the probability"
    yield " ".join(sentences_of(sweeps, num_classes))
    yield table(
        [
            "the pixel is", "images", "average precision", "threshold used",
            *(f"{_label(metric)} of the masks" for metric in METRICS),
            *(["best threshold", "Dice with that"] if has_best else []),
        ],
        [
            [
                cell(one.name),
                str(one.num_images),
                str(one.average_precision),
                "none" if one.used is None else f"{one.used:g}",
                *(format_value(one.of_masks[metric]) for metric in METRICS),
                *((map(format_value, one.best) if one.best else ["undefined"] * 2) if has_best else []),
            ]
            for one in sweeps
        ],
    )  # fmt: skip
    yield "Dice at thresholds, pooled over images; all 256 are in `curves.csv`:"
    yield table(
        ["the pixel is", *(f"{threshold:g}" for threshold in SHOWN[1::_STEP])],
        [
            [cell(one.name), *(format_value(one.curve.at(threshold)["dice"]) for threshold in SHOWN[1::_STEP])]
            for one in sweeps
        ],
    )


def _label(metric: str) -> str:
    return {"dice": "Dice", "iou": "IoU"}.get(metric, metric)
