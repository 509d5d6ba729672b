"""What a model file and its run folder know of how its thresholds were chosen, beside what is measured now."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from segkit.evaluation.object_tables import AP
from segkit.evaluation.point_tables import PointReport
from segkit.evaluation.threshold_choice import Choice, Curve, Sweep
from segkit.models.model_file import InstanceSpec, Model
from segkit.training.instance_validation import IOU, TRIED, TUNED
from segkit.workflows import runs
from segkit.workflows.threshold_sweeps import SWEPT, ObjectSweeps

MAX_POINTS: Final = 200
"""Of a curve in metrics.json; curves.csv has more."""


def point_choice(model: Model, report: PointReport) -> Choice:
    """Return how the thresholds of a model that finds points were chosen, and F1 over them, then and now."""
    detection = model.spec.detection
    assert detection is not None, "it finds points"
    sweeps = []
    for index, summary in enumerate(report.per_class):
        curve = summary.curve.spread(MAX_POINTS)
        # Files without curves, and classes that were detected nowhere, have no rows.
        rows = detection.curves[index] if index < len(detection.curves) else []
        then = np.array(rows[::-1], np.float64).reshape(-1, 4)
        sweeps.append(
            Sweep(
                parameter=f"threshold/{summary.name}",
                used=detection.thresholds[index],
                metric="f1",
                measured=Curve(curve.thresholds[::-1], curve.f1[::-1]),
                num_images=len(report.images),
                validation=Curve(then[:, 0], then[:, 3]) if len(then) else None,
            )
        )
    smoothed = {"smooth_radius": detection.smooth_radius} if model.spec.architecture == "unet" else {}
    of_which = "each threshold has" if not smoothed else "each threshold, and the radius of smoothing, have"
    return Choice(
        parameters={
            **{f"threshold/{one.name}": one.threshold for one in report.per_class if one.threshold is not None},
            **smoothed,
        },
        criterion=f"{of_which} the highest F1 of points matched within {detection.match_radius}",
        metric="f1",
        metric_in_words="F1" if len(report.per_class) == 1 else "F1, the mean of the classes,",
        score=model.spec.scores.get("f1"),
        by_class=_by_class(model, "f1"),
        sweeps=tuple(sweeps),
        **_story(model, [row.image for row in report.images]),
    )


def object_choice(model: Model, spec: InstanceSpec, sweeps: ObjectSweeps, names: Sequence[str]) -> Choice:
    """Return how a model for instances came to its thresholds, and average precision over them, then and now.

    Parameters
    ----------
    model, spec
        The model, and how its maps became objects.
    sweeps
        What other thresholds give on the images that were measured.
    names
        Of these.
    """
    return Choice(
        parameters=spec.model_dump(include=set(TUNED)),
        criterion=f"the greatest sum of AP at an IoU of {IOU:g} and mean AP over IoUs of 0.5 to 0.95",
        metric=AP,
        metric_in_words=f"AP at an IoU of {IOU:g}",
        score=model.spec.scores.get("ap"),
        by_class=_by_class(model, "ap"),
        sweeps=tuple(
            Sweep(name, getattr(spec, name), AP, sweeps.curve_of(name), sweeps.num_swept, _tried(model, spec, name))
            for name in SWEPT
        ),
        **_story(model, names),
    )


def _tried(model: Model, spec: InstanceSpec, name: str) -> Curve | None:
    """Return what the training's search found on the line through the thresholds in use; None in older files."""
    fixed = [other for other in ("foreground_threshold", "seed_threshold", "smooth_px") if other != name]
    rows = {
        row[name]: row["ap"]
        for row in model.spec.training.get(TRIED, [])
        if all(row[other] == getattr(spec, other) for other in fixed)
    }
    values = sorted(rows)
    return Curve(np.array(values, np.float64), np.array([rows[one] for one in values], np.float64)) if values else None


def _by_class(model: Model, metric: str) -> Mapping[str, float | None]:
    return {name: model.spec.scores.get(f"{metric}/{name}") for name in model.spec.classes[1:]}


def _story(model: Model, names: Sequence[str]) -> dict[str, Any]:
    """Return what is known of the training's validation images, and whether `names` are among them."""
    training, run = model.spec.training, model.path.parent
    known = runs.read_splits(run) if (run / runs.SPLITS).exists() else None
    return {
        "data": str(training.get("data", "its data")),
        "epoch": training.get("best_epoch"),
        "num_images": training.get("num_val"),
        "num_shared": None if known is None else sum(known.get(name) == "val" for name in names),
    }
