"""Settings of the engines, made from a configuration that holds no `auto`."""

import torch

from segkit.config import ComputeConfig
from segkit.models.inference_form import Precision, resolve_device


def device_of(compute: ComputeConfig) -> torch.device:
    """Return the device."""
    return resolve_device(compute.device)


def precision_of(compute: ComputeConfig) -> Precision:
    """Return the number format of a resolved configuration."""
    return "bfloat16" if compute.precision == "bfloat16" else "float32"
