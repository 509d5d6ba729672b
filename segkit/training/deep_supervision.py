"""Deep supervision: while it learns, a U-Net answers at coarser scales too, and each answer is corrected.

The gradient then reaches the lower levels on a short way (Lee et al. 2015; weights of nnU-Net, Isensee et al. 2021).
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from segkit.models.initialisation import initialise
from segkit.models.unet import UNet

COARSEST = 3
"""Levels below full resolution that answer at most: down to 1/8, where a pixel still shows a nucleus."""


class DeepSupervision(nn.Module):
    """A U-Net with heads on the maps of its expanding path, for training.

    While training it returns a tuple, (B, outputs, H / 2^i, W / 2^i) for i = 0, 1, ..: the U-Net's own output and,
    from 1 x 1 convolutions that only exist here, those of the coarser levels. In evaluation it returns the U-Net's
    output. What becomes the model is `unet`, which is the same object as was given.

    Parameters
    ----------
    unet
        Its `decoder` holds one block for each level, from the coarsest to full resolution.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet
        blocks = list(unet.decoder)[-2 : -2 - COARSEST : -1]
        self.heads = nn.ModuleList(
            nn.Conv2d(_out_channels(block), unet.head.out_channels, 1).to(unet.head.weight.device) for block in blocks
        )
        initialise(self.heads)
        self._taps = [_Tap() for _ in blocks]
        for tap, block in zip(self._taps, blocks, strict=True):
            block.register_forward_hook(tap)

    def forward(self, images_BCHW: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs of all levels, the finest first; in evaluation the finest alone."""
        if not self.training:
            output: Tensor = self.unet(images_BCHW)
            return output
        for tap in self._taps:
            tap.is_open = True
        try:
            output = self.unet(images_BCHW)
        finally:
            maps = [tap.close() for tap in self._taps]
        return (output, *(head(one) for head, one in zip(self.heads, maps, strict=True)))


def supervised_loss(
    outputs: Tensor | Sequence[Tensor], targets_BPHW: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the loss of all levels: weighted by 1, 1/2, 1/4, .. from the finest on, divided by the sum of these.

    Parameters
    ----------
    outputs
        What `DeepSupervision` returns; a single tensor is an output at full resolution.
    targets_BPHW
        Target planes, uint8, as large as the image, or as the finest output.
    loss
        (output (B, K, h, w), targets uint8 (B, P, h, w)) -> scalar.
    """
    levels = [outputs] if isinstance(outputs, Tensor) else outputs
    total = loss(levels[0], targets_at(0, levels[0], targets_BPHW))
    for level, output in enumerate(levels[1:], start=1):
        total = total + loss(output, targets_at(level, output, targets_BPHW)) / 2**level
    return total / sum(0.5**level for level in range(len(levels)))


def targets_at(level: int, output: Tensor, targets_BPHW: Tensor) -> Tensor:
    """Return the targets of an output whose pixels are 2^level as wide, uint8 (B, P, h, w).

    Valid convolutions give fewer pixels than they take: the middle of the targets is theirs. Plane 0, class
    indices, takes the pixel in the middle of each square; the others, which are values, the mean over the square.
    """
    scale = 2**level
    height, width = (side * scale for side in output.shape[-2:])
    top, left = ((whole - part) // 2 for whole, part in zip(targets_BPHW.shape[-2:], (height, width), strict=True))
    targets = targets_BPHW[..., top : top + height, left : left + width]
    if scale == 1:
        return targets
    coarse = F.avg_pool2d(targets.float(), scale).round().to(targets.dtype)
    coarse[:, 0] = targets[:, 0, scale // 2 :: scale, scale // 2 :: scale]
    return coarse


class _Tap:
    """A forward hook that keeps the next output of a block, if it was asked to; a copy of it never is.

    It is closed outside `DeepSupervision.forward`: maps that are computed again in the backward pass (gradient
    checkpointing) or by the U-Net on its own are not kept.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._maps: Tensor | None = None

    def __call__(self, _block: nn.Module, _inputs: object, output: Tensor) -> None:
        if self.is_open:
            self._maps = output

    def __deepcopy__(self, _memo: object) -> Self:
        return type(self)()

    def close(self) -> Tensor | None:
        """Return what was kept, and forget it."""
        maps, self._maps, self.is_open = self._maps, None, False
        return maps


def _out_channels(block: nn.Module) -> int:
    """Return the number of maps that a block of convolutions gives."""
    return [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)][-1].out_channels
