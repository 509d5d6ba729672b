"""From the rows of metrics.csv, as an evaluation leaves it, to metrics that can be resampled.

What pools is computed from the counts in the rows, by the functions that the evaluation itself uses; every other column
of numbers is a value per image, of which the mean is taken.
"""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import object_totals, objects, pixels, points
from segkit.evaluation.comparison import Better, Metric
from segkit.evaluation.estimates import ratio
from segkit.evaluation.object_classes import ANY_CLASS
from segkit.evaluation.object_tables import AP, MEAN_AP

Kind = Literal["pixels", "objects", "points"]
Counts = NDArray[np.generic]
OfCounts = Callable[..., NDArray[np.float64]]


def _of_one_class(metric: OfCounts, counts: Counts) -> NDArray[np.float64]:
    """Return a pixel metric of one class from its counts (..., 4), which are a confusion matrix of it and the rest."""
    return metric(counts.reshape(*counts.shape[:-1], 2, 2))[..., 1]


def _parts(counts: Counts) -> list[NDArray[np.float64]]:
    return list(np.moveaxis(np.asarray(counts, np.float64), -1, 0))


_TELLING: Final[Mapping[str, Kind]] = MappingProxyType(
    {"tp_px": "pixels", "hard_negative_hits": "points", "num_true": "objects"}
)
_COUNTED: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType(
    {"pixels": ("tn_px", "fp_px", "fn_px", "tp_px"), "objects": ("tp", "fp", "fn"), "points": ("tp", "fp", "fn")}
)
_NEEDED: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType(
    {
        "pixels": (*pixels.CLASS_METRICS, "pixel_error"),
        "objects": (*objects.METRICS, *object_totals.METRICS, *object_totals.TOTALS),
        "points": ("f1", "precision", "recall", "num_true"),
    }
)
_AT_THRESHOLD: Final = ("tp", "fp", "fn", "iou_sum")
_KEYS: Final = ("image", "group", "class")
_EVERY: Final = "all"
_FOREGROUND: Final = "foreground"

_COUNTS: Final = re.compile(r"(tp|fp|fn|tn|num|iou_sum|hard_negative_hits)(_.*)?")  # columns that are no metrics
_OF_TRUTH: Final = re.compile(r"area_mm2|true_per_\w+|mean_true_area_\w+")  # the same whatever was predicted
_HIGHER: Final = re.compile(
    r"(dice|iou|precision|recall|specificity|f1|average_precision|mean_average_precision|matched_iou|panoptic_quality|"
    r"aji|nsd|sensitivity|rand_score|rand_precision|rand_recall|v_rand|v_info|accuracy)(_.*)?"
)
_LOWER: Final = re.compile(
    r"(pixel_error|hd95|hd|assd|hausdorff|ece|mce|brier|absolute_count_error|rand_error|variation_of_information|vi)(_.*)?"
)

_PIXELS: Final[Mapping[str, OfCounts]] = MappingProxyType(
    {name: functools.partial(_of_one_class, metric) for name, metric in pixels.CLASS_METRICS.items()}
)
_POINTS: Final[Mapping[str, OfCounts]] = MappingProxyType(
    {
        "f1": lambda counts: points.f1(*_parts(counts)),
        "precision": lambda counts: points.precision(*_parts(counts)[:2]),
        "recall": lambda counts: points.recall(*_parts(counts)[::2]),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """The rows of one evaluation, in arrays.

    Attributes
    ----------
    kind
        What was measured.
    images, groups
        N names, sorted, and the group of each (None where there is none).
    classes
        C names in the order of the file; one name where there is one row for each image. Objects that have classes are
        measured whatever their class, too: `any class` is then among them.
    columns
        Numbers by column, float64 (N, C), NaN where the cell is empty.
    """

    kind: Kind
    images: tuple[str, ...]
    groups: tuple[str | None, ...]
    classes: tuple[str, ...]
    columns: Mapping[str, NDArray[np.float64]]

    @property
    def truth(self) -> NDArray[np.float64]:
        """What was labelled in each image and class (pixels, objects or points), float64 (N, C)."""
        if self.kind != "pixels":
            return self.columns["num_true"]
        labelled: NDArray[np.float64] = self.columns["tp_px"] + self.columns["fn_px"]
        return labelled

    def of_images(self, names: Sequence[str]) -> "Rows":
        """Return the rows of some of the images, in the order of `names`."""
        place = {name: index for index, name in enumerate(self.images)}
        chosen = [place[name] for name in names]
        return Rows(
            kind=self.kind,
            images=tuple(names),
            groups=tuple(self.groups[index] for index in chosen),
            classes=self.classes,
            columns={name: values[chosen] for name, values in self.columns.items()},
        )


def read_rows(header: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Rows:
    """Return the rows of a metrics.csv.

    Parameters
    ----------
    header, rows
        The columns' names, and of each row the cells by column.

    Raises
    ------
    ValueError
        They are not what an evaluation leaves; the message says why.
    """
    kind = next((kind for column, kind in _TELLING.items() if column in header), None)
    if kind is None or "image" not in header:
        raise ValueError(f"has the columns {', '.join(header)}, which are not those of an evaluation")
    if missing := [name for name in (*_COUNTED[kind], *_NEEDED[kind]) if name not in header]:
        raise ValueError(f"has no column {', '.join(missing)}")
    images = sorted({row["image"] for row in rows})
    classes = list(dict.fromkeys(row.get("class") or _EVERY for row in rows))
    if not images:
        raise ValueError("holds no images")
    places = {
        (row["image"], row.get("class") or _EVERY): number
        for number, row in enumerate(rows)
        if None not in row.values()
    }
    if len(places) != len(rows) or len(rows) != len(images) * len(classes):
        raise ValueError(
            f"holds {len(rows)} rows, and {len(images)} images with {len(classes)} classes need a whole one of each"
        )
    order = [[places[image, name] for name in classes] for image in images]
    columns = {}
    for name in header:
        if name not in _KEYS:
            values = _numbers(name, [row[name] for row in rows])
            if values is not None:
                columns[name] = values[order]
    group_of = {row["image"]: row.get("group") or None for row in rows}
    return Rows(
        kind=kind,
        images=tuple(images),
        groups=tuple(group_of[image] for image in images),
        classes=tuple(classes),
        columns=columns,
    )


def _numbers(name: str, cells: Sequence[str]) -> NDArray[np.float64] | None:
    """Return a column as numbers, NaN for empty cells; None where it holds words, as attributes of images may be."""
    try:
        values = np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError as error:
        if _COUNTS.fullmatch(name):
            raise ValueError(f"holds no numbers in its column {name}") from error
        return None
    if _COUNTS.fullmatch(name) and not np.isfinite(values).all():
        raise ValueError(f"has empty cells in its column {name}")
    return values


def metrics_of(evaluations: Sequence[Rows], defined: Collection[str], thresholds: Sequence[float] = ()) -> list[Metric]:
    """Return all metrics that K evaluations of the same images have, the headline first.

    Parameters
    ----------
    evaluations
        Of one kind, with the same images and classes in the same order.
    defined
        The names that the evaluations define: columns of other names (attributes of images) are no metrics.
    thresholds
        Of IoU, for objects, the most important first.

    Raises
    ------
    ValueError
        A column that is needed is missing.
    """
    kind, classes = evaluations[0].kind, evaluations[0].classes
    shared = [name for name in evaluations[0].columns if all(name in one.columns for one in evaluations)]
    columns = {name: np.stack([one.columns[name] for one in evaluations]) for name in shared}
    at = [f"{name}_{threshold:g}" for threshold in thresholds for name in (*_AT_THRESHOLD, AP)]
    if missing := [name for name in at if name not in columns]:
        raise ValueError(f"has no column {', '.join(missing)}")
    if kind == "pixels":
        error = _pixel_error(columns)
        classes = classes[1:]
        columns = {name: values[:, :, 1:] for name, values in columns.items() if name != error.name}
        metrics = [*_counted(columns, classes, kind, _PIXELS), error]
    elif kind == "points":
        metrics = _counted(columns, classes, kind, _POINTS)
    else:
        metrics = _objects(columns, thresholds, classes)
    known = {metric.name for metric in metrics} | {f"{AP}_{threshold:g}" for threshold in thresholds}
    for name in columns:
        if name not in known and _is_metric(name, defined):
            for own in _averaged_together(classes):
                metrics += _by_class(name, columns[name][:, :, own], [classes[place] for place in own])
    if kind == "objects":
        return metrics
    # What is of all classes together comes before what is of one.
    return sorted(metrics, key=lambda metric: len(classes) > 1 and metric.of in classes)


def _is_metric(name: str, defined: Collection[str]) -> bool:
    if name in object_totals.TOTALS or _COUNTS.fullmatch(name) or _OF_TRUTH.fullmatch(name):
        return False
    return any(name == one or name.startswith(f"{one}_") for one in defined)


def better_of(name: str) -> Better | None:
    """Return which values of a metric are better, by its name; None where that is not known."""
    if _LOWER.fullmatch(name):
        return "lower"
    return "higher" if _HIGHER.fullmatch(name) else None


def _counted(
    columns: Mapping[str, NDArray[np.float64]], classes: Sequence[str], kind: Kind, of_counts: Mapping[str, OfCounts]
) -> list[Metric]:
    counts = np.stack([columns[name] for name in _COUNTED[kind]], axis=-1)
    return [metric for name, of in of_counts.items() for metric in _by_class(name, columns[name], classes, counts, of)]


def _by_class(
    name: str,
    values: NDArray[np.float64],
    classes: Sequence[str],
    counts: Counts | None = None,
    of_counts: OfCounts | None = None,
) -> list[Metric]:
    """Return a metric of the mean over classes, where there are several, and of each class, from (K, N, C)."""

    def of(what: str, places: list[int]) -> Metric:
        chosen = None if counts is None else counts[:, :, places]
        return Metric(
            name=name, of=what, better=better_of(name), values=values[:, :, places], counts=chosen, of_counts=of_counts
        )

    every = list(range(len(classes)))
    repeated = np.broadcast_to(values[:, :, :1], values.shape)
    if counts is None and len(every) > 1 and np.array_equal(values, repeated, equal_nan=True):
        return [of(_EVERY, [0])]  # of the image, repeated for each class
    single = [of(one, [place]) for place, one in enumerate(classes)]
    return single if len(every) == 1 else [of(_FOREGROUND, every), *single]


def _pixel_error(columns: Mapping[str, NDArray[np.float64]]) -> Metric:
    counts = [columns[name] for name in _COUNTED["pixels"]]
    # A wrong pixel is missed by exactly one class, that of the truth; each class's counts are all pixels that count.
    wrong, counted = columns["fn_px"].sum(axis=2, keepdims=True), np.sum(counts, axis=0)[:, :, :1]
    return Metric(
        name="pixel_error",
        of=_EVERY,
        better="lower",
        values=columns["pixel_error"][:, :, :1],
        counts=np.stack([wrong, counted], axis=-1),
        of_counts=lambda sums: ratio(*_parts(sums)),
    )


def _averaged_together(classes: Sequence[str]) -> list[list[int]]:
    """Return the places of the classes, of which the mean may be taken, and of any class, which is no class."""
    every = list(range(len(classes)))
    parts = [[place for place in every if (classes[place] == ANY_CLASS) == is_any] for is_any in (False, True)]
    return [part for part in parts if part]


def _objects(
    columns: Mapping[str, NDArray[np.float64]], thresholds: Sequence[float], classes: Sequence[str]
) -> list[Metric]:
    """Return the metrics of the mean over the classes, of any class and of each class; of all objects without these."""
    if not thresholds:
        raise ValueError("is of objects without a threshold of IoU")
    every = list(range(len(classes)))
    if len(classes) == 1:
        return _objects_of("", every, columns, thresholds)
    if classes.count(ANY_CLASS) != 1:
        raise ValueError(f"has the classes {', '.join(classes)}, and one row for each image must be of {ANY_CLASS}")
    of_classes, of_any = _averaged_together(classes)
    parts = [(_FOREGROUND, of_classes), (ANY_CLASS, of_any), *((classes[place], [place]) for place in of_classes)]
    return [metric for of, places in parts for metric in _objects_of(of, places, columns, thresholds)]


def _objects_of(
    of: str, places: list[int], columns: Mapping[str, NDArray[np.float64]], thresholds: Sequence[float]
) -> list[Metric]:
    """Return the metrics of the classes in some places, of which the mean is taken at the end."""
    columns = {name: values[:, :, places] for name, values in columns.items()}
    by_threshold = {
        threshold: np.stack([columns[f"{name}_{threshold:g}"] for name in _AT_THRESHOLD], axis=-1)
        for threshold in thresholds
    }
    first = thresholds[0]

    def named(what: str) -> str:
        return f"{of}, {what}" if of else what

    metrics = [
        _single(name, named(f"IoU {first:g}"), columns[name], by_threshold[first], of_counts)
        for name, of_counts in objects.METRICS.items()
    ]
    names = {threshold: f"{AP}_{threshold:g}" for threshold in thresholds}
    # Every class has as many thresholds, and is defined at all or at none: the mean of all is that of the classes.
    precisions = np.concatenate([columns[name] for name in names.values()], axis=2)
    counts = np.concatenate(list(by_threshold.values()), axis=2)
    metrics.append(_single(MEAN_AP, named("all IoUs"), precisions, counts, objects.average_precision))
    metrics += [
        _single(name, named(f"IoU {threshold:g}"), columns[name], by_threshold[threshold], objects.average_precision)
        for threshold, name in names.items()
        if threshold != first
    ]
    totals = np.stack([columns[name] for name in object_totals.TOTALS], axis=-1)
    return metrics + [
        _single(name, of or _EVERY, columns[name], totals, of_counts)
        for name, of_counts in object_totals.METRICS.items()
    ]


def _single(
    name: str, of: str, values: NDArray[np.float64], counts: NDArray[np.float64], of_counts: OfCounts
) -> Metric:
    return Metric(name=name, of=of, better=better_of(name), values=values, counts=counts, of_counts=of_counts)
