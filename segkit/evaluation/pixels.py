"""Pixel metrics: one confusion matrix per image, and everything else computed from it.

A confusion matrix is int64 (C, C) with the truth's class in the row and the predicted class in the column, in
pixels. Matrices of tiles and of images add up, so a slide is measured piece by piece. The metrics accept any
leading axes: (N, C, C) for N images, (B, C, C) for B bootstrap samples.

**Undefined values.** There is one rule: a ratio whose denominator is 0 is undefined. It is NaN in arrays, None in
tables and an empty cell or null in files; means over images and classes leave it out. So for one class:

==============  ==================  ======================
truth           prediction          values
==============  ==================  ======================
empty           empty               Dice, IoU, precision, recall undefined
empty           not empty           Dice, IoU, precision 0; recall undefined
not empty       empty               Dice, IoU, recall 0; precision undefined
==============  ==================  ======================
"""

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.evaluation.estimates import mean_of_defined, ratio
from segkit.masks import IGNORE

# The keys of a chunk (2 bytes each) and bincount's copy of them (8 bytes each) stay in a core's cache.
_CHUNK_PX = 1 << 16


def require_same_shape(prediction: NDArray[np.generic], truth: NDArray[np.generic], name: str) -> None:
    """Raise InputError, naming the image `name`, when the two masks (H, W) differ in size."""
    if prediction.shape != truth.shape:
        predicted, true = (" x ".join(map(str, mask.shape[::-1])) for mask in (prediction, truth))
        raise InputError(
            f"{name}: the prediction is {predicted} pixels (width x height) and the truth is {true}. "
            "Both must have the size of the image."
        )


def confusion(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Count the pixels of each pair of true and predicted class.

    Parameters
    ----------
    prediction
        Class indices 0 .. C-1, uint8, any shape.
    truth
        Class indices 0 .. C-1 or `IGNORE`, uint8, of the same shape; pixels with `IGNORE` are not counted.
    num_classes
        C, 1 .. 255.

    Returns
    -------
    int64 (C, C): rows are the truth's classes, columns the predicted ones.

    Raises
    ------
    ValueError
        The shapes differ, an array is not uint8 or holds a value that is no class.
    """
    if not 1 <= num_classes <= IGNORE:
        raise ValueError(f"num_classes must be 1 to {IGNORE}, got {num_classes}")
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    if prediction.dtype != np.uint8 or truth.dtype != np.uint8:
        raise ValueError(f"masks must be uint8, got {prediction.dtype} (prediction), {truth.dtype} (truth)")
    predicted, true = prediction.ravel(), truth.ravel()
    if predicted.size and predicted.max() >= num_classes:
        raise ValueError(f"prediction holds {predicted.max()}, and there are {num_classes} classes")
    counts = np.zeros(256 * num_classes, np.int64)
    for start in range(0, true.size, _CHUNK_PX):
        # At most 255 * 255 + 254, which uint16 holds.
        keys = true[start : start + _CHUNK_PX].astype(np.uint16)
        keys *= num_classes
        keys += predicted[start : start + _CHUNK_PX]
        counts += np.bincount(keys, minlength=counts.size)
    table = counts.reshape(256, num_classes)
    strange = np.flatnonzero(table[num_classes:IGNORE].any(axis=1))
    if strange.size:
        raise ValueError(f"truth holds {num_classes + strange[0]}, and there are {num_classes} classes")
    return table[:num_classes].copy()


def true_positives(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return pixels of each class that are predicted as that class: (..., C, C) -> (..., C)."""
    diagonal: NDArray[np.float64] = np.diagonal(_as_float(confusions), axis1=-2, axis2=-1)
    return diagonal


def false_positives(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return pixels predicted as each class that are of another one: (..., C, C) -> (..., C)."""
    predicted: NDArray[np.float64] = _as_float(confusions).sum(axis=-2)
    return predicted - true_positives(confusions)


def false_negatives(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return pixels of each class that are predicted as another one: (..., C, C) -> (..., C)."""
    true: NDArray[np.float64] = _as_float(confusions).sum(axis=-1)
    return true - true_positives(confusions)


def true_negatives(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return pixels that neither are of each class nor predicted as it: (..., C, C) -> (..., C)."""
    counted: NDArray[np.float64] = _as_float(confusions).sum(axis=(-2, -1))
    positives = true_positives(confusions) + false_positives(confusions) + false_negatives(confusions)
    return counted[..., np.newaxis] - positives


def dice(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Dice coefficient (F1 score) per class, 2 TP / (2 TP + FP + FN): (..., C, C) -> (..., C) in 0..1 or NaN.

    Source: Dice (1945), Ecology 26:297-302, doi:10.2307/1932409.
    """
    doubled = 2 * true_positives(confusions)
    return ratio(doubled, doubled + false_positives(confusions) + false_negatives(confusions))


def iou(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Intersection over union (Jaccard index) per class, TP / (TP + FP + FN): (..., C, C) -> (..., C) in 0..1 or NaN.

    Source: Jaccard (1912), New Phytologist 11:37-50, doi:10.1111/j.1469-8137.1912.tb05611.x.
    """
    common = true_positives(confusions)
    return ratio(common, common + false_positives(confusions) + false_negatives(confusions))


def precision(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Precision per class, TP / (TP + FP): (..., C, C) -> (..., C) in 0..1 or NaN."""
    common = true_positives(confusions)
    return ratio(common, common + false_positives(confusions))


def recall(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Recall (sensitivity) per class, TP / (TP + FN): (..., C, C) -> (..., C) in 0..1 or NaN."""
    common = true_positives(confusions)
    return ratio(common, common + false_negatives(confusions))


def specificity(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Specificity per class, TN / (TN + FP): (..., C, C) -> (..., C) in 0..1 or NaN."""
    rejected = true_negatives(confusions)
    return ratio(rejected, rejected + false_positives(confusions))


def pixel_error(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Share of counted pixels with a wrong class, 1 - accuracy: (..., C, C) -> (...) in 0..1 or NaN.

    For the two classes of the ISBI 2012 challenge this is its pixel error at a given threshold
    (Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142, doi:10.3389/fnana.2015.00142).
    """
    counted = _as_float(confusions).sum(axis=(-2, -1))
    return ratio(counted - true_positives(confusions).sum(axis=-1), counted)


def mean_over_foreground(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average values per class over the classes 1 .. C-1, undefined ones left out: (..., C) -> (...) or NaN."""
    return mean_of_defined(values[..., 1:])


CLASS_METRICS = MappingProxyType[str, Callable[[NDArray[np.generic]], NDArray[np.float64]]](
    {"dice": dice, "iou": iou, "precision": precision, "recall": recall, "specificity": specificity}
)
"""The metrics that have one value per class, by the name that files give them."""

DEFINITIONS = MappingProxyType(
    {
        "dice": "2 TP / (2 TP + FP + FN), in pixels of one class",
        "iou": "TP / (TP + FP + FN)",
        "precision": "TP / (TP + FP)",
        "recall": "TP / (TP + FN)",
        "specificity": "TN / (TN + FP)",
        "pixel_error": "share of counted pixels with a wrong class (1 - accuracy), over all classes",
        "ignored": f"pixels with the value {IGNORE} in the truth are not counted",
        "undefined": "a ratio with a denominator of 0 is undefined (null, empty cell) and left out of means",
    }
)
"""What files say about each metric."""


def _as_float(confusions: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return (..., C, C) as float64, exact up to 2^53 pixels."""
    if confusions.ndim < 2 or confusions.shape[-1] != confusions.shape[-2]:
        raise ValueError(f"confusion matrices must be (..., C, C), got {confusions.shape}")
    return confusions.astype(np.float64)
