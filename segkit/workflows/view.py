"""`segkit view`: a slide, and what predict or sliding-window left of it, as a page for the browser."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError, SegkitError, UsageError
from segkit.files import format_bytes
from segkit.inference.detection_outputs import DETECTION_TABLE, read_detections
from segkit.inference.object_outputs import OBJECT_POLYGONS
from segkit.masks import colour_of_class
from segkit.points import Detections
from segkit.slides import Slide, open_slide
from segkit.versions import version_of
from segkit.viewer import openseadragon
from segkit.viewer.outlines import FINEST_GRID, MAX_DETAIL, Outlines
from segkit.viewer.page import page_routes
from segkit.viewer.server import PageServer, Reply, Route, json_reply, values_reply
from segkit.viewer.tiles import TILE_PX, MapTiles, SlideTiles
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.view_results import (
    MASK,
    PROBABILITY,
    Results,
    find_results,
    labels_in,
    names_of_values,
)

DETECTIONS_AT_ONCE: Final = 50_000
"""The page gets them by falling score, so many at a time."""

_NUMBER = r"(\d{1,9})"


@dataclass(frozen=True, kw_only=True)
class ViewResult:
    """A page that is being served.

    Attributes
    ----------
    address
        Of the page, with its token.
    slide, folder
        What is shown; None where there are no results.
    shown
        Names of what is shown of the results: classes, probability, outlines, detections.
    warnings
        What a person who looks at it should know; the page says it, too.
    """

    address: str
    slide: Path
    folder: Path | None
    shown: list[str]
    warnings: list[str]


@contextlib.contextmanager
def view(
    slide: Path,
    out: Path | None = None,
    *,
    port: int = 0,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> Iterator[ViewResult]:
    """Serve a slide to the browsers of this machine while the block runs.

    Parameters
    ----------
    slide
        An image or slide.
    out
        What predict or sliding-window left of it: its folder, or the folder around that. What of it cannot be shown is
        said, and the rest is shown.
    port
        0: any that is free.

    Raises
    ------
    UsageError
        The port is in use, or OpenSeadragon is not installed.
    InputError
        The slide cannot be read, or `out` holds nothing of it.
    """
    if not openseadragon.is_installed():
        raise UsageError(
            f"the page needs OpenSeadragon {openseadragon.VERSION}, which this installation lacks. Get it by "
            "`segkit view --install-viewer` (1 MB from the npm registry, checked by its hash)."
        )
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PageServer(port))
        page = _Page(stack.enter_context(open_slide(slide)), stack)
        if out is not None:
            page.add_results(find_results(out, page.slide))
        page.prepare(on_progress, on_note)
        with server.serving(page.routes):
            yield ViewResult(
                address=server.address, slide=slide, folder=page.folder, shown=page.shown, warnings=page.warnings
            )


class _Page:
    """Collects what is served: routes, and the facts by which the page knows of them."""

    def __init__(self, slide: Slide, stack: contextlib.ExitStack) -> None:
        self.slide, self._stack = slide, stack
        self.folder: Path | None = None
        self.shown: list[str] = []
        self.warnings: list[str] = []
        self._tiles = SlideTiles(slide)
        self._facts: dict[str, Any] = {
            "title": slide.path.name,
            "versions": {"segkit": version_of("segkit"), "OpenSeadragon": openseadragon.VERSION},
            "slide": {
                "width": slide.width,
                "height": slide.height,
                "halvings": self._tiles.num_halvings,
                "tile": TILE_PX,
            },
            "mpp": slide.mpp,
            "region": None,
            "classes": [],
            "maps": [],
            "outlines": False,
            "detections": None,
            "notes": self.warnings,
        }
        self.routes: dict[str, Route] = {
            **page_routes(),
            r"facts\.json": lambda: json_reply(self._facts),
            rf"slide/{_NUMBER}/{_NUMBER}/{_NUMBER}": lambda *tile: Reply(
                self._tiles.jpeg(*tile), "image/jpeg", keep=True
            ),
        }

    def prepare(self, on_progress: OnProgress, on_note: OnNote) -> None:
        """Say what there is to say, and do what has to be done before the slide can be looked at."""
        for warning in self.warnings:
            on_note(warning)
        if self._tiles.needs_overview:
            on_note(
                f"{self.slide.path.name}: lacks the levels that zooming out needs, so all of it is read once "
                f"({format_bytes(self.slide.height * self.slide.width * self.slide.channels)} of pixels)"
            )
            self._tiles.make_overview(lambda done, total: on_progress("overview", done, total, {}))

    def add_results(self, results: Results) -> None:
        """Add what can be shown of a folder; what cannot is said."""
        self.folder = results.folder
        self.warnings += results.warnings
        self._facts |= {"mpp": results.mpp or self.slide.mpp, "region": results.region}
        names = results.classes
        for add in (self._add_mask, self._add_probability, self._add_detections, self._add_outlines):
            try:
                names = add(results, names)
            except SegkitError as error:
                self.warnings.append(f"not shown: {error}")
        shares = results.record.get("shares") or {}
        self._facts["classes"] = [
            {"name": name, "colour": colour_of_class(number), "share": shares.get(name)}
            for number, name in enumerate(names)
            if number
        ]
        if not self.shown:
            self.warnings.append(f"{results.folder}: holds nothing that can be shown.")

    def _add_mask(self, results: Results, names: list[str]) -> list[str]:
        tiles = self._add_map(results, MASK)
        return names if tiles is None else names_of_values(names, int(tiles.coarsest.max()))

    def _add_probability(self, results: Results, names: list[str]) -> list[str]:
        self._add_map(results, PROBABILITY)
        return names

    def _add_map(self, results: Results, name: str) -> MapTiles | None:
        path = results.map_path(name)
        if path is None:
            return None
        tiles = MapTiles(self._stack.enter_context(open_slide(path)))
        place = results.placement(tiles.width, self.slide)
        self._facts["maps"].append(
            {
                "name": name,
                "x": place.x,
                "y": place.y,
                "downsample": place.downsample,
                "width": tiles.width,
                "height": tiles.height,
                "halvings": tiles.num_halvings,
                "tile": TILE_PX,
            }
        )
        self.routes[rf"{name}/{_NUMBER}/{_NUMBER}/{_NUMBER}"] = lambda *tile: values_reply(tiles.read(*tile).tobytes())
        self.shown.append(name)
        return tiles

    def _add_detections(self, results: Results, names: list[str]) -> list[str]:
        path = results.folder / DETECTION_TABLE
        if not path.is_file():
            return names
        names = names or ["background"]
        names = [*names, *(label for label in labels_in(path) if label not in names)]
        found = read_detections(path, names)
        self._facts["detections"] = {
            "number": len(found.scores),
            "at_once": DETECTIONS_AT_ONCE,
            "lowest": float(found.scores.min(initial=1.0)),
            "by_class": np.bincount(found.classes, minlength=len(names))[1:].tolist(),
        }
        self.routes[rf"detections/{_NUMBER}"] = lambda part: values_reply(packed_detections(found, part))
        self.shown.append("detections")
        return names

    def _add_outlines(self, results: Results, names: list[str]) -> list[str]:
        path = results.folder / OBJECT_POLYGONS
        if path.is_file():
            outlines = self._stack.enter_context(OutlinesInBackground(path, self.slide, names))
            self._facts["outlines"] = True
            self.routes[r"outlines\.json"] = lambda: json_reply(outlines.state())
            self.routes[rf"outlines/{_NUMBER}/{_NUMBER}/{_NUMBER}/{_NUMBER}"] = lambda *block: json_reply(
                outlines.ready().block(*block), keep=True
            )
            self.shown.append("outlines")
        return names


class OutlinesInBackground(contextlib.AbstractContextManager["OutlinesInBackground"]):
    """Outlines whose file is read while the page is looked at already: a million objects take half a minute."""

    def __init__(self, path: Path, slide: Slide, classes: list[str]) -> None:
        self._classes = classes
        self._share = 0.0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="outlines")
        self._outlines = self._pool.submit(Outlines, path, slide.height, slide.width, self._report)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def _report(self, share: float) -> None:
        if self._stop.is_set():
            raise InputError("the viewer was stopped")
        self._share = share

    def ready(self) -> Outlines:
        """Return the outlines; LookupError while they are being read."""
        if not self._outlines.done():
            raise LookupError("outlines")
        return self._outlines.result()

    def state(self) -> dict[str, Any]:
        """Return how far the reading is, and when it is done, what there is."""
        if not self._outlines.done():
            return {"share": self._share}
        outlines = self._outlines.result()
        labels = [
            self._classes.index(label) if label in self._classes else len(self._classes) + number
            for number, label in enumerate(outlines.labels)
        ]
        return {
            "share": 1.0,
            "number": outlines.num_objects,
            "labels": [
                {"name": name, "colour": colour_of_class(number)}
                for name, number in zip(outlines.labels, labels, strict=True)
            ],
            "sizes": [
                {"side": size.side_px, "columns": size.columns, "counts": outlines.counts(number).tolist()}
                for number, size in enumerate(outlines.sizes)
            ],
            "grid": FINEST_GRID,
            "most_detail": MAX_DETAIL,
        }


def packed_detections(found: Detections, part: int) -> bytes:
    """Return a part of detections as the page reads it, little-endian: all x, all y, all scores, all classes.

    Parameters
    ----------
    found
        By descending score.
    part
        Number of the part, of `DETECTIONS_AT_ONCE`.

    Returns
    -------
    bytes
        float32 x, y (level-0 pixels), float32 score, uint8 class index.

    Raises
    ------
    LookupError
        There is no such part.
    """
    start = part * DETECTIONS_AT_ONCE
    if start >= len(found.scores):
        raise LookupError(part)
    own = slice(start, start + DETECTIONS_AT_ONCE)
    y, x = found.positions[own].T
    columns: list[NDArray[Any]] = [x.astype("<f4"), y.astype("<f4"), found.scores[own].astype("<f4")]
    return b"".join(column.tobytes() for column in [*columns, found.classes[own].astype(np.uint8)])
