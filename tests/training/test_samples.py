"""Sample i of step s is a pure function of (seed, s, i): whoever draws it, in whatever order."""

import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.config import AugmentConfig
from segkit.data.augment import Augmenter, resolve_augment
from segkit.data.sampling import PatchSource
from segkit.errors import ResourceError
from segkit.training.samples import Batch, Samples, open_batches
from tests.tiny import draw_field

FIELDS = [draw_field(number) for number in range(3)]


def make_samples(seed: int = 5) -> Samples:
    source = PatchSource(
        [image for image, _ in FIELDS], [mask for _, mask in FIELDS], patch_px=32, balanced=0.5, num_classes=2
    )
    return Samples(source, Augmenter(resolve_augment(AugmentConfig(), 3), 32), seed)


def batches(first_step: int, last_step: int, *, workers: int, batch: int = 3) -> list[Batch]:
    with open_batches(
        make_samples(), first_step=first_step, last_step=last_step, batch=batch, workers=workers, pin_memory=False
    ) as opened:
        return list(opened)


def equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.masks, other.masks)


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


def test_a_batch_is_made_of_its_samples(expected: list[Batch]) -> None:
    assert expected[2].images.shape == (3, 3, 32, 32)
    assert expected[2].masks.shape == (3, 32, 32)
    assert expected[2].images.dtype == expected[2].masks.dtype == torch.uint8
    image, mask = make_samples().draw(2, 1)
    assert np.array_equal(expected[2].images[1].permute(1, 2, 0).numpy(), image)
    assert np.array_equal(expected[2].masks[1].numpy(), mask)


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
        make_samples(), first_step=0, last_step=50, batch=3, workers=1, pin_memory=False
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
