"""Whether a network can be trained on one patch at a time."""

import copy

import torch
from torch import nn

from segkit.models.footprint import META


def takes_single_patches(network: nn.Module, in_channels: int, side: int) -> bool:
    """Tell whether a network can be trained on one patch of `side` pixels at a time.

    Batch norm cannot where a single pixel is left: one value has no variance. Found on a copy on PyTorch's `meta`
    device, without computing.
    """
    twin = copy.deepcopy(network).to(META).train()
    try:
        with torch.no_grad():
            twin(torch.empty(1, in_channels, side, side, device=META))
    except ValueError:
        return False
    return True
