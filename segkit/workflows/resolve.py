"""Every `auto` of a training's configuration computed from the data."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from segkit.config import AUTO, Auto, TrainConfig, length_px
from segkit.data.augment import resolve_augment
from segkit.data.layout import Dataset, shorten
from segkit.errors import ConfigError, InputError
from segkit.models.inference_form import resolve_device, resolve_precision
from segkit.models.patch_cnn import CIRESAN_PX, usual_base_channels, usual_depth
from segkit.training.point_validation import LabelledPoints
from segkit.training.validation import LabelledImage

T = TypeVar("T")

MATCH_UM: Final = 7.5
"""Radius in which a mitosis counts as found since AMIDA13: about half a cell."""
MATCH_PX: Final = 15
UNET_FORMS: Final = ("modern", "paper")
SMALLEST_PX, LARGEST_PX = 33, 101


def resolve_for_masks(
    config: TrainConfig, dataset: Dataset, images: Sequence[LabelledImage]
) -> tuple[TrainConfig, list[str]]:
    """Return the configuration of a U-Net's training without `auto`, and a line for each value that was computed.

    Raises
    ------
    ConfigError
        `model.form` is one of a patch CNN.
    """
    if config.model.form not in UNET_FORMS:
        raise ConfigError(
            f"model.form = {config.model.form}: is a patch CNN's, which learns from points, and {dataset.root} is used "
            f"with {dataset.annotation}. Take {' or '.join(UNET_FORMS)}, or data.annotation=points."
        )
    paper = config.model.form == "paper"
    depth = _given_or(config.model.depth, 4)
    batch = _given_or(config.patches.batch, 8)
    smallest = min(min(one.image.shape[:2]) for one in images)
    size_px = _given_or(config.patches.size_px, max(2**depth, min(256, smallest) // 2**depth * 2**depth))
    area = sum(one.image.shape[0] * one.image.shape[1] for one in images)
    return _resolved(
        config,
        dataset,
        channels=images[0].image.shape[2],
        batch=batch,
        size_px=size_px,
        steps=max(20, round(area / (size_px**2 * batch))),
        model={
            "base_channels": _given_or(config.model.base_channels, 64 if paper else 32),
            "depth": depth,
            "dropout": _given_or(config.model.dropout, 0.5 if paper else 0.0),
        },
        loss="dice_cross_entropy",
    )


def resolve_for_points(
    config: TrainConfig, dataset: Dataset, images: Sequence[LabelledPoints], validation: Sequence[LabelledPoints]
) -> tuple[TrainConfig, list[str]]:
    """Return the configuration of a patch CNN's training without `auto`, and a line for each value computed.

    Raises
    ------
    ConfigError
        `model.form` is one of a U-Net, or a radius is in um and the scale is unknown.
    InputError
        There are no points to learn from, or none to choose the best epoch and thresholds by; or a patch is larger than
        an image.
    """
    form = config.model.form
    if form == "paper":
        raise ConfigError(
            f"model.form = {form}: is a U-Net's, which learns from masks, and {dataset.root} is used with points. Take "
            "modern, dnn1, dnn2, lenet, vgg, mlp or linear."
        )
    num_points = _num_points(images)
    if num_points == 0:
        raise InputError(
            f"{dataset.root}: the training images have no points of a class. Label some, or change splits."
        )
    if _num_points(validation) == 0:
        raise InputError(
            f"{dataset.root}: the validation images have no points of a class, by which the best epoch and the "
            "thresholds could be chosen. Label some, or change splits."
        )
    match = _given_or(config.points.match_radius, usual_match_radius(images, dataset.mpp))
    radii = {
        "match_radius": match,
        "positive_radius": _given_or(config.points.positive_radius, times(match, 0.5)),
        "near_radius": _given_or(config.points.near_radius, times(match, 3)),
    }
    radii_px = {key: _pixels(key, length, dataset.mpp) for key, length in radii.items()}
    usual_px = (
        CIRESAN_PX
        if form in ("dnn1", "dnn2")
        else min(max(round(5 * radii_px["match_radius"]) // 2 * 2 + 3, SMALLEST_PX), LARGEST_PX)
    )
    size_px = _given_or(config.patches.size_px, usual_px)
    small = [
        f"{one.name}: {one.image.shape[1]} x {one.image.shape[0]} px"
        for one in images
        if min(one.image.shape[:2]) < size_px
    ]
    if small:
        raise InputError(
            f"{dataset.root}: the patches of {size_px} px are larger than these images. Give a smaller "
            "patches.size_px, or larger images:",
            shorten(small),
        )
    batch = _given_or(config.patches.batch, 128)
    return _resolved(
        config,
        dataset,
        channels=images[0].image.shape[2],
        batch=batch,
        size_px=size_px,
        steps=max(100, round(num_points / (config.points.positives * batch))),
        model={
            "base_channels": _given_or(config.model.base_channels, usual_base_channels(form)),
            "depth": _given_or(config.model.depth, usual_depth(form, size_px)),
            "dropout": _given_or(config.model.dropout, 0.0),
        },
        loss="cross_entropy",
        points=radii,
    )


def _num_points(images: Sequence[LabelledPoints]) -> int:
    return sum(int((one.points.classes > 0).sum()) for one in images)


def usual_match_radius(images: Sequence[LabelledPoints], mpp: float | None) -> str:
    """Return 7.5 um (15 px), or half of the points' median distance to their nearest neighbour where that is less."""
    usual_px = MATCH_PX if mpp is None else MATCH_UM / mpp
    distances: list[NDArray[np.float64]] = []
    for one in images:
        positions = one.points.positions[one.points.classes > 0]
        # The distance of a point that is alone in its image is infinite.
        distances.append(cKDTree(positions).query(positions, 2)[0][:, 1] if len(positions) else np.zeros(0))
    half = float(np.median(np.concatenate(distances))) / 2
    if 1 <= half < usual_px:
        return f"{half:.1f}px"
    return f"{MATCH_PX}px" if mpp is None else f"{MATCH_UM}um"


def _pixels(key: str, length: str, mpp: float | None) -> float:
    try:
        return length_px(length, mpp)
    except ConfigError as error:
        raise ConfigError(f"points.{key} = {error.message}") from error


def times(length: str, factor: float) -> str:
    """Return a `Length` times a factor, in the same unit."""
    number = np.format_float_positional(float(length[:-2]) * factor, precision=4, fractional=False, trim="-")
    return f"{number}{length[-2:]}"


def _resolved(
    config: TrainConfig,
    dataset: Dataset,
    *,
    channels: int,
    batch: int,
    size_px: int,
    steps: int,
    model: Mapping[str, Any],
    loss: str,
    points: Mapping[str, Any] | None = None,
) -> tuple[TrainConfig, list[str]]:
    device = resolve_device(config.compute.device)
    steps = _given_or(config.steps_per_epoch, steps)
    chosen: dict[str, Any] = {
        # Class names stay as they were given: a list of names would not say which mask values they stand for.
        "data": {"annotation": dataset.annotation, "mpp": dataset.mpp or AUTO},
        "model": model,
        "patches": {"size_px": size_px, "batch": batch},
        "points": points or {},
        "augment": resolve_augment(config.augment, channels).model_dump(),
        "optimiser": {
            "warmup_steps": _given_or(config.optimiser.warmup_steps, min(200, round(0.05 * steps * config.epochs))),
        },
        "compute": {"device": str(device), "precision": resolve_precision(config.compute.precision, device)},
        "loss": _given_or(config.loss, loss),
        "steps_per_epoch": steps,
        "workers": _given_or(config.workers, 0 if device.type == "cpu" else min(8, (os.cpu_count() or 2) - 1)),
    }
    before = config.model_dump()
    merged = {key: {**before[key], **value} if isinstance(value, Mapping) else value for key, value in chosen.items()}
    resolved = TrainConfig.model_validate({**before, **merged})
    notes = [f"automatic: {key} = {value}" for key, value in differences(config, resolved).items()]
    return resolved, notes


def _given_or(value: T | Auto, automatic: T) -> T:
    return automatic if value == AUTO else value


def differences(before: TrainConfig, after: TrainConfig) -> dict[str, Any]:
    """Return the settings of `after` that are not those of `before`, by dotted key."""
    known = dict(_flat(before.model_dump()))
    return {key: value for key, value in _flat(after.model_dump()) if value != known[key]}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
