"""What U-Nets and patch CNNs have in common when their probabilities are averaged."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from segkit.errors import UsageError
from segkit.models.model_file import ModelSpec


def softmax_over_classes(logits_BCHW: Tensor) -> Tensor:
    """Return class probabilities, float32 (B, classes, h, w).

    Not torch.softmax, whose last bit depends on where in memory a pixel lies: a tile would differ from the whole.
    """
    logits = logits_BCHW.float()
    exponentials = torch.exp(logits - logits.amax(dim=1, keepdim=True))
    return exponentials / functools.reduce(torch.add, exponentials.unbind(1)).unsqueeze(1)


def require_alike(specs: Sequence[ModelSpec]) -> None:
    """Check that the probabilities of models can be averaged.

    Raises
    ------
    UsageError
        Their classes, scales or numbers of channels differ; or there is none.
    """
    if not specs:
        raise UsageError("no model was given.")
    first = specs[0]
    for other in specs[1:]:
        for what in ("classes", "mpp"):
            if getattr(other, what) != getattr(first, what):
                raise UsageError(
                    f"models whose probabilities are averaged need the same {what}: {getattr(first, what)} and "
                    f"{getattr(other, what)} were given."
                )
        if other.arguments.in_channels != first.arguments.in_channels:
            raise UsageError(
                "models whose probabilities are averaged need images of the same kind: one is for grey, one for colour."
            )
