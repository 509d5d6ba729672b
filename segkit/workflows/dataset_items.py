"""Which images of a data folder are evaluated."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from segkit.data.layout import Dataset, Item
from segkit.data.listing import SPLITS, Split
from segkit.errors import InputError
from segkit.models.model_file import Model
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote

MAX_NAMED = 5
MOST_VALUES = 20
"""A column of splits.csv with more different values makes no groups to report on."""
MPP_TOLERANCE = 1.25
"""Images are taken as they are if their pixel size differs from the model's by no more than this factor."""


def items_of(split: str, dataset: Dataset, model: Model, on_note: OnNote) -> list[Item]:
    """Return the images of a split (or `all`), as the model's training split them.

    Raises
    ------
    InputError
        There are none.
    """
    items = list(dataset.items) if split == "all" else items_as_split(dataset, model, on_note)
    return _those_of(split, items, dataset.root)


def items_as_split(dataset: Dataset, model: Model, on_note: OnNote) -> list[Item]:
    """Return all images, each of the split that it had in the model's training, where that is known.

    The training's splits come first: where it drew validation images itself, the folder does not know them.
    """
    items = list(dataset.items)
    run = model.path.parent
    if (run / runs.SPLITS).exists():
        known = runs.read_splits(run)
        if {item.name for item in items} <= known.keys():
            items = [replace(item, split=_split_of(known[item.name])) for item in items]
            on_note(f"splits: those of the training, {run / runs.SPLITS}")
    return items


def items_with(
    predicted: Collection[str], prediction: Path, dataset: Dataset, what: str, on_note: OnNote, *, split: str = "all"
) -> list[Item]:
    """Return the images of a split that there are predictions of, by name; it is said of how many there are none.

    Parameters
    ----------
    predicted, prediction
        The names of the predictions, and the folder that they lie in.
    dataset
        The truth.
    what
        What was predicted, for the message.
    split
        As the folder itself says it, or `all`.

    Raises
    ------
    InputError
        A prediction has no image, or there are no images of the split, or no predictions of any.
    """
    unknown = sorted(set(predicted) - {item.name for item in dataset.items})
    if unknown:
        raise InputError(f"{prediction}: these have no image of their name in {dataset.root}:", unknown)
    asked = _those_of(split, dataset.items, dataset.root)
    without = [item.name for item in asked if item.name not in predicted]
    if len(without) == len(asked):
        raise InputError(f"{prediction}: has no {what} of any image of the split `{split}` in {dataset.root}.")
    if without:
        on_note(
            f"{len(without)} of {len(asked)} images in {dataset.root} have no {what} in {prediction} and are "
            f"left out: {', '.join(without[:MAX_NAMED])}{', ...' if len(without) > MAX_NAMED else ''}"
        )
    return [item for item in asked if item.name in predicted]


def require_scale(dataset: Dataset, model: Model) -> None:
    """Raise InputError if the images are of another scale than the model's, where both are known."""
    images, trained = dataset.mpp, model.spec.mpp
    if images and trained and max(images / trained, trained / images) > MPP_TOLERANCE:
        raise InputError(
            f"{dataset.root}: has {images:.4g} um per pixel, and the model was trained at {trained:.4g} "
            f"({model.path}). Use a model of that scale, bring the images to its scale, or correct `mpp` in "
            "dataset.yaml."
        )


def _those_of(split: str, items: Sequence[Item], root: Path) -> list[Item]:
    chosen = [item for item in items if split in {"all", item.split}]
    if not chosen:
        raise InputError(f"{root}: no images of the split `{split}`. Use --split all, or add a splits.csv.")
    return chosen


def _split_of(word: str) -> Split | None:
    return next((split for split in SPLITS if split == word), None)


def groups_of(items: Sequence[Item]) -> list[str] | None:
    """Return the group of each image; None unless all have one."""
    groups = [item.group for item in items if item.group is not None]
    return groups if len(groups) == len(items) else None


class Described(Protocol):
    """What splits.csv may say something of."""

    @property
    def attributes(self) -> tuple[tuple[str, str], ...]:
        """Its further columns, (column, value)."""


def attributes_of(items: Sequence[Described]) -> dict[str, list[str]]:
    """Return what splits.csv says of all images in columns of its own, a value for each image, by the column.

    Left out are columns that make no groups: the same for all images, another for each, or too many to be read.
    """
    names = dict.fromkeys(name for item in items for name, _ in item.attributes)
    values = {name: [dict(item.attributes).get(name, "") for item in items] for name in names}
    return {name: column for name, column in values.items() if 1 < len(set(column)) < min(len(column), MOST_VALUES + 1)}
