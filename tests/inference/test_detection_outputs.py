"""The files of a scan are whole or absent, say what the detector found, and can be read again."""

import csv
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segkit.errors import InputError, ResourceError
from segkit.geometry import Box
from segkit.inference.detect import DetectorSettings, MapGrid, detect
from segkit.inference.detection_outputs import (
    DETECTION_OUTPUTS,
    DETECTION_POINTS,
    DETECTION_TABLE,
    PROBABILITY,
    DetectionOutputs,
    read_detections,
)
from segkit.points import Detections
from segkit.slides import open_slide
from segkit.slides.geojson import read_geojson
from tests.processes import limited_file_size

CLASSES = ("background", "mitosis", "look, alike")
SETTINGS = DetectorSettings(nms_radius=5, lowest=(0.05, 0.05), smooth_radius=2)
GRID = MapGrid(stride=2, downsample=4.0)
HEADER = "x_px,y_px,score,label\n"


def score_map(height: int = 90, width: int = 130) -> NDArray[np.uint16]:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(height, width, 2)), (3, 3, 0))
    return (65535 / (1 + np.exp(-60 * (smooth - 0.1)))).round().astype(np.uint16)


def outputs(folder: Path, **changes: Any) -> DetectionOutputs:
    options = {"settings": SETTINGS, "thresholds": (0.3, 0.6), "grid": GRID, "mpp": 0.25, **changes}
    return DetectionOutputs(folder, 90, 130, CLASSES, **options)


def write(folder: Path, *, band: int = 32, **changes: Any) -> DetectionOutputs:
    scores = score_map()
    with outputs(folder, **changes) as written:
        for top in range(0, len(scores), band):
            written.write_rows(scores[top : top + band])
    return written


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / DETECTION_TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_candidates_are_what_the_detector_finds_and_detections_reach_their_threshold(tmp_path: Path) -> None:
    written = write(tmp_path)
    expected = detect(score_map(), SETTINGS, GRID)
    for one, other in zip(written.candidates, expected, strict=True):
        assert np.array_equal(one, other)
    reached = expected.scores >= np.array([0, 0.3, 0.6])[expected.classes]
    assert 20 < reached.sum() < len(expected.scores)
    for one, other in zip(written.detections, expected, strict=True):
        assert np.array_equal(one, other[reached])


def test_files_do_not_depend_on_where_rows_are_cut(tmp_path: Path) -> None:
    for band in (1, 7, 90):
        write(tmp_path / str(band), band=band)
    for name in DETECTION_OUTPUTS:
        assert len({(tmp_path / str(band) / name).read_bytes() for band in (1, 7, 90)}) == 1
    assert {path.name for path in (tmp_path / "1").iterdir()} == set(DETECTION_OUTPUTS)


def test_the_table_has_pixels_and_micrometres_by_descending_score(tmp_path: Path) -> None:
    found = write(tmp_path).detections
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
    with open_slide(tmp_path / PROBABILITY) as slide:
        assert slide.mpp is None


def test_points_are_features_with_a_score_and_pixel_centres_at_a_half(tmp_path: Path) -> None:
    scores = np.zeros((90, 130, 2), np.uint16)
    scores[0, 0, 0], scores[40, 70, 1] = 65535, 50000
    settings = DetectorSettings(nms_radius=5, lowest=(0.1, 0.1))
    with outputs(tmp_path, settings=settings, grid=MapGrid()) as written:
        written.write_rows(scores)
    first, second = read_geojson(tmp_path / DETECTION_POINTS)
    assert (first.label, first.points.tolist()) == ("mitosis", [[0.5, 0.5]])
    assert (second.label, second.points.tolist()) == ("look, alike", [[70.5, 40.5]])
    text = (tmp_path / DETECTION_POINTS).read_text()
    assert '"measurements":{"Score":0.762951}' in text
    assert '"objectType":"detection"' in text


def test_the_probability_is_the_foregrounds_at_the_scale_of_the_map(tmp_path: Path) -> None:
    write(tmp_path)
    scores = score_map().astype(np.float64)
    expected = np.minimum(1, scores.sum(axis=2) / 65535)
    with open_slide(tmp_path / PROBABILITY) as slide:
        pixels = slide.read(Box(0, 0, 90, 130), 0)[..., 0]
        assert slide.mpp == pytest.approx(0.25 * 4 * 2)
    assert np.abs(pixels / 255 - expected).max() <= 0.5 / 255 + 1e-9
    assert pixels.max() == 255


def test_a_map_without_detections_leaves_whole_files(tmp_path: Path) -> None:
    with outputs(tmp_path) as written:
        written.write_rows(np.zeros((90, 130, 2), np.uint16))
    assert len(written.detections.scores) == len(written.candidates.scores) == 0
    assert rows_of(tmp_path) == read_geojson(tmp_path / DETECTION_POINTS) == []
    assert read_detections(tmp_path / DETECTION_TABLE, CLASSES).positions.shape == (0, 2)


def test_a_failure_of_the_body_leaves_nothing(tmp_path: Path) -> None:
    def scan() -> None:
        with outputs(tmp_path / "out") as written:
            written.write_rows(score_map()[:50])
            raise InputError("tile 7 cannot be decoded")

    with pytest.raises(InputError, match="tile 7"):
        scan()
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_rows_are_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="50 of 90 rows"), outputs(tmp_path) as written:
        written.write_rows(score_map()[:50])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_at_the_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("segkit.inference.detect.suppress", fail)
    with pytest.raises(MemoryError):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_opened_takes_the_others_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("segkit.inference.detection_outputs.PyramidWriter.__enter__", fail)
    with pytest.raises(ResourceError, match="disk is full"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", DETECTION_OUTPUTS)
def test_on_a_full_disk_every_file_is_whole_or_absent(tmp_path: Path, name: str) -> None:
    """The disk has room for all files that are smaller than this one."""
    write(tmp_path / "whole")
    size = (tmp_path / "whole" / name).stat().st_size
    with limited_file_size(size - 1), pytest.raises(ResourceError, match="disk is full"):
        write(tmp_path / "out")
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert name not in left
    assert left <= set(DETECTION_OUTPUTS)
    for other in left:
        assert (tmp_path / "out" / other).read_bytes() == (tmp_path / "whole" / other).read_bytes()


@pytest.mark.parametrize("changes", [{"thresholds": (0.5,)}, {"settings": DetectorSettings(nms_radius=1, lowest=(0,))}])
def test_every_class_needs_its_thresholds(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need a threshold"):
        outputs(tmp_path, **changes)


def test_what_was_written_can_be_read(tmp_path: Path) -> None:
    found = write(tmp_path).detections
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
