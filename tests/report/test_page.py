"""The page as a file: nothing can break out of it, nothing is fetched, everything has its words; cases and pictures."""

import base64
import hashlib
import io
import itertools
import re
from functools import partial
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segkit.masks import IGNORE
from segkit.report.page import gallery, pictures
from segkit.report.page.content import Case, Section
from segkit.report.page.document import as_html
from segkit.report.page.gallery import choose_cases, make_gallery
from segkit.report.page.markup import Markup, element, escape
from segkit.report.page.number import Number, briefly, in_digits, interval_in_digits
from segkit.report.page.pictures import Kind, busiest_window, outline_path
from segkit.report.page.shelf import Shelf
from tests.report.page_examples import HOSTILE, LEGEND, example_page, picture

VOID = {"meta", "img", "input", "br", "col"}


class Elements(HTMLParser):
    """All elements of a page, as (name, attributes), and its text; elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"an attribute of <{tag}> is there twice"
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self._open):
            self.text += data

    def named(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture(scope="module")
def page():
    return as_html(example_page())


@given(st.text())
def test_text_stays_text(text):
    parsed = Elements(element("p", text, attributes={"title": text}))
    assert [name for name, _ in parsed.found] == ["p"]
    kept = parsed.text
    assert kept == parsed.found[0][1]["title"]
    if text.isprintable():
        assert kept == text
    kept.encode()


def test_markup_is_not_escaped_twice_and_void_elements_have_no_content():
    assert escape(escape("<&")) == "&lt;&amp;"
    assert element("b", Markup("<i></i>"), "<", None) == "<b><i></i>&lt;</b>"
    assert element("input", attributes={"checked": True, "disabled": False, "value": None}) == "<input checked>"
    with pytest.raises(ValueError, match="no content"):
        element("br", "x")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_out(name, page):
    hostile = as_html(example_page(names=(name,)))
    parsed, usual = Elements(hostile), Elements(page)
    # Just the same elements as with harmless names, nowhere else an event handler or an address.
    assert [tag for tag, _ in parsed.found] == [tag for tag, _ in usual.found]
    assert not [key for _, attributes in parsed.found for key in attributes if key.startswith("on")]
    addresses = [value for _, attributes in parsed.found for key, value in attributes.items() if key in {"href", "src"}]
    assert all(value.startswith(("#", "data:image/webp;base64,", "data:image/png;base64,")) for value in addresses)
    if name.isprintable():
        assert parsed.text.count(name) >= 12
    hostile.encode()


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(page):
    parsed = Elements(page)
    policy = next(one["content"] for one in parsed.named("meta") if one.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules.pop("img-src") == "data:"
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert rules == {}
    # A style attribute would be refused by it, and no file could be fetched.
    assert not [attributes for _, attributes in parsed.found if "style" in attributes or "src" in attributes]
    assert not re.search(r"url\(|@import|https?:", page)


def test_ids_are_there_once_and_what_refers_to_one_finds_it(page):
    parsed = Elements(page)
    ids = [attributes["id"] for _, attributes in parsed.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {one["href"][1:] for one in parsed.named("a")} | {one["href"][1:] for one in parsed.named("use")}
    wanted |= {one["aria-labelledby"] for _, one in parsed.found if "aria-labelledby" in one}
    assert wanted <= set(ids)
    cases = {one["data-case"] for one in parsed.named("button") if "data-case" in one}
    assert cases <= {one.removesuffix("-template") for one in ids}


def test_pictures_and_tables_have_words(page):
    parsed = Elements(page)
    assert all(one.get("aria-hidden") == "true" or one["aria-label"] for one in parsed.named("svg"))
    heads = parsed.named("th")
    assert heads
    assert all(one["scope"] in {"col", "row"} for one in heads)
    assert len(parsed.named("caption")) == len(parsed.named("table"))
    assert [name for name, _ in parsed.found if re.fullmatch("h[1-6]", name)].count("h1") == 1
    levels = [int(name[1]) for name, _ in parsed.found if re.fullmatch("h[1-6]", name)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert parsed.named("html") == [{"lang": "en"}]
    assert "between 0 and 1" in parsed.text
    assert "0.600 to 0.800" in parsed.text


def test_every_chart_has_its_values_in_a_table(page):
    charts = page.split('<figure class="chart">')[1:]
    assert len(charts) == 2
    for chart in charts:
        assert "Values as a table" in chart
    rows = re.findall(r"<tr>.*?</tr>", charts[0])
    assert len(rows) == 1 + 2 * 11
    assert "0.8 to 1.0" not in charts[0]
    assert ">-0.100 to 0.100<" in rows[-1]


def test_rows_open_cases_that_are_there_only():
    parsed = Elements(as_html(example_page(num_drawn=30)))
    rows = [one for one in parsed.named("button") if one.get("class") == "open"]
    assert len(rows) == 30
    num_charts = 2
    assert len(parsed.named("figure")) - num_charts == 30


def test_a_page_has_one_gallery():
    page = example_page()
    twice = type(page)(
        **{name: getattr(page, name) for name in page.__slots__} | {"sections": (*page.sections, page.sections[1])}
    )
    with pytest.raises(ValueError, match="one gallery"):
        as_html(twice)


def test_a_page_without_cases_has_no_dialog():
    page = example_page()
    plain = type(page)(
        **{name: getattr(page, name) for name in page.__slots__} | {"sections": (Section("Numbers", ()),)}
    )
    assert "<dialog" not in as_html(plain)


def luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Of WCAG 2.2, 1.4.3."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def colours():
    css = resources.files("segkit.report.page").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part)) for part in css.split("@media screen", 1))
    return {"light": light, "dark": light | dark}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_lines_stand_out_from_the_ground(scheme):
    found = colours()[scheme]
    for name in ("ink", "quiet", "accent"):
        assert contrast(found[name], found["paper"]) >= 4.5, name
        assert contrast(found[name], found["soft"]) >= 4.5, name
    assert contrast(found["ink"], found["warn-soft"]) >= 4.5
    for name in ("s0", "s1", "s2", "s3", "s4", "s5"):
        assert contrast(found[name], found["paper"]) >= 3, name


def test_numbers_in_words():
    assert in_digits(0.12345) == "0.123"
    assert in_digits(-0.0001) == "0.000"
    assert in_digits(None) == in_digits(float("nan")) == "undefined"
    assert interval_in_digits(Number(0.5, 0.4, 0.6), 1) == "0.4 to 0.6"
    assert interval_in_digits(Number(0.5, None, 0.6)) == ""
    assert [briefly(value) for value in (0, 0.25, 1, 10, 1234.5, 12345, 0.000012, 1e6, -0.5)] == [
        *("0", "0.25", "1", "10", "1234", "12345", "1.2e-05", "1e+06", "-0.5")
    ]


@given(st.lists(st.none() | st.sampled_from([0.0, 0.25, 0.5]) | st.floats(0, 1), max_size=60), st.integers(1, 9))
def test_cases_are_chosen_by_rank_and_each_image_once(scores, each):
    names = [f"{number:03}" for number in range(len(scores))]
    chosen = choose_cases(scores, names, each)
    assert sorted(itertools.chain(*chosen)) == list(range(len(scores)))
    defined = sorted(score for score in scores if score is not None)
    assert [scores[index] for index in chosen.worst] == defined[: len(chosen.worst)]
    undefined = len(scores) - len(defined)
    assert all(scores[index] is None for index in chosen.others[len(chosen.others) - undefined :])
    if len(defined) <= 3 * each:
        assert len(chosen.worst) == len(defined)
        assert chosen.best == chosen.median == []
    else:
        assert len(chosen.worst) == len(chosen.median) == len(chosen.best) == each
        assert [scores[index] for index in chosen.best] == defined[-each:]
        ranked = sorted((score, names[index]) for index, score in enumerate(scores) if score is not None)
        places = [ranked.index((scores[index], names[index])) for index in chosen.median]
        assert places == list(range(places[0], places[0] + each))
        assert len(ranked) - 1 - places[-1] - places[0] in {0, 1}


def test_the_gallery_stays_within_its_room():
    names = [f"{number:02}" for number in range(50)]
    scores = [number / 50 for number in range(50)]

    def case_of(index, longest_px):
        return Case(names[index], "", "", picture(index, longest_px))

    whole = make_gallery(scores, names, case_of, drawable=range(50), legend=LEGEND, each=4)
    assert [len(cases) for _, cases in whole.groups] == [4, 4, 4]
    assert len(whole.others) == 38
    assert "50 of 50 images are in this file." in whole.note
    each = picture().num_characters
    small = make_gallery(scores, names, case_of, drawable=range(50), legend=LEGEND, each=4, max_characters=20 * each)
    assert 5 <= len(small.others) <= 10
    assert [case.name for case in small.others] == [case.name for case in whole.others][: len(small.others)]
    assert "of 50 images are in this file, as many as" in small.note
    assert gallery.MAX_CHARACTERS < 20e6
    few = make_gallery(scores, names, case_of, drawable=[7, 3, 40], legend=LEGEND, each=4)
    assert [case.name for _, cases in few.groups for case in cases] == ["03", "07", "40"]
    assert "3 of 50 images are in this file." in few.note


def test_the_length_of_a_picture_is_known():
    page = as_html(example_page(num_images=1))
    (figure,) = re.findall(r'<svg viewBox="0 0 60 48".*?</svg>', page)
    assert len(figure) <= picture(0, pictures.LONGEST_PX).num_characters <= 1.5 * len(figure) + 600


@given(st.lists(st.none() | st.sampled_from([0.0, 0.5]) | st.floats(0, 1), max_size=60), st.integers(7, 40))
def test_the_shelf_keeps_the_worst_and_the_best_of_all(scores, capacity):
    shelf, drawn = Shelf(capacity, each=3), []

    def draw(number, longest_px):
        drawn.append(number)
        return number, longest_px

    for number, score in enumerate(scores):
        shelf.put(f"{number:03}", score, partial(draw, number))
    kept = shelf.pictures()
    assert len(kept) == min(capacity, len(scores))
    assert all(draw(longest_px) == (int(name), longest_px) for name, draw in kept.items() for longest_px in (768, 448))
    defined = sorted(score for score in scores if score is not None)
    found = sorted(scores[int(name)] for name in kept if scores[int(name)] is not None)
    if len(defined) >= 6:
        assert found[:3] == defined[:3]
        assert found[-3:] == defined[-3:]
    assert len(drawn) <= 2 * len(scores)


def test_a_shelf_has_room_for_what_is_wanted():
    with pytest.raises(ValueError, match="room for 6 pictures"):
        Shelf(6, each=3)


def opened(content):
    return Image.open(io.BytesIO(content))


def test_areas_show_each_kind_of_pixel_where_it_is():
    truth, prediction = np.zeros((2, 40, 60), np.uint8)
    truth[:, :20], prediction[:, 10:30] = 1, 1
    truth[:, 40:50], prediction[:, 40:50] = 2, 1
    truth[:, 55:] = IGNORE
    drawn = pictures.pixel_picture(None, truth, prediction, longest_px=60)
    assert drawn.note == "60 x 40 px; no image"
    columns = {}
    for layer in drawn.layers:
        opacity = np.asarray(opened(layer.png).convert("RGBA"))[..., 3]
        columns[layer.kind] = np.flatnonzero(opacity.all(axis=0)).tolist()
        assert (opacity.any(axis=0) == opacity.all(axis=0)).all()
        # What is missed is striped, and so differs from what is false without colours, too.
        colours = np.asarray(opened(layer.png).convert("RGBA"))[opacity > 0]
        assert len(np.unique(colours, axis=0)) == (2 if layer.kind is Kind.MISSED else 1)
    assert columns == {
        Kind.MISSED: list(range(10)),
        Kind.RIGHT: list(range(10, 20)),
        Kind.FALSE: list(range(20, 30)),
        Kind.CONFUSED: list(range(40, 50)),
        Kind.UNLABELLED: list(range(55, 60)),
    }


def test_a_line_of_errors_survives_halving():
    truth, prediction = np.zeros((2, 200, 200), np.uint8)
    truth[:, 60:140], prediction[:, 61:140] = 1, 1
    drawn = pictures.pixel_picture(np.full((200, 200, 3), 200, np.uint8), truth, prediction, longest_px=100)
    missed = next(layer for layer in drawn.layers if layer.kind is Kind.MISSED)
    assert opened(missed.png).size == opened(drawn.image).size == (100, 100)
    assert (drawn.width, drawn.height) == (200, 200)
    assert np.asarray(opened(missed.png).convert("RGBA"))[..., 3].any()


def test_objects_are_outlined_by_what_became_of_them():
    drawn = picture()
    paths = {layer.kind: layer.path for layer in drawn.layers}
    assert paths == {
        Kind.RIGHT: "M4.5 5.5l0 15 15 0 0 -15z",
        Kind.FALSE: "M40.5 4.5l0 7 9 0 0 -7z",
        Kind.MISSED: "M30.5 30.5l0 13 19 0 0 -13z",
    }


def test_objects_that_touch_have_a_line_each_and_odd_ids_do_not_matter():
    labels = np.zeros((6, 9), np.int64)
    labels[1:5, 1:4], labels[1:5, 4:8] = 3_000_000_000, 5
    assert sorted(outline_path(labels).split("M")) == ["", "1.5 1.5l0 3 2 0 0 -3z", "4.5 1.5l0 3 3 0 0 -3z"]
    labels[0, 8] = -1
    single = np.zeros((3, 3), np.int32)
    single[1, 2] = 4
    assert outline_path(single) == "M2.5 1.5h0"
    assert outline_path(np.zeros((3, 3), np.int32)) == ""


def test_markers_differ_in_shape_and_lie_where_the_points_do():
    nothing = np.empty((0, 2))
    drawn = pictures.point_picture(
        np.full((100, 100, 1), 200, np.uint8),
        (100, 100),
        right=np.array([[10.0, 20.0]]),
        false=np.array([[50.5, 60.5]]),
        missed=np.array([[90.0, 5.0]]),
        look_alikes=nothing,
        radius_px=6,
        longest_px=100,
    )
    paths = {layer.kind: layer.path for layer in drawn.layers}
    assert paths == {
        Kind.RIGHT: "M20.0 10.0m-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0z",
        Kind.FALSE: "M60.5 50.5m-6 -6l12 12m0 -12l-12 12",
        Kind.MISSED: "M5.0 90.0m-6 -6h12v12h-12z",
    }


def test_of_a_large_image_the_part_with_most_errors_is_shown():
    truth, prediction = np.zeros((2, 900, 1200), np.int32)
    truth[700:720, 1000:1020] = 1
    image = np.full((900, 1200, 1), 180, np.uint8)
    drawn = pictures.object_picture(image, truth, prediction, np.empty((0, 2), int), longest_px=200)
    assert (drawn.width, drawn.height) == (200, 200)
    x, y = map(int, re.search(r"at x (\d+), y (\d+) of 1200 x 900 px", drawn.note).groups())
    assert x <= 1000 <= 1020 <= x + 200
    assert y <= 700 <= 720 <= y + 200
    assert drawn.layers[0].path.startswith(f"M{1000 - x}.5 {700 - y}.5")


def test_a_picture_of_too_much_is_cut_down(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_LAYER_BYTES", 20_000)
    rng = np.random.default_rng(0)
    noise = np.where(rng.random((150, 150)) < 0.4, rng.integers(1, 200_000, (150, 150)), 0)
    drawn = pictures.object_picture(None, np.zeros_like(noise), noise, np.empty((0, 2), int), longest_px=150)
    assert 5_000 < sum(len(layer.path) for layer in drawn.layers) <= 20_000
    assert drawn.width < 150


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 90),
    st.lists(st.tuples(st.integers(0, 69), st.integers(0, 69)), max_size=6),
)
def test_the_busiest_window_lies_inside_and_holds_much(height, width, side, places):
    weights = np.zeros((height, width), np.bool_)
    for y, x in places:
        weights[min(y, height - 1), min(x, width - 1)] = True
    window = busiest_window(weights, side)
    assert window.y >= 0
    assert window.x >= 0
    assert window.bottom <= height
    assert window.right <= width
    assert (window.height, window.width) == (min(side, height), min(side, width))
    inside = weights[window.y : window.bottom, window.x : window.right].sum()
    assert inside >= bool(weights.any())


def test_dark_images_are_brightened_and_it_is_said():
    truth = np.zeros((30, 30), np.int32)
    dark = np.random.default_rng(0).integers(0, 40, (30, 30, 1)).astype(np.uint8)
    drawn = pictures.object_picture(dark, truth, truth, np.empty((0, 2), int), longest_px=30)
    assert "brightened" in drawn.note
    assert np.asarray(opened(drawn.image)).max() > 200
    bright = pictures.object_picture(255 - dark, truth, truth, np.empty((0, 2), int), longest_px=30)
    assert bright.note == "30 x 30 px"


def test_sizes_must_be_the_same():
    masks = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match="differ in size"):
        pictures.pixel_picture(None, masks, masks[:3], longest_px=50)
    with pytest.raises(ValueError, match="differ in size"):
        pictures.object_picture(np.zeros((4, 4, 1), np.uint8), masks, masks, np.empty((0, 2), int), longest_px=50)
