"""Patches around points and beside them: what lies in the middle decides the class, and (seed, step, i) decides all."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.config import AugmentConfig
from segkit.data.augment import Augmenter
from segkit.data.point_sampling import NEUTRAL, Mined, PointSource, Shares
from segkit.data.presets import resolve_augment
from segkit.data.sampling import sample_rng
from segkit.points import Points

PATCH_PX = 9
SHARES = Shares(positives=0.35, near_misses=0.25, hard_negatives=0.2)
NEGATIVES_ONLY = Shares(positives=0.0, near_misses=0.0, hard_negatives=0.0)
HARD_ONLY = Shares(positives=0.0, near_misses=0.0, hard_negatives=1.0)
DRAWS = 4000


class Drawn(NamedTuple):
    """Image, row and column of the middle pixels, and their classes; (N,) each."""

    number: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    label: NDArray[np.int64]

    def distance(self, position: Sequence[float]) -> NDArray[np.float64]:
        """Return how far the middle pixels' centres are from a position."""
        return np.hypot(self.y + 0.5 - position[0], self.x + 0.5 - position[1])


def numbered_image(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return an image whose pixels say where they are: row, column, image."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], axis=2).astype(np.uint8)


def labelled(*rows: tuple[float, float, int]) -> Points:
    table = np.array(rows, np.float64).reshape(-1, 3)
    return Points(table[:, :2], table[:, 2].astype(np.int64))


def source_of(
    sizes: Sequence[tuple[int, int]],
    points: Sequence[Points],
    *,
    positive_px: float = 3.0,
    near_px: float = 12.0,
    shares: Shares = SHARES,
    mined: Sequence[Mined] | None = None,
    patch_px: int = PATCH_PX,
) -> PointSource:
    return PointSource(
        [numbered_image(number, *size) for number, size in enumerate(sizes)],
        points,
        patch_px=patch_px,
        positive_px=positive_px,
        near_px=near_px,
        shares=shares,
        mined=mined,
    )


def draw_many(source: PointSource, count: int = DRAWS, *, seed: int = 0) -> Drawn:
    found = []
    middle = source.patch_px // 2
    for number in range(count):
        image, mask = source.draw(sample_rng(seed, 0, number), source.patch_px)
        assert image.shape == (source.patch_px, source.patch_px, 3)
        assert image.dtype == mask.dtype == np.uint8
        assert mask.shape == (*image.shape[:2], 1)
        assert (mask == mask[0, 0]).all()
        y, x, picture = image[middle, middle].tolist()
        found.append((picture, y, x, int(mask[0, 0, 0])))
    return Drawn(*np.array(found, np.int64).T)


def share_is(part: NDArray[np.bool_], expected: float) -> bool:
    """Tell whether a share is what is expected, up to five standard deviations (one test in two million fails)."""
    return abs(part.mean() - expected) <= 5 * (expected * (1 - expected) / len(part)) ** 0.5 + 1e-9


POINTS = [
    labelled((20.5, 30.5, 1), (60.2, 41.7, 2), (100.0, 10.0, 0)),
    labelled((5.0, 5.0, 1), (70.9, 70.9, 1), (33.3, 61.5, 2), (50.0, 20.0, 0)),
    labelled(),
]
SIZES = [(128, 90), (90, 128), (70, 60)]
MINED = [
    Mined(np.array([[110.5, 60.5], [90.0, 80.0]]), np.array([0.9, 0.3])),
    Mined(np.empty((0, 2)), np.empty(0)),
    Mined(np.array([[10.5, 10.5]]), np.array([0.6])),
]


def test_a_sample_is_a_pure_function_of_seed_step_and_number() -> None:
    def drawn(source: PointSource, *key: int) -> tuple[bytes, bytes]:
        image, mask = source.draw(sample_rng(*key), 21)
        return image.tobytes(), mask.tobytes()

    one, other = (source_of(SIZES, POINTS, mined=MINED) for _ in range(2))
    keys = [(seed, step, number) for seed in (0, 7) for step in (0, 1, 2**31) for number in range(10)]
    forwards = {key: drawn(one, *key) for key in keys}
    backwards = {key: drawn(other, *key) for key in reversed(keys)}
    assert forwards == backwards
    assert len(set(forwards.values())) > 0.9 * len(keys)


@settings(max_examples=40)
@given(data=st.data())
def test_what_is_in_the_middle_decides_the_class(data: st.DataObject) -> None:
    """Whatever the points: positives at a point of their class, negatives away from all, every place in its image."""
    sizes = [(data.draw(st.integers(12, 60)), data.draw(st.integers(12, 60))) for _ in range(2)]
    points = []
    for height, width in sizes:
        positions = st.tuples(
            st.floats(0, height, exclude_max=True), st.floats(0, width, exclude_max=True), st.integers(0, 3)
        )
        points.append(labelled(*data.draw(st.lists(positions, max_size=6))))
    if not any((one.classes > 0).any() for one in points):
        points[0] = labelled((3.2, 4.9, 2))
    positive_px = data.draw(st.sampled_from([0.3, 1.0, 2.5, 6.0, 20.0]))
    source = source_of(sizes, points, positive_px=positive_px, near_px=data.draw(st.sampled_from([1.0, 15.0, 80.0])))
    found = draw_many(source, 60, seed=data.draw(st.integers(0, 2**32 - 1)))
    for number, y, x, label in zip(*found, strict=True):
        assert 0 <= y < sizes[number][0]
        assert 0 <= x < sizes[number][1]
        positions, classes = points[number]
        distances = np.hypot(*(positions - (y + 0.5, x + 0.5)).T)
        if label == 0:
            assert (distances[classes > 0] > NEUTRAL * positive_px).all()
        else:
            # A radius of less than a pixel may hold no pixel's centre: then it is the pixel that holds the point.
            holds = (np.floor(positions) == (y, x)).all(axis=1)
            assert ((distances <= positive_px) | holds)[classes == label].any()


def test_classes_and_then_their_points_are_drawn_evenly() -> None:
    many = [(10.5 + 8 * row, 10.5 + 8 * column, 1) for row in range(10) for column in range(10)]
    few = [(100.5, 100.5, 2), (100.5, 120.5, 2)]
    shares = Shares(positives=1.0, near_misses=0.0, hard_negatives=0.0)
    found = draw_many(source_of([(128, 128)], [labelled(*many, *few)], shares=shares))
    assert share_is(found.label == 1, 0.5)
    for y, x, _ in few:
        assert share_is(found.distance((y, x)) <= 3, 0.25)
    for y, x, _ in many[::17]:
        assert share_is(found.distance((y, x)) <= 3, 0.5 / len(many))


def test_positives_lie_at_every_pixel_around_their_point() -> None:
    shares = Shares(positives=1.0, near_misses=0.0, hard_negatives=0.0)
    found = draw_many(source_of([(64, 64)], [labelled((30.5, 31.5, 1))], positive_px=3, shares=shares))
    disk = {(y, x) for y in range(64) for x in range(64) if (y - 30) ** 2 + (x - 31) ** 2 <= 9}
    places = list(zip(found.y.tolist(), found.x.tolist(), strict=True))
    assert set(places) == disk
    assert min(places.count(one) for one in disk) > 0.6 * DRAWS / len(disk)


def test_every_kind_has_its_share() -> None:
    points = labelled((60.5, 60.5, 1), (200.5, 200.5, 0))
    found = draw_many(source_of([(256, 256)], [points], near_px=15))
    assert share_is(found.label == 1, SHARES.positives)
    near = (found.label == 0) & (found.distance((60.5, 60.5)) <= 15 + 0.71)  # to the middle of the pixel it fell into
    others = 1 - SHARES.positives - SHARES.near_misses - SHARES.hard_negatives
    assert share_is(near, SHARES.near_misses + others * np.pi * (15.7**2 - 4.5**2) / 256**2)
    hard = found.distance((200.5, 200.5)) <= 1.5
    assert share_is(hard, SHARES.hard_negatives + others * 9 / 256**2)
    assert (found.label[hard] == 0).all()
    # The rest lies anywhere: a quarter of it in each quarter of the image.
    anywhere = (found.label == 0) & ~near & ~hard
    for half in (found.y < 128, found.x < 128):
        assert abs(half[anywhere].mean() - 0.5) < 0.08


def test_the_share_of_hard_negatives_goes_to_others_where_there_are_none() -> None:
    found = draw_many(source_of([(256, 256)], [labelled((60.5, 60.5, 1))]))
    assert share_is(found.label == 1, SHARES.positives)
    far = found.distance((60.5, 60.5)) > 13
    assert share_is(far, (1 - SHARES.positives - SHARES.near_misses) * (1 - np.pi * 13**2 / 256**2))


def test_near_misses_are_in_a_ring_around_a_point() -> None:
    shares = Shares(positives=0.0, near_misses=1.0, hard_negatives=0.0)
    points = [labelled((40.5, 40.5, 1)), labelled((40.5, 40.5, 2), (64.5, 40.5, 0))]
    found = draw_many(source_of([(80, 80)] * 2, points, positive_px=4, near_px=10, shares=shares), 1000)
    distances = found.distance((40.5, 40.5))
    assert distances.min() > NEUTRAL * 4
    assert distances.max() <= 10 + 0.71
    assert share_is(found.number == 0, 0.5)
    for number in range(2):
        angles = np.arctan2(found.y - 40, found.x - 40)[found.number == number]
        assert np.histogram(angles, 4, (-np.pi, np.pi))[0].min() > 60


def test_a_near_radius_inside_the_neutral_ring_is_a_narrow_ring_outside() -> None:
    shares = Shares(positives=0.0, near_misses=1.0, hard_negatives=0.0)
    found = draw_many(source_of([(80, 80)], [labelled((40.5, 40.5, 1))], positive_px=6, near_px=2, shares=shares), 200)
    distances = found.distance((40.5, 40.5))
    assert distances.min() > 9
    assert distances.max() <= 10 + 0.71


def test_hard_negatives_are_drawn_by_their_scores() -> None:
    """Labelled look-alikes weigh 1, mined false positives their score; all lie a little around their place."""
    found = draw_many(source_of(SIZES, POINTS, shares=HARD_ONLY, mined=MINED))
    places = [
        (0, (100.0, 10.0), 1.0), (1, (50.0, 20.0), 1.0), (0, (110.5, 60.5), 0.9), (0, (90.0, 80.0), 0.3),
        (2, (10.5, 10.5), 0.6),
    ]  # fmt: skip
    total = sum(weight for *_, weight in places)
    assert (found.label == 0).all()
    seen = np.zeros(DRAWS, np.bool_)
    for number, position, weight in places:
        there = (found.number == number) & (found.distance(position) <= 1.5)
        assert share_is(there, weight / total)
        assert len({*zip(found.y[there].tolist(), found.x[there].tolist(), strict=True)}) > 3
        seen |= there
    assert seen.all()


def test_hard_negatives_are_never_at_a_point() -> None:
    """A look-alike beside an object, or a false positive of an earlier round that has been labelled since."""
    points = labelled((30.5, 30.5, 1), (31.5, 33.5, 0), (60.5, 60.5, 0))
    mined = [Mined(np.array([[30.5, 30.5], [28.5, 33.0]]), np.array([1.0, 1.0]))]
    found = draw_many(source_of([(90, 90)], [points], shares=HARD_ONLY, mined=mined), 1000)
    assert (found.label == 0).all()
    assert found.distance((30.5, 30.5)).min() > NEUTRAL * 3
    assert share_is(found.distance((60.5, 60.5)) <= 1.5, 1.0)


def test_hard_negatives_that_are_all_at_points_give_their_share_to_others() -> None:
    points = labelled((30.5, 30.5, 1), (30.5, 31.5, 0))
    found = draw_many(source_of([(90, 90)], [points], shares=HARD_ONLY), 300)
    assert found.distance((30.5, 30.5)).min() > NEUTRAL * 3
    assert found.distance((30.5, 30.5)).max() > 30


def test_images_without_points_are_places_of_negatives_in_proportion_to_their_size() -> None:
    sizes = [(40, 50), (100, 120), (1, 1), (20, 1)]
    points = [labelled((1.5, 1.5, 1)), labelled(), labelled(), labelled()]
    found = draw_many(source_of(sizes, points, positive_px=0.5, shares=NEGATIVES_ONLY))
    areas = np.array([height * width for height, width in sizes])
    for number, area in enumerate(areas):
        assert share_is(found.number == number, area / areas.sum())
    assert (found.label == 0).all()


def test_crowded_images_have_negatives_only_where_there_is_room() -> None:
    crowd = [(y + 0.5, x + 0.5, 1) for y in range(0, 60, 4) for x in range(0, 60, 4)]
    found = draw_many(source_of([(60, 72)], [labelled(*crowd)], positive_px=4), 500)
    negatives = found.x[found.label == 0]
    assert len(negatives) > 0.5 * 500
    assert negatives.min() > 56 + 6 - 1


def test_images_that_are_nothing_but_objects_give_positives_and_do_not_hang() -> None:
    """A place that is called background there would be wrong."""
    crowd = [(y + 0.5, x + 0.5, 1 + (x > 20)) for y in range(0, 40, 4) for x in range(0, 40, 4)]
    found = draw_many(source_of([(40, 40)], [labelled(*crowd, (3.0, 3.0, 0))], positive_px=6), 200)
    assert (found.label > 0).all()
    assert share_is(found.label == 1, 0.5)


@pytest.mark.parametrize("patch_px", [9, 10, 33])
@pytest.mark.parametrize("margin", [0, 1, 12, 60])
def test_a_context_is_mirrored_only_where_it_leaves_the_image(patch_px: int, margin: int) -> None:
    source = source_of([(40, 31), (12, 50)], [labelled((0.5, 0.5, 1), (39.5, 30.5, 1)), labelled()], patch_px=patch_px)
    side = patch_px + 2 * margin
    for number in range(60):
        image, mask = source.draw(sample_rng(0, 3, number), side)
        assert mask.shape == (side, side, 1)
        patch, label = source.draw(sample_rng(0, 3, number), patch_px)
        y, x, which = patch[patch_px // 2, patch_px // 2].tolist()
        pad = side
        padded = np.pad(source.images[which], ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        top, left = (pad + place - patch_px // 2 - margin for place in (y, x))
        assert np.array_equal(image, padded[top : top + side, left : left + side])
        assert mask[0, 0, 0] == label[0, 0, 0]


@pytest.mark.parametrize("patch_px", [32, 33])
def test_augmentation_keeps_in_the_middle_what_is_there(patch_px: int) -> None:
    """Rotated by any angle, magnified, mirrored: the object that gave the class does not leave its place."""
    rows, columns = np.mgrid[:101, :101] + 0.5
    images = []
    positions = [(50.5, 50.5), (20.5, 50.5), (81.5, 82.5)]  # also where some of the surroundings are mirrored
    for y, x in positions:
        disk = np.hypot(rows - y, columns - x) <= 4
        images.append(np.where(disk, 0, 255).astype(np.uint8)[..., np.newaxis])
    geometric = AugmentConfig(preset="none", flips=True, rotate_degrees=180, scale=(0.8, 1.25), shear_degrees=5)
    augmenter = Augmenter(resolve_augment(geometric, 1), patch_px)
    assert augmenter.context_px > patch_px
    for image, position in zip(images, positions, strict=True):
        source = PointSource(
            [image], [labelled((*position, 1))], patch_px=patch_px, positive_px=0.1, near_px=5,
            shares=Shares(positives=1.0, near_misses=0.0, hard_negatives=0.0),
        )  # fmt: skip
        for number in range(20):
            context, mask = source.draw(sample_rng(0, 0, number), augmenter.context_px)
            patch, label = augmenter.apply(context, mask, number)
            assert (label == 1).all()
            # The middle pixel of an even patch lies half a pixel beside its middle, mirrored or not.
            middle = patch[patch_px // 2 - 2 : patch_px // 2 + 2, patch_px // 2 - 2 : patch_px // 2 + 2]
            assert middle.max() < 128
            dark = np.argwhere(patch[8:-8, 8:-8, 0] < 128) + 8 + 0.5
            assert np.abs(dark.mean(axis=0) - patch_px / 2).max() < 1.2
