"""What comes before training: the data read and checked, every `auto` of the configuration computed from them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segkit.config import AUTO, Auto, TrainConfig
from segkit.data.augment import resolve_augment
from segkit.data.layout import Dataset, Item, load_dataset, read_image, read_mask
from segkit.data.splits import assign_splits
from segkit.errors import InputError
from segkit.geometry import TileGrid
from segkit.inference.pipeline import with_channels
from segkit.models.inference_form import resolve_device, resolve_precision
from segkit.training.validation import LabelledImage
from segkit.workflows.callbacks import OnNote, OnProgress

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A resolved configuration with the images it speaks of."""

    config: TrainConfig
    dataset: Dataset
    train: list[LabelledImage]
    val: list[LabelledImage]


def prepare(config: TrainConfig, *, on_progress: OnProgress, on_note: OnNote) -> Prepared:
    """Read the data that a configuration speaks of, and compute all its `auto` values.

    Raises
    ------
    InputError
        The folder has problems, all of which are listed.
    """
    dataset = assign_splits(
        load_dataset(config.data),
        val_fraction=config.data.val_fraction,
        test_fraction=config.data.test_fraction,
        seed=config.seed,
    )
    for text in dataset.notes:
        on_note(text)
    wanted = [*dataset.of_split("train"), *dataset.of_split("val")]
    labelled = _read_all(wanted, dataset, on_progress)
    num_train = len(dataset.of_split("train"))
    train_images, val_images = labelled[:num_train], labelled[num_train:]
    resolved, notes = _resolve(config, dataset, train_images)
    for text in notes:
        on_note(text)
    return Prepared(config=resolved, dataset=dataset, train=train_images, val=val_images)


def input_px(config: TrainConfig, grid: TileGrid) -> int:
    """Return the side of the patches that the network is fed: `patches.size_px` of output and what it loses."""
    return grid.legal_size(int(config.patches.size_px) + 2 * grid.margin)


def _read_all(items: Sequence[Item], dataset: Dataset, on_progress: OnProgress) -> list[LabelledImage]:
    def read(item: Item) -> LabelledImage | str:
        try:
            return LabelledImage(item.name, read_image(item), read_mask(item, dataset))
        except InputError as error:
            return str(error)

    found: list[LabelledImage | str] = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for one in threads.map(read, items):
            found.append(one)
            on_progress("read images", len(found), len(items), {})
    labelled = [one for one in found if isinstance(one, LabelledImage)]
    problems = [one for one in found if isinstance(one, str)]
    if problems:
        raise InputError(f"{dataset.root}: cannot be trained on. `segkit check` tells more.", problems)
    # Colour and grey images together: all become colour, as `segkit check` says.
    channels = max(one.image.shape[2] for one in labelled)
    return [one._replace(image=with_channels(one.image, channels)) for one in labelled]


def _resolve(config: TrainConfig, dataset: Dataset, images: Sequence[LabelledImage]) -> tuple[TrainConfig, list[str]]:
    """Return the configuration without `auto`, and a line for each value that was computed."""
    device = resolve_device(config.compute.device)
    depth = config.model.depth
    smallest = min(min(one.image.shape[:2]) for one in images)
    size_px = _given_or(config.patches.size_px, max(2**depth, min(256, smallest) // 2**depth * 2**depth))
    area = sum(one.image.shape[0] * one.image.shape[1] for one in images)
    steps = _given_or(config.steps_per_epoch, max(20, round(area / (size_px**2 * config.patches.batch))))
    paper = config.model.form == "paper"
    chosen = {
        # Class names stay as they were given: a list of names would not say which mask values they stand for.
        "data": {"annotation": dataset.annotation, "mpp": dataset.mpp or AUTO},
        "model": {
            "base_channels": _given_or(config.model.base_channels, 64 if paper else 32),
            "dropout": _given_or(config.model.dropout, 0.5 if paper else 0.0),
        },
        "patches": {"size_px": size_px},
        "augment": resolve_augment(config.augment, images[0].image.shape[2]).model_dump(),
        "optimiser": {
            "warmup_steps": _given_or(config.optimiser.warmup_steps, min(200, round(0.05 * steps * config.epochs))),
        },
        "compute": {"device": str(device), "precision": resolve_precision(config.compute.precision, device)},
        "steps_per_epoch": steps,
        "workers": _given_or(config.workers, 0 if device.type == "cpu" else min(8, (os.cpu_count() or 2) - 1)),
    }
    before = config.model_dump()
    merged = {key: {**before[key], **value} if isinstance(value, dict) else value for key, value in chosen.items()}
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


def channel_statistics(images: Sequence[NDArray[np.uint8]]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels, as shares of white (0..1)."""
    channels = images[0].shape[2]
    counts = np.zeros((channels, 256))
    for image in images:
        for channel in range(channels):
            counts[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 1e-4))
    return mean.tolist(), std.tolist()
