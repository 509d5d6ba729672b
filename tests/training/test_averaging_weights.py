"""Running averages of weights against the sum written out; means of several epochs' weights."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segkit.errors import ModelError
from segkit.training.averaging_weights import Ema, average_state_dicts


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())


def shake(network: nn.Module, generator: torch.Generator) -> None:
    """Give the network other weights, as a step does, and its batch norms other statistics."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    network.train()(torch.randn(2, 1, 5, 5, generator=generator))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.floats(0, 0.9999), st.integers(0, 1000))
def test_an_average_is_the_sum_of_weights_times_their_shares(updates: int, decay: float, seed: int) -> None:
    network, generator = small_network(), torch.Generator().manual_seed(seed)
    ema = Ema(network, decay)
    expected = {name: value.double() for name, value in network.state_dict().items()}
    for number in range(updates):
        shake(network, generator)
        ema.update()
        kept = min(decay, (1 + number) / (10 + number))
        for name, value in network.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * value.double()
    expected["1.num_batches_tracked"] = torch.tensor(float(updates), dtype=torch.float64)
    for name, value in ema.network.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_twin_is_in_evaluation_mode_and_does_not_learn() -> None:
    network = small_network().train()
    ema = Ema(network, 0.9)
    assert not any(module.training for module in ema.network.modules())
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not {value.data_ptr() for value in network.parameters()} & {
        value.data_ptr() for value in ema.network.parameters()
    }


def test_weights_that_are_shared_are_averaged_once() -> None:
    layer = nn.Linear(1, 1, bias=False)
    network = nn.Sequential(layer, layer)
    nn.init.zeros_(layer.weight)
    ema = Ema(network, 0.9)
    nn.init.ones_(layer.weight)
    ema.update()
    assert [value.item() for value in ema.network.state_dict().values()] == pytest.approx([0.9, 0.9])


def test_an_average_that_was_restored_goes_on_as_if_nothing_had_happened() -> None:
    network, generator = small_network(), torch.Generator().manual_seed(0)
    ema = Ema(network, 0.99)
    for _ in range(3):
        shake(network, generator)
        ema.update()
    other = Ema(small_network(seed=9), 0.99)
    other.load_state_dict(copy.deepcopy(ema.state_dict()))
    other._trained = network
    shake(network, generator)
    ema.update()
    other.update()
    for one, two in zip(ema.network.state_dict().values(), other.network.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_the_mean_of_states_is_that_of_each_number() -> None:
    states = [small_network(seed).state_dict() for seed in range(3)]
    for number, state in enumerate(states):
        state["1.num_batches_tracked"] = torch.tensor(5 + number)
    mean = average_state_dicts(states)
    assert mean["1.num_batches_tracked"].item() == 5
    for name in ("0.weight", "0.bias", "1.running_var"):
        expected = torch.stack([state[name].double() for state in states]).mean(dim=0).float()
        assert torch.equal(mean[name], expected)
    small_network().load_state_dict(mean)


def test_the_mean_of_equal_states_is_that_state() -> None:
    state = small_network().state_dict()
    mean = average_state_dicts([state] * 3)
    assert all(torch.equal(mean[name], value) and mean[name] is not value for name, value in state.items())


def test_states_of_different_networks_are_refused_by_name() -> None:
    wide = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(2)).state_dict()
    with pytest.raises(ModelError, match="different networks") as caught:
        average_state_dicts([small_network().state_dict(), wide])
    assert caught.value.problems == ["0.bias", "0.weight"]
