"""The form in which a trained network computes fastest, and where: device, number format, memory layout."""

import copy
import itertools
from typing import Literal

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segkit.errors import UsageError
from segkit.models.encoders import attribute_pairs

Precision = Literal["float32", "bfloat16"]


def resolve_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises
    ------
    UsageError
        There is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N.") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UsageError(f"--device {name}: segkit computes on cpu and cuda.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise UsageError(f"--device {name}: this machine has {count} CUDA devices. Use --device auto or cpu.")
    return device


def resolve_precision(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> Precision:
    """Return the number format; `auto` is bfloat16 where the processor computes in it, float32 elsewhere.

    The processor's abilities decide and not a measurement, so that the same machine always chooses the same and a
    resumed run goes on in the format it began with. Measured: bfloat16 is 1.7 to 2.2 times as fast on a CPU with
    AVX512-BF16.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    abilities = torch.cpu.get_capabilities()
    return "bfloat16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "float32"


def inference_form(network: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
    """Return a copy for inference: evaluation mode, batch norm folded into convolutions, channels last."""
    twin = fold_batch_norm(copy.deepcopy(network).to(torch.float32).eval())
    twin.requires_grad_(False)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return twin.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Fold each batch norm that alone sees a convolution's output into that convolution, in place (in float64).

    These are neighbours in a Sequential, and the pairs of torchvision's residual blocks, which hold them as attributes.
    """
    for module in list(network.modules()):
        names = [name for name, _ in module.named_children()] if isinstance(module, nn.Sequential) else []
        for first, second in [*itertools.pairwise(names), *attribute_pairs(module)]:
            convolution, norm = module.get_submodule(first), module.get_submodule(second)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                dtype = convolution.weight.dtype
                setattr(module, first, fuse_conv_bn_eval(convolution.double(), norm.double()).to(dtype))
                setattr(module, second, nn.Identity())
    return network
