"""Read files of points as they stand: tables (CSV) and QuPath's GeoJSON (boxes: `segkit.data.boxes`).

Coordinates in the files are x and y in level-0 pixels from the top left corner of the image, so that the centre of
the first pixel is (0.5, 0.5). Nothing is compared with the images here.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.files import format_bytes
from segkit.slides.geojson import read_geojson

UNLABELLED: Final = "point"  # the label of points that have none
MAX_FILE_BYTES: Final = 200_000_000
MAX_PROBLEMS: Final = 10  # of one file: the others are most likely of the same kind
# A column's names; those of segkit's own detections.csv among them, so that it can be corrected and learned from.
COLUMNS: Final = {"image": ("image",), "x": ("x", "x_px"), "y": ("y", "y_px"), "label": ("label",)}
SEPARATORS: Final = {";": "semicolons", "\t": "tabs"}


@dataclass
class RawPoints:
    """The points of a file as they stand there.

    Attributes
    ----------
    positions
        float64 (N, 2) y, x, finite; they may lie outside of their image.
    labels
        N names; `UNLABELLED` where the file has none.
    images
        N image names as the file has them; empty where the file is about one image.
    places
        N places in the file for messages, e.g. "line 7".
    num_polygons
        Polygons that were left out.
    problems, notes
        What is wrong with the other rows; what was decided.
    """

    positions: NDArray[np.float64]
    labels: list[str]
    images: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    num_polygons: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table(path: Path, *, has_images: bool) -> RawPoints:
    """Read a CSV file of points, columns separated by commas.

    Parameters
    ----------
    path
        A file with the columns x and y (or x_px and y_px), label if wanted; others are left alone. Upper and lower
        case are the same.
    has_images
        A column image is needed, too.

    Raises
    ------
    InputError
        It cannot be read or lacks a column. What is wrong with single rows is in `problems`.
    """
    header, rows = _read_rows(path)
    columns = _find_columns(path, header, has_images)
    found: list[tuple[str, float, float, str, str]] = []
    problems = []
    for line, row in rows:
        try:
            found.append((*_parse_row(row, columns, len(header)), f"line {line}"))
        except ValueError as error:
            problems.append(f"{path}: line {line}: {error}")
    return RawPoints(
        positions=np.array([(y, x) for _, x, y, _, _ in found], np.float64).reshape(-1, 2),
        labels=[label for _, _, _, label, _ in found],
        images=[image for image, *_ in found] if has_images else [],
        places=[place for *_, place in found],
        problems=shorten(path, problems, "lines"),
    )


def read_features(path: Path) -> RawPoints:
    """Read the points of a GeoJSON file, as QuPath exports them; the label is the name of their class.

    Raises
    ------
    InputError
        See `segkit.slides.geojson.read_geojson`; or the file is too large.
    """
    require_small(path)
    features = read_geojson(path)
    points = [feature for feature in features if len(feature.points)]
    return RawPoints(
        positions=np.concatenate([np.empty((0, 2)), *(feature.points[:, ::-1] for feature in points)]),
        labels=[feature.label or UNLABELLED for feature in points for _ in feature.points],
        num_polygons=sum(len(feature.polygons) for feature in features),
    )


def require_small(path: Path) -> None:
    """Raise InputError when a file cannot be opened or is larger than `MAX_FILE_BYTES`."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}). Check the name and the permissions.") from error
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"{path}: has {format_bytes(size)}, and at most {format_bytes(MAX_FILE_BYTES)} of points are read from a "
            "file. Give every image its own file in points/."
        )


def shorten(path: Path, problems: Sequence[str], what: str) -> list[str]:
    """Return at most `MAX_PROBLEMS` problems of a file and a line that counts all (`what`: lines, ...)."""
    if len(problems) <= MAX_PROBLEMS:
        return list(problems)
    summary = f"{path}: {what} with something wrong: {len(problems)}, of which the first {MAX_PROBLEMS} are listed."
    return [*problems[:MAX_PROBLEMS], summary]


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and all rows that are not blank, each with its line."""
    require_small(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # strict: a quotation mark that is never closed would swallow the rest of the file.
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            return header, [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}). Check the name and the permissions.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8. Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise InputError(
            f"{path}: is no valid CSV (line {reader.line_num}: {error}). Look for quotation marks in it."
        ) from error


def _find_columns(path: Path, header: Sequence[str], has_images: bool) -> dict[str, int]:
    """Return the place of each column that is there."""
    known = [cell.strip().lower() for cell in header]
    columns = {
        name: next(known.index(alias) for alias in aliases if alias in known)
        for name, aliases in COLUMNS.items()
        if set(aliases) & set(known)
    }
    needed = ("image", "x", "y") if has_images else ("x", "y")
    if not any(known):
        remedy = f"Write the names of the columns there: {', '.join(needed)}"
        raise InputError(f"{path}: holds no points, and its first line is empty. {remedy}.")
    if not set(needed) <= set(columns):
        separated = next((word for sign, word in SEPARATORS.items() if sign in header[0]), None)
        hint = f" Its columns seem to be separated by {separated}: save it with commas." if separated else ""
        raise InputError(
            f"{path}: needs the columns {', '.join(needed[:-1])} and {needed[-1]} in its first line, and has: "
            f"{', '.join(header)}.{hint}"
        )
    return columns


def _parse_row(row: Sequence[str], columns: Mapping[str, int], num_columns: int) -> tuple[str, float, float, str]:
    """Return image (empty if there is no such column), x, y and label; ValueError says what is wrong."""
    if any(map(str.strip, row[num_columns:])):
        raise ValueError(
            f"has {len(row)} cells, and the header has {num_columns}. Use a point, and no comma, for decimals."
        )
    cells = {name: row[place].strip() if place < len(row) else "" for name, place in columns.items()}
    if cells.get("image") == "":
        raise ValueError("has no image.")
    return cells.get("image", ""), _number("x", cells["x"]), _number("y", cells["y"]), cells.get("label") or UNLABELLED


def _number(name: str, cell: str) -> float:
    if not cell:
        raise ValueError(f"has no {name}.")
    try:
        value = float(cell)
    except ValueError:
        hint = " Use a point, and no comma, for decimals." if "," in cell else ""
        raise ValueError(f"{name} is {cell!r}, which is no number.{hint}") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is {cell!r}, which is no position.")
    return value
