"""The proposal on made sweeps: flat, falling, diverging, noisy, broken at the end."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.training.lr_finder import find_rate, rate_sweep

RATES = rate_sweep(1e-7, 10, 100)


def sweep(fastest: float = 1e-3, diverges: float = 1.0, noise: float = 0.0, seed: int = 0) -> list[float]:
    """A loss that stays at 1, falls by 0.7 around one rate and grows without bound around another."""
    logs = np.log10(RATES)
    falling = 0.7 / (1 + np.exp(-2.5 * (logs - math.log10(fastest))))
    growing = np.exp(5 * (logs - math.log10(diverges)))
    values = 1 - falling + growing + np.random.default_rng(seed).normal(0, noise, len(logs))
    return [float(value) for value in values]


@settings(max_examples=20, deadline=None)
@given(low=st.floats(1e-9, 1e-3), factor=st.floats(2, 1e8), steps=st.integers(2, 300))
def test_rates_grow_by_the_same_factor_from_low_to_high(low: float, factor: float, steps: int) -> None:
    rates = rate_sweep(low, low * factor, steps)
    assert len(rates) == steps
    assert rates[0] == low
    assert rates[-1] == pytest.approx(low * factor)
    assert np.diff(np.log(rates)) == pytest.approx(math.log(factor) / (steps - 1), rel=1e-6)


@pytest.mark.parametrize("fastest", [1e-5, 1e-4, 1e-3, 1e-2])
def test_the_rate_is_where_the_loss_falls_fastest(fastest: float) -> None:
    rate, reason = find_rate(RATES, sweep(fastest, diverges=1000 * fastest))
    assert rate == pytest.approx(fastest, rel=0.3)
    assert "the former is taken" in reason


def test_the_rate_stays_a_tenth_below_where_the_loss_is_lowest() -> None:
    values = sweep(fastest=1e-2, diverges=0.03)
    rate, reason = find_rate(RATES, values)
    assert rate == pytest.approx(RATES[int(np.argmin(values))] / 10, rel=0.3)
    assert "a tenth of the latter is taken" in reason


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.floats(0, 0.05))
def test_noise_moves_the_rate_by_less_than_half_a_decade(seed: int, noise: float) -> None:
    rate, _ = find_rate(RATES, sweep(noise=noise, seed=seed))
    assert rate is not None
    assert abs(math.log10(rate) + 3) < 0.5


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_comes_after_a_loss_that_is_not_finite_changes_nothing(broken: float) -> None:
    values = sweep()
    rate, _ = find_rate(RATES, [*values[:75], broken, *[-100.0] * 24])
    assert rate == find_rate(RATES, [*values[:75], *[broken] * 25]).rate
    assert rate == pytest.approx(1e-3, rel=0.3)


def test_a_loss_that_jumps_up_ends_the_sweep_even_if_it_comes_back() -> None:
    values = [*sweep()[:75], *[30.0] * 15, *[-100.0] * 10]
    assert find_rate(RATES, values).rate == pytest.approx(1e-3, rel=0.3)


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(85, 100))
def test_a_sweep_that_was_given_up_gives_the_rate_of_the_whole(steps: int) -> None:
    assert find_rate(RATES, sweep()[:steps]).rate == find_rate(RATES, sweep()).rate


def test_a_loss_that_falls_to_the_end_says_so() -> None:
    rate, reason = find_rate(RATES, sweep(diverges=1e9))
    assert rate == pytest.approx(1e-3, rel=0.3)
    assert "a larger one may be better" in reason


@pytest.mark.parametrize(
    "values",
    [
        [1.0] * 100,
        [1.0 + 0.01 * number for number in range(100)],
        [math.nan] * 100,
        [1.0, 0.5, math.inf, *[0.1] * 97],
        [1.0] * 5 + [9.0] * 95,
    ],
)
def test_a_sweep_that_shows_no_fall_gives_no_rate(values: list[float]) -> None:
    rate, reason = find_rate(RATES, values)
    assert rate is None
    assert "usable" in reason or "does not fall" in reason


def test_noise_alone_is_hardly_ever_taken_for_a_fall() -> None:
    rng = np.random.default_rng(0)
    proposals = [find_rate(RATES, rng.normal(1, 0.05, 100).tolist()) for _ in range(100)]
    assert sum(one.rate is None for one in proposals) >= 90
