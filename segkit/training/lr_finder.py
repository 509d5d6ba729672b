"""What learning rate to take, from a sweep: the rate grows from step to step, and the loss is looked at.

Smith (2017, arXiv 1506.01186): the learning rate range test.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_STEPS = 10
_DIVERGED = 4.0  # times the lowest loss so far: fastai ends its sweep there
_SMOOTHED_STEPS = 1 / 20  # of all steps: the memory of the average
_SLOPE_STEPS = 1 / 10  # of all steps: what a slope is measured over
_CLEAR_FALL = 3.0  # times the standard deviation of the noise: of 100 sweeps of noise alone, 99 have less
_LEAST_FALL = 0.01  # of the loss at the beginning


class Proposal(NamedTuple):
    """A learning rate and why; `rate` is None where the sweep shows none."""

    rate: float | None
    reason: str


def rate_sweep(low: float, high: float, steps: int) -> list[float]:
    """Return `steps` (2 or more) learning rates from `low` to `high`, each the same factor above the one before."""
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


def find_rate(rates: Sequence[float], losses: Sequence[float]) -> Proposal:
    """Propose a learning rate: where the loss falls fastest, but at most a tenth of where it is lowest.

    Both are rules of thumb of fastai's `lr_find` ("steep" and "minimum"); the smaller one is the careful choice, and
    each guards against what misleads the other: noise that looks steep, and a lowest point that is already the
    edge to divergence. Losses count until the first that is not finite or until the smoothed loss is 4 times the
    lowest one before. They are smoothed by an exponential moving average with bias correction (Kingma and Ba 2015) over
    about 1/20 of the steps, run in both directions, because run in one it lags behind and proposes too much.
    Slopes are those of the smoothed loss over the logarithm of the rate.

    Parameters
    ----------
    rates
        All rates of the sweep, growing, as from `rate_sweep`.
    losses
        The training loss at each of them, before the step was taken; fewer where the sweep was given up.
    """
    steps = len(rates)
    count = _usable(losses, steps)
    if count < MIN_STEPS:
        return Proposal(None, f"only {count} steps had a usable loss: begin with a smaller rate, or take more steps")
    values = np.asarray(losses[:count], np.float64)
    # How far it rises in the end says nothing, and would be carried back by the smoothing.
    values = np.minimum(values, values[: count // 5].max())
    logs = np.log10(np.asarray(rates[:count], np.float64))
    smooth = (_average(values, steps) + _average(values[::-1], steps)[::-1]) / 2
    lowest = int(smooth.argmin())
    fall, noise = smooth[: lowest + 1].max() - smooth[lowest], (values - smooth)[: lowest + 1].std()
    if lowest == 0 or fall <= max(_CLEAR_FALL * noise, _LEAST_FALL * abs(smooth[0])):
        return Proposal(
            None, f"the loss does not fall anywhere from {rates[0]:.1e} to {rates[count - 1]:.1e}: sweep other rates"
        )
    reach = max(1, round(_SLOPE_STEPS * steps / 2))
    first, last = (np.clip(np.arange(lowest + 1) + shift, 0, lowest) for shift in (-reach, reach))
    slopes = (smooth[last] - smooth[first]) / (logs[last] - logs[first])
    steepest, tenth = float(rates[int(slopes.argmin())]), float(rates[lowest]) / 10
    reason = f"the loss falls fastest at {steepest:.1e} and is lowest at {rates[lowest]:.1e}"
    if lowest == steps - 1:
        reason += " (the largest rate of the sweep: a larger one may be better)"
    if steepest <= tenth:
        return Proposal(steepest, f"{reason}; the former is taken")
    return Proposal(tenth, f"{reason}; a tenth of the latter is taken")


def _usable(losses: Sequence[float], steps: int) -> int:
    """Return the number of losses before the sweep diverged."""
    average = lowest = math.inf
    decay = _decay(steps)
    total = 0.0
    for number, loss in enumerate(losses):
        if not math.isfinite(loss):
            return number
        total = decay * total + (1 - decay) * loss
        average = total / (1 - decay ** (number + 1))
        if average > _DIVERGED * lowest > 0:
            return number
        lowest = min(lowest, average)
    return len(losses)


def _average(values: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Return the moving average that forgets, corrected for having begun at 0."""
    decay = _decay(steps)
    averages, total = np.empty_like(values), 0.0
    for number, value in enumerate(values):
        total = decay * total + (1 - decay) * value
        averages[number] = total / (1 - decay ** (number + 1))
    return averages


def _decay(steps: int) -> float:
    return math.exp(-1 / max(1.0, _SMOOTHED_STEPS * steps))
