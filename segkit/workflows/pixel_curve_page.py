"""Thresholds of the probability of pixels, in parts of a page."""

from collections.abc import Mapping
from dataclasses import replace

from segkit.evaluation.estimates import number
from segkit.evaluation.pixel_curves import METRICS, PixelSweep, sentences_of
from segkit.evaluation.pixel_tables import PixelReport
from segkit.report.page.content import Column, Row, Section, Table
from segkit.report.page.number import Number
from segkit.report.page.plots import LineChart
from segkit.report.page.standard_charts import as_floats, precision_recall_chart, threshold_chart
from segkit.workflows.page_parts import label_of


def threshold_section(report: PixelReport, definitions: Mapping[str, str]) -> tuple[Section, ...]:
    """Return the section about thresholds, none where no probabilities are known."""
    if not report.sweeps:
        return ()
    with_truth = [one for one in report.sweeps if one.curve.num_true]
    charts = [_precision_recall(with_truth), *map(_over_thresholds, with_truth)] if with_truth else []
    intro = sentences_of(report.sweeps, len(report.classes))
    return (Section("Thresholds", (_table(report, definitions), *charts), (" ".join(intro),)),)


def _table(report: PixelReport, definitions: Mapping[str, str]) -> Table:
    has_best = any(one.best is not None for one in report.sweeps)
    return Table(
        caption="Over thresholds of the probability, and of the predicted masks, pooled over images",
        columns=(
            Column("the pixel is", "text"),
            Column("images", "count"),
            Column("AP, interval", "text", definitions.get("average_precision", "")),
            Column("threshold used", "text"),
            *(Column(label_of(metric), definition=definitions.get(metric, "")) for metric in METRICS),
            *((Column("best threshold"), Column("Dice with that")) if has_best else ()),
        ),
        rows=tuple(
            Row(
                (
                    one.name,
                    one.num_images,
                    str(one.average_precision),
                    "none" if one.used is None else f"{one.used:g}",
                    *(one.of_masks[metric] for metric in METRICS),
                    *((one.best or (None, None)) if has_best else ()),
                )
            )
            for one in report.sweeps
        ),
        note="Precision, recall, Dice and IoU are those of the masks, in the images whose probabilities are known.",
    )


def _precision_recall(sweeps: list[PixelSweep]) -> LineChart:
    masks = {one.name: as_floats([one.of_masks["recall"], one.of_masks["precision"]]) for one in sweeps}
    chart = precision_recall_chart(
        {one.name: (one.curve.recall, one.curve.precision) for one in sweeps},
        {name: (float(recall), float(precision)) for name, (recall, precision) in masks.items()},
    )
    return replace(chart, note="Of pixels, over the 256 thresholds of the probability; the ring is at the masks.")


def _over_thresholds(one: PixelSweep) -> LineChart:
    return threshold_chart(
        f"Over the threshold: {one.name}",
        "threshold of the probability",
        one.curve.thresholds,
        {label_of(metric): [Number(number(value)) for value in getattr(one.curve, metric)] for metric in METRICS},
        used=one.used,
        note="What other thresholds would give on these images: nothing was chosen by it.",
    )
