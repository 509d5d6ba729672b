"""The training loop, to be read from top to bottom.

Every step is a pure function of the configuration, the data, the weights and the step's number: samples, dropout
and learning rate are derived from (seed, step), so a resumed run continues as if nothing had happened.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkit import files
from segkit.config import TrainConfig
from segkit.errors import DivergedError, InterruptedRunError
from segkit.models.model_file import MODEL_NAME, save_model
from segkit.training import checkpoint
from segkit.training.averaging_weights import Ema
from segkit.training.best_epochs import keep_best
from segkit.training.distributed import Group
from segkit.training.diverged import save_batch
from segkit.training.gradients import Gradients
from segkit.training.optimisation import build_optimiser, decay_weights, rate_at, set_rate
from segkit.training.samples import Batch, Samples, open_batches
from segkit.training.state import CHECKPOINTS, Row, TrainingState, by_class, epochs_since_best
from segkit.training.trainable import Trainable
from segkit.training.validation import Validation

OnEpoch = Callable[[Row, Validation, bool], None]
OnStep = Callable[[int, int, Mapping[str, Any]], None]
Hold = Callable[[], AbstractContextManager[Callable[[], int]]]
Augment = Callable[[Batch, int, Sequence[int]], Batch]
SECONDS_BETWEEN_CHECKPOINTS = 600
SMALLEST_SCALE = 1e-3
"""Of float16's gradient scaler: below it is not the range of float16 that makes gradients infinite."""


@contextmanager
def hold_nothing() -> Iterator[Callable[[], int]]:
    """Yield a function that says that there was no signal."""
    yield lambda: 0


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How a training ended: the best epoch (counted from 1) with its score, in all and by class.

    `stopped_early` says that there was no better epoch for as many as `patience`.
    """

    best_epoch: int
    score: float
    by_class: Mapping[str, float | None]
    history: Sequence[Row]
    stopped_early: bool = False


def fit(  # noqa: PLR0912, PLR0915 (one straight loop is easier to follow than one in pieces)
    task: Trainable,
    config: TrainConfig,
    samples: Samples,
    *,
    run: Path,
    device: torch.device,
    group: Group,
    augment: Augment | None = None,
    resume: bool = False,
    until: int | None = None,
    hold: Hold = hold_nothing,
    on_step: OnStep,
    on_epoch: OnEpoch,
    on_note: Callable[[str], None],
) -> FitResult:
    """Train a task's network and leave checkpoints, metrics.csv and the best model in the folder `run`.

    There is a checkpoint from the start on, so that a run can be resumed whenever it was stopped.

    Parameters
    ----------
    task
        The network, its loss and its validation.
    config
        With no `auto`.
    samples
        Training patches.
    device
        Where the network computes.
    group
        The processes that train together; the first one writes and tells.
    augment
        (batch on the device, step, numbers of its samples) -> batch, where samples are changed on the device.
    resume
        Continue from the newest valid checkpoint of `run`.
    until
        Stop after so many epochs, as if the run had been stopped there: the schedule is that of all epochs.
    hold
        Makes a context in which a signal to stop only sets what the yielded function returns: its number, else 0.
    on_step, on_epoch, on_note
        Called after each step with (step, steps, numbers), after each epoch with (its row of metrics.csv, its
        validation, whether it is the best so far), and with remarks for the user.

    Raises
    ------
    DivergedError
        A loss or gradient is not finite; the step is not taken, the epoch not kept, the batch saved.
    ModelError
        There is no valid checkpoint to resume from, or it is of another network.
    ResourceError
        Memory or disk ran out.
    InterruptedRunError
        A signal asked for it; the state is saved.
    """
    settings, steps_per_epoch, batch_size = config.optimiser, int(config.steps_per_epoch), int(config.patches.batch)
    steps, peak_rate = config.epochs * steps_per_epoch, float(settings.learning_rate)
    last_epoch = config.epochs if until is None else min(until, config.epochs)
    task.trained.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    gradients = Gradients(task, config.compute, device, group)
    optimiser = build_optimiser(
        task.parameter_groups(),
        name=settings.name,
        learning_rate=peak_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        l2=settings.l2,
    )
    state = TrainingState(
        network=task.trained,
        optimiser=optimiser,
        scaler=torch.amp.GradScaler(device.type, enabled=config.compute.precision == "float16"),
        ema=Ema(task.network, config.ema) if config.ema else None,
        metric=task.metric,
    )
    if resume:
        _restore(state, run, group, on_note)
    elif group.is_first:
        state.keep(run)
    # The numbers of this process's samples in each batch.
    numbers = range(group.rank * batch_size // group.count, (group.rank + 1) * batch_size // group.count)
    if device.type == "cuda":
        gradients.fit_memory(len(numbers), on_note)
    first_epoch = len(state.history)
    is_stalled = _is_stalled(state, config.patience)

    with open_batches(
        samples,
        first_step=state.step,
        last_step=last_epoch * steps_per_epoch,
        numbers=numbers,
        workers=int(config.workers),
        pin_memory=device.type == "cuda",
        augmented=augment is None,
    ) as batches:
        for epoch in range(first_epoch, last_epoch):
            if is_stalled:
                break
            if task.begin_epoch(epoch) or epoch == first_epoch:
                gradients.connect()
            saved = time.perf_counter()
            with hold() as received_signal:  # it waits until the step is done
                for step in range(state.step, (epoch + 1) * steps_per_epoch):
                    started = time.perf_counter()
                    batch = next(batches)
                    waited = time.perf_counter() - started
                    batch = Batch(*(one.to(device, non_blocking=True) for one in batch))
                    if augment is not None:
                        batch = augment(batch, step, numbers)

                    rate = peak_rate * rate_at(
                        step,
                        steps=steps,
                        steps_per_epoch=steps_per_epoch,
                        warmup_steps=int(settings.warmup_steps),
                        schedule=settings.schedule,
                        decay_factor=settings.decay_factor,
                        decay_epochs=settings.decay_epochs,
                        scores=state.scores(),
                    )
                    set_rate(optimiser, rate)
                    torch.manual_seed(_seed_of(config.seed, step, group.rank))  # for dropout

                    optimiser.zero_grad(set_to_none=True)
                    loss = gradients.backward(batch, state.scaler)
                    state.scaler.unscale_(optimiser)
                    norm = nn.utils.clip_grad_norm_(task.trained.parameters(), settings.clip_norm or math.inf)
                    loss_value, norm_value = torch.stack([loss, norm.float()]).tolist()
                    _require_finite("loss", loss_value, step, rate, group, batch, run)
                    # With float16 a gradient leaves its range now and then: the scaler passes such a step over.
                    if not state.scaler.is_enabled() or state.scaler.get_scale() < SMALLEST_SCALE:
                        _require_finite("gradient's norm", norm_value, step, rate, group, batch, run)
                    if math.isfinite(norm_value):
                        decay_weights(optimiser, l1=settings.l1)
                    state.scaler.step(optimiser)
                    state.scaler.update()
                    if state.ema is not None:
                        state.ema.update()
                    state.finish_step(loss_value, seconds=time.perf_counter() - started, waited=waited)
                    scores = state.scores()
                    told = {
                        "epoch": epoch + 1,
                        "loss": loss_value,
                        "learning_rate": rate,
                        "samples/s": len(state.losses) * batch_size / state.seconds,
                        task.metric: scores[-1] if scores else None,
                        f"best {task.metric}": max(scores, default=None),
                    }
                    on_step(state.step, steps, told)

                    stop = group.largest(received_signal())
                    if group.is_first and (stop or time.perf_counter() - saved > SECONDS_BETWEEN_CHECKPOINTS):
                        state.keep(run)
                        saved = time.perf_counter()
                    if stop:
                        message = f"{run}: stopped after step {state.step} of {steps}. Go on with --resume {run}"
                        raise group.told_once(InterruptedRunError(message, stop))
            started = time.perf_counter()
            network = task.network if state.ema is None else state.ema.network
            network.eval()
            for one in (task.network, network):
                group.share_buffers(one)
            patches = Batch(*(one.to(device) for one in task.validation_patches))
            # As many at a time as in a training step, which is known to fit the memory.
            at_once = -(-len(numbers) // gradients.micro_batches)
            val_loss = gradients.validation_loss(network, patches, at_once=at_once)
            rate = optimiser.param_groups[0]["lr"] / optimiser.param_groups[0]["rate_factor"]
            _require_finite("validation loss", val_loss, state.step - 1, rate, group)
            if group.is_first and state.saved_step != state.step:
                state.keep(run)  # what follows takes a while, in which anything can happen
            validation = task.validate(network)
            is_best = validation.score > max(state.scores(), default=-1.0)
            state.finish_epoch(
                {
                    "epoch": epoch + 1,
                    "step": state.step,
                    "learning_rate": rate,
                    "train_loss": sum(state.losses) / len(state.losses),
                    "val_loss": val_loss,
                    **{f"val_{name}": value for name, value in by_class(task.metric, validation).items()},
                    "seconds": state.seconds + time.perf_counter() - started,
                    "samples_per_second": steps_per_epoch * batch_size / state.seconds,
                    "data_wait_share": state.waited / state.seconds,
                }
            )
            is_stalled = _is_stalled(state, config.patience)
            if not group.is_first:
                continue
            spec = task.spec.model_copy(
                update={
                    "scores": by_class(task.metric, validation),
                    "training": {**task.spec.training, "best_epoch": epoch + 1, **validation.story},
                    **validation.changes,
                }
            )
            if is_best:
                save_model(run / MODEL_NAME, network, spec)
            if config.average_best > 1:
                keep_best(run, network, spec, state.scores(), count=config.average_best)
            on_epoch(state.history[-1], validation, is_best)
            files.write_csv(run / "metrics.csv", state.history, list(state.history[0]))
            # Last, so that a checkpoint never claims an epoch whose model or metrics are not on disk.
            state.keep(run)

    best = state.best_epoch()
    assert best is not None, "there is at least one epoch"
    return FitResult(
        best_epoch=best,
        score=state.scores()[best - 1],
        by_class={name: state.history[best - 1][f"val_{task.metric}/{name}"] for name in task.spec.classes[1:]},
        history=state.history,
        stopped_early=is_stalled,
    )


def _restore(state: TrainingState, run: Path, group: Group, on_note: Callable[[str], None]) -> None:
    path, content, damaged = group.from_first(lambda: checkpoint.load_newest(run / CHECKPOINTS))
    for note in damaged:
        on_note(f"passed over: {note}")
    state.restore(path, content)
    on_note(f"resumed from {path} after epoch {len(state.history)}, step {state.step}")


def _is_stalled(state: TrainingState, patience: int) -> bool:
    return bool(patience) and epochs_since_best(state.scores()) >= patience


def _seed_of(seed: int, step: int, rank: int) -> int:
    """Return the seed of a process's random numbers in a step; far from each other for different processes."""
    return (seed * 2**32 + step + rank * 0x9E3779B97F4A7C15) % 2**64


def _require_finite(
    what: str, value: float, step: int, rate: float, group: Group, batch: Batch | None = None, run: Path | None = None
) -> None:
    if math.isfinite(value):
        return
    saved = ""
    if batch is not None and run is not None and group.is_first:
        saved = f" The batch is in {save_batch(run, step, batch)}."
    raise group.told_once(
        DivergedError(
            f"training diverged at step {step + 1}: the {what} is {value} (learning rate {rate:.2g}). Weights of "
            f"before are in the checkpoints.{saved} Try a smaller optimiser.learning_rate, more warm-up "
            "(optimiser.warmup_steps), or compute.precision=float32."
        )
    )
