"""The section about membranes of an evaluation's page."""

import numpy as np
from scipy import ndimage

from segkit.evaluation import membrane_exports
from segkit.evaluation.membrane_tables import ChosenThreshold, MembraneReport, tabulate_membranes
from segkit.evaluation.membrane_totals import METRICS, measure_membranes
from segkit.report.page.content import MetricTable, Section, Table
from segkit.report.page.plots import LineChart
from segkit.workflows.membrane_page import membrane_cells, membrane_columns, membrane_section
from segkit.workflows.page_parts import label_of

THRESHOLDS = (0.3, 0.5, 0.7)
NAMES = ("a", "b", "empty")


def report_of(*, with_maps: bool = True, **options: object) -> MembraneReport:
    y, x = np.mgrid[:30, :40]
    measured = []
    for bend in (0.3, 0.8, None):
        truth = np.zeros((30, 40), bool) if bend is None else np.abs(np.sin(x / 4 + bend * np.sin(y / 9))) > 0.2
        cells = ndimage.gaussian_filter(truth.astype(float), 1)
        one = measure_membranes(
            cells > 0.5, truth, cell_probability=cells if with_maps else None, thresholds=THRESHOLDS
        )
        measured.append(one)
    given = {"membrane": "wall", "thresholds": THRESHOLDS, "num_samples": 20, **options}
    return tabulate_membranes(NAMES, measured, **given)


def section_of(report: MembraneReport) -> Section:
    return membrane_section(report, membrane_exports.DEFINITIONS)


def test_all_metrics_stand_in_the_first_table_with_what_they_are() -> None:
    report = report_of()
    first = section_of(report).blocks[0]
    assert isinstance(first, MetricTable)
    assert [row.name for row in first.rows] == [label_of(metric) for metric in METRICS]
    assert [row.name for row in first.rows] == list(membrane_exports.LABELS.values())
    assert all(row.definition for row in first.rows)
    assert "class wall" in first.caption
    v_rand = first.rows[0]
    assert [one.value for one in v_rand.numbers] == [report.mean["v_rand"].value, report.pooled["v_rand"].value]
    # What is no share of 1 is not drawn on a line from 0 to 1.
    assert {row.name for row in first.rows if not row.is_share} == {
        label_of(metric) for metric in METRICS if metric.startswith("vi_")
    }


def test_a_threshold_that_was_chosen_elsewhere_is_marked_and_told_from_the_best_one_here() -> None:
    report = report_of(chosen=ChosenThreshold(0.7, "3 images of the split val", 0.9))
    section = section_of(report)
    by_threshold = section.blocks[1]
    assert isinstance(by_threshold, MetricTable)
    assert by_threshold.columns == (
        "predicted mask",
        "threshold 0.7, chosen elsewhere",
        "best threshold here (too good)",
    )
    for row, metric in zip(by_threshold.rows, ("v_rand", "v_info"), strict=True):
        mask, chosen, best = (one.value for one in row.numbers)
        assert (mask, chosen) == (report.mean[metric].value, report.sweep[2].mean[metric].value)
        assert best == max(one.mean[metric].value for one in report.sweep)
    (chart,) = [block for block in section.blocks if isinstance(block, LineChart)]
    assert chart.verticals == ((0.7, "chosen elsewhere: 0.7"),)
    assert [line.name for line in chart.lines] == ["V-Rand", "V-Info"]
    assert list(chart.lines[0].x) == list(THRESHOLDS)
    assert any("chosen on 3 images of the split val" in one for one in section.intro)
    assert any("too good" in one for one in section.intro)


def test_without_a_choice_nothing_is_marked_and_without_maps_there_is_no_chart() -> None:
    section = section_of(report_of())
    by_threshold, chart = section.blocks[1:3]
    assert isinstance(by_threshold, MetricTable)
    assert by_threshold.columns == ("predicted mask", "best threshold here (too good)")
    assert isinstance(chart, LineChart)
    assert chart.verticals == ()
    masks_only = section_of(report_of(with_maps=False))
    assert len(masks_only.blocks) == len(masks_only.intro) == 1


def test_groups_and_images_have_their_rows() -> None:
    report = report_of(groups=["x", "x", "y"], attributes={"animal": ["fly", "mouse", "fly"]})
    tables = [block for block in section_of(report).blocks if isinstance(block, Table)]
    assert [[row.cells[0] for row in table.rows] for table in tables] == [["x", "y"], ["fly", "mouse"]]
    assert all(len(row.cells) == len(table.columns) for table in tables for row in table.rows)
    assert [column.name for column in membrane_columns(membrane_exports.DEFINITIONS)] == ["V-Rand", "V-Info"]
    cells = membrane_cells(report)
    assert cells["a"][0] == report.images[0].metrics["v_rand"]
    assert cells["empty"] == (None, None)
