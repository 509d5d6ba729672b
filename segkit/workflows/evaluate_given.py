"""Predictions that are there against the truth: by points, objects or pixels, whichever the two folders hold."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from segkit.config import EvaluateConfig
from segkit.errors import UsageError
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.evaluate_given_objects import given_objects
from segkit.workflows.evaluate_given_points import given_points, has_detections
from segkit.workflows.evaluate_masks import given_masks
from segkit.workflows.evaluate_objects import FoundObjects
from segkit.workflows.evaluate_points import Found
from segkit.workflows.given_files import files_in, slide_record
from segkit.workflows.measured_masks import FoundMasks
from segkit.workflows.missing import Missing
from segkit.workflows.truth_files import TruthFolder, find_truth


def measure_given(
    config: EvaluateConfig,
    prediction: Path,
    truth: Path,
    figures: Path,
    on_progress: OnProgress,
    on_note: OnNote,
    missing: Missing | None = None,
) -> FoundMasks | Found | FoundObjects:
    """Compare what is there with the truth.

    Points are measured where there are detections, or points are the truth; objects against labels, and polygons
    against polygons; pixels in all other cases. Of what `predict` left, the objects are meant where the truth is labels
    or the model tells objects apart, else the masks.

    Parameters
    ----------
    config
        Of which `split`, not `auto`, and `measure` are used, and what is needed for what is measured.
    prediction, truth
        Folders; see `segkit.workflows.given_files.files_in` and `segkit.workflows.truth_files.find_truth`.
    figures
        Where pictures of objects and points are drawn.
    missing
        What becomes of truths without a prediction; those left out are added to it. None: as
        `allow_missing` says.

    Raises
    ------
    InputError
        A folder or file cannot be used, or the two do not fit each other.
    UsageError
        What is asked for cannot be measured on them.
    """
    detections = has_detections(prediction)
    found = replace(find_truth(truth), split=config.split, missing=missing or Missing(allowed=config.allow_missing))
    if config.split != "all" and not found.is_data:
        raise UsageError(f"--split {config.split}: {found.root} is no data folder, and has no splits. Leave it out.")
    chosen = _choose(prediction, found, detections=detections) if config.measure == "auto" else config.measure
    if chosen == "points":
        return given_points(config, prediction, found, figures, on_progress, on_note)
    if found.kind == "points":
        raise UsageError(f"{truth}: holds points, by which no {chosen} can be measured.")
    if chosen == "objects":
        if found.kind == "masks":
            raise UsageError(
                f"{found.root}: holds masks of classes, which tell no objects apart. Objects are measured against "
                "labels or polygons."
            )
        return given_objects(prediction, found, figures, on_progress, on_note)
    drawn = not files_in(prediction, "raster", "masks") and files_in(prediction, "polygons", "polygons")
    return given_masks(config, prediction, found, "polygons" if drawn else "raster", on_progress, on_note)


def _choose(prediction: Path, truth: TruthFolder, *, detections: bool) -> Literal["pixels", "objects", "points"]:
    if truth.kind == "points" or detections:
        return "points"
    if truth.kind == "labels":
        return "objects"
    if truth.kind == "masks":
        return "pixels"
    rasters = files_in(prediction, "raster", "predictions")
    if not rasters or prediction.resolve().name == "labels":
        return "objects"
    record = slide_record(next(iter(rasters.values())))
    return "objects" if record is not None and record.tells_objects else "pixels"
