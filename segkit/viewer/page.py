"""The files of the page: its own, and OpenSeadragon's."""

import re
from pathlib import Path
from typing import Final

from segkit.viewer import openseadragon
from segkit.viewer.server import Reply, Route

ASSETS: Final = Path(__file__).parent / "assets"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_PUBLIC_NAMES = {"index.html": "", openseadragon.SCRIPT: "openseadragon.js", openseadragon.LICENCE: "licence.txt"}


def page_routes() -> dict[str, Route]:
    """Return what serves the page's files; they are read once."""
    paths = [*ASSETS.iterdir(), *(openseadragon.FOLDER / name for name in openseadragon.NAMES)]
    return {
        re.escape(_PUBLIC_NAMES.get(path.name, path.name)): _serve(path)
        for path in paths
        if path.suffix in _MEDIA_TYPES
    }


def _serve(path: Path) -> Route:
    reply = Reply(path.read_bytes(), _MEDIA_TYPES[path.suffix])
    return lambda: reply
