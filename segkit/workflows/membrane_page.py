"""A report of membranes in parts of a page."""

import dataclasses
from collections.abc import Mapping
from typing import Final

import numpy as np

from segkit.evaluation.membrane_exports import LABELS, best_in_words, chosen_in_words
from segkit.evaluation.membrane_tables import MembraneGroup, MembraneReport
from segkit.report.page.content import Block, Cell, Column, MetricRow, MetricTable, Row, Section, Table
from segkit.report.page.number import Number
from segkit.report.page.plots import LineChart
from segkit.report.page.standard_charts import threshold_chart
from segkit.workflows.page_parts import in_plural, metric_rows, number_of

SHOWN: Final = ("v_rand", "v_info")
"""What is shown over thresholds and in the table of images."""

_NONE: Final = Number(None)


def membrane_section(report: MembraneReport, definitions: Mapping[str, str]) -> Section:
    """Return the section about membranes; `definitions` are those of metrics.json."""
    blocks: list[Block] = [
        MetricTable(
            f"Cells between the class {report.membrane} of the predicted masks, in "
            f"{in_plural(len(report.images), 'image')}; open a metric's name for its definition",
            ("mean of images", "pooled over images"),
            metric_rows((report.mean, report.pooled), definitions),
        )
    ]
    if report.sweep:
        blocks += [_threshold_table(report, definitions), _threshold_chart(report)]
    blocks += [
        _group_table(by, [one for one in report.groups if one.by == by])
        for by in dict.fromkeys(one.by for one in report.groups)
    ]
    intro = (
        "Cells are what the membranes enclose. Precision is low where cells are merged, recall where they are split. "
        "V-Rand and V-Info thin the predicted membranes first, as the ISBI 2012 challenge does.",
        *filter(None, (chosen_in_words(report), best_in_words(report))),
    )
    return Section("Membranes", tuple(blocks), intro)


def membrane_columns(definitions: Mapping[str, str]) -> tuple[Column, ...]:
    """Return the columns that membranes add to the table of images."""
    return tuple(Column(LABELS[metric], definition=definitions.get(metric, "")) for metric in SHOWN)


def membrane_cells(report: MembraneReport) -> dict[str, tuple[Cell, ...]]:
    """Return the cells of these columns by image."""
    return {row.image: tuple(row.metrics[metric] for metric in SHOWN) for row in report.images}


def _threshold_table(report: MembraneReport, definitions: Mapping[str, str]) -> MetricTable:
    at_chosen = report.at_chosen
    columns = ["predicted mask"]
    if at_chosen is not None:
        columns.append(f"threshold {at_chosen.threshold:g}, chosen elsewhere")
    rows = []
    for metric in SHOWN:
        best = report.best.get(metric)
        numbers = [number_of(report.mean[metric])]
        numbers += [] if at_chosen is None else [number_of(at_chosen.mean[metric])]
        numbers += [] if not report.best else [_NONE if best is None else Number(best.value)]
        rows.append(MetricRow(LABELS[metric], definitions.get(metric, ""), tuple(numbers)))
    if report.best:
        columns.append("best threshold here (too good)")
    return MetricTable(
        "The predicted mask, and maps of probability at thresholds; mean of images", tuple(columns), tuple(rows)
    )


def _threshold_chart(report: MembraneReport) -> LineChart:
    chart = threshold_chart(
        "V-Rand and V-Info over the threshold",
        "threshold of the probability of cell",
        np.array([one.threshold for one in report.sweep], np.float64),
        {LABELS[metric]: [number_of(one.mean[metric]) for one in report.sweep] for metric in SHOWN},
        note="Mean of images; bands are intervals. The predicted mask is the most probable class: with two classes the "
        "threshold 0.5.",
    )
    if report.chosen is None:
        return chart
    threshold = report.chosen.threshold
    return dataclasses.replace(chart, verticals=((threshold, f"chosen elsewhere: {threshold:g}"),))


def _group_table(by: str, groups: list[MembraneGroup]) -> Table:
    return Table(
        caption=f"Membranes by {by}, mean of its images",
        columns=(
            Column(by, "text"),
            Column("images", "count"),
            *(Column(f"{LABELS[metric]}, interval", "text") for metric in SHOWN),
            *(Column(LABELS[metric]) for metric in ("rand_error", "vi_bits")),
        ),
        rows=tuple(Row(_cells_of(one)) for one in groups),
        is_interactive=True,
        sorted_by=0,
    )


def _cells_of(one: MembraneGroup) -> tuple[Cell, ...]:
    with_intervals = [str(one.mean[metric]) for metric in SHOWN]
    return (one.name, one.num_images, *with_intervals, one.mean["rand_error"].value, one.mean["vi_bits"].value)
