"""OpenSeadragon comes from the registry that is asked for, is checked, and is written whole or not at all."""

import base64
import hashlib
import http.server
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.viewer import openseadragon, server

SCRIPT_TEXT, LICENCE_TEXT = b"// script", b"BSD"


def make_package() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in (
            ("package/package.json", b"{}"),
            ("package/build/openseadragon/openseadragon.min.js", SCRIPT_TEXT),
            ("package/LICENSE.txt", LICENCE_TEXT),
            ("../outside.txt", b"never"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


PACKAGE = make_package()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that is installed into, and expect the small package made above."""
    monkeypatch.setattr(openseadragon, "FOLDER", tmp_path / "vendor")
    digest = base64.b64encode(hashlib.sha512(PACKAGE).digest()).decode()
    monkeypatch.setattr(openseadragon, "INTEGRITY", f"sha512-{digest}")
    return tmp_path / "vendor"


class Registry(http.server.BaseHTTPRequestHandler):
    content = PACKAGE

    def do_GET(self) -> None:
        is_known = self.path == "/npm/openseadragon/-/openseadragon-6.1.1.tgz"
        self.send_response(200 if is_known else 404)
        self.end_headers()
        self.wfile.write(self.content if is_known else b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of a registry on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Registry) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/npm"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", ["npm_config_registry", "NPM_CONFIG_REGISTRY"])
@pytest.mark.parametrize("end", ["", "/"])
def test_it_is_installed_from_the_registry_that_npm_uses(
    registry: str, folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, end: str
) -> None:
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.setenv(variable, registry + end)
    assert not openseadragon.is_installed()
    written = openseadragon.install()
    assert openseadragon.is_installed()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        openseadragon.SCRIPT: SCRIPT_TEXT,
        openseadragon.LICENCE: LICENCE_TEXT,
    }
    assert sorted(written) == sorted(folder.iterdir())
    assert not (folder.parent / "outside.txt").exists()


def test_the_usual_registry_is_npms(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in openseadragon.REGISTRY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert openseadragon.address() == "https://registry.npmjs.org/openseadragon/-/openseadragon-6.1.1.tgz"


def test_another_package_is_refused_and_nothing_written(
    registry: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", registry)
    monkeypatch.setattr(Registry, "content", PACKAGE[:-1] + b"!")
    with pytest.raises(InputError, match="not the package"):
        openseadragon.install()
    assert not folder.exists()


def test_a_package_that_never_ends_is_refused(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", registry)
    monkeypatch.setattr(openseadragon, "_MAX_BYTES", 100)
    with pytest.raises(InputError, match="larger than 100 bytes"):
        openseadragon.install()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{}/other", "cannot be downloaded.*404"),
        ("http://127.0.0.1:1", "cannot be downloaded"),
        ("http://", "no address of a registry"),
        ("http://127.0.0.1:port", "cannot be downloaded"),
        ("file:///etc", "no address of a registry"),
    ],
)
def test_a_registry_that_does_not_have_it_is_told_with_a_way_out(
    registry: str, folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, said: str
) -> None:
    monkeypatch.setenv("npm_config_registry", wrong.format(registry))
    with pytest.raises(InputError, match=rf"{said}.*\bnpm_config_registry\b") as caught:
        openseadragon.install()
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_what_is_installed_here_is_what_the_server_lets_run() -> None:
    script = Path(openseadragon.__file__).parent / "vendor" / openseadragon.SCRIPT
    if not script.is_file():
        pytest.skip("no OpenSeadragon: `segkit view --install-viewer` gets it")
    text = script.read_text(encoding="utf-8")
    # The rule that it adds to a page is allowed by its hash.
    pieces = re.search(r'textContent="(@media \(hover: none\)[^"]*)"', text)
    assert pieces
    digest = base64.b64encode(hashlib.sha256(pieces[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in server.PAGE_POLICY
