"""The loss of heat maps is its formula, is smallest for the truth, and does not depend on how a batch is divided."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segkit.masks import IGNORE
from segkit.training.heat_loss import SPREAD, heat_loss


def batch(
    seed: int, *, images: int = 3, classes: int = 2, side: int = 9, ignored: float = 0.1
) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (images, classes, side, side)).astype(np.float32))
    targets = rng.integers(0, 256, (images, 1 + classes, side, side)).astype(np.uint8)
    targets[:, 0] = np.where(
        rng.random((images, side, side)) < ignored, IGNORE, rng.integers(0, 3, (images, side, side))
    )
    return logits, torch.from_numpy(targets)


def by_hand(logits: Tensor, targets: Tensor) -> float:
    """In float64, pixel by pixel as the paper writes it."""
    cost = heat = 0.0
    number = 0
    for image in range(len(logits)):
        for y, x in np.ndindex(*logits.shape[-2:]):
            if int(targets[image, 0, y, x]) == IGNORE:
                continue
            for index in range(logits.shape[1]):
                true = int(targets[image, 1 + index, y, x]) / 255
                p = 1 / (1 + np.exp(-float(logits[image, index, y, x])))
                cost += abs(p - true) ** 2 * -(true * np.log(p) + (1 - true) * np.log(1 - p))
                heat += true
                number += 1
    return cost / (heat + SPREAD * number)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_it_is_the_formula(seed: int) -> None:
    logits, targets = batch(seed)
    assert heat_loss(logits, targets).item() == pytest.approx(by_hand(logits, targets), rel=1e-4)


def test_the_truth_is_best_in_every_pixel() -> None:
    _, targets = batch(0, ignored=0)
    true = targets[:, 1:].float() / 255
    best = torch.logit(true.clamp(1e-6, 1 - 1e-6)).requires_grad_()
    value = heat_loss(best, targets)
    assert value.item() < 1e-6
    for change in (-0.5, 0.5):
        assert heat_loss(best.detach() + change, targets) > value + 1e-4
    # From anywhere the way down is towards the truth.
    elsewhere = (torch.randn(best.shape, generator=torch.Generator().manual_seed(1)) * 2).requires_grad_()
    heat_loss(elsewhere, targets).backward()  # type: ignore[no-untyped-call]
    assert elsewhere.grad is not None
    far = (torch.sigmoid(elsewhere) - true).abs() > 0.02
    assert (torch.sign(elsewhere.grad)[far] == torch.sign(torch.sigmoid(elsewhere) - true)[far]).all()


def test_ignored_pixels_do_not_count_in_any_class() -> None:
    logits, targets = batch(3, ignored=0.4)
    ignored = (targets[:, :1] == IGNORE).expand_as(logits)
    logits.requires_grad_()
    value = heat_loss(logits, targets)
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad[ignored].any()
    assert logits.grad[~ignored].all()
    other, heat = logits.detach().clone(), targets.clone()
    other[ignored] = 77
    heat[:, 1:][ignored] = 200
    assert heat_loss(other, heat) == value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_it_is_finite_for_large_logits(dtype: torch.dtype, size: float) -> None:
    _, targets = batch(1)
    logits = torch.full((3, 2, 9, 9), size, dtype=dtype, requires_grad=True)
    value = heat_loss(logits, targets)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.dtype == torch.float32
    assert logits.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_without_anything_that_counts_it_is_zero() -> None:
    logits, targets = batch(2)
    targets[:, 0] = IGNORE
    logits.requires_grad_()
    value = heat_loss(logits, targets)
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert value == 0
    assert not logits.grad.any()


def test_without_points_false_summits_still_cost() -> None:
    targets = torch.zeros(2, 2, 8, 8, dtype=torch.uint8)
    quiet = torch.full((2, 1, 8, 8), -8.0)
    summit = quiet.clone()
    summit[0, 0, 4, 4] = 3
    assert 0 <= heat_loss(quiet, targets) < 1e-6
    assert heat_loss(summit, targets) > 0.1


def test_of_a_larger_target_the_middle_is_taken() -> None:
    logits, targets = batch(5)
    larger = torch.full((3, 3, 15, 13), 99, dtype=torch.uint8)
    larger[:, :, 3:12, 2:11] = targets
    assert heat_loss(logits, larger) == heat_loss(logits, targets)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), first=st.integers(1, 3))
def test_a_batch_that_is_divided_has_the_loss_and_the_gradient_of_the_whole(seed: int, first: int) -> None:
    logits, targets = batch(seed, images=4)
    targets[:first, 1:] //= 20  # of the points most are in one part
    whole = logits.clone().requires_grad_()
    value = heat_loss(whole, targets)
    value.backward()  # type: ignore[no-untyped-call]
    assert whole.grad is not None
    parts = slice(0, first), slice(first, 4)
    sums: list[Tensor] = []
    for part in parts:
        heat_loss(logits[part], targets[part], total=lambda tensor: sums.append(tensor) or tensor)  # type: ignore[func-returns-value]
    for part, other in zip(parts, reversed(sums), strict=True):
        mine = logits[part].clone().requires_grad_()
        # `total` adds the sums of the other rank; its own gradient is that of the whole loss in its own logits.
        shared = heat_loss(mine, targets[part], total=lambda tensor, other=other: tensor + other)  # type: ignore[misc]
        shared.backward()  # type: ignore[no-untyped-call]
        assert mine.grad is not None
        assert shared.item() == pytest.approx(value.item(), rel=1e-5)
        assert torch.allclose(mine.grad, whole.grad[part], rtol=1e-4, atol=1e-8)
