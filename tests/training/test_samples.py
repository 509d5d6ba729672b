"""Sample i of step s is a pure function of (seed, s, i): whoever draws it, in whatever order."""

import multiprocessing
import os
import random
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.config import AugmentConfig
from segkit.data.augment import Augmenter
from segkit.data.presets import resolve_augment
from segkit.data.sampling import PatchSource, sample_rng
from segkit.errors import ResourceError
from segkit.training.samples import Batch, Samples, open_batches
from tests.tiny import draw_field

FIELDS = [draw_field(number) for number in range(3)]
SOURCE = PatchSource(
    [image for image, _ in FIELDS],
    [mask[..., np.newaxis] for _, mask in FIELDS],
    patch_px=32,
    balanced=0.5,
    num_classes=2,
)


def make_samples(seed: int = 5) -> Samples:
    return Samples(SOURCE, Augmenter(resolve_augment(AugmentConfig(), 3), 32), seed)


def batches(
    first_step: int, last_step: int, *, workers: int, numbers: range = range(3), augmented: bool = True
) -> list[Batch]:
    with open_batches(
        make_samples(),
        first_step=first_step,
        last_step=last_step,
        numbers=numbers,
        workers=workers,
        pin_memory=False,
        augmented=augmented,
    ) as opened:
        return list(opened)


def equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)


@pytest.fixture(scope="module")
def expected() -> list[Batch]:
    return batches(0, 5, workers=0)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("first_step", [0, 3])
def test_batches_are_the_same_for_any_number_of_workers_and_any_start(
    expected: list[Batch], workers: int, first_step: int
) -> None:
    found = batches(first_step, 5, workers=workers)
    assert len(found) == 5 - first_step
    assert all(equal(one, other) for one, other in zip(found, expected[first_step:], strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_draw_their_own_parts_of_the_batches_of_one(expected: list[Batch], workers: int) -> None:
    parts = [batches(1, 4, workers=workers, numbers=numbers) for numbers in (range(2), range(2, 3))]
    for one, other, whole in zip(*parts, expected[1:4], strict=True):
        assert torch.equal(torch.cat([one.images, other.images]), whole.images)
        assert torch.equal(torch.cat([one.targets, other.targets]), whole.targets)


def test_batches_come_without_workers_where_there_is_no_room_for_theirs(
    expected: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    assert all(equal(one, other) for one, other in zip(batches(0, 5, workers=2), expected, strict=True))


def test_contexts_are_what_is_augmented() -> None:
    (batch,) = batches(2, 3, workers=0, augmented=False)
    side = Augmenter(resolve_augment(AugmentConfig(), 3), 32).context_px
    assert batch.images.shape == (3, 3, side, side)
    assert batch.targets.shape == (3, 1, side, side)
    samples = make_samples()
    for number in range(3):
        image, target = samples.context(2, number)
        assert np.array_equal(batch.images[number].permute(1, 2, 0).numpy(), image)
        assert np.array_equal(batch.targets[number].permute(1, 2, 0).numpy(), target)
    augmenter, rng = Augmenter(resolve_augment(AugmentConfig(), 3), 32), sample_rng(5, 2, 1)
    SOURCE.draw(rng, side)
    changed = augmenter.apply(*samples.context(2, 1), int(rng.integers(2**32)))
    assert np.array_equal(changed[0], samples.draw(2, 1)[0])


def test_samples_of_read_only_images_can_be_changed() -> None:
    """Images that are mapped from files are read only; torch warns of such memory, and pictures are mirrored in it."""
    images, targets = ([array.copy() for array in arrays] for arrays in (SOURCE.images, SOURCE.targets))
    for array in (*images, *targets):
        array.flags.writeable = False
    source = PatchSource(images, targets, patch_px=32, balanced=0.5, num_classes=2)
    none = Augmenter(resolve_augment(AugmentConfig(preset="none"), 3), 32)
    for index in ((0, 0, True), (0, 0, False)):
        for tensor in Samples(source, none, 0)[index]:
            tensor.zero_()
    assert images[0].any()


def test_a_batch_is_made_of_its_samples(expected: list[Batch]) -> None:
    assert expected[2].images.shape == (3, 3, 32, 32)
    assert expected[2].targets.shape == (3, 1, 32, 32)
    assert expected[2].images.dtype == expected[2].targets.dtype == torch.uint8
    image, target = make_samples().draw(2, 1)
    assert np.array_equal(expected[2].images[1].permute(1, 2, 0).numpy(), image)
    assert np.array_equal(expected[2].targets[1].permute(1, 2, 0).numpy(), target)


@settings(max_examples=10)
@given(st.permutations([(step, number) for step in range(3) for number in range(3)]))
def test_the_order_in_which_samples_are_drawn_does_not_matter(order: list[tuple[int, int]]) -> None:
    ordered = {index: SAMPLES.draw(*index) for index in sorted(order)}
    for index in order:
        for found, first in zip(SAMPLES.draw(*index), ordered[index], strict=True):
            assert np.array_equal(found, first)


SAMPLES = make_samples()


def test_all_samples_differ_from_each_other_and_from_another_seeds() -> None:
    indices = [(step, number) for step in range(4) for number in range(3)]
    drawn = {samples.draw(*index)[0].tobytes() for samples in (SAMPLES, make_samples(seed=6)) for index in indices}
    assert len(drawn) == 2 * len(indices)


def test_the_global_generators_are_neither_used_nor_changed() -> None:
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), random.getstate()
        drawn.append(SAMPLES.draw(0, 0)[0])
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
    assert np.array_equal(*drawn)


def fail_while_loading(error: Exception, *, kill: bool) -> None:
    """Raise an error while a worker loads batches, which is killed at the same moment or not."""
    with open_batches(
        make_samples(), first_step=0, last_step=50, numbers=range(3), workers=1, pin_memory=False
    ) as opened:  # fmt: skip
        next(opened)
        (worker,) = multiprocessing.active_children()
        if kill:
            os.kill(worker.pid or 0, signal.SIGKILL)
        raise error


@pytest.mark.parametrize("error", [ConnectionResetError(), EOFError()])
def test_a_broken_connection_to_a_worker_that_is_just_dying_is_told_as_its_death(error: Exception) -> None:
    """The connection breaks before the system knows how the process has ended."""
    with pytest.raises(ResourceError, match="killed by signal 9"):
        fail_while_loading(error, kill=True)


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(OSError, match="the disk has gone"):
        fail_while_loading(OSError("the disk has gone"), kill=False)


def test_no_steps_are_no_batches() -> None:
    assert batches(5, 5, workers=0) == []
