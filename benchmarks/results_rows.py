"""What RESULTS.md shows of an evaluation: rows of a table, from the metrics.json that `segkit evaluate` left."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from segkit.evaluation.estimates import Estimate

Kind = Literal["pixels", "objects", "points"]
Document = Mapping[str, Any]
Key = str | int

ENDS = ("value", "low", "high")
EVERY = ""
"""The part that is all images."""


class Metric(NamedTuple):
    """A number of metrics.json.

    `words` is what the table calls it, `where` the keys that lead to it, `definitions` the entries of the document's
    definitions that belong to it. `ends` are the keys of the value and of its interval. With `iou` there is a list, of
    which the place of this threshold is meant.
    """

    words: str
    where: tuple[Key, ...]
    definitions: tuple[str, ...]
    iou: float | None = None
    ends: tuple[str, str, str] = ENDS


class Row(NamedTuple):
    """A metric of all images or of a part of them (such as `modality fluo`); the estimate's value may be undefined."""

    metric: str
    part: str
    num_images: int
    estimate: Estimate


def _pooled_objects(words: str, name: str, iou: float | None = None) -> Metric:
    return Metric(words, ("pooled", name), (name,), iou)


AP = "average_precision"
BEST, CHOSEN = ("membranes", "best_threshold"), ("membranes", "at_chosen", "mean")
OBJECTS = (
    _pooled_objects("AP at IoU 0.5, pooled", AP, 0.5),
    Metric("AP at IoU 0.5, mean over images", ("mean", AP), (AP,), 0.5),
    _pooled_objects("AP at IoU 0.75, pooled", AP, 0.75),
    _pooled_objects("F1 at IoU 0.5, pooled", "f1", 0.5),
    Metric("PQ at IoU 0.5, pooled", ("pooled", "panoptic_quality"), ("panoptic_quality", "matched_iou"), 0.5),
    _pooled_objects("AJI, pooled", "aji"),
    _pooled_objects("Dice, pooled", "dice"),
)
GROUPS_OF_OBJECTS = tuple(
    Metric(f"AP at IoU 0.5, {words}", (how, AP), (AP,))
    for how, words in (("pooled", "pooled"), ("mean", "mean over images"))
)
POINTS = (
    *(
        Metric(words, ("foreground", name), (name,))
        for words, name in (
            ("F1", "f1"),
            ("precision", "precision"),
            ("recall", "recall"),
            ("average precision", AP),
        )
    ),
    Metric("F1, mean over images", ("foreground_mean", "f1"), ("f1",)),
    Metric(
        "FROC, mean sensitivity at 1/4 to 8 false positives per image",
        ("classes", 0, "froc_per_image"),
        ("froc",),
        ends=("mean", "mean_low", "mean_high"),
    ),
)
PIXELS = (
    Metric("pixel error, mean over images", ("pixel_error", "mean"), ("pixel_error",)),
    Metric("Dice, pooled", ("foreground", "pooled", "dice"), ("dice",)),
    Metric("HD95 in px, mean over images", ("foreground", "mean", "hd95_px"), ("hd95_px",)),
    *(
        Metric(f"{words}, mean over images", ("membranes", "mean", name), (name,))
        for words, name in (("Rand score", "rand_score"), ("V-Rand", "v_rand"), ("V-Info", "v_info"))
    ),
    *(
        Metric(f"{words} at a threshold chosen on other images, mean over images", (*CHOSEN, name), (name,))
        for words, name in (("V-Rand", "v_rand"), ("V-Info", "v_info"))
    ),
    *(
        Metric(f"{words} at the best threshold on these images (optimistic)", (*BEST, name), (name,))
        for words, name in (("V-Rand", "v_rand"), ("V-Info", "v_info"))
    ),
)
METRICS: Mapping[Kind, tuple[Metric, ...]] = {"pixels": PIXELS, "objects": OBJECTS, "points": POINTS}
COMMON_DEFINITIONS = re.compile(r"iou|matching|tp|fp|fn|pooled|mean|foreground|groups|undefined|rule_.*|membranes_.*")
"""Entries that all numbers of a kind rest on, where a document has them."""


def kind_of(document: Document) -> Kind | None:
    """Return what an evaluation measured; None where this is no metrics.json of one."""
    telling: Mapping[str, Kind] = {"thresholds": "objects", "radius_px": "points", "pixel_error": "pixels"}
    return next((kind for key, kind in telling.items() if key in document), None)


def rows_of(document: Document) -> Iterator[Row]:
    """Yield the rows of a metrics.json: all images first, then the groups of its objects, if any.

    What the document lacks, because an earlier version of segkit wrote it, is left out.
    """
    kind, document = kind_of(document), with_chosen_threshold(document)
    for metric in METRICS[kind] if kind else ():
        if (estimate := estimate_at(document, metric, document.get("thresholds", ()))) is not None:
            yield Row(metric.words, EVERY, document["num_images"], estimate)
    for group in document.get("groups", ()) if kind == "objects" else ():
        for metric in GROUPS_OF_OBJECTS:
            if (estimate := estimate_at(group, metric)) is not None:
                yield Row(metric.words, f"{group['by']} {group['name']}", group["num_images"], estimate)


def missing_metrics(document: Document, wanted: Collection[str] | None = None) -> list[str]:
    """Return what `rows_of` left out, in words; of those that are wanted, or of all."""
    kind, found = kind_of(document), {row.metric for row in rows_of(document)}
    words = [metric.words for metric in (METRICS[kind] if kind else ())]
    return [one for one in words if one not in found and (wanted is None or one in wanted)]


def with_chosen_threshold(document: Document) -> Document:
    """Return the document with what its membranes come to at the threshold that was chosen, as `at_chosen`, if any."""
    membranes = document.get("membranes") or {}
    chosen = membranes.get("chosen_threshold")
    at = [one for one in membranes.get("thresholds", ()) if chosen and one["threshold"] == chosen["threshold"]]
    return {**document, "membranes": {**membranes, "at_chosen": at[0]}} if at else document


def estimate_at(document: Document, metric: Metric, thresholds: Sequence[float] = ()) -> Estimate | None:
    """Return a number with its interval; None where the document does not have it."""
    found: Any = document
    for key in (*metric.where, *(() if metric.iou is None else (_place(metric.iou, thresholds),))):
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):  # of an earlier version, or null: not measured
            return None
    value, low, high = metric.ends
    return Estimate(found[value], found.get(low), found.get(high)) if isinstance(found, dict) else None


def _place(iou: float, thresholds: Sequence[float]) -> Key:
    """Return where a threshold stands; a key that leads nowhere if it is none of them."""
    return next((place for place, threshold in enumerate(thresholds) if threshold == iou), "none")


def definitions_of(document: Document) -> dict[str, str]:
    """Return the definitions of a document that belong to its rows, in its order."""
    kind, shown = kind_of(document), {row.metric for row in rows_of(document)}
    named = {name for metric in (METRICS[kind] if kind else ()) if metric.words in shown for name in metric.definitions}
    return {
        name: text
        for name, text in document.get("definitions", {}).items()
        if name in named or COMMON_DEFINITIONS.fullmatch(name)
    }
