"""Every `auto` of a training's configuration computed from the data."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from segkit.config import AUTO, Auto, TaskName, TrainConfig, length_px
from segkit.data.layout import Dataset, shorten
from segkit.data.presets import resolve_augment, resolve_backend
from segkit.errors import ConfigError, InputError
from segkit.evaluation.membrane_images import MEMBRANES, membrane_among
from segkit.models.inference_form import resolve_precision
from segkit.models.patch_cnn import CIRESAN_PX, usual_activation, usual_base_channels, usual_depth, usual_norm
from segkit.models.patch_cnn import FORMS as PATCH_CNN_FORMS
from segkit.training.distributed import count_processes, processes_here
from segkit.training.instance_validation import LabelledObjects
from segkit.training.loading import choose_workers
from segkit.training.point_validation import LabelledPoints
from segkit.training.validation import LabelledImage
from segkit.workflows.reading import LabelledSlide
from segkit.workflows.settings import device_of_process

T = TypeVar("T")

MATCH_UM: Final = 7.5
"""Radius in which a mitosis counts as found since AMIDA13: about half a cell."""
MATCH_PX: Final = 15
UNET_FORMS: Final = ("modern", "paper")
SMALLEST_PX, LARGEST_PX = 33, 101
USUAL_RATES: Final = {"sgd": 1e-2, "adagrad": 1e-2, "rmsprop": 1e-4}
"""Where it is not 1e-3; rmsprop's momentum makes a rate act ten times as large."""


def resolve_task(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Return the configuration with the task, and the network that learns it, chosen.

    Raises
    ------
    ConfigError
        They do not go with the annotation, with each other or with `model.form`, or there is not one weight for each
        class.
    """
    annotation = dataset.annotation
    usual: TaskName = {"points": "points", "labels": "instance"}.get(annotation, "semantic")  # type: ignore[assignment]
    task = _given_or(config.task, usual)
    if (task == "points") != (annotation == "points"):
        raise ConfigError(
            f"task = {task}: {dataset.root} is used with {annotation}. Points are learned from points, the others from "
            "masks, labels or geojson: choose another task, or another data.annotation."
        )
    network = _given_or(config.model.network, "patch_cnn" if task == "points" else "unet")
    if network == "patch_cnn" and task != "points":
        raise ConfigError(
            f"model.network = patch_cnn: learns from points, and {dataset.root} is used with {annotation}. Take unet, "
            "or data.annotation=points."
        )
    form = config.model.form
    fitting = UNET_FORMS if network == "unet" else PATCH_CNN_FORMS
    if form not in fitting:
        kind, other = ("a U-Net", "a patch CNN") if network == "unet" else ("a patch CNN", "a U-Net")
        raise ConfigError(
            f"model.form = {form}: is {other}'s, and {dataset.root} is used with {annotation}, for {kind}. Take "
            f"{' or '.join(fitting)}"
            + (", or data.annotation=points." if task != "points" else ", or another model.network.")
        )
    if network == "patch_cnn" and config.model.encoder != "plain":
        raise ConfigError(f"model.encoder = {config.model.encoder}: is for U-Nets. Take model.network=unet.")
    if config.best_by == "v_rand" and (task != "semantic" or membrane_among(dataset.classes) is None):
        raise ConfigError(
            f"best_by = v_rand: is of masks with two classes, one of them called {', '.join(sorted(MEMBRANES))}. "
            f"{dataset.root} is used with {annotation} of {', '.join(dataset.classes)}: leave it out."
        )
    weights, classes = config.loss.class_weights, dataset.classes
    if isinstance(weights, list) and len(weights) != len(classes):
        raise ConfigError(
            f"loss.class_weights has {len(weights)} numbers, and there are {len(classes)} classes, background included "
            f"({', '.join(classes)}). Give one for each class, in this order."
        )
    model = config.model.model_copy(update={"network": network})
    return config.model_copy(update={"task": task, "model": model})


def resolve_for_unet(
    config: TrainConfig, dataset: Dataset, images: Sequence[LabelledImage | LabelledObjects | LabelledSlide]
) -> tuple[TrainConfig, list[str]]:
    """Return the configuration of a U-Net's training without `auto`, and a line for each value that was computed.

    Parameters
    ----------
    config
        With a task and a network (`resolve_task`).
    """
    paper = config.model.form == "paper"
    depth = _given_or(config.model.depth, 4)
    batch = _given_or(config.patches.batch, 8)
    smallest = min(min(one.image.shape[:2]) for one in images)
    size_px = _given_or(config.patches.size_px, max(2**depth, min(256, smallest) // 2**depth * 2**depth))
    area = sum(one.image.shape[0] * one.image.shape[1] for one in images)
    resolved, notes = _resolved(
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
            "norm": _given_or(config.model.norm, "none" if paper else "batch"),
            "activation": _given_or(config.model.activation, "relu"),
        },
        loss=None if config.task == "points" else "dice_cross_entropy",
    )
    padded = [one for one in images if min(one.image.shape[:2]) < size_px]
    if padded:
        notes.append(
            f"{len(padded)} of {len(images)} images are smaller than the patches of {size_px} px, and are mirrored "
            "beyond their border to fill them."
        )
    return resolved, notes


def resolve_for_heat(
    config: TrainConfig, dataset: Dataset, images: Sequence[LabelledPoints]
) -> tuple[TrainConfig, list[str]]:
    """Return the configuration of the training of a U-Net that finds points, likewise.

    Raises
    ------
    ConfigError
        A radius is in um and the scale is unknown.
    """
    if config.loss.name != AUTO:
        raise ConfigError(
            f"loss.name = {config.loss.name}: a U-Net that finds points has a loss of its own. Leave it out, or take "
            "model.network=patch_cnn."
        )
    with_radii = config.model_copy(update={"points": config.points.model_copy(update=_radii(config, dataset, images))})
    as_images = [LabelledImage(one.name, one.image, one.image[..., 0]) for one in images]
    resolved, notes = resolve_for_unet(with_radii, dataset, as_images)
    chosen = differences(config, with_radii)
    return resolved, [f"automatic: {key} = {value}" for key, value in chosen.items()] + notes


def resolve_for_points(
    config: TrainConfig, dataset: Dataset, images: Sequence[LabelledPoints]
) -> tuple[TrainConfig, list[str]]:
    """Return the configuration of a patch CNN's training without `auto`, and a line for each value computed.

    Raises
    ------
    ConfigError
        A radius is in um and the scale is unknown.
    InputError
        A patch is larger than an image.
    """
    form = config.model.form
    assert form != "paper", "resolve_task comes first"
    radii = _radii(config, dataset, images)
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
        steps=max(100, round(_num_points(images) / (config.points.positives * batch))),
        model={
            "base_channels": _given_or(config.model.base_channels, usual_base_channels(form)),
            "depth": _given_or(config.model.depth, usual_depth(form, size_px)),
            "dropout": _given_or(config.model.dropout, 0.0),
            "norm": _given_or(config.model.norm, usual_norm(form)),
            "activation": _given_or(config.model.activation, usual_activation(form)),
        },
        loss="cross_entropy",
        points=radii,
    )


def _radii(config: TrainConfig, dataset: Dataset, images: Sequence[LabelledPoints]) -> dict[str, str]:
    """Return the radii of the section `points`, computed where they are `auto`, and known in pixels."""
    match = _given_or(config.points.match_radius, usual_match_radius(images, dataset.mpp))
    radii = {
        "match_radius": match,
        "positive_radius": _given_or(config.points.positive_radius, times(match, 0.5)),
        "near_radius": _given_or(config.points.near_radius, times(match, 3)),
    }
    for key, length in radii.items():
        _pixels(key, length, dataset.mpp)
    return radii


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
    loss: str | None,
    points: Mapping[str, Any] | None = None,
) -> tuple[TrainConfig, list[str]]:
    device = device_of_process(config.compute)
    processes = count_processes(os.environ)
    if batch % processes:
        raise ConfigError(
            f"patches.batch = {batch}: cannot be divided evenly among {processes} processes. Give a multiple of "
            f"{processes}."
        )
    augment = resolve_augment(config.augment, channels)
    steps = _given_or(config.steps_per_epoch, steps)
    chosen: dict[str, Any] = {
        # Class names stay as they were given: a list of names would not say which mask values they stand for.
        "data": {"annotation": dataset.annotation, "mpp": dataset.mpp or AUTO},
        "model": model,
        "patches": {"size_px": size_px, "batch": batch},
        "points": points or {},
        "augment": {**augment.model_dump(), "backend": resolve_backend(augment, on_cuda=device.type == "cuda")},
        "optimiser": {
            "learning_rate": _given_or(config.optimiser.learning_rate, USUAL_RATES.get(config.optimiser.name, 1e-3)),
            "warmup_steps": _given_or(config.optimiser.warmup_steps, min(200, round(0.05 * steps * config.epochs))),
        },
        "compute": {"device": str(device), "precision": _precision(config, device)},
        "loss": {} if loss is None else {"name": _given_or(config.loss.name, loss)},
        "steps_per_epoch": steps,
        "workers": _given_or(config.workers, choose_workers(device.type, processes=processes_here(os.environ))),
    }
    before = config.model_dump()
    merged = {key: {**before[key], **value} if isinstance(value, Mapping) else value for key, value in chosen.items()}
    resolved = TrainConfig.model_validate({**before, **merged})
    notes = [f"automatic: {key} = {value}" for key, value in differences(config, resolved).items()]
    return resolved, notes


def _precision(config: TrainConfig, device: torch.device) -> str:
    precision = config.compute.precision
    return precision if precision == "float16" else resolve_precision(precision, device)


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
