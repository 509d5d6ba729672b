"""From predictions and truth to metrics; the predictions are made here, or are there already."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit import files
from segkit.config import AUTO, DataConfig, EvaluateConfig
from segkit.data.layout import Dataset, load_dataset, read_image, read_mask
from segkit.errors import InputError, UsageError
from segkit.evaluation.latex import write_table
from segkit.evaluation.pixel_exports import write_report
from segkit.evaluation.pixel_tables import dice_of_image, measure_pixels
from segkit.evaluation.pixels import confusion
from segkit.evaluation.reports import Report, as_json
from segkit.inference.image_segmentation import segment_image
from segkit.models.model_file import Model, load_model
from segkit.report.figures import draw_overlay
from segkit.report.page.pictures import Picture, pixel_picture
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.dataset_items import groups_of, items_of, require_scale
from segkit.workflows.evaluate_given import measure_given
from segkit.workflows.evaluate_masks import FoundMasks
from segkit.workflows.evaluate_objects import (
    FoundObjects,
    measure_found,
    predicted_objects,
    predictor_of,
)
from segkit.workflows.evaluate_points import (
    CURVE_TABLE,
    CURVES,
    Found,
    measure,
    predicted_points,
)
from segkit.workflows.evaluation_page import PAGE, write_page
from segkit.workflows.test_looks import TEST_SPLITS, record_look

MAX_FIGURES = 200
FIGURES, PREDICTIONS = "figures", "predictions"


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """What an evaluation found and left."""

    report: Report
    folder: Path
    figures: list[Path]


def evaluate(
    config: EvaluateConfig,
    *,
    data: DataConfig | None = None,
    model: Path | None = None,
    prediction: Path | None = None,
    truth: Path | None = None,
    out: Path = Path("evaluation"),
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> EvaluateResult:
    """Measure a model on a data folder, or predictions that are there against the truth.

    Parameters
    ----------
    data, model
        A data folder and a model (None: the newest run): its images are predicted, then measured: by pixels, by
        objects or by points, as the model's task is. That the test set is looked at is written down beside the model.
    prediction, truth
        Folders of files, paired by name: masks of class ids, ids of objects, polygons (GeoJSON), detections; a
        prediction may also be what `predict` and `sliding-window` leave, the truth a data folder. See
        `segkit.workflows.evaluate_given`, which chooses what is measured. Slides of any size are read in blocks.
    out
        Folder of the results: report.html, metrics.json, metrics.csv, summary.md, table.tex, figures/, and predictions/
        where masks were made; for points also curves.csv and curves.png.

    Raises
    ------
    InputError
        The data, model or masks do not fit together.
    UsageError
        `out` holds what another command left.
    """
    files.prepare_folder(out)
    require_own_folder(out, "evaluate")
    loaded = None if data is None else _load(model, on_note)  # first: without a model, former results stay
    with files.folder_lock(out):
        files.remove_leftovers(out)
        _remove_former(out, *([FIGURES, PREDICTIONS] if data is not None else [FIGURES]))
        report: Report
        measured: FoundMasks | Found | FoundObjects
        if data is not None and loaded is not None:
            if loaded.spec.task == "points":
                measured = predicted_points(config, data, loaded, out / FIGURES, on_progress, on_note)
            elif loaded.spec.task == "instance":
                measured = predicted_objects(
                    config, data, loaded, out / FIGURES, out / PREDICTIONS, on_progress, on_note
                )
            else:
                measured = _predicted(config, data, loaded, out, on_progress, on_note)
            if config.split in TEST_SPLITS:
                record_look(loaded, split=config.split, out=out, on_note=on_note)
        elif prediction is not None and truth is not None:
            measured = measure_given(
                config, prediction, truth, out / FIGURES, on_progress, on_note, measure=config.measure
            )
        else:
            raise ValueError("give data, or prediction and truth")
        if isinstance(measured, Found):
            report = measure(measured, config, out)
            measured.figures.insert(0, out / CURVES)
        elif isinstance(measured, FoundObjects):
            report = measure_found(measured, config, out)
        else:
            report = measure_pixels(
                measured.names,
                np.stack(measured.confusions),
                measured.classes,
                groups=measured.groups,
                num_samples=config.bootstrap,
                seed=config.seed,
            )
            write_report(report, out)
        write_table(report, out)
        record = {
            "command": "evaluate",
            **{name: str(path.resolve()) for name, path in {"prediction": prediction, "truth": truth}.items() if path},
            **measured.source,
            "settings": config.model_dump(mode="json"),
            "images": measured.names,
            "versions": runs.versions(),
            "finished": runs.now(),
            "complete": True,
        }
        write_page(
            report,
            out / PAGE,
            record=record,
            definitions=as_json(report)["definitions"],
            run=None if loaded is None else loaded.path.parent,
            pictures=measured.shelf.pictures(),
        )
        files.write_json(out / runs.RECORD, record)
    return EvaluateResult(report=report, folder=out, figures=measured.figures)


def require_own_folder(out: Path, command: str) -> None:
    """Raise UsageError where another command left its record in `out`, such as a training, which would be replaced."""
    record = runs.read_record(out)
    if record is not None and record.get("command") != command:
        raise UsageError(
            f"{out}: holds what `segkit {record.get('command')}` left ({runs.RECORD}), which would be replaced. Choose "
            "another --out."
        )


def _remove_former(out: Path, *folders: str) -> None:
    """Delete what an earlier evaluation left, so that no figure or mask of another split stays among the new ones.

    Only files of images that its record names: the folder may be one that the user has other pictures in.
    """
    record = runs.read_record(out)
    if record is None or record.get("command") != "evaluate":
        return
    (out / runs.RECORD).unlink()
    for path in [path for folder in folders for kind in ("*.png", "*.tif") for path in (out / folder).glob(kind)]:
        if path.stem in record["images"]:
            path.unlink()
    for name in (CURVES, CURVE_TABLE, PAGE):
        (out / name).unlink(missing_ok=True)


def _load(path: Path | None, on_note: OnNote) -> Model:
    if path is None:
        path = runs.newest_model()
        on_note(f"model: {path} (the newest finished run)")
    return load_model(path)


def _predicted(
    config: EvaluateConfig,
    data: DataConfig,
    model: Model,
    out: Path,
    on_progress: OnProgress,
    on_note: OnNote,
) -> FoundMasks:
    dataset, index_of = _as_the_model_sees_it(data, model)
    require_scale(dataset, model)
    items = items_of(config.split, dataset, model, on_note)
    predictor = predictor_of(model, config)
    source = {"data": str(data.dir.resolve()), "model": str(model.path.resolve()), "model_sha256": model.sha256}
    measured = FoundMasks(tuple(model.spec.classes), groups=groups_of(items), source=source)
    for number, item in enumerate(items, start=1):
        image, truth = read_image(item), index_of[read_mask(item, dataset)]
        mask = segment_image(image, predictor)
        _write_mask(out / PREDICTIONS / f"{item.name}.png", mask)
        _measure_one(measured, item.name, image, truth, mask, out)
        on_progress("evaluate", number, len(items), {})
    return measured


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


def _measure_one(
    measured: FoundMasks,
    name: str,
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    out: Path,
) -> None:
    one = confusion(mask, truth, len(measured.classes))
    measured.names.append(name)
    measured.confusions.append(one)

    def draw(longest_px: int) -> Picture:
        return pixel_picture(image, truth, mask, longest_px=longest_px)

    measured.shelf.put(name, dice_of_image(one), draw)
    if len(measured.names) <= MAX_FIGURES:
        figure = out / FIGURES / f"{name}.png"
        draw_overlay(image, truth, mask, measured.classes, figure, title=name, dice=dice_of_image(one))
        measured.figures.append(figure)


def _write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    with files.atomic_path(path) as temporary:
        Image.fromarray(mask).save(temporary, format="png")
