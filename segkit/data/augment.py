"""Random changes of training samples, by albumentations, the same for image and mask, a pure function of a seed.

What a strength means (each is drawn anew for every sample):

    flips            HorizontalFlip and VerticalFlip, each with probability 1/2; exact
    rotate_degrees   one Warp (segkit.data.warp) does these four in a single interpolation, linear for the image and
    scale            nearest for the mask: an angle up to +-rotate_degrees, a magnification log-uniform in `scale`,
    shear_degrees    a shear up to +-shear_degrees, and a smooth random displacement with an RMS of elastic_px in
    elastic_px       each direction
    stain            StainJitter (segkit.data.stain): haematoxylin, eosin and the rest times 1 - s .. 1 + s each;
                     colour only
    brightness       ColorJitter: pixels times 1 - b .. 1 + b
    contrast         ColorJitter: distance from the image's mean times 1 - c .. 1 + c
    saturation       ColorJitter: distance from the pixel's grey times 1 - s .. 1 + s; colour only
    hue_degrees      ColorJitter: turn of the hue up to +-hue_degrees; colour only
    gamma            RandomGamma: exponent 1 / (1 + g) .. 1 + g
    blur_px          GaussianBlur with probability 1/4, sigma 0 .. blur_px
    noise            GaussNoise with probability 1/2, standard deviation 0 .. noise of the white level, each channel

Patches are warped out of a larger context, whose size follows from the largest rotation, scale, shear and
displacement, so that no pixel needs to be invented.
"""

import os
import random
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segkit.config import AUTO, AugmentConfig
from segkit.data.deformation import context_margin

BLUR_PROBABILITY: Final = 0.25
NOISE_PROBABILITY: Final = 0.5
WARPING: Final = ("rotate_degrees", "scale", "shear_degrees", "elastic_px")

NONE: Final = {
    "flips": False,
    "rotate_degrees": 0.0,
    "scale": (1.0, 1.0),
    "shear_degrees": 0.0,
    "elastic_px": 0.0,
    "stain": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "gamma": 0.0,
    "hue_degrees": 0.0,
    "saturation": 0.0,
    "noise": 0.0,
    "blur_px": 0.0,
}
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "none": NONE,
    "light": {**NONE, "flips": True, "brightness": 0.1, "contrast": 0.1},
    # Tissue has no orientation; stains and scanners differ in hue, strength and focus.
    "histology": {
        "flips": True,
        "rotate_degrees": 180.0,
        "scale": (0.8, 1.25),
        "shear_degrees": 5.0,
        "elastic_px": 2.0,
        "stain": 0.35,
        "brightness": 0.15,
        "contrast": 0.25,
        "gamma": 0.25,
        "hue_degrees": 10.0,
        "saturation": 0.25,
        "noise": 0.06,
        "blur_px": 1.2,
    },
    # Ronneberger et al. 2015, section 3.1: few images, so rotation and elastic deformation are what teaches.
    "em": {
        "flips": True,
        "rotate_degrees": 180.0,
        "scale": (0.8, 1.25),
        "shear_degrees": 5.0,
        "elastic_px": 5.0,
        "stain": 0.0,
        "brightness": 0.15,
        "contrast": 0.25,
        "gamma": 0.25,
        "hue_degrees": 0.0,
        "saturation": 0.0,
        "noise": 0.06,
        "blur_px": 0.7,
    },
}


def resolve_augment(config: AugmentConfig, channels: int) -> AugmentConfig:
    """Return the configuration with every `auto` replaced: values that are given win over the preset's.

    Parameters
    ----------
    config
        What the user set.
    channels
        1 or 3: chooses the preset where it is `auto`; grey images get no stain, hue and saturation.
    """
    preset = config.preset if config.preset != AUTO else ("em" if channels == 1 else "histology")
    given = {key: value for key, value in config.model_dump().items() if value != AUTO}
    colour_only = {"stain": 0.0, "hue_degrees": 0.0, "saturation": 0.0} if channels == 1 else {}
    return AugmentConfig.model_validate({**PRESETS[preset], **given, **colour_only, "preset": preset})


class Augmenter:
    """Turns a context of `context_px` pixels into an augmented patch of `patch_px` pixels.

    Parameters
    ----------
    config
        With no `auto` (see `resolve_augment`).
    patch_px
        Side of the patches in pixels.

    Attributes
    ----------
    context_px
        Side of the square around the patch that `apply` needs; `patch_px` where nothing is warped.

    Notes
    -----
    It can be pickled for worker processes, and must not be shared by threads.
    """

    def __init__(self, config: AugmentConfig, patch_px: int) -> None:
        values = config.model_dump()
        assert AUTO not in values.values(), "resolve_augment comes first"
        self.patch_px = patch_px
        self.context_px = patch_px
        if _warps(values):
            self.context_px += 2 * context_margin(
                patch_px,
                rotate_degrees=values["rotate_degrees"],
                smallest_scale=min(values["scale"]),
                shear_degrees=values["shear_degrees"],
                elastic_px=values["elastic_px"],
            )
        self._pipeline = _build(values, patch_px)

    def apply(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the augmented patch, a pure function of its arguments.

        Parameters
        ----------
        image, mask
            (context_px, context_px, C) and (context_px, context_px) uint8; they are not changed.
        seed
            From 0 on; the same seed draws the same change.

        Returns
        -------
        image, mask
            (patch_px, patch_px, C) and (patch_px, patch_px) uint8, in memory of their own.
        """
        assert image.shape[:2] == mask.shape == (self.context_px, self.context_px)
        # One state for all transforms: `Compose.set_random_seed` would give each of them the same stream, so that
        # e.g. both flips always happen together.
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        sample = self._pipeline(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(mask))
        return _own(sample["image"], image), _own(sample["mask"], mask)


def _warps(values: Mapping[str, Any]) -> bool:
    return any(values[name] != NONE[name] for name in WARPING)


def _build(values: Mapping[str, Any], patch_px: int) -> Any:
    """Return the albumentations pipeline, without the changes that are switched off."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import asks the package index otherwise
    import albumentations as A  # over a second: only where samples are augmented

    from segkit.data.stain import StainJitter
    from segkit.data.warp import Warp

    transforms: list[Any] = []
    if _warps(values):
        transforms.append(Warp(patch_px, **{name: values[name] for name in WARPING}))
    if values["flips"]:
        transforms += [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
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
    return A.Compose(transforms)


def _own(result: NDArray[np.uint8], source: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return contiguous memory that the source does not share (nothing may be switched on, or only flips)."""
    return result.copy() if np.shares_memory(result, source) else np.ascontiguousarray(result)
