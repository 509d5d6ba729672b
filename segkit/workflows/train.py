"""From a folder of labelled images to a run folder with a model."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segkit import files
from segkit.config import TrainConfig, build_config, write_yaml
from segkit.data.augment import Augmenter
from segkit.data.layout import Dataset, shorten
from segkit.data.sampling import PatchSource, cut_mirrored, sample_rng
from segkit.data.splits import SPLIT_COLUMNS, split_rows
from segkit.errors import InputError, UsageError
from segkit.geometry import Box
from segkit.models.inference_form import resolve_device
from segkit.models.model_file import MODEL_NAME, ModelSpec, UNetArguments, build_network, load_model
from segkit.models.receptive_field import tile_grid, verified_reach
from segkit.report.curves import draw_curves
from segkit.report.figures import Case, draw_kernels, draw_patches, draw_validation
from segkit.training.checkpoint import load_newest
from segkit.training.fit import FitResult, FitSettings, Row, fit
from segkit.training.losses import loss_function
from segkit.training.samples import Batch, Samples
from segkit.training.validation import Validation
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.prepare import Prepared, channel_statistics, differences, input_px, prepare

VALIDATION_PATCHES = 16
PREVIEW_SAMPLES = 4
FIGURES = "figures"
MAY_CHANGE = frozenset({"epochs", "workers", "data.dir", "compute.device"})
"""Settings of a resumed run that may be others than those it was begun with."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training left: the run folder, the model (best epoch, counted from 1), its validation Dice."""

    run: Path
    model: Path
    best_epoch: int
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
        if resume is not None:
            _require_same_training(run, prepared, note)
            # From here on it is unfinished again.
            (run / runs.RECORD).unlink(missing_ok=True)
        files.write_csv(run / runs.SPLITS, split_rows(dataset), SPLIT_COLUMNS)
        files.write_text(run / runs.CONFIG, write_yaml(config))
        torch.manual_seed(config.seed)
        arguments = _unet_arguments(config, prepared)
        network = build_network(arguments, device="cpu")
        spec = _model_spec(config, prepared, arguments, verified_reach(network, arguments.in_channels).field)
        samples = Samples(
            PatchSource(
                [one.image for one in prepared.train],
                [one.mask for one in prepared.train],
                patch_px=input_px(config, tile_grid(network)),
                balanced=config.patches.balanced,
                num_classes=len(dataset.classes),
            ),
            Augmenter(config.augment, input_px(config, tile_grid(network))),
            config.seed,
        )
        figures = run / FIGURES
        _draw_first_batch(samples, config.patches.batch, dataset, figures / "first_batch.png")
        draw_kernels_of = _kernels_drawer(figures / "kernels.png")

        def on_epoch(row: Row, validation: Validation, is_best: bool) -> None:
            note(
                f"epoch {row['epoch']}/{config.epochs}: training loss {row['train_loss']:.4f}, validation loss "
                f"{row['val_loss']:.4f}, mean Dice {validation.score:.4f}{' (best so far)' if is_best else ''}"
            )
            if not is_best:
                return
            cases = [
                Case(one.name, one.image, one.mask, mask, score)
                for one, mask, score in zip(prepared.val, validation.masks, validation.per_image, strict=True)
            ]
            draw_validation(cases, dataset.classes, figures / "validation.png")
            draw_kernels_of(network)

        result = fit(
            network,
            spec,
            _fit_settings(config),
            loss=loss_function(config.loss),
            samples=samples,
            validation_images=prepared.val,
            validation_patches=_validation_patches(prepared, input_px(config, tile_grid(network))),
            run=run,
            resume=resume is not None,
            on_step=lambda done, total, info: on_progress("train", done, total, info),
            on_validated=lambda done, total: on_progress("validate", done, total, {}),
            on_epoch=on_epoch,
            on_note=note,
        )
        draw_curves(result.history, figures / "curves.png", title=run.name)
        seconds = time.perf_counter() - started
        _write_record(run, prepared, result, seconds)
        runs.point_latest_to(run)
    return TrainResult(
        run=run,
        model=run / MODEL_NAME,
        best_epoch=result.best_epoch,
        score=result.score,
        scores=result.dice,
        seconds=seconds,
        figures=sorted(figures.glob("*.png")),
    )


def _finished_before(run: Path, config: TrainConfig) -> TrainResult | None:
    """Return the result of a run that has as many epochs as are wanted, None if there is more to do."""
    record = runs.read_record(run)
    if record is None or record.get("complete") is not True or record.get("epochs", 0) < config.epochs:
        return None
    return TrainResult(
        run=run,
        model=run / MODEL_NAME,
        best_epoch=record["best_epoch"],
        score=record["scores"]["dice"],
        scores={name: record["scores"][f"dice/{name}"] for name in record["classes"][1:]},
        seconds=record["seconds"],
        figures=sorted((run / FIGURES).glob("*.png")),
    )


def _require_same_training(run: Path, prepared: Prepared, note: OnNote) -> None:
    """Let a resumed run go on only as it was begun; say what has changed and may.

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


def _unet_arguments(config: TrainConfig, prepared: Prepared) -> UNetArguments:
    return UNetArguments.model_validate(
        {
            "in_channels": prepared.train[0].image.shape[2],
            "num_classes": len(prepared.dataset.classes),
            "base_channels": config.model.base_channels,
            "depth": config.model.depth,
            "form": config.model.form,
            "dropout": config.model.dropout,
        }
    )


def _model_spec(config: TrainConfig, prepared: Prepared, arguments: UNetArguments, field: int) -> ModelSpec:
    mean, std = channel_statistics([one.image for one in prepared.train])
    return ModelSpec(
        arguments=arguments,
        classes=list(prepared.dataset.classes),
        mpp=prepared.dataset.mpp,
        mean=mean,
        std=std,
        receptive_field=field,
        scores={},
        training={
            "data": config.data.dir.resolve().name,
            "annotation": prepared.dataset.annotation,
            "ignore": prepared.dataset.ignore,
            "num_train": len(prepared.train),
            "num_val": len(prepared.val),
            "epochs": config.epochs,
            "seed": config.seed,
            "started": runs.now(),
            "versions": runs.versions(),
        },
    )


def _fit_settings(config: TrainConfig) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        steps_per_epoch=int(config.steps_per_epoch),
        batch=config.patches.batch,
        learning_rate=config.optimiser.learning_rate,
        weight_decay=config.optimiser.weight_decay,
        warmup_steps=int(config.optimiser.warmup_steps),
        schedule=config.optimiser.schedule,
        clip_norm=config.optimiser.clip_norm,
        seed=config.seed,
        workers=int(config.workers),
        device=resolve_device(config.compute.device),
        precision="bfloat16" if config.compute.precision == "bfloat16" else "float32",
    )


def _validation_patches(prepared: Prepared, side: int) -> Batch:
    """Cut a fixed set of patches, spread over the validation images, for the validation loss."""
    images, masks = [], []
    for number in range(VALIDATION_PATCHES):
        one = prepared.val[number % len(prepared.val)]
        rng = sample_rng(0, 0, number)
        y, x = (int(rng.integers(max(1, size - side + 1))) for size in one.mask.shape)
        box = Box(y, x, side, side)
        images.append(cut_mirrored(one.image, box).transpose(2, 0, 1))
        masks.append(cut_mirrored(one.mask, box))
    return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks)))


def _draw_first_batch(samples: Samples, batch: int, dataset: Dataset, path: Path) -> None:
    drawn = [samples.draw(0, number) for number in range(min(batch, 8))]
    draw_patches(
        [image for image, _ in drawn], [mask for _, mask in drawn], dataset.classes, path, columns=PREVIEW_SAMPLES,
        title="First training batch",
    )  # fmt: skip


def _kernels_drawer(path: Path) -> Callable[[torch.nn.Module], None]:
    def draw(network: torch.nn.Module) -> None:
        draw_kernels(next(network.parameters()).detach().float().cpu().numpy(), path)

    return draw


def _write_record(run: Path, prepared: Prepared, result: FitResult, seconds: float) -> None:
    files.write_json(
        run / runs.RECORD,
        {
            "command": "train",
            "data": str(prepared.config.data.dir.resolve()),
            "task": "semantic",
            "classes": list(prepared.dataset.classes),
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
            "scores": {"dice": result.score, **{f"dice/{name}": value for name, value in result.dice.items()}},
            "model": {"file": MODEL_NAME, "sha256": load_model(run).sha256},
            "seconds": round(seconds, 1),
            "peak_memory_bytes": runs.peak_memory_bytes(),
            "finished": runs.now(),
            "versions": runs.versions(),
            "complete": True,
        },
    )
