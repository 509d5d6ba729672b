"""The page in a real browser: it sorts, filters, opens cases, by mouse and by keyboard, on any width, without a word of
complaint and without the network."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from segkit.report.page.document import as_html
from tests.browser import Browser, Tab, headless, opened
from tests.report.page_examples import HOSTILE, example_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with images of which number 30 and up have no picture, and the first four have odd names."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(as_html(example_page(names=HOSTILE[:4], num_drawn=30)), encoding="utf-8")
    return path


@pytest.fixture
def tab(browser: Browser, file: Path) -> Iterator[Tab]:
    with opened(browser, file, offline=True) as tab:
        yield tab
        assert tab.problems == []
        assert [address for address in tab.requests if not address.startswith("data:image/")] == [file.as_uri()]


def column(tab: Tab, number: int) -> list[str]:
    cells = tab.page.locator(".interactive tbody tr:not([hidden])").locator(f"> :nth-child({number})")
    return [text.strip() for text in cells.all_inner_texts()]


def sorting(tab: Tab) -> list[str]:
    heads = tab.page.locator(".interactive thead th")
    return [str(heads.nth(number).get_attribute("aria-sort")) for number in range(heads.count())]


def viewer_name(tab: Tab) -> str:
    return str(tab.page.locator("#viewer-name").inner_text())


def test_the_table_sorts_numbers_and_words_with_undefined_ones_last(tab: Tab) -> None:
    page = tab.page
    assert sorting(tab)[:4] == ["none", "none", "none", "ascending"]
    scores = column(tab, 4)
    assert scores[-1] == "–"
    page.get_by_role("button", name="AP", exact=True).click()
    assert sorting(tab)[:4] == ["none", "none", "none", "descending"]
    assert column(tab, 4) == [*reversed(scores[:-1]), "–"]
    page.get_by_role("button", name="AP", exact=True).click()
    assert column(tab, 4) == scores
    page.get_by_role("button", name="TP").click()
    counts = [int(text) for text in column(tab, 3)]
    assert counts == sorted(counts)
    assert sorting(tab)[:4] == ["none", "none", "ascending", "none"]
    page.get_by_role("button", name="AP", exact=True).click()
    assert column(tab, 4) == scores
    # Words by what they mean to people: image 9 before image 10. By the keyboard.
    page.locator(".sort", has_text="image").focus()
    page.keyboard.press("Enter")
    names = [name for name in column(tab, 1) if name.startswith("image")]
    assert names == [f"image {number}" for number in range(4, 40)]
    page.keyboard.press("Space")
    assert sorting(tab)[0] == "descending"
    assert column(tab, 1)[0] == "image 39" or not column(tab, 1)[0].startswith("image")


def test_the_filter_leaves_rows_with_a_cell_that_holds_the_words(tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Filter").fill(" SLIDE 2")
    rows = column(tab, 1)
    assert len(rows) == 13
    assert set(column(tab, 2)) == {"slide 2"}
    assert page.locator(".num-shown").inner_text() == "13 of 40 rows"
    page.get_by_role("button", name="AP", exact=True).click()
    assert column(tab, 1) == rows[::-1]
    page.get_by_label("Filter").fill("")
    assert len(column(tab, 1)) == 40
    assert page.locator(".num-shown").inner_text() == "40 rows"


def test_a_case_opens_and_leads_to_the_next(tab: Tab) -> None:
    page = tab.page
    cases = page.locator(".cases .enlarge")
    assert cases.count() == 3 * 4
    cases.first.click()
    assert page.locator("#viewer").is_visible()
    assert viewer_name(tab) == HOSTILE[0]
    assert page.locator(".place").inner_text() == "1 of 12"
    assert "1 of 2 objects found" in page.locator(".viewer-text").inner_text()
    shown = page.locator(".stage .picture")
    assert shown.bounding_box()["height"] > 3 * cases.first.bounding_box()["height"] / 2
    assert page.evaluate("document.activeElement.className") == "next"
    page.keyboard.press("ArrowRight")
    assert viewer_name(tab) == HOSTILE[1]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".place").inner_text() == "12 of 12"
    page.get_by_role("button", name="Next").click()
    assert page.locator(".place").inner_text() == "1 of 12"
    # Ids stay the only ones of their name, and the copy refers to its own.
    ids = page.evaluate("Array.from(document.querySelectorAll('[id]'), one => one.id)")
    assert len(ids) == len(set(ids))
    hrefs = page.evaluate(
        "Array.from(document.querySelectorAll('.stage use'), one => one.getAttribute('href').slice(1))"
    )
    assert hrefs
    assert set(hrefs) <= set(ids)
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    # The keyboard is where it was.
    assert page.evaluate("document.activeElement.dataset.case") == cases.first.get_attribute("data-case")


def test_a_case_opens_by_the_keyboard_and_layers_can_be_hidden(tab: Tab) -> None:
    page = tab.page
    page.locator(".cases .enlarge").nth(1).focus()
    page.keyboard.press("Enter")
    assert viewer_name(tab) == HOSTILE[1]
    strokes = page.locator(".stage .missed .stroke")
    assert strokes.count() == 1
    assert strokes.is_visible()
    page.get_by_label("missed").uncheck()
    assert not strokes.is_visible()
    assert page.locator(".stage .right .stroke").is_visible()
    page.keyboard.press("ArrowRight")
    assert not page.locator(".stage .missed .stroke").is_visible()
    page.get_by_label("missed").check()
    assert page.locator(".stage .missed .stroke").is_visible()
    page.get_by_role("button", name="Close").click()
    assert not page.locator("#viewer").is_visible()


def test_the_keyboard_stays_in_the_open_case(tab: Tab) -> None:
    page = tab.page
    page.locator(".cases .enlarge").first.click()
    for _ in range(12):
        page.keyboard.press("Tab")
        inside = page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('#viewer') !== null"
        )
        assert inside


def test_rows_open_their_case_and_others_in_their_order(tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Filter").fill("slide 0")
    page.get_by_role("button", name="AP", exact=True).click()
    # Those from 30 on have no picture and open nothing.
    assert column(tab, 1)[:5] == ["image 39", "image 36", "image 33", "image 30", "image 27"]
    buttons = page.locator(".interactive tbody tr:not([hidden]) .open")
    assert buttons.count() == 10
    buttons.first.click()
    assert viewer_name(tab) == "image 27"
    assert page.locator(".place").inner_text() == "1 of 10"
    assert page.locator(".stage image").count() == 1
    page.keyboard.press("ArrowRight")
    assert viewer_name(tab) == "image 24"
    page.mouse.click(5, 5)
    assert not page.locator("#viewer").is_visible()


def test_definitions_facts_and_values_open(tab: Tab) -> None:
    page = tab.page
    assert not page.get_by_text("what AP is").is_visible()
    page.locator(".metrics summary").first.click()
    assert page.get_by_text("what AP is").is_visible()
    page.locator(".chart summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".chart table").first.is_visible()


def test_the_first_tab_skips_to_the_report(tab: Tab) -> None:
    page = tab.page
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize(
    ("width", "dark"), [(320, False), (360, False), (360, True), (768, False), (1280, False), (1280, True)]
)
def test_no_width_scrolls_sideways(browser: Browser, file: Path, width: int, dark: bool) -> None:
    with opened(browser, file, width=width, height=780, dark=dark, offline=True) as tab:
        assert tab.overflow_px == 0
        wide = tab.page.evaluate(
            "Array.from(document.querySelectorAll('main *')).filter(one => !one.closest('.scroll, svg') && "
            "one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 100))"
        )
        assert wide == []
        ground, ink = tab.page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        assert (brightness(ground) < brightness(ink)) == dark
        tab.page.locator(".cases .enlarge").first.click()
        assert tab.overflow_px == 0
        box = tab.page.locator("#viewer").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["height"] <= 780
        for button in tab.page.locator("#viewer button").all():
            place = button.bounding_box()
            assert place["y"] + place["height"] <= 780
        assert tab.problems == []


def test_paper_is_light_and_has_no_controls(browser: Browser, file: Path) -> None:
    with opened(browser, file, dark=True, offline=True) as tab:
        tab.page.emulate_media(media="print", color_scheme="dark")
        ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert brightness(ground) > 200
        for hidden in (".contents", ".filter", ".sort", "#viewer"):
            assert not tab.page.locator(hidden).first.is_visible()
        assert tab.page.locator(".case").first.evaluate("one => getComputedStyle(one).breakInside") == "avoid"
        rows = tab.page.locator(".interactive .scroll")
        assert rows.evaluate("one => one.scrollHeight <= one.clientHeight")
        assert len(tab.page.pdf()) > 10_000


def test_nothing_moves_for_those_who_do_not_like_it(browser: Browser, file: Path) -> None:
    for reduced, behaviour in ((False, "smooth"), (True, "auto")):
        with opened(browser, file, reduced_motion=reduced) as tab:
            assert tab.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behaviour


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3
