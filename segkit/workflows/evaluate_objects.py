"""Objects of a model for instances measured against labelled ones."""

import functools
from collections.abc import Callable, Mapping, Sequence
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
from segkit.evaluation.estimates import mean_of_defined
from segkit.evaluation.estimates import number as rounded
from segkit.evaluation.object_classes import ObjectClasses, classes_of, divide, majority_classes
from segkit.evaluation.object_exports import write_object_report
from segkit.evaluation.object_tables import ObjectReport, measure_objects
from segkit.evaluation.objects import Overlaps, average_precision, count_objects, matched_pairs
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
from segkit.workflows.class_codes import Codes
from segkit.workflows.dataset_items import attributes_of, groups_of, items_of, require_scale
from segkit.workflows.instance_task import instance_case
from segkit.workflows.model_choice import object_choice
from segkit.workflows.object_class_names import SharedClasses, shared_classes, tells_classes
from segkit.workflows.predict import build_predictor
from segkit.workflows.threshold_sweeps import ObjectSweeps

MAX_FIGURES: Final = 200
LARGEST_16_BIT: Final = 65535


@dataclass
class FoundObjects:
    """Overlaps of predicted and true objects of images, as far as they were gathered.

    `classes` are names by index, background first, where class is looked at, with `object_classes` of each image; empty
    otherwise. `areas_px` is what is labelled of each image; `mpp` that of all images, or of each, None where unknown;
    `choose` tells of the images' names how the thresholds were chosen, where a model made the objects.
    """

    name: str
    names: list[str] = field(default_factory=list)
    overlaps: list[Overlaps] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    object_classes: list[ObjectClasses] = field(default_factory=list)
    areas_px: list[int] = field(default_factory=list)
    groups: list[str] | None = None
    attributes: dict[str, list[str]] = field(default_factory=dict)
    mpp: float | list[float] | None = None
    choose: Callable[[list[str]], Choice] | None = None
    source: dict[str, str] = field(default_factory=dict)
    figures: list[Path] = field(default_factory=list)
    shelf: Shelf = field(default_factory=Shelf)

    def add(
        self,
        name: str,
        image: NDArray[np.uint8],
        labels: NDArray[np.int32],
        truth: NDArray[np.int32],
        figures: Path,
        by_id: ObjectClasses | None = None,
    ) -> None:
        """Take one image, and draw it; `by_id` has the class of each true and predicted id where class is looked at."""
        overlaps = overlaps_of(truth, labels)
        self.take(name, overlaps, int((truth != UNLABELLED).sum()), by_id)
        parts = [overlaps]
        if by_id is not None:
            parts = [part for (part,) in divide([overlaps], self.classes, self.object_classes[-1:]).values()]
        score = rounded(
            float(mean_of_defined(average_precision(np.stack([count_objects(one, [IOU])[0] for one in parts]))))
        )
        case = instance_case(name, image, truth, labels, score)._replace(
            matches=np.concatenate([_matches(one) for one in parts])
        )

        def draw(longest_px: int) -> Picture:
            return object_picture(case.image, case.truth, case.prediction, case.matches, longest_px=longest_px)

        self.shelf.put(name, score, draw)
        if len(self.names) <= MAX_FIGURES:
            path = figures / f"{name}.png"
            score_name = f"AP at IoU {IOU:g}" + ("" if by_id is None else ", mean of the classes")
            draw_instances_case(case, path, title=name, score_name=score_name)
            self.figures.append(path)

    def take(self, name: str, overlaps: Overlaps, area_px: int, by_id: ObjectClasses | None = None) -> None:
        """Take one image that is not drawn."""
        self.names.append(name)
        self.overlaps.append(overlaps)
        self.areas_px.append(area_px)
        if by_id is not None:
            self.object_classes.append(classes_of(overlaps, *by_id))


def _matches(overlaps: Overlaps) -> NDArray[np.integer]:
    """Return the true and the predicted ids of objects that belong together, (M, 2)."""
    pairs = matched_pairs(overlaps, IOU)
    return np.stack(
        [overlaps.true_ids[overlaps.true[pairs]], overlaps.predicted_ids[overlaps.predicted[pairs]]], axis=1
    )


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

    Objects of a model with several classes have the one that most of their pixels are of, as `segkit predict` says it.
    They are left in `predictions`, NAME.png of 16 bit ids (NAME.tif of 32 bit where there are more).

    Raises
    ------
    InputError
        The folder cannot be used, its images are of another scale than the model's, or it names classes otherwise.
    ModelError
        The model is not for instances.
    """
    spec = instances_of(model)
    dataset = _as_the_model_sees_it(data, model)
    require_scale(dataset, model)
    items = items_of(config.split, dataset, model, on_note)
    predictor = predictor_of(model, config)
    shared = _shared_with(dataset, model, on_note)
    found = FoundObjects(
        shared.name,
        classes=shared.names,
        groups=groups_of(items),
        attributes=attributes_of(items),
        mpp=dataset.mpp,
    )
    sweeps = ObjectSweeps(spec, len(items))
    found.choose = functools.partial(object_choice, model, spec, sweeps)
    found.source = {"data": str(data.dir.resolve()), "model": str(model.path.resolve()), "model_sha256": model.sha256}
    for number, item in enumerate(items, start=1):
        image = read_image(item)
        true_mask, truth = read_instances(item, dataset)
        mask, foreground, distance, *_ = predict_layers(image, predictor)
        labels = label_instances(foreground, distance, spec)
        write_labels(predictions, item.name, labels)
        sweeps.add(foreground, distance, labels, truth)
        by_id = None
        if shared.names:
            by_id = ObjectClasses(
                _classes_by_id(truth, true_mask, dataset.classes, shared.of_true, len(shared.names)),
                _classes_by_id(labels, mask, model.spec.classes, shared.of_predicted, len(shared.names)),
            )
        found.add(item.name, image, labels, truth, figures, by_id)
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
        classes=found.classes or None,
        object_classes=found.object_classes if found.classes else None,
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


def _shared_with(dataset: Dataset, model: Model, on_note: OnNote) -> SharedClasses:
    """Return the classes that a data folder and a model both tell apart; what a model of one class finds has its name.

    Raises
    ------
    InputError
        They name them otherwise.
    """
    true, known = tuple(dataset.classes), tuple(model.spec.classes)
    if len(true) == len(known) == 2:
        return SharedClasses(name=known[1])
    folders = ((dataset.root, true), (model.path, known))
    truth, prediction = (
        Codes(folder=folder, names=names, index_of={place: place for place in range(len(names))})
        for folder, names in folders
    )
    return shared_classes(
        truth,
        prediction,
        truth_tells=dataset.annotation != "labels" and tells_classes(true[1:]),
        prediction_tells=len(known) > 2,
        on_note=on_note,
    )


def _classes_by_id(
    ids: NDArray[np.int32], mask: NDArray[np.uint8], own: Sequence[str], index_of: Mapping[str, int], num_classes: int
) -> NDArray[np.int64]:
    """Return the class of each object of `ids` (H, W), from a mask (H, W) of indices of names of its `own`."""
    table = np.zeros(256, np.uint8)
    table[: len(own)] = [index_of.get(name, 0) for name in own]
    return majority_classes(ids, table[mask], num_classes)


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
