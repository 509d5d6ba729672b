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
_DIVERGED_STEPS = 1 / 20  # of all steps: the memory of the average that is compared
_SMOOTHED_STEPS = 1 / 20  # of all steps, at least 1: the standard deviation of the weights around a step
_AS_LOW = 2.0  # standard errors of a smoothed loss: what is not further above the lowest is as low
_CLEAR_FALL = 7.0  # of the same: of 100 sweeps of noise alone, 99 have less
_LEAST_FALL = 0.01  # of the loss at the beginning


class Proposal(NamedTuple):
    """A learning rate and why.

    `rate`, and the two that it was chosen from (`steepest`, `lowest`), are None where the sweep shows none. `smoothed`
    is what they were read from: a loss for each usable step, none where there are too few.
    """

    rate: float | None
    reason: str
    smoothed: Sequence[float] = ()
    steepest: float | None = None
    lowest: float | None = None


def rate_sweep(low: float, high: float, steps: int) -> list[float]:
    """Return `steps` (2 or more) learning rates from `low` to `high`, each the same factor above the one before."""
    return [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]


def find_rate(rates: Sequence[float], losses: Sequence[float]) -> Proposal:
    """Propose a learning rate: where the loss falls fastest, but at most a tenth of where it reaches its lowest level.

    Both are rules of thumb of fastai's `lr_find` ("steep" and "minimum"); the smaller one is the careful choice, and
    each guards against what misleads the other: noise that looks steep, and a lowest point that is already the
    edge to divergence. Losses count until the first that is not finite or until an average of the last is 4 times the
    lowest one before.

    The finished curve is smoothed around each step, with normal weights of a standard deviation of 1/20 of the steps:
    an average of the steps before, as it can be shown while the sweep runs, lags behind and proposes too much. Slopes
    are those of straight lines fitted with the same weights (local regression: Cleveland 1979), over the logarithm of
    the rate. Where a curve stays low over many rates chance decides which is lowest; so the lowest level is reached at
    the first rate whose smoothed loss is at most two standard errors above the least one, and only what comes before
    can be steepest.

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
    smooth = _smoothed(values, max(1.0, _SMOOTHED_STEPS * steps))
    least = int(smooth.levels.argmin())
    error = smooth.errors[least]
    if smooth.levels[: least + 1].max() - smooth.levels[least] <= max(
        _CLEAR_FALL * error, _LEAST_FALL * abs(smooth.levels[0])
    ):
        return Proposal(
            None,
            f"the loss does not fall anywhere from {rates[0]:.1e} to {rates[count - 1]:.1e}: sweep other rates",
            smooth.levels.tolist(),
        )
    reached = int((smooth.levels <= smooth.levels[least] + _AS_LOW * error).argmax())
    steepest, lowest = float(rates[int(smooth.slopes[: reached + 1].argmin())]), float(rates[reached])
    reason = f"the loss falls fastest at {steepest:.1e} and reaches its lowest level at {lowest:.1e}"
    if least == steps - 1 and reached >= least - _SMOOTHED_STEPS * steps:
        reason += " (the end of the sweep: a larger rate may be better)"
    rate = min(steepest, lowest / 10)
    taken = "the former" if rate == steepest else "a tenth of the latter"
    return Proposal(rate, f"{reason}; {taken} is taken", smooth.levels.tolist(), steepest, lowest)


class _Smooth(NamedTuple):
    """Of each step, float64 (N,): smoothed loss, its standard error, and the loss's slope per step."""

    levels: NDArray[np.float64]
    errors: NDArray[np.float64]
    slopes: NDArray[np.float64]


def _smoothed(values: NDArray[np.float64], reach: float) -> _Smooth:
    """Return weighted means around each step and slopes of lines fitted there; fewer steps count near the ends."""
    steps = np.arange(len(values), dtype=np.float64)
    distances = steps - steps[:, np.newaxis]
    weights = np.exp(-0.5 * (distances / reach) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    centred = distances - (weights * distances).sum(axis=1, keepdims=True)
    # Second differences have sqrt(6) times the noise, and nearly nothing of a curve that is smooth.
    noise = math.sqrt(float(np.mean(np.diff(values, 2) ** 2)) / 6)
    return _Smooth(
        weights @ values,
        noise * np.sqrt((weights**2).sum(axis=1)),
        (weights * centred) @ values / (weights * centred**2).sum(axis=1),
    )


def _usable(losses: Sequence[float], steps: int) -> int:
    """Return the number of losses before the sweep diverged."""
    average = lowest = math.inf
    decay = math.exp(-1 / max(1.0, _DIVERGED_STEPS * steps))
    total = 0.0
    for number, loss in enumerate(losses):
        if not math.isfinite(loss):
            return number
        # Corrected for having begun at 0 (Kingma and Ba 2015).
        total = decay * total + (1 - decay) * loss
        average = total / (1 - decay ** (number + 1))
        if average > _DIVERGED * lowest > 0:
            return number
        lowest = min(lowest, average)
    return len(losses)
