"""`segkit view` as a process: it says where the page is, serves it, and ends as it should."""

import json
import re
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segkit.viewer import openseadragon
from segkit.viewer.server import PageServer
from tests.processes import Ended, Running, message_of, segkit
from tests.viewer.made_slides import make_results, make_slide

Begin = Callable[..., Running]


def segkit_with_vendor(*arguments: str) -> None:
    """Be the command `segkit` with a stand-in for OpenSeadragon, which lies in the working folder."""
    openseadragon.FOLDER = Path("vendor").resolve()  # type: ignore[misc]
    segkit(*arguments)


@pytest.fixture
def begin(tmp_path: Path) -> Any:
    """Return a function that starts a command in a folder of this test; none outlives the test."""
    for name in openseadragon.NAMES:
        (tmp_path / "vendor").mkdir(exist_ok=True)
        (tmp_path / "vendor" / name).write_text("")
    running: list[Running] = []

    def begin_one(*arguments: object) -> Running:
        running.append(Running(tmp_path, segkit_with_vendor, *arguments))
        return running[-1]

    yield begin_one
    for one in running:
        one.send(signal.SIGKILL, to_group=True)


def said(folder: Path) -> str:
    path = folder / ".out"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(
    ("number", "to_group", "code", "err"),
    [
        (signal.SIGINT, True, 0, ""),
        (signal.SIGTERM, False, 143, "segkit: the viewer was stopped.\n"),
        (signal.SIGUSR1, False, 143, "segkit: the viewer was stopped.\n"),
    ],
)
def test_it_serves_until_it_is_told_to_end(
    begin: Begin, tmp_path: Path, number: signal.Signals, to_group: bool, code: int, err: str
) -> None:
    slide = make_slide(tmp_path)
    make_results(tmp_path / "out" / "tissue", slide)
    process = begin("view", slide, "out", "--no-browser")
    process.wait_for(lambda: "Ctrl-C" in said(tmp_path))
    address, last = said(tmp_path).splitlines()
    assert last == "Ctrl-C ends it."
    assert re.fullmatch(r"Open http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
    with urllib.request.urlopen(f"{address.removeprefix('Open ')}facts.json", timeout=20) as answer:
        assert json.load(answer)["title"] == "tissue.tif"
    process.send(number, to_group=to_group)
    ended = process.wait()
    assert (ended.code, ended.err) == (code, err)
    assert len(ended.out.splitlines()) == 2


def test_json_has_the_address_for_programs(begin: Begin, tmp_path: Path) -> None:
    process = begin("view", make_slide(tmp_path), "--no-browser", "--json")
    process.wait_for(lambda: said(tmp_path).endswith("}\n"))
    page = json.loads(said(tmp_path))
    assert set(page) == {"address", "slide", "folder", "shown", "warnings"}
    with urllib.request.urlopen(page["address"], timeout=20) as answer:
        assert answer.status == 200
    process.send(signal.SIGINT)
    assert process.wait().code == 0


def ended(begin: Begin, *arguments: object) -> Ended:
    return begin("view", *arguments).wait()


def test_what_cannot_be_done_is_one_line_with_an_exit_code(begin: Begin, tmp_path: Path) -> None:
    slide = make_slide(tmp_path)
    with PageServer() as other:
        refused = ended(begin, slide, "--no-browser", "--port", other.port)
    assert (refused.code, message_of(refused)) == (
        2,
        f"segkit: port {other.port} is in use by another program. Choose another --port, or 0 for any that is free.",
    )
    assert ended(begin).code == 2
    assert ended(begin, slide, "--port", 65536).code == 2
    missing = ended(begin, "none.tif", "--no-browser")
    assert (missing.code, message_of(missing).count("\n")) == (3, 0)
    (tmp_path / "vendor" / openseadragon.SCRIPT).unlink()
    lacking = ended(begin, slide, "--no-browser")
    assert (lacking.code, "segkit view --install-viewer" in message_of(lacking)) == (2, True)
    assert refused.out == missing.out == lacking.out == ""


def test_openseadragon_that_cannot_be_had_is_told(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable = Running(tmp_path, install_from_nowhere)
    refused = unreachable.wait()
    assert refused.code == 3
    assert re.fullmatch(
        r"segkit: http://127\.0\.0\.1:1/\S+: cannot be downloaded .* set npm_config_registry to .*", message_of(refused)
    )


def install_from_nowhere() -> None:
    import os

    os.environ["npm_config_registry"] = "http://127.0.0.1:1"  # noqa: SIM112 (npm's name)
    segkit("view", "--install-viewer")
