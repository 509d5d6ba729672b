"""Objects of several classes: which class each of them has, and what is said of metrics per class.

**Matching.** A predicted object is matched with true objects of its own class only, as if there were no others
(`objects.of_class`): one of the right shape and the wrong class is a false object of the one class, and a missed one of
the other. That is how panoptic quality of several classes is defined by PanNuke (Gamper et al. 2020, mPQ), MoNuSAC
(Verma et al. 2021) and CoNIC (Graham et al. 2021, mPQ+).

**Which average.** These differ in how images become one number. Here the *foreground* is the mean over the classes for
which a metric is defined, last of all: of the pooled values, where a class's counts are added up over the images first,
as in CoNIC (so the foreground's pooled PQ is mPQ+), and of the means over images of each class. PanNuke's mPQ is
neither: it averages the classes in each image, and leaves out images without a true object of the class, where here a
predicted one makes it 0.

**Undefined values.** A class without objects, true or predicted, in any image is undefined and left out of the mean;
CoNIC's program counts it as 0.
"""

import itertools
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.objects import Overlaps, of_class

ANY_CLASS: Final = "any class"
"""What it is called that objects are matched whatever their class."""

FOREGROUND: Final = "foreground"
"""What the mean over the classes is called in files."""

DEFINITIONS: Final = MappingProxyType(
    {
        "class": "of an object: a polygon's classification; of a model's object what most of its pixels are",
        "any_class": "class is not looked at: an object may match one of another class, so wrong classes cost nothing. "
        "All that stands outside of foreground and by_class and names no class is so: pooled, mean, densities, by_size",
        "by_class": "objects of a class are matched with those of the same class only, as if there were no others: a "
        "wrong class is a false object of the one and a missed one of the other",
        "foreground": "mean over the classes of objects for which the metric is defined. Of pooled values, where the "
        "counts of a class are added up over images first, panoptic_quality is so mPQ+ of CoNIC (Graham et al. 2021; "
        "there a class without any object counts as 0). Of means, each class's mean over images comes first; mPQ of "
        "PanNuke (Gamper et al. 2020) averages the classes in each image instead, and is not given",
    }
)
"""What files say about it, where there are several classes."""


class ObjectClasses(NamedTuple):
    """The class index of each object of an image, in the order of its overlaps: integers (N,) and (M,)."""

    true: NDArray[np.integer]
    predicted: NDArray[np.integer]


def classes_of(overlaps: Overlaps, true: NDArray[np.integer], predicted: NDArray[np.integer]) -> ObjectClasses:
    """Return the classes of an image's objects from those of all ids, integers (largest id + 1,) each.

    Raises
    ------
    ValueError
        An object's id is beyond them, or below 0.
    """
    for ids, known in ((overlaps.true_ids, true), (overlaps.predicted_ids, predicted)):
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(known):
            raise ValueError(f"ids {ids.min()} to {ids.max()}, and classes of {len(known)} ids")
    return ObjectClasses(true[overlaps.true_ids], predicted[overlaps.predicted_ids])


def majority_classes(ids: NDArray[np.integer], mask: NDArray[np.integer], num_classes: int) -> NDArray[np.int64]:
    """Return the class that most of an object's pixels are of, the first of several; background is none.

    So `segkit predict` names the class of an instance.

    Parameters
    ----------
    ids
        Objects, integers (H, W), 1 .. N; 0 and below are none.
    mask
        Class indices, integers (H, W), 0 .. num_classes - 1 in objects.
    num_classes
        At least 2, the background first.

    Returns
    -------
    int64 (N + 1,): the class index of each id, at least 1; that of ids without pixels, and of 0, says nothing.

    Raises
    ------
    ValueError
        The shapes differ, or a class does not exist.
    """
    if ids.shape != mask.shape:
        raise ValueError(f"shapes differ: ids {ids.shape}, mask {mask.shape}")
    inside = ids > 0
    classes = mask[inside].astype(np.int64)
    if len(classes) and not 0 <= classes.min() <= classes.max() < num_classes:
        raise ValueError(f"class {classes.min()} to {classes.max()}, and there are {num_classes} classes")
    count = int(ids.max(initial=0)) + 1
    pixels = np.bincount(ids[inside].astype(np.int64) * num_classes + classes, minlength=count * num_classes)
    largest: NDArray[np.int64] = 1 + pixels.reshape(count, num_classes)[:, 1:].argmax(axis=1)
    return largest


def divide(
    overlaps: Sequence[Overlaps], classes: Sequence[str] | None, object_classes: Sequence[ObjectClasses] | None
) -> dict[str, list[Overlaps]]:
    """Return the overlaps of the objects of each class, as if there were no others; nothing without classes.

    Parameters
    ----------
    overlaps
        Of N images.
    classes
        Names of C >= 3 classes, background first; None: class is not looked at.
    object_classes
        The classes of the objects of each image; None as well.

    Returns
    -------
    By the name of each class but the background, N overlaps.

    Raises
    ------
    ValueError
        The lengths do not fit together, names repeat, or a class does not exist.
    """
    if classes is None and object_classes is None:
        return {}
    if classes is None or object_classes is None:
        raise ValueError("the names of classes and the class of each object belong together")
    if len(classes) < 3 or len(set(classes)) < len(classes):
        raise ValueError(f"needed are the background and at least two classes of different names, got {tuple(classes)}")
    for indices in itertools.chain(*object_classes):
        if len(indices) and not 1 <= indices.min() <= indices.max() < len(classes):
            raise ValueError(f"class {indices.min()} to {indices.max()}, and there are {len(classes)} classes")
    pairs = list(zip(overlaps, object_classes, strict=True))
    return {name: [of_class(one, *of, index) for one, of in pairs] for index, name in enumerate(classes) if index}
