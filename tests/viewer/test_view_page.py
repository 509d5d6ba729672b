"""The page in a real browser: it shows the slide and what was found, answers mouse and keys, and complains not."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segkit.viewer import openseadragon
from segkit.workflows.view import ViewResult, view
from tests.browser import SECONDS, Browser, Tab, headless, opened
from tests.viewer.made_slides import make_results, make_slide, squares

SQUARES = squares(700, 900)
# In the middle of a square of each class, and between squares.
TUMOUR, STROMA, GROUND = (32, 32), (92, 32), (62, 62)
# OpenSeadragon's own view of things; the page adds nothing to itself for tests.
VIEWER = "const viewer = OpenSeadragon.getViewer('stage');"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not openseadragon.is_installed():
        pytest.skip("no OpenSeadragon: `segkit view --install-viewer` gets it")
    with headless() as browser:
        yield browser


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_slide(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(browser: Browser, slide: Path) -> Iterator[ViewResult]:
    """A slide with areas, probabilities, outlines and detections, served."""
    with view(slide, make_results(slide.parent / "out", slide)) as page:
        yield page


@pytest.fixture
def tab(browser: Browser, page: ViewResult) -> Iterator[Tab]:
    """The page, with all that it shows at first; in the end it must not have complained."""
    with opened(browser, page.address, width=1400, height=900) as tab:
        wait_for_tiles(tab, items=3)
        yield tab
        assert tab.page.locator("#problems").inner_text() == ""
        assert tab.problems == []


def wait_for_tiles(tab: Tab, items: int) -> None:
    """Wait until the view is at rest, and what is shown of slide and maps is there, as fine as it asks for."""
    tab.page.wait_for_function(
        f"""items => {{
            {VIEWER}
            if (viewer?.world?.getItemCount() !== items || viewer.isAnimating()) return false;
            const shown = [...Array(items).keys()].map(index => viewer.world.getItemAt(index));
            return shown.every(item => item.opacity === 0 || item.getFullyLoaded());
        }}""",
        arg=items,
    )


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def box_of(tab: Tab) -> tuple[float, float, float, float]:
    """Return left, top, width and height of what is seen, in level-0 pixels."""
    box = tab.page.evaluate(f"() => {{ {VIEWER} return {{...viewer.viewport.getBounds(true)}}; }}")
    return box["x"] * 900, box["y"] * 900, box["width"] * 900, box["height"] * 900


def middle_of(tab: Tab) -> tuple[float, float]:
    """Return x and y of the middle of what is seen, in level-0 pixels."""
    left, top, width, height = box_of(tab)
    return left + width / 2, top + height / 2


def colour_at(tab: Tab, position: tuple[float, float]) -> list[int]:
    """Return what tiles show at a position of the slide in level-0 pixels: rings and outlines are drawn elsewhere."""
    left, top, width, _ = box_of(tab)
    found: list[int] = tab.page.evaluate(
        f"""([x, y]) => {{
            {VIEWER}
            const {{canvas}} = viewer.drawer;
            const copy = new OffscreenCanvas(1, 1).getContext("2d", {{willReadFrequently: true}});
            copy.drawImage(canvas, Math.floor(x * canvas.width), Math.floor(y * canvas.width), 1, 1, 0, 0, 1, 1);
            return [...copy.getImageData(0, 0, 1, 1).data];
        }}""",
        [(position[0] - left) / width, (position[1] - top) / width],
    )
    return found[:3]


def num_drawn(tab: Tab) -> int:
    """Return how many values of rings and outlines are not 0."""
    return int(
        tab.page.evaluate(
            """() => {
                const canvas = document.getElementById("drawing");
                const {width, height} = canvas;
                const copy = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
                copy.drawImage(canvas, 0, 0);
                const {data} = copy.getImageData(0, 0, width, height);
                return data.reduce((count, value) => count + (value > 0), 0);
            }"""
        )
    )


def test_the_slide_and_what_was_found_are_shown(tab: Tab, page: ViewResult) -> None:
    assert tab.page.title() == "tissue.tif - segkit view"
    assert tab.page.locator("h1").inner_text() == "tissue.tif"
    assert tab.page.locator("#classes li").all_inner_texts() == ["tumour\n10.00 %", "stroma\n10.00 %"]
    assert tab.page.locator("#selected").inner_text() == f"{len(SQUARES)} detections"
    assert tab.page.locator("#scale-length").inner_text() == "50 µm"
    assert "x 450, y 350 px (225.0, 175.0 µm)" in tab.page.locator("#position").inner_text()
    assert colour_at(tab, TUMOUR) != colour_at(tab, STROMA)
    # Nothing is asked of anybody else.
    assert [one for one in tab.requests if not one.startswith(page.address)] == []
    for part in ("slide", "mask", "outlines", "detections"):
        assert any(f"/{part}/" in one for one in tab.requests)


def test_layers_and_classes_are_switched_by_mouse_and_keys(tab: Tab) -> None:
    places = (TUMOUR, STROMA, GROUND)
    shown = [colour_at(tab, place) for place in places]
    tab.page.get_by_role("checkbox", name="Areas").uncheck()
    until(lambda: colour_at(tab, TUMOUR) != shown[0])
    plain = [colour_at(tab, place) for place in places]
    assert (plain[1] != shown[1], plain[2] == shown[2]) == (True, True)
    tab.page.keyboard.press("m")
    assert tab.page.get_by_role("checkbox", name="Areas").is_checked()
    until(lambda: [colour_at(tab, place) for place in places] == shown)
    tab.page.get_by_role("checkbox", name="stroma").uncheck()
    until(lambda: colour_at(tab, STROMA) == plain[1])
    assert colour_at(tab, TUMOUR) == shown[0]
    assert tab.page.locator("#selected").inner_text() == f"{sum(one[3] == 1 for one in SQUARES)} detections"
    tab.page.keyboard.press("Shift+Digit2")
    until(lambda: colour_at(tab, STROMA) == shown[1])


def test_probabilities_have_colours_and_a_lowest_value(tab: Tab) -> None:
    tab.page.keyboard.press("m")
    until(lambda: not tab.page.get_by_role("checkbox", name="Areas").is_checked())
    plain = colour_at(tab, STROMA)
    tab.page.keyboard.press("h")
    tab.page.get_by_label("Colours").select_option("grey")
    tab.page.locator("#probability-opacity").fill("1")
    # Stroma has 254 / 255, tumour 127 / 255.
    until(lambda: colour_at(tab, STROMA) == [254] * 3)
    assert colour_at(tab, TUMOUR) == [127] * 3
    tab.page.locator("#hidden-below").fill("0.6")
    until(lambda: colour_at(tab, TUMOUR) != [127] * 3)
    assert colour_at(tab, STROMA) == [254] * 3
    tab.page.get_by_role("checkbox", name="Probability").uncheck()
    until(lambda: colour_at(tab, STROMA) == plain)


def test_outlines_and_detections_are_drawn_and_hidden(tab: Tab) -> None:
    until(lambda: num_drawn(tab) > 10_000)
    both = num_drawn(tab)
    tab.page.get_by_role("checkbox", name="Outlines").uncheck()
    until(lambda: num_drawn(tab) < both)
    tab.page.keyboard.press("c")
    until(lambda: num_drawn(tab) == 0)
    tab.page.keyboard.press("o")
    until(lambda: num_drawn(tab) > 5000)


def test_the_next_detection_is_shown(browser: Browser, page: ViewResult) -> None:
    with opened(browser, page.address, width=700, height=500) as tab:
        wait_for_tiles(tab, items=3)
        before = box_of(tab)
        tab.page.get_by_role("button", name="Next").click()
        until(lambda: middle_of(tab) == pytest.approx((32, 32), abs=1))
        wait_for_tiles(tab, items=3)
        assert tab.page.locator("#selected").inner_text() == f"1 of {len(SQUARES)}: tumour, 0.950"
        left, top, width, _ = box_of(tab)
        assert width < before[2]
        assert tab.page.locator("#magnification").inner_text() == "100 %"
        tab.page.keyboard.press("n")
        until(lambda: box_of(tab)[:2] == pytest.approx((left + 60, top), abs=1))
        assert tab.page.locator("#selected").inner_text().startswith(f"2 of {len(SQUARES)}: stroma, ")
        for _ in range(2):
            tab.page.keyboard.press("p")
        assert tab.page.locator("#selected").inner_text().startswith(f"{len(SQUARES)} of {len(SQUARES)}: ")
        assert tab.problems == []


def test_a_threshold_leaves_the_higher_scores(tab: Tab) -> None:
    tab.page.locator("#threshold").fill("0.9")
    scores = [0.95 - 0.4 * number / (len(SQUARES) - 1) for number in range(len(SQUARES))]
    expected = sum(score >= 0.9 for score in scores)
    assert 0 < expected < len(SQUARES)
    assert tab.page.locator("#selected").inner_text() == f"{expected} detections"
    tab.page.keyboard.press("Tab")  # keys are the slider's while it has the focus
    tab.page.keyboard.press("p")
    assert tab.page.locator("#selected").inner_text().startswith(f"{expected} of {expected}: ")
    tab.page.locator("#threshold").fill("1")
    assert tab.page.get_by_role("button", name="Next").is_disabled()


def test_the_pointer_says_where_it_is_and_selects(tab: Tab) -> None:
    stage = tab.page.locator("#stage").bounding_box()
    assert stage is not None
    left, top, width, _ = box_of(tab)
    scale = stage["width"] / width
    place = stage["x"] + (92 - left) * scale, stage["y"] + (32 - top) * scale
    tab.page.mouse.move(*place)
    until(lambda: tab.page.locator("#position").inner_text().startswith("x 9"))
    tab.page.mouse.click(*place)
    until(lambda: tab.page.locator("#selected").inner_text().startswith(f"2 of {len(SQUARES)}: stroma"))


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_has_the_layers_behind_a_button(browser: Browser, page: ViewResult, dark: bool) -> None:
    with opened(browser, page.address, width=390, height=844, dark=dark, reduced_motion=True) as tab:
        wait_for_tiles(tab, items=3)
        assert tab.overflow_px == 0
        areas = tab.page.get_by_role("checkbox", name="Areas")
        assert not areas.is_visible()
        tab.page.get_by_role("button", name="Layers").click()
        assert areas.is_visible()
        assert tab.page.get_by_role("button", name="Layers").get_attribute("aria-expanded") == "true"
        areas.uncheck()
        assert tab.page.get_by_role("button", name="Next").is_visible()
        assert tab.overflow_px == 0
        assert tab.problems == []


def test_a_slide_alone_and_what_is_amiss(browser: Browser, slide: Path, tmp_path: Path) -> None:
    folder = make_results(tmp_path / "out", slide, parts=["objects"])
    (folder / "objects.geojson").write_text("{}")
    (folder / "run.json").unlink()
    with view(slide, folder) as page, opened(browser, page.address) as tab:
        wait_for_tiles(tab, items=1)
        until(lambda: "no file of objects" in tab.page.locator("#problems").inner_text())
        assert "has no run.json" in tab.page.locator("#notes").inner_text()
        assert not tab.page.get_by_role("button", name="Next").is_visible()
    with view(slide) as page, opened(browser, page.address) as tab:
        wait_for_tiles(tab, items=1)
        assert tab.page.get_by_role("checkbox").count() == 0
        assert tab.problems == []


def test_a_viewer_that_has_been_stopped_is_told(browser: Browser, slide: Path, tmp_path: Path) -> None:
    folder = make_results(tmp_path / "out", slide, parts=["objects"])
    with contextlib.ExitStack() as served:
        page = served.enter_context(view(slide, folder))
        with opened(browser, page.address) as tab:
            wait_for_tiles(tab, items=1)
            served.close()
            tab.page.keyboard.press("+")
            tab.page.keyboard.press("+")
            until(lambda: "segkit view` again" in tab.page.locator("#problems").inner_text())
