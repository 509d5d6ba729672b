"""The files of a scan are whole or absent, say what the detector found, and can be read again."""

import csv
import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segkit.errors import InputError, ResourceError
from segkit.inference.detect import DetectorSettings, MapGrid, detect
from segkit.inference.detection_outputs import (
    DETECTION_POINTS,
    DETECTION_TABLE,
    foreground_of,
    reaching,
    read_detections,
    write_detections,
)
from segkit.points import Detections
from segkit.slides.geojson import read_geojson
from tests.processes import limited_file_size

CLASSES = ("background", "mitosis", "look, alike")
SETTINGS = DetectorSettings(nms_radius=5, lowest=(0.05, 0.05), smooth_radius=2)
THRESHOLDS = (0.3, 0.6)
GRID = MapGrid(stride=2, downsample=4.0)
HEADER = "x_px,y_px,score,label\n"


def score_map(height: int = 90, width: int = 130) -> NDArray[np.uint16]:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(height, width, 2)), (3, 3, 0))
    return (65535 / (1 + np.exp(-60 * (smooth - 0.1)))).round().astype(np.uint16)


def found_on(scores: NDArray[np.uint16]) -> Detections:
    return reaching(detect(scores, SETTINGS, GRID), THRESHOLDS)


def write(folder: Path, mpp: float | None = 0.25) -> Detections:
    found = found_on(score_map())
    write_detections(folder, found, CLASSES, mpp)
    return found


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / DETECTION_TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_detections_reach_the_threshold_of_their_class() -> None:
    candidates = detect(score_map(), SETTINGS, GRID)
    found = found_on(score_map())
    reached = candidates.scores >= np.array([0, 0.3, 0.6])[candidates.classes]
    assert 20 < reached.sum() < len(candidates.scores)
    for one, other in zip(found, candidates, strict=True):
        assert np.array_equal(one, other[reached])


def test_a_score_at_its_threshold_is_reached() -> None:
    candidates = Detections(np.zeros((3, 2)), np.array([1, 2, 2]), np.array([0.5, 0.5, 0.25]))
    assert reaching(candidates, (0.5, 0.25)).scores.tolist() == [0.5, 0.5, 0.25]
    assert reaching(candidates, (0.75, 0.5)).classes.tolist() == [2]


def test_the_same_detections_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write(tmp_path / name)
    for name in (DETECTION_TABLE, DETECTION_POINTS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert {path.name for path in (tmp_path / "one").iterdir()} == {DETECTION_TABLE, DETECTION_POINTS}


def test_the_table_has_pixels_and_micrometres_by_descending_score(tmp_path: Path) -> None:
    found = write(tmp_path)
    rows = rows_of(tmp_path)
    assert list(rows[0]) == ["x_px", "y_px", "x_um", "y_um", "score", "label"]
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    assert [row["label"] for row in rows] == [CLASSES[index] for index in found.classes]
    for row, (y, x) in zip(rows, found.positions.tolist(), strict=True):
        assert (float(row["x_px"]), float(row["y_px"])) == pytest.approx((x, y), abs=0.005)
        assert (float(row["x_um"]), float(row["y_um"])) == pytest.approx((x * 0.25, y * 0.25), abs=0.0005)


def test_without_a_scale_there_are_no_micrometres(tmp_path: Path) -> None:
    write(tmp_path, mpp=None)
    assert {row["x_um"] + row["y_um"] for row in rows_of(tmp_path)} == {""}


def test_points_are_features_with_a_score_and_pixel_centres_at_a_half(tmp_path: Path) -> None:
    scores = np.zeros((90, 130, 2), np.uint16)
    scores[1, 1, 0], scores[40, 70, 1] = 65535, 50000
    found = detect(scores, DetectorSettings(nms_radius=5, lowest=(0.1, 0.1)))
    write_detections(tmp_path, found, CLASSES, 0.25)
    first, second = read_geojson(tmp_path / DETECTION_POINTS)
    assert (first.label, first.points.tolist()) == ("mitosis", [[1.5, 1.5]])
    assert (second.label, second.points.tolist()) == ("look, alike", [[70.5, 40.5]])
    text = (tmp_path / DETECTION_POINTS).read_text()
    assert '"measurements":{"Score":0.762951}' in text
    assert '"objectType":"detection"' in text


@given(st.integers(1, 4), st.integers(0, 10**6), st.sampled_from([300, 40000, 65536]))
def test_the_foreground_is_the_sum_of_its_classes(num_classes: int, seed: int, limit: int) -> None:
    scores = np.random.default_rng(seed).integers(0, limit, (7, 9, num_classes), dtype=np.uint16)
    found = foreground_of(scores)
    assert (found.dtype, found.shape) == (np.uint8, (7, 9))
    assert np.abs(found / 255 - np.minimum(1, scores.sum(axis=2) / 65535)).max() <= 0.5 / 255 + 1e-9


def test_nothing_and_everything_are_foregrounds_of_0_and_255() -> None:
    assert foreground_of(np.zeros((1, 1, 2), np.uint16)).tolist() == [[0]]
    assert foreground_of(np.full((1, 1, 3), 65535, np.uint16)).tolist() == [[255]]
    assert foreground_of(np.array([[[128, 0], [128, 1]]], np.uint16)).tolist() == [[0, 1]]


def test_a_map_without_detections_leaves_whole_files(tmp_path: Path) -> None:
    write_detections(tmp_path, found_on(np.zeros((90, 130, 2), np.uint16)), CLASSES, 0.25)
    assert rows_of(tmp_path) == read_geojson(tmp_path / DETECTION_POINTS) == []
    assert read_detections(tmp_path / DETECTION_TABLE, CLASSES).positions.shape == (0, 2)


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    found = found_on(score_map())
    with pytest.raises(IndexError):
        write_detections(tmp_path / "out", found._replace(classes=np.full(len(found.classes), 7)), CLASSES, 0.25)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_cannot_be_opened_takes_the_other_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("segkit.inference.detection_outputs.GeoJSONWriter.__enter__", fail)
    with pytest.raises(ResourceError, match="disk is full"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [DETECTION_TABLE, DETECTION_POINTS])
def test_a_disk_that_is_too_small_for_either_file_has_none_of_both(tmp_path: Path, name: str) -> None:
    write(tmp_path / "whole")
    size = (tmp_path / "whole" / name).stat().st_size
    with limited_file_size(size - 1), pytest.raises(ResourceError, match="disk is full"):
        write(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_was_written_can_be_read(tmp_path: Path) -> None:
    found = write(tmp_path)
    read = read_detections(tmp_path / DETECTION_TABLE, CLASSES)
    assert np.abs(read.positions - found.positions).max() <= 0.00501
    assert np.array_equal(read.classes, found.classes)
    assert np.abs(read.scores - found.scores).max() <= 5.1e-7
    assert [values.dtype for values in read] == [np.float64, np.int64, np.float64]


@given(
    st.lists(
        st.tuples(
            st.integers(-(10**6), 10**9), st.integers(0, 10**9), st.integers(0, 10**6), st.sampled_from(CLASSES[1:])
        ),
        max_size=20,
    )
)
def test_rows_in_any_order_are_read_by_descending_score(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, str]]
) -> None:
    path = tmp_path_factory.mktemp("read") / "detections.csv"
    lines = [f'{x / 100},{y / 100},{score / 1e6},"{label}"\n' for x, y, score, label in rows]
    path.write_text(HEADER + "".join(lines))
    read = read_detections(path, CLASSES)
    expected = sorted(rows, key=lambda row: -row[2])
    assert isinstance(read, Detections)
    assert read.positions.tolist() == [[y / 100, x / 100] for x, y, _, _ in expected]
    assert read.classes.tolist() == [CLASSES.index(label) for *_, label in expected]
    assert read.scores.tolist() == [score / 1e6 for _, _, score, _ in expected]


def test_other_tools_tables_have_x_and_y_and_more_columns(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(b"\xef\xbb\xbfid,label,score,y,x\r\n7, mitosis ,0.5,20,10.25\r\n")
    assert read_detections(path, CLASSES).positions.tolist() == [[20.0, 10.25]]
    path.write_text("x,y,x_px,y_px,score,label\n1,2,30,40,1,mitosis\n")
    assert read_detections(path, CLASSES).positions.tolist() == [[40.0, 30.0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "needs the columns x_px, y_px, score and label, and has: none"),
        (b"x_px,y_px,score\n1,2,0.5\n", "and has: x_px, y_px, score"),
        (b"\xff\xfe\x00x", "no CSV file in UTF-8"),
        (HEADER.encode() + b'1,2,0.5,"mitosis\n', "no CSV file in UTF-8"),
        (HEADER.encode() + b"1,2,0.5,mitosis\n1,2,1.5,mitosis\n", "line 3: the score is 1.5, and must be from 0 to 1"),
        (HEADER.encode() + b"1,,0.5,mitosis\n", "line 2: y is '', which is no number"),
        (HEADER.encode() + b"1,2,nan,mitosis\n", "line 2: score is 'nan', which is no number"),
        (HEADER.encode() + b"inf,2,0.5,mitosis\n", "line 2: x is 'inf', which is no number"),
        (HEADER.encode() + b"1,2,0.5\n", "line 2: the label is '', which is none of the classes"),
        (
            HEADER.encode() + b"1,2,0.5,background\n",
            "'background', which is none of the classes (mitosis, look, alike)",
        ),
    ],
)
def test_broken_tables_are_refused_with_their_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "detections.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_detections(path, CLASSES)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_table_is_an_input_error_and_many_problems_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.csv: cannot be opened"):
        read_detections(tmp_path / "missing.csv", CLASSES)
    (tmp_path / "many.csv").write_text(HEADER + "1,2,0.5,nucleus\n" * 50)
    with pytest.raises(InputError) as caught:
        read_detections(tmp_path / "many.csv", CLASSES)
    assert len(caught.value.problems) == 11
    assert "50" in caught.value.problems[-1]
