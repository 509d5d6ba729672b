"""Polygons and points as GeoJSON in QuPath's dialect.

Coordinates are `x, y` in level-0 pixels with the origin at the top left corner of the image, so that the centre of
the first pixel is (0.5, 0.5) and an outline along pixel edges has whole numbers. A feature's class is
`properties.classification.name`.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.files import atomic_path

Ring = NDArray[np.float64]
ObjectType = Literal["annotation", "detection"]

_DECIMALS = 2  # of coordinates in files: a hundredth of a pixel
_POINTS_AT_ONCE = 10_000  # that are turned into text: as Python's objects they take 50 times the room


@dataclass(frozen=True, slots=True)
class Feature:
    """One object of a GeoJSON file.

    Attributes
    ----------
    label
        Name of its class, or None where it has none.
    polygons
        Each a list of rings (float64 `N x 2`, x and y, first point repeated at the end), the outline first,
        then holes.
    points
        float64 `N x 2`, x and y.
    """

    label: str | None
    polygons: list[list[Ring]]
    points: NDArray[np.float64]


class GeoJSONWriter:
    """Write features one by one; the file appears, whole, when the `with` block ends.

    Parameters
    ----------
    path
        The file to write.

    Raises
    ------
    ResourceError
        The disk is full.
    UsageError
        The folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()
        self._num_features = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path))
            self._file = stack.enter_context(temporary.open("w", encoding="utf-8"))
            self._file.write('{"type": "FeatureCollection", "features": [')
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The stack's own exit passes the error on to atomic_path, which then leaves no file.
        if error is None:
            self._file.write("\n]}\n")
        self._stack.__exit__(kind, error, traceback)

    def add_polygon(
        self,
        rings: Iterable[NDArray[Any]],
        *,
        label: str,
        colour: tuple[int, int, int],
        object_type: ObjectType = "annotation",
        measurements: Mapping[str, float] | None = None,
    ) -> None:
        """Append a polygon.

        Parameters
        ----------
        rings
            `N x 2` arrays of x and y, the outline first, then holes; a ring that is open is closed.
        label, colour
            Name and colour (0..255) of its class.
        object_type
            What QuPath makes of it: an annotation can be edited, detections are many.
        measurements
            Finite numbers by name.
        """
        self._add("Polygon", _polygon(rings), label, colour, object_type, measurements)

    def add_point(
        self,
        x: float,
        y: float,
        *,
        label: str,
        colour: tuple[int, int, int],
        object_type: ObjectType = "annotation",
        measurements: Mapping[str, float] | None = None,
    ) -> None:
        """Append a point; see `add_polygon`."""
        self._add("Point", [_text(np.array([x, y], float))], label, colour, object_type, measurements)

    def _add(
        self,
        kind: str,
        coordinates: Iterable[str],
        label: str,
        colour: tuple[int, int, int],
        object_type: ObjectType,
        measurements: Mapping[str, float] | None,
    ) -> None:
        properties = {
            "objectType": object_type,
            "classification": {"name": label, "color": [int(value) for value in colour]},
            "measurements": {name: float(value) for name, value in (measurements or {}).items()},
        }
        separator = "," if self._num_features else ""
        self._file.write(f'{separator}\n{{"type":"Feature","geometry":{{"type":"{kind}","coordinates":')
        self._file.writelines(coordinates)
        self._file.write(f'}},"properties":{_encode(properties)}}}')
        self._num_features += 1


_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


def _polygon(rings: Iterable[NDArray[Any]]) -> Iterator[str]:
    """Yield the text of a polygon's coordinates; an outline of millions of points in pieces."""
    opening = "[["
    for points in rings:
        ring = _closed(np.asarray(points, float))
        yield opening
        for start in range(0, len(ring), _POINTS_AT_ONCE):
            if start:
                yield ","
            yield _text(ring[start : start + _POINTS_AT_ONCE])[1:-1]
        yield "]"
        opening = ",["
    yield "]"


def _closed(ring: Ring) -> Ring:
    (first_x, first_y), (last_x, last_y) = ring[0], ring[-1]
    return ring if first_x == last_x and first_y == last_y else np.concatenate([ring, ring[:1]])


def _text(values: NDArray[np.float64]) -> str:
    return _encode(values.round(_DECIMALS).tolist())


def read_geojson(path: Path) -> list[Feature]:
    """Read polygons and points.

    A FeatureCollection, a list of Features or one Feature, as QuPath and others export them. Geometries: Polygon,
    MultiPolygon, Point, MultiPoint; a feature without a geometry has none of either.

    Raises
    ------
    InputError
        The file is missing, no JSON (the message has line and column), or a feature is damaged or of another kind
        (the message has its number, counted from 1).
    """
    content = read_json(path)
    features = []
    for number, item in enumerate(_items(path, content), start=1):
        try:
            features.append(_feature(item))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{path}: feature {number} cannot be used ({error}). Use polygons and points, and export it again."
            ) from error
    return features


def read_json(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8; not-a-number and infinity are refused.

    Raises
    ------
    InputError
        The file is missing or no JSON (the message has line and column), or nested too deeply.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}). Check the name and the permissions.") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: is no valid JSON (line {error.lineno}, column {error.colno}: {error.msg}). Export it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no valid JSON ({error}). Export it again.") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it contains {name}")


def _items(path: Path, content: object) -> list[Any]:
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict) and content.get("type") == "Feature":
        content = [content]
    if not isinstance(content, list):
        raise InputError(f"{path}: holds no GeoJSON features. Export annotations as GeoJSON, e.g. from QuPath.")
    return content


def _feature(item: Any) -> Feature:
    if not isinstance(item, dict) or item.get("type") != "Feature":
        raise ValueError("it is no Feature")
    polygons: list[list[Ring]] = []
    points: list[Any] = []
    geometry = item.get("geometry")
    if geometry is not None:
        kind, coordinates = geometry["type"], geometry["coordinates"]
        if kind in {"Polygon", "MultiPolygon"}:
            parts = [coordinates] if kind == "Polygon" else coordinates
            polygons = [[_ring(ring) for ring in part] for part in parts]
        elif kind in {"Point", "MultiPoint"}:
            points = [coordinates] if kind == "Point" else coordinates
        else:
            raise ValueError(f"its geometry is a {kind}")
    return Feature(_label(item.get("properties") or {}), polygons, _positions(points))


def _label(properties: Mapping[str, Any]) -> str | None:
    classification = properties.get("classification")
    if classification is None:
        return None
    if isinstance(classification, str):
        return classification
    names = classification.get("names")  # QuPath 0.6 writes derived classes as a list
    name = ": ".join(names) if names else classification.get("name")
    return None if name is None else str(name)


def _ring(coordinates: Any) -> Ring:
    ring = _positions(coordinates)
    if len(ring) < 3:
        raise ValueError(f"a ring has {len(ring)} points")
    return _closed(ring)


def _positions(coordinates: Any) -> NDArray[np.float64]:
    positions = np.array([(float(x), float(y)) for x, y, *_ in coordinates], np.float64).reshape(-1, 2)
    if not np.isfinite(positions).all():
        raise ValueError("a coordinate is not finite")
    return positions


def rasterise(
    features: Sequence[Feature], height: int, width: int, value_of: Callable[[Feature, int], int]
) -> NDArray[np.int32]:
    """Paint the polygons of features into an image; later ones cover earlier ones.

    A pixel belongs to a polygon if its centre lies inside (even-odd rule over the outline and its holes). A centre
    exactly on an edge belongs to the side right of or below it, so that polygons which share an edge share no
    pixel.

    Parameters
    ----------
    features
        Their points are not painted.
    height, width
        Size of the result; what lies outside is cut.
    value_of
        Value to paint for a feature and its index.

    Returns
    -------
    NDArray[np.int32]
        `height x width`, 0 where there is no polygon.
    """
    image = np.zeros((height, width), np.int32)
    for index, feature in enumerate(features):
        value = value_of(feature, index)
        for rings in feature.polygons:
            _paint(image, rings, value)
    return image


def _paint(image: NDArray[np.int32], rings: Sequence[Ring], value: int) -> None:
    """Set the pixels of one polygon; the scratch space is its bounding box."""
    height, width = image.shape
    corners = np.concatenate(rings)
    left, top = (max(0, math.floor(low)) for low in corners.min(axis=0))
    right, bottom = (
        min(size, math.ceil(high)) for size, high in zip((width, height), corners.max(axis=0), strict=True)
    )
    if left >= right or top >= bottom:
        return
    # A row's line through its pixel centres crosses the outline an even number of times. Each crossing switches
    # inside and outside for all centres to its right: mark the first of these, then run along the row.
    switches = np.zeros((bottom - top, right - left + 1), np.uint8)
    for ring in rings:
        rows, xs = _crossings(ring, top, bottom)
        columns = np.clip(np.ceil(xs - 0.5), left, right).astype(np.intp) - left
        np.bitwise_xor.at(switches, (rows - top, columns), 1)
    inside = np.bitwise_xor.accumulate(switches[:, :-1], axis=1).astype(bool)
    image[top:bottom, left:right][inside] = value


def _crossings(ring: Ring, top: int, bottom: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return row and x of each crossing of a ring with the lines `y = row + 0.5`, `top <= row < bottom`."""
    start, end = ring[:-1], ring[1:]
    first = np.clip(np.ceil(np.minimum(start[:, 1], end[:, 1]) - 0.5), top, bottom).astype(np.intp)
    last = np.clip(np.ceil(np.maximum(start[:, 1], end[:, 1]) - 0.5), top, bottom).astype(np.intp)
    counts = last - first
    edge = np.repeat(np.arange(len(start)), counts)
    rows = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    return rows, x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
