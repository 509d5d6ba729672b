"""Whether the kernels of a first layer are smooth, or as noisy as on the first day."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special

LONG_WAVE_PX = 4
"""Waves at least as long as this are low frequencies: what the eye sees as smooth on kernels of 3 to 15 pixels."""
_SIGMAS, _SMOOTH, _NOISY = 3.0, 0.35, 0.12


class Smoothness(NamedTuple):
    """How much of the kernels' energy lies in low frequencies: 0 as in white noise, 1 as much as their size allows.

    `per_kernel` float64 (out,), `overall` their mean weighted by energy, so that dead kernels do not count; `sigma` and
    `sigma_per_kernel` are the standard deviations that white noise of these sizes would have around 0.
    """

    per_kernel: NDArray[np.float64]
    overall: float
    sigma: float
    sigma_per_kernel: float

    @property
    def verdict(self) -> str:
        """`smooth`, `partly smooth` or `noisy`.

        Noisy is what is below 0.12, or within 3 standard deviations of white noise; smooth what is above 0.35.
        """
        if self.overall < max(_NOISY, _SIGMAS * self.sigma):
            return "noisy"
        return "smooth" if self.overall > _SMOOTH else "partly smooth"


def kernel_smoothness(weights: NDArray[np.floating]) -> Smoothness:
    """Compare the kernels' energy in waves of `LONG_WAVE_PX` and more with that of white noise.

    The energy within a disc of the spectrum is, without any padding, a quadratic form in the pixels: by Parseval's
    theorem sum of w(p) w(q) K(|p - q|), where K is the disc's inverse Fourier transform, f J1(2 pi f r) / r (Goodman,
    Introduction to Fourier Optics, section 2.1.5). White noise has the share K(0) = pi f^2 of its energy there, and the
    variance of a ratio of quadratic forms of n normal values is 2 (n tr K^2 - (tr K)^2) / (n^2 (n + 2)). The largest
    share that a kernel can have is K's largest eigenvalue: 0.85 for 3 x 3 pixels, 0.99 for 5 x 5.

    Parameters
    ----------
    weights
        (out, in, kh, kw), float. Colours are independent of each other.

    Raises
    ------
    ValueError
        It has another form, or the kernels are of 2 x 2 pixels or less, which hold no waves.
    """
    if weights.ndim != 4 or min(weights.shape[2:]) < 3:
        raise ValueError(f"kernels are (out, in, kh, kw) of 3 x 3 pixels and more, got {weights.shape}")
    num, channels, height, width = weights.shape
    disc = _disc(height, width)
    white, most = float(disc[height - 1, width - 1]), _largest_share(disc, height, width)
    kernels = weights.astype(np.float64)
    energy = (kernels**2).sum(axis=(1, 2, 3))
    low = (kernels * signal.fftconvolve(kernels, disc[None, None], mode="same", axes=(2, 3))).sum(axis=(1, 2, 3))
    share = np.divide(low, energy, out=np.full(num, white), where=energy > 0)
    values = channels * height * width
    # How many pairs of pixels are this far apart.
    pairs = np.outer(*(size - np.abs(np.arange(1 - size, size)) for size in (height, width)))
    trace, trace_of_square = values * white, channels * float((pairs * disc**2).sum())
    variance = 2 * (values * trace_of_square - trace**2) / (values**2 * (values + 2))
    sigma = float(np.sqrt(variance)) / (most - white)
    overall = (float(low.sum() / energy.sum()) - white) / (most - white) if energy.any() else 0.0
    # As many kernels as there would be if all had the same energy (Kish's effective sample size).
    effective = float(energy.sum() ** 2 / (energy**2).sum()) if energy.any() else 1.0
    return Smoothness((share - white) / (most - white), overall, sigma / np.sqrt(effective), sigma)


def judge_kernels(weights: NDArray[np.floating]) -> str:
    """Return in one sentence whether kernels (out, in, kh, kw) are smooth, and what it means."""
    if min(weights.shape[2:]) < 3:
        return f"Kernels of {weights.shape[2]} x {weights.shape[3]} are too small to tell smooth from noisy."
    found = kernel_smoothness(weights)
    better = int(np.count_nonzero(found.per_kernel > _SIGMAS * found.sigma_per_kernel))
    meaning = {
        "smooth": "patterns have formed.",
        "partly smooth": "patterns have begun to form.",
        "noisy": "hardly to be told from random numbers, as after a short training.",
    }[found.verdict]
    scale = f"0: white noise, 1: no waves shorter than {LONG_WAVE_PX} px"
    return (
        f"{found.verdict.capitalize()}: {found.overall:.2f} ({scale}); "
        f"{better} of {len(weights)} kernels are surely no noise; {meaning}"
    )


def _disc(height: int, width: int) -> NDArray[np.float64]:
    """Return K for all distances of a kernel's pixels, float64 (2 kh - 1, 2 kw - 1), distance 0 in the middle."""
    y, x = (np.arange(1 - size, size) for size in (height, width))
    distance = np.hypot(y[:, None], x)
    frequency = 1 / LONG_WAVE_PX
    away = np.where(distance == 0, 1, distance)
    values = frequency * special.j1(2 * np.pi * frequency * away) / away
    disc: NDArray[np.float64] = np.where(distance == 0, np.pi * frequency**2, values)
    return disc


def _largest_share(disc: NDArray[np.float64], height: int, width: int) -> float:
    """Return K's largest eigenvalue; from 16 x 16 pixels on it is 1 but for less than 1e-6."""
    if height * width > 256:
        return 1.0
    y, x = (grid.ravel() for grid in np.mgrid[:height, :width])
    matrix = disc[y[:, None] - y + height - 1, x[:, None] - x + width - 1]
    return float(np.linalg.eigvalsh(matrix)[-1])
