"""What is on a page: numbers, tables, charts and cases, without a word of HTML.

Texts are plain; whoever makes HTML of them escapes them. An undefined number is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from segkit.report.page.number import Number
from segkit.report.page.pictures import Picture
from segkit.report.page.plots import BarChart, LineChart


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to know about an evaluation; `details` are shown on request, a line each."""

    name: str
    value: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Headline:
    """The number that stands for all: what it is called, and what it and its interval mean, in sentences.

    `interval_name` is such as `95 % interval`.
    """

    name: str
    number: Number
    sentences: tuple[str, ...]
    interval_name: str = "interval"


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric: its numbers, a column each, and what it is.

    With `is_share` it lies in 0..1, and is drawn there; `digits` are those behind the point.
    """

    name: str
    definition: str
    numbers: tuple[Number, ...]
    is_share: bool = True
    digits: int = 3


@dataclass(frozen=True, slots=True)
class MetricTable:
    """Metrics in several ways of counting (pooled, mean), which are the columns."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[MetricRow, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: `text` is words, `count` a whole number, `score` a number with 3 digits."""

    name: str
    kind: Literal["text", "count", "score"] = "score"
    definition: str = ""


Cell = str | float | None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table, a cell for each column; `case` names the case that it opens."""

    cells: tuple[Cell, ...]
    case: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first column names the row. With `is_interactive` readers sort and filter it.

    `sorted_by` is the column that the rows are in ascending order of already.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""
    is_interactive: bool = False
    sorted_by: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One image with what was found and what was missed in it; `text` says it in words."""

    name: str
    score: str
    text: str
    picture: Picture


@dataclass(frozen=True, slots=True)
class Gallery:
    """Cases under headings, and others that only the table of images opens; `legend` names the kinds of layers."""

    groups: tuple[tuple[str, tuple[Case, ...]], ...]
    others: tuple[Case, ...]
    legend: Mapping[str, str]
    note: str = ""


Block = MetricTable | Table | LineChart | BarChart | Gallery


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with its heading; charts that follow one another stand side by side."""

    heading: str
    blocks: tuple[Block, ...]
    intro: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    kicker: str
    title: str
    headline: Headline
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    definitions: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    footer: str = ""
