"""Random changes of training samples in batches on the training device, with the strengths of `segkit.data.presets`.

Where a GPU waits for samples, the processor's cores need only cut patches. What is drawn is a function of (seed, step,
number of the sample), on the CPU, and every operation treats each sample alone, so that neither the batch nor the rank
that a sample is in changes it. A sample differs from `segkit.data.augment`'s of the same seed, which draws in another
order; the strengths mean the same, but for roundings between the steps, which do not exist here, and the hue
(`segkit.data.intensity.colour_matrix`).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from segkit.config import AUTO, AugmentConfig
from segkit.data.deformation import ELASTIC_SPACING_PX, WarpDraw, WarpStrengths, draw_warp, spline_weights
from segkit.data.intensity import GREY, IntensityDraw, colour_matrix, draw_intensity
from segkit.data.presets import NONE
from segkit.data.stain import stain_matrix

SPLINE_NODES: Final = 4  # of a cubic B-spline, those that reach a pixel
BLUR_SIGMAS: Final = 3.0  # where the Gaussian ends
COLOURS: Final = 3


class DeviceAugmenter:
    """Turns a batch of contexts into augmented patches; what `Augmenter` does for one sample.

    Parameters
    ----------
    config
        With no `auto` (see `resolve_augment`) and no `extra`.
    patch_px
        Side of the patches in pixels.
    num_planes
        Planes P of the targets.
    seed
        The run's seed.

    Attributes
    ----------
    context_px
        Side of the contexts.
    """

    def __init__(self, config: AugmentConfig, patch_px: int, num_planes: int, seed: int) -> None:
        assert AUTO not in {getattr(config, name) for name in NONE}, "resolve_augment comes first"
        assert not config.extra, "resolve_backend comes first"
        self._config, self._seed = config, seed
        self._warp = WarpStrengths.of(config)
        self.patch_px, self.num_planes = patch_px, num_planes
        self.context_px = patch_px + 2 * self._warp.margin(patch_px)

    @torch.no_grad()
    def __call__(self, images: Tensor, targets: Tensor, step: int, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return augmented patches on the device that holds the contexts.

        Parameters
        ----------
        images, targets
            uint8 (B, C, context_px, context_px), C = 1 or 3, and (B, P, context_px, context_px): plane 0 class
            indices, which are never mixed, the others values 0..255. They are not changed.
        step, numbers
            The samples' step and, for each, its number in the step's global batch.

        Returns
        -------
        images, targets
            uint8 (B, C, patch_px, patch_px) and (B, P, patch_px, patch_px).
        """
        assert images.shape[2:] == targets.shape[2:] == (self.context_px, self.context_px)
        assert targets.shape[1] == self.num_planes
        assert len(images) == len(targets) == len(numbers)
        warps, changes = [], []
        for number in numbers:
            rng = augment_rng(self._seed, step, number)
            warps.append(draw_warp(rng, self._warp, self.patch_px))
            changes.append(draw_intensity(rng, self._config))
        # Autocast would compute matrices in 8 bits of mantissa.
        with torch.autocast(images.device.type, enabled=False):
            pixels, planes = self._place(images, targets, warps)
            return _to_bytes(self._colour(pixels, changes)), planes

    def _place(self, images: Tensor, targets: Tensor, warps: Sequence[WarpDraw]) -> tuple[Tensor, Tensor]:
        """Return images, float32, and targets, uint8, warped or mirrored."""
        if self._warp.warps:
            return warp_batch(images, targets, warps, self.patch_px)
        if self._warp.flips:
            matrices = np.stack([one.matrix for one in warps])
            for axis, dim in ((0, 3), (1, 2)):
                is_mirrored = _on(matrices[:, axis, axis] < 0, images.device)[:, None, None, None]
                images = torch.where(is_mirrored, images.flip(dim), images)
                targets = torch.where(is_mirrored, targets.flip(dim), targets)
        return images.float(), targets.clone()

    def _colour(self, pixels: Tensor, changes: Sequence[IntensityDraw]) -> Tensor:
        """Return float32 pixels with changed colours: stains, one affine map, gamma, blur, noise, as albumentations.

        In place as far as possible. Before the noise they are within 0..255.
        """
        config = self._config
        is_colour = pixels.shape[1] == COLOURS
        if config.stain and is_colour:
            matrices = np.stack([stain_matrix(np.array(one.stains)) for one in changes])
            density = pixels.clamp_(min=1).div_(255).log_()
            pixels = _mixed(density, _on(matrices, pixels.device)).exp_().mul_(255).clamp_(max=255)
        if config.brightness or config.contrast or config.saturation or config.hue_degrees:
            pixels = _affine(pixels, changes).clamp_(0, 255)
        if config.gamma:
            exponents = _on(np.array([one.gamma for one in changes]), pixels.device)
            pixels = pixels.div_(255).pow_(exponents[:, None, None, None]).mul_(255)
        if config.blur_px:
            _blur(pixels, np.array([one.blur_px for one in changes]), float(config.blur_px))
        if config.noise:
            _add_noise(pixels, changes)
        return pixels


def augment_rng(seed: int, step: int, number: int) -> np.random.Generator:
    """Return the random numbers that change sample `number` of `step`.

    Another key of Philox than `segkit.data.sampling.sample_rng`, from whose start the patch's place is drawn: with the
    same numbers, e.g. all patches around a class would be mirrored alike.
    """
    return np.random.Generator(np.random.Philox(key=[seed, 1], counter=[0, 0, number, step]))


def warp_batch(images: Tensor, targets: Tensor, warps: Sequence[WarpDraw], patch_px: int) -> tuple[Tensor, Tensor]:
    """Cut warped patches out of the middle of their contexts, as `segkit.data.deformation.source_coordinates` says.

    Parameters
    ----------
    images, targets
        uint8 (B, C, context, context) and (B, P, context, context) on any device.
    warps
        One for each sample.
    patch_px
        Side of the patches.

    Returns
    -------
    images
        float32 (B, C, patch_px, patch_px), 0..255, linearly interpolated and not rounded.
    targets
        uint8 (B, P, patch_px, patch_px): plane 0 by the nearest pixel, the others linear.
    """
    grid = _grid(warps, patch_px, images.shape[-1], images.device)
    linear = torch.cat([images, targets[:, 1:]], dim=1).float()
    # The context is large enough for every draw, so only rounding can reach the border.
    linear = functional.grid_sample(linear, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    classes = functional.grid_sample(
        targets[:, :1].float(), grid, mode="nearest", padding_mode="reflection", align_corners=True
    )
    channels = images.shape[1]
    return linear[:, :channels], torch.cat([classes.to(torch.uint8), _to_bytes(linear[:, channels:])], dim=1)


def _grid(warps: Sequence[WarpDraw], patch_px: int, source_px: int, device: torch.device) -> Tensor:
    """Return source coordinates, (B, patch_px, patch_px, 2) of x and y, -1..1 from the first pixel to the last."""
    unit = np.float32(2 / max(source_px - 1, 1))
    matrices = _on(unit * np.stack([one.matrix for one in warps]), device)
    offsets = torch.arange(patch_px, dtype=torch.float32, device=device) - (patch_px - 1) / 2
    along_x = matrices[:, :, 0, None] * offsets
    along_y = matrices[:, :, 1, None] * offsets
    grid = along_y[:, :, :, None] + along_x[:, :, None, :]
    if warps[0].nodes.size:
        # A sum of four nodes for each pixel, axis by axis: no matrix product, whose order of sums may depend on B.
        start, weights = _spline_taps(patch_px)
        taps, first = _on(weights, device), _on(start, device)
        nodes = _on(unit * np.stack([one.nodes for one in warps]), device)
        columns = sum(nodes.index_select(3, first + tap) * taps[:, tap] for tap in range(SPLINE_NODES))
        assert isinstance(columns, Tensor)
        for tap in range(SPLINE_NODES):
            grid.addcmul_(columns.index_select(2, first + tap), taps[:, tap, None])
    return grid.permute(0, 2, 3, 1)


def _spline_taps(patch_px: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return of every pixel of an axis its first node, (patch_px,), and the weights of four, (patch_px, 4)."""
    weights = spline_weights(patch_px, ELASTIC_SPACING_PX)
    start = np.minimum(np.argmax(weights > 0, axis=1), weights.shape[1] - SPLINE_NODES)
    return start, np.take_along_axis(weights, start[:, None] + np.arange(SPLINE_NODES), axis=1)


def _affine(pixels: Tensor, changes: Sequence[IntensityDraw]) -> Tensor:
    """Return pixels with brightness, contrast, saturation and hue changed, in this order, as one affine map.

    The contrast's fixed point is the mean grey of the image. Greys stay what they are under saturation and hue, so its
    part of the map is the same for each colour.
    """
    brightness = _on(np.array([one.brightness for one in changes]), pixels.device)
    contrast = _on(np.array([one.contrast for one in changes]), pixels.device)
    # In float64 the order of the sum makes no difference in what is left.
    means = pixels.mean(dim=(2, 3), dtype=torch.float64).float()
    if pixels.shape[1] != COLOURS:
        shift = (1 - contrast)[:, None] * brightness[:, None] * means
        return pixels.mul_((contrast * brightness)[:, None, None, None]).add_(shift[:, :, None, None])
    matrices = _on(np.stack([colour_matrix(one.saturation, one.hue) for one in changes]), pixels.device)
    grey = (means * _on(GREY, pixels.device)).sum(dim=1)
    shift = (1 - contrast) * brightness * grey
    return _mixed(pixels, matrices * (contrast * brightness)[:, None, None]).add_(shift[:, None, None, None])


def _mixed(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Return each sample's colours (B, 3, H, W) times its matrix (B, 3, 3), by sums whose order is always the same."""
    mixed = torch.empty_like(pixels)
    for row in range(COLOURS):
        weights = matrices[:, row, :, None, None]
        out = torch.mul(pixels[:, 0], weights[:, 0], out=mixed[:, row])
        for column in range(1, COLOURS):
            out.addcmul_(pixels[:, column], weights[:, column])
    return mixed


def _blur(pixels: Tensor, sigmas: NDArray[np.float64], largest: float) -> None:
    """Blur the samples whose sigma is above 0, in place, mirrored at the border."""
    chosen = np.flatnonzero(sigmas)
    if not len(chosen):
        return
    height, width = pixels.shape[2:]
    radius = min(max(int(np.ceil(BLUR_SIGMAS * largest)), 1), height - 1, width - 1)
    distance = np.arange(-radius, radius + 1)
    # A sigma near 0 is none, and must not divide by it.
    kernels = np.exp(-0.5 * (distance / np.maximum(sigmas[chosen], 1e-3)[:, None]) ** 2)
    taps = _on(kernels / kernels.sum(axis=1, keepdims=True), pixels.device)
    indices = _on(chosen, pixels.device)
    blurred = pixels.index_select(0, indices)
    for dim, padding in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        padded = functional.pad(blurred, padding, mode="reflect")
        blurred = torch.zeros_like(blurred)
        for tap in range(2 * radius + 1):
            blurred.addcmul_(padded.narrow(dim, tap, blurred.shape[dim]), taps[:, tap, None, None, None])
    pixels.index_copy_(0, indices, blurred)


def _add_noise(pixels: Tensor, changes: Sequence[IntensityDraw]) -> None:
    """Add Gaussian noise, in place, from each sample's own seed."""
    generator = torch.Generator(pixels.device)
    for sample, change in zip(pixels, changes, strict=True):
        if change.noise:
            generator.manual_seed(change.noise_seed)
            noise = torch.randn(sample.shape, generator=generator, device=pixels.device)
            sample.add_(noise, alpha=change.noise)


def _to_bytes(values: Tensor) -> Tensor:
    return values.round().clamp_(0, 255).to(torch.uint8)


def _on(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return an array on the device, numbers with a point as float32."""
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
