"""The proposal on made sweeps: flat, falling, diverging, noisy, broken at the end."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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
    rate, reason, *_ = find_rate(RATES, sweep(fastest, diverges=1000 * fastest))
    assert rate == pytest.approx(fastest, rel=0.3)
    assert "the former is taken" in reason


@pytest.mark.parametrize("noise", [0.03, 0.1])
def test_where_a_low_and_noisy_stretch_is_lowest_by_chance_does_not_matter(noise: float) -> None:
    """A fall that is over at 1e-2 and three decades of noise after it: neither steep nor lowest is read from these."""
    for seed in range(30):
        values = np.array(sweep(1e-3, diverges=1e9, noise=noise / 3, seed=seed))
        later = np.array(RATES) > 1e-2
        values[later] += np.random.default_rng(100 + seed).normal(0, noise, int(later.sum()))
        found = find_rate(RATES, values.tolist())
        assert found.steepest is not None
        assert found.lowest is not None
        assert abs(math.log10(found.steepest) + 3) < 0.5
        assert found.steepest < found.lowest
        assert found.rate == min(found.steepest, found.lowest / 10)


def test_what_is_steep_behind_the_lowest_level_does_not_count() -> None:
    """After the fall around 1e-3 the loss jumps up and comes back, which is steeper than the fall."""
    values = np.array(sweep(1e-3, diverges=1e9))
    values += 0.6 * np.exp(-(((np.log10(RATES) - 0.2) / 0.25) ** 2))
    found = find_rate(RATES, values.tolist())
    assert found.steepest == pytest.approx(1e-3, rel=0.3)
    assert found.lowest is not None
    assert 1e-2 < found.lowest < 1


def test_smoothing_does_not_shift_the_curve() -> None:
    values = np.array(sweep(1e-3, diverges=1e9))
    smoothed = np.array(find_rate(RATES, values.tolist()).smoothed)
    assert len(smoothed) == len(values)

    def half_way(curve: NDArray[np.float64]) -> int:
        return int((curve < (curve[0] + curve[-1]) / 2).argmax())

    assert abs(half_way(smoothed) - half_way(values)) <= 1
    mirrored = 1.3 - values[::-1]
    assert np.array(find_rate(RATES, mirrored.tolist()).smoothed) == pytest.approx(1.3 - smoothed[::-1], abs=1e-3)


def test_the_rate_stays_a_tenth_below_where_the_loss_is_lowest() -> None:
    values = sweep(fastest=1e-2, diverges=0.03)
    rate, reason, *_ = find_rate(RATES, values)
    assert rate is not None
    # What rises behind a narrow valley takes part in its mean: that is the careful side.
    assert RATES[int(np.argmin(values))] / 20 < rate <= RATES[int(np.argmin(values))] / 10
    assert "a tenth of the latter is taken" in reason


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.floats(0, 0.05))
def test_noise_moves_the_rate_by_less_than_half_a_decade(seed: int, noise: float) -> None:
    rate, *_ = find_rate(RATES, sweep(noise=noise, seed=seed))
    assert rate is not None
    assert abs(math.log10(rate) + 3) < 0.5


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_comes_after_a_loss_that_is_not_finite_changes_nothing(broken: float) -> None:
    values = sweep()
    rate, *_ = find_rate(RATES, [*values[:75], broken, *[-100.0] * 24])
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
    found = find_rate(RATES, sweep(fastest=1, diverges=1e9))
    assert found.rate == pytest.approx(1, rel=0.5)
    assert "a larger rate may be better" in found.reason
    for level_in_the_end in (sweep(diverges=1e9), sweep()):
        assert "may be better" not in find_rate(RATES, level_in_the_end).reason


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
    rate, reason, *_ = find_rate(RATES, values)
    assert rate is None
    assert "usable" in reason or "does not fall" in reason


@pytest.mark.parametrize("steps", [40, 100])
def test_noise_alone_is_hardly_ever_taken_for_a_fall(steps: int) -> None:
    rng = np.random.default_rng(0)
    rates = rate_sweep(1e-6, 1, steps)
    proposals = [find_rate(rates, rng.normal(1, 0.05, steps).tolist()) for _ in range(200)]
    assert sum(one.rate is None for one in proposals) >= 194
