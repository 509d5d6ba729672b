"""The learning rate over time, and which weights decay."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segkit.models.unet import UNet
from segkit.training.optimisation import Schedule, build_optimiser, rate_at

SCHEDULES: list[Schedule] = ["polynomial", "cosine", "constant"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("polynomial", [0.25, 0.5, 0.75, 1, 1, *(((6 - n) / 6) ** 0.9 for n in range(1, 6))]),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, 0.9330127, 0.75, 0.5, 0.25, 0.0669873]),
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_rates_of_ten_steps_with_four_of_warm_up(schedule: Schedule, expected: list[float]) -> None:
    rates = [rate_at(step, steps=10, warmup_steps=4, schedule=schedule) for step in range(10)]
    assert rates == pytest.approx(expected)


@given(st.sampled_from(SCHEDULES), st.integers(1, 500), st.integers(0, 600))
def test_a_rate_is_positive_at_most_one_and_falls_after_the_warm_up(
    schedule: Schedule, steps: int, warmup_steps: int
) -> None:
    rates = [rate_at(step, steps=steps, warmup_steps=warmup_steps, schedule=schedule) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    warm, after = rates[:warmup_steps], rates[warmup_steps:]
    assert warm == sorted(warm)
    assert after == sorted(after, reverse=True)
    assert not after or after[0] == 1


def test_only_weights_decay() -> None:
    network = UNet(in_channels=3, num_classes=2, base_channels=2, depth=1)
    optimiser = build_optimiser(network, learning_rate=0.1, weight_decay=0.5)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, value in network.named_parameters():
        # With a gradient of 0 all that AdamW does is to decay: by learning rate times decay.
        kept = 1 - 0.1 * 0.5 if value.ndim > 1 else 1
        torch.testing.assert_close(value.detach(), before[name] * kept, msg=name)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(before)


def test_a_first_step_has_the_size_of_the_learning_rate() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    optimiser = build_optimiser(layer, learning_rate=0.01, weight_decay=0.0)
    before = layer.weight.item()
    layer.weight.grad = torch.full_like(layer.weight, 123.0)
    optimiser.step()
    assert math.isclose(before - layer.weight.item(), 0.01, rel_tol=1e-4)
