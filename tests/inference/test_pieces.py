"""What one block knows of its components: those that end within it wholly, of the others what lies in it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from segkit.inference.pieces import trace_block
from tests.inference.maps import blobs, contours_of, is_corner_needed

BORDERS = ("top", "bottom", "left", "right")


def components_of(mask: NDArray[np.uint8]) -> list[tuple[int, NDArray[np.bool_]]]:
    """Return class and area of all components in the order of a block: open ones first, then by first pixel."""
    found = []
    for index in range(1, 3):
        labels, count = ndimage.label(mask == index)
        found += [(index, labels == number) for number in range(1, count + 1)]
    return sorted(found, key=lambda one: (not border_of(one[1]).any(), int(np.flatnonzero(one[1])[0])))


def border_of(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.concatenate([area[0], area[-1], area[:, 0], area[:, -1]])


def chains_of(block: dict[str, NDArray[np.generic]]) -> list[tuple[int, bool, tuple[tuple[int, int], ...]]]:
    """Return component, whether it is a ring, and points of each chain."""
    stops = np.cumsum(block["chain_length"])[:-1].tolist()
    points = np.split(block["points"], stops) if len(block["chain_length"]) else []
    rows = zip(block["chain_owner"].tolist(), block["chain_closed"].tolist(), points, strict=True)
    return [(owner, closed, tuple(map(tuple, line.tolist()))) for owner, closed, line in rows]


def turned(ring: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    first = ring.index(min(ring))
    return tuple(ring[first:] + ring[:first])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 24), width=st.integers(1, 24))
def test_components_are_those_of_scipy(seed: int, height: int, width: int) -> None:
    mask, foreground = blobs(seed, height, width)
    block = trace_block(mask, foreground, 3)
    components = components_of(mask)
    assert block["class"].tolist() == [index for index, _ in components]
    ys, xs = np.indices(mask.shape)
    for number, (_, area) in enumerate(components):
        expected = [area.sum(), ys[area].sum(), xs[area].sum(), foreground[area].sum(dtype=int)]
        assert block["sums"][number].tolist() == expected
        lines = np.concatenate([block[name] for name in BORDERS])
        assert np.array_equal(lines == number + 1, border_of(area))
    lines = np.concatenate([block[name] for name in BORDERS])
    assert np.array_equal(lines > 0, border_of(mask > 0))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(2, 24), width=st.integers(2, 24))
def test_outlines_are_those_of_scikit_image(seed: int, height: int, width: int) -> None:
    mask, foreground = blobs(seed, height, width)
    block = trace_block(mask, foreground, 3)
    expected = set()
    segments = np.zeros_like(block["segments"])
    for number, (_, area) in enumerate(components_of(mask)):
        for contour in contours_of(area, is_corner_needed):
            points = [(int(y), int(x)) for y, x in np.round(2 * contour)]
            closed = points[0] == points[-1]
            expected.add((number, closed, turned(points[:-1]) if closed else tuple(points)))
        for contour in contours_of(area, lambda *_: True):
            steps = np.hypot(*np.diff(contour, axis=0).T)
            segments[number] += [(steps > 0.9).sum(), (steps < 0.9).sum()]
    chains = chains_of(block)
    assert set(chains) == expected
    assert len(chains) == len(expected)
    assert np.array_equal(block["segments"], segments)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_chains_are_sorted_by_component_and_the_outline_comes_before_its_holes(seed: int) -> None:
    mask, foreground = blobs(seed, 30, 30)
    chains = chains_of(trace_block(mask, foreground, 3))
    for (owner, _, points), (next_owner, _, next_points) in itertools.pairwise(chains):
        assert (owner, points[0]) < (next_owner, next_points[0])


def test_a_finished_component_with_a_hole_and_an_open_one() -> None:
    mask = np.zeros((6, 9), np.uint8)
    mask[1:4, 1:4] = 2
    mask[2, 2] = 0
    mask[4:, 7] = 1
    block = trace_block(mask, np.full_like(mask, 100), 3)
    assert block["class"].tolist() == [1, 2]
    assert block["sums"].tolist() == [[2, 9, 14, 200], [8, 16, 16, 800]]
    # The open one has two straight segments and half a round end; the corners of the other are cut.
    assert block["segments"].tolist() == [[2, 2], [8, 8]]
    diamond = ((3, 4), (4, 5), (5, 4), (4, 3))
    assert chains_of(block)[0] == (0, False, ((10, 13), (8, 13), (7, 14), (8, 15), (10, 15)))
    assert set(chains_of(block)[2][2]) == set(diamond)
    assert block["bottom"].tolist() == [0] * 7 + [1, 0]
    assert [block[name].any() for name in ("top", "left", "right")] == [False] * 3


def test_a_block_without_objects_and_one_that_is_an_object() -> None:
    empty = np.zeros((3, 4), np.uint8)
    block = trace_block(empty, empty, 2)
    assert [len(block[name]) for name in ("class", "sums", "segments", "chain_owner", "points")] == [0] * 5
    block = trace_block(np.ones((1, 4), np.uint8), empty[:1], 2)
    assert block["sums"].tolist() == [[4, 0, 6, 0]]
    assert len(block["points"]) == 0
    assert [block[name].tolist() for name in ("top", "left")] == [[1, 1, 1, 1], [1]]


def test_sums_of_a_large_full_block_are_exact() -> None:
    mask = np.full((1024, 1024), 1, np.uint8)
    block = trace_block(mask, np.full_like(mask, 255), 2)
    total = 1024 * 1023 * 1024 // 2
    assert block["sums"].tolist() == [[1024**2, total, total, 255 * 1024**2]]


def test_arrays_are_compact_and_can_be_stored_as_they_lie() -> None:
    block = trace_block(*blobs(1, 40, 30), 3)
    kinds = {"class": "uint8", "sums": "int64", "chain_closed": "bool", "points": "int16"}
    assert {name: array.dtype.name for name, array in block.items()} == {
        name: kinds.get(name, "int32") for name in block
    }
    assert all(array.flags.c_contiguous for array in block.values())


def test_what_cannot_be_a_block_is_refused() -> None:
    mask = np.full((3, 3), 2, np.uint8)
    with pytest.raises(ValueError, match="class 2"):
        trace_block(mask, mask, 2)
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(3, 2\)"):
        trace_block(mask, mask[:, :2], 3)
    with pytest.raises(ValueError, match="1 to 16384"):
        trace_block(np.zeros((1, 2**14 + 1), np.uint8), np.zeros((1, 2**14 + 1), np.uint8), 3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_views_of_a_larger_map_are_traced_like_copies(seed: int) -> None:
    mask, foreground = blobs(seed, 30, 30)
    cut = slice(3, 20), slice(5, 27)
    views, copies = (
        trace_block(*arrays, 3) for arrays in ((mask[cut], foreground[cut]), (mask[cut].copy(), foreground[cut].copy()))
    )
    assert all(np.array_equal(views[name], copies[name]) for name in copies)
