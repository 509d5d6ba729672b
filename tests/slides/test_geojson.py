"""GeoJSON: what is written can be read, by QuPath's rules, and painted by the pixel-centre rule."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.slides.geojson import Feature, GeoJSONWriter, Ring, rasterise, read_geojson

SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
NO_POINTS = np.empty((0, 2))


def polygon(*rings: Any) -> Feature:
    return Feature(None, [[np.asarray(ring, float) for ring in rings]], NO_POINTS)


def outlines(mask: NDArray[np.bool_]) -> list[Ring]:
    """Return closed rings along the pixel edges of a mask, with the pixels on their left; holes are rings, too."""
    padded = np.pad(mask, 1)
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y, x in np.argwhere(padded):
        corners = [(x, y), (x, y + 1), (x + 1, y + 1), (x + 1, y)]
        neighbours = [(y, x - 1), (y + 1, x), (y, x + 1), (y - 1, x)]
        for number, neighbour in enumerate(neighbours):
            if not padded[neighbour]:
                edges.setdefault(corners[number], []).append(corners[(number + 1) % 4])
    rings = []
    while edges:
        start = point = next(iter(edges))
        ring = [start]
        while True:
            following = edges[point].pop()
            if not edges[point]:
                del edges[point]
            point = following
            ring.append(point)
            if point == start:
                break
        rings.append(np.array(ring, float) - 1)
    return rings


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_mask_traced_on_its_pixel_edges_is_painted_back(mask: NDArray[np.bool_]) -> None:
    rings = outlines(mask)
    features = [Feature("a", [rings], NO_POINTS)] if rings else []
    painted = rasterise(features, *mask.shape, lambda feature, index: 7)
    np.testing.assert_array_equal(painted, mask * 7)


def inside(rings: list[Ring], x: float, y: float) -> bool:
    """Tell by definition whether a point that lies on no edge is inside: a ray to the left, edge by edge."""
    crossings = 0
    for ring in rings:
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            if (y0 <= y) != (y1 <= y):
                crossings += bool(x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x)
    return crossings % 2 == 1


# Thirds never meet a pixel's centre, so that no rule for edges is needed.
coordinate = st.integers(-9, 36).map(lambda third: third / 3)


@given(st.lists(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=8), min_size=1, max_size=3))
@settings(deadline=None)
def test_a_pixel_is_painted_if_its_centre_is_inside(points: list[list[tuple[float, float]]]) -> None:
    rings = [np.array([*ring, ring[0]]) for ring in points]
    painted = rasterise([Feature(None, [rings], NO_POINTS)], 10, 11, lambda feature, index: 1)
    for row in range(10):
        for column in range(11):
            x, y = column + 0.5, row + 0.5
            edge_is_near = any(
                abs(x0 + (y - y0) * (x1 - x0) / (y1 - y0) - x) < 1e-9
                for ring in rings
                for (x0, y0), (x1, y1) in itertools.pairwise(ring)
                if (y0 <= y) != (y1 <= y)
            )
            assert edge_is_near or painted[row, column] == inside(rings, x, y)


def test_polygons_that_share_an_edge_through_centres_share_no_pixel() -> None:
    left = polygon([[0, 0], [2.5, 0], [2.5, 5], [0, 5], [0, 0]])
    right = polygon([[2.5, 0], [5, 0], [5, 5], [2.5, 5], [2.5, 0]])
    both = [rasterise([one], 5, 5, lambda feature, index: 1) for one in (left, right)]
    np.testing.assert_array_equal(both[0] + both[1], 1)
    np.testing.assert_array_equal(both[1][0], [0, 0, 1, 1, 1])


def test_later_features_cover_earlier_ones_and_the_value_is_the_callers() -> None:
    features = [polygon(SQUARE), polygon([[2, 2], [9, 2], [9, 9], [2, 9], [2, 2]])]
    painted = rasterise(features, 5, 5, lambda feature, index: index + 10)
    assert painted.dtype == np.int32
    assert painted[0, 0] == 10
    assert painted[3, 3] == 11
    assert painted[4, 0] == 0


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    hole = np.array([[1, 1], [2, 1], [2, 2.254]])
    with GeoJSONWriter(path) as writer:
        writer.add_polygon(
            [np.array(SQUARE), hole], label="Tumour é", colour=(1, 2, 3), measurements={"area_um2": np.float32(1.5)}
        )
        writer.add_point(2.5, 3.5, label="mitosis", colour=(4, 5, 6), object_type="detection")
    first, second = read_geojson(path)
    assert (first.label, second.label) == ("Tumour é", "mitosis")
    np.testing.assert_array_equal(first.polygons[0][0], SQUARE)
    np.testing.assert_array_equal(first.polygons[0][1], [[1, 1], [2, 1], [2, 2.25], [1, 1]])
    np.testing.assert_array_equal(second.points, [[2.5, 3.5]])
    properties = json.loads(path.read_text(encoding="utf-8"))["features"][0]["properties"]
    assert properties == {
        "objectType": "annotation",
        "classification": {"name": "Tumour é", "color": [1, 2, 3]},
        "measurements": {"area_um2": 1.5},
    }


def test_an_empty_collection_can_be_written_and_read(tmp_path: Path) -> None:
    with GeoJSONWriter(tmp_path / "a.geojson"):
        pass
    assert read_geojson(tmp_path / "a.geojson") == []


def test_long_outlines_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outline = np.array([[0, 0], [4.126, 0], [4, 4], [2, 5], [0, 4]])
    texts = []
    for points_at_once in (100, 6, 5, 1):
        monkeypatch.setattr("segkit.slides.geojson._POINTS_AT_ONCE", points_at_once)
        with GeoJSONWriter(tmp_path / "a.geojson") as writer:
            writer.add_polygon([outline, outline / 2], label="a", colour=(0, 0, 0))
        texts.append((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert texts[1:] == texts[:1] * 3
    polygon = json.loads(texts[0])["features"][0]["geometry"]
    assert polygon["coordinates"][0] == [[0, 0], [4.13, 0], [4, 4], [2, 5], [0, 4], [0, 0]]
    assert len(polygon["coordinates"]) == 2


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"), GeoJSONWriter(tmp_path / "a.geojson") as writer:
        writer.add_point(1, 2, label="a", colour=(0, 0, 0), measurements={"area": float("nan")})
    assert list(tmp_path.iterdir()) == []


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


POINT = {"type": "Point", "coordinates": [1, 2]}


@pytest.mark.parametrize(
    "content",
    [
        feature(POINT),
        [feature(POINT)],
        {"type": "FeatureCollection", "features": [feature(POINT)]},
        [feature({"type": "MultiPoint", "coordinates": [[1, 2, 0]]})],
    ],
)
def test_collections_lists_and_single_features(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    (only,) = read_geojson(path)
    np.testing.assert_array_equal(only.points, [[1, 2]])


@pytest.mark.parametrize(
    ("properties", "label"),
    [
        ({"classification": {"name": "Tumor"}}, "Tumor"),
        ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
        ({"classification": "Tumor"}, "Tumor"),
        ({"classification": None}, None),
        ({}, None),
    ],
)
def test_labels(tmp_path: Path, properties: dict[str, Any], label: str | None) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([feature(POINT, **properties)]))
    assert read_geojson(path)[0].label == label


def test_multipolygons_and_features_without_geometry(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    multi = {"type": "MultiPolygon", "coordinates": [[SQUARE], [SQUARE, [[1, 1], [2, 1], [2, 2]]]]}
    path.write_text(json.dumps([feature(multi), feature(None)]))
    first, second = read_geojson(path)
    assert [len(rings) for rings in first.polygons] == [1, 2]
    assert second.polygons == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"type": "Feature", \n  oops', "line 2, column 3"),
        ("", "line 1, column 1"),
        ("[NaN]", "NaN"),
        ("5", "holds no GeoJSON features"),
        ('{"type": "Topology"}', "holds no GeoJSON features"),
        ('{"type": "FeatureCollection"}', "holds no GeoJSON features"),
        ("[5]", "feature 1 .*no Feature"),
        (json.dumps([feature(POINT), feature({"type": "LineString", "coordinates": []})]), "feature 2 .*LineString"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]})), "feature 1 .*2 points"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[["a", 0]]]})), "feature 1"),
        (json.dumps(feature({"type": "Polygon"})), "feature 1 .*coordinates"),
        (json.dumps(feature({"type": "Point", "coordinates": [1e999, 2]})), "Infinity|not finite"),
        (json.dumps(feature({"type": "Point", "coordinates": 3})), "feature 1"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_damaged_files_are_one_line_with_the_place(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "bad.geojson"
    path.write_text(text)
    with pytest.raises(InputError, match=found) as error:
        read_geojson(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_or_missing(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("a.geojson", "missing.geojson"):
        with pytest.raises(InputError, match=name):
            read_geojson(tmp_path / name)
