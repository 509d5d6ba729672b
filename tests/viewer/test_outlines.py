"""Outlines are found by where they lie: all that a view needs, none twice, as fine as asked for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks import colour_of_class
from segkit.slides.geojson import GeoJSONWriter
from segkit.viewer import outlines as module
from segkit.viewer.outlines import FINEST_GRID, MAX_DETAIL, MOST_BLOCKS, Outlines, block_sizes, rounded_ring

HEIGHT, WIDTH = 5000, 7000
LABELS = ("tumour", "stroma")
Ring = NDArray[np.float64]


def draw_rings(number: int = 400) -> list[Ring]:
    """Return rings of all sizes, a few of them larger than the slide, some reaching beyond it."""
    rng = np.random.default_rng(0)
    corners = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    shape = np.stack([np.cos(corners), np.sin(corners)], axis=1)
    return [
        (rng.uniform(0, (WIDTH, HEIGHT)) + shape * 10 ** rng.uniform(0, 3.6)).round(2) for _ in range(number)
    ]  # fmt: skip


def write(path: Path, rings: list[Ring]) -> Path:
    with GeoJSONWriter(path) as geojson:
        for number, ring in enumerate(rings):
            geojson.add_polygon([ring], label=LABELS[number % 2], colour=colour_of_class(1), object_type="detection")
    return path


class StoppedError(Exception):
    pass


def quiet(share: float) -> None:
    assert 0 <= share <= 1


@pytest.fixture(scope="module")
def rings() -> list[Ring]:
    return draw_rings()


@pytest.fixture(scope="module")
def outlines(rings: list[Ring], tmp_path_factory: pytest.TempPathFactory) -> Outlines:
    return Outlines(write(tmp_path_factory.mktemp("objects") / "objects.geojson", rings), HEIGHT, WIDTH, quiet)


def positions(steps: list[int], detail: int) -> Ring:
    """Return a ring as the page reads it."""
    return np.array(steps).reshape(-1, 2).cumsum(axis=0) * (2**detail / FINEST_GRID)


def test_every_object_is_in_one_block(outlines: Outlines, rings: list[Ring]) -> None:
    found = []
    for number, size in enumerate(outlines.sizes):
        counts = outlines.counts(number)
        assert counts.shape == (size.rows, size.columns)
        for row, column in np.argwhere(counts):
            block = outlines.block(number, int(row), int(column), 0)
            assert len(block) == counts[row, column]
            found += [one["id"] for one in block]
    assert sorted(found) == list(range(1, len(rings) + 1))
    assert outlines.num_objects == len(rings)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1, WIDTH))
def test_a_view_needs_only_blocks_that_it_meets_when_they_are_grown_by_half(
    outlines: Outlines, rings: list[Ring], across: float, down: float, side: float
) -> None:
    left, top = across * WIDTH - side / 2, down * HEIGHT - side / 2
    right, bottom = left + side, top + side
    seen = set()
    for number, size in enumerate(outlines.sizes):
        counts = outlines.counts(number)
        # As outlines.js chooses them.
        rows = range(
            max(0, int(np.floor(top / size.side_px - 0.5))), min(size.rows - 1, int(bottom / size.side_px + 0.5)) + 1
        )
        columns = range(
            max(0, int(np.floor(left / size.side_px - 0.5))), min(size.columns - 1, int(right / size.side_px + 0.5)) + 1
        )
        seen |= {
            one["id"]
            for row in rows
            for column in columns
            if counts[row, column]
            for one in outlines.block(number, row, column, MAX_DETAIL)
        }
    inside = {
        number
        for number, ring in enumerate(rings, start=1)
        # Of those whose middle is off the slide no more is promised: predictions have none.
        if np.all((_middle(ring) >= 0) & (_middle(ring) <= (WIDTH, HEIGHT)))
        and np.all(ring.min(axis=0) <= (right, bottom))
        and np.all(ring.max(axis=0) >= (left, top))
        and np.ptp(ring, axis=0).max() <= outlines.sizes[-1].side_px
    }
    assert inside <= seen


def _middle(ring: Ring) -> Ring:
    middle: Ring = (ring.min(axis=0) + ring.max(axis=0)) / 2
    return middle


def test_outlines_are_those_of_the_file(outlines: Outlines, rings: list[Ring]) -> None:
    for number, size in enumerate(outlines.sizes):
        for row, column in np.argwhere(outlines.counts(number)):
            assert size.side_px > 0
            for one in outlines.block(number, int(row), int(column), 0):
                (steps,) = one["rings"]
                ring = rings[one["id"] - 1]
                assert outlines.labels[one["label"]] == LABELS[(one["id"] - 1) % 2]
                shown = positions(steps, 0)
                # Closed in the file; and every corner is a sixteenth of a pixel away at most.
                distance = np.abs(shown[:, None] - ring[None]).max(axis=2)
                assert distance.min(axis=0).max() <= 0.5 / FINEST_GRID + 1e-9
                assert distance.min(axis=1).max() <= 0.5 / FINEST_GRID + 1e-9


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(3, 30), st.just(2)), elements=st.floats(-1e5, 1e5)),
    st.integers(0, MAX_DETAIL),
)
def test_a_ring_is_rounded_to_its_grid_and_repeats_no_point(ring: Ring, detail: int) -> None:
    steps = rounded_ring(ring.tolist(), detail)
    shown = positions(steps, detail)
    grid = 2**detail / FINEST_GRID
    assert all(isinstance(step, int) for step in steps)
    assert np.abs(shown[0] - ring[0]).max() <= grid / 2 * (1 + 1e-9)
    assert np.abs(shown[-1] - ring[-1]).max() <= grid / 2 * (1 + 1e-9)
    assert len(shown) <= len(ring)
    assert np.all(np.any(np.diff(shown, axis=0) != 0, axis=1))


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_blocks_cover_any_slide_and_are_not_many(height: int, width: int) -> None:
    sizes = block_sizes(height, width)
    assert sizes[0].rows * sizes[0].columns <= MOST_BLOCKS
    assert (sizes[-1].rows, sizes[-1].columns) == (1, 1)
    for size in sizes:
        assert size.rows * size.side_px >= height > (size.rows - 1) * size.side_px
        assert size.columns * size.side_px >= width > (size.columns - 1) * size.side_px


def test_no_objects_are_no_problem(tmp_path: Path) -> None:
    outlines = Outlines(write(tmp_path / "objects.geojson", []), 100, 100, quiet)
    assert (outlines.num_objects, outlines.labels) == (0, [])
    assert outlines.counts(0).sum() == 0
    assert outlines.block(0, 0, 0, 0) == []


def test_holes_are_kept(tmp_path: Path) -> None:
    outer = np.array([(0, 0), (9, 0), (9, 9), (0, 9)], float)
    with GeoJSONWriter(tmp_path / "objects.geojson") as geojson:
        geojson.add_polygon([outer, outer / 3 + 2], label="a", colour=(0, 0, 0))
    (found,) = Outlines(tmp_path / "objects.geojson", 10, 10, quiet).block(0, 0, 0, 0)
    assert len(found["rings"]) == 2


@pytest.mark.parametrize("block", [(9, 0, 0, 0), (0, 20, 0, 0), (0, 0, 28, 0), (0, 0, 0, 21)])
def test_there_is_nothing_outside(outlines: Outlines, block: tuple[int, int, int, int]) -> None:
    with pytest.raises(LookupError):
        outlines.block(*block)


def test_reading_says_how_far_it_is_and_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINES_BETWEEN_REPORTS", 10)
    path = write(tmp_path / "objects.geojson", draw_rings(100))
    shares: list[float] = []
    Outlines(path, HEIGHT, WIDTH, shares.append)
    assert len(shares) == 10
    assert shares == sorted(shares)

    def stop(share: float) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        Outlines(path, HEIGHT, WIDTH, stop)


GOOD = '{"type": "FeatureCollection", "features": [\n'
POINT = (
    '{"type":"Feature","geometry":{"type":"Point","coordinates":[1,2]},"properties":{"classification":{"name":"a"}}}'
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no file of objects"),
        ('{"type":"FeatureCollection","features":[]}', "no file of objects"),
        (GOOD, "ends in the middle"),
        (GOOD + POINT + "\n]}\n", "object 1 .*Point"),
        (GOOD + POINT.replace("Point", "Polygon") + "\n]}\n", "object 1 "),
        (
            GOOD + POINT.replace("Point", "Polygon").replace("[1,2]", "[[[1,2],[1e999,3],[3,4]]]") + "\n]}\n",
            "object 1 ",
        ),
        (GOOD + '{"type":\n]}\n', "object 1 "),
        (GOOD + "[" * 100_000 + "\n]}\n", "object 1 "),
        (GOOD + "x" * 2000 + "\n]}\n", "no file of objects"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    if "x" * 2000 in text:
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "objects.geojson"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        Outlines(path, HEIGHT, WIDTH, quiet)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Outlines(tmp_path / "objects.geojson", HEIGHT, WIDTH, quiet)


def test_a_file_that_changes_later_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "objects.geojson", draw_rings(1))
    outlines = Outlines(path, 10**5, 10**5, quiet)
    path.write_bytes(b"something else that is long enough to be read from" * 20)
    size = next(number for number in range(len(outlines.sizes)) if outlines.counts(number).any())
    ((row, column),) = np.argwhere(outlines.counts(size)).tolist()
    with pytest.raises(InputError, match="object 1 "):
        outlines.block(size, row, column, 0)
