"""Random changes of training samples on the CPU, by albumentations: image and target alike, a pure function of a seed.

What the strengths mean is written in `segkit.data.presets`; `segkit.training.device_augment` does the same in batches.
Patches are warped out of a larger context, whose size follows from the largest rotation, scale, shear and
displacement, so that no pixel needs to be invented.
"""

import os
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.config import AUTO, AugmentConfig
from segkit.data.deformation import WarpStrengths
from segkit.data.presets import BLUR_PROBABILITY, NOISE_PROBABILITY, NONE


class Augmenter:
    """Turns a context of `context_px` pixels into an augmented patch of `patch_px` pixels.

    Parameters
    ----------
    config
        With no `auto` (see `resolve_augment`).
    patch_px
        Side of the patches in pixels.
    channels
        Channels of the images: `config.extra` is tried on such a patch.

    Attributes
    ----------
    context_px
        Side of the square around the patch that `apply` needs; `patch_px` where nothing is warped.

    Raises
    ------
    ConfigError
        A transform in `config.extra` is not known, has other parameters, or is not fit for image and target.

    Notes
    -----
    It can be pickled for worker processes, and must not be shared by threads.
    """

    def __init__(self, config: AugmentConfig, patch_px: int, channels: int = 3) -> None:
        assert AUTO not in {getattr(config, name) for name in NONE}, "resolve_augment comes first"
        self.patch_px = patch_px
        warp = WarpStrengths.of(config)
        self.context_px = patch_px + 2 * warp.margin(patch_px)
        self._pipeline = _build(config, warp, patch_px, channels)

    def apply(
        self, image: NDArray[np.uint8], target: NDArray[np.uint8], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the augmented patch, a pure function of its arguments.

        Parameters
        ----------
        image
            (context_px, context_px, C) uint8; it is not changed.
        target
            (context_px, context_px, P) uint8, likewise: plane 0 class indices, which are never mixed, the others
            values 0..255, which are interpolated linearly.
        seed
            From 0 on; the same seed draws the same change.

        Returns
        -------
        image, target
            (patch_px, patch_px, C) and (patch_px, patch_px, P) uint8, in memory of their own.
        """
        assert image.ndim == target.ndim == 3
        assert image.shape[:2] == target.shape[:2] == (self.context_px, self.context_px)
        # One state for all transforms: `Compose.set_random_seed` would give each of them the same stream, so that
        # e.g. both of two flips always happen together.
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        sample = {"image": np.ascontiguousarray(image), "mask": np.ascontiguousarray(target[..., 0])}
        if target.shape[2] > 1:
            sample["planes"] = np.ascontiguousarray(target[..., 1:])
        changed = self._pipeline(**sample)
        planes = [changed["mask"][..., None], *([changed["planes"]] if "planes" in changed else [])]
        return _own(changed["image"], image), np.concatenate(planes, axis=2)


def _build(config: AugmentConfig, warp: WarpStrengths, patch_px: int, channels: int) -> Any:
    """Return the albumentations pipeline, without the changes that are switched off."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import asks the package index otherwise
    import albumentations as A  # over a second: only where samples are augmented

    from segkit.data.extra_transforms import build_extra
    from segkit.data.stain_jitter import StainJitter
    from segkit.data.warp import Warp

    values = config.model_dump()
    transforms: list[Any] = []
    if warp.flips or warp.warps:
        transforms.append(Warp(patch_px, warp))
    if values["stain"]:
        transforms.append(StainJitter(values["stain"]))
    if any(values[name] for name in ("brightness", "contrast", "saturation", "hue_degrees")):
        transforms.append(
            A.ColorJitter(
                brightness=values["brightness"],
                contrast=values["contrast"],
                saturation=values["saturation"],
                hue=values["hue_degrees"] / 360,
                p=1,
            )
        )
    if values["gamma"]:
        percent = 100 * (1 + values["gamma"])
        transforms.append(A.RandomGamma(gamma_limit=(1e4 / percent, percent), p=1))
    if values["blur_px"]:
        transforms.append(A.GaussianBlur(sigma_limit=(0, values["blur_px"]), blur_limit=0, p=BLUR_PROBABILITY))
    if values["noise"]:
        transforms.append(A.GaussNoise(std_range=(0, values["noise"]), p=NOISE_PROBABILITY))
    return A.Compose([*transforms, *build_extra(config.extra, patch_px, channels)])


def _own(result: NDArray[np.uint8], source: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return contiguous memory that the source does not share (nothing may be switched on, or only flips)."""
    return result.copy() if np.shares_memory(result, source) else np.ascontiguousarray(result)
