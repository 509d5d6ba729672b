"""Settings of the engines, made from a configuration that holds no `auto`."""

import torch

from segkit.config import ComputeConfig, TrainConfig
from segkit.models.inference_form import Precision, resolve_device
from segkit.training.fit import FitSettings


def device_of(compute: ComputeConfig) -> torch.device:
    """Return the device."""
    return resolve_device(compute.device)


def precision_of(compute: ComputeConfig) -> Precision:
    """Return the number format of a resolved configuration."""
    return "bfloat16" if compute.precision == "bfloat16" else "float32"


def fit_settings(config: TrainConfig, metric: str) -> FitSettings:
    """Return what the training loop needs."""
    return FitSettings(
        epochs=config.epochs,
        steps_per_epoch=int(config.steps_per_epoch),
        batch=int(config.patches.batch),
        learning_rate=config.optimiser.learning_rate,
        weight_decay=config.optimiser.weight_decay,
        warmup_steps=int(config.optimiser.warmup_steps),
        schedule=config.optimiser.schedule,
        clip_norm=config.optimiser.clip_norm,
        seed=config.seed,
        workers=int(config.workers),
        device=device_of(config.compute),
        precision=precision_of(config.compute),
        metric=metric,
    )
