"""Validation of a network for instances: objects in whole images, by the thresholds that suit it best."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.data.instance_labels import UNLABELLED
from segkit.evaluation.estimates import number
from segkit.evaluation.objects import THRESHOLDS, Overlaps, average_precision, count_objects, match_objects
from segkit.inference.image_segmentation import predict_layers
from segkit.inference.instances import label_instances
from segkit.inference.network import Predictor
from segkit.models.model_file import InstanceSpec
from segkit.training.distributed import ALONE, Group
from segkit.training.validation import Validation

IOU: Final = 0.5

FOREGROUND_THRESHOLDS: Final = (0.35, 0.5, 0.65)
SEED_THRESHOLDS: Final = (0.25, 0.45, 0.65)
FINE_STEPS: Final = (0.075, 0.1)
"""Steps of the foreground's and of the seeds' threshold around the best of the coarse grid."""

MAX_MOVES: Final = 3
"""How often the best point may move to a better neighbour."""

SMOOTHINGS: Final = (0.5, 1.5)
"""Standard deviations that are tried beside the one that the search began with, in pixels."""

TUNED: Final = ("foreground_threshold", "seed_threshold", "min_area_px", "smooth_px")
"""The fields of `InstanceSpec` that are chosen here."""

TRIED: Final = "tried"
"""What `training` of a model's description calls all that was tried: rows of `TUNED`, `ap` and `mean_ap`."""

MAX_TUNING_PX: Final = 8_000_000
"""Thresholds are chosen on images, evenly spread, of so many pixels in all: it takes about 0.5 us for each."""


class LabelledObjects(NamedTuple):
    """An image, uint8 (H, W, C), its classes, uint8 (H, W), and its objects, int32 (H, W): see `read_instances`."""

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    labels: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class InstanceValidation(Validation):
    """Average precision at an IoU of 0.5 over a set of images, at the thresholds that are best on them.

    `score` is pooled over the images, 0 where there is nothing, true or predicted; `per_image` has each image's, and
    `labels` the predicted objects, int32 (H, W), 1 .. N.
    """

    per_image: list[float | None]
    labels: list[NDArray[np.int32]]


class Maps(NamedTuple):
    """What the network says of an image, uint8 (H, W), 255 = 1."""

    foreground: NDArray[np.uint8]
    distance: NDArray[np.uint8]


def validate_instances(
    images: Sequence[LabelledObjects],
    predictor: Predictor,
    spec: InstanceSpec,
    *,
    group: Group = ALONE,
    on_image: Callable[[int, int], None],
) -> InstanceValidation:
    """Predict whole images, choose thresholds, and score the objects.

    Objects are matched whatever their class: with several foreground classes, `by_class` is undefined.

    Parameters
    ----------
    images
        At least one.
    predictor
        Of a network for instances.
    spec
        Of which `grow_px` is kept.
    group
        The processes divide the images; the first one chooses.
    on_image
        Called after each image with (images done, images).
    """
    maps = group.map(lambda one: _maps_of(one, predictor), images, lambda done: on_image(done, len(images)))
    truths = [one.labels for one in images]
    chosen, tried = group.from_first(lambda: choose_thresholds(maps, truths, spec))
    labels = [label_instances(*one, chosen) for one in maps]
    counts = np.stack([count_objects(overlaps_of(*pair), [IOU])[0] for pair in zip(truths, labels, strict=True)])
    pooled = number(float(average_precision(counts.sum(axis=0))))
    foreground_classes = predictor.spec.classes[1:]
    return InstanceValidation(
        score=0.0 if pooled is None else pooled,
        by_class=dict.fromkeys(foreground_classes, pooled if len(foreground_classes) == 1 else None),
        changes={"instances": chosen},
        story={TRIED: [one.as_row() for one in tried]},
        per_image=[number(value) for value in average_precision(counts)],
        labels=labels,
    )


def overlaps_of(truth: NDArray[np.int32], labels: NDArray[np.int32]) -> Overlaps:
    """Return the overlaps of predicted objects with true ones, both (H, W), `UNLABELLED` pixels left out."""
    return match_objects(truth, labels, ignored=truth == UNLABELLED)


class Tried(NamedTuple):
    """What was tried, and the average precision that it gave on the images of the choice: at 0.5, and the mean."""

    spec: InstanceSpec
    ap: float
    mean_ap: float

    @property
    def value(self) -> float:
        """What is to be greatest: what finds as many objects differs in how well their borders fit."""
        return self.ap + self.mean_ap

    def as_row(self) -> dict[str, float]:
        """Return it as a model's description keeps it."""
        return {
            **self.spec.model_dump(include=set(TUNED)),
            "ap": round(self.ap, 6),
            "mean_ap": round(self.mean_ap, 6),
        }


def choose_thresholds(
    maps: Sequence[Maps], truths: Sequence[NDArray[np.int32]], spec: InstanceSpec
) -> tuple[InstanceSpec, list[Tried]]:
    """Return `spec` with the thresholds and the smallest area that suit the images best, and all that was tried.

    Best is the greatest sum of average precision at an IoU of 0.5 and of its mean over 0.5, 0.55 .. 0.95. A coarse grid
    of both thresholds is tried, then the neighbours of its best point, a few times, then two other strengths of
    smoothing. For each the best of some smallest areas is taken, up to the area that 1 in 20 true objects stays below.
    Equal ones: the first that was tried.
    """
    spread = _spread(maps)
    maps, truths = [maps[index] for index in spread], [truths[index] for index in spread]
    areas = [match_objects(truth, truth, ignored=truth == UNLABELLED).true_areas for truth in truths]
    smallest = _smallest_areas(np.concatenate(areas))
    tried: list[Tried] = []

    def best_of(candidates: Iterable[InstanceSpec]) -> Tried:
        found = [_best_area(maps, truths, one, smallest) for one in candidates]
        tried.extend(found)
        return max(found, key=lambda one: one.value)

    best = best_of(_with(spec, foreground, seed) for foreground in FOREGROUND_THRESHOLDS for seed in SEED_THRESHOLDS)
    step_f, step_s = FINE_STEPS
    for _ in range(MAX_MOVES):
        f, s = best.spec.foreground_threshold, best.spec.seed_threshold
        beside = [(f, s - step_s), (f, s + step_s), (f - step_f, s), (f + step_f, s)]
        near = best_of(_with(spec, *pair) for pair in beside if min(pair) > 0 and max(pair) < 1)
        if near.value <= best.value:
            break
        best = near
    smoother = best_of(best.spec.model_copy(update={"smooth_px": one}) for one in SMOOTHINGS)
    return max([best, smoother], key=lambda one: one.value).spec, tried


def _maps_of(one: LabelledObjects, predictor: Predictor) -> Maps:
    _, foreground, distance, *_ = predict_layers(one.image, predictor)
    return Maps(foreground, distance)


def _best_area(
    maps: Sequence[Maps], truths: Sequence[NDArray[np.int32]], spec: InstanceSpec, smallest: Sequence[int]
) -> Tried:
    """Return what some thresholds give, with the smallest area that suits them best."""
    everything = spec.model_copy(update={"min_area_px": 0})
    overlaps = [overlaps_of(truth, label_instances(*one, everything)) for one, truth in zip(maps, truths, strict=True)]
    found = []
    for area in smallest:
        counts = np.sum([count_objects(without_small(one, area), THRESHOLDS) for one in overlaps], axis=0)
        precision = np.nan_to_num(average_precision(counts))
        at_iou, mean = float(precision[THRESHOLDS.index(IOU)]), float(precision.mean())
        found.append(Tried(spec.model_copy(update={"min_area_px": area}), at_iou, mean))
    return max(found, key=lambda one: one.value)


def without_small(overlaps: Overlaps, min_area_px: int) -> Overlaps:
    """Return overlaps as if predicted objects of fewer labelled pixels had been dropped before."""
    kept = overlaps.predicted_areas >= min_area_px
    place = np.cumsum(kept) - 1
    pairs = kept[overlaps.predicted]
    return overlaps._replace(
        predicted_ids=overlaps.predicted_ids[kept],
        predicted_areas=overlaps.predicted_areas[kept],
        true=overlaps.true[pairs],
        predicted=place[overlaps.predicted[pairs]],
        intersections=overlaps.intersections[pairs],
    )


def _smallest_areas(true_areas: NDArray[np.int64]) -> list[int]:
    """Return smallest areas to try: 0 and powers of 2 up to what few true objects are smaller than."""
    limit = float(np.quantile(true_areas, 0.05)) if len(true_areas) else 0.0
    return [0, *(2**power for power in range(2, 24) if 2**power <= limit)]


def _spread(maps: Sequence[Maps]) -> list[int]:
    """Return the numbers of images, evenly spread, of `MAX_TUNING_PX` or less in all; at least one."""
    total = sum(one.foreground.size for one in maps)
    step = max(1, -(-total // MAX_TUNING_PX))
    return list(range(0, len(maps), step))


def _with(spec: InstanceSpec, foreground: float, seed: float) -> InstanceSpec:
    return spec.model_copy(update={"foreground_threshold": round(foreground, 3), "seed_threshold": round(seed, 3)})
