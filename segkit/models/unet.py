"""U-Net (Ronneberger, Fischer, Brox: MICCAI 2015, arXiv 1505.04597), in the paper's form and a modern one."""

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
        widths = [base_channels * 2**level for level in range(depth + 1)]
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

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return class scores (logits), float, (B, classes, H', W'); sizes as `TileGrid` says."""
        x = images_BCHW
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(self.pool(x) if level else x)
            skips.append(x)
        x = self.dropout(skips.pop())
        for up, block in zip(self.up, self.decoder, strict=True):
            x = up(x)
            x = block(torch.cat([_centre_crop(skips.pop(), x), x], dim=1))
        scores: Tensor = self.head(x)
        return scores


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


def _centre_crop(skip: Tensor, like: Tensor) -> Tensor:
    top, left = ((a - b) // 2 for a, b in zip(skip.shape[-2:], like.shape[-2:], strict=True))
    return skip[..., top : top + like.shape[-2], left : left + like.shape[-1]]
