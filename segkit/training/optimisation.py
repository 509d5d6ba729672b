"""The optimiser and the learning rate over time."""

import math
from typing import Literal

import torch
from torch import nn

Schedule = Literal["polynomial", "cosine", "constant"]


def build_optimiser(network: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter 2019); norms and biases, which are vectors, are not decayed."""
    parameters = list(network.parameters())
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def rate_at(step: int, *, steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Return the share of the learning rate at `step` of `steps`, a pure function, so that resuming needs no state.

    It rises linearly over `warmup_steps`, then falls with t from 0 to 1: polynomial (1 - t)^0.9 (nnU-Net), cosine
    (1 + cos(pi t)) / 2, or stays.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    t = (step - warmup_steps) / max(1, steps - warmup_steps)
    match schedule:
        case "polynomial":
            return float((1 - t) ** 0.9)
        case "cosine":
            return (1 + math.cos(math.pi * t)) / 2
        case "constant":
            return 1.0
