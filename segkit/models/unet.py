"""U-Net (Ronneberger, Fischer, Brox: MICCAI 2015, arXiv 1505.04597), in the paper's form and a modern one."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segkit.models.initialisation import initialise

Form = Literal["modern", "paper"]


class UNet(nn.Module):
    """Contracting and expanding path with skip connections; one output map per class.

    `modern` uses convolutions that keep the size, each followed by batch norm. `paper` is the paper's network:
    valid convolutions without normalisation, skip connections cropped, dropout at the end of the contracting path;
    its output is smaller than its input (by 92 px on each side at depth 4). Both double the maps at each
    of `depth` poolings, go up by 2 x 2 transposed convolutions and start from He initialisation.

    Parameters
    ----------
    in_channels
        Channels of the input.
    num_classes
        Classes, background included; the number of output maps.
    base_channels
        Maps at full resolution (the paper: 64).
    depth
        Number of 2 x 2 poolings (the paper: 4).
    form
        `modern` or `paper`.
    dropout
        Probability of dropping a value at the end of the contracting path, while training.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        base_channels: int = 32,
        depth: int = 4,
        form: Form = "modern",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.form = form
        self._widths = widths = [base_channels * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            _two_convolutions(before, width, form)
            for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in reversed(widths[:-1]))
        self.decoder = nn.ModuleList(_two_convolutions(2 * width, width, form) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(base_channels, num_classes, 1)
        initialise(self)

    @property
    def alignment(self) -> int:
        """Inputs whose origins differ by a multiple of this see the same pooling grid."""
        return int(2**self.depth)

    def deepest_path(self) -> list[nn.Module]:
        """Return the layers along the path through the bottom, which has the largest receptive field."""
        layers: list[nn.Module] = []
        for level, block in enumerate(self.encoder):
            layers += [self.pool, *block.children()] if level else list(block.children())
        for up, block in zip(self.up, self.decoder, strict=True):
            layers += [up, *block.children()]
        return [*layers, self.head]

    def forward(self, images_BCHW: Tensor, core: tuple[slice, slice] | None = None) -> Tensor:
        """Return class scores (logits), float, (B, classes, H', W'); sizes as `TileGrid` says.

        Parameters
        ----------
        images_BCHW
            Normalised images.
        core
            The rows and columns of the output that are wanted; None for all. The expanding path then computes only
            what they need, so that a halo costs the contracting path alone. The scores are those of the whole
            output, to the last bit in inference.
        """
        x = images_BCHW
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(self.pool(x) if level else x)
            skips.append(x)
        x = self.dropout(skips.pop())
        if core is not None:
            return self._decoded_core(x, skips, core)
        for up, block in zip(self.up, self.decoder, strict=True):
            x = up(x)
            x = block(torch.cat([_centre_crop(skips.pop(), *x.shape[-2:]), x], dim=1))
        scores: Tensor = self.head(x)
        return scores

    def _decoded_core(self, x: Tensor, skips: list[Tensor], core: tuple[slice, slice]) -> Tensor:
        """Return the scores of `core` from the maps at the bottom and those that were skipped on the way there."""
        lost = 0 if self.form == "modern" else 4
        least = [lost + max(2 * least_side(2 * width), least_side(width)) for width in self._widths[-2::-1]]
        height, width = x.shape[-2:]
        spans = zip(_spans(height, core[0], lost, least), _spans(width, core[1], lost, least), strict=True)
        top = left = 0  # where `x` begins in the whole maps of its level, which are height x width
        for up, block, (rows, columns) in zip(self.up, self.decoder, spans, strict=True):
            height, width = 2 * height, 2 * width
            x = up(x[..., _half(rows, top), _half(columns, left)])
            x = torch.cat([_centre_crop(skips.pop(), height, width)[..., rows, columns], x], dim=1)
            for layer in block.children():  # one by one, so that no map outlives its use
                x = layer(x)
            height, width, top, left = height - lost, width - lost, rows.start, columns.start
        scores: Tensor = self.head(x)
        return scores[..., core[0].start - top : core[0].stop - top, core[1].start - left : core[1].stop - left]


def least_side(in_channels: int) -> int:
    """Return the side of a square input from which on a convolution adds up its products in the same order.

    PyTorch hands a single image to oneDNN only if the layer's input has more than 20,480 values
    (`use_mkldnn` in ATen/native/Convolution.cpp), and oneDNN takes other kernels for rows shorter than 16.
    """
    return max(16, math.isqrt(20_480 // in_channels) + 1)


def _spans(bottom: int, core: slice, lost: int, least: Sequence[int]) -> list[slice]:
    """Return which rows (or columns) of each level's maps, as they come from below, are needed for those of `core`.

    Parameters
    ----------
    bottom
        Rows at the bottom.
    core
        Rows of the output.
    lost
        Rows that the two convolutions of a level take off, on both sides together.
    least
        Rows that each level computes at least, where it has so many; from the bottom up, as is the result.
    """
    sizes = []
    for _ in least:
        sizes.append(2 * bottom)
        bottom = sizes[-1] - lost
    spans = []
    start, stop = core.start, core.stop
    for size, rows in zip(reversed(sizes), reversed(least), strict=True):
        # Two 3 x 3 convolutions see 2 px around. Where a map is cut, those 2 px come out wrong and are cropped above.
        start, stop = max(start - 2 + lost // 2, 0), stop + 2 + lost // 2
        stop = min(max(stop, start + rows), size)
        start = max(min(start, stop - rows), 0)
        # Whole pixels of the level below.
        start, stop = start // 2 * 2, -(-stop // 2) * 2
        spans.append(slice(start, stop))
        start, stop = start // 2, stop // 2
    return spans[::-1]


def _two_convolutions(in_channels: int, out_channels: int, form: Form) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (in_channels, out_channels):
        if form == "modern":
            layers += [
                nn.Conv2d(before, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
        else:
            layers += [nn.Conv2d(before, out_channels, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _half(span: slice, origin: int) -> slice:
    """Return where the rows below those of `span` are in maps that begin at the row `origin` of their level."""
    return slice(span.start // 2 - origin, span.stop // 2 - origin)


def _centre_crop(skip: Tensor, height: int, width: int) -> Tensor:
    top, left = (skip.shape[-2] - height) // 2, (skip.shape[-1] - width) // 2
    return skip[..., top : top + height, left : left + width]
