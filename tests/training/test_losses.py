"""Losses against their formulas, written out pixel by pixel; unlabelled pixels change nothing; batches can be split."""

import itertools
import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segkit.errors import ConfigError
from segkit.masks import IGNORE
from segkit.training.losses import Loss, LossName, class_loss, cross_entropy, dice_cross_entropy, dice_loss

NAMES: tuple[LossName, ...] = get_args(LossName)
LOSSES = [class_loss(name) for name in NAMES]
MEANS: tuple[LossName, ...] = ("cross_entropy", "focal", "quadratic")
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


@settings(max_examples=25, deadline=None)
@given(cases)
def test_cross_entropy_is_the_mean_of_minus_log_probability(case: tuple[int, int, int, int, int]) -> None:
    logits, target = draw(*case)
    pixels = labelled_pixels(logits, target)
    expected = sum(-math.log(probabilities[true]) for probabilities, true in pixels) / max(1, len(pixels))
    assert cross_entropy(logits, target).item() == pytest.approx(expected, abs=1e-4)


@settings(max_examples=25, deadline=None)
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


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@settings(max_examples=10, deadline=None)
@given(case=cases)
def test_pixels_that_are_not_labelled_change_neither_loss_nor_gradient(
    loss: Loss, case: tuple[int, int, int, int, int]
) -> None:
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


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_a_batch_without_labels_costs_nothing(loss: Loss) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 4), IGNORE, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_a_sure_and_right_prediction_costs_nothing_and_a_wrong_one_much(loss: Loss) -> None:
    target = torch.randint(0, 2, (2, 8, 8), dtype=torch.uint8)
    right = 50 * torch.nn.functional.one_hot(target.long(), 2).permute(0, 3, 1, 2).float()
    assert loss(right, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(-right, target).item() > 0.9


def test_an_absent_class_that_is_not_predicted_costs_nothing() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.uint8)
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 0] = 50
    assert dice_loss(logits, target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_losses_are_computed_in_float32_whatever_the_network_computes_in(loss: Loss) -> None:
    logits, target = draw(3, 2, 4, 4, 0)
    value = loss(logits.bfloat16(), target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(logits.bfloat16().float(), target).item())


@settings(max_examples=25, deadline=None)
@given(cases, st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.booleans())
def test_weighted_means_are_those_of_their_terms(
    case: tuple[int, int, int, int, int], gamma: float, balanced: bool
) -> None:
    logits, target = draw(*case)
    by_class = [float(number + 1) for number in range(case[0])] if balanced else None
    weights = np.random.default_rng(case[-1]).random(target.shape)
    counted = [
        weights[b, y, x] * (by_class[int(target[b, y, x])] if by_class else 1)
        for b, y, x in np.ndindex(*target.shape)
        if target[b, y, x] != IGNORE
    ]
    pixels = labelled_pixels(logits, target)
    terms = {
        "cross_entropy": [-math.log(p[true]) for p, true in pixels],
        "focal": [-((1 - p[true]) ** gamma) * math.log(p[true]) for p, true in pixels],
        "quadratic": [
            sum((value - (index == true)) ** 2 for index, value in enumerate(p)) / len(p) for p, true in pixels
        ],
    }
    for name in MEANS:
        loss = class_loss(name, class_weights=by_class, focal_gamma=gamma)
        expected = float(np.dot(terms[name], counted)) / (sum(counted) or 1)
        assert loss(logits, target, torch.from_numpy(weights)).item() == pytest.approx(expected, abs=1e-4), name


@settings(max_examples=25, deadline=None)
@given(cases, st.floats(0.1, 0.9), st.booleans())
def test_tversky_weighs_false_positives_and_negatives_of_the_foreground(
    case: tuple[int, int, int, int, int], alpha: float, balanced: bool
) -> None:
    logits, target = draw(*case)
    by_class = [9.0, *range(1, case[0])] if balanced else None
    pixels = labelled_pixels(logits, target)
    costs = []
    for index in range(1, case[0]):
        hit = sum(p[index] for p, true in pixels if true == index)
        wrong = sum(p[index] for p, true in pixels if true != index)
        missed = sum(1 - p[index] for p, true in pixels if true == index)
        costs.append(1 - (hit + 1) / (hit + alpha * wrong + (1 - alpha) * missed + 1))
    expected = np.average(costs, weights=by_class[1:] if by_class else None)
    loss = class_loss("tversky", class_weights=by_class, tversky_alpha=alpha, tversky_beta=1 - alpha)
    assert loss(logits, target).item() == pytest.approx(float(expected), abs=1e-5)


def test_class_weights_of_dice_weigh_the_mean_over_classes() -> None:
    logits, target = draw(2, 1, 5, 5, 0)
    by_class = [class_loss("dice", class_weights=weights)(logits, target).item() for weights in ([1, 1e-9], [1e-9, 1])]
    mixed = class_loss("dice", class_weights=[1, 3])(logits, target).item()
    assert mixed == pytest.approx((by_class[0] + 3 * by_class[1]) / 4)
    assert by_class[0] != pytest.approx(by_class[1])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(case=cases)
def test_a_pixel_of_weight_zero_is_as_good_as_not_labelled(
    name: LossName, case: tuple[int, int, int, int, int]
) -> None:
    logits, target = draw(*case)
    hidden = torch.from_numpy(np.random.default_rng(1).random(target.shape) < 0.4)
    results = []
    for labels, weight in ((target, (~hidden).float()), (target.masked_fill(hidden, IGNORE), None)):
        values = logits.clone().requires_grad_()
        loss = class_loss(name)(values, labels, weight)
        loss.backward()
        results.append((loss.detach(), values.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", MEANS)
def test_a_common_factor_of_the_weights_changes_no_mean(name: LossName) -> None:
    logits, target = draw(3, 2, 4, 4, 5)
    weight = torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
    one, scaled = (class_loss(name)(logits, target, factor * weight).item() for factor in (1, 23.5))
    assert one == pytest.approx(scaled, rel=1e-5)
    assert one != pytest.approx(class_loss(name)(logits, target).item(), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(case=cases, part=st.integers(1, 3), weighted=st.booleans())
def test_a_batch_that_is_split_has_the_loss_and_the_gradient_of_the_whole(
    name: LossName, case: tuple[int, int, int, int, int], part: int, weighted: bool
) -> None:
    """Two processes, each of which adds the other's sums by `total`."""
    classes, batch, height, width, seed = case
    logits, target = draw(classes, batch + part, height, width, seed)
    weight = torch.from_numpy(np.random.default_rng(seed).random(target.shape)).float() if weighted else None
    options: dict[str, Any] = {"class_weights": list(range(1, classes + 1)) if weighted else None, "focal_gamma": 1.5}

    whole = logits.clone().requires_grad_()
    expected = class_loss(name, **options)(whole, target, weight)
    expected.backward()

    split = logits.clone().requires_grad_()
    rows = (slice(0, part), slice(part, None))
    given_to = [(split[row], target[row], None if weight is None else weight[row]) for row in rows]
    for here, there in ((0, 1), (1, 0)):
        sums: list[Tensor] = []

        def record(tensor: Tensor, sums: list[Tensor] = sums) -> Tensor:
            sums.append(tensor)
            return tensor

        class_loss(name, total=record, **options)(*given_to[there])
        others = iter(sums)
        found = class_loss(name, total=lambda tensor, others=others: tensor + next(others), **options)(*given_to[here])
        assert next(others, None) is None
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(found, split)
        torch.testing.assert_close(gradient, whole.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_logits_of_any_size_give_finite_losses_and_gradients(name: LossName, dtype: torch.dtype, gamma: float) -> None:
    values = itertools.product([1e4, -1e4, 0.0], repeat=3)
    logits = torch.tensor(list(values), dtype=dtype).T.reshape(1, 3, 27, 1).repeat(4, 1, 1, 1).requires_grad_()
    target = torch.tensor([0, 1, 2, IGNORE], dtype=torch.uint8).reshape(4, 1, 1).repeat(1, 27, 1)
    loss = class_loss(name, focal_gamma=gamma)(logits, target)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_the_formula(name: LossName) -> None:
    """Finite differences along a random direction."""
    logits, target = draw(3, 2, 4, 4, 7)
    weight = torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
    loss = class_loss(name, class_weights=[1, 2, 3])
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), target, weight), logits)
    ahead, behind = (loss(logits.detach() + step * direction, target, weight).item() for step in (0.01, -0.01))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind) / 0.02, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_number_of_class_weights_is_refused(name: LossName) -> None:
    logits, target = draw(3, 1, 2, 2, 0)
    with pytest.raises(ConfigError, match=r"loss\.class_weights has 2 numbers, and there are 3 classes"):
        class_loss(name, class_weights=[1, 2])(logits, target)


def test_a_name_that_is_no_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.name = hinge.*dice_cross_entropy"):
        class_loss("hinge")  # type: ignore[arg-type]
