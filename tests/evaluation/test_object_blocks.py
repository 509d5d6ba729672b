"""Overlaps gathered block by block are those of the whole image, however it is cut."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.evaluation import object_blocks
from segkit.evaluation.object_blocks import Block, match_blocks
from segkit.evaluation.objects import Overlaps, match_objects

Labels = NDArray[np.integer]


@st.composite
def images(draw: st.DrawFn) -> tuple[Labels, Labels, NDArray[np.bool_] | None]:
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    size = shape[0] * shape[1]
    ids = st.lists(st.sampled_from([0, 0, 1, 2, 5, -1, 2**40]), min_size=size, max_size=size)
    ignored = st.lists(st.booleans(), min_size=size, max_size=size)
    mask = draw(st.none() | ignored)
    return (
        np.array(draw(ids)).reshape(shape),
        np.array(draw(ids)).reshape(shape),
        None if mask is None else np.array(mask).reshape(shape),
    )


def cut(draw: st.DrawFn, image: tuple[Labels, Labels, NDArray[np.bool_] | None]) -> list[Block]:
    """Cut at random rows and each strip at random columns, and shuffle the pieces."""
    height, width = image[0].shape
    borders = [0, *sorted(draw(st.sets(st.integers(1, height), max_size=3))), height]
    blocks: list[Block] = []
    for top, bottom in itertools.pairwise(borders):
        sides = [0, *sorted(draw(st.sets(st.integers(1, width), max_size=3))), width]
        for left, right in itertools.pairwise(sides):
            truth, predicted, ignored = (None if one is None else one[top:bottom, left:right] for one in image)
            assert truth is not None
            assert predicted is not None
            blocks.append(
                (truth, predicted, ignored) if draw(st.booleans()) or ignored is not None else (truth, predicted)
            )
    return draw(st.permutations(blocks))


def assert_equal(one: Overlaps, other: Overlaps) -> None:
    for name, mine, theirs in zip(Overlaps._fields, one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
        assert mine.dtype == theirs.dtype, name


@settings(max_examples=80, deadline=None)
@given(st.data(), images(), st.sampled_from([0, 3, 500_000]))
def test_blocks_give_what_the_whole_gives(
    data: st.DataObject, image: tuple[Labels, Labels, NDArray[np.bool_] | None], waiting: int
) -> None:
    truth, predicted, ignored = image
    whole = match_objects(truth, predicted, ignored=ignored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_blocks, "_MAX_WAITING", waiting)
        assert_equal(match_blocks(cut(data.draw, image)), whole)


def test_what_is_kept_does_not_grow_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_blocks, "_MAX_WAITING", 10)
    merged = object_blocks.merge_runs
    sizes = []

    def watched(parts: list[object_blocks.Runs]) -> object_blocks.Runs:
        sizes.append(sum(len(part.lengths) for part in parts))
        return merged(parts)

    monkeypatch.setattr(object_blocks, "merge_runs", watched)
    # Four ids each: at most 16 pairs, and what shows them is more than a thousand times as much.
    rng = np.random.default_rng(0)
    block = rng.integers(0, 4, (2, 20, 30))
    overlaps = match_blocks((block[0], block[1]) for _ in range(1000))
    assert overlaps.intersections.sum() == 1000 * ((block[0] > 0) & (block[1] > 0)).sum()
    assert max(size for size in sizes if size != 600) <= max(600, 10 + 3 * 16 + 16)
    assert len(sizes) > 1000


def test_no_block_or_empty_ones_are_an_image_without_objects() -> None:
    empty = np.zeros((0, 4), np.int32)
    for blocks in ([], [(empty, empty)], [(np.zeros((2, 2), int), np.zeros((2, 2), int))]):
        overlaps = match_blocks(blocks)
        assert [len(one) for one in overlaps] == [0] * 7


def test_blocks_that_do_not_go_together_are_refused() -> None:
    ids = np.ones((2, 2), np.int64)
    with pytest.raises(ValueError, match="shapes differ"):
        match_blocks([(ids, ids[:1])])
    with pytest.raises(ValueError, match="together they are float64"):
        match_blocks([(ids, ids), (ids.astype(np.uint64), ids)])
