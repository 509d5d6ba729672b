"""Losses as pure tensor functions; pixels with the target IGNORE (255) do not count."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.masks import IGNORE

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_function(name: Literal["dice_cross_entropy", "cross_entropy"]) -> Loss:
    """Return the loss of that name: (logits float (B, C, H, W), target uint8 (B, H, W)) -> float32 scalar."""
    return {"dice_cross_entropy": dice_cross_entropy, "cross_entropy": cross_entropy}[name]


def cross_entropy(logits_BCHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Return the mean cross entropy over labelled pixels; 0 where there are none."""
    target = target_BHW.long()
    total = F.cross_entropy(logits_BCHW.float(), target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def dice_loss(logits_BCHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Return 1 - soft Dice, averaged over all classes, background included.

    Dice is 2 sum(p t) / sum(p + t) with sums over the whole batch (Milletari et al. 2016, without squares), plus 1
    above and below, so that a class that is neither there nor predicted costs nothing.
    """
    num_classes = logits_BCHW.shape[1]
    labelled = (target_BHW != IGNORE).unsqueeze(1)
    probability = torch.softmax(logits_BCHW.float(), dim=1) * labelled
    target = target_BHW.long().clamp(max=num_classes - 1)
    one_hot = F.one_hot(target, num_classes).permute(0, 3, 1, 2) * labelled
    both = (probability * one_hot).sum(dim=(0, 2, 3))
    either = probability.sum(dim=(0, 2, 3)) + one_hot.sum(dim=(0, 2, 3))
    return (1 - (2 * both + 1) / (either + 1)).mean()


def dice_cross_entropy(logits_BCHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Return the mean of Dice loss and cross entropy."""
    return (dice_loss(logits_BCHW, target_BHW) + cross_entropy(logits_BCHW, target_BHW)) / 2
