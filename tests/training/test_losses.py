"""Losses against their formulas, written out pixel by pixel; unlabelled pixels change nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segkit.masks import IGNORE
from segkit.training.losses import cross_entropy, dice_cross_entropy, dice_loss, loss_function

LOSSES = [cross_entropy, dice_loss, dice_cross_entropy]
cases = st.tuples(st.integers(2, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6))


def draw(classes: int, batch: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random logits and a random target of which about a third is not labelled."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (batch, classes, height, width))).float()
    target = rng.integers(0, classes, (batch, height, width))
    target[rng.random(target.shape) < 1 / 3] = IGNORE
    return logits, torch.from_numpy(target.astype(np.uint8))


def labelled_pixels(logits: Tensor, target: Tensor) -> list[tuple[list[float], int]]:
    """The class probabilities and the true class of every pixel that counts."""
    pixels = []
    for b, y, x in np.ndindex(*target.shape):
        if target[b, y, x] != IGNORE:
            powers = [math.exp(value) for value in logits[b, :, y, x].tolist()]
            pixels.append(([power / sum(powers) for power in powers], int(target[b, y, x])))
    return pixels


@given(cases)
def test_cross_entropy_is_the_mean_of_minus_log_probability(case: tuple[int, int, int, int, int]) -> None:
    logits, target = draw(*case)
    pixels = labelled_pixels(logits, target)
    expected = sum(-math.log(probabilities[true]) for probabilities, true in pixels) / max(1, len(pixels))
    assert cross_entropy(logits, target).item() == pytest.approx(expected, abs=1e-4)


@given(cases)
def test_dice_loss_is_the_mean_over_classes_of_one_minus_dice(case: tuple[int, int, int, int, int]) -> None:
    logits, target = draw(*case)
    pixels = labelled_pixels(logits, target)
    terms = []
    for index in range(logits.shape[1]):
        both = sum(probabilities[index] for probabilities, true in pixels if true == index)
        predicted = sum(probabilities[index] for probabilities, _ in pixels)
        true_count = sum(true == index for _, true in pixels)
        terms.append(1 - (2 * both + 1) / (predicted + true_count + 1))
    assert dice_loss(logits, target).item() == pytest.approx(sum(terms) / len(terms), abs=1e-5)
    mean = (dice_loss(logits, target) + cross_entropy(logits, target)) / 2
    assert dice_cross_entropy(logits, target).item() == pytest.approx(mean.item())


@pytest.mark.parametrize("loss", LOSSES)
@given(case=cases)
def test_pixels_that_are_not_labelled_change_neither_loss_nor_gradient(
    loss: object, case: tuple[int, int, int, int, int]
) -> None:
    assert callable(loss)
    logits, target = draw(*case)
    ignored = (target == IGNORE).unsqueeze(1).expand_as(logits)
    values = []
    for changed in (logits, torch.where(ignored, -7 * logits + 3, logits)):
        changed.requires_grad_()
        value = loss(changed, target)
        value.backward()
        assert changed.grad is not None
        assert not changed.grad[ignored].any()
        values.append(value.item())
    assert values[0] == pytest.approx(values[1], abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_without_labels_costs_nothing(loss: object) -> None:
    assert callable(loss)
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 4), IGNORE, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_sure_and_right_prediction_costs_nothing_and_a_wrong_one_much(loss: object) -> None:
    assert callable(loss)
    target = torch.randint(0, 2, (2, 8, 8), dtype=torch.uint8)
    right = 50 * torch.nn.functional.one_hot(target.long(), 2).permute(0, 3, 1, 2).float()
    assert loss(right, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(-right, target).item() > 0.9


def test_an_absent_class_that_is_not_predicted_costs_nothing() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.uint8)
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 0] = 50
    assert dice_loss(logits, target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_computed_in_float32_whatever_the_network_computes_in(loss: object) -> None:
    assert callable(loss)
    logits, target = draw(3, 2, 4, 4, 0)
    value = loss(logits.bfloat16(), target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(logits.bfloat16().float(), target).item())


def test_a_loss_is_found_by_its_name() -> None:
    assert loss_function("dice_cross_entropy") is dice_cross_entropy
    assert loss_function("cross_entropy") is cross_entropy
