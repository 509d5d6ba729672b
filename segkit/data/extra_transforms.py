"""Any transform of albumentations, by its name in the configuration, checked before training begins.

albumentations only warns of parameters that it does not know, and finds out what does not fit at the first sample, in
the middle of a run. Here every transform is built and tried on a made-up patch of the size that will be used.
Importing this module imports albumentations, which takes over a second.
"""

import difflib
import inspect
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import albumentations
import cv2
import numpy as np
import pydantic
from numpy.typing import NDArray

from segkit.errors import ConfigError
from segkit.masks import IGNORE

TRIALS: Final = 3
MESSAGE_CHARACTERS: Final = 300
# Bases, and what needs Python functions or volumes.
NOT_BY_NAME: Final = frozenset({"DualTransform", "ImageOnlyTransform", "Lambda", "Transform3D"})


def build_extra(settings: Sequence[Mapping[str, Any]], patch_px: int, channels: int) -> list[Any]:
    """Return the transforms of `augment.extra`, each tried on an image with its target.

    Parameters
    ----------
    settings
        For each transform `name`, its class in albumentations, and its parameters.
    patch_px, channels
        Size of the patches that it will be applied to.

    Returns
    -------
    transforms
        For the keys `image`, `mask` (class indices, nearest) and `planes` ((H, W, P - 1), linear). What a warp brings
        in from outside of the patch does not count (`IGNORE`, and 0 in planes), unless `fill_mask` is given.

    Raises
    ------
    ConfigError
        A name or parameter is not known, or a transform is not fit: it changes the size or the type, makes class
        indices that were not there, needs more than image and mask, or is not a function of its random state.
    """
    return [_build(setting, f"augment.extra[{place}]", patch_px, channels) for place, setting in enumerate(settings)]


class _Planes:
    """Applies a transform to planes of values as to a mask, but linearly, and with 0 where nothing is known."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, planes: NDArray[np.uint8], **params: Any) -> Any:
        transform, ours = self.transform, {"mask_interpolation": cv2.INTER_LINEAR, "fill_mask": 0}
        usual = {name: getattr(transform, name) for name in ours if getattr(transform, name, None) is not None}
        params |= {name: ours[name] for name in usual if params.get(name) is not None}
        try:
            for name in usual:
                setattr(transform, name, ours[name])
            # One by one, as not all transforms take masks of several channels.
            changed = [
                transform.apply_to_mask(np.ascontiguousarray(planes[..., plane]), **params)
                for plane in range(planes.shape[2])
            ]
        finally:
            for name, value in usual.items():
                setattr(transform, name, value)
        return np.stack(changed, axis=2)


def _build(setting: Mapping[str, Any], where: str, patch_px: int, channels: int) -> Any:
    known = _transforms()
    parameters = dict(setting)
    name = parameters.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(
            f"{where}: no name of a transform in {dict(setting)}. Write e.g. {{name: RandomShadow, p: 0.2}}."
        )
    if name not in known:
        raise ConfigError(f"{where}: albumentations has no transform {name} for images.{_nearest(name, known)}")
    signature = inspect.signature(known[name].__init__).parameters
    accepted = [one for one in signature if one not in {"self", "strict"}]
    for parameter in parameters:
        if parameter not in accepted:
            raise ConfigError(
                f"{where}: {name} has no parameter {parameter}.{_nearest(str(parameter), accepted)} It takes "
                f"{', '.join(accepted)}."
            )
    if "fill_mask" in accepted and signature["fill_mask"].default is not None:
        parameters.setdefault("fill_mask", IGNORE)
    # Where it checks parameters itself, it would warn and take defaults for some that it cannot use.
    if "InitSchema" in vars(known[name]) or "__init__" not in vars(known[name]):
        parameters["strict"] = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # advice to take another transform
            transform = known[name](**parameters)
    except Exception as error:
        raise ConfigError(f"{where}: {name} refuses its parameters: {_in_a_line(error)}.") from error
    if isinstance(transform, albumentations.DualTransform):
        # Its public `add_targets` offers no other interpolation for a target of its own.
        transform._key2func["planes"] = _Planes(transform)
    if transform.p > 0:
        _try(transform, f"{where}: {name}", patch_px, channels)
    return transform


def _try(transform: Any, which: str, patch_px: int, channels: int) -> None:
    """Raise ConfigError if the transform is not fit for image and target."""
    rng = np.random.default_rng(0)
    sample = {
        "image": rng.integers(0, 256, (patch_px, patch_px, channels), np.uint8),
        "mask": rng.integers(0, 2, (patch_px, patch_px), np.uint8),
        "planes": rng.integers(0, 256, (patch_px, patch_px, 2), np.uint8),
    }
    for seed in range(TRIALS):
        try:
            first, second = (_applied(transform, sample, seed) for _ in range(2))
        except Exception as error:
            raise ConfigError(
                f"{which} cannot be applied to a patch of {patch_px} x {patch_px} x {channels} with its mask: "
                f"{_in_a_line(error)}."
            ) from error
        for key, before in sample.items():
            after = first[key]
            if not isinstance(after, np.ndarray) or after.dtype != np.uint8 or after.shape != before.shape:
                found = f"{after.dtype} {after.shape}" if isinstance(after, np.ndarray) else type(after).__name__
                raise ConfigError(
                    f"{which} makes {found} of an {key} of uint8 {before.shape}. Transforms have to keep size and type."
                )
            if not np.array_equal(after, second[key]):
                raise ConfigError(f"{which} gives different samples for the same seed, so a run could not be repeated.")
        if made := sorted(set(np.unique(first["mask"]).tolist()) - {0, 1, IGNORE}):
            raise ConfigError(f"{which} makes class indices that were not there, e.g. {made[0]} from 0 and 1.")


def _applied(transform: Any, sample: Mapping[str, NDArray[np.uint8]], seed: int) -> dict[str, Any]:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    result: dict[str, Any] = transform(force_apply=True, **{key: array.copy() for key, array in sample.items()})
    return result


def _transforms() -> dict[str, Any]:
    """Return the transforms of images and masks by their names."""
    bases = (albumentations.ImageOnlyTransform, albumentations.DualTransform)
    return {
        name: one
        for name, one in vars(albumentations).items()
        if inspect.isclass(one)
        and issubclass(one, bases)
        and not issubclass(one, albumentations.Transform3D)
        and name not in NOT_BY_NAME
    }


def _nearest(name: str, known: Iterable[str]) -> str:
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    return f" The nearest names: {', '.join(lower[one] for one in near)}." if near else ""


def _in_a_line(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error.__cause__, pydantic.ValidationError):
        places = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.__cause__.errors()]
        words = "; ".join(f"{place}: {what}" if place else what for place, what in places)
    return words if len(words) <= MESSAGE_CHARACTERS else f"{words[:MESSAGE_CHARACTERS]} ..."
