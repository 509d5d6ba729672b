"""Class masks of a model measured against true ones."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit import files
from segkit.config import AUTO, DataConfig, EvaluateConfig, length_px
from segkit.data.layout import Dataset, Item, load_dataset, read_image, read_mask
from segkit.errors import InputError
from segkit.evaluation.image_counts import ComparedImage, count_image
from segkit.evaluation.pixel_curves import MOST_PROBABLE
from segkit.evaluation.pixel_tables import dice_of_image
from segkit.inference.image_segmentation import ClassPredictor, segment_with_probabilities
from segkit.models.inference_form import resolve_precision
from segkit.models.model_file import Model
from segkit.report.figures import draw_overlay
from segkit.report.page.pictures import Picture, pixel_picture
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note
from segkit.workflows.dataset_items import attributes_of, groups_of, items_as_split, items_of, require_scale
from segkit.workflows.measured_masks import LARGEST_WHOLE_PX, FoundMasks, note_on_large
from segkit.workflows.membrane_thresholds import choose_on_other_images, membrane_rules
from segkit.workflows.planning import device_of_worker

MAX_FIGURES: Final = 200


def predicted_masks(
    config: EvaluateConfig,
    data: DataConfig,
    model: Model,
    figures: Path,
    predictions: Path,
    on_progress: OnProgress,
    on_note: OnNote,
) -> FoundMasks:
    """Run a model for classes on the images of a data folder and compare its masks with the true ones.

    The masks are left in `predictions`, NAME.png of class ids.

    Raises
    ------
    InputError
        The folder cannot be used, its images are of another scale than the model's, or it has other classes.
    ConfigError
        The tolerance of distances is in micrometres, and the scale is not known, or no class is called as the membranes
        are said to be.
    """
    dataset, index_of = _as_the_model_sees_it(data, model)
    require_scale(dataset, model)
    items = items_of(config.split, dataset, model, on_note)
    tolerance_px = length_px(config.surface_tolerance, dataset.mpp)
    large: list[str] = []
    predictor = _predictor_of(model, config)
    source = {"data": str(data.dir.resolve()), "model": str(model.path.resolve()), "model_sha256": model.sha256}
    classes = tuple(model.spec.classes)
    found = FoundMasks(
        classes,
        threshold=MOST_PROBABLE if len(classes) == 2 else None,
        membranes=membrane_rules(config, classes),
        groups=groups_of(items),
        attributes=attributes_of(items),
        source=source,
    )

    def compare(item: Item, image: NDArray[np.uint8] | None = None) -> ComparedImage:
        segmented = segment_with_probabilities(read_image(item) if image is None else image, predictor)
        return ComparedImage(
            name=item.name,
            truth=index_of[read_mask(item, dataset)],
            prediction=segmented.mask,
            mpp=dataset.mpp,
            foreground=segmented.foreground,
            of_classes=segmented.of_classes,
        )

    for number, item in enumerate(items, start=1):
        image = read_image(item)
        compared = compare(item, image)
        _write_mask(predictions / f"{item.name}.png", compared.prediction)
        is_large = compared.truth.size > LARGEST_WHOLE_PX
        _measure(found, compared, image, None if is_large else tolerance_px, figures)
        large += [item.name] if is_large else []
        on_progress("evaluate", number, len(items), {})
    if large:
        on_note(note_on_large(large))
    if found.membranes is not None:
        every = items_as_split(dataset, model, quiet_note)
        found.chosen = choose_on_other_images(
            config, every, compare, found.membranes, len(classes), on_progress, on_note
        )
    return found


def _measure(
    found: FoundMasks, compared: ComparedImage, image: NDArray[np.uint8], tolerance_px: float | None, figures: Path
) -> None:
    """Take one image, and draw it."""
    membranes = None if tolerance_px is None else found.membranes
    counts = count_image(compared, len(found.classes), tolerance_px=tolerance_px, membranes=membranes)

    def draw(longest_px: int) -> Picture:
        return pixel_picture(image, compared.truth, compared.prediction, longest_px=longest_px)

    found.add(counts, draw)
    if len(found.images) <= MAX_FIGURES:
        path, dice = figures / f"{compared.name}.png", dice_of_image(counts.confusion)
        draw_overlay(image, compared.truth, compared.prediction, found.classes, path, title=compared.name, dice=dice)
        found.figures.append(path)


def _predictor_of(model: Model, config: EvaluateConfig) -> ClassPredictor:
    device = device_of_worker(config.compute)
    return ClassPredictor(
        [(model.unet, model.spec)],
        device=device,
        precision=resolve_precision(config.compute.precision, device),
        dihedral=config.dihedral,
        inexact=config.inexact,
    )


def _as_the_model_sees_it(data: DataConfig, model: Model) -> tuple[Dataset, NDArray[np.uint8]]:
    """Load the data folder as the training did; return it and the model's class index of each of its class indices.

    Raises
    ------
    InputError
        The folder has classes that the model does not know.
    """
    training = model.spec.training
    given = {
        "annotation": training.get("annotation", data.annotation) if data.annotation == AUTO else data.annotation,
        "ignore": training.get("ignore") if data.ignore is None else data.ignore,
    }
    dataset = load_dataset(data.model_copy(update=given))
    classes = list(model.spec.classes)
    index_of = np.arange(256).astype(np.uint8)
    named = [name for name in dataset.classes if name not in classes]
    automatic = all(re.fullmatch(r"background|foreground|class_\d+", name) for name in dataset.classes)
    if automatic and len(dataset.classes) <= len(classes):
        # Without names of their own, classes are meant by position.
        return replace(dataset, classes=tuple(classes)), index_of
    if named:
        raise InputError(
            f"{dataset.root}: has the classes {', '.join(dataset.classes)}, and the model {', '.join(classes)}; it does"
            f" not know {', '.join(named)} ({model.path})."
        )
    for index, name in enumerate(dataset.classes):
        index_of[index] = classes.index(name)
    return dataset, index_of


def _write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    with files.atomic_path(path) as temporary:
        Image.fromarray(mask).save(temporary, format="png")
