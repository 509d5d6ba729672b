"""Which classes occur in training and validation: without any there is nothing to learn, or to choose by."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from segkit.data.layout import Dataset
from segkit.errors import InputError
from segkit.training.instance_validation import LabelledObjects
from segkit.training.point_validation import LabelledPoints
from segkit.training.validation import LabelledImage
from segkit.workflows.reading import LabelledSlide, Readings

Labelled = LabelledImage | LabelledPoints | LabelledObjects | LabelledSlide
LabelledT = TypeVar("LabelledT", LabelledImage, LabelledPoints, LabelledObjects)


def note_absent_classes(dataset: Dataset, readings: Readings[LabelledT]) -> list[str]:
    """Return a line for the classes that occur in no image of training, and one for validation.

    Raises
    ------
    InputError
        Training or validation has no class but the background.
    """
    noun = {"points": "points", "labels": "objects"}.get(dataset.annotation, "pixels")
    foreground = dict(enumerate(dataset.classes))
    del foreground[0]
    lines = []
    learned: list[Labelled] = [*readings.train, *readings.slides]
    measured: list[Labelled] = [*readings.val]
    for part, images, why in (
        ("training", learned, "cannot be learned"),
        ("validation", measured, "are not measured while training"),
    ):
        absent = sorted(foreground.keys() - _indices_in(images))
        if len(absent) == len(foreground):
            reason = "" if part == "training" else ", by which the best epoch and the thresholds could be chosen"
            raise InputError(
                f"{dataset.root}: the {part} images have no {noun} of a class{reason}. Label some, or change splits."
            )
        if absent:
            names = ", ".join(foreground[index] for index in absent)
            lines.append(f"the {part} images have no {noun} of these classes, which {why}: {names}")
    return lines


def _indices_in(images: Sequence[Labelled]) -> set[int]:
    indices: set[int] = set()
    for one in images:
        if isinstance(one, LabelledPoints):
            indices |= set(one.points.classes.tolist())
        elif isinstance(one, LabelledSlide):
            indices |= one.mask.indices
        else:
            indices |= set(np.flatnonzero(np.bincount(one.mask.ravel())).tolist())
    return indices
