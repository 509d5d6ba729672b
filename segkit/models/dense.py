"""A trained patch CNN at every pixel of an image at once, exactly: what a naive scan of all patches would give.

Neighbouring patches share nearly all of their work. Convolutions of stride 1 can simply run over the whole image; the
trouble is a pooling (or a strided convolution), which sees other groups of pixels in each patch. Two independent ways
out, both made from the trained layers themselves:

- *fragments* (Giusti, Ciresan, Masci, Gambardella, Schmidhuber: ICIP 2013, arXiv 1302.1700): a pooling of stride k
  is done at all k x k offsets, and the k x k smaller maps are stacked as a batch; at the end they are interleaved.
- *a trous* (Li, Zhao and Wang 2014, arXiv 1412.4526; Yu and Koltun 2016): poolings run at stride 1, and everything
  after them is dilated by the stride that they had.

With an output stride s, the first poolings, as long as their strides multiply up to a divisor of s, stay as they are.

Only what is exactly the same at every position can be converted. `lower` turns the layers into steps, and refuses the
rest with the layer's name.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.models.lowering import Convolution, Step, lower

DenseForm = Literal["fragments", "atrous"]
HEAD_VALUES = 2**20
"""Values of the widest map of the head that are computed at once; more would leave the caches and take memory."""
HEAD_FRAGMENTS = 15
"""Fragments that the head is run on at once: with one thread, torch adds up 1 x 1 convolutions in another order from a
batch of 16 on, and tiles of different sizes would differ in the last bits."""


class DenseNetwork(nn.Module):
    """A patch CNN that takes an image and returns what it says of every patch in it.

    Parameters
    ----------
    layers
        The trained network, in evaluation mode; its weights are copied.
    in_channels, patch_px
        Of the patches that it was trained on.
    stride
        Distance of the patches in pixels, in both directions.
    form
        How it is done.

    Raises
    ------
    NotConvertibleError
        A layer is not the same at every position, or unknown.
    """

    def __init__(self, layers: nn.Sequential, *, in_channels: int, patch_px: int, stride: int, form: DenseForm) -> None:
        super().__init__()
        steps = lower(layers, in_channels, patch_px)
        self.patch_px, self.stride, self.form = patch_px, stride, form
        body, head = _split_head(steps)
        self.body, self.head = nn.ModuleList(body), nn.ModuleList(head)
        # Side of a map of which one position remains, before each step: what the positions of a map beside that need.
        self._fields = _fields(steps)
        self.kept = kept_stride(steps, stride)
        total = 1
        for step in steps:
            total *= step.stride
        self.total_stride = total
        self._quantum = total if form == "fragments" else self.kept
        self._widest = max((step.out_channels for step in head if isinstance(step, Convolution)), default=1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits, float (B, classes, h, w): [i, j] is of the patch whose first pixel is (i, j) * stride.

        Images are at least as large as a patch; h = 1 + (H - patch_px) // stride, and w likewise.
        """
        height, width = (1 + (side - self.patch_px) // self.stride for side in images_BCHW.shape[-2:])
        # Positions in whole numbers of poolings: all fragments are then equally large.
        rows, columns = (_round_up((count - 1) * self.stride + 1, self._quantum) for count in (height, width))
        images = _fit(images_BCHW, rows + self._fields[0] - 1, columns + self._fields[0] - 1)
        logits = self._run_fragments(images) if self.form == "fragments" else self._run_atrous(images)
        skip = self.stride // self.kept
        return logits[..., ::skip, ::skip][..., :height, :width]

    def _run_fragments(self, x: Tensor) -> Tensor:
        batch, cumulative = x.shape[0], 1
        splits: list[int] = []
        for step in self.body:
            assert isinstance(step, Step)
            if step.stride == 1 or cumulative * step.stride <= self.kept:
                x = step.run(x, stride=step.stride, dilation=1)
            else:
                splits.append(step.stride)
                # The last offset ends with the map, so all offsets have equally many outputs.
                height, width = (side - step.stride + 1 for side in x.shape[-2:])
                x = torch.cat(
                    [
                        step.run(x[..., dy : dy + height, dx : dx + width], stride=step.stride, dilation=1)
                        for dy in range(step.stride)
                        for dx in range(step.stride)
                    ]
                )
            cumulative *= step.stride
        x = self._run_head_of_batches(x)
        for split in reversed(splits):
            fragments, channels, height, width = x.shape
            x = x.view(split, split, fragments // split**2, channels, height, width)
            x = x.permute(2, 3, 4, 0, 5, 1).reshape(fragments // split**2, channels, height * split, width * split)
        assert x.shape[0] == batch
        return x

    def _run_atrous(self, x: Tensor) -> Tensor:
        dilation, cumulative = 1, 1
        for step in self.body:
            assert isinstance(step, Step)
            strided = cumulative * step.stride <= self.kept
            x = step.run(x, stride=step.stride if strided else 1, dilation=dilation)
            cumulative *= step.stride
            dilation *= 1 if strided else step.stride
        return self._run_head_of_rows(x, dilation)

    def _run_head_of_batches(self, x: Tensor) -> Tensor:
        limit = min(HEAD_FRAGMENTS, HEAD_VALUES // (self._widest * x.shape[-2] * x.shape[-1]))
        return torch.cat([self._run_steps(x[start:end], 1) for start, end in _pieces(x.shape[0], limit)])

    def _run_head_of_rows(self, x: Tensor, dilation: int) -> Tensor:
        overlap = (self._fields[len(self.body)] - 1) * dilation
        height = x.shape[-2] - overlap
        limit = HEAD_VALUES // (self._widest * x.shape[0] * x.shape[-1])
        parts = [self._run_steps(x[..., top : end + overlap, :], dilation) for top, end in _pieces(height, limit)]
        return torch.cat(parts, dim=-2)

    def _run_steps(self, x: Tensor, dilation: int) -> Tensor:
        for step in self.head:
            assert isinstance(step, Step)
            x = step.run(x, stride=1, dilation=dilation)
        return x


def kept_stride(steps: Sequence[Step], stride: int) -> int:
    """Return the product of the first strides, as long as it divides the output stride."""
    kept = 1
    for step in steps:
        if step.stride > 1 and stride % (kept * step.stride):
            break
        kept *= step.stride
    return kept


def _split_head(steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """Return the steps before and from the first linear layer on, which has no stride after it."""
    for number, step in enumerate(steps):
        if step.is_head and all(later.stride == 1 for later in steps[number:]):
            return list(steps[:number]), list(steps[number:])
    return list(steps), []


def _fields(steps: Sequence[Step]) -> list[int]:
    """Return the side of the map before each step that one output position needs, and 1 after the last."""
    fields = [1]
    for step in reversed(steps):
        fields.append((fields[-1] - 1) * step.stride + step.span)
    return fields[::-1]


def _pieces(length: int, limit: int) -> list[tuple[int, int]]:
    """Return start and end of as few pieces as have `limit` at most, all about as long.

    A last piece that is much shorter would be added up in another order, and its last bits differ from those of the
    same positions in a longer one.
    """
    number = -(-length // max(1, limit))
    edges = [length * index // number for index in range(number + 1)]
    return list(itertools.pairwise(edges))


def _fit(x: Tensor, height: int, width: int) -> Tensor:
    """Cut or pad (with zeros, which no wanted output sees) at the bottom and on the right."""
    x = x[..., :height, :width]
    missing = (width - x.shape[-1], height - x.shape[-2])
    return F.pad(x, (0, missing[0], 0, missing[1])) if any(missing) else x


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
