"""Training for a few steps at a growing learning rate; see `segkit.training.lr_finder`."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from segkit.config import TrainConfig
from segkit.training.distributed import Group
from segkit.training.gradients import Gradients
from segkit.training.optimisation import build_optimiser, decay_weights, set_rate
from segkit.training.samples import Batch, Samples, open_batches
from segkit.training.trainable import Trainable

HOPELESS = 10.0
"""Times the lowest loss: the sweep need not go on."""


def sweep_rates(
    task: Trainable,
    config: TrainConfig,
    samples: Samples,
    rates: Sequence[float],
    *,
    device: torch.device,
    on_step: Callable[[int, int, float], None],
) -> list[float]:
    """Return the training loss at each learning rate, before the step is taken; fewer than rates if it diverges.

    The task's network is changed. `on_step` is called after each step with (steps done, steps, loss).
    """
    settings = config.optimiser
    task.trained.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    task.begin_epoch(0)
    gradients = Gradients(task, config.compute, device, Group())
    gradients.connect()
    optimiser = build_optimiser(
        task.parameter_groups(),
        name=settings.name,
        learning_rate=rates[0],
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        l2=settings.l2,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.compute.precision == "float16")
    losses: list[float] = []
    with open_batches(
        samples,
        first_step=0,
        last_step=len(rates),
        numbers=range(int(config.patches.batch)),
        workers=int(config.workers),
        pin_memory=device.type == "cuda",
    ) as batches:
        for step, rate in enumerate(rates):
            batch = Batch(*(one.to(device, non_blocking=True) for one in next(batches)))
            set_rate(optimiser, rate)
            optimiser.zero_grad(set_to_none=True)
            loss = gradients.backward(batch, scaler).item()
            losses.append(loss)
            on_step(step + 1, len(rates), loss)
            if not math.isfinite(loss) or loss > HOPELESS * min(losses):
                break
            scaler.unscale_(optimiser)
            norm = nn.utils.clip_grad_norm_(task.trained.parameters(), settings.clip_norm or math.inf)
            if math.isfinite(norm):
                decay_weights(optimiser, l1=settings.l1)
            scaler.step(optimiser)
            scaler.update()
    return losses
