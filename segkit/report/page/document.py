"""A page as one HTML file that needs nothing else and asks nothing of the network.

Its Content-Security-Policy allows the one style sheet and the one script that it holds, by their hashes, and the
pictures that it holds: no text of a page can run, load or send anything.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import groupby

from segkit.report.page.cases_html import gallery_block, ids_of, viewer
from segkit.report.page.content import Block, Fact, Gallery, Headline, MetricTable, Page, Section, Table
from segkit.report.page.markup import Markup, element
from segkit.report.page.number import in_digits, interval_in_digits
from segkit.report.page.plots import BarChart, LineChart
from segkit.report.page.svg import scale_svg
from segkit.report.page.tables_html import chart_figure, data_table, metric_table


def as_html(page: Page) -> str:
    """Return a page as the text of an HTML file.

    Raises
    ------
    ValueError
        It has several galleries.
    """
    galleries = [block for section in page.sections for block in section.blocks if isinstance(block, Gallery)]
    if len(galleries) > 1:
        raise ValueError(f"a page has one gallery, this one {len(galleries)}")
    case_ids = ids_of(galleries[0]) if galleries else {}
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    named = [(f"part-{number}", section) for number, section in enumerate(page.sections, start=1)]
    contents = [(name, section.heading) for name, section in named] + [("definitions", "Definitions")]
    main = element(
        "main",
        _header(page),
        _contents(contents),
        *(_section(name, section, case_ids) for name, section in named),
        _definitions(page.definitions),
        attributes={"id": "main", "tabindex": "-1"},
    )
    body = element(
        "body",
        element("a", "Skip to the report", attributes={"class": "skip", "href": "#main"}),
        main,
        element("footer", page.footer),
        *(viewer(gallery) for gallery in galleries),
        element("script", Markup(script)),
    )
    return "<!doctype html>\n" + element("html", _head(page, style, script), body, attributes={"lang": "en"}) + "\n"


def _asset(name: str) -> str:
    return resources.files("segkit.report.page").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _head(page: Page, style: str, script: str) -> Markup:
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    metas = (
        {"charset": "utf-8"},
        {"http-equiv": "Content-Security-Policy", "content": policy},
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
        {"name": "color-scheme", "content": "light dark"},
        {"name": "referrer", "content": "no-referrer"},
    )
    return element(
        "head",
        *(element("meta", attributes=one) for one in metas),
        element("title", page.title),
        element("style", Markup(style)),
    )


def _header(page: Page) -> Markup:
    return element(
        "header",
        element("p", page.kicker, attributes={"class": "kicker"}),
        element("h1", page.title),
        _headline(page.headline),
        *(element("p", words, attributes={"class": "warning", "role": "note"}) for words in page.warnings),
        element("dl", *(_fact(fact) for fact in page.facts), attributes={"class": "facts"}),
    )


def _headline(headline: Headline) -> Markup:
    interval = interval_in_digits(headline.number)
    big = element(
        "p",
        element("span", in_digits(headline.number.value), attributes={"class": "value"}),
        element("span", headline.name, attributes={"class": "what"}),
        element("span", f"{headline.interval_name} {interval}", attributes={"class": "between"}) if interval else None,
        attributes={"class": "big"},
    )
    sentences = element("p", " ".join(headline.sentences), attributes={"class": "lead"})
    return element("div", big, scale_svg(headline.number), sentences, attributes={"class": "headline"})


def _fact(fact: Fact) -> Markup:
    value: str | Markup = fact.value
    if fact.details:
        more = element("ul", *(element("li", line) for line in fact.details))
        value = element("details", element("summary", fact.value), more)
    return element("div", element("dt", fact.name), element("dd", value))


def _contents(parts: Sequence[tuple[str, str]]) -> Markup:
    links = (element("li", element("a", words, attributes={"href": f"#{name}"})) for name, words in parts)
    return element("nav", element("ul", *links), attributes={"class": "contents", "aria-label": "Contents"})


def _section(name: str, section: Section, case_ids: Mapping[str, str]) -> Markup:
    blocks: list[Markup] = []
    for are_charts, group in groupby(section.blocks, key=lambda block: isinstance(block, LineChart | BarChart)):
        drawn = [_block(block, case_ids) for block in group]
        blocks += [element("div", *drawn, attributes={"class": "charts"})] if are_charts else drawn
    return element(
        "section",
        element("h2", section.heading, attributes={"id": f"{name}-heading"}),
        *(element("p", words, attributes={"class": "intro"}) for words in section.intro),
        *blocks,
        attributes={"id": name, "aria-labelledby": f"{name}-heading"},
    )


def _block(block: Block, case_ids: Mapping[str, str]) -> Markup:
    match block:
        case MetricTable():
            return metric_table(block)
        case Table():
            return data_table(block, case_ids)
        case Gallery():
            return gallery_block(block)
        case _:
            return chart_figure(block)


def _definitions(definitions: Mapping[str, str]) -> Markup:
    entries = [element("div", element("dt", name), element("dd", text)) for name, text in definitions.items()]
    return element(
        "section",
        element("h2", "Definitions", attributes={"id": "definitions-heading"}),
        element("dl", *entries, attributes={"class": "definitions"}),
        attributes={"id": "definitions", "aria-labelledby": "definitions-heading"},
    )
