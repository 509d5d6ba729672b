"""What a prediction leaves of its objects: a table and polygons."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from segkit import files
from segkit.inference.joining import MapObject
from segkit.masks import colour_of_class
from segkit.slides.geojson import GeoJSONWriter

OBJECT_TABLE: Final = "objects.csv"
OBJECT_POLYGONS: Final = "objects.geojson"
OBJECT_OUTPUTS: Final = (OBJECT_TABLE, OBJECT_POLYGONS)
OBJECT_COLUMNS: Final = (
    "id", "class", "x_px", "y_px", "x_um", "y_um", "area_px", "area_um2", "perimeter_px", "perimeter_um", "probability"
)  # fmt: skip


class ObjectOutputs(contextlib.ExitStack):
    """objects.csv and objects.geojson, in level-0 coordinates; they appear whole when the body ends without an error.

    Parameters
    ----------
    folder
        Where they are written.
    classes
        Class names by index, background first.
    origin
        Where the map's top left corner lies, y and x in level-0 pixels.
    downsample
        Level-0 pixels per map pixel.
    mpp
        Micrometres per level-0 pixel, None where unknown.
    min_area
        Smaller objects are left out; um2, or pixels of the map where the scale is unknown.

    Attributes
    ----------
    num_objects
        Objects written so far.

    Raises
    ------
    ResourceError
        The disk is full.
    UsageError
        The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        *,
        origin: tuple[float, float],
        downsample: float,
        mpp: float | None,
        min_area: float,
    ) -> None:
        super().__init__()
        self._folder, self._classes, self._min_area = folder, classes, min_area
        self._origin_y, self._origin_x = origin
        self._origin_xy = np.array([self._origin_x, self._origin_y])
        self._downsample, self._mpp = downsample, mpp
        self.num_objects = 0

    def __enter__(self) -> "ObjectOutputs":
        super().__enter__()
        # What is open already is taken back where the next one cannot be opened.
        with contextlib.ExitStack() as stack:
            # Closing a file writes what is still buffered, and can meet a full disk, too.
            stack.enter_context(files.translated_os_errors(self._folder / OBJECT_TABLE))
            self._write_row = stack.enter_context(files.csv_rows(self._folder / OBJECT_TABLE, OBJECT_COLUMNS))
            # Entered last and so closed first: what needs most room fails before the other is in place.
            self._geojson = stack.enter_context(GeoJSONWriter(self._folder / OBJECT_POLYGONS))
            self.enter_context(stack.pop_all())
        return self

    def add(self, found: MapObject) -> None:
        """Write an object, unless it is too small."""
        scale, mpp = self._downsample, self._mpp
        map_mpp = None if mpp is None else mpp * scale
        if found.area_px * (map_mpp or 1) ** 2 < self._min_area:
            return
        self.num_objects += 1
        label = self._classes[found.class_index]
        x, y = found.x * scale + self._origin_x, found.y * scale + self._origin_y
        area = found.area_px * scale**2
        measurements = {"Area px": area, "Probability": found.probability}
        row = {
            "id": self.num_objects,
            "class": label,
            "x_px": round(x, 2),
            "y_px": round(y, 2),
            "area_px": round(area, 2),
            "perimeter_px": round(found.perimeter_px * scale, 2),
            "probability": round(found.probability, 4),
        }
        if mpp is not None and map_mpp is not None:
            area_um2 = found.area_px * map_mpp**2
            measurements["Area um2"] = area_um2
            row |= {
                "x_um": round(x * mpp, 3),
                "y_um": round(y * mpp, 3),
                "area_um2": round(area_um2, 3),
                "perimeter_um": round(found.perimeter_px * map_mpp, 3),
            }
        self._write_row(row)
        self._geojson.add_polygon(
            (ring * scale + self._origin_xy for ring in found.rings),
            label=label,
            colour=colour_of_class(found.class_index),
            object_type="detection",
            measurements=measurements,
        )
