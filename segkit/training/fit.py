"""The training loop, to be read from top to bottom.

Every step is a pure function of the configuration, the data, the weights and the step's number: samples, dropout
and learning rate are derived from (seed, step), so a resumed run continues as if nothing had happened.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit import files
from segkit.errors import DivergedError, ModelError
from segkit.models.inference_form import Precision
from segkit.models.model_file import MODEL_NAME, ModelSpec, save_model
from segkit.training import checkpoint
from segkit.training.losses import Loss
from segkit.training.optimisation import Schedule, build_optimiser, rate_at
from segkit.training.samples import Batch, Samples, open_batches
from segkit.training.validation import Validation

Row = Mapping[str, float | None]
OnEpoch = Callable[[Row, Validation, bool], None]
OnStep = Callable[[int, int, Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Numbers that the loop needs; meanings as in `TrainConfig`."""

    epochs: int
    steps_per_epoch: int
    batch: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    schedule: Schedule
    clip_norm: float
    seed: int
    workers: int
    device: torch.device
    precision: Precision
    metric: str


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How a training ended: the best epoch (counted from 1) with its score, in all and by class."""

    best_epoch: int
    score: float
    by_class: Mapping[str, float | None]
    history: Sequence[Row]


def fit(
    network: nn.Module,
    spec: ModelSpec,
    settings: FitSettings,
    *,
    loss: Loss,
    samples: Samples,
    validate: Callable[[], Validation],
    validation_patches: Batch,
    run: Path,
    resume: bool,
    until: int | None = None,
    on_step: OnStep,
    on_epoch: OnEpoch,
    on_note: Callable[[str], None],
) -> FitResult:
    """Train `network` and leave checkpoints, metrics.csv and the best model in the folder `run`.

    There is a checkpoint from the start on, so that a run can be resumed whenever it was stopped.

    Parameters
    ----------
    network, spec
        The network and its description, whose normalisation is applied to the uint8 samples.
    loss
        (logits, target) -> scalar.
    samples
        Augmented training patches.
    validate
        Measures the network (which is in evaluation mode) on whole images; the best epoch is chosen by its score.
    validation_patches
        A fixed set of patches for the validation loss.
    resume
        Continue from the newest valid checkpoint of `run`.
    until
        Stop after so many epochs, as if the run had been stopped there: the schedule is that of all epochs.
    on_step, on_epoch, on_note
        Called after each step with (step, steps, numbers), after each epoch with (its row of metrics.csv, its
        validation, whether it is the best so far), and with remarks for the user.

    Raises
    ------
    DivergedError
        A loss or gradient is not finite; the step is not taken, the epoch not kept.
    ModelError
        There is no valid checkpoint to resume from.
    ResourceError
        Memory or disk ran out.
    """
    network = network.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = build_optimiser(network, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
    normalise = Normalise(spec).to(settings.device)
    steps = settings.epochs * settings.steps_per_epoch
    last_epoch = settings.epochs if until is None else min(until, settings.epochs)
    history: list[Row] = []
    if resume:
        history = _restore(run, network, optimiser, on_note)
    else:
        _save(run, network, optimiser, history)
    first_epoch = len(history)

    with open_batches(
        samples,
        first_step=first_epoch * settings.steps_per_epoch,
        last_step=last_epoch * settings.steps_per_epoch,
        batch=settings.batch,
        workers=settings.workers,
        pin_memory=settings.device.type == "cuda",
    ) as batches:
        for epoch in range(first_epoch, last_epoch):
            started = time.perf_counter()
            waited = 0.0
            losses: list[float] = []
            network.train()
            for step in range(epoch * settings.steps_per_epoch, (epoch + 1) * settings.steps_per_epoch):
                wait_started = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - wait_started

                rate = settings.learning_rate * rate_at(
                    step, steps=steps, warmup_steps=settings.warmup_steps, schedule=settings.schedule
                )
                for group in optimiser.param_groups:
                    group["lr"] = rate
                torch.manual_seed(settings.seed * 2**32 + step)  # for dropout

                value = _loss_of(network, batch, loss, normalise, settings)
                losses.append(value.item())
                _require_finite("loss", losses[-1], step, rate)
                optimiser.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm or math.inf).item()
                _require_finite("gradient's norm", norm, step, rate)
                optimiser.step()
                on_step(step + 1, steps, {"epoch": epoch + 1, "loss": losses[-1], "learning_rate": rate})

            trained = time.perf_counter() - started
            network.eval()
            with torch.inference_mode():
                val_loss = _loss_of(network, validation_patches, loss, normalise, settings).item()
            _require_finite("validation loss", val_loss, step, rate)
            validation = validate()
            best_before = max((_score_of(row, settings.metric) for row in history), default=-1.0)
            history.append(
                {
                    "epoch": epoch + 1,
                    "step": (epoch + 1) * settings.steps_per_epoch,
                    "learning_rate": rate,
                    "train_loss": sum(losses) / len(losses),
                    "val_loss": val_loss,
                    **_by_class(f"val_{settings.metric}", validation),
                    "seconds": time.perf_counter() - started,
                    "data_wait_share": waited / trained,
                }
            )
            is_best = validation.score > best_before
            if is_best:
                scored = {
                    "scores": _by_class(settings.metric, validation),
                    "training": {**spec.training, "best_epoch": epoch + 1},
                    **validation.changes,
                }
                save_model(run / MODEL_NAME, network, spec.model_copy(update=scored))
            on_epoch(history[-1], validation, is_best)
            files.write_csv(run / "metrics.csv", history, list(history[0]))
            # Last, so that a checkpoint never claims an epoch whose model or metrics are not on disk.
            _save(run, network, optimiser, history)

    best = max(range(len(history)), key=lambda epoch: _score_of(history[epoch], settings.metric))
    return FitResult(
        best_epoch=best + 1,
        score=_score_of(history[best], settings.metric),
        by_class={name: history[best][f"val_{settings.metric}/{name}"] for name in spec.classes[1:]},
        history=history,
    )


def _by_class(metric: str, validation: Validation) -> dict[str, float | None]:
    return {metric: validation.score, **{f"{metric}/{name}": value for name, value in validation.by_class.items()}}


def _score_of(row: Row, metric: str) -> float:
    score = row[f"val_{metric}"]
    return -1.0 if score is None else score


class Normalise(nn.Module):
    """uint8 pixels to (value / 255 - mean) / std of each channel, float32, channels last."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised images of the same shape."""
        normalised: Tensor = (images / 255 - self.mean) / self.std  # type: ignore[operator]
        return normalised.contiguous(memory_format=torch.channels_last)


def _loss_of(network: nn.Module, batch: Batch, loss: Loss, normalise: Normalise, settings: FitSettings) -> Tensor:
    images = normalise(batch.images.to(settings.device, non_blocking=True))
    masks = batch.masks.to(settings.device, non_blocking=True)
    with torch.autocast(settings.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        logits = network(images)
    # Valid convolutions give fewer pixels than they take: the target is the middle of the mask.
    margin = (masks.shape[-1] - logits.shape[-1]) // 2
    middle = slice(margin, margin + logits.shape[-1])
    return loss(logits, masks[:, middle, middle])


def _save(run: Path, network: nn.Module, optimiser: torch.optim.Optimizer, history: Sequence[Row]) -> None:
    checkpoint.save_checkpoint(
        run / "checkpoints",
        len(history),
        {
            "format": "segkit-checkpoint-1",
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "history": list(history),
        },
    )


def _restore(
    run: Path, network: nn.Module, optimiser: torch.optim.Optimizer, on_note: Callable[[str], None]
) -> list[Row]:
    path, state, damaged = checkpoint.load_newest(run / "checkpoints")
    for note in damaged:
        on_note(f"passed over: {note}")
    try:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: does not fit this configuration's network. Resume with the run's own configuration.",
            str(error).splitlines()[1:4],
        ) from error
    history: list[Row] = state["history"]
    on_note(f"resumed from {path} after epoch {len(history)}")
    return history


def _require_finite(what: str, value: float, step: int, rate: float) -> None:
    if not math.isfinite(value):
        raise DivergedError(
            f"training diverged at step {step + 1}: the {what} is {value} (learning rate {rate:.2g}). The weights of "
            "the epoch before are in the checkpoints. Try a smaller optimiser.learning_rate, more warm-up, or "
            "compute.precision=float32."
        )
