"""How strong augmentation is: the presets, and what `auto` means.

What a strength means (each is drawn anew for every sample; both backends mean the same):

    flips            mirrored horizontally and vertically, each with probability 1/2; exact where nothing is warped
    rotate_degrees   one warp (segkit.data.deformation) does these four and the flips in a single interpolation:
    scale            an angle up to +-rotate_degrees, a magnification log-uniform in `scale`, a shear up to
    shear_degrees    +-shear_degrees, and a smooth random displacement with an RMS of elastic_px in each direction
    elastic_px
    stain            haematoxylin, eosin and the rest times 1 - s .. 1 + s each (segkit.data.stain); colour only
    brightness       pixels times 1 - b .. 1 + b
    contrast         distance from the image's mean times 1 - c .. 1 + c
    saturation       distance from the pixel's grey times 1 - s .. 1 + s; colour only
    hue_degrees      turn of the hue up to +-hue_degrees; colour only
    gamma            exponent 1 / (1 + g) .. 1 + g
    blur_px          with probability 1/4, Gaussian with sigma 0 .. blur_px
    noise            with probability 1/2, Gaussian in each channel, standard deviation 0 .. noise of the white level
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from segkit.config import AUTO, AugmentConfig
from segkit.errors import ConfigError

BLUR_PROBABILITY: Final = 0.25
NOISE_PROBABILITY: Final = 0.5

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


def resolve_backend(config: AugmentConfig, *, on_cuda: bool) -> Literal["cpu", "device"]:
    """Return where samples are augmented; `auto`: on the device where that is CUDA and there is nothing `extra`.

    On a CPU albumentations takes about half as long, and can be left to worker processes.

    Raises
    ------
    ConfigError
        The device was asked for, and there are transforms of albumentations, which run on the CPU only.
    """
    if config.backend == "device" and config.extra:
        names = ", ".join(str(one.get("name")) for one in config.extra)
        raise ConfigError(
            f"augment.backend: device cannot do augment.extra ({names}): albumentations runs on the CPU. Take "
            "augment.backend=cpu, or leave augment.extra empty."
        )
    if config.backend == AUTO:
        return "device" if on_cuda and not config.extra else "cpu"
    return config.backend
