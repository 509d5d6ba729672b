"""The learning rate over time, which weights are made small, and by how much."""

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.unet import UNet
from segkit.training.optimisation import (
    OptimiserName,
    ParameterGroup,
    Schedule,
    build_optimiser,
    decay_weights,
    rate_at,
    set_rate,
)

NAMES: tuple[OptimiserName, ...] = get_args(OptimiserName)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
AFTER_A_WARM_UP: list[Schedule] = ["polynomial", "cosine", "constant"]


def share(step: int, *, steps: int, warmup_steps: int, schedule: Schedule, **changes: Any) -> float:
    values: dict[str, Any] = {"steps_per_epoch": 5, "decay_factor": 0.1, "decay_epochs": 2}
    return rate_at(step, steps=steps, warmup_steps=warmup_steps, schedule=schedule, **(values | changes))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("polynomial", [0.25, 0.5, 0.75, 1, 1, *(((6 - n) / 6) ** 0.9 for n in range(1, 6))]),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]),
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        ("step", [0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]),
    ],
)
def test_rates_of_ten_steps_with_four_of_warm_up(schedule: Schedule, expected: list[float]) -> None:
    rates = [share(step, steps=10, warmup_steps=4, schedule=schedule, steps_per_epoch=3) for step in range(10)]
    assert rates == pytest.approx(expected)


@settings(max_examples=40)
@given(st.sampled_from(AFTER_A_WARM_UP), st.integers(1, 500), st.integers(0, 600))
def test_a_rate_is_positive_at_most_one_and_falls_after_the_warm_up(
    schedule: Schedule, steps: int, warmup_steps: int
) -> None:
    rates = [share(step, steps=steps, warmup_steps=warmup_steps, schedule=schedule) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    warm, after = rates[:warmup_steps], rates[warmup_steps:]
    assert warm == sorted(warm)
    assert after == sorted(after, reverse=True)
    assert not after or after[0] == 1


@pytest.mark.parametrize("warmup_steps", [0, 50])
def test_one_cycle_peaks_after_three_tenths_and_ends_at_a_ten_thousandth(warmup_steps: int) -> None:
    rates = [share(step, steps=101, warmup_steps=warmup_steps, schedule="one_cycle") for step in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[15] == pytest.approx((1 + 1 / 25) / 2)
    assert rates[30] == 1
    assert rates[65] == pytest.approx((1 + 1e-4) / 2)
    assert rates[100] == pytest.approx(1e-4)
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_cycle_of_few_steps_stays_between_nothing_and_all(steps: int) -> None:
    rates = [share(step, steps=steps, warmup_steps=0, schedule="one_cycle") for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1


def test_a_plateau_ends_after_so_many_epochs_without_a_new_best() -> None:
    #       best  1    2 -> x0.1  best  tie  2 -> x0.1  1    2 -> x0.1
    scores = [0.5, 0.4, 0.5, 0.6, 0.6, 0.1, 0.2, 0.3]
    rates = [
        share(epoch * 5, steps=100, warmup_steps=0, schedule="plateau", scores=scores[:epoch]) for epoch in range(9)
    ]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_a_first_score_is_the_best_so_far_however_low() -> None:
    rates = [
        share(epoch * 5, steps=100, warmup_steps=0, schedule="plateau", scores=[-1.0, -1.0, -0.5]) for epoch in range(4)
    ]
    assert rates == [1, 1, 1, 1]


@settings(max_examples=40)
@given(st.lists(st.floats(-1, 1), max_size=30), st.integers(1, 4), st.integers(0, 30))
def test_later_scores_do_not_change_an_earlier_rate(scores: list[float], decay_epochs: int, epoch: int) -> None:
    """So a resumed run, which has read the whole history, goes on as if nothing had happened."""

    def rate(known: Sequence[float]) -> float:
        return share(
            epoch * 5, steps=500, warmup_steps=3, schedule="plateau", decay_epochs=decay_epochs, scores=known
        )  # fmt: skip

    assert rate(scores) == rate(scores[:epoch])


@settings(max_examples=40)
@given(st.sampled_from(SCHEDULES), st.integers(1, 60), st.integers(0, 80), st.integers(1, 9))
def test_no_schedule_leaves_zero_to_one(
    schedule: Schedule, steps: int, warmup_steps: int, steps_per_epoch: int
) -> None:
    for step in range(steps):
        rate = share(
            step, steps=steps, warmup_steps=warmup_steps, schedule=schedule, steps_per_epoch=steps_per_epoch,
            scores=[0.0] * (step // steps_per_epoch),
        )  # fmt: skip
        assert 0 < rate <= 1


def unet_with_zero_gradients() -> tuple[UNet, dict[str, Tensor]]:
    torch.manual_seed(0)
    network = UNet(in_channels=3, num_classes=2, base_channels=2, depth=1)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return network, {name: value.detach().clone() for name, value in network.named_parameters()}


def everything(network: nn.Module, rate_factor: float = 1.0) -> list[ParameterGroup]:
    return [ParameterGroup(list(network.parameters()), rate_factor)]


@pytest.mark.parametrize("name", NAMES)
def test_decay_takes_the_same_share_off_all_weights_but_vectors_in_every_optimiser(name: OptimiserName) -> None:
    network, before = unet_with_zero_gradients()
    optimiser = build_optimiser(everything(network, 0.5), name=name, learning_rate=0.2, weight_decay=0.5)
    decay_weights(optimiser)
    optimiser.step()
    for key, value in network.named_parameters():
        # With a gradient of 0 all that happens is decay: by learning rate times decay.
        kept = 1 - 0.5 * 0.2 * 0.5 if value.ndim > 1 else 1
        torch.testing.assert_close(value.detach(), before[key] * kept, msg=key)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(before)


@pytest.mark.parametrize("name", NAMES)
def test_a_penalty_acts_like_one_in_the_loss(name: OptimiserName) -> None:
    """L2 and L1 added to the gradient, against the same step with l2 |w|^2 / 2 + l1 |w| in the loss."""
    trained: list[dict[str, Tensor]] = []
    for in_the_loss in (True, False):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        l1, l2 = (0.0, 0.0) if in_the_loss else (0.03, 0.2)
        optimiser = build_optimiser(
            everything(network), name=name, learning_rate=0.01, weight_decay=0.0, l2=l2
        )  # fmt: skip
        for step in range(3):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            loss = network(x).square().mean()
            if in_the_loss:
                weights = [one for one in network.parameters() if one.ndim > 1]
                loss = loss + sum((0.2 / 2 * one.square() + 0.03 * one.abs()).sum() for one in weights)
            optimiser.zero_grad()
            loss.backward()
            decay_weights(optimiser, l1=l1)
            optimiser.step()
        trained.append({key: value.detach().clone() for key, value in network.named_parameters()})
    for key, value in trained[0].items():
        torch.testing.assert_close(trained[1][key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_frozen_parameters_do_not_decay() -> None:
    network, before = unet_with_zero_gradients()
    optimiser = build_optimiser(everything(network), name="sgd", learning_rate=0.2, weight_decay=0.5, l2=0.1)
    for parameter in network.encoder.parameters():
        parameter.grad = None
    decay_weights(optimiser, l1=0.1)
    optimiser.step()
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert "head.weight" in changed
    assert not [name for name in changed if name.startswith("encoder")]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.0)),
        ("adam", lambda weights: torch.optim.Adam(weights, lr=0.01)),
        ("sgd", lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.8, nesterov=True)),
        ("rmsprop", lambda weights: torch.optim.RMSprop(weights, lr=0.01, momentum=0.8)),
        ("adagrad", lambda weights: torch.optim.Adagrad(weights, lr=0.01)),
    ],
)
def test_a_name_is_the_optimiser_of_that_name(
    name: OptimiserName, reference: Callable[[list[Tensor]], torch.optim.Optimizer]
) -> None:
    ends = []
    for own in (True, False):
        weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
        optimiser = reference([weight])
        if own:
            optimiser = build_optimiser(
                [ParameterGroup([weight])], name=name, learning_rate=0.01, momentum=0.8, nesterov=name == "sgd"
            )
        for _ in range(3):
            weight.grad = 3 * weight.detach()
            optimiser.step()
        ends.append(weight.detach())
    assert torch.equal(*ends)


def test_groups_learn_at_their_own_rates() -> None:
    fast, slow = nn.Linear(1, 1), nn.Linear(1, 1)
    optimiser = build_optimiser(
        [*everything(fast), *everything(slow, 0.1)], name="adamw", learning_rate=0.01, weight_decay=0.0
    )  # fmt: skip
    set_rate(optimiser, 0.002)
    before = [layer.weight.item() for layer in (fast, slow)]
    for layer in (fast, slow):
        layer.weight.grad = torch.full_like(layer.weight, 123.0)
    optimiser.step()
    # Adam's first step has the size of the learning rate.
    steps = [start - layer.weight.item() for start, layer in zip(before, (fast, slow), strict=True)]
    assert steps == pytest.approx([0.002, 0.0002], rel=1e-3)


def test_a_restored_optimiser_keeps_its_rates_and_decay() -> None:
    network, _ = unet_with_zero_gradients()
    first, second = (
        build_optimiser(everything(network, factor), name="sgd", learning_rate=0.1, weight_decay=decay)
        for factor, decay in ((0.5, 0.3), (0.5, 0.3))
    )
    set_rate(first, 0.01)
    second.load_state_dict(first.state_dict())
    for group, same in zip(first.param_groups, second.param_groups, strict=True):
        assert {key: value for key, value in group.items() if key != "params"} == {
            key: value for key, value in same.items() if key != "params"
        }


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.0), ("adamw", 0.9), ("rmsprop", 0.9)])
def test_nesterov_without_sgds_momentum_is_refused(name: OptimiserName, momentum: float) -> None:
    with pytest.raises(ConfigError, match=r"optimiser\.nesterov = true.*optimiser\.momentum"):
        build_optimiser(everything(nn.Linear(1, 1)), name=name, learning_rate=0.1, momentum=momentum, nesterov=True)


def test_nothing_to_learn_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"transfer\.freeze"):
        build_optimiser([ParameterGroup([])], name="sgd", learning_rate=0.1)


def test_a_first_step_has_the_size_of_the_learning_rate() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    optimiser = build_optimiser(everything(layer), name="adamw", learning_rate=0.01, weight_decay=0.0)
    before = layer.weight.item()
    layer.weight.grad = torch.full_like(layer.weight, 123.0)
    optimiser.step()
    assert math.isclose(before - layer.weight.item(), 0.01, rel_tol=1e-4)
