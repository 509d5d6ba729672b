"""Charts of the page: where values lie, where ticks are, and that what is undefined leaves a gap."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.report.page import standard_charts
from segkit.report.page.number import Number
from segkit.report.page.plots import MAX_POINTS, Axis, Bar, BarChart, Line, LineChart, Mark, scale_of, thinned
from segkit.report.page.svg import NUM_STYLES, bar_chart_svg, line_chart_svg, range_svg, scale_svg, styles_of
from segkit.report.page.tables_html import chart_figure

NAN = math.nan
FINITE = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)


def line_of(*y, **more):
    return Line("line", np.arange(len(y), dtype=np.float64), np.array(y, np.float64), **more)


def chart_of(*lines, **more):
    return LineChart("Title", Axis("x"), Axis("y", 0, 1), lines, **more)


def subpaths(svg, style="line"):
    return re.search(rf'<path class="{style}[^"]*" d="M([^"]*)"', svg)[1].split("M")


@given(st.lists(FINITE, max_size=8), st.none() | FINITE, st.none() | FINITE, st.booleans())
def test_values_lie_on_the_axis_in_order_and_ticks_are_on_it(values, low, high, is_whole):
    scale = scale_of(Axis("", low, high, is_whole=is_whole), np.array([*values, NAN]), 40, 400)
    assert scale.low < scale.high
    places = scale.at(np.sort(np.array(values, np.float64)))
    assert ((places >= 40 - 1e-6) & (places <= 400 + 1e-6)).all()
    assert (np.diff(places) >= -1e-6).all()
    ticks = [value for value, _ in scale.ticks]
    slack = 1e-6 * (scale.high - scale.low)
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 8
    assert len({words for _, words in scale.ticks}) == len(ticks) or scale.high - scale.low < 1e-3 * abs(scale.high)
    if is_whole:
        assert all(float(tick).is_integer() for tick in ticks)
    if low is None and high is None:
        assert len(ticks) >= 2
        # Data ends on ticks.
        assert math.isclose(scale.low, ticks[0], abs_tol=slack)
        assert math.isclose(scale.high, ticks[-1], abs_tol=slack)


@given(st.lists(st.floats(1e-5, 1e8), min_size=1, max_size=8))
def test_logarithmic_axes_begin_above_nothing(values):
    scale = scale_of(Axis("", is_log=True), np.array([*values, 0.0, -1.0, NAN]), 0, 1)
    assert 0 < scale.low < scale.high
    places = scale.at(np.sort(np.array(values)))
    assert ((places >= -1e-9) & (places <= 1 + 1e-9)).all()
    assert (np.diff(places) >= 0).all()


def test_an_axis_without_data_is_there():
    for is_log in (False, True):
        scale = scale_of(Axis("", is_log=is_log), np.array([NAN]), 0, 1)
        assert math.isfinite(scale.low)
        assert scale.low < scale.high


def test_known_axes():
    assert [words for _, words in scale_of(Axis("", 0, 1), np.empty(0), 0, 1).ticks] == [
        "0",
        "0.2",
        "0.4",
        "0.6",
        "0.8",
        "1",
    ]
    assert [words for _, words in scale_of(Axis("", 1, 30, is_whole=True), np.empty(0), 0, 1).ticks] == [
        "10",
        "20",
        "30",
    ]
    assert [words for _, words in scale_of(Axis("", 1, 2, is_whole=True), np.empty(0), 0, 1).ticks] == ["1", "2"]
    assert [words for _, words in scale_of(Axis("", is_log=True), np.array([0.1, 10]), 0, 1).ticks] == [
        *("0.1", "0.2", "0.5", "1", "2", "5", "10")
    ]


def test_undefined_values_leave_a_gap_and_lonely_ones_a_dot():
    svg = line_chart_svg(chart_of(line_of(0.1, 0.2, NAN, 0.4, NAN, 0.6, 0.7)))
    assert [len(path.split("L")) for path in subpaths(svg)] == [2, 1, 2]
    assert svg.count("<circle") == 1
    assert "line: 0.4 at 3" in svg
    assert "nan" not in svg.lower()
    nothing = line_chart_svg(chart_of(line_of(NAN, NAN), marks=(Mark(NAN, 0.5, "mark"),)))
    assert "<path" not in nothing
    assert "mark" not in nothing
    assert line_chart_svg(chart_of()).startswith("<svg")


def test_bands_break_where_an_end_is_undefined():
    y = np.array([0.5, 0.5, 0.5, 0.5, 0.5])
    svg = line_chart_svg(chart_of(line_of(*y, low=y - 0.1, high=np.array([0.6, 0.6, NAN, 0.6, 0.6]))))
    assert [len(path.split("L")) for path in subpaths(svg, "band")] == [4, 4]


def test_steps_hold_a_value_up_to_the_next():
    svg = line_chart_svg(chart_of(line_of(0.0, 1.0, is_stepped=True)))
    (path,) = subpaths(svg)
    places = [tuple(map(float, place.split())) for place in path.split("L")]
    assert len(places) == 3
    assert places[0][1] == places[1][1]
    assert places[1][0] == places[2][0]


def test_lines_have_styles_of_their_own_and_references_none():
    reference = line_of(0, 1, is_reference=True)
    chart = chart_of(reference, *(line_of(0, 1) for _ in range(NUM_STYLES + 1)))
    assert styles_of(chart)[1:] == [*range(NUM_STYLES), 0]
    svg = line_chart_svg(chart)
    assert svg.count('class="reference"') == 1
    assert svg.count('class="line s0"') == 2


@given(st.integers(3, 2000), st.integers(3, 50))
def test_a_thinned_line_keeps_its_ends(number, limit):
    line = line_of(*np.linspace(0, 1, number))
    short = thinned(line, limit)
    assert len(short.x) == min(number, limit)
    assert (short.x[0], short.x[-1]) == (line.x[0], line.x[-1])
    assert set(short.y) <= set(line.y)


def test_long_lines_stay_small():
    svg = line_chart_svg(chart_of(line_of(*np.random.default_rng(0).random(100_000))))
    assert len(svg) < 20 * MAX_POINTS


def bars(svg):
    return [
        (float(y), float(height))
        for y, height in re.findall(r'<rect class="bar"[^>]* y="([^"]*)"[^>]* height="([^"]*)"', svg)
    ]


def test_bars_stand_on_the_axis_and_undefined_ones_are_missing():
    chart = BarChart(
        "Title",
        "size",
        Axis("F1", 0, 1),
        tuple(Bar("b", height) for height in (Number(1.0, 0.9, 1.0), Number(None), Number(0.5))),
    )
    svg = bar_chart_svg(chart)
    (first, second) = bars(svg)
    assert first[0] + first[1] == second[0] + second[1]
    assert second[1] == first[1] / 2
    assert svg.count('class="whisker"') == 1
    assert "–" in svg
    assert bar_chart_svg(BarChart("Title", "size", Axis("F1"), ())).startswith("<svg")


def test_words_below_bars_do_not_touch():
    names = tuple(f"a rather long name {number}" for number in range(20))
    svg = bar_chart_svg(BarChart("Title", "x", Axis("y", 0, 1), tuple(Bar(name, Number(0.5)) for name in names)))
    below = re.findall(r'<text class="tick middle" x="([\d.]+)" y="250">', svg)
    assert 1 <= len(below) <= 3


def test_ranges_stay_within_their_picture():
    svg = range_svg([Number(-3.0, -5.0, 0.5), Number(7.0), Number(None)]) + scale_svg(Number(1.5, 0.5, 3.0))
    places = [float(place) for place in re.findall(r' (?:x1|x2|cx|x)="([-\d.]+)"', svg)]
    assert min(places) >= 0
    assert max(places) <= 400
    assert svg.count("<circle") == 2


def test_figures_say_their_values_and_leave_out_empty_columns():
    figure = chart_figure(chart_of(line_of(0.25, NAN), note="A note."))
    assert re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", figure) == [
        "line",
        "x",
        "y",
        "line",
        "0",
        "0.25",
        "line",
        "1",
        "undefined",
    ]
    assert "A note." in figure


def test_precision_and_recall():
    curve = (np.array([0.1, 0.5, 0.9]), np.array([1.0, 0.8, 0.4]))
    chart = standard_charts.precision_recall_chart({"a": curve, "b": curve}, {"b": (0.5, 0.8)})
    assert [line.name for line in chart.lines] == ["a", "b"]
    assert chart.marks == (Mark(0.5, 0.8, "P 0.80, R 0.50", 1),)


@pytest.mark.parametrize("most", [0.01, 3.0, 200.0, 1e6])
def test_froc_reads_as_its_definition_says(most):
    """At any rate on the axis: the highest sensitivity with at most so many false positives."""
    rng = np.random.default_rng(1)
    rates = np.sort(rng.random(30)) * most
    sensitivities = np.sort(rng.random(30))
    chart = standard_charts.froc_chart({"a": (rates, sensitivities)}, "image")
    (line,) = chart.lines
    assert chart.x.low == standard_charts.LOWEST_RATE
    for rate in np.geomspace(chart.x.low, min(chart.x.high, max(rates[-1], chart.x.low)), 25):
        allowed = sensitivities[rates <= rate * (1 + 1e-12)]
        expected = allowed[-1] if len(allowed) else 0.0
        assert line.y[np.searchsorted(line.x, rate * (1 + 1e-12), side="right") - 1] == expected
    assert len(chart.x.ticks) <= 10
    assert line.x[-1] <= chart.x.high
    assert (np.diff(line.x) >= 0).all()


def test_reliability_leaves_empty_bins_out():
    chart = standard_charts.reliability_chart(
        np.array([0.1, NAN, 0.9]), np.array([0.2, NAN, 0.7]), np.array([5, 0, 3]), ece=Number(0.05, 0.04, 0.06)
    )
    assert chart.lines[1].x.tolist() == [0.1, 0.9]
    assert "0.050" in chart.note


@given(st.lists(st.none() | st.floats(-0.1, 1.1), max_size=40))
def test_a_histogram_counts_every_defined_image_once(scores):
    chart = standard_charts.score_histogram(scores, "Dice")
    defined = [score for score in scores if score is not None]
    assert sum(bar.height.value for bar in chart.bars) == len(defined)
    assert len(chart.edges) == len(chart.bars) + 1
    assert f"{len(defined)} images." in chart.note
    assert ("undefined" in chart.note) == (len(defined) < len(scores))
    assert len(chart.verticals) == bool(defined)
    assert chart_figure(chart)


def rows_of(scores):
    return [
        {"epoch": float(epoch), "train_loss": 1 / epoch, "val_loss": 2 / epoch, "val_dice": score, "learning_rate": 0.1}
        for epoch, score in enumerate(scores, start=1)
    ]


def test_learning_curves_mark_the_best_epoch_and_leave_gaps():
    loss, score = standard_charts.learning_charts(rows_of([0.1, 0.6, None, 0.6, 0.5]), "dice")
    assert score.title == "Dice on the validation images"
    assert loss.verticals == score.verticals == ((2.0, "best: epoch 2, Dice = 0.600"),)
    assert [(mark.x, mark.y) for mark in score.marks] == [(2.0, 0.6)]
    assert np.isnan(score.lines[0].y).tolist() == [False, False, True, False, False]
    assert [line.name for line in loss.lines] == ["training", "validation"]


def test_learning_curves_of_classes_and_of_nothing():
    rows = [row | {"val_dice/a": 0.5, "val_dice/b": 0.7} for row in rows_of([0.5, 0.6])]
    _, score = standard_charts.learning_charts(rows, "dice")
    assert [line.name for line in score.lines] == ["mean of the classes", "a", "b"]
    assert standard_charts.learning_charts([], "dice") == ()
    loss, score = standard_charts.learning_charts(rows_of([None, None]), "dice")
    assert loss.verticals == score.marks == ()
    assert chart_figure(score)


def test_thresholds_and_sizes():
    numbers = [Number(0.5, 0.4, 0.6), Number(None)]
    chart = standard_charts.threshold_chart("By IoU", "IoU", np.array([0.5, 0.75]), {"AP": numbers}, used=0.5)
    assert chart.verticals == ((0.5, "used: 0.5"),)
    assert np.isnan(chart.lines[0].y).tolist() == np.isnan(chart.lines[0].low).tolist() == [False, True]
    sizes = standard_charts.size_chart(["small", "large"], numbers, [1000, 0], score_name="F1", size_label="area")
    assert [bar.words for bar in sizes.bars] == ["1,000 objects", "0 objects"]


def test_thresholds_on_several_sets_of_images():
    here, then = (np.array([0.2, 0.4]), np.array([0.5, 0.6])), (np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.7, NAN]))
    chart = standard_charts.sweep_chart("F1", "threshold", "F1", {"here": here, "validation": then}, used=0.2)
    assert [(line.name, line.x.tolist()) for line in chart.lines] == [
        ("here", [0.2, 0.4]), ("validation", [0.1, 0.2, 0.3])
    ]  # fmt: skip
    assert chart.verticals == ((0.2, "used: 0.2"),)
    assert standard_charts.sweep_chart("F1", "threshold", "F1", {"here": here}, used=None).verticals == ()
    numbers = [Number(0.5), Number(0.6)]
    both = standard_charts.threshold_chart("F1", "threshold", here[0], {"F1": numbers}, others={"validation": then})
    assert [line.name for line in both.lines] == ["F1", "validation"]
    assert both.lines[1].y.tolist()[:2] == [0.4, 0.7]
    assert "validation" in chart_figure(both)


@pytest.mark.parametrize(("x", "y", "dx", "dy"), [(0.9, 0.5, -9, 17), (0.1, 0.5, 9, -8), (0.1, 1.0, 9, 17)])
def test_the_words_of_a_mark_leave_a_falling_curve_free(x, y, dx, dy):
    curve = Line("precision", np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    svg = line_chart_svg(LineChart("T", Axis("recall", 0, 1), Axis("precision", 0, 1), (curve,), (Mark(x, y, "here"),)))
    cx, cy = (float(re.search(rf'<circle class="mark s0"[^>]*{name}="([^"]*)"', svg)[1]) for name in ("cx", "cy"))
    words = re.search(r'<text class="note[^>]*x="([^"]*)" y="([^"]*)">here</text>', svg)
    assert (float(words[1]) - cx, float(words[2]) - cy) == pytest.approx((dx, dy), abs=0.11)
