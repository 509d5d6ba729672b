"""What comes before training: the data read and checked, every `auto` of the configuration computed from them."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from segkit.config import TrainConfig
from segkit.data.layout import Dataset, Item, load_dataset, read_image, read_mask
from segkit.data.points import read_points
from segkit.data.splits import assign_splits
from segkit.errors import InputError
from segkit.geometry import TileGrid
from segkit.inference.sources import with_channels
from segkit.training.point_validation import LabelledPoints
from segkit.training.validation import LabelledImage
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.resolve import resolve_for_masks, resolve_for_points

LabelledT = TypeVar("LabelledT", LabelledImage, LabelledPoints)


@dataclass(frozen=True, kw_only=True)
class Prepared(Generic[LabelledT]):
    """A resolved configuration with the images it speaks of."""

    config: TrainConfig
    dataset: Dataset
    train: list[LabelledT]
    val: list[LabelledT]


def prepare(
    config: TrainConfig, *, on_progress: OnProgress, on_note: OnNote
) -> Prepared[LabelledImage] | Prepared[LabelledPoints]:
    """Read the data that a configuration speaks of, and compute all its `auto` values.

    Raises
    ------
    InputError
        The folder has problems, all of which are listed.
    ConfigError
        Settings do not go together, or not with the annotation.
    """
    dataset = assign_splits(
        load_dataset(config.data),
        val_fraction=config.data.val_fraction,
        test_fraction=config.data.test_fraction,
        seed=config.seed,
    )
    for text in dataset.notes:
        on_note(text)
    if dataset.annotation == "points":
        train_points, val_points = _read(dataset, _read_points, on_progress)
        resolved, notes = resolve_for_points(config, dataset, train_points, val_points)
        for text in notes:
            on_note(text)
        return Prepared(config=resolved, dataset=dataset, train=train_points, val=val_points)
    train_masks, val_masks = _read(dataset, _read_mask, on_progress)
    resolved, notes = resolve_for_masks(config, dataset, train_masks)
    for text in notes:
        on_note(text)
    return Prepared(config=resolved, dataset=dataset, train=train_masks, val=val_masks)


def input_px(config: TrainConfig, grid: TileGrid) -> int:
    """Return the side of the patches that a U-Net is fed: `patches.size_px` of output and what it loses."""
    return grid.legal_size(int(config.patches.size_px) + 2 * grid.margin)


def _read_mask(item: Item, dataset: Dataset) -> LabelledImage:
    return LabelledImage(item.name, read_image(item), read_mask(item, dataset))


def _read_points(item: Item, dataset: Dataset) -> LabelledPoints:
    image = read_image(item)
    return LabelledPoints(item.name, image, read_points(item, dataset, *image.shape[:2]))


def _read(
    dataset: Dataset, read: Callable[[Item, Dataset], LabelledT], on_progress: OnProgress
) -> tuple[list[LabelledT], list[LabelledT]]:
    """Read the images of training and validation, with what is known of them."""

    def attempt(item: Item) -> LabelledT | str:
        try:
            return read(item, dataset)
        except InputError as error:
            return str(error)

    items = [*dataset.of_split("train"), *dataset.of_split("val")]
    labelled: list[LabelledT] = []
    problems: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for number, one in enumerate(threads.map(attempt, items), start=1):
            if isinstance(one, str):
                problems.append(one)
            else:
                labelled.append(one)
            on_progress("read images", number, len(items), {})
    if problems:
        raise InputError(f"{dataset.root}: cannot be trained on. `segkit check` tells more.", problems)
    # Colour and grey images together: all become colour, as `segkit check` says.
    channels = max(one.image.shape[2] for one in labelled)
    labelled = [one._replace(image=with_channels(one.image, channels)) for one in labelled]
    num_train = len(dataset.of_split("train"))
    return labelled[:num_train], labelled[num_train:]


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
