"""Which images of a data folder are evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from segkit.data.layout import Dataset, Item
from segkit.data.listing import SPLITS, Split
from segkit.errors import InputError
from segkit.models.model_file import Model
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote
from segkit.workflows.given_files import note_on_changed
from segkit.workflows.missing import REMEDY, Missing, listed

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
    chosen = _those_of(split, items, dataset.root)
    _say_groups(chosen, on_note)
    return chosen


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
    predicted: Mapping[str, Path],
    prediction: Path,
    dataset: Dataset,
    what: str,
    on_note: OnNote,
    *,
    split: str = "all",
    missing: Missing | None = None,
) -> list[Item]:
    """Return the images of a split that there are predictions of, by name; those of other splits are passed over.

    It is said if they are not the files that were predicted.

    Parameters
    ----------
    predicted, prediction
        The predictions by name, and the folder that they lie in.
    dataset
        The truth.
    what
        What was predicted, for the message.
    split
        As the folder itself says it, or `all`.
    missing
        What becomes of images of the split without a prediction; None: they are refused.

    Raises
    ------
    InputError
        A prediction has no image, or there are no images of the split, no predictions of any, or none of some that may
        not be left out.
    """
    missing = missing or Missing()
    unknown = sorted(set(predicted) - {item.name for item in dataset.items})
    if unknown:
        raise InputError(f"{prediction}: these have no image of their name in {dataset.root}:", unknown)
    asked = _those_of(split, dataset.items, dataset.root)
    without = [item.name for item in asked if item.name not in predicted]
    if len(without) == len(asked):
        raise InputError(f"{prediction}: has no {what} of any image of the split `{split}` in {dataset.root}.")
    if without and not missing.allowed:
        of_split = "" if split == "all" else f" of the split `{split}`"
        whole = _splits_predicted_whole(predicted, dataset) if split == "all" else []
        instead = "".join(f"measure those of the split {name} only (--split {name}), " for name in whole)
        raise InputError(
            f"{prediction}: {len(without)} of {len(asked)} images{of_split} in {dataset.root} have no {what}, and "
            f"without them the numbers may be too good. Predict these, too, {instead}or {REMEDY}:",
            listed(without),
        )
    missing.names += without
    items = [item for item in asked if item.name in predicted]
    if note := note_on_changed(predicted, {item.name: item.image for item in items}):
        on_note(note)
    _say_groups(items, on_note)
    return items


def _splits_predicted_whole(predicted: Mapping[str, Path], dataset: Dataset) -> list[Split]:
    """Return the splits of whose images there is a prediction each."""
    splits: list[Split] = [split for split in SPLITS if dataset.of_split(split)]
    return [split for split in splits if all(item.name in predicted for item in dataset.of_split(split))]


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


class Grouped(Protocol):
    """An image that may belong to others."""

    @property
    def name(self) -> str:
        """The image's name."""

    @property
    def group(self) -> str | None:
        """Its group (slide, patient), None where splits.csv does not say it."""


def groups_of(items: Sequence[Grouped]) -> list[str] | None:
    """Return the group of each image; None where no image has one.

    An image without one is a group of its own, as it is where splits are drawn (`segkit.data.splits`), and has its own
    name for it, or `image NAME` where a group is called so.
    """
    named = {item.group for item in items if item.group is not None}
    if not named:
        return None
    taken = named | {item.name for item in items if item.group is None}
    groups = []
    for item in items:
        group = item.name if item.group is None else item.group
        while item.group is None and item.name in named and group in taken:
            group = f"image {group}"
        taken.add(group)
        groups.append(group)
    return groups


def _say_groups(items: Sequence[Item], on_note: OnNote) -> None:
    alone = [item.name for item in items if item.group is None]
    if 0 < len(alone) < len(items):
        on_note(
            f"splits: {len(alone)} of {len(items)} images have no group and are groups of their own: "
            f"{', '.join(alone[:MAX_NAMED])}{', ...' if len(alone) > MAX_NAMED else ''}"
        )


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
