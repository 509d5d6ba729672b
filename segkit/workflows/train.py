"""From a folder of labelled images to a run folder with a model."""

import contextlib
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from segkit import files
from segkit.config import AUTO, TrainConfig, build_config, write_yaml
from segkit.data.layout import shorten
from segkit.data.splits import SPLIT_COLUMNS, split_rows
from segkit.errors import DivergedError, InputError, UsageError
from segkit.models.model_file import MODEL_NAME, load_model, save_model
from segkit.report.judgement import METRIC_NAMES, judge_curves
from segkit.training.best_epochs import average_of_best, restore_best
from segkit.training.checkpoint import load_newest
from segkit.training.distributed import Group, open_group, processes_here
from segkit.training.fit import FitResult, Hold, fit, hold_nothing
from segkit.training.loading import usable_cores, waiting_advice
from segkit.training.state import Row, score_of
from segkit.training.tensorboard import TensorBoardLog
from segkit.training.validation import Validation
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.mined_table import remove_mined
from segkit.workflows.prepare import AnyPrepared, prepare
from segkit.workflows.resolve import differences
from segkit.workflows.run_figures import FIGURES, RunFigures
from segkit.workflows.settings import device_of_process
from segkit.workflows.task import Task
from segkit.workflows.tasks import build_task

CACHE = "cache"
BOARD = "tensorboard"
ENDING_SCHEDULES = frozenset({"polynomial", "cosine", "one_cycle"})
"""Schedules of the learning rate that reach their end with the last epoch."""
MAY_CHANGE = frozenset({"epochs", "patience", "workers", "data.dir", "data.cache", "compute.device", "tensorboard"})
"""Settings of a resumed run that may be others than those it was begun with."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training left: the run folder, the model (best epoch, counted from 1), its score in validation.

    `metric` is dice, v_rand, ap or f1, `scores` holds it for each class, `score` is their mean. `seconds` is the time
    of all epochs and their validations, in however many goes they were trained.
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
    cache: Path | None = None,
    group: Group | None = None,
    hold: Hold = hold_nothing,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> TrainResult:
    """Train a model on a data folder; one of several processes where torchrun or srun has started them.

    Parameters
    ----------
    config
        What to train and how; `auto` values are computed from the data.
    out
        The run folder; None makes one under runs/.
    resume
        A run folder to go on with; `config` is then that run's, possibly with more epochs, or other values of what
        does not change the result (`MAY_CHANGE`). A run that has all its epochs is left as it is.
    cache
        Where decoded images go that would fill the memory (`data.cache = auto`); None: into the run folder.
    group
        The processes that train together, connected already; None: they are connected here.
    hold
        See `segkit.training.fit.fit`.

    Raises
    ------
    UsageError
        The output folder holds a training, or the run to resume was begun with other settings.
    InputError
        The data cannot be used (all problems are listed), or they are not those that the run was begun with.
    DivergedError
        The loss stopped being finite.
    """
    device = device_of_process(config.compute)
    with open_group(device) if group is None else contextlib.nullcontext(group) as processes:
        if not processes.is_first:
            on_progress, on_note = quiet_progress, quiet_note
        # Whether a run has begun may not be seen everywhere at once: the first process decides.
        run, resumes = processes.from_first(lambda: (_folder_for(out, resume, config), resume is not None))
        with files.folder_lock(run) if processes.is_first else contextlib.nullcontext():
            return _train(config, run, device, processes, resumes, cache, hold, on_progress, on_note)


def _folder_for(out: Path | None, resume: Path | None, config: TrainConfig) -> Path:
    return files.prepare_folder(resume or runs.new_run_folder(out, config.data.dir))


def _train(
    config: TrainConfig,
    run: Path,
    device: torch.device,
    group: Group,
    resume: bool,
    cache: Path | None,
    hold: Hold,
    on_progress: OnProgress,
    on_note: OnNote,
) -> TrainResult:
    if group.is_first:
        files.remove_leftovers(run)

    def note(text: str) -> None:
        if group.is_first:
            files.append_line(run / "log.txt", f"{runs.now()} {text}")
            on_note(text)

    finished = group.from_first(lambda: _finished_before(run, config, note) if resume else None)
    if finished is not None:
        return finished
    prepared = group.together(
        functools.partial(
            prepare, config, cache=cache or run / CACHE, is_resumed=resume, on_progress=on_progress, on_note=note
        )
    )
    config = prepared.config
    changed: Mapping[str, Any] = {}
    if resume:
        changed = group.from_first(lambda: _require_same_training(run, prepared, note))
    if group.is_first:
        _write_beginning(run, prepared, is_other_training=not resume or "epochs" in changed)
    torch.manual_seed(config.seed)
    task = group.together(lambda: build_task(prepared, group=group, on_progress=on_progress, on_note=note))
    figures = RunFigures(run, task)
    history: list[Row] = group.from_first(lambda: load_newest(run / runs.CHECKPOINTS)[1]["history"] if resume else [])
    trained = len(history)

    def on_epoch(row: Row, validation: Validation, is_best: bool) -> None:
        note(
            f"epoch {row['epoch']}/{config.epochs}: training loss {row['train_loss']:.4f}, validation loss "
            f"{row['val_loss']:.4f}, validation {METRIC_NAMES[task.metric]} {validation.score:.4f}"
            f"{' (best so far)' if is_best else ''}; learning rate {row['learning_rate']:.2g}, "
            f"{row['samples_per_second']:.3g} samples/s, {row['data_wait_share']:.1%} of the time waiting for data"
        )
        history.append(row)
        figures.draw_epoch(history, validation, is_best)
        if board is not None:
            board.row(row)

    with _opened_board(config, run, trained, group) as board:
        try:
            for number, until in enumerate(task.round_ends()):
                if number and trained > until:
                    continue
                samples = task.samples_of_round(number, run)
                if number == 0 and group.is_first:
                    figures.draw_begin(samples)
                result = fit(
                    task,
                    config,
                    samples,
                    run=run,
                    device=device,
                    group=group,
                    augment=task.augment_on_device(),
                    resume=resume or number > 0,
                    until=until,
                    hold=hold,
                    on_step=lambda done, total, info: on_progress("train", done, total, info),
                    on_epoch=on_epoch,
                    on_note=note if number == 0 else quiet_note,
                )
                if result.stopped_early:
                    break
        except DivergedError:
            if group.is_first:
                figures.draw_diverged()
            raise
    result = _averaged(result, task, config, run, group, note)
    _advise(result, config, task.metric, note)
    # Those of the sessions before are in the checkpoints.
    seconds = sum(row["seconds"] or 0.0 for row in result.history)

    def finish() -> None:
        figures.draw_end(result)
        _write_record(run, prepared, task, result, seconds)
        runs.point_latest_to(run)

    group.from_first(finish)  # the others wait: what they return is there then
    return TrainResult(
        run=run,
        model=run / MODEL_NAME,
        best_epoch=result.best_epoch,
        score=result.score,
        metric=task.metric,
        scores=result.by_class,
        seconds=seconds,
        figures=sorted((run / FIGURES).glob("*.png")),
    )


def _opened_board(
    config: TrainConfig, run: Path, trained: int, group: Group
) -> contextlib.AbstractContextManager[TensorBoardLog | None]:
    if not (config.tensorboard and group.is_first):
        return contextlib.nullcontext()
    return TensorBoardLog(run / BOARD, first_epoch=trained + 1)


def _write_beginning(run: Path, prepared: AnyPrepared, *, is_other_training: bool) -> None:
    """Write down what is learned from and how; from here on the run is unfinished (again)."""
    (run / runs.RECORD).unlink(missing_ok=True)
    if is_other_training:
        # The epochs after which hard negatives are mined follow from their number: what was found is of others.
        remove_mined(run)
    files.write_csv(run / runs.SPLITS, split_rows(prepared.dataset), SPLIT_COLUMNS)
    files.write_text(run / runs.CONFIG, write_yaml(prepared.config))


def _averaged(result: FitResult, task: Task, config: TrainConfig, run: Path, group: Group, note: OnNote) -> FitResult:
    """Make the average of the best epochs the run's model if it is better, and say so in the result."""
    if config.average_best < 2:
        return result
    group.from_first(lambda: None)  # which has written the last epoch by now
    scores = [score_of(row, task.metric) for row in result.history]
    found = average_of_best(task, run, scores, count=config.average_best, on_note=note)
    if found is None:
        if group.is_first:
            restore_best(run, scores)
        return result
    network, spec, validation, _ = found
    if group.is_first:
        save_model(run / MODEL_NAME, network, spec)
    return replace(result, score=validation.score, by_class=validation.by_class)


def _advise(result: FitResult, config: TrainConfig, metric: str, note: OnNote) -> None:
    """Say what the numbers of the training suggest."""
    if result.stopped_early:
        note(
            f"stopped early: no better epoch than {result.best_epoch} for {config.patience} epochs (patience). The "
            "model is that of the best epoch."
        )
    for sentence in judge_curves(result.history, metric=metric):
        note(sentence)
    shares = [row["data_wait_share"] or 0.0 for row in result.history]
    advice = waiting_advice(
        sum(shares) / len(shares),
        workers=int(config.workers),
        cores=usable_cores() // processes_here(os.environ),
        device=torch.device(config.compute.device).type,
        on_device=config.augment.backend == "device",
    )
    if advice is not None:
        note(advice)


def _finished_before(run: Path, config: TrainConfig, note: OnNote) -> TrainResult | None:
    """Return the result of a run that has as many epochs as are wanted, None if there is more to do.

    Raises
    ------
    UsageError
        The run was begun with other settings.
    """
    record = runs.read_record(run)
    if record is None or record.get("complete") is not True:
        return None
    epochs = record.get("epochs", 0)
    stopped_for_good = record.get("stopped_early", False) and 0 < config.patience <= record.get("patience", 0)
    if epochs < config.epochs and not stopped_for_good:
        return None
    begun = build_config(TrainConfig, file=run / runs.CONFIG)
    # What is left open is as the run has it.
    given = {key: value for key, value in differences(begun, config).items() if value not in (AUTO, None)}
    _refuse_others(run, given)
    if config.data.dir.resolve() != begun.data.dir.resolve():
        note(
            f"{run}: was trained on {begun.data.dir}. Whether {config.data.dir} has the same images was not looked at."
        )
    note(f"{run}: is finished, with {epochs} epochs. To train on, give more --epochs than that, or more patience.")
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
    _refuse_others(run, changed)
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
    if "epochs" in changed and prepared.config.optimiser.schedule in ENDING_SCHEDULES:
        note("the learning rate falls over all epochs: the run will differ from one that had as many from the start")
    return changed


def _refuse_others(run: Path, changed: Mapping[str, Any]) -> None:
    refused = [f"{key} = {value}" for key, value in changed.items() if key not in MAY_CHANGE]
    if refused:
        raise UsageError(
            f"{run}: a resumed run goes on with the settings that it was begun with. For others start a new run:",
            refused,
        )


def _write_record(run: Path, prepared: AnyPrepared, task: Task, result: FitResult, seconds: float) -> None:
    metric = task.metric
    files.write_json(
        run / runs.RECORD,
        {
            "command": "train",
            "data": str(prepared.config.data.dir.resolve()),
            "task": task.spec.task,
            "architecture": task.spec.architecture,
            "classes": list(prepared.dataset.classes),
            "epochs": len(result.history),
            "stopped_early": result.stopped_early,
            "patience": prepared.config.patience,
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
