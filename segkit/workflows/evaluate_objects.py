"""Objects of a model for instances measured against labelled ones."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segkit import files
from segkit.config import AUTO, DataConfig, EvaluateConfig, PredictConfig
from segkit.data.instance_labels import UNLABELLED, read_instances
from segkit.data.layout import Dataset, load_dataset, read_image
from segkit.errors import InputError, ModelError
from segkit.evaluation.estimates import number as rounded
from segkit.evaluation.object_exports import write_object_report
from segkit.evaluation.object_tables import ObjectReport, measure_objects
from segkit.evaluation.objects import Overlaps, average_precision, count_objects
from segkit.evaluation.threshold_choice import Choice
from segkit.inference.image_segmentation import predict_layers
from segkit.inference.instances import label_instances
from segkit.inference.network import Predictor
from segkit.models.model_file import InstanceSpec, Model
from segkit.report.instances import draw_instances_case
from segkit.report.page.pictures import Picture, object_picture
from segkit.report.page.shelf import Shelf
from segkit.training.instance_validation import IOU, overlaps_of
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.dataset_items import attributes_of, groups_of, items_of, require_scale
from segkit.workflows.instance_task import instance_case
from segkit.workflows.model_choice import object_choice
from segkit.workflows.predict import build_predictor
from segkit.workflows.threshold_sweeps import ObjectSweeps

MAX_FIGURES: Final = 200
LARGEST_16_BIT: Final = 65535


@dataclass
class FoundObjects:
    """Overlaps of predicted and true objects of images, as far as they were gathered.

    `areas_px` is what is labelled of each image; `mpp` that of all images, or of each, None where unknown; `choose`
    tells of the images' names how the thresholds were chosen, where a model made the objects.
    """

    name: str
    names: list[str] = field(default_factory=list)
    overlaps: list[Overlaps] = field(default_factory=list)
    areas_px: list[int] = field(default_factory=list)
    groups: list[str] | None = None
    attributes: dict[str, list[str]] = field(default_factory=dict)
    mpp: float | list[float] | None = None
    choose: Callable[[list[str]], Choice] | None = None
    source: dict[str, str] = field(default_factory=dict)
    figures: list[Path] = field(default_factory=list)
    shelf: Shelf = field(default_factory=Shelf)

    def add(
        self, name: str, image: NDArray[np.uint8], labels: NDArray[np.int32], truth: NDArray[np.int32], figures: Path
    ) -> None:
        """Take one image, and draw it."""
        overlaps = overlaps_of(truth, labels)
        self.names.append(name)
        self.overlaps.append(overlaps)
        self.areas_px.append(int((truth != UNLABELLED).sum()))
        score = rounded(float(average_precision(count_objects(overlaps, [IOU]))[0]))
        case = instance_case(name, image, truth, labels, score)

        def draw(longest_px: int) -> Picture:
            return object_picture(case.image, case.truth, case.prediction, case.matches, longest_px=longest_px)

        self.shelf.put(name, score, draw)
        if len(self.names) <= MAX_FIGURES:
            path = figures / f"{name}.png"
            draw_instances_case(case, path, title=name)
            self.figures.append(path)


def predicted_objects(
    config: EvaluateConfig,
    data: DataConfig,
    model: Model,
    figures: Path,
    predictions: Path,
    on_progress: OnProgress,
    on_note: OnNote,
) -> FoundObjects:
    """Run a model for instances on the images of a data folder and compare its objects with the labelled ones.

    The objects are left in `predictions`, NAME.png of 16 bit ids (NAME.tif of 32 bit where there are more).

    Raises
    ------
    InputError
        The folder cannot be used, or its images are of another scale than the model's.
    ModelError
        The model is not for instances.
    """
    spec = instances_of(model)
    dataset = _as_the_model_sees_it(data, model)
    require_scale(dataset, model)
    items = items_of(config.split, dataset, model, on_note)
    predictor = predictor_of(model, config)
    found = FoundObjects(
        _name_of(model.spec.classes), groups=groups_of(items), attributes=attributes_of(items), mpp=dataset.mpp
    )
    sweeps = ObjectSweeps(spec, len(items))
    found.choose = functools.partial(object_choice, model, spec, sweeps)
    found.source = {"data": str(data.dir.resolve()), "model": str(model.path.resolve()), "model_sha256": model.sha256}
    for number, item in enumerate(items, start=1):
        image = read_image(item)
        _, truth = read_instances(item, dataset)
        _, foreground, distance, *_ = predict_layers(image, predictor)
        labels = label_instances(foreground, distance, spec)
        write_labels(predictions, item.name, labels)
        sweeps.add(foreground, distance, labels, truth)
        found.add(item.name, image, labels, truth, figures)
        on_progress("evaluate", number, len(items), {})
    return found


def predictor_of(model: Model, config: EvaluateConfig) -> Predictor:
    """Return a model's network as an evaluation is to run it."""
    settings = PredictConfig(dihedral=config.dihedral, inexact=config.inexact, compute=config.compute)
    return build_predictor([model], settings)


def measure_found(found: FoundObjects, config: EvaluateConfig, out: Path) -> ObjectReport:
    """Make the tables and write them."""
    report = measure_objects(
        found.names,
        found.overlaps,
        name=found.name,
        groups=found.groups,
        attributes=found.attributes,
        mpp=found.mpp,
        areas_px=found.areas_px,
        num_samples=config.bootstrap,
        seed=config.seed,
    )
    if found.choose is not None:
        report = replace(report, choice=found.choose(found.names))
    write_object_report(report, out)
    return report


def instances_of(model: Model) -> InstanceSpec:
    """Return how a model's maps become objects.

    Raises
    ------
    ModelError
        It is not for instances.
    """
    if model.spec.instances is None:
        raise ModelError(
            f"{model.path}: was trained for the task {model.spec.task}, and tells no objects apart. Train with "
            "task=instance on labels."
        )
    return model.spec.instances


def write_labels(folder: Path, name: str, labels: NDArray[np.int32]) -> Path:
    """Write ids (H, W) as PNG of 16 bit, or, where there are more than 65535, as TIFF of 32 bit; return the path."""
    is_small = labels.max(initial=0) <= LARGEST_16_BIT
    path = folder / f"{name}{'.png' if is_small else '.tif'}"
    with files.atomic_path(path) as temporary:
        if is_small:
            Image.fromarray(labels.astype(np.uint16)).save(temporary, format="png")
        else:
            tifffile.imwrite(temporary, labels.astype(np.uint32), compression="zlib")
    return path


def _name_of(classes: Sequence[str]) -> str:
    return classes[1] if len(classes) == 2 else "any class"


def _as_the_model_sees_it(data: DataConfig, model: Model) -> Dataset:
    training = model.spec.training
    given = {
        "annotation": training.get("annotation", data.annotation) if data.annotation == AUTO else data.annotation,
        "ignore": training.get("ignore") if data.ignore is None else data.ignore,
    }
    if given["annotation"] == "points":
        raise InputError(
            f"{data.dir}: is to be read with points, and {model.path} finds objects, which are measured against labels."
        )
    return load_dataset(data.model_copy(update=given))
