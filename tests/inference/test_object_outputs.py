"""Objects as a table and polygons: level-0 numbers, whole files or none."""

import csv
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.errors import ResourceError, UsageError
from segkit.inference.joining import MapObject
from segkit.inference.object_outputs import OBJECT_COLUMNS, ObjectOutputs
from segkit.slides.geojson import read_geojson

CLASSES = ("background", "nucleus", "mitosis")
RING = np.array([[1, 0.5], [2, 1.5], [1, 2.5], [0, 1.5], [1, 0.5]])


def found(class_index: int = 1, area_px: int = 3) -> MapObject:
    return MapObject(
        class_index=class_index,
        rings=[RING, RING / 4],
        area_px=area_px,
        x=1.25,
        y=1.5,
        perimeter_px=10.3,
        probability=0.87654321,
    )


def outputs(folder: Path, **changes: Any) -> ObjectOutputs:
    arguments = {"origin": (1000.0, 2000.5), "downsample": 4.0, "mpp": 0.25, "min_area": 0.0} | changes
    return ObjectOutputs(folder, CLASSES, **arguments)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "objects.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_positions_and_sizes_are_those_of_level_0(tmp_path: Path) -> None:
    with outputs(tmp_path) as written:
        written.add(found(class_index=2))
        written.add(found())
    assert written.num_objects == 2
    first, second = rows_of(tmp_path)
    assert tuple(first) == OBJECT_COLUMNS
    assert (first["id"], first["class"], second["id"], second["class"]) == ("1", "mitosis", "2", "nucleus")
    # Position 1.25, 1.5 of the map: 4 level-0 pixels each, and the map begins at 2000.5, 1000.
    assert (float(first["x_px"]), float(first["y_px"])) == (2005.5, 1006)
    assert (float(first["x_um"]), float(first["y_um"])) == (501.375, 251.5)
    assert (float(first["area_px"]), float(first["area_um2"])) == (48, 3)
    assert (float(first["perimeter_px"]), float(first["perimeter_um"])) == (41.2, 10.3)
    assert first["probability"] == "0.8765"

    feature = read_geojson(tmp_path / "objects.geojson")[0]
    assert feature.label == "mitosis"
    assert feature.polygons[0][0].tolist() == (RING * 4 + np.array([2000.5, 1000])).tolist()
    assert feature.polygons[0][1].tolist() == (RING + np.array([2000.5, 1000])).tolist()
    properties = json.loads((tmp_path / "objects.geojson").read_text(encoding="utf-8"))["features"][0]["properties"]
    assert properties["objectType"] == "detection"
    assert properties["measurements"] == {"Area px": 48, "Probability": 0.87654321, "Area um2": 3}


def test_without_a_scale_there_are_no_micrometres(tmp_path: Path) -> None:
    with outputs(tmp_path, mpp=None, downsample=1.0, origin=(0.0, 0.0)) as written:
        written.add(found())
    (row,) = rows_of(tmp_path)
    assert [row[name] for name in OBJECT_COLUMNS if name.endswith(("_um", "_um2"))] == [""] * 4
    assert (row["x_px"], row["y_px"], row["area_px"]) == ("1.25", "1.5", "3.0")
    feature = json.loads((tmp_path / "objects.geojson").read_text(encoding="utf-8"))["features"][0]
    assert "Area um2" not in feature["properties"]["measurements"]


@pytest.mark.parametrize(("mpp", "min_area", "kept"), [(0.25, 3.0, 2), (0.25, 3.1, 1), (None, 4.0, 1), (None, 3.0, 2)])
def test_objects_that_are_too_small_are_left_out(tmp_path: Path, mpp: float | None, min_area: float, kept: int) -> None:
    # A map pixel has 4 x 0.25 = 1 um.
    with outputs(tmp_path, mpp=mpp, min_area=min_area) as written:
        written.add(found(area_px=3))
        written.add(found(area_px=5))
    assert written.num_objects == kept
    assert [row["id"] for row in rows_of(tmp_path)] == [str(number + 1) for number in range(kept)]
    assert len(read_geojson(tmp_path / "objects.geojson")) == kept


def test_without_objects_both_files_are_there(tmp_path: Path) -> None:
    with outputs(tmp_path):
        pass
    assert rows_of(tmp_path) == []
    assert read_geojson(tmp_path / "objects.geojson") == []


def test_after_an_error_neither_file_is_there(tmp_path: Path) -> None:
    def write() -> None:
        with outputs(tmp_path) as written:
            written.add(found())
            written.add(found(class_index=3))

    with pytest.raises(IndexError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_where_one_file_cannot_be_written_the_other_is_not_either(tmp_path: Path) -> None:
    (tmp_path / "objects.geojson").mkdir()
    with pytest.raises(UsageError, match=r"objects\.geojson: cannot be written"), outputs(tmp_path) as written:
        written.add(found())
    assert [path.name for path in tmp_path.iterdir()] == ["objects.geojson"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("segkit.files.os.fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"), outputs(tmp_path) as written:
        written.add(found())
    assert list(tmp_path.iterdir()) == []
