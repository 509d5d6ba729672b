"""From a folder of labelled images to a run folder with a model."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segkit import files
from segkit.config import TrainConfig, build_config, write_yaml
from segkit.data.layout import shorten
from segkit.data.splits import SPLIT_COLUMNS, split_rows
from segkit.errors import InputError, UsageError
from segkit.models.model_file import MODEL_NAME, load_model
from segkit.models.patch_cnn import PatchCNN
from segkit.models.unet import UNet
from segkit.report.curves import draw_curves
from segkit.report.figures import draw_kernels
from segkit.training.checkpoint import load_newest
from segkit.training.fit import FitResult, Row, fit
from segkit.training.losses import loss_function
from segkit.training.point_validation import LabelledPoints
from segkit.training.validation import LabelledImage, Validation
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.mask_task import MaskTask
from segkit.workflows.mined_table import remove_mined
from segkit.workflows.point_task import PointTask
from segkit.workflows.prepare import Prepared, prepare
from segkit.workflows.resolve import differences
from segkit.workflows.settings import fit_settings
from segkit.workflows.task import Task

FIGURES = "figures"
METRIC_NAMES = {"dice": "Dice", "f1": "F1"}
AnyPrepared = Prepared[LabelledImage] | Prepared[LabelledPoints]
MAY_CHANGE = frozenset({"epochs", "workers", "data.dir", "compute.device"})
"""Settings of a resumed run that may be others than those it was begun with."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training left: the run folder, the model (best epoch, counted from 1), its score in validation.

    `metric` is dice or f1, `scores` holds it for each class, `score` is their mean.
    """

    run: Path
    model: Path
    best_epoch: int
    metric: str
    score: float
    scores: Mapping[str, float | None]
    seconds: float
    figures: list[Path]


def train(
    config: TrainConfig,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> TrainResult:
    """Train a model on a data folder.

    Parameters
    ----------
    config
        What to train and how; `auto` values are computed from the data.
    out
        The run folder; None makes one under runs/.
    resume
        A run folder to go on with; `config` is then that run's, possibly with more epochs, or other values of what
        does not change the result (`MAY_CHANGE`). A run that has all its epochs is left as it is.

    Raises
    ------
    UsageError
        The output folder holds a training, or the run to resume was begun with other settings.
    InputError
        The data cannot be used (all problems are listed), or they are not those that the run was begun with.
    DivergedError
        The loss stopped being finite.
    """
    started = time.perf_counter()
    run = resume or runs.new_run_folder(out, config.data.dir)
    files.prepare_folder(run)
    with files.folder_lock(run):
        files.remove_leftovers(run)

        def note(text: str) -> None:
            files.append_line(run / "log.txt", f"{runs.now()} {text}")
            on_note(text)

        if resume is not None:
            finished = _finished_before(run, config)
            if finished is not None:
                note(f"{run}: has all of its {config.epochs} epochs. To train on, give more by --epochs.")
                return finished
        prepared = prepare(config, on_progress=on_progress, on_note=note)
        config, dataset = prepared.config, prepared.dataset
        changed: Mapping[str, Any] = {}
        if resume is not None:
            changed = _require_same_training(run, prepared, note)
            # From here on it is unfinished again.
            (run / runs.RECORD).unlink(missing_ok=True)
        if resume is None or "epochs" in changed:
            # The epochs after which hard negatives are mined follow from their number: what was found is of others.
            remove_mined(run)
        files.write_csv(run / runs.SPLITS, split_rows(dataset), SPLIT_COLUMNS)
        files.write_text(run / runs.CONFIG, write_yaml(config))
        torch.manual_seed(config.seed)
        task = _build_task(prepared, on_progress, note)
        figures = run / FIGURES

        def on_epoch(row: Row, validation: Validation, is_best: bool) -> None:
            note(
                f"epoch {row['epoch']}/{config.epochs}: training loss {row['train_loss']:.4f}, validation loss "
                f"{row['val_loss']:.4f}, mean {METRIC_NAMES[task.metric]} {validation.score:.4f}"
                f"{' (best so far)' if is_best else ''}"
            )
            if is_best:
                task.draw_validation(validation, figures / "validation.png")
                _draw_first_layer(task.network, figures / "kernels.png")

        trained = 0 if resume is None else len(load_newest(run / runs.CHECKPOINTS)[1]["history"])
        for number, until in enumerate(task.round_ends()):
            if number and trained > until:
                continue
            samples = task.samples_of_round(number, run)
            if number == 0:
                task.draw_first_batch(samples, figures / "first_batch.png")
            result = fit(
                task.network,
                task.spec,
                fit_settings(config, task.metric),
                loss=loss_function("cross_entropy" if config.loss == "cross_entropy" else "dice_cross_entropy"),
                samples=samples,
                validate=task.validate,
                validation_patches=task.validation_patches,
                run=run,
                resume=resume is not None or number > 0,
                until=until,
                on_step=lambda done, total, info: on_progress("train", done, total, info),
                on_epoch=on_epoch,
                on_note=note if number == 0 else quiet_note,
            )
        draw_curves(result.history, figures / "curves.png", title=run.name, metric=task.metric)
        seconds = time.perf_counter() - started
        _write_record(run, prepared, task, result, seconds)
        runs.point_latest_to(run)
    return TrainResult(
        run=run,
        model=run / MODEL_NAME,
        best_epoch=result.best_epoch,
        score=result.score,
        metric=task.metric,
        scores=result.by_class,
        seconds=seconds,
        figures=sorted(figures.glob("*.png")),
    )


def _finished_before(run: Path, config: TrainConfig) -> TrainResult | None:
    """Return the result of a run that has as many epochs as are wanted, None if there is more to do."""
    record = runs.read_record(run)
    if record is None or record.get("complete") is not True or record.get("epochs", 0) < config.epochs:
        return None
    metric = record.get("metric", "dice")  # the first runs had no other
    return TrainResult(
        run=run,
        model=run / MODEL_NAME,
        best_epoch=record["best_epoch"],
        metric=metric,
        score=record["scores"][metric],
        scores={name: record["scores"][f"{metric}/{name}"] for name in record["classes"][1:]},
        seconds=record["seconds"],
        figures=sorted((run / FIGURES).glob("*.png")),
    )


def _require_same_training(run: Path, prepared: AnyPrepared, note: OnNote) -> Mapping[str, Any]:
    """Let a resumed run go on only as it was begun; say and return the settings that have changed and may.

    Raises
    ------
    UsageError
        Other settings have changed, or there are more epochs in the run already than are wanted.
    InputError
        The images or their splits have changed.
    """
    begun = build_config(TrainConfig, file=run / runs.CONFIG)
    changed = differences(begun, prepared.config)
    refused = [f"{key} = {value}" for key, value in changed.items() if key not in MAY_CHANGE]
    if refused:
        raise UsageError(
            f"{run}: a resumed run goes on with the settings that it was begun with. For others start a new run:",
            refused,
        )
    # Whether there is a valid checkpoint is asked here, too: without one the run must stay as it is.
    trained = len(load_newest(run / runs.CHECKPOINTS)[1]["history"])
    if trained > prepared.config.epochs:
        raise UsageError(f"{run}: has {trained} epochs already. Give --epochs {trained} or more.")
    before, now = runs.read_splits(run), {item.name: str(item.split) for item in prepared.dataset.items}
    moved = [
        f"{name}: {before.get(name, 'not there')} before, {now.get(name, 'not there')} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if moved:
        raise InputError(
            f"{prepared.dataset.root}: the images or their splits are not those that {run} was begun with. Bring "
            "them back, or start a new run.",
            shorten(moved),
        )
    for key, value in changed.items():
        note(f"changed since the run was begun: {key} = {value}")
    if "epochs" in changed:
        note("the learning rate falls over all epochs: the run will differ from one that had as many from the start")
    return changed


def _build_task(prepared: AnyPrepared, on_progress: OnProgress, on_note: OnNote) -> Task:
    if isinstance(prepared.train[0], LabelledPoints):
        return PointTask(prepared, on_progress, on_note)
    return MaskTask(prepared, on_progress)


def _draw_first_layer(network: UNet | PatchCNN, path: Path) -> None:
    """Draw what the first layer's units look for; where it is a linear one, its weights lie on the patch."""
    weights = next(network.parameters()).detach().float().cpu()
    if weights.ndim == 2 and isinstance(network, PatchCNN):
        weights = weights.reshape(len(weights), -1, network.patch_px, network.patch_px)
    draw_kernels(weights.numpy(), path)


def _write_record(run: Path, prepared: AnyPrepared, task: Task, result: FitResult, seconds: float) -> None:
    metric = task.metric
    files.write_json(
        run / runs.RECORD,
        {
            "command": "train",
            "data": str(prepared.config.data.dir.resolve()),
            "task": task.spec.task,
            "classes": list(prepared.dataset.classes),
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
            "metric": metric,
            "scores": {metric: result.score, **{f"{metric}/{name}": value for name, value in result.by_class.items()}},
            "model": {"file": MODEL_NAME, "sha256": load_model(run).sha256},
            "seconds": round(seconds, 1),
            "peak_memory_bytes": runs.peak_memory_bytes(),
            "finished": runs.now(),
            "versions": runs.versions(),
            "complete": True,
        },
    )
