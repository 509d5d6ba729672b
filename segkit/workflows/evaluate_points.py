"""Detections measured against labelled points."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.config import AUTO, DataConfig, EvaluateConfig, SlidingWindowConfig, length_px
from segkit.data.layout import Dataset, load_dataset, read_image
from segkit.data.points import read_points
from segkit.errors import InputError, UsageError
from segkit.evaluation.point_exports import write_point_report
from segkit.evaluation.point_tables import PointReport, measure_points
from segkit.evaluation.points import outcomes
from segkit.inference.detection_outputs import DETECTION_TABLE, read_detections
from segkit.inference.image_detection import ScorePredictor, detect_in_image
from segkit.models.model_file import DetectionSpec, Model
from segkit.points import Detections, Points
from segkit.report.detections import draw_point_curves, draw_points_case
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.dataset_items import groups_of, items_of, items_with, require_scale
from segkit.workflows.heat_predict import build_heat_predictor
from segkit.workflows.sliding_window import build_window_predictor, say_if_naive

MAX_FIGURES = 200
CURVES, CURVE_TABLE = "curves.png", "curves.csv"


@dataclass
class Found:
    """Detections and truths of images, as far as they were gathered."""

    classes: Sequence[str]
    radius_px: float
    mpp: float | None
    thresholds: Sequence[float]
    names: list[str] = field(default_factory=list)
    detections: list[Detections] = field(default_factory=list)
    truths: list[Points] = field(default_factory=list)
    areas_px: list[int] = field(default_factory=list)
    groups: list[str] | None = None
    source: dict[str, str] = field(default_factory=dict)
    figures: list[Path] = field(default_factory=list)

    def add(self, name: str, image: NDArray[np.uint8], found: Detections, truth: Points, figures: Path) -> None:
        """Take one image, and draw it."""
        self.names.append(name)
        self.detections.append(found)
        self.truths.append(truth)
        self.areas_px.append(image.shape[0] * image.shape[1])
        if len(self.names) <= MAX_FIGURES:
            path = figures / f"{name}.png"
            self._draw(image, found, truth, path, name)
            self.figures.append(path)

    def _draw(self, image: NDArray[np.uint8], found: Detections, truth: Points, path: Path, name: str) -> None:
        judged = outcomes(found, truth, self.thresholds, self.radius_px)
        draw_points_case(
            image,
            path,
            true_positives=judged.right,
            false_positives=judged.wrong,
            false_negatives=judged.missed,
            hard_negatives=truth.of_class(0),
            title=name,
        )


def predicted_points(
    config: EvaluateConfig, data: DataConfig, model: Model, figures: Path, on_progress: OnProgress, on_note: OnNote
) -> Found:
    """Run a model on the images of a data folder and put its detections beside their points.

    Raises
    ------
    InputError
        The folder's points are not of the model's classes, or its images of another scale.
    """
    predictor, detection = _predictor_of(config, model, on_note)
    dataset = _as_the_model_sees_it(data, model)
    require_scale(dataset, model)
    items = items_of(config.split, dataset, model, on_note)
    mpp = model.spec.mpp if dataset.mpp is None else dataset.mpp
    radius = _radius(config, detection)
    found = Found(model.spec.classes, length_px(radius, mpp), mpp, detection.thresholds, groups=groups_of(items))
    found.source = {"data": str(data.dir.resolve()), "model": str(model.path.resolve()), "model_sha256": model.sha256}
    for number, item in enumerate(items, start=1):
        image = read_image(item)
        truth = read_points(item, dataset, *image.shape[:2])
        found.add(item.name, image, detect_in_image(image, predictor, detection, mpp=mpp), truth, figures)
        on_progress("evaluate", number, len(items), {})
    return found


def _predictor_of(config: EvaluateConfig, model: Model, on_note: OnNote) -> tuple[ScorePredictor, DetectionSpec]:
    if model.spec.architecture == "unet":
        return build_heat_predictor([model], config.compute, dihedral=config.dihedral, inexact=config.inexact)
    settings = SlidingWindowConfig(dihedral=config.dihedral, compute=config.compute)
    predictor, detection = build_window_predictor([model], settings)
    say_if_naive(predictor, on_note)
    return predictor, detection


def given_points(
    config: EvaluateConfig, prediction: Path, truth: Path, figures: Path, on_progress: OnProgress, on_note: OnNote
) -> Found:
    """Put what `sliding-window` or `predict` left, NAME/detections.csv, beside the points of a data folder.

    Raises
    ------
    UsageError
        There is no match radius.
    InputError
        A folder cannot be used, or predictions and images do not pair by name.
    """
    dataset = load_dataset(DataConfig(dir=truth, annotation="points"))
    tables = {path.parent.name: path for path in sorted(prediction.glob(f"*/{DETECTION_TABLE}"))}
    items = items_with(tables, prediction, dataset, "detections", on_note)
    if config.match_radius == AUTO:
        raise UsageError("the radius of a match is not known here: give it, e.g. --set match_radius=7.5um.")
    found = Found(
        dataset.classes,
        length_px(config.match_radius, dataset.mpp),
        dataset.mpp,
        [0.0] * (len(dataset.classes) - 1),
        groups=groups_of(items),
    )
    for number, item in enumerate(items, start=1):
        image = read_image(item)
        points = read_points(item, dataset, *image.shape[:2])
        found.add(item.name, image, read_detections(tables[item.name], dataset.classes), points, figures)
        on_progress("measure", number, len(items), {})
    return found


def has_detections(prediction: Path) -> bool:
    """Tell whether a folder holds what `sliding-window`, or `predict` with a U-Net for points, leaves.

    Raises
    ------
    UsageError
        It is what was left for one image.
    """
    if (prediction / DETECTION_TABLE).is_file():
        raise UsageError(
            f"{prediction}: holds the detections of one image. Give the folder that it lies in, "
            f"{prediction.resolve().parent}."
        )
    return any(prediction.glob(f"*/{DETECTION_TABLE}"))


def measure(found: Found, config: EvaluateConfig, out: Path) -> PointReport:
    """Make the tables and curves, and write them."""
    report = measure_points(
        found.names,
        found.detections,
        found.truths,
        found.classes,
        radius_px=found.radius_px,
        mpp=found.mpp,
        areas_px=found.areas_px,
        thresholds=found.thresholds,
        groups=found.groups,
        num_samples=config.bootstrap,
        seed=config.seed,
    )
    write_point_report(report, out)
    _draw_curves(report, out / CURVES)
    return report


def _draw_curves(report: PointReport, path: Path) -> None:
    with_truth = [summary for summary in report.per_class if summary.curve.num_truth]
    size = report.area_mm2 or len(report.images)
    draw_point_curves(
        # All classes, so that each keeps its colour; without truth recall is not defined, and not drawn.
        {one.name: (one.curve.recall, one.curve.precision) for one in report.per_class},
        path,
        chosen={one.name: (one.counts.recall or 0.0, one.counts.precision or 0.0) for one in with_truth},
        froc={one.name: (one.curve.false_positives / size, one.curve.recall) for one in with_truth},
        fp_unit="mm²" if report.area_mm2 else "image",
        title=f"{len(report.images)} images, radius {report.radius_px:.3g} px",
    )


def _radius(config: EvaluateConfig, detection: DetectionSpec) -> str:
    return detection.match_radius if config.match_radius == AUTO else config.match_radius


def _as_the_model_sees_it(data: DataConfig, model: Model) -> Dataset:
    training = model.spec.training
    given = {
        "annotation": "points" if data.annotation == AUTO else data.annotation,
        "classes": list(model.spec.classes) if data.classes == AUTO else data.classes,
        "hard_negatives": (training.get("hard_negatives") or AUTO)
        if data.hard_negatives == AUTO
        else data.hard_negatives,
    }
    if given["annotation"] != "points":
        raise InputError(f"{model.path}: finds points, and {data.dir} is to be read with {given['annotation']}.")
    try:
        return load_dataset(data.model_copy(update=given))
    except InputError as error:
        raise InputError(
            f"{data.dir}: cannot be used with {model.path}, which finds points:", error.problems or [error.message]
        ) from error
