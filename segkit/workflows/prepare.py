"""What comes before training: the data read and checked, every `auto` of the configuration computed from them."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from segkit.config import TrainConfig
from segkit.data.cache import ArrayStore, InMemory
from segkit.data.layout import Dataset, load_dataset
from segkit.data.splits import assign_fold, assign_splits
from segkit.geometry import TileGrid
from segkit.training.distributed import processes_here
from segkit.training.instance_validation import LabelledObjects
from segkit.training.point_validation import LabelledPoints
from segkit.training.validation import LabelledImage
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.class_occurrence import note_absent_classes
from segkit.workflows.idle_settings import note_idle
from segkit.workflows.reading import (
    LabelledSlide,
    Make,
    Readings,
    labelled_image,
    labelled_objects,
    labelled_points,
    read_labelled,
)
from segkit.workflows.resolve import resolve_for_heat, resolve_for_points, resolve_for_unet, resolve_task
from segkit.workflows.unused_settings import refuse_unused

LabelledT = TypeVar("LabelledT", LabelledImage, LabelledPoints, LabelledObjects)


@dataclass(frozen=True, kw_only=True)
class Prepared(Generic[LabelledT]):
    """A resolved configuration with the images it speaks of.

    `slides` are training slides that are too large to be read whole; `store` keeps arrays that are made of the images.
    `is_resumed`: the network's weights will be those of a checkpoint, whatever it begins with.
    """

    config: TrainConfig
    dataset: Dataset
    train: list[LabelledT]
    val: list[LabelledT]
    slides: list[LabelledSlide] = field(default_factory=list)
    store: ArrayStore = field(default_factory=InMemory)
    is_resumed: bool = False

    @property
    def learned(self) -> Sequence[LabelledT | LabelledSlide]:
        """What is learned from: training images and slides."""
        everything: list[Any] = [*self.train, *self.slides]
        return everything

    @property
    def channels(self) -> int:
        """Channels of all images."""
        return int(self.learned[0].image.shape[2])


AnyPrepared = Prepared[LabelledImage] | Prepared[LabelledObjects] | Prepared[LabelledPoints]


def prepare(
    config: TrainConfig,
    *,
    cache: Path | None = None,
    is_resumed: bool = False,
    on_progress: OnProgress,
    on_note: OnNote,
) -> AnyPrepared:
    """Read the data that a configuration speaks of, and compute all its `auto` values.

    Parameters
    ----------
    config
        What the user set.
    cache
        Where decoded images go that would fill the memory; None: they stay there all the same.
    is_resumed
        See `Prepared`.
    on_progress, on_note
        Told how far it is, and what was found and chosen.

    Raises
    ------
    InputError
        The folder has problems, all of which are listed.
    ConfigError
        Settings do not go together, or not with the annotation.
    """
    dataset = assign_splits(
        load_dataset(config.data, with_test=False),
        val_fraction=config.data.val_fraction,
        test_fraction=config.data.test_fraction,
        seed=config.seed,
    )
    if config.data.folds is not None and config.data.fold is not None:
        dataset = assign_fold(dataset, folds=config.data.folds, fold=config.data.fold, seed=config.seed)
    for text in dataset.notes:
        on_note(text)
    config = resolve_task(config, dataset)
    if not is_resumed:  # whatever a run was begun with, it is gone on with
        refuse_unused(config)
    read_all = functools.partial(
        read_labelled,
        dataset,
        cache=config.data.cache,
        usual_cache=cache,
        processes=processes_here(os.environ),
        on_progress=on_progress,
        on_note=on_note,
    )

    def read(make: Make[LabelledT], **options: Any) -> Readings[LabelledT]:
        readings = read_all(make, **options)
        for text in note_absent_classes(dataset, readings):
            on_note(text)
        return readings

    def prepared(readings: Readings[LabelledT], resolved: tuple[TrainConfig, list[str]]) -> Prepared[LabelledT]:
        for text in [*resolved[1], *note_idle(resolved[0])]:
            on_note(text)
        return Prepared(
            config=resolved[0],
            dataset=dataset,
            train=readings.train,
            val=readings.val,
            slides=readings.slides,
            store=readings.store,
            is_resumed=is_resumed,
        )

    match config.task:
        case "points":
            points = read(labelled_points, bytes_per_pixel=0)
            resolve = resolve_for_heat if config.model.network == "unet" else resolve_for_points
            return prepared(points, resolve(config, dataset, points.train))
        case "instance":
            objects = read(labelled_objects, bytes_per_pixel=7)
            return prepared(objects, resolve_for_unet(config, dataset, objects.train))
        case _:
            masks = read(labelled_image, bytes_per_pixel=1 + 2 * config.loss.weight_map, by_region=True)
            return prepared(masks, resolve_for_unet(config, dataset, [*masks.train, *masks.slides]))


def input_px(config: TrainConfig, grid: TileGrid) -> int:
    """Return the side of the patches that a U-Net is fed: `patches.size_px` of output and what it loses."""
    return grid.legal_size(int(config.patches.size_px) + 2 * grid.margin)
