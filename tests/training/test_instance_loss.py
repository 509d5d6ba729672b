"""The loss of instances: what makes it small, what it must not feel, the same value however a batch is shared out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segkit.masks import IGNORE
from segkit.training.instance_loss import distance_loss, instance_loss


def batch(seed: int, size: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(size, 3, 6, 7, generator=generator, dtype=torch.float64).float()
    classes = torch.randint(0, 3, (size, 1, 6, 7), generator=generator, dtype=torch.uint8)
    classes[classes == 2] = IGNORE
    distance = torch.randint(0, 256, (size, 2, 6, 7), generator=generator, dtype=torch.uint8)
    return outputs, torch.cat([classes, distance], dim=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_the_distance_term_is_the_divergence_averaged_over_objects_and_background_apart(seed: int) -> None:
    outputs, targets = batch(seed)
    classes, distances = targets[:, 0].flatten().tolist(), targets[:, 1].flatten().tolist()
    sums: dict[int, list[float]] = {0: [], 1: []}
    for logit, kind, distance in zip(outputs[:, -1].flatten().tolist(), classes, distances, strict=True):
        if kind != IGNORE:
            p, t = 1 / (1 + math.exp(-logit)), distance / 255
            both = [(t, p), (1 - t, 1 - p)]
            sums[kind].append(sum(a * math.log(a / b) for a, b in both if a > 0))
    expected = sum(sum(one) / max(1, len(one)) for one in sums.values()) / 2
    assert distance_loss(outputs[:, -1], targets[:, 1], targets[:, 0]).item() == pytest.approx(expected, abs=1e-5)


def test_it_is_smallest_for_the_right_distance() -> None:
    targets = torch.randint(1, 255, (1, 8, 8), dtype=torch.uint8)
    classes = torch.ones_like(targets)
    right = torch.logit(targets.float() / 255)
    assert distance_loss(right, targets, classes).item() == pytest.approx(0, abs=1e-6)
    for change in (-0.5, 0.5):
        assert distance_loss(right + change, targets, classes).item() > 1e-3


def test_descending_it_finds_classes_and_distances() -> None:
    _, targets = batch(3)
    outputs = torch.zeros(2, 3, 6, 7)
    for step in range(200):
        outputs.requires_grad_()
        (slope,) = torch.autograd.grad(instance_loss()(outputs, targets), [outputs])
        outputs = outputs.detach() - 0.3 * 0.97**step * slope.sign()
    labelled = targets[:, 0] != IGNORE
    assert (outputs[:, :2].argmax(dim=1) == targets[:, 0])[labelled].all()
    error = (torch.sigmoid(outputs[:, 2]) - targets[:, 1] / 255).abs()[labelled]
    assert error.max() < 0.02


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_pixels_that_are_not_labelled_have_no_gradient(seed: int) -> None:
    outputs, targets = batch(seed)
    outputs.requires_grad_()
    instance_loss()(outputs, targets).backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    ignored = (targets[:, 0] == IGNORE).unsqueeze(1).expand_as(outputs)
    assert not outputs.grad[ignored].any()
    assert outputs.grad[~ignored].any()


def test_nothing_labelled_costs_nothing() -> None:
    outputs, targets = batch(0)
    targets[:, 0] = IGNORE
    assert distance_loss(outputs[:, -1], targets[:, 1], targets[:, 0]).item() == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_a_batch_shared_out_has_the_value_and_gradients_of_the_whole(seed: int, cut: int) -> None:
    outputs, targets = batch(seed, size=5)
    whole = outputs.clone().requires_grad_()
    value = instance_loss()(whole, targets)
    value.backward()  # type: ignore[no-untyped-call]
    halves = outputs.clone().requires_grad_()
    parts = [slice(0, cut), slice(cut, None)]
    sums: list[list[Tensor]] = [[], []]
    for rank, part in enumerate(parts):  # what each would send
        instance_loss(total=lambda one, rank=rank: sums[rank].append(one) or one)(halves[part], targets[part])  # type: ignore[misc]
    for rank, part in enumerate(parts):
        others = iter([one.detach() for one in sums[1 - rank]])
        shared = instance_loss(total=lambda one, others=others: one + next(others))(halves[part], targets[part])  # type: ignore[misc]
        assert shared.item() == pytest.approx(value.item(), rel=1e-5)
        shared.backward()  # type: ignore[no-untyped-call]
    assert whole.grad is not None
    torch.testing.assert_close(halves.grad, whole.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_extreme_logits_of_few_bits_stay_finite(dtype: torch.dtype) -> None:
    _, targets = batch(1)
    for sign in (-1, 1):
        outputs = torch.full((2, 3, 6, 7), sign * 1e4, dtype=dtype, requires_grad=True)
        value = instance_loss()(outputs, targets)
        value.backward()  # type: ignore[no-untyped-call]
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert outputs.grad is not None
        assert torch.isfinite(outputs.grad).all()


def test_weights_of_the_third_plane_count_for_the_classes() -> None:
    outputs, targets = batch(4)
    targets[:, 0] = targets[:, 0].clamp(max=1)
    targets[:, 2] = 51
    plain = instance_loss()(outputs, targets)
    torch.testing.assert_close(instance_loss(weight_scale=1 / 51)(outputs, targets), plain)
    targets[:, 2, :3] = 0
    assert instance_loss(weight_scale=1 / 51)(outputs, targets).item() != pytest.approx(plain.item(), abs=1e-4)
