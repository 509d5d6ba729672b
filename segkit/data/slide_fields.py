"""Slides that are too large to be read whole, and polygons drawn on them: read by region, as patches are drawn.

Open files are this process's own: a loader process that shares its parent's would share its reading position, too.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.data.classes import class_of_polygon
from segkit.errors import InputError
from segkit.geometry import Box, read_mirrored
from segkit.slides import Slide, open_slide
from segkit.slides.geojson import Feature, rasterise, read_geojson

MAX_OPEN: Final = 32  # slides in one process; each holds a file and some decoded tiles


class _OpenSlides:
    """The slides that were read last stay open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slides: OrderedDict[Path, Slide] = OrderedDict()

    def read(self, path: Path, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box, mirrored where it leaves the slide."""
        with self._lock:  # nobody closes what another thread reads
            slide = self._slides.pop(path, None) or open_slide(path)
            self._slides[path] = slide
            if len(self._slides) > MAX_OPEN:
                self._slides.popitem(last=False)[1].close()
            return slide.read_mirrored(box)

    def close(self) -> None:
        """Close all."""
        while self._slides:
            self._slides.popitem()[1].close()


_opened = _OpenSlides()


def _open_anew() -> None:
    global _opened  # noqa: PLW0603 (a forked child starts without its parent's files and locks)
    _opened.close()
    _opened = _OpenSlides()


os.register_at_fork(after_in_child=_open_anew)


class SlideImage:
    """Level 0 of a slide, with 1 or 3 channels; `shape` is height, width, channels.

    Raises
    ------
    InputError
        It cannot be opened, or is in colour where one channel is asked for.
    """

    def __init__(self, path: Path, channels: int) -> None:
        with open_slide(path) as slide:
            self.shape = (slide.height, slide.width, channels)
            if slide.channels > channels:
                raise InputError(f"{path}: has {slide.channels} channels, and {channels} are needed.")
        self._path = path

    def cut(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box, (height, width, channels) uint8, mirrored where it leaves the slide."""
        pixels = _opened.read(self._path, box)
        return pixels if pixels.shape[2] == self.shape[2] else np.repeat(pixels, self.shape[2], axis=2)

    def fields(self, per_axis: int = 16, side: int = 128) -> Iterator[NDArray[np.uint8]]:
        """Yield `per_axis` squared fields of `side` pixels, evenly spread over the slide."""
        height, width, _ = self.shape
        for row in range(per_axis):
            for column in range(per_axis):
                y, x = (int((number + 0.5) * size / per_axis) for number, size in ((row, height), (column, width)))
                yield self.cut(Box(y - side // 2, x - side // 2, side, side))


class PolygonTarget:
    """Class indices of polygons, drawn where they are looked at; later ones cover earlier ones, 0 elsewhere.

    Parameters
    ----------
    path
        GeoJSON; points in it are left out.
    classes
        Class names by index, background first.
    height, width
        Of the slide.

    Raises
    ------
    InputError
        The file is damaged or names a classification that is no class.
    """

    def __init__(self, path: Path, classes: Sequence[str], height: int, width: int) -> None:
        self.shape = (height, width, 1)
        features = [one for one in read_geojson(path) if one.polygons]
        index_of = {name: index for index, name in enumerate(classes)}
        unknown = [name for name in map(class_of_polygon, features) if name not in index_of]
        if unknown:
            raise InputError(f"{path}: holds the classification {unknown[0]}, which is none of {', '.join(classes)}.")
        # Each polygon by itself: the parts of one feature may be far apart.
        self._polygons = [(rings, index_of[class_of_polygon(one)]) for one in features for rings in one.polygons]
        corners = [np.concatenate(rings) for rings, _ in self._polygons]
        self._low = np.array([one.min(axis=0) for one in corners]).reshape(-1, 2)
        self._high = np.array([one.max(axis=0) for one in corners]).reshape(-1, 2)

    @property
    def indices(self) -> set[int]:
        """The classes of all polygons."""
        return {index for _, index in self._polygons}

    def is_background(self, box: Box) -> bool:
        """Tell whether no polygon comes near a box, without drawing any."""
        return not len(self._near(box))

    def cut(self, box: Box) -> NDArray[np.uint8]:
        """Return the classes of a box, (height, width, 1) uint8, mirrored where it leaves the slide."""
        return read_mirrored(box, self.shape[0], self.shape[1], self._draw)

    def _near(self, box: Box) -> NDArray[np.intp]:
        inside = (self._low < (box.right, box.bottom)) & (self._high > (box.x, box.y))
        return np.flatnonzero(inside.all(axis=1))

    def _draw(self, box: Box) -> NDArray[np.uint8]:
        near = [self._polygons[number] for number in self._near(box)]
        features = [Feature(None, [[ring - (box.x, box.y) for ring in rings]], np.empty((0, 2))) for rings, _ in near]
        drawn = rasterise(features, box.height, box.width, lambda _, number: near[number][1])
        return drawn.astype(np.uint8)[..., np.newaxis]
