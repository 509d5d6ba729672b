"""What a sliding window leaves: the foreground's map, the detections as points and as rows; and how these are read."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit import files
from segkit.data.point_files import shorten
from segkit.errors import InputError
from segkit.masks import colour_of_class
from segkit.points import FULL_SCORE, Detections
from segkit.slides.geojson import GeoJSONWriter

DETECTION_TABLE, DETECTION_POINTS = "detections.csv", "detections.geojson"
DETECTION_COLUMNS = ("x_px", "y_px", "x_um", "y_um", "score", "label")

# What a column may be called when detections are read, the preferred name last; other tools' tables have x and y.
_READ_COLUMNS: Final = {"x": ("x", "x_px"), "y": ("y", "y_px"), "score": ("score",), "label": ("label",)}


def write_detections(folder: Path, detections: Detections, classes: Sequence[str], mpp: float | None) -> None:
    """Write detections.csv, by descending score, and detections.geojson; in level-0 coordinates.

    They appear whole, one right after the other, when both are complete.

    Parameters
    ----------
    folder
        Where they are written.
    detections
        What was found; positions in level-0 pixels.
    classes
        Class names by index, background first.
    mpp
        Micrometres per pixel at level 0, None where unknown.

    Raises
    ------
    ResourceError
        The disk is full.
    UsageError
        The folder cannot be written.
    """
    table, points = folder / DETECTION_TABLE, folder / DETECTION_POINTS
    # Closing a file writes what is still buffered, and can meet a full disk, too. The larger file is closed first.
    with (
        files.translated_os_errors(table),
        files.csv_rows(table, DETECTION_COLUMNS) as write_row,
        GeoJSONWriter(points) as geojson,
    ):
        for (y, x), index, score in zip(*(values.tolist() for values in detections), strict=True):
            row = {"x_px": round(x, 2), "y_px": round(y, 2), "score": round(score, 6), "label": classes[index]}
            if mpp is not None:
                row |= {"x_um": round(x * mpp, 3), "y_um": round(y * mpp, 3)}
            write_row(row)
            geojson.add_point(
                x,
                y,
                label=classes[index],
                colour=colour_of_class(index),
                object_type="detection",
                measurements={"Score": row["score"]},
            )


def reaching(candidates: Detections, thresholds: Sequence[float]) -> Detections:
    """Return those that reach their class's threshold, of which there is one for each foreground class."""
    reached = candidates.scores >= np.array([1.0, *thresholds])[candidates.classes]
    return Detections(candidates.positions[reached], candidates.classes[reached], candidates.scores[reached])


def foreground_of(scores_HWK: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return the probability of the foreground, uint8 (h, w), 0..1 scaled to 0..255, as the network gave it.

    Parameters
    ----------
    scores_HWK
        uint16 (h, w, K): each foreground class's probability times 65535; their sum is cut at 65535.
    """
    total = np.minimum(scores_HWK.sum(axis=2, dtype=np.uint32), FULL_SCORE)
    step = FULL_SCORE // 255
    scaled: NDArray[np.uint32] = (total + step // 2) // step
    return scaled.astype(np.uint8)


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
