"""Losses for class maps as pure tensor functions.

All take logits, float (B, C, H, W), the target, uint8 (B, H, W) class indices of which IGNORE (255) does not count,
and optionally a weight for each pixel, float (B, H, W) >= 0; they return a float32 scalar. They compute in float32,
whatever the network computes in, are finite for finite logits, and 0 where nothing is labelled.

A pixel of weight 0 is as good as not labelled. Pixel weights multiply each pixel's term in cross entropy, focal and
quadratic loss, which are weighted means: a common factor of all weights changes nothing. In Dice and Tversky they
multiply each pixel's share in the sums.

Everything summed over the batch is handed to `total` once more, which adds the sums of other processes: each then
holds the loss of the whole batch.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.errors import ConfigError
from segkit.masks import IGNORE

LossName = Literal["cross_entropy", "dice", "dice_cross_entropy", "focal", "tversky", "quadratic"]
Total = Callable[[Tensor], Tensor]


class Loss(Protocol):
    """A loss for class maps."""

    def __call__(self, logits_BCHW: Tensor, target_BHW: Tensor, weight_BHW: Tensor | None = None, /) -> Tensor:
        """Return the loss of a batch."""


def only_here(tensor: Tensor) -> Tensor:
    """Return the sum over one process, which is the tensor itself."""
    return tensor


def class_loss(
    name: LossName,
    *,
    class_weights: Sequence[float] | None = None,
    focal_gamma: float = 2.0,
    tversky_alpha: float = 0.3,
    tversky_beta: float = 0.7,
    total: Total = only_here,
) -> Loss:
    """Return the loss of that name.

    Parameters
    ----------
    name
        See the functions of this module.
    class_weights
        One for each class, or None for equal ones. Cross entropy, focal and quadratic loss: each pixel counts as much
        as its true class. Dice and Tversky: the mean over classes is weighted; they treat rare classes like
        frequent ones already, so weights that only balance frequencies are not for them.
    focal_gamma, tversky_alpha, tversky_beta
        Of `focal_loss` and `tversky_loss`.
    total
        Sum over processes, through which gradients flow; the identity where there is only one.

    Raises
    ------
    ConfigError
        There is no such loss. When called: the number of class weights is not that of the classes.
    """

    def loss(logits_BCHW: Tensor, target_BHW: Tensor, weight_BHW: Tensor | None = None) -> Tensor:
        given = (logits_BCHW, target_BHW, weight_BHW)
        match name:
            case "cross_entropy":
                return cross_entropy(*given, class_weights=class_weights, total=total)
            case "dice":
                return dice_loss(*given, class_weights=class_weights, total=total)
            case "dice_cross_entropy":
                return dice_cross_entropy(*given, class_weights=class_weights, total=total)
            case "focal":
                return focal_loss(*given, class_weights=class_weights, gamma=focal_gamma, total=total)
            case "tversky":
                return tversky_loss(
                    *given, class_weights=class_weights, alpha=tversky_alpha, beta=tversky_beta, total=total
                )
            case "quadratic":
                return quadratic_loss(*given, class_weights=class_weights, total=total)

    if name not in _NAMES:
        raise ConfigError(f"loss.name = {name}: there is no such loss. Give {', '.join(_NAMES)}.")
    return loss


def cross_entropy(
    logits_BCHW: Tensor,
    target_BHW: Tensor,
    weight_BHW: Tensor | None = None,
    *,
    class_weights: Sequence[float] | None = None,
    total: Total = only_here,
) -> Tensor:
    """Return the mean cross entropy -log p over labelled pixels, p being the true class's probability."""
    values = _negative_log(logits_BCHW, target_BHW)
    return _mean(values, _weights(logits_BCHW, target_BHW, weight_BHW, class_weights), total)


def focal_loss(
    logits_BCHW: Tensor,
    target_BHW: Tensor,
    weight_BHW: Tensor | None = None,
    *,
    class_weights: Sequence[float] | None = None,
    gamma: float = 2.0,
    total: Total = only_here,
) -> Tensor:
    """Return the mean of -(1 - p)^gamma log p over labelled pixels (Lin et al. 2017, arXiv 1708.02002).

    Pixels that are easy, p near 1, hardly count. Their alpha is the class weight; they divide by the number of
    objects, here it is the sum of the weights, as in cross entropy, which gamma = 0 is.
    """
    values = _negative_log(logits_BCHW, target_BHW)
    # The power's slope is infinite at p = 1 for gamma < 1; below the bound the gradient is 0.
    missing = (-torch.expm1(-values)).clamp(min=1e-7)
    return _mean(missing**gamma * values, _weights(logits_BCHW, target_BHW, weight_BHW, class_weights), total)


def quadratic_loss(
    logits_BCHW: Tensor,
    target_BHW: Tensor,
    weight_BHW: Tensor | None = None,
    *,
    class_weights: Sequence[float] | None = None,
    total: Total = only_here,
) -> Tensor:
    """Return the mean, over labelled pixels and classes, of the squared difference of probability and 0 or 1.

    What networks were trained with before cross entropy (LeCun et al. 1998); sure and wrong pixels hardly pull.
    """
    probability = torch.softmax(logits_BCHW.float(), dim=1)
    values = (probability - _one_hot(logits_BCHW, target_BHW)).square().mean(dim=1)
    return _mean(values, _weights(logits_BCHW, target_BHW, weight_BHW, class_weights), total)


def dice_loss(
    logits_BCHW: Tensor,
    target_BHW: Tensor,
    weight_BHW: Tensor | None = None,
    *,
    class_weights: Sequence[float] | None = None,
    total: Total = only_here,
) -> Tensor:
    """Return 1 - soft Dice, averaged over all classes, background included.

    Dice is 2 sum(p t) / sum(p + t) with sums over the whole batch (Milletari et al. 2016, without squares), plus 1
    above and below, so that a class that is neither there nor predicted costs nothing.
    """
    both, predicted, true = _overlaps(logits_BCHW, target_BHW, weight_BHW, total)
    costs = 1 - (2 * both + 1) / (predicted + true + 1)
    return _class_mean(costs, class_weights)


def tversky_loss(
    logits_BCHW: Tensor,
    target_BHW: Tensor,
    weight_BHW: Tensor | None = None,
    *,
    class_weights: Sequence[float] | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    total: Total = only_here,
) -> Tensor:
    """Return 1 - Tversky index, averaged over the classes but the background (Salehi et al. 2017, arXiv 1706.05721).

    The index is TP / (TP + alpha FP + beta FN) with soft counts over the whole batch, plus 1 above and below as in
    `dice_loss`; beta > alpha finds more at the price of false alarms. What the background misses is what
    the others find too much, so counting it as a class would undo the difference.
    """
    both, predicted, true = _overlaps(logits_BCHW, target_BHW, weight_BHW, total)
    index = (both + 1) / (both + alpha * (predicted - both) + beta * (true - both) + 1)
    _check_count(class_weights, logits_BCHW.shape[1])
    return _class_mean(1 - index[1:], None if class_weights is None else class_weights[1:])


def dice_cross_entropy(
    logits_BCHW: Tensor,
    target_BHW: Tensor,
    weight_BHW: Tensor | None = None,
    *,
    class_weights: Sequence[float] | None = None,
    total: Total = only_here,
) -> Tensor:
    """Return the mean of Dice loss and cross entropy (their sum is nnU-Net's)."""
    given = (logits_BCHW, target_BHW, weight_BHW)
    dice = dice_loss(*given, class_weights=class_weights, total=total)
    return (dice + cross_entropy(*given, class_weights=class_weights, total=total)) / 2


_NAMES: tuple[LossName, ...] = ("cross_entropy", "dice", "dice_cross_entropy", "focal", "tversky", "quadratic")


def _negative_log(logits_BCHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Return -log p of the true class of each pixel, (B, H, W); 0 where nothing is labelled."""
    return F.cross_entropy(logits_BCHW.float(), target_BHW.long(), ignore_index=IGNORE, reduction="none")


def _one_hot(logits_BCHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Return 1 for the true class of each pixel, (B, C, H, W) float32; what is not labelled has any class."""
    num_classes = logits_BCHW.shape[1]
    target = target_BHW.long().clamp(max=num_classes - 1)
    return F.one_hot(target, num_classes).permute(0, 3, 1, 2).float()


def _weights(
    logits_BCHW: Tensor, target_BHW: Tensor, weight_BHW: Tensor | None, class_weights: Sequence[float] | None
) -> Tensor:
    """Return how much each pixel counts, (B, H, W) float32; 0 where nothing is labelled."""
    labelled = target_BHW != IGNORE
    weights = labelled.float() if weight_BHW is None else weight_BHW.float() * labelled
    if class_weights is None:
        return weights
    num_classes = logits_BCHW.shape[1]
    _check_count(class_weights, num_classes)
    by_class = torch.tensor(class_weights, dtype=torch.float32, device=logits_BCHW.device)
    return weights * by_class[target_BHW.long().clamp(max=num_classes - 1)]


def _mean(values_BHW: Tensor, weights_BHW: Tensor, total: Total) -> Tensor:
    """Return the weighted mean over the batches of all processes."""
    weighted, weight = total(torch.stack([(values_BHW * weights_BHW).sum(), weights_BHW.sum()])).unbind()
    return weighted / torch.where(weight > 0, weight, 1)


def _overlaps(
    logits_BCHW: Tensor, target_BHW: Tensor, weight_BHW: Tensor | None, total: Total
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each class, the sums of p t, p and t over the batches of all processes, (C,) each."""
    weights = _weights(logits_BCHW, target_BHW, weight_BHW, None).unsqueeze(1)
    probability = torch.softmax(logits_BCHW.float(), dim=1) * weights
    one_hot = _one_hot(logits_BCHW, target_BHW)
    sums = [(probability * one_hot).sum(dim=(0, 2, 3)), probability.sum(dim=(0, 2, 3))]
    both, predicted, true = total(torch.stack([*sums, (one_hot * weights).sum(dim=(0, 2, 3))])).unbind()
    return both, predicted, true


def _class_mean(costs: Tensor, class_weights: Sequence[float] | None) -> Tensor:
    if class_weights is None:
        return costs.mean()
    _check_count(class_weights, len(costs))
    weights = torch.tensor(class_weights, dtype=torch.float32, device=costs.device)
    return (costs * weights).sum() / weights.sum()


def _check_count(class_weights: Sequence[float] | None, num_classes: int) -> None:
    if class_weights is not None and len(class_weights) != num_classes:
        raise ConfigError(
            f"loss.class_weights has {len(class_weights)} numbers, and there are {num_classes} classes, background "
            "included. Give one for each class, in the order of the classes."
        )
