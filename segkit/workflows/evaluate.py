"""From predictions and truth to metrics; the predictions are made here, or are there already."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit import files
from segkit.config import DataConfig, EvaluateConfig, PredictConfig
from segkit.data.layout import Dataset, Item, load_dataset, read_image, read_mask
from segkit.data.rasters import read_values
from segkit.errors import InputError
from segkit.evaluation.exports import write_report
from segkit.evaluation.pixels import confusion, require_same_shape
from segkit.evaluation.tables import PixelReport, dice_of_image, measure_pixels
from segkit.inference.pipeline import predict_array
from segkit.models.model_file import Model, load_model
from segkit.report.figures import draw_overlay
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.predict import build_predictor

MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
MAX_FIGURES = 200


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """What an evaluation found and left."""

    report: PixelReport
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
    """Measure a model on a data folder, or predicted masks against true ones.

    Parameters
    ----------
    data, model
        A data folder and a model (None: the newest run): its images are predicted, then measured.
    prediction, truth
        Folders of masks of class ids, paired by name; a prediction may also be what `predict` leaves, NAME/mask.tif.
    out
        Folder of the results: metrics.json, metrics.csv, summary.md, figures/, and predictions/ where they were made.

    Raises
    ------
    InputError
        The data, model or masks do not fit together.
    """
    files.prepare_folder(out)
    with files.folder_lock(out):
        files.remove_leftovers(out)
        if data is not None:
            measured = _predicted(config, data, model, out, on_progress, on_note)
        elif prediction is not None and truth is not None:
            measured = _found(prediction, truth, on_progress)
        else:
            raise ValueError("give data, or prediction and truth")
        report = measure_pixels(
            measured.names,
            np.stack(measured.confusions),
            measured.classes,
            groups=measured.groups,
            num_samples=config.bootstrap,
            seed=config.seed,
        )
        write_report(report, out)
        figures = [path for path in (out / "figures" / f"{name}.png" for name in measured.names) if path.exists()]
    return EvaluateResult(report=report, folder=out, figures=figures)


@dataclass
class _Measured:
    classes: Sequence[str]
    names: list[str]
    groups: list[str] | None
    confusions: list[NDArray[np.int64]]


def _predicted(
    config: EvaluateConfig,
    data: DataConfig,
    model_path: Path | None,
    out: Path,
    on_progress: OnProgress,
    on_note: OnNote,
) -> _Measured:
    if model_path is None:
        model_path = runs.newest_model()
        on_note(f"model: {model_path} (the newest finished run)")
    model = load_model(model_path)
    dataset = _as_the_model_sees_it(data, model)
    items = _items_of(config.split, dataset, model, on_note)
    predictor = build_predictor(model, PredictConfig(dihedral=config.dihedral, compute=config.compute))
    measured = _Measured(model.spec.classes, [], _groups(items), [])
    for number, item in enumerate(items, start=1):
        image, truth = read_image(item), read_mask(item, dataset)
        mask = predict_array(image, predictor, model.grid).mask
        _write_mask(out / "predictions" / f"{item.name}.png", mask)
        _measure_one(measured, item.name, image, truth, mask, out)
        on_progress("evaluate", number, len(items), {})
    return measured


def _as_the_model_sees_it(data: DataConfig, model: Model) -> Dataset:
    """Load the data folder with the model's annotation and class names.

    Raises
    ------
    InputError
        The folder's classes are others than the model's.
    """
    annotation = model.spec.training.get("annotation", data.annotation)
    dataset = load_dataset(data.model_copy(update={"annotation": annotation}))
    classes = tuple(model.spec.classes)
    if len(dataset.classes) > len(classes):
        raise InputError(
            f"{dataset.root}: has the classes {', '.join(dataset.classes)}, and the model {', '.join(classes)} "
            f"({model.path})."
        )
    return replace(dataset, classes=classes)


def _items_of(split: str, dataset: Dataset, model: Model, on_note: OnNote) -> list[Item]:
    items = list(dataset.items)
    if all(item.split is None for item in items) and split != "all":
        known = _splits_of_run(model.path.parent / "splits.csv")
        items = [replace(item, split=known.get(item.name)) for item in items]  # type: ignore[arg-type]
        on_note(f"splits: those of the training, {model.path.parent / 'splits.csv'}")
    chosen = [item for item in items if split in {"all", item.split}]
    if not chosen:
        raise InputError(f"{dataset.root}: no images of the split `{split}`. Use --split all, or add a splits.csv.")
    return chosen


def _splits_of_run(path: Path) -> Mapping[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return {row["image"]: row["split"] for row in csv.DictReader(handle)}
    except (OSError, KeyError) as error:
        raise InputError(
            "the data folder has no splits and the model's folder has no splits.csv. Use --split all."
        ) from error


def _groups(items: Sequence[Item]) -> list[str] | None:
    groups = [item.group for item in items if item.group is not None]
    return groups if len(groups) == len(items) else None


def _found(prediction: Path, truth: Path, on_progress: OnProgress) -> _Measured:
    predictions = _masks_in(prediction)
    truths = _masks_in(truth / "masks" if (truth / "masks").is_dir() else truth)
    problems = [f"{name}: no prediction in {prediction}" for name in truths.keys() - predictions.keys()]
    problems += [f"{name}: no truth in {truth}" for name in predictions.keys() - truths.keys()]
    if problems:
        raise InputError("predictions and truths do not pair by name:", sorted(problems))
    names = sorted(truths)
    read = {}
    for number, name in enumerate(names, start=1):
        read[name] = _read_mask(predictions[name]), _read_mask(truths[name])
        require_same_shape(*read[name], name)
        on_progress("read masks", number, len(names), {})
    num_classes = max(2, 1 + max(int(_largest_class(mask)) for pair in read.values() for mask in pair))
    classes = ["background", "foreground"] if num_classes == 2 else [
        "background", *(f"class_{number}" for number in range(1, num_classes))
    ]  # fmt: skip
    return _Measured(classes, names, None, [confusion(*read[name], num_classes) for name in names])


def _masks_in(folder: Path) -> dict[str, Path]:
    runs.require_folder(folder, "of masks")
    found = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in MASK_SUFFIXES}
    found |= {path.parent.name: path for path in folder.glob("*/mask.tif")}
    if not found:
        raise InputError(f"{folder}: holds no masks (NAME.png, NAME.tif or NAME/mask.tif).")
    return found


def _read_mask(path: Path) -> NDArray[np.uint8]:
    values = read_values(path)
    if values.min(initial=0) < 0 or values.max(initial=0) > 255:
        raise InputError(f"{path}: class ids are 0 to 255, found {values.min()} to {values.max()}.")
    mask = values.astype(np.uint8)
    # 0 and 255 alone is how programs write a mask of one class; 255 beside other ids means `not labelled`.
    return np.where(mask == 255, np.uint8(1), np.uint8(0)) if set(np.unique(mask)) == {0, 255} else mask


def _largest_class(mask: NDArray[np.uint8]) -> int:
    return int(mask[mask != 255].max(initial=0))


def _measure_one(
    measured: _Measured,
    name: str,
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    out: Path,
) -> None:
    one = confusion(mask, truth, len(measured.classes))
    measured.names.append(name)
    measured.confusions.append(one)
    if len(measured.names) <= MAX_FIGURES:
        draw_overlay(
            image, truth, mask, measured.classes, out / "figures" / f"{name}.png", title=name, dice=dice_of_image(one)
        )


def _write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    with files.atomic_path(path) as temporary:
        Image.fromarray(mask).save(temporary, format="png")
