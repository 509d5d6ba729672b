"""Noise is called noisy, Gabors are called smooth, and the numbers are what the formula says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.report.kernels import LONG_WAVE_PX, judge_kernels, kernel_smoothness


def gabors(num, side, wave_px, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle, phase = rng.uniform(0, np.pi, (num, 1, 1)), rng.uniform(0, 2 * np.pi, (num, 1, 1))
    waves = np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wave_px + phase)
    return (np.exp(-(x**2 + y**2) / (2 * (side / 4) ** 2)) * waves)[:, None] * rng.uniform(0.2, 1, (num, 3, 1, 1))


@pytest.mark.parametrize("side", [3, 5, 7, 11])
def test_noise_is_noisy_and_gabors_are_smooth(side):
    noise = np.random.default_rng(side).normal(size=(32, 3, side, side))
    assert kernel_smoothness(noise).verdict == "noisy"
    assert kernel_smoothness(gabors(32, side, 6)).verdict == "smooth"
    assert judge_kernels(noise).startswith("Noisy:")
    assert judge_kernels(gabors(32, side, 6)).startswith("Smooth:")


def test_the_smoother_the_wave_and_the_less_the_noise_the_higher():
    by_wave = [kernel_smoothness(gabors(32, 7, wave)).overall for wave in (2.5, 4, 5, 8)]
    assert by_wave == sorted(by_wave)
    clean, noise = gabors(32, 7, 8), np.random.default_rng(0).normal(size=(32, 3, 7, 7))
    by_noise = [kernel_smoothness(clean / clean.std() + share * noise).overall for share in (0, 0.5, 1, 3)]
    assert by_noise == sorted(by_noise, reverse=True)


def test_white_noise_has_the_mean_and_scatter_that_are_stated():
    found = kernel_smoothness(np.random.default_rng(1).normal(size=(2000, 3, 5, 5)))
    assert abs(found.per_kernel.mean()) < 4 * found.sigma_per_kernel / np.sqrt(2000)
    assert found.per_kernel.std() == pytest.approx(found.sigma_per_kernel, rel=0.06)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 4), (17, 17)])
def test_the_share_is_that_of_the_padded_spectrum(height, width):
    """The quadratic form against a fine Fourier transform, which only approaches it."""
    weights = np.random.default_rng(2).normal(size=(2, 2, height, width)).cumsum(axis=3)
    size = 512
    spectrum = np.abs(np.fft.fft2(weights, s=(size, size))) ** 2
    frequency = np.fft.fftfreq(size)
    low = np.hypot(frequency[:, None], frequency) <= 1 / LONG_WAVE_PX
    share = spectrum[..., low].sum(axis=(1, 2)) / spectrum.sum(axis=(1, 2, 3))
    white = np.pi / LONG_WAVE_PX**2
    found = kernel_smoothness(weights).per_kernel
    most = 1.0 if height * width > 256 else None
    scale = np.diff(found) / np.diff(share)
    np.testing.assert_allclose(found, (share - white) * scale, atol=0.01)
    assert scale.item() >= 1 / (1 - white) - 1e-3
    assert most is None or scale.item() == pytest.approx(1 / (1 - white), rel=0.02)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(1e-6, 1e6), st.integers(3, 8))
def test_scale_and_sign_do_not_matter_and_one_is_the_most(seed, factor, side):
    weights = np.random.default_rng(seed).normal(size=(3, 1, side, side)).cumsum(axis=2)
    found = kernel_smoothness(weights)
    np.testing.assert_allclose(kernel_smoothness(-factor * weights).per_kernel, found.per_kernel, atol=1e-9)
    assert found.per_kernel.max() <= 1 + 1e-9


def test_dead_kernels_do_not_count():
    weights = gabors(8, 5, 8)
    with_dead = np.concatenate([weights, 1e-9 * np.random.default_rng(0).normal(size=(24, 3, 5, 5))])
    assert kernel_smoothness(with_dead).overall == pytest.approx(kernel_smoothness(weights).overall)
    assert kernel_smoothness(np.zeros((4, 1, 3, 3))).verdict == "noisy"


def test_kernels_that_hold_no_waves_are_not_judged():
    with pytest.raises(ValueError, match="3 x 3"):
        kernel_smoothness(np.ones((4, 1, 2, 2)))
    assert "too small" in judge_kernels(np.ones((4, 1, 2, 2)))
