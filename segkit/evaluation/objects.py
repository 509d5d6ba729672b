"""Object metrics: predicted instances are matched one to one with true ones by IoU, and the rest follows from that.

**Matching.** A pair can be matched if its intersection over union (IoU) is at least the threshold. Each object is
matched at most once, as many pairs as possible are made, and among such matchings one with the greatest sum of IoUs is
taken. Above a threshold of 0.5 there is nothing to choose: an object can overlap only one other by more than half of
both (Kirillov et al. 2019).

**Average precision** is TP / (TP + FP + FN), as in StarDist (Schmidt et al. 2018) and the Data Science Bowl 2018, where
it also bears the names accuracy and threat score. It is not the area under a curve that COCO gives the same name.

**Undefined values.** A ratio whose denominator is 0 is undefined. So at every threshold:

==============  ==================  ======================================================
truth           prediction          values
==============  ==================  ======================================================
none            none                all undefined
none            some                AP, F1, precision, PQ 0; recall, matched IoU undefined
some            none                AP, F1, recall, PQ 0; precision, matched IoU undefined
==============  ==================  ======================================================
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.assignment import heaviest_matching
from segkit.evaluation.estimates import ratio

THRESHOLDS: Final = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Those of the Data Science Bowl 2018."""

Counts = NDArray[np.integer | np.floating]


class Overlaps(NamedTuple):
    """Two sets of objects of one image, and the P pairs of them that share a pixel.

    Attributes
    ----------
    true_ids, predicted_ids
        The ids of the objects, integers (N,) and (M,), ascending.
    true_areas, predicted_areas
        Pixels of each of them, int64.
    true, predicted
        Of each pair, int64 (P,): which of the N and M.
    intersections
        Pixels that a pair shares, int64 (P,).
    """

    true_ids: NDArray[np.integer]
    predicted_ids: NDArray[np.integer]
    true_areas: NDArray[np.int64]
    predicted_areas: NDArray[np.int64]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    intersections: NDArray[np.int64]

    @property
    def ious(self) -> NDArray[np.float64]:
        """Intersection over union of each pair, float64 (P,), in 0..1."""
        unions = self.true_areas[self.true] + self.predicted_areas[self.predicted] - self.intersections
        shares: NDArray[np.float64] = self.intersections / unions
        return shares


class Runs(NamedTuple):
    """Pixels of two label images, counted: of one pair of ids each, so many of them.

    What `match_objects` makes of an image depends on nothing else, so runs of an image's blocks can be put together.

    Attributes
    ----------
    true_ids, predicted_ids
        What the pixels show, integers (R,), 0 is background.
    ignored
        Whether they are not labelled, bool (R,).
    lengths
        How many pixels, int64 (R,).
    """

    true_ids: NDArray[np.integer]
    predicted_ids: NDArray[np.integer]
    ignored: NDArray[np.bool_]
    lengths: NDArray[np.int64]


def match_objects(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], *, ignored: NDArray[np.bool_] | None = None
) -> Overlaps:
    """Find the pairs of objects that overlap, in one pass.

    Parameters
    ----------
    truth, predicted
        Instance ids, integers (H, W); 0 is background, other values may be any.
    ignored
        Pixels that are not labelled, bool (H, W). They count for nothing, and a predicted object of which more than
        half lies there does not count at all.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    return overlaps_of_runs(runs_of(truth, predicted, ignored))


def runs_of(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], ignored: NDArray[np.bool_] | None = None
) -> Runs:
    """Count neighbours in a row that are of the same pair of objects, as most are; parameters as `match_objects`."""
    if truth.shape != predicted.shape or (ignored is not None and ignored.shape != truth.shape):
        raise ValueError(f"shapes differ: truth {truth.shape}, prediction {predicted.shape}")
    true_ids, predicted_ids = truth.ravel(), predicted.ravel()
    unlabelled = np.zeros(truth.size, np.bool_) if ignored is None else ignored.ravel()
    starts = np.ones(truth.size, np.bool_)
    starts[1:] = true_ids[1:] != true_ids[:-1]
    starts[1:] |= predicted_ids[1:] != predicted_ids[:-1]
    if ignored is not None:
        starts[1:] |= unlabelled[1:] != unlabelled[:-1]
    first = np.flatnonzero(starts)
    return Runs(true_ids[first], predicted_ids[first], unlabelled[first], np.diff(first, append=truth.size))


def overlaps_of_runs(runs: Runs) -> Overlaps:
    """Return the overlaps of objects in an image that the runs are all pixels of, in any order."""
    true_ids, predicted_ids, unlabelled, lengths = runs
    if unlabelled.any():
        true_ids = np.where(unlabelled, 0, true_ids)
        _, found = _places(predicted_ids)
        mostly_unlabelled = _sums(found, np.where(unlabelled, lengths, -lengths)) > 0
        # The last entry is the background's.
        dropped = np.append(mostly_unlabelled, False)[found]
        predicted_ids = np.where(unlabelled | dropped, 0, predicted_ids)
    true_ids, true = _places(true_ids)
    predicted_ids, found = _places(predicted_ids)
    true_areas, predicted_areas = _sums(true, lengths), _sums(found, lengths)
    both = (true >= 0) & (found >= 0)
    codes, pair_of_run = np.unique(true[both] * len(predicted_areas) + found[both], return_inverse=True)
    return Overlaps(
        true_ids=true_ids,
        predicted_ids=predicted_ids,
        true_areas=true_areas,
        predicted_areas=predicted_areas,
        true=codes // max(1, len(predicted_areas)),
        predicted=codes % max(1, len(predicted_areas)),
        intersections=_sums(pair_of_run, lengths[both]),
    )


def of_class(
    overlaps: Overlaps, true_classes: NDArray[np.integer], predicted_classes: NDArray[np.integer], index: int
) -> Overlaps:
    """Keep the objects of one class, as if there were no others: for metrics per class (Graham et al. 2019).

    Parameters
    ----------
    true_classes, predicted_classes
        The class of each object, integers (N,) and (M,), in the order of `true_ids` and `predicted_ids`.
    index
        The class to keep, in truth and prediction.

    Raises
    ------
    ValueError
        There is not one class for each object.
    """
    if true_classes.shape != overlaps.true_ids.shape or predicted_classes.shape != overlaps.predicted_ids.shape:
        raise ValueError(
            f"{len(true_classes)} and {len(predicted_classes)} classes for {len(overlaps.true_ids)} true and "
            f"{len(overlaps.predicted_ids)} predicted objects"
        )
    kept_true, kept_predicted = true_classes == index, predicted_classes == index
    pairs = kept_true[overlaps.true] & kept_predicted[overlaps.predicted]
    return Overlaps(
        true_ids=overlaps.true_ids[kept_true],
        predicted_ids=overlaps.predicted_ids[kept_predicted],
        true_areas=overlaps.true_areas[kept_true],
        predicted_areas=overlaps.predicted_areas[kept_predicted],
        true=(np.cumsum(kept_true) - 1)[overlaps.true[pairs]],
        predicted=(np.cumsum(kept_predicted) - 1)[overlaps.predicted[pairs]],
        intersections=overlaps.intersections[pairs],
    )


def matched_pairs(overlaps: Overlaps, threshold: float) -> NDArray[np.int64]:
    """Return the best matching, int64 (K,): which of the pairs of `overlaps` are matched, in their order.

    `threshold` in 0..1 (0: whatever shares a pixel).
    """
    ious = overlaps.ious
    # No sum of IoUs outweighs one pair more: each adds less than 1 / (number of pairs that are possible).
    most = min(len(overlaps.true_areas), len(overlaps.predicted_areas))
    gains = np.where(ious >= threshold, 1 + ious / (1 + most), 0)
    return heaviest_matching(overlaps.true, overlaps.predicted, gains)


def count_objects(overlaps: Overlaps, thresholds: Sequence[float] = THRESHOLDS) -> NDArray[np.float64]:
    """Match at each of T thresholds and count: float64 (T, 4) of TP, FP, FN and the sum of the matched pairs' IoUs.

    Counts of several images pool by adding.
    """
    ious = overlaps.ious
    num_true, num_predicted = len(overlaps.true_areas), len(overlaps.predicted_areas)
    matched = [matched_pairs(overlaps, threshold) for threshold in thresholds]
    return np.array(
        [[len(one), num_predicted - len(one), num_true - len(one), ious[one].sum()] for one in matched], np.float64
    ).reshape(len(thresholds), 4)


def average_precision(counts: Counts) -> NDArray[np.float64]:
    """TP / (TP + FP + FN) of counts (..., 4) as `count_objects` makes them -> (...), in 0..1 or NaN."""
    tp, fp, fn, _ = _parts(counts)
    return ratio(tp, tp + fp + fn)


def f1(counts: Counts) -> NDArray[np.float64]:
    """2 TP / (2 TP + FP + FN), also known as recognition quality (RQ): (..., 4) -> (...), in 0..1 or NaN."""
    tp, fp, fn, _ = _parts(counts)
    return ratio(2 * tp, 2 * tp + fp + fn)


def precision(counts: Counts) -> NDArray[np.float64]:
    """TP / (TP + FP): (..., 4) -> (...), in 0..1 or NaN."""
    tp, fp, _, _ = _parts(counts)
    return ratio(tp, tp + fp)


def recall(counts: Counts) -> NDArray[np.float64]:
    """TP / (TP + FN): (..., 4) -> (...), in 0..1 or NaN."""
    tp, _, fn, _ = _parts(counts)
    return ratio(tp, tp + fn)


def matched_iou(counts: Counts) -> NDArray[np.float64]:
    """Mean IoU of the matched pairs, also known as segmentation quality (SQ): (..., 4) -> (...), in 0..1 or NaN."""
    tp, _, _, iou_sum = _parts(counts)
    return ratio(iou_sum, tp)


def panoptic_quality(counts: Counts) -> NDArray[np.float64]:
    """PQ = RQ x SQ, F1 times mean matched IoU (Kirillov et al. 2019): (..., 4) -> (...), in 0..1 or NaN."""
    tp, fp, fn, iou_sum = _parts(counts)
    return ratio(2 * iou_sum, 2 * tp + fp + fn)


METRICS: Final = MappingProxyType(
    {
        "average_precision": average_precision,
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "matched_iou": matched_iou,
        "panoptic_quality": panoptic_quality,
    }
)
"""The metrics by the names that files give them."""

DEFINITIONS: Final = MappingProxyType(
    {
        "iou": "of two objects: pixels in both / pixels in either",
        "matching": "one to one, pairs with IoU >= threshold: as many pairs as possible, among these the greatest sum "
        "of IoUs; unique above a threshold of 0.5",
        "tp": "matched predicted objects",
        "fp": "predicted objects without a match",
        "fn": "true objects without a match",
        "average_precision": "TP / (TP + FP + FN) at one IoU threshold, as in StarDist and the Data Science Bowl 2018; "
        "not COCO's area under a curve",
        "f1": "2 TP / (2 TP + FP + FN), also: recognition quality (RQ), detection quality (DQ)",
        "precision": "TP / (TP + FP)",
        "recall": "TP / (TP + FN)",
        "matched_iou": "mean IoU of the matched pairs, also: segmentation quality (SQ)",
        "panoptic_quality": "PQ = RQ x SQ, f1 times matched_iou (Kirillov et al. 2019, there with IoU > 0.5, here >=)",
        "undefined": "a ratio with a denominator of 0 is undefined (null, empty cell) and left out of means",
    }
)
"""What files say about each metric."""


def _parts(counts: Counts) -> list[NDArray[np.float64]]:
    return list(np.moveaxis(np.asarray(counts, np.float64), -1, 0))


def _places(ids: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Return the different ids but 0, ascending, and which of them each one is, -1 for 0."""
    values, inverse = np.unique(ids, return_inverse=True)
    place = np.where(values == 0, -1, np.cumsum(values != 0) - 1)
    return values[values != 0], place[inverse]


def _sums(indices: NDArray[np.int64], amounts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add the amounts up by index; negative indices are left out."""
    known = indices >= 0
    # float64 is exact far beyond the number of pixels of any image.
    return np.bincount(indices[known], weights=amounts[known]).astype(np.int64)
