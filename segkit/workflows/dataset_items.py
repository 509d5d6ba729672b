"""Which images of a data folder are evaluated."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

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
    items = list(dataset.items)
    run = model.path.parent
    if split != "all" and (run / runs.SPLITS).exists():
        # The training's splits come first: where it drew validation images itself, the folder does not know them.
        known = runs.read_splits(run)
        if {item.name for item in items} <= known.keys():
            items = [replace(item, split=_split_of(known[item.name])) for item in items]
            on_note(f"splits: those of the training, {run / runs.SPLITS}")
    chosen = [item for item in items if split in {"all", item.split}]
    if not chosen:
        raise InputError(f"{dataset.root}: no images of the split `{split}`. Use --split all, or add a splits.csv.")
    return chosen


def items_with(
    predicted: Collection[str], prediction: Path, dataset: Dataset, what: str, on_note: OnNote
) -> list[Item]:
    """Return the images that there are predictions of, by name; it is said of how many there are none.

    Parameters
    ----------
    predicted, prediction
        The names of the predictions, and the folder that they lie in.
    dataset
        The truth.
    what
        What was predicted, for the message.

    Raises
    ------
    InputError
        A prediction has no image.
    """
    unknown = sorted(set(predicted) - {item.name for item in dataset.items})
    if unknown:
        raise InputError(f"{prediction}: these have no image of their name in {dataset.root}:", unknown)
    without = [item.name for item in dataset.items if item.name not in predicted]
    if without:
        on_note(
            f"{len(without)} of {len(dataset.items)} images in {dataset.root} have no {what} in {prediction} and are "
            f"left out: {', '.join(without[:MAX_NAMED])}{', ...' if len(without) > MAX_NAMED else ''}"
        )
    return [item for item in dataset.items if item.name in predicted]


def require_scale(dataset: Dataset, model: Model) -> None:
    """Raise InputError if the images are of another scale than the model's, where both are known."""
    images, trained = dataset.mpp, model.spec.mpp
    if images and trained and max(images / trained, trained / images) > MPP_TOLERANCE:
        raise InputError(
            f"{dataset.root}: has {images:.4g} um per pixel, and the model was trained at {trained:.4g} "
            f"({model.path}). Use a model of that scale, bring the images to its scale, or correct `mpp` in "
            "dataset.yaml."
        )


def _split_of(word: str) -> Split | None:
    return next((split for split in SPLITS if split == word), None)


def groups_of(items: Sequence[Item]) -> list[str] | None:
    """Return the group of each image; None unless all have one."""
    groups = [item.group for item in items if item.group is not None]
    return groups if len(groups) == len(items) else None


def attributes_of(items: Sequence[Item]) -> dict[str, list[str]]:
    """Return what splits.csv says of all images in columns of its own, a value for each image, by the column.

    Left out are columns that make no groups: the same for all images, another for each, or too many to be read.
    """
    names = dict.fromkeys(name for item in items for name, _ in item.attributes)
    values = {name: [dict(item.attributes).get(name, "") for item in items] for name in names}
    return {name: column for name, column in values.items() if 1 < len(set(column)) < min(len(column), MOST_VALUES + 1)}
