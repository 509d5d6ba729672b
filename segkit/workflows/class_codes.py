"""What the values of masks mean in two folders, and the classes that both then have."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segkit.data.classes import BACKGROUND, FOREGROUND, ClassNames
from segkit.errors import InputError
from segkit.masks import IGNORE
from segkit.workflows.callbacks import OnNote

BINARY: Final = 255
"""The value of the foreground in masks of one class, beside 0."""

_AUTOMATIC: Final = re.compile(r"background|foreground|class_\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """What the values of the masks of a folder mean.

    Attributes
    ----------
    folder
        Where they lie.
    names
        Their classes by index, background first; None: nobody says.
    index_of
        The class index of each value, `IGNORE` for those that are not labelled.
    is_complete
        Whether `names` are all classes, and not those that happen to occur.
    """

    folder: Path
    names: tuple[str, ...] | None
    index_of: Mapping[int, int]
    is_complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonClasses:
    """Class names by index, and the index of each value of true and predicted masks."""

    classes: tuple[str, ...]
    index_of_true: Mapping[int, int]
    index_of_predicted: Mapping[int, int]


def codes_of_truth(folder: Path, values: set[int], given: ClassNames, ignore: int | None) -> Codes:
    """Return what the values of true masks mean.

    Parameters
    ----------
    folder
        For messages.
    values
        All that occur.
    given
        Class names by index or value, None: none are known. Then 255 is the foreground where all masks hold only 0 and
        255, and `not labelled` in others.
    ignore
        The value of pixels that are not labelled.

    Raises
    ------
    InputError
        A value is no class.
    """
    counted = values - {ignore}
    ignored = {} if ignore is None else {ignore: IGNORE}
    if given is None:
        meaning = {BINARY: 1} if is_binary(counted) else {**{value: value for value in counted}, BINARY: IGNORE}
        return Codes(folder=folder, names=None, index_of={0: 0, **meaning, **ignored})
    names, index_of = _named(given)
    if len(names) == 2 and is_binary(counted) and BINARY not in index_of:
        index_of = {0: 0, BINARY: 1}
    _require_known(folder, counted, index_of, names)
    return Codes(folder=folder, names=names, index_of={**index_of, **ignored})


def codes_of_labels(folder: Path, given: ClassNames) -> Codes:
    """Return what 0 and 1, outside of and in any object, mean."""
    names = _named(given)[0] if given is not None else (BACKGROUND, FOREGROUND)
    if len(names) != 2:
        raise InputError(f"{folder}: has the classes {', '.join(names)}, and labels/ hold the objects of one class.")
    return Codes(folder=folder, names=names, index_of={0: 0, 1: 1, IGNORE: IGNORE})


def codes_of_polygons(folder: Path, values: Mapping[str, int], given: ClassNames) -> Codes:
    """Return what the values painted for polygons mean.

    Parameters
    ----------
    folder
        For messages.
    values
        The value by class of a polygon, 0 for the background.
    given
        Class names, None: those that occur, sorted.

    Raises
    ------
    InputError
        A polygon is of no class.
    """
    found = set(values) - {BACKGROUND}
    names = (BACKGROUND, *sorted(found)) if given is None else _named(given)[0]
    if unknown := sorted(found - set(names)):
        raise InputError(f"{folder}: holds polygons of {', '.join(unknown)}, and the classes are {', '.join(names)}.")
    index_of = {0: 0, **{value: names.index(name) for name, value in values.items() if name in found}}
    return Codes(folder=folder, names=names, index_of=index_of, is_complete=given is not None)


def codes_of_predictions(folder: Path, values: set[int], classes: Sequence[str] | None, truth: Codes) -> Codes:
    """Return what the values of predicted masks mean.

    Parameters
    ----------
    folder
        For messages.
    values
        All that occur.
    classes
        The model's, by index; None: masks of another program, which are taken to hold the values that the truth has.
    truth
        What these mean.

    Raises
    ------
    InputError
        A value is no class.
    """
    if BINARY in values and not is_binary(values):
        raise InputError(
            f"{folder}: holds the value {BINARY} beside class ids, and a prediction has a class for every pixel."
        )
    if classes is not None:
        index_of = {0: 0, BINARY: 1} if BINARY in values else {index: index for index in range(len(classes))}
        _require_known(folder, values, index_of, classes)
        return Codes(folder=folder, names=tuple(classes), index_of=index_of)
    if BINARY in values:
        return Codes(folder=folder, names=None, index_of={0: 0, BINARY: 1})
    # Masks that were painted for the same purpose: coded as the truth's, or, of one class, as 0 and 1.
    known = {value: index for value, index in truth.index_of.items() if index != IGNORE}
    if truth.names is not None and values <= known.keys():
        return Codes(folder=folder, names=None, index_of=known)
    if truth.names is not None and not values <= set(range(len(truth.names))):
        _require_known(folder, values, known, truth.names)
    return Codes(folder=folder, names=None, index_of={value: value for value in values | {0}})


def common_classes(truth: Codes, prediction: Codes, on_note: OnNote) -> CommonClasses:
    """Return the classes of both, by name where both have names, else by index.

    Raises
    ------
    InputError
        Their names differ.
    """
    highest = max(1, *(index for codes in (truth, prediction) for index in codes.index_of.values() if index != IGNORE))
    if truth.names is None or prediction.names is None:
        names = truth.names or prediction.names
        if names is None:
            names = (BACKGROUND, FOREGROUND) if highest == 1 else (BACKGROUND,)
        elif len(names) > 2 and truth.names is not None:
            shown = ", ".join(f"{index} = {name}" for index, name in enumerate(names) if index)
            on_note(f"{prediction.folder}: does not name its classes; they are taken to be {shown}")
        further = (f"class_{index}" for index in range(len(names), highest + 1))
        return CommonClasses(
            classes=(*names, *further), index_of_true=truth.index_of, index_of_predicted=prediction.index_of
        )
    classes, true_index, predicted_index = _by_name(truth, prediction)
    return CommonClasses(
        classes=classes,
        index_of_true=_through(truth.index_of, true_index),
        index_of_predicted=_through(prediction.index_of, predicted_index),
    )


def _by_name(truth: Codes, prediction: Codes) -> tuple[tuple[str, ...], list[int], list[int]]:
    """Return the common names, and the place of each true and of each predicted class among them."""
    true, predicted = truth.names or (), prediction.names or ()
    by_position = list(range(max(len(true), len(predicted))))
    # Names that nobody chose stand for classes by position.
    if all(map(_AUTOMATIC.fullmatch, true)) and len(true) <= len(predicted):
        return predicted, by_position, by_position
    if all(map(_AUTOMATIC.fullmatch, predicted)) and len(predicted) <= len(true):
        return true, by_position, by_position
    if set(true[1:]) <= set(predicted[1:]):
        classes = predicted
    elif set(predicted[1:]) <= set(true[1:]) and not prediction.is_complete:
        classes = true
    else:
        raise InputError(
            f"{truth.folder}: has the classes {', '.join(true)}, and {prediction.folder} has {', '.join(predicted)}. "
            "Both must name them alike."
        )
    places = {name: place for place, name in enumerate(classes) if place}
    return classes, [0, *(places[name] for name in true[1:])], [0, *(places[name] for name in predicted[1:])]


def _through(index_of: Mapping[int, int], places: Sequence[int]) -> dict[int, int]:
    return {value: index if index == IGNORE else places[index] for value, index in index_of.items()}


def is_binary(values: set[int]) -> bool:
    """Tell whether masks that hold these values are masks of one class, written as 0 and 255."""
    return values <= {0, BINARY}


def _named(given: ClassNames) -> tuple[tuple[str, ...], dict[int, int]]:
    """Return names by index and index by value, as `segkit.data.classes` understands names that are given."""
    by_value = {0: BACKGROUND, **given} if isinstance(given, Mapping) else dict(enumerate(given or ()))
    values = sorted(by_value)
    return tuple(by_value[value] for value in values), {value: index for index, value in enumerate(values)}


def _require_known(folder: Path, values: set[int], index_of: Mapping[int, int], names: Sequence[str]) -> None:
    if unknown := sorted(values - set(index_of)):
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        known = ", ".join(f"{value} = {names[index]}" for value, index in index_of.items() if index != IGNORE)
        raise InputError(f"{folder}: holds the values {shown}, which are no classes ({known}).")
