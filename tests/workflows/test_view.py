"""What is served of a slide and its results: the right pixels in the right place; and what is amiss is said."""

import gzip
import json
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

from segkit.errors import InputError, UsageError
from segkit.geometry import Box
from segkit.slides import open_slide
from segkit.viewer import openseadragon
from segkit.viewer.server import PageServer
from segkit.viewer.tiles import SlideTiles
from segkit.workflows import view as module
from segkit.workflows.predict import SlideResult
from segkit.workflows.view import ViewResult, view
from tests.patch_model import draw_red_and_blue, make_model
from tests.tiny import MPP, save_png, write_slide
from tests.viewer.made_slides import make_results, make_slide, squares
from tests.workflows import scans
from tests.workflows.predictions import read_pixels, read_rows


@pytest.fixture(autouse=True)
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for OpenSeadragon, which no test here runs."""
    folder = tmp_path / "vendor"
    folder.mkdir()
    for name in openseadragon.NAMES:
        (folder / name).write_text(name)
    monkeypatch.setattr(openseadragon, "FOLDER", folder)
    return folder


def fetch(page: ViewResult, path: str) -> bytes:
    with urllib.request.urlopen(page.address + path, timeout=20) as answer:
        body: bytes = answer.read()
        return gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body


def status_of(page: ViewResult, path: str) -> int:
    try:
        fetch(page, path)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    return 200


def facts_of(page: ViewResult) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(fetch(page, "facts.json"))
    return facts


def outlines_of(page: ViewResult) -> dict[str, Any]:
    while True:
        state: dict[str, Any] = json.loads(fetch(page, "outlines.json"))
        if state["share"] == 1:
            return state


def detections_of(page: ViewResult, part: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y, scores and classes as the page reads them."""
    body = fetch(page, f"detections/{part}")
    count = len(body) // 13
    x, y, scores = np.frombuffer(body[: 12 * count], "<f4").reshape(3, count)
    return x, y, scores, np.frombuffer(body[12 * count :], np.uint8)


@pytest.fixture
def tissue(tmp_path: Path) -> Path:
    return make_slide(tmp_path / "slides")


@pytest.fixture
def results(tissue: Path, tmp_path: Path) -> Path:
    return make_results(tmp_path / "predictions" / "tissue", tissue)


def test_the_page_has_its_files_and_the_slide_its_pixels(tissue: Path, vendor: Path) -> None:
    with view(tissue) as page:
        assert b"<!DOCTYPE html>" in fetch(page, "")
        for name in ("viewer.css", "main.js", "tiles.js", "icon.svg"):
            assert fetch(page, name)
        assert fetch(page, "openseadragon.js") == openseadragon.SCRIPT.encode()
        assert fetch(page, "licence.txt") == openseadragon.LICENCE.encode()
        facts = facts_of(page)
        assert facts["slide"] == {"width": 900, "height": 700, "halvings": 2, "tile": 512}
        assert (facts["title"], facts["mpp"], facts["maps"], facts["notes"]) == ("tissue.tif", MPP, [], [])
        with open_slide(tissue) as opened:
            for halving, box in ((0, Box(512, 512, 188, 388)), (1, Box(0, 0, 350, 450))):
                row, column = box.y // 512, box.x // 512
                shown = imagecodecs.jpeg8_decode(fetch(page, f"slide/{halving}/{row}/{column}"))
                expected = opened.read(box, halving)
                assert shown.shape == expected.shape
                assert np.abs(shown.astype(float) - expected).mean() < 4
        assert [status_of(page, f"slide/{tile}") for tile in ("0/2/0", "0/0/2", "2/0/0", "a/0/0", "0/0/-1")] == [
            404
        ] * 5
        assert (page.folder, page.shown, page.warnings) == (None, [], [])


def test_all_results_are_served(tissue: Path, results: Path) -> None:
    with view(tissue, results.parent) as page:
        assert page.folder == results
        assert page.shown == ["mask", "probability", "detections", "outlines"]
        assert page.warnings == []
        facts = facts_of(page)
        assert [(one["name"], one["share"]) for one in facts["classes"]] == [("tumour", 0.1), ("stroma", 0.1)]
        place = {"x": 0, "y": 0, "downsample": 1, "width": 900, "height": 700, "halvings": 2, "tile": 512}
        assert facts["maps"] == [{"name": name, **place} for name in ("mask", "probability")]
        values = np.frombuffer(fetch(page, "mask/0/1/1"), np.uint8).reshape(188, 388)
        np.testing.assert_array_equal(values, read_pixels(results / "mask.tif")[512:, 512:])
        values = np.frombuffer(fetch(page, "probability/1/0/0"), np.uint8).reshape(350, 450)
        np.testing.assert_array_equal(values, read_pixels(results / "probability.tif", 1))
        state = outlines_of(page)
        found = squares(700, 900)
        assert state["number"] == len(found)
        assert [one["name"] for one in state["labels"]] == ["tumour", "stroma"]
        (first, *_) = json.loads(fetch(page, "outlines/0/0/0/0"))
        assert first == {"id": 1, "label": 0, "rings": [[160, 160, 192, 0, 0, 192, -192, 0, 0, -192]]}
        x, y, scores, classes = detections_of(page)
        assert facts["detections"]["number"] == len(x) == len(found)
        assert (x[0], y[0], classes[0]) == (32, 32, 1)
        assert list(scores) == sorted(scores, reverse=True)
        assert facts["detections"]["lowest"] == pytest.approx(scores.min(), abs=1e-6)
        assert status_of(page, "detections/1") == 404


def test_many_detections_come_in_parts(tissue: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DETECTIONS_AT_ONCE", 50)
    number = len(squares(700, 900))
    with view(tissue, results) as page:
        assert facts_of(page)["detections"]["at_once"] == 50
        parts = [detections_of(page, part)[0] for part in range(-(-number // 50))]
        assert [len(part) for part in parts[:-1]] == [50] * (len(parts) - 1)
        assert sum(map(len, parts)) == number


def test_what_predict_leaves_is_served(predicted: SlideResult) -> None:
    with view(predicted.input, predicted.folder.parent) as page:
        assert page.warnings == []
        assert page.shown == ["mask", "probability", "outlines"]
        facts = facts_of(page)
        mask = read_pixels(predicted.folder / "mask.tif")
        np.testing.assert_array_equal(np.frombuffer(fetch(page, "mask/0/0/0"), np.uint8).reshape(mask.shape), mask)
        assert facts["maps"][0]["downsample"] == 1
        assert facts["region"] is None
        assert outlines_of(page)["number"] == len(read_rows(predicted.folder)) == predicted.num_objects


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_scan_lies_where_its_detections_do(tmp_path: Path, stride: int) -> None:
    disks = draw_red_and_blue(3, 150, 210)
    path = write_slide(tmp_path / "tissue.tif", disks.image)
    model = make_model(tmp_path / "model.safetensors", stride=stride)
    region = (40, 24, 140, 110)
    scanned = scans.one(scans.run([path], model, tmp_path / "out", f"region={','.join(map(str, region))}"))
    with view(path, scanned.folder) as page:
        facts = facts_of(page)
        assert page.shown == ["probability", "detections"]
        x, y, *_ = detections_of(page)
        assert len(x) >= 3
        (place,) = facts["maps"]
        assert place["downsample"] == stride
        values = np.frombuffer(fetch(page, "probability/0/0/0"), np.uint8).reshape(place["height"], place["width"])
        # Disks have their middle on the map where they were found, but for noise.
        rows, columns = np.mgrid[: place["height"], : place["width"]]
        shown = np.stack([place["x"] + (columns + 0.5) * stride, place["y"] + (rows + 0.5) * stride])
        misses = []
        for at in np.stack([x, y], axis=1):
            away = shown - at[:, None, None]
            weights = np.where(np.hypot(*away) < 8, values.astype(float), 0)
            misses.append((away * weights).sum(axis=(1, 2)) / weights.sum())
        assert np.abs(misses).max() < 2
        assert np.abs(np.mean(misses, axis=0)).max() < 0.5
        left, top, width, height = facts["region"]
        assert left <= 40 <= 180 <= left + width
        assert top <= 24 <= 134 <= top + height
        assert (left, top) != (0, 0)


def test_a_scale_given_to_the_prediction_is_the_pages(tissue: Path, tmp_path: Path) -> None:
    plan = {"mpp": 0.5, "downsample": 2.0, "stride": 1, "region": {"x": 0, "y": 0, "width": 450, "height": 350}}
    folder = make_results(tmp_path / "out", tissue, parts=["detections"], plan=plan)
    with view(tissue, folder) as page:
        assert facts_of(page)["mpp"] == 0.25
        assert facts_of(page)["region"] is None


# What is not as it should be


def test_a_slide_that_moved_is_told_and_shown(tissue: Path, results: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "tissue.tif"
    moved.parent.mkdir()
    tissue.rename(moved)
    notes: list[str] = []
    with view(moved, results, on_note=notes.append) as page:
        assert page.warnings == [f"{moved}: was at {tissue} when it was predicted. Its content is the same."]
        assert facts_of(page)["notes"] == page.warnings == notes
        assert len(page.shown) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content + b"\0", "has changed since: it has .* bytes, and .* had"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "has changed since: it has other bytes"),
    ],
)
def test_a_slide_that_changed_is_told(tissue: Path, results: Path, change: Callable[[bytes], bytes], said: str) -> None:
    tissue.write_bytes(change(tissue.read_bytes()))
    with view(tissue, results) as page:
        (warning,) = page.warnings
        assert re.search(said, warning)
        assert "\n" not in warning
        assert len(page.shown) == 4


def test_another_slide_of_another_size_is_told(results: Path, tmp_path: Path) -> None:
    other = make_slide(tmp_path / "other", 500, 600)
    with view(other, results) as page:
        (warning,) = page.warnings
        assert "900 x 700 px" in warning
        assert "600 x 500 px" in warning


def test_a_copied_slide_is_the_same(tissue: Path, results: Path) -> None:
    content = tissue.read_bytes()
    tissue.unlink()
    tissue.write_bytes(content)  # another time of modification
    with view(tissue, results) as page:
        assert page.warnings == []


@pytest.mark.parametrize("kept", ["mask", "probability", "objects", "detections"])
def test_what_is_there_is_shown(tissue: Path, tmp_path: Path, kept: str) -> None:
    folder = make_results(tmp_path / "out", tissue, parts=[kept])
    with view(tissue, folder) as page:
        assert page.shown == [kept.replace("objects", "outlines")]
        assert page.warnings == []
        assert status_of(page, "mask/0/0/0") == (200 if kept == "mask" else 404)


def test_without_a_record_names_are_found(tissue: Path, results: Path) -> None:
    (results / "run.json").unlink()
    with view(tissue, results) as page:
        (warning,) = page.warnings
        assert "has no run.json" in warning
        assert len(page.shown) == 4
        assert [one["name"] for one in facts_of(page)["classes"]] == ["class 1", "class 2", "stroma", "tumour"]
        assert {one["name"] for one in outlines_of(page)["labels"]} == {"tumour", "stroma"}


def test_without_a_record_and_a_mask_a_tables_labels_are_the_classes(tissue: Path, tmp_path: Path) -> None:
    folder = make_results(tmp_path / "out", tissue, parts=["detections", "objects"])
    (folder / "run.json").unlink()
    with view(tissue, folder) as page:
        assert [one["name"] for one in facts_of(page)["classes"]] == ["stroma", "tumour"]
        colours = {one["name"]: one["colour"] for one in facts_of(page)["classes"]}
        assert {one["name"]: one["colour"] for one in outlines_of(page)["labels"]} == colours


def test_what_is_damaged_is_told_and_the_rest_shown(tissue: Path, results: Path) -> None:
    (results / "mask.tif").write_bytes(b"II*\0" + bytes(100))
    (results / "detections.csv").write_text("x_px,y_px,score,label\n1,2,7,tumour\n")
    with view(tissue, results) as page:
        assert page.shown == ["probability", "outlines"]
        assert len(page.warnings) == 2
        assert f"not shown: {results / 'mask.tif'}: " in page.warnings[0]
        assert f"not shown: {results / 'detections.csv'}: " in page.warnings[1]


def test_damaged_outlines_are_told_by_the_page(tissue: Path, results: Path) -> None:
    (results / "objects.geojson").write_text("{}")
    with view(tissue, results) as page:
        while (status := status_of(page, "outlines.json")) == 200:
            pass
        assert status == 500
        assert status_of(page, "mask/0/0/0") == 200


def test_a_damaged_tile_is_told_by_the_page(tissue: Path) -> None:
    with view(tissue) as page:
        with tissue.open("r+b") as file:
            file.truncate(2000)
        with pytest.raises(urllib.error.HTTPError) as caught:
            fetch(page, "slide/0/0/0")
        with caught.value as answer:
            assert answer.code == 500
            said = answer.read().decode()
        assert said.startswith(f"{tissue}: ")
        assert "Traceback" not in said


def test_a_zarr_map_is_told(tissue: Path, tmp_path: Path) -> None:
    folder = make_results(tmp_path / "out", tissue, parts=["probability"])
    (folder / "mask.ome.zarr").mkdir()
    with view(tissue, folder) as page:
        assert page.shown == ["probability"]
        assert "mask.ome.zarr: is no TIFF" in page.warnings[0]


def test_an_empty_prediction_is_shown(tissue: Path, tmp_path: Path) -> None:
    folder = make_results(tmp_path / "out", tissue)
    (folder / "detections.csv").write_text("x_px,y_px,x_um,y_um,score,label\n")
    (folder / "objects.geojson").write_text('{"type": "FeatureCollection", "features": [\n]}\n')
    with view(tissue, folder) as page:
        assert page.warnings == []
        assert facts_of(page)["detections"]["number"] == 0
        assert outlines_of(page)["number"] == 0
        assert status_of(page, "detections/0") == 404


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"command": "train"}, "is of `segkit train`"),
        ({"plan": {}}, r"run\.json: is not as segkit writes it"),
        ({"models": [{}], "model": {}}, r"run\.json: is not as segkit writes it"),
        ({"slide": 7}, r"run\.json: is not as segkit writes it"),
    ],
)
def test_another_record_is_refused(tissue: Path, tmp_path: Path, record: dict[str, Any], said: str) -> None:
    folder = make_results(tmp_path / "out", tissue, **record)
    with pytest.raises(InputError, match=said), view(tissue, folder):
        pass


def test_a_folder_without_results_is_refused(tissue: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, said in (("empty", r"holds nothing of tissue\.tif"), ("none", "no such folder")):
        with pytest.raises(InputError, match=said), view(tissue, tmp_path / folder):
            pass


def test_a_slide_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"), view(tmp_path / "none.tif"):
        pass


def test_a_port_in_use_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with (
        PageServer() as other,
        pytest.raises(UsageError, match="is in use"),
        view(tmp_path / "no.tif", port=other.port),
    ):
        pass


def test_without_openseadragon_one_is_told_how_to_get_it(tissue: Path, vendor: Path) -> None:
    shutil.rmtree(vendor)
    with pytest.raises(UsageError, match="segkit view --install-viewer"), view(tissue):
        pass


def test_a_slide_without_a_pyramid_is_prepared(tmp_path: Path) -> None:
    image = np.zeros((30, 5000, 3), np.uint8)
    image[:, ::2] = 200
    path = save_png(tmp_path / "long.png", image)
    notes: list[str] = []
    stages: list[tuple[str, int, int]] = []
    with view(path, on_note=notes.append, on_progress=lambda *said: stages.append(said[:3])) as page:
        assert "lacks the levels" in notes[0]
        assert stages[-1][:2] == ("overview", stages[-1][2])
        tile = imagecodecs.jpeg8_decode(fetch(page, "slide/4/0/0"))
        assert tile.shape == (2, 313, 3)
        assert np.abs(tile.astype(float) - 100).mean() < 6


def test_everything_is_closed_in_the_end(tissue: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def remember(path: Path) -> Any:
        opened.append(open_slide(path))
        return opened[-1]

    monkeypatch.setattr(module, "open_slide", remember)
    with pytest.raises(ZeroDivisionError), view(tissue, results):
        raise ZeroDivisionError
    assert len(opened) == 3
    assert all(one._file == -1 for one in opened)


def test_a_tile_that_is_being_read_is_finished_before_the_slide_is_closed(
    tissue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, read = threading.Event(), threading.Event()

    def slow(self: Any, *tile: int) -> bytes:
        began.set()
        time.sleep(0.3)
        self.read(*tile)
        read.set()
        return b""

    monkeypatch.setattr(SlideTiles, "jpeg", slow)
    with view(tissue) as page:
        asking = threading.Thread(target=status_of, args=(page, "slide/0/0/0"))
        asking.start()
        assert began.wait(20)
    assert read.is_set()
    asking.join()
