"""What a prediction leaves while it runs: the map as a pyramid, the objects as polygons and rows."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import files
from segkit.inference.plan import Plan
from segkit.inference.segment import MapObject, ObjectTracer
from segkit.masks import colour_of_class
from segkit.slides.geojson import GeoJSONWriter
from segkit.slides.pyramid import PyramidWriter

MASK, PROBABILITY, OBJECT_TABLE, OBJECT_POLYGONS = "mask.tif", "probability.tif", "objects.csv", "objects.geojson"
OUTPUTS = (MASK, PROBABILITY, OBJECT_TABLE, OBJECT_POLYGONS)
OBJECT_COLUMNS = (
    "id", "class", "x_px", "y_px", "x_um", "y_um", "area_px", "area_um2", "perimeter_px", "perimeter_um", "probability"
)  # fmt: skip


class SlideOutputs(contextlib.ExitStack):
    """The files that grow while a slide is predicted; they appear whole when the body ends without an error.

    mask.tif (class ids), objects.geojson and objects.csv (level-0 coordinates), and probability.tif on request.

    Parameters
    ----------
    folder
        Where they are written.
    plan
        Size and scale of the map.
    classes
        Class names by index, background first.
    probability
        Write probability.tif: the foreground probability, 0..1 scaled to 0..255.
    min_area
        Smaller objects are left out; um2, or pixels of the map where the scale is unknown.

    Attributes
    ----------
    num_objects
        Objects written so far.
    """

    def __init__(self, folder: Path, plan: Plan, classes: Sequence[str], *, probability: bool, min_area: float) -> None:
        super().__init__()
        self._folder, self._plan, self._classes = folder, plan, classes
        self._with_probability, self._min_area = probability, min_area
        self._pixels = np.zeros(256, np.int64)
        self.num_objects = 0

    def __enter__(self) -> "SlideOutputs":
        super().__enter__()
        plan = self._plan
        # Closing a file writes what is still buffered, and can meet a full disk, too.
        self.enter_context(files.translated_os_errors(self._folder / MASK))
        self._mask = self.enter_context(
            PyramidWriter(self._folder / MASK, plan.height, plan.width, mpp=plan.mpp, reduce="nearest")
        )
        self._foreground = None
        if self._with_probability:
            self._foreground = self.enter_context(
                PyramidWriter(self._folder / PROBABILITY, plan.height, plan.width, mpp=plan.mpp, reduce="mean")
            )
        self._write_object_row = self.enter_context(files.csv_rows(self._folder / OBJECT_TABLE, OBJECT_COLUMNS))
        self._geojson = self.enter_context(GeoJSONWriter(self._folder / OBJECT_POLYGONS))
        self._tracer = ObjectTracer(len(self._classes), self._add_object)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        try:
            if kind is None:
                self._tracer.finish()
        except BaseException as failure:
            super().__exit__(type(failure), failure, failure.__traceback__)
            raise
        return super().__exit__(kind, error, trace)

    def write_rows(self, mask: NDArray[np.uint8], foreground: NDArray[np.uint8]) -> None:
        """Take finished rows, class ids and foreground probability, uint8 (n, width)."""
        self._pixels += np.bincount(mask.ravel(), minlength=256)
        self._mask.write_rows(mask)
        if self._foreground is not None:
            self._foreground.write_rows(foreground)
        self._tracer.add_rows(mask, foreground)

    def shares(self) -> dict[str, float]:
        """Return each class's share of the pixels."""
        return {
            name: float(count / self._pixels.sum())
            for name, count in zip(self._classes, self._pixels[: len(self._classes)], strict=True)
        }

    def _add_object(self, found: MapObject) -> None:
        scale, mpp = self._plan.downsample, self._plan.mpp
        if found.area_px * (mpp or 1) ** 2 < self._min_area:
            return
        self.num_objects += 1
        label = self._classes[found.class_index]
        measurements = {"Area px": found.area_px * scale**2, "Probability": found.probability}
        row = {
            "id": self.num_objects,
            "class": label,
            "x_px": round(found.x * scale, 2),
            "y_px": round(found.y * scale, 2),
            "area_px": round(found.area_px * scale**2, 2),
            "perimeter_px": round(found.perimeter_px * scale, 2),
            "probability": round(found.probability, 4),
        }
        if mpp is not None:
            measurements["Area um2"] = found.area_px * mpp**2
            row |= {
                "x_um": round(found.x * mpp, 3),
                "y_um": round(found.y * mpp, 3),
                "area_um2": round(found.area_px * mpp**2, 3),
                "perimeter_um": round(found.perimeter_px * mpp, 3),
            }
        self._write_object_row(row)
        self._geojson.add_polygon(
            [ring * scale for ring in found.rings],
            label=label,
            colour=colour_of_class(found.class_index),
            object_type="detection",
            measurements=measurements,
        )
