"""Averages of weights: a running one while training, and the mean of several epochs' weights."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segkit.errors import ModelError


class Ema:
    """An exponential moving average of a network's weights (Polyak averaging; Tarvainen and Valpola 2017).

    After each step average = d * average + (1 - d) * weights, with d = min(decay, (1 + n) / (10 + n)) at the n-th
    update, so that the first weights, which are random, are soon forgotten (TensorFlow's `num_updates`). Statistics
    of batch norms are averaged alike, and whole numbers copied.

    Parameters
    ----------
    network
        The network that is trained, on its device; neither compiled nor wrapped.
    decay
        Below 1; about 1 / (1 - decay) steps are averaged.

    Attributes
    ----------
    network
        The twin that holds the averages, in evaluation mode.
    updates
        How often it was updated.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._trained, self._decay = network, decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of the trained network; to be called after each step."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for average, current in zip(_tensors(self.network), _tensors(self._trained), strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - decay)
            else:
                average.copy_(current)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.updates = int(state["updates"])


def average_state_dicts(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several networks' weights (Izmailov et al. 2018: stochastic weight averaging).

    Means are added up in float64 and have the type of the first state; whole numbers are those of the first. Where
    the network has batch norms, the means of their statistics are close to, but not, those of the mean network: it
    has to be measured before it is used.

    Parameters
    ----------
    states
        One or more, of one network.

    Raises
    ------
    ModelError
        They are of different networks.
    """
    first, *others = states
    for other in others:
        differing = sorted(
            name for name in first.keys() | other.keys() if _shape(first, name) != _shape(other, name)
        )  # fmt: skip
        if differing:
            raise ModelError(
                "the weights of different networks cannot be averaged; these are not in both alike:", differing[:5]
            )
    return {
        name: _mean([state[name] for state in states]) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in first.items()
    }


def _tensors(network: nn.Module) -> list[Tensor]:
    """Return all parameters and buffers, those that are shared once."""
    return [*network.parameters(), *network.buffers()]


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor in tensors:
        total += tensor.to(total)
    return (total / len(tensors)).to(tensors[0].dtype)
