"""What a sliding window leaves: the map as a pyramid, the detections as points and as rows; and how these are read."""

import contextlib
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segkit import files
from segkit.data.point_files import shorten
from segkit.errors import InputError
from segkit.inference.detect import Detector, DetectorSettings, MapGrid
from segkit.masks import colour_of_class
from segkit.points import FULL_SCORE, Detections
from segkit.slides.geojson import GeoJSONWriter
from segkit.slides.pyramid import PyramidWriter

PROBABILITY, DETECTION_TABLE, DETECTION_POINTS = "probability.tif", "detections.csv", "detections.geojson"
DETECTION_OUTPUTS = (PROBABILITY, DETECTION_TABLE, DETECTION_POINTS)
DETECTION_COLUMNS = ("x_px", "y_px", "x_um", "y_um", "score", "label")

# What a column may be called when detections are read, the preferred name last; other tools' tables have x and y.
_READ_COLUMNS: Final = {"x": ("x", "x_px"), "y": ("y", "y_px"), "score": ("score",), "label": ("label",)}


class DetectionOutputs(contextlib.ExitStack):
    """The files that grow while a slide is scanned; they appear whole when the body ends without an error.

    probability.tif (the foreground's, 0..1 scaled to 0..255, as the network gave it, not smoothed), and of the
    detections that reach their class's threshold detections.csv (by descending score) and detections.geojson
    (level-0 coordinates).

    Parameters
    ----------
    folder
        Where they are written.
    height, width
        Of the map, in its pixels.
    classes
        Class names by index, background first.
    settings
        How candidates are found.
    thresholds
        Lowest score of a detection, of each foreground class.
    grid
        Where the map lies on the slide.
    mpp
        Micrometres per pixel at level 0, None where unknown.

    Attributes
    ----------
    candidates
        All that were found, by descending score; none before the body has ended.
    detections
        Those of them that reach their threshold, which are in the files.
    """

    def __init__(
        self,
        folder: Path,
        height: int,
        width: int,
        classes: Sequence[str],
        *,
        settings: DetectorSettings,
        thresholds: Sequence[float],
        grid: MapGrid,
        mpp: float | None,
    ) -> None:
        if not len(classes) - 1 == len(settings.lowest) == len(thresholds):
            raise ValueError(f"{classes} need a threshold and a lowest score for each but the first")
        super().__init__()
        self._folder, self._height, self._width, self._classes = folder, height, width, classes
        self._thresholds, self._grid, self._mpp = np.array([1.0, *thresholds]), grid, mpp
        self._detector = Detector(width, settings, grid)
        self.candidates = self.detections = _detections([])

    def __enter__(self) -> "DetectionOutputs":
        super().__enter__()
        mpp = self._mpp and self._mpp * self._grid.downsample * self._grid.stride
        # What is open already is taken back where the next one cannot be opened.
        with contextlib.ExitStack() as stack:
            # Closing a file writes what is still buffered, and can meet a full disk, too.
            stack.enter_context(files.translated_os_errors(self._folder / DETECTION_TABLE))
            self._write_row = stack.enter_context(files.csv_rows(self._folder / DETECTION_TABLE, DETECTION_COLUMNS))
            self._geojson = stack.enter_context(GeoJSONWriter(self._folder / DETECTION_POINTS))
            # Entered last and so closed first: what needs most room fails before the others are in place.
            self._foreground = stack.enter_context(
                PyramidWriter(self._folder / PROBABILITY, self._height, self._width, mpp=mpp, reduce="mean")
            )
            self.enter_context(stack.pop_all())
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        try:
            if kind is None:
                self._write_detections()
        except BaseException as failure:
            super().__exit__(type(failure), failure, failure.__traceback__)
            raise
        return super().__exit__(kind, error, trace)

    def write_rows(self, scores: NDArray[np.uint16]) -> None:
        """Take finished rows: each foreground class's probability times 65535, uint16 (n, width, classes)."""
        self._detector.add_rows(scores)
        total = np.minimum(scores.sum(axis=2, dtype=np.uint32), FULL_SCORE)
        step = FULL_SCORE // 255
        self._foreground.write_rows(((total + step // 2) // step).astype(np.uint8))

    def _write_detections(self) -> None:
        found = self.candidates = self._detector.finish()
        reached = found.scores >= self._thresholds[found.classes]
        self.detections = Detections(found.positions[reached], found.classes[reached], found.scores[reached])
        for (y, x), index, score in zip(*(values.tolist() for values in self.detections), strict=True):
            label = self._classes[index]
            row = {"x_px": round(x, 2), "y_px": round(y, 2), "score": round(score, 6), "label": label}
            if self._mpp is not None:
                row |= {"x_um": round(x * self._mpp, 3), "y_um": round(y * self._mpp, 3)}
            self._write_row(row)
            self._geojson.add_point(
                x,
                y,
                label=label,
                colour=colour_of_class(index),
                object_type="detection",
                measurements={"Score": row["score"]},
            )


def read_detections(path: Path, classes: Sequence[str]) -> Detections:
    """Read a detections.csv.

    Parameters
    ----------
    path
        A CSV file with the columns x_px, y_px (or x, y; level-0 pixels), score and label; others are left alone.
    classes
        Class names by index, background first; every label is one of the others.

    Raises
    ------
    InputError
        The file cannot be read, lacks a column, or has rows that are no detections (`problems` lists them).
    """
    found = []
    problems = []
    for line, record in _read_records(path):
        try:
            found.append(_parse(record, classes))
        except ValueError as error:
            problems.append(f"{path}: line {line}: {error}")
    if problems:
        raise InputError(f"{path}: holds rows that are no detections.", shorten(path, problems, "lines"))
    return _detections(sorted(found, key=lambda one: -one[3]))


def _detections(rows: Sequence[tuple[float, float, int, float]]) -> Detections:
    """Return detections from y, x, class and score."""
    return Detections(
        positions=np.array([row[:2] for row in rows], np.float64).reshape(-1, 2),
        classes=np.array([row[2] for row in rows], np.int64),
        scores=np.array([row[3] for row in rows], np.float64),
    )


def _read_records(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the line and the cells x, y, score and label of every row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # strict: a quotation mark that is never closed would swallow the rest of the file.
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or []
            columns = {name: one for name, known in _READ_COLUMNS.items() for one in known if one in header}
            if len(columns) < len(_READ_COLUMNS):
                raise InputError(
                    f"{path}: needs the columns x_px, y_px, score and label, and has: {', '.join(header) or 'none'}."
                )
            return [
                (reader.line_num, {name: (record[column] or "").strip() for name, column in columns.items()})
                for record in reader
            ]
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}). Check the name and the permissions.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV file in UTF-8 ({error}). Write it again.") from error


def _parse(record: Mapping[str, str], classes: Sequence[str]) -> tuple[float, float, int, float]:
    """Return y, x, class and score of a row; ValueError says what is wrong."""
    x, y, score = (_number(record, name) for name in ("x", "y", "score"))
    if not 0 <= score <= 1:
        raise ValueError(f"the score is {score:g}, and must be from 0 to 1.")
    if record["label"] not in classes[1:]:
        raise ValueError(f"the label is {record['label']!r}, which is none of the classes ({', '.join(classes[1:])}).")
    return y, x, classes.index(record["label"]), score


def _number(record: Mapping[str, str], name: str) -> float:
    try:
        value = float(record[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is {record[name]!r}, which is no number.")
    return value
