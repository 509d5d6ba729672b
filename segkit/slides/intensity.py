"""From a file's samples to uint8 pixels: the one place where sample types, palettes and alpha are interpreted.

The rule
--------
The *window* is the range of sample values that becomes 0..255: values are clipped to it, mapped linearly and
rounded.

- 8-bit unsigned samples are taken as they are.
- Unsigned samples of another declared depth than 8, 16, 32 or 64 bits (1, 2, 4, 10, 12, 14 ...): [0, 2^depth - 1].
- Other integers: [0, 2^b - 1] with the smallest b of 8, 10, 12, 14, 16, 24, 32, 64 that holds the largest value seen,
  but at most what the sample type holds. So 12-bit data in 16-bit samples uses all of 0..255, and full-range 16-bit
  data maps as v / 257. Negative values become 0.
- Floats: [0, 1] if all values seen lie inside, else [0, 255] if they do, else their minimum and maximum. NaN
  becomes 0, and so does an image of one value in the last case.
- "Seen" are at most 64 tiles or strips, evenly spread, of the coarsest level and as many of level 0.
- MINISWHITE is inverted after the window. Palette indices are looked up (16-bit entries shifted to 8 bits)
  and have no window. Alpha is composited over white, also where it is premultiplied.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Alpha = Literal["none", "associated", "unassociated"]

_DEPTHS = (8, 10, 12, 14, 16, 24, 32, 64)
_CHUNK_SAMPLES = 1 << 20  # conversion works on this many samples at a time, which bounds its float64 scratch space


@dataclass(frozen=True, slots=True)
class Window:
    """The range of sample values that becomes 0..255."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


@dataclass(frozen=True, slots=True)
class Interpretation:
    """How decoded samples become pixels.

    Attributes
    ----------
    window
        Range of values that becomes 0..255.
    colours
        Samples per pixel that are colours: 1 or 3; samples after these and the alpha sample are dropped.
    inverted
        0 is white (MINISWHITE).
    alpha
        What the sample after the colours is.
    palette
        uint8 `n x 3` colours that the samples are indices into, or None.
    """

    window: Window
    colours: int
    inverted: bool = False
    alpha: Alpha = "none"
    palette: NDArray[np.uint8] | None = None

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return 3 if self.palette is not None else self.colours

    def pixels(self, samples_HWS: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the uint8 `H x W x channels` pixels of decoded samples; may return its argument."""
        height, width, count = samples_HWS.shape
        plain = samples_HWS.dtype == np.uint8 and self.window == Window(0, 255)
        if plain and not self.inverted and self.palette is None and count == self.colours:
            return samples_HWS
        pixels = np.empty((height, width, self.channels), np.uint8)
        rows = max(1, _CHUNK_SAMPLES // max(1, width * count))
        for y in range(0, height, rows):
            pixels[y : y + rows] = self._convert(samples_HWS[y : y + rows])
        return pixels

    def _convert(self, samples_HWS: NDArray[Any]) -> NDArray[np.uint8]:
        if self.palette is not None:
            # An index past the palette's end is the file's mistake; the last colour is as good as any.
            chosen: NDArray[np.uint8] = self.palette[np.minimum(samples_HWS[..., 0], len(self.palette) - 1)]
            return chosen
        scaled = apply_window(samples_HWS[..., : self.colours + (self.alpha != "none")], self.window)
        colours = scaled[..., : self.colours]
        if self.inverted:
            colours = 255 - colours
        if self.alpha == "none":
            return colours
        return _over_white(colours, scaled[..., self.colours :], premultiplied=self.alpha == "associated")


def apply_window(samples: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Map `window` linearly to 0..255, rounded; values outside are clipped, NaN becomes 0."""
    if samples.dtype == np.uint8 and window == Window(0, 255):
        return samples
    if window.high <= window.low:
        return np.zeros(samples.shape, np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):  # damaged floats may span all that a float64 can hold
        clipped = np.clip(samples.astype(np.float64), window.low, window.high)
        scaled = np.rint((clipped - window.low) * (255 / (window.high - window.low)))
    pixels: NDArray[np.uint8] = np.nan_to_num(scaled, copy=False).astype(np.uint8)
    return pixels


def _over_white(colours: NDArray[np.uint8], alpha: NDArray[np.uint8], *, premultiplied: bool) -> NDArray[np.uint8]:
    background = 255 - alpha.astype(np.uint16)
    if premultiplied:
        covered: NDArray[np.uint8] = np.minimum(colours + background, 255).astype(np.uint8)
        return covered
    return mix_with_white(colours, alpha)


def mix_with_white(colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `colours * alpha + white * (1 - alpha)` for alpha of 0..255, rounded; alpha is not yet in the colours."""
    weighted = colours.astype(np.uint32) * alpha + 255 * (255 - alpha.astype(np.uint32))
    mixed: NDArray[np.uint8] = ((weighted + 127) // 255).astype(np.uint8)
    return mixed


def fixed_window(dtype: np.dtype[Any], depth: int) -> Window | None:
    """Return the window that the sample type alone decides, or None where the values decide.

    Parameters
    ----------
    dtype
        Type of the decoded samples.
    depth
        Bits per sample as the file declares them.
    """
    if dtype == np.uint8 and depth == 8:
        return Window(0, 255)
    if dtype.kind in "bu" and depth not in {8, 16, 32, 64}:
        return Window(0, 2**depth - 1)
    return None


def window_of_values(dtype: np.dtype[Any], seen: Iterable[NDArray[Any]]) -> Window:
    """Return the window for samples of `dtype`, decided by the values in the arrays `seen` (see the module)."""
    low, high = np.inf, -np.inf
    for samples in seen:
        finite = samples[np.isfinite(samples)] if dtype.kind == "f" else samples
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if dtype.kind != "f":
        depth = next(depth for depth in _DEPTHS if high < 2**depth)
        return Window(0, min(2**depth - 1, int(np.iinfo(dtype).max)))
    if low > high or (low >= 0 and high <= 1):
        return Window(0, 1)
    if low >= 0 and high <= 255:
        return Window(0, 255)
    return Window(low, high)


def palette_of_colormap(colormap: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return uint8 `n x 3` colours of a TIFF ColorMap (uint16, `3 x n`).

    Some writers store 8-bit entries; like libtiff, a map with no entry above 255 is taken to be one of these.
    """
    entries = colormap.T if colormap.max(initial=0) < 256 else colormap.T >> 8
    return np.ascontiguousarray(entries, np.uint8)
