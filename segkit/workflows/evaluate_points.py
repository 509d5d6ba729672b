"""Detections measured against labelled points."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.config import AUTO, DataConfig, EvaluateConfig, SlidingWindowConfig, length_px
from segkit.data.layout import Dataset, load_dataset, read_image
from segkit.data.points import read_points
from segkit.errors import InputError, UsageError
from segkit.evaluation.point_exports import write_point_report
from segkit.evaluation.point_rules import KDTREE25_RADIUS_PX
from segkit.evaluation.point_tables import PointReport, measure_points
from segkit.evaluation.points import PointCounts, outcomes
from segkit.inference.image_detection import ScorePredictor, detect_in_image
from segkit.models.model_file import DetectionSpec, Model
from segkit.points import Detections, Points
from segkit.report.detections import draw_point_curves, draw_points_case
from segkit.report.page.pictures import Picture, point_picture
from segkit.report.page.shelf import Shelf
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.dataset_items import attributes_of, groups_of, items_of, require_scale
from segkit.workflows.heat_predict import build_heat_predictor
from segkit.workflows.model_choice import point_choice
from segkit.workflows.sliding_window import build_window_predictor, say_if_naive

MAX_FIGURES = 200
CURVES, CURVE_TABLE = "curves.png", "curves.csv"


@dataclass
class Found:
    """Detections and truths of images, as far as they were gathered; `model` is what detects, where it is known."""

    classes: Sequence[str]
    radius_px: float
    mpp: float | None
    thresholds: Sequence[float]
    rule: str = "optimal"
    names: list[str] = field(default_factory=list)
    detections: list[Detections] = field(default_factory=list)
    truths: list[Points] = field(default_factory=list)
    areas_px: list[int] = field(default_factory=list)
    groups: list[str] | None = None
    attributes: dict[str, list[str]] = field(default_factory=dict)
    model: Model | None = None
    source: dict[str, str] = field(default_factory=dict)
    figures: list[Path] = field(default_factory=list)
    shelf: Shelf = field(default_factory=Shelf)

    def add(
        self,
        name: str,
        image: NDArray[np.uint8] | None,
        found: Detections,
        truth: Points,
        figures: Path,
        *,
        size: tuple[int, int] | None = None,
        area_px: int | None = None,
    ) -> None:
        """Take one image, and draw it.

        `size` is its height and width, where `image` is a smaller picture of it, or there is none, and no drawing;
        `area_px` what was searched of it, where that is not all.
        """
        height, width = size or (image.shape[:2] if image is not None else (0, 0))
        self.names.append(name)
        self.detections.append(found)
        self.truths.append(truth)
        self.areas_px.append(height * width if area_px is None else area_px)
        if image is None:
            return
        shrunk = np.array(image.shape[:2]) / (height, width)
        judged = outcomes(found, truth, self.thresholds, self.radius_px, self.rule)
        right, wrong, missed = (places * shrunk for places in judged)
        look_alikes = truth.of_class(0) * shrunk

        def draw(longest_px: int) -> Picture:
            return point_picture(
                image,
                (image.shape[0], image.shape[1]),
                right=right,
                false=wrong,
                missed=missed,
                look_alikes=look_alikes,
                radius_px=self.radius_px * float(shrunk[0]),
                longest_px=longest_px,
            )

        self.shelf.put(name, PointCounts(len(right), len(wrong), len(missed)).f1, draw)
        if len(self.names) <= MAX_FIGURES:
            path = figures / f"{name}.png"
            draw_points_case(
                image,
                path,
                true_positives=right,
                false_positives=wrong,
                false_negatives=missed,
                hard_negatives=look_alikes,
                title=name,
            )
            self.figures.append(path)


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
    found = Found(
        model.spec.classes,
        match_radius_px(config, detection.match_radius, mpp),
        mpp,
        detection.thresholds,
        config.match_rule,
        groups=groups_of(items),
        attributes=attributes_of(items),
        model=model,
    )
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
        attributes=found.attributes,
        rule=found.rule,
        num_samples=config.bootstrap,
        seed=config.seed,
    )
    if found.model is not None:
        report = replace(report, choice=point_choice(found.model, report))
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


def match_radius_px(config: EvaluateConfig, of_model: str | None, mpp: float | None) -> float:
    """Return how far a detection may be from its point, in pixels at level 0: as set, else as the model has it.

    Raises
    ------
    UsageError
        It is neither set nor known, or does not go with the rule of matching.
    """
    if config.match_rule == "kdtree25":
        if config.match_radius not in (AUTO, f"{KDTREE25_RADIUS_PX:g}px"):
            raise UsageError(
                f"match_radius is {config.match_radius}, and match_rule=kdtree25 goes with 25 pixels: leave it out."
            )
        return KDTREE25_RADIUS_PX
    radius = of_model if config.match_radius == AUTO else config.match_radius
    if radius is None:
        raise UsageError("the radius of a match is not known here: give it, e.g. --set match_radius=7.5um.")
    return length_px(radius, mpp)


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
