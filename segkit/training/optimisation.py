"""The optimiser, what makes weights small, and the learning rate over time."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from segkit.errors import ConfigError

OptimiserName = Literal["adamw", "adam", "sgd", "rmsprop", "adagrad"]
Schedule = Literal["constant", "step", "cosine", "polynomial", "one_cycle", "plateau"]

ONE_CYCLE_RISE = 0.3
"""Share of all steps in which one_cycle rises."""
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-4


class ParameterGroup(NamedTuple):
    """Parameters whose learning rate is `rate_factor` times that of the others: pretrained parts learn more slowly."""

    parameters: Sequence[nn.Parameter]
    rate_factor: float = 1.0


def build_optimiser(
    groups: Sequence[ParameterGroup],
    *,
    name: OptimiserName,
    learning_rate: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    l2: float = 0.0,
) -> torch.optim.Optimizer:
    """Return the optimiser; before each of its steps `decay_weights` has to be called.

    Neither decay nor penalty touches norms and biases, which are vectors.

    Parameters
    ----------
    groups
        All parameters, each of them once; those that are frozen now but not for ever belong here too: without a
        gradient they are passed over. In the optimiser, each of `param_groups` has the key "rate_factor".
    name
        `adamw` (Loshchilov and Hutter 2019), `adam` (Kingma and Ba 2015; with decoupled decay it is adamw), `sgd`,
        `rmsprop` (Hinton 2012), `adagrad` (Duchi et al. 2011).
    learning_rate
        The largest one.
    momentum, nesterov
        Of sgd and rmsprop (in steps of rmsprop, 0.9 makes a rate act ten times as large); Nesterov's momentum in the
        form of Sutskever et al. (2013) is of sgd only.
    weight_decay
        Decoupled: each step takes rate * weight_decay * weight off a weight, whatever its gradient is.
    l2
        l2 * weight is added to the gradient, so that adaptive optimisers scale it as they scale the gradient.

    Raises
    ------
    ConfigError
        Nesterov's momentum was asked for without momentum or of another optimiser; there is nothing to learn.
    """
    if nesterov and (name != "sgd" or momentum <= 0):
        raise ConfigError(
            f"optimiser.nesterov = true with optimiser.name = {name} and optimiser.momentum = {momentum}: Nesterov's "
            "momentum is a form of sgd's momentum. Set optimiser.name=sgd with optimiser.momentum=0.9, or leave "
            "optimiser.nesterov out."
        )
    split: list[dict[str, Any]] = []
    for group in groups:
        for is_decayed in (True, False):
            parameters = [one for one in group.parameters if (one.ndim > 1) == is_decayed]
            if parameters:
                decay, penalty = (weight_decay, l2) if is_decayed else (0.0, 0.0)
                # `weight_decay` is decoupled in torch's AdamW and an L2 penalty in all others; `decay_weights` does
                # what is left over.
                native, by_hand = (decay, {"l2": penalty}) if name == "adamw" else (penalty, {"decay": decay})
                split.append(
                    {"params": parameters, "weight_decay": native, "rate_factor": group.rate_factor, **by_hand}
                )
    if not split:
        raise ConfigError("there is no parameter to learn. Freeze less: see transfer.freeze.")
    optimiser: torch.optim.Optimizer
    match name:
        case "adamw":
            optimiser = torch.optim.AdamW(split, lr=learning_rate)
        case "adam":
            optimiser = torch.optim.Adam(split, lr=learning_rate)
        case "sgd":
            optimiser = torch.optim.SGD(split, lr=learning_rate, momentum=momentum, nesterov=nesterov)
        case "rmsprop":
            optimiser = torch.optim.RMSprop(split, lr=learning_rate, momentum=momentum)
        case "adagrad":
            optimiser = torch.optim.Adagrad(split, lr=learning_rate)
        case _:
            raise ConfigError(
                f"optimiser.name = {name}: there is no such optimiser. Give adamw, adam, sgd, rmsprop or adagrad."
            )
    set_rate(optimiser, learning_rate)
    return optimiser


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups to `rate` times their factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate_factor"]


@torch.no_grad()
def decay_weights(optimiser: torch.optim.Optimizer, *, l1: float = 0.0) -> None:
    """Do what the optimiser does not do itself; to be called just before its step, after gradients are clipped.

    Adds l1 * sign(weight) to the gradients: that is the L1 penalty's gradient, exactly and without a term in the
    loss (at 0 it is 0). Adds AdamW's L2 penalty to the gradients. Takes decoupled decay off the weights of the other
    optimisers: weight *= 1 - rate * decay, as AdamW does first in its step. Like torch's own decay, none of it is
    clipped with the gradient. Parameters without a gradient (frozen ones) and vectors stay as they are. Where a step
    is left out because gradients left the range of float16, this has to be left out too.

    Parameters
    ----------
    optimiser
        Of `build_optimiser`, with the rate of this step set.
    l1
        Strength of the L1 penalty.
    """
    for group in optimiser.param_groups:
        weights = [one for one in group["params"] if one.ndim > 1 and one.grad is not None]
        l2, decay = group.get("l2", 0.0), group.get("decay", 0.0)
        for weight in weights:
            if l1:
                weight.grad.add_(weight.sign(), alpha=l1)
            if l2:
                weight.grad.add_(weight, alpha=l2)
            if decay:
                weight.mul_(1 - group["lr"] * decay)


def rate_at(
    step: int,
    *,
    steps: int,
    steps_per_epoch: int,
    warmup_steps: int,
    schedule: Schedule,
    decay_factor: float,
    decay_epochs: int,
    scores: Sequence[float] = (),
) -> float:
    """Return the share of the learning rate at `step` of `steps`, a pure function, so that resuming needs no state.

    It rises linearly over `warmup_steps`, as a factor to what the schedule says. With t from 0 to 1 after that:
    `polynomial` (1 - t)^0.9 (nnU-Net), `cosine` (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017), `constant` 1.
    `step`: times `decay_factor` after every `decay_epochs` epochs. `plateau`: times `decay_factor` after
    `decay_epochs` epochs in a row without a new best score. `one_cycle`, which is a warm-up itself and so ignores
    `warmup_steps`: from 1/25 up to 1 in the first 30 % of the steps and down to 1/10,000 at the last one, both along a
    cosine (Smith 2018, arXiv 1803.09820, with fastai's cosines and end points; momentum stays as it is).

    Parameters
    ----------
    step, steps
        From 0 on; the number of steps in all.
    steps_per_epoch
        Steps of an epoch.
    warmup_steps
        Steps over which the rate rises.
    schedule
        What happens after that.
    decay_factor, decay_epochs
        Of `step` and `plateau`.
    scores
        The validation scores of the epochs that were finished before, more is better; more of them than `step` can
        know are of no meaning.
    """
    epoch = step // steps_per_epoch
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    t = max(0, step - warmup_steps) / max(1, steps - warmup_steps)
    match schedule:
        case "polynomial":
            return warm * float((1 - t) ** 0.9)
        case "cosine":
            return warm * (1 + math.cos(math.pi * t)) / 2
        case "constant":
            return warm
        case "step":
            return warm * float(decay_factor ** (epoch // decay_epochs))
        case "plateau":
            return warm * float(decay_factor ** _plateaus(scores[:epoch], decay_epochs))
        case "one_cycle":
            return _one_cycle(step, steps)


def _plateaus(scores: Sequence[float], decay_epochs: int) -> int:
    """Return how often `decay_epochs` epochs in a row brought no new best score."""
    best, waited, found = -math.inf, 0, 0
    for score in scores:
        waited += 1
        if score > best:
            best, waited = score, 0
        elif waited == decay_epochs:
            found, waited = found + 1, 0
    return found


def _one_cycle(step: int, steps: int) -> float:
    peak, last = round(ONE_CYCLE_RISE * (steps - 1)), steps - 1
    if step < peak:
        return _between(ONE_CYCLE_START, 1, step / peak)
    return _between(1, ONE_CYCLE_END, (step - peak) / max(1, last - peak))


def _between(start: float, end: float, share: float) -> float:
    """Return the value at a share of the way from start to end, along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
