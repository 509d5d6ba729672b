"""U-Net (Ronneberger, Fischer, Brox: MICCAI 2015, arXiv 1505.04597), in the paper's form and a modern one."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.activations import ActivationName, make_activation
from segkit.models.encoders import Encoder, build_encoder, levels_of, longest_way
from segkit.models.initialisation import initialise

Form = Literal["modern", "paper"]
Norm = Literal["batch", "none"]


class UNet(nn.Module):
    """Contracting and expanding path with skip connections; one output map per class, and more where asked for.

    `modern` uses convolutions that keep the size, each followed by batch norm. `paper` is the paper's network:
    valid convolutions without normalisation, skip connections cropped, dropout at the end of the contracting path;
    its output is smaller than its input (by 92 px on each side at depth 4). Both double the maps at each
    of `depth` poolings, go up by 2 x 2 transposed convolutions and start from He initialisation.

    The contracting path can be a network of torchvision's instead (`segkit.models.encoders`). Levels of a finer stride
    than it begins with are computed by `stem`, two convolutions each, so that skip connections reach down to full
    resolution; the output has the size of the input. Where a level has more maps than the expanding path at its
    stride, `lateral`, a 1 x 1 convolution, reduces them to as many. That is cheap, and a 3 x 3 convolution of many
    maps to few would break the exactness of tiles: oneDNN adds those up in an order that depends on the size
    (measured: 640 to 128 maps differ up to 96 px, 512 to 64 up to 28 px; those of a plain U-Net, 2 to 1, do not).

    Parameters
    ----------
    in_channels
        Channels of the input.
    num_classes
        Classes, background included; for a U-Net that finds points, without it.
    base_channels
        Maps of the expanding path (and of the plain contracting one) at full resolution (the paper: 64).
    depth
        Number of halvings (the paper: 4).
    form
        `modern` or `paper`.
    dropout
        Probability of dropping a value at the end of the contracting path, while training.
    encoder
        `plain`, or the network of torchvision's that is the contracting path; its weights are fresh.
    norm
        `batch` or `none`; None is the form's own. A network of torchvision's keeps its own norms and activations.
    activation
        What follows each convolution.
    extra_maps
        Output maps after those of the classes; their meaning is the task's.

    Raises
    ------
    ConfigError
        The encoder does not go with the form, or has no such depth.
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
        encoder: Encoder = "plain",
        norm: Norm | None = None,
        activation: ActivationName = "relu",
        extra_maps: int = 0,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.form = form
        self.encoder_name = encoder
        self.extra_maps = extra_maps
        widths = [base_channels * 2**level for level in range(depth + 1)]
        batch_norm = form == "modern" if norm is None else norm == "batch"

        def block(before: int, width: int) -> nn.Sequential:
            return _two_convolutions(before, width, form, batch_norm, activation)

        def blocks(widths: Sequence[int]) -> nn.ModuleList:
            return nn.ModuleList(block(*pair) for pair in zip([in_channels, *widths], widths, strict=False))

        self.encoder = nn.ModuleList()
        self.stem = nn.ModuleList()
        if encoder == "plain":
            self.encoder = blocks(widths)
            skips = widths
        else:
            if form != "modern":
                raise ConfigError(f"model.form = {form}: with model.encoder = {encoder} only `modern` goes.")
            levels = levels_of(encoder, depth)
            self.stem = blocks(widths[: levels.first])
            skips = [*widths[: levels.first], *levels.widths]
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        below = [*widths[1:depth], skips[depth]]  # what comes up from the level below each
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(maps, width, 2, stride=2)
            for maps, width in zip(reversed(below), reversed(widths[:-1]), strict=True)
        )
        self.lateral = nn.ModuleList(
            nn.Conv2d(skip, width, 1) if skip > width else nn.Identity()
            for skip, width in zip(reversed(skips[:-1]), reversed(widths[:-1]), strict=True)
        )
        self.decoder = nn.ModuleList(
            block(min(skip, width) + width, width)
            for skip, width in zip(reversed(skips[:-1]), reversed(widths[:-1]), strict=True)
        )
        self.head = nn.Conv2d(base_channels, num_classes + extra_maps, 1)
        initialise(self, activation=activation)
        if encoder != "plain":  # after the others: it has its own way to begin
            self.encoder = build_encoder(encoder, in_channels, depth)

    @property
    def alignment(self) -> int:
        """Inputs whose origins differ by a multiple of this see the same pooling grid."""
        return int(2**self.depth)

    def deepest_path(self) -> list[nn.Module]:
        """Return the layers along the path through the bottom, which has the largest receptive field."""
        layers: list[nn.Module] = []
        for level, block in enumerate(self.encoder):
            layers += [self.pool] if level and self.encoder_name == "plain" else []
            layers += longest_way(block)
        for up, block in zip(self.up, self.decoder, strict=True):
            layers += [up, *block.children()]
        return [*layers, self.head]

    def stem_path(self) -> list[nn.Module]:
        """Return the layers of the stem and their poolings; there are none in front of a plain contracting path."""
        layers: list[nn.Module] = []
        for level, block in enumerate(self.stem):
            layers += [self.pool, *block.children()] if level else list(block.children())
        return layers

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
        if core is not None and len(self.stem) == 1:
            skips = [images_BCHW, *self._encoded(images_BCHW)]  # the stem, too, computes what the core needs
        else:
            skips = [*self._stem_maps(images_BCHW), *self._encoded(images_BCHW)]
        x = self.dropout(skips.pop())
        if core is not None:
            return self._decoded_core(x, skips, core)
        for up, lateral, block in zip(self.up, self.lateral, self.decoder, strict=True):
            x = up(x)
            x = block(torch.cat([lateral(_centre_crop(skips.pop(), *x.shape[-2:])), x], dim=1))
        scores: Tensor = self.head(x)
        return scores

    def _stem_maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps of the levels in front of those of the encoder, from full resolution down."""
        maps: list[Tensor] = []
        for level, block in enumerate(self.stem):
            x = block(self.pool(x) if level else x)
            maps.append(x)
        return maps

    def _encoded(self, x: Tensor) -> list[Tensor]:
        """Return the maps of the encoder's levels, from the finest down."""
        maps: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(self.pool(x) if level and self.encoder_name == "plain" else x)
            maps.append(x)
        return maps

    def _decoded_core(self, x: Tensor, skips: list[Tensor], core: tuple[slice, slice]) -> Tensor:
        """Return the scores of `core` from the maps at the bottom and those that were skipped on the way there."""
        lost = 0 if self.form == "modern" else 4
        levels = list(zip(self.up, self.lateral, self.decoder, strict=True))
        least = [lost + _least_rows(up, lateral, *block.children()) for up, lateral, block in levels]
        if len(self.stem) == 1:
            least[-1] = max(least[-1], _least_rows(*self.stem_path()))
        height, width = x.shape[-2:]
        spans = zip(_spans(height, core[0], lost, least), _spans(width, core[1], lost, least), strict=True)
        top = left = 0  # where `x` begins in the whole maps of its level, which are height x width
        for (up, lateral, block), (rows, columns) in zip(levels, spans, strict=True):
            height, width = 2 * height, 2 * width
            x = up(x[..., _half(rows, top), _half(columns, left)])
            skip = skips.pop()
            if len(self.stem) == 1 and not skips:
                skip = _part(self.stem[0], skip, rows, columns)
            else:
                skip = _centre_crop(skip, height, width)[..., rows, columns]
            x = torch.cat([lateral(skip), x], dim=1)
            del skip
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


def _least_rows(*layers: nn.Module) -> int:
    """Return how many rows the layers of a level have to compute for their sums to stay in order."""
    rows = 0
    for layer in layers:
        match layer:
            case nn.ConvTranspose2d():  # sees half as many
                rows = max(rows, 2 * least_side(layer.in_channels))
            case nn.Conv2d():
                rows = max(rows, least_side(layer.in_channels))
    return rows


def _part(block: nn.Module, images: Tensor, rows: slice, columns: slice) -> Tensor:
    """Return some rows and columns of what two convolutions that keep the size make of images."""
    top, left = max(rows.start - 2, 0), max(columns.start - 2, 0)  # each sees 1 px around
    maps: Tensor = block(images[..., top : rows.stop + 2, left : columns.stop + 2])
    return maps[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


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


def _two_convolutions(
    in_channels: int, out_channels: int, form: Form, batch_norm: bool, activation: ActivationName
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (in_channels, out_channels):
        layers.append(nn.Conv2d(before, out_channels, 3, padding=1 if form == "modern" else 0, bias=not batch_norm))
        layers += [nn.BatchNorm2d(out_channels)] if batch_norm else []
        layers.append(make_activation(activation))
    return nn.Sequential(*layers)


def _half(span: slice, origin: int) -> slice:
    """Return where the rows below those of `span` are in maps that begin at the row `origin` of their level."""
    return slice(span.start // 2 - origin, span.stop // 2 - origin)


def _centre_crop(skip: Tensor, height: int, width: int) -> Tensor:
    top, left = (skip.shape[-2] - height) // 2, (skip.shape[-1] - width) // 2
    return skip[..., top : top + height, left : left + width]
