"""Gather the points of a data folder from its files, and give them their classes."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.data.boxes import BoxForm, read_boxes
from segkit.data.classes import map_files
from segkit.data.listing import Listing, name_of
from segkit.data.point_files import RawPoints, read_features, read_table
from segkit.points import Points
from segkit.slides import IMAGE_SUFFIXES

MAX_NAMED: Final = 5


@dataclass
class FoundPoints:
    """The points of a data folder, before their classes are known.

    Attributes
    ----------
    by_image
        Positions, float64 (N, 2) y, x, and N labels by the image's name; also of images without points.
    labels
        Number of points by label, of each file.
    problems, notes
        What is wrong with the files; what a user should know.
    """

    by_image: dict[str, tuple[NDArray[np.float64], list[str]]] = field(default_factory=dict)
    labels: dict[Path, Counter[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def collect_points(listing: Listing, boxes: BoxForm | None) -> FoundPoints:
    """Read every file of points once.

    Parameters
    ----------
    listing
        The images, and the file with the points of each.
    boxes
        What the numbers of a box are; None: it is found out.
    """
    names_of: dict[Path, list[str]] = defaultdict(list)
    for name, path in listing.annotations.items():
        names_of[path].append(name)
    contents, problems = map_files(partial(_read, listing, boxes), list(names_of))
    found = FoundPoints(problems=problems)
    for path, raw in contents.items():
        found.labels[path] = Counter(raw.labels)
        found.problems += raw.problems
        found.notes += raw.notes
        if path in listing.tables:
            _distribute(found, path, raw, {name: listing.images[name] for name in names_of[path]})
        else:
            found.by_image[name_of(path)] = (raw.positions, raw.labels)
    found.problems += _without_points(listing, contents)
    found.notes += _left_out(contents)
    return found


def classify_points(found: FoundPoints, index_of: Mapping[str, int]) -> dict[str, Points]:
    """Return the points of every image, class indices by label; points of other labels are left out."""
    result = {}
    for name, (positions, labels) in found.by_image.items():
        classes = np.array([index_of.get(label, -1) for label in labels], np.int64)
        result[name] = Points(positions[classes >= 0], classes[classes >= 0])
    return result


def _read(listing: Listing, boxes: BoxForm | None, path: Path) -> RawPoints:
    is_table = path in listing.tables
    if path.suffix.lower() == ".csv":
        return read_table(path, has_images=is_table)
    return read_boxes(path, boxes) if is_table else read_features(path)


def _distribute(found: FoundPoints, path: Path, raw: RawPoints, images: Mapping[str, Path]) -> None:
    """Give every image its points out of a file for all; unknown images are a problem."""
    name_by_cell = {cell: name for name, image in images.items() for cell in (name, image.stem, image.name)}
    rows: dict[str, list[int]] = {name: [] for name in images}
    unknown: dict[str, str] = {}
    for row, (cell, place) in enumerate(zip(raw.images, raw.places, strict=True)):
        name = name_by_cell.get(cell) or name_by_cell.get(_without_suffix(cell))
        if name is None:
            unknown.setdefault(cell, f"{cell!r} ({place})")
        else:
            rows[name].append(row)
    for name, indices in rows.items():
        found.by_image[name] = (raw.positions[np.array(indices, np.intp)], [raw.labels[row] for row in indices])
    if unknown:
        shown = _name_some(list(unknown.values()))
        found.problems.append(f"{path}: there is no image {shown}. Correct the names, or add the images.")


def _without_suffix(cell: str) -> str:
    """Return the pairing name of a file name: of a.tiff, where the image has been saved as a.png since."""
    path = Path(cell)
    return name_of(path) if path.suffix.lower() in IMAGE_SUFFIXES else cell


def _name_some(names: list[str]) -> str:
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _without_points(listing: Listing, contents: Mapping[Path, RawPoints]) -> list[str]:
    """Return a line for each file, or folder of files, that holds no points; damaged ones have a line already."""
    numbers: dict[Path, int] = defaultdict(int)
    for path, raw in contents.items():
        numbers[path if path in listing.tables else path.parent] += len(raw.labels) + len(raw.problems)
    return [f"{path}: holds no points, so there is nothing to learn." for path, number in numbers.items() if not number]


def _left_out(contents: Mapping[Path, RawPoints]) -> list[str]:
    numbers: dict[Path, int] = defaultdict(int)
    for path, raw in contents.items():
        numbers[path.parent] += raw.num_polygons
    return [
        f"{path}: polygons are left out ({number}), as points are learned from."
        for path, number in numbers.items()
        if number
    ]
