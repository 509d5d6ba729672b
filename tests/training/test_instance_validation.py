"""Choosing thresholds and scoring objects, with a network that says what the pixels of its image say."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.data.instance_labels import UNLABELLED
from segkit.data.instance_targets import target_planes
from segkit.evaluation.objects import THRESHOLDS, average_precision, count_objects
from segkit.geometry import TileGrid
from segkit.inference.instances import drop_small, label_instances
from segkit.inference.network import InstancePrediction, Predictor
from segkit.models.model_file import InstanceSpec, ModelSpec, UNetArguments
from segkit.training.instance_validation import (
    TRIED,
    TUNED,
    InstanceValidation,
    LabelledObjects,
    Maps,
    choose_thresholds,
    overlaps_of,
    validate_instances,
    without_small,
)

SPEC = InstanceSpec(foreground_threshold=0.5, seed_threshold=0.5, min_area_px=0, grow_px=30)


class PixelInstances:
    """Stands for a `Predictor`: foreground is the first channel of the image, distance the second."""

    has_distance, float16, dihedral = True, False, False
    grid = TileGrid(alignment=1, halo=0)
    spec = ModelSpec(
        task="instance",
        arguments=UNetArguments(
            in_channels=3, num_classes=2, base_channels=1, depth=1, form="modern", dropout=0, extra_maps=1
        ),
        classes=["background", "nucleus"],
        mpp=None,
        mean=[0.0] * 3,
        std=[1.0] * 3,
        receptive_field=1,
        instances=SPEC,
        scores={},
        training={},
    )

    def submit(
        self, images_BHWC: NDArray[np.uint8], crops: Sequence[tuple[slice, slice]]
    ) -> Callable[[], list[InstancePrediction]]:
        return lambda: [
            InstancePrediction((image[crop][..., 0] > 127).astype(np.uint8), image[crop][..., 0], image[crop][..., 1])
            for image, crop in zip(images_BHWC, crops, strict=True)
        ]


def discs(seed: int, *, side: int = 96, num: int = 12) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.int32)
    for index in range(1, num + 1):
        centre, radius = rng.uniform(0, side, 2), rng.uniform(5, 12)
        labels[(np.hypot(y - centre[0], x - centre[1]) < radius) & (labels == 0)] = index
    return labels


def image_of(labels: NDArray[np.int32], *, level: float = 1.0, specks: int = 0) -> LabelledObjects:
    """Return an image from which `PixelInstances` reads the objects; the foreground's probability is `level`."""
    planes = target_planes(labels)
    image = np.zeros((*labels.shape, 3), np.uint8)
    image[..., 0] = np.where(planes[..., 0] == 1, round(255 * level), 20)
    image[..., 1] = planes[..., 1]
    rng = np.random.default_rng(0)
    for _ in range(specks):  # what looks like objects and is too small
        y, x = rng.integers(0, labels.shape[0] - 1, 2)
        image[y : y + 2, x : x + 2, :2] = np.maximum(image[y : y + 2, x : x + 2, :2], 255)
    return LabelledObjects("one", image, planes[..., 0], labels)


def validate(*images: LabelledObjects) -> InstanceValidation:
    calls: list[tuple[int, int]] = []
    predictor = cast(Predictor, PixelInstances())
    result = validate_instances(images, predictor, SPEC, on_image=lambda *done: calls.append(done))
    assert calls == [(number, len(images)) for number in range(1, len(images) + 1)]
    return result


def test_a_network_that_knows_the_truth_scores_almost_one() -> None:
    result = validate(*(image_of(discs(seed)) for seed in range(3)))
    assert result.score > 0.9
    assert result.by_class == {"nucleus": result.score}
    assert result.changes["instances"].grow_px == 30
    assert max(row["ap"] for row in result.story[TRIED]) == pytest.approx(result.score, abs=0.02)
    for seed, labels in enumerate(result.labels):
        again = average_precision(count_objects(overlaps_of(discs(seed), labels), [0.5]))[0]
        assert result.per_image[seed] == pytest.approx(again, abs=1e-6)


def test_thresholds_follow_a_network_that_is_less_sure() -> None:
    labels = discs(1)
    result = validate(image_of(labels, level=0.4))
    assert result.changes["instances"].foreground_threshold <= 0.4
    assert result.score > 0.9


def test_specks_are_dropped_by_their_area() -> None:
    result = validate(image_of(discs(2), specks=40))
    assert 4 < result.changes["instances"].min_area_px <= 64
    assert result.score > 0.85


def test_what_is_not_labelled_is_not_judged() -> None:
    labels = discs(5)
    image = image_of(labels)
    hidden = labels.copy()
    hidden[:, 40:] = UNLABELLED
    result = validate(image._replace(labels=hidden))
    assert result.score > 0.85
    assert len(np.unique(result.labels[0][:, 45:])) > 2  # found all the same


def test_images_without_anything_score_nothing_and_break_nothing() -> None:
    empty = image_of(np.zeros((32, 40), np.int32))
    result = validate(empty)
    assert (result.score, result.per_image, result.by_class) == (0.0, [None], {"nucleus": None})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 400))
def test_leaving_small_objects_out_of_overlaps_is_dropping_them_before(seed: int, area: int) -> None:
    truth, found = discs(seed), discs(seed + 1)
    found[truth > 0] = truth[truth > 0] % 7
    before, after = overlaps_of(truth, drop_small(found, area)), without_small(overlaps_of(truth, found), area)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_chosen_is_at_least_as_good_as_any_point_of_the_coarse_grid() -> None:
    truths = [discs(seed) for seed in (7, 8)]
    rng = np.random.default_rng(0)
    maps = []
    for truth in truths:
        planes = target_planes(truth).astype(np.float64)
        noisy = [
            np.clip(one + rng.normal(0, 40, truth.shape), 0, 255).astype(np.uint8)
            for one in (255 * planes[..., 0], planes[..., 1])
        ]
        maps.append(Maps(*noisy))

    def value(spec: InstanceSpec) -> float:
        counts = sum(
            count_objects(overlaps_of(truth, label_instances(*one, spec)), THRESHOLDS)
            for truth, one in zip(truths, maps, strict=True)
        )
        precision = average_precision(np.asarray(counts))
        return float(precision[0] + precision.mean())

    spec, tried = choose_thresholds(maps, truths, SPEC)
    chosen = value(spec)
    # What is kept of it is what was measured, with the smallest areas that were best.
    assert [one.value for one in tried] == pytest.approx([value(one.spec) for one in tried])
    assert chosen == max(one.value for one in tried)
    row = next(one for one in tried if one.spec == spec).as_row()
    assert InstanceSpec(grow_px=SPEC.grow_px, **{name: row[name] for name in TUNED}) == spec  # type: ignore[arg-type]
    assert row["ap"] + row["mean_ap"] == pytest.approx(chosen, abs=2e-6)
    for foreground in (0.35, 0.5, 0.65):
        for seed in (0.25, 0.45, 0.65):
            other = SPEC.model_copy(update={"foreground_threshold": foreground, "seed_threshold": seed})
            assert chosen >= value(other)
