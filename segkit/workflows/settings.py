"""Settings of the engines, made from a configuration that holds no `auto`."""

import os

import torch

from segkit.config import AUTO, ComputeConfig
from segkit.models.inference_form import Precision, resolve_device
from segkit.training.distributed import processes_here
from segkit.workflows.planning import device_of_worker


def device_of(compute: ComputeConfig) -> torch.device:
    """Return the device."""
    return resolve_device(compute.device)


def device_of_process(compute: ComputeConfig) -> torch.device:
    """Return the device of one of the processes that train together.

    Of several on a machine each has a GPU of its own, whichever is named: the configuration that a run was resumed
    with names that of the first process.
    """
    device = resolve_device(compute.device)
    if device.type == "cuda" and processes_here(os.environ) > 1:
        return device_of_worker(compute.model_copy(update={"device": AUTO}))
    return device_of_worker(compute)


def precision_of(compute: ComputeConfig) -> Precision:
    """Return the number format of a resolved configuration."""
    return "bfloat16" if compute.precision == "bfloat16" else "float32"
