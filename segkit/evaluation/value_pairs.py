"""How often each pair of true and predicted value occurs in masks that come in blocks.

What the values mean, and so which confusion matrix they make, need not be known before all masks have been seen once.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.masks import IGNORE

Pairs = dict[tuple[int, int], int]
"""Number of pixels by true and predicted value, both 0 .. 255; only pairs that occur."""

_VALUES: Final = 256
# The keys of a chunk (2 bytes each) and bincount's copy of them (8 bytes each) stay in a core's cache.
_CHUNK_PX: Final = 1 << 16


def count_pairs(blocks: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Pairs:
    """Count the pairs of true and predicted value in blocks of both, uint8 of the same shape; in bounded memory.

    Raises
    ------
    ValueError
        A block is not uint8, or its shapes differ.
    """
    counts = np.zeros(_VALUES * _VALUES, np.int64)
    for truth, prediction in blocks:
        if truth.shape != prediction.shape or truth.dtype != np.uint8 or prediction.dtype != np.uint8:
            raise ValueError(f"truth {truth.dtype} {truth.shape}, prediction {prediction.dtype} {prediction.shape}")
        if not truth.size:
            continue
        true, predicted = truth.ravel(), prediction.ravel()
        # Large parts of slides are of one value: comparing is much quicker than counting.
        if (true == true[0]).all() and (predicted == predicted[0]).all():
            counts[int(true[0]) * _VALUES + int(predicted[0])] += true.size
            continue
        for start in range(0, true.size, _CHUNK_PX):
            keys = true[start : start + _CHUNK_PX].astype(np.uint16)
            keys <<= 8
            keys |= predicted[start : start + _CHUNK_PX]
            counts += np.bincount(keys, minlength=counts.size)
    return {(int(key) // _VALUES, int(key) % _VALUES): int(counts[key]) for key in np.flatnonzero(counts)}


def add_pairs(several: Iterable[Pairs]) -> Pairs:
    """Return how often each pair occurs in all of them together."""
    total: Counter[tuple[int, int]] = Counter()
    for one in several:
        total.update(one)
    return dict(total)


def confusion_of_pairs(
    pairs: Pairs, index_of_true: Mapping[int, int], index_of_predicted: Mapping[int, int], num_classes: int
) -> NDArray[np.int64]:
    """Return the confusion matrix of counted pairs, as `pixels.confusion` does.

    Parameters
    ----------
    pairs
        Result of `count_pairs`.
    index_of_true, index_of_predicted
        The class index of every value that occurs; the truth's may be `IGNORE`.
    num_classes
        C.

    Returns
    -------
    int64 (C, C): rows are the truth's classes, columns the predicted ones; ignored pixels are not counted.
    """
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for (true, predicted), count in pairs.items():
        if index_of_true[true] != IGNORE:
            matrix[index_of_true[true], index_of_predicted[predicted]] += count
    return matrix


def values_in(pairs: Iterable[Pairs]) -> tuple[set[int], set[int]]:
    """Return the true and the predicted values that occur in any image."""
    known = [pair for one in pairs for pair in one]
    return {true for true, _ in known}, {predicted for _, predicted in known}
