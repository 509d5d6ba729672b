"""Tables and charts as HTML."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from segkit.report.page.content import Cell, Column, MetricRow, MetricTable, Row, Table
from segkit.report.page.markup import Markup, element, join
from segkit.report.page.number import Number, briefly, in_digits, interval_in_digits
from segkit.report.page.plots import BarChart, LineChart, thinned
from segkit.report.page.svg import bar_chart_svg, key_svg, line_chart_svg, range_svg, styles_of

MAX_CHART_ROWS: Final = 40
"""Rows of the table beside a chart: longer lines are thinned evenly."""

FEWEST_TO_FILTER: Final = 12
"""Shorter tables need no filter."""

_NONE: Final = element("span", "–", attributes={"class": "none", "title": "undefined"})


def metric_table(table: MetricTable) -> Markup:
    """Return metrics, a row each; what a metric is opens below its name."""
    has_ranges = any(row.is_share for row in table.rows)
    where = "between 0 and 1" + (f"; the dot is {table.columns[0]}" if len(table.columns) > 1 else "")
    header = [
        element("th", "metric", attributes={"scope": "col"}),
        *(element("th", name, attributes={"scope": "col", "class": "num"}) for name in table.columns),
        *([element("th", where, attributes={"scope": "col", "class": "ranges"})] if has_ranges else []),
    ]
    body = [_metric_row(row, has_ranges=has_ranges) for row in table.rows]
    return _scrolling(
        table.caption,
        element(
            "table",
            element("caption", table.caption),
            element("thead", element("tr", *header)),
            element("tbody", *body),
            attributes={"class": "metrics"},
        ),
    )


def data_table(table: Table, case_ids: Mapping[str, str]) -> Markup:
    """Return a table, with a filter and sorting where it is interactive; rows open the case that they name.

    `case_ids` has the ids of the cases that are on the page, by name.
    """
    header = [_column_head(table, index) for index in range(len(table.columns))]
    body = [_data_row(row, table.columns, case_ids) for row in table.rows]
    content = element(
        "table",
        element("caption", table.caption),
        element("thead", element("tr", *header)),
        element("tbody", *body),
        attributes={"class": "data"},
    )
    note = element("p", table.note, attributes={"class": "note"}) if table.note else None
    if not table.is_interactive:
        return join(_scrolling(table.caption, content), note)
    if len(table.rows) < FEWEST_TO_FILTER:
        return element("div", _scrolling(table.caption, content), note, attributes={"class": "interactive"})
    tools = element(
        "p",
        element(
            "label",
            "Filter ",
            element(
                "input", attributes={"type": "search", "class": "filter", "autocomplete": "off", "spellcheck": "false"}
            ),
        ),
        element("output", f"{len(table.rows)} rows", attributes={"class": "num-shown", "aria-live": "polite"}),
        attributes={"class": "tools"},
    )
    return element("div", tools, _scrolling(table.caption, content), note, attributes={"class": "interactive"})


def chart_figure(chart: LineChart | BarChart) -> Markup:
    """Return a chart with its title, legend, note and, to be opened, its values as a table."""
    if isinstance(chart, LineChart):
        picture, legend, values = line_chart_svg(chart), _legend(chart), _line_values(chart)
    else:
        picture, legend, values = bar_chart_svg(chart), None, _bar_values(chart)
    return element(
        "figure",
        element("figcaption", element("h3", chart.title)),
        picture,
        legend,
        element("p", chart.note, attributes={"class": "note"}) if chart.note else None,
        element("details", element("summary", "Values as a table"), _scrolling(f"Values of: {chart.title}", values)),
        attributes={"class": "chart"},
    )


def _scrolling(name: str, content: Markup) -> Markup:
    """Return a box of its own to scroll in, which the keyboard reaches."""
    attributes = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": name}
    return element("div", content, attributes=attributes)


def _metric_row(row: MetricRow, *, has_ranges: bool) -> Markup:
    name = (
        row.name
        if not row.definition
        else element("details", element("summary", row.name), element("p", row.definition))
    )
    ranges = range_svg(row.numbers) if row.is_share else None
    return element(
        "tr",
        element("th", name, attributes={"scope": "row"}),
        *(_number_cell(number, row.digits) for number in row.numbers),
        *([element("td", ranges, attributes={"class": "ranges"})] if has_ranges else []),
    )


def _number_cell(number: Number, digits: int) -> Markup:
    interval = interval_in_digits(number, digits)
    return element(
        "td",
        element("span", in_digits(number.value, digits), attributes={"class": "value"}),
        element("span", interval, attributes={"class": "interval"}) if interval else None,
        attributes={"class": "num"},
    )


def _column_head(table: Table, index: int) -> Markup:
    column = table.columns[index]
    title = column.definition or None
    classes = None if column.kind == "text" else "num"
    if not table.is_interactive:
        return element("th", column.name, attributes={"scope": "col", "class": classes, "title": title})
    order = "ascending" if index == table.sorted_by else "none"
    button = element("button", column.name, attributes={"type": "button", "class": "sort", "title": title})
    attributes = {"scope": "col", "class": classes, "aria-sort": order, "data-name": column.name}
    return element("th", button, attributes=attributes)


def _data_row(row: Row, columns: Sequence[Column], case_ids: Mapping[str, str]) -> Markup:
    first, *others = zip(row.cells, columns, strict=True)
    name = element("bdi", _words(*first))
    case = case_ids.get(row.case) if row.case is not None else None
    if case is not None:
        name = element("button", name, attributes={"type": "button", "class": "open", "data-case": case})
    return element(
        "tr",
        element("th", name, attributes={"scope": "row", "title": str(first[0])}),
        *(
            element("td", _words(cell, column), attributes={"class": None if column.kind == "text" else "num"})
            for cell, column in others
        ),
    )


def _words(cell: Cell, column: Column) -> str | Markup:
    if cell is None:
        return _NONE
    if isinstance(cell, str):
        return cell
    return str(int(cell)) if column.kind == "count" else in_digits(cell)


def _legend(chart: LineChart) -> Markup | None:
    if len(chart.lines) < 2:
        return None
    return element(
        "ul",
        *(
            element("li", key_svg(style, is_reference=line.is_reference), line.name)
            for line, style in zip(chart.lines, styles_of(chart), strict=True)
        ),
        attributes={"class": "legend"},
    )


def _line_values(chart: LineChart) -> Markup:
    """Return a row for each point of each line."""
    lines = [thinned(line, MAX_CHART_ROWS) for line in chart.lines if not line.is_reference]
    rows = [
        [line.name, briefly(x), *_value_words(y, None if low is None else low[at], None if high is None else high[at])]
        for line in lines
        for low, high in [(line.low, line.high)]
        for at, (x, y) in enumerate(zip(line.x.tolist(), line.y.tolist(), strict=True))
    ]
    shortened = any(len(line.x) > MAX_CHART_ROWS for line in chart.lines)
    caption = f"{chart.title}{f', {MAX_CHART_ROWS} of the points of each line' if shortened else ''}"
    return _plain_table(caption, ["line", chart.x.label, chart.y.label or "value", "interval"], rows)


def _bar_values(chart: BarChart) -> Markup:
    rows = [[bar.name, *_value_words(*bar.height), bar.words] for bar in chart.bars]
    return _plain_table(chart.title, [chart.x_label, chart.value_name, "interval", ""], rows)


def _value_words(value: float | None, low: float | None, high: float | None) -> list[str]:
    words = "undefined" if value is None or math.isnan(value) else briefly(value)
    has_interval = low is not None and high is not None and not (math.isnan(low) or math.isnan(high))
    return [words, interval_in_digits(Number(value, low, high)) if has_interval else ""]


def _plain_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Return a table of words; columns that are empty in all rows are left out."""
    kept = [index for index in range(len(header)) if any(row[index] for row in rows)] or [0]
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *(element("th", header[index], attributes={"scope": "col"}) for index in kept))),
        element(
            "tbody",
            *(
                element(
                    "tr",
                    element("th", row[kept[0]], attributes={"scope": "row"}),
                    *(element("td", row[index]) for index in kept[1:]),
                )
                for row in rows
            ),
        ),
        attributes={"class": "data"},
    )
