"""Give every image a split: kept where splits exist, else drawn by group from a seed."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from segkit.data.layout import Dataset, Item
from segkit.data.listing import Split
from segkit.errors import ConfigError, InputError

SPLIT_COLUMNS: Final = ("image", "split", "group")


def assign_splits(dataset: Dataset, *, val_fraction: float, test_fraction: float, seed: int) -> Dataset:
    """Return the data set with a split for every image, and a note where a split was drawn.

    Without splits, `val_fraction` and `test_fraction` of the units (groups; an image without one is its own) are
    drawn, at least one unit for training and one for validation. Existing splits are kept; where they have no
    validation, it is taken from the training units. The test set is never touched.

    Parameters
    ----------
    dataset
        Its images all have a split, or none has.
    val_fraction, test_fraction
        Shares of the units, rounded; [0, 1), together below 1.
    seed
        The same seed and units give the same splits, in whatever order the images come.

    Raises
    ------
    ConfigError
        The fractions leave nothing to train on.
    InputError
        There are no training images, or too few units to validate on others than those trained on.
    """
    if val_fraction + test_fraction >= 1:
        raise ConfigError(
            f"val_fraction = {val_fraction:g} and test_fraction = {test_fraction:g} leave nothing to train on. "
            "Together they must be below 1."
        )
    counts = count_splits(dataset)
    if counts["train"] and counts["val"]:
        return dataset
    if not any(counts.values()):
        return _draw(dataset, dataset.items, val_fraction, test_fraction, seed, "made")
    if not counts["train"]:
        raise InputError(f"{dataset.root}: no image is in the split train. Give some in splits.csv.")
    return _draw(dataset, dataset.of_split("train"), val_fraction, 0.0, seed, "completed (val out of train)")


def assign_fold(dataset: Dataset, *, folds: int, fold: int, seed: int) -> Dataset:
    """Return the data set with one part of `folds` for validation and the rest for training; the test set stays.

    Units (groups; an image without one is its own) are divided by their number of images: the largest first, each to
    the part with the fewest images, units of equal size in an order drawn from the seed.

    Parameters
    ----------
    dataset
        As `assign_splits` returns it.
    folds, fold
        Number of parts, and which one validates, from 1 on.
    seed
        The same seed, units and number of parts give the same parts.

    Raises
    ------
    InputError
        There are fewer units than parts.
    """
    sizes: dict[tuple[str, str], int] = {}
    for item in (one for one in dataset.items if one.split != "test"):
        sizes[_unit(item)] = sizes.get(_unit(item), 0) + 1
    if len(sizes) < folds:
        raise InputError(
            f"{dataset.root}: {folds} folds need as many images (or groups) that are not for testing, and there are "
            f"{len(sizes)}. Give fewer folds, or more images."
        )
    units = sorted(sizes)
    shuffled = [units[index] for index in np.random.default_rng(seed).permutation(len(units))]
    counts = [0] * folds
    part_of = {}
    for unit in sorted(shuffled, key=lambda one: -sizes[one]):
        smallest = counts.index(min(counts))
        part_of[unit] = smallest + 1
        counts[smallest] += sizes[unit]
    items = tuple(
        item if item.split == "test" else replace(item, split="val" if part_of[_unit(item)] == fold else "train")
        for item in dataset.items
    )
    result = replace(dataset, items=items)
    shown = ", ".join(f"{count} {split}" for split, count in count_splits(result).items() if count)
    return replace(result, notes=(*dataset.notes, f"fold {fold} of {folds} with seed {seed}: {shown} images."))


def count_splits(dataset: Dataset) -> dict[Split, int]:
    """Return the number of images of each split."""
    return {split: len(dataset.of_split(split)) for split in ("train", "val", "test")}


def split_rows(dataset: Dataset) -> list[dict[str, str | None]]:
    """Return the rows of splits.csv under `SPLIT_COLUMNS`."""
    return [{"image": item.name, "split": item.split, "group": item.group} for item in dataset.items]


def _draw(
    dataset: Dataset, items: Collection[Item], val_fraction: float, test_fraction: float, seed: int, done: str
) -> Dataset:
    units = sorted({_unit(item) for item in items})
    if len(units) < 2:
        what = f"all images belong to group {items_group}" if (items_group := _only_group(items)) else "it is one image"
        raise InputError(
            f"{dataset.root}: validation needs other images than training, and {what}. Add images, or give splits.csv "
            "with the columns image and split."
        )
    num_val = min(max(1, round(val_fraction * len(units))), len(units) - 1)
    num_test = min(round(test_fraction * len(units)), len(units) - 1 - num_val)
    order = [units[index] for index in np.random.default_rng(seed).permutation(len(units))]
    drawn: dict[tuple[str, str], Split] = dict.fromkeys(order, "train")
    drawn.update(dict.fromkeys(order[:num_val], "val"))
    drawn.update(dict.fromkeys(order[num_val : num_val + num_test], "test"))
    result = replace(dataset, items=tuple(_with_split(item, drawn) for item in dataset.items))
    by = "group" if any(item.group for item in items) else "image"
    shown = ", ".join(f"{count} {split}" for split, count in count_splits(result).items() if count)
    return replace(result, notes=(*dataset.notes, f"splits {done} by {by} with seed {seed}: {shown} images."))


def _unit(item: Item) -> tuple[str, str]:
    return ("group", item.group) if item.group is not None else ("image", item.name)


def _with_split(item: Item, drawn: Mapping[tuple[str, str], Split]) -> Item:
    return item if item.split in {"val", "test"} else replace(item, split=drawn[_unit(item)])


def _only_group(items: Collection[Item]) -> str | None:
    return next(iter(items)).group if len(items) > 1 else None
