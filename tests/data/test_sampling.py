"""Patches: reproducible, class balanced, mirrored at the border."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.data.mined import Mined
from segkit.data.sampling import PatchSource, cut_mirrored, object_boxes, objects_of, sample_rng
from segkit.geometry import Box
from segkit.masks import IGNORE


def numbered(height: int, width: int) -> np.ndarray:
    """Return an image whose channels are row and column."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.zeros_like(y)], axis=-1).astype(np.uint8)


def source_of(masks: list[np.ndarray], patch_px: int, balanced: float, num_classes: int = 2) -> PatchSource:
    images = [numbered(*mask.shape) for mask in masks]
    targets = [mask[..., np.newaxis] for mask in masks]
    return PatchSource(images, targets, patch_px=patch_px, balanced=balanced, num_classes=num_classes)


def test_random_numbers_are_a_function_of_seed_step_and_index() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (2**32 - 1, 10**6, 10**4)]
    first = {key: sample_rng(*key).integers(2**63) for key in keys}
    assert {key: sample_rng(*key).integers(2**63) for key in reversed(keys)} == first
    assert len(set(first.values())) == len(keys)


def test_streams_of_neighbouring_samples_do_not_overlap() -> None:
    draws = [set(sample_rng(0, step, index).integers(2**63, size=500)) for step in range(3) for index in range(3)]
    assert len(set.union(*draws)) == 9 * 500


def test_a_sample_does_not_depend_on_those_drawn_before() -> None:
    mask = np.random.default_rng(0).integers(0, 2, (60, 70), dtype=np.uint8)
    source = source_of([mask, mask[:40]], 16, 0.5)
    order = list(range(20))
    forward = {index: source.draw(sample_rng(7, 3, index), 24) for index in order}
    backward = {index: source.draw(sample_rng(7, 3, index), 24) for index in reversed(order)}
    for index in order:
        assert np.array_equal(forward[index][0], backward[index][0])
        assert np.array_equal(forward[index][1], backward[index][1])
    assert len({forward[index][0].tobytes() for index in order}) > 15


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(0, 12), st.floats(0, 1), st.integers(0, 99)
)
def test_patch_lies_in_the_middle_of_its_context(
    height: int, width: int, patch_px: int, margin: int, balanced: float, index: int
) -> None:
    mask = np.random.default_rng(index).integers(0, 2, (height, width), dtype=np.uint8)
    source = source_of([mask], patch_px, balanced)
    patch, patch_mask = source.draw(sample_rng(0, 0, index), patch_px)
    context, context_mask = source.draw(sample_rng(0, 0, index), patch_px + 2 * margin)
    middle = slice(margin, margin + patch_px)
    assert patch.shape == (patch_px, patch_px, 3)
    assert np.array_equal(context[middle, middle], patch)
    assert np.array_equal(context_mask[middle, middle], patch_mask)
    # Image and mask belong together: the image tells from where every pixel comes.
    assert np.array_equal(mask[context[..., 0], context[..., 1]], context_mask[..., 0])
    if height >= patch_px and width >= patch_px:  # then the patch itself is not mirrored
        assert np.array_equal(patch[:, 0, 0], patch[0, 0, 0] + np.arange(patch_px))
        assert np.array_equal(patch[0, :, 1], patch[0, 0, 1] + np.arange(patch_px))


def test_balanced_patches_show_a_rare_class_as_often_as_the_others() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[20:23, 150:152] = 1
    mask[100:, :] = 2
    masks = [mask, np.zeros((50, 50), np.uint8)]
    num_draws = 600

    def share(balanced: float, label: int) -> float:
        source = source_of(masks, 16, balanced, num_classes=4)  # class 3 does not occur
        return np.mean([(source.draw(sample_rng(0, 0, i), 16)[1][..., 0] == label).any() for i in range(num_draws)])

    assert share(1.0, 1) == pytest.approx(1 / 3, abs=0.07)
    assert share(0.5, 1) == pytest.approx(1 / 6, abs=0.06)
    assert share(0.0, 1) < 0.03


def test_pixels_of_a_class_are_equally_likely_over_images_of_different_sizes() -> None:
    masks = [np.zeros((30, 30), np.uint8), np.zeros((20, 40), np.uint8)]
    masks[0][5, 5:8] = 1  # 3 pixels
    masks[1][15, 30] = 1  # 1 pixel
    source = source_of(masks, 1, 1.0)
    drawn = [tuple(source.draw(sample_rng(1, 0, i), 1)[0][0, 0, :2]) for i in range(2000)]
    rare = [place for place in drawn if place in {(5, 5), (5, 6), (5, 7), (15, 30)}]
    counts = [rare.count(place) for place in ((5, 5), (5, 6), (5, 7), (15, 30))]
    assert sum(counts) == pytest.approx(1000, abs=120)
    assert min(counts) > 0.7 * max(counts)


def test_unbalanced_positions_are_even() -> None:
    source = source_of([np.zeros((12, 12), np.uint8), np.zeros((8, 10), np.uint8)], 8, 0.0)
    drawn = [tuple(source.draw(sample_rng(2, 0, i), 8)[0][0, 0, :2]) for i in range(3000)]
    large = [place for place in drawn if place[0] > 0]
    assert len(set(drawn)) == 25
    assert len(large) == pytest.approx(3000 * 20 / 28, rel=0.1)  # 25 and 3 positions; row 0 is in both images


def test_patches_may_leave_their_image_by_as_much_as_is_said() -> None:
    mask = np.zeros((12, 20), np.uint8)
    mask[0, 0] = 1
    source = PatchSource([numbered(12, 20)], [mask[..., None]], patch_px=8, balanced=0.5, num_classes=2, beyond_px=3)
    drawn = [source.draw(sample_rng(4, 0, i), 8)[0][..., :2] for i in range(4000)]
    # Mirrored, the first pixel of a patch that begins 1 to 3 pixels before the image is one of its first three.
    assert len({patch.tobytes() for patch in drawn}) == (12 - 8 + 1 + 6) * (20 - 8 + 1 + 6)
    assert {int(patch[0, 0, 0]) for patch in drawn} == set(range(12 - 8 + 3 + 1))


def test_with_a_quarter_beyond_even_a_corner_lies_in_the_middle_half_of_patches() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[0, 0] = 1
    source = PatchSource([numbered(60, 60)], [mask[..., None]], patch_px=16, balanced=1.0, num_classes=2, beyond_px=4)
    drawn = [source.draw(sample_rng(5, 0, i), 16)[1][..., 0] for i in range(300)]
    # Of two classes it is one, so half of the patches are drawn around it.
    assert sum(int(target[4, 4]) for target in drawn) > 120


def test_an_image_smaller_than_patches_lies_in_their_middle_however_far_they_may_leave_it() -> None:
    target = np.zeros((5, 5, 1), np.uint8)
    source = PatchSource([numbered(5, 5)], [target], patch_px=16, balanced=0, num_classes=1, beyond_px=4)
    assert len({source.draw(sample_rng(6, 0, i), 16)[0].tobytes() for i in range(20)}) == 1


def test_not_labelled_pixels_are_no_class() -> None:
    mask = np.full((40, 40), IGNORE, np.uint8)
    mask[10, 10] = 0
    source = source_of([mask], 4, 1.0)
    assert all((source.draw(sample_rng(0, 0, i), 4)[1] == 0).any() for i in range(50))
    nothing = source_of([np.full((40, 40), IGNORE, np.uint8)], 4, 1.0)
    assert (nothing.draw(sample_rng(0, 0, 0), 4)[1] == IGNORE).all()


@given(st.integers(2, 12), st.integers(2, 12), st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 20))
def test_cut_is_the_part_of_the_mirrored_plane(height: int, width: int, y: int, x: int, size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    plane = np.pad(image, ((9, 30), (9, 30), (0, 0)), mode="reflect")
    assert np.array_equal(cut_mirrored(image, Box(y, x, size, size)), plane[y + 9 :, x + 9 :][:size, :size])


def test_a_cut_inside_copies_nothing() -> None:
    image = numbered(20, 20)
    assert np.shares_memory(cut_mirrored(image, Box(2, 3, 10, 10)), image)


def test_planes_are_cut_together_and_only_the_first_is_drawn_by() -> None:
    rng = np.random.default_rng(0)
    image = numbered(60, 70)
    target = rng.integers(0, 255, (60, 70, 3), dtype=np.uint8)
    target[..., 0] = 0
    target[40, 50, 0] = 1
    source = PatchSource([image], [target], patch_px=8, balanced=1.0, num_classes=3)
    hits = 0
    for number in range(100):
        place, planes = source.draw(sample_rng(0, 0, number), 12)
        assert planes.shape == (12, 12, 3)
        assert np.array_equal(planes, target[place[..., 0], place[..., 1]])
        hits += bool((planes[..., 0] == 1).any())
    assert 35 < hits < 75  # half of the patches, and no class 2, although the other planes hold that value


def test_objects_are_equally_likely_whatever_their_size() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[10:110, 10:110] = 1
    mask[150:152, 150:152] = 1
    mask[180:183, 20:23] = 1
    image = numbered(200, 200)
    boxes = object_boxes(objects_of(mask))
    assert sorted(boxes.tolist()) == [[10, 10, 100, 100, 1], [150, 150, 2, 2, 1], [180, 20, 3, 3, 1]]

    def share_of_small(objects: list[np.ndarray] | None) -> float:
        source = PatchSource(
            [image], [mask[..., np.newaxis]], patch_px=16, balanced=1.0, num_classes=2, objects=objects
        )
        drawn = [source.draw(sample_rng(0, 0, number), 16)[0][8, 8] for number in range(600)]
        return float(np.mean([place[0] > 140 and (place[1] > 140 or place[1] < 40) for place in drawn]))

    assert share_of_small([boxes]) > 1 / 3  # two of three objects, in half of the patches
    assert share_of_small(None) < 0.1


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_boxes_hold_all_of_their_object_and_no_more(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (height, width), p=[0.4, 0.3, 0.2, 0.1])
    labels = objects_of(mask)
    assert np.array_equal(labels > 0, (mask > 0) & (mask < IGNORE))
    boxes = object_boxes(labels, mask)
    ids = [number for number in np.unique(labels) if number]
    assert len(boxes) == len(ids)
    for (top, left, rows, columns, index), number in zip(boxes.tolist(), ids, strict=True):
        where = np.argwhere(labels == number)
        assert (where.min(axis=0) == (top, left)).all()
        assert (where.max(axis=0) == (top + rows - 1, left + columns - 1)).all()
        assert (mask[labels == number] == index).all()


def test_ids_may_be_large_and_objects_without_a_labelled_class_are_left_out() -> None:
    labels = np.zeros((6, 6), np.int64)
    labels[0:2, 0:3], labels[4:6, 4:6], labels[0, 5] = 2**40, 7, -3
    mask = np.ones((6, 6), np.uint8)
    mask[4:6] = IGNORE
    assert object_boxes(labels, mask).tolist() == [[0, 0, 2, 3, 1]]
    assert object_boxes(labels + (labels == 0)).shape == (3, 5)
    assert object_boxes(np.zeros((4, 4), np.int32)).shape == (0, 5)


def test_surroundings_of_hard_places_get_their_share_by_score() -> None:
    mask = np.zeros((100, 300), np.uint8)
    mined = [
        Mined(np.array([[50.5, 40.5], [50.5, 250.5]]), np.array([0.9, 0.3])),
        Mined(np.zeros((0, 2)), np.zeros(0)),
    ]
    source = PatchSource(
        [np.broadcast_to(np.arange(300) // 2, (3, 100, 300)).transpose(1, 2, 0).astype(np.uint8)] * 2,
        [mask[..., np.newaxis]] * 2, patch_px=8, balanced=0.0, num_classes=2, hard=mined, hard_share=1.0,
    )  # fmt: skip
    middles = np.array([int(source.draw(sample_rng(0, 0, number), 8)[0][4, 4, 0]) * 2 for number in range(400)])
    left, right = np.abs(middles - 40) <= 4, np.abs(middles - 250) <= 4
    assert (left | right).all()
    assert left.mean() == pytest.approx(0.75, abs=0.08)


def test_nothing_hard_leaves_patches_that_lie_anywhere() -> None:
    empty = [Mined(np.array([[5.0, 5.0]]), np.zeros(1))]
    mask = np.zeros((40, 40, 1), np.uint8)
    source = PatchSource(
        [numbered(40, 40)], [mask], patch_px=8, balanced=0.0, num_classes=2, hard=empty, hard_share=1.0
    )
    assert len({tuple(source.draw(sample_rng(0, 0, number), 8)[0][0, 0]) for number in range(100)}) > 60
