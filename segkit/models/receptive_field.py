"""Receptive field, alignment and border loss of a network: computed from its layers, verified by a probe.

Computed: the interval of input positions that an output position needs is propagated backwards through the layers
of the deepest path (arithmetic: Dumoulin and Visin, arXiv 1603.07285). Verified: a NaN in the input spreads to exactly
those outputs that depend on it, whatever the weights are, because 0 * NaN is NaN and ReLU and maximum keep it.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from segkit.errors import ModelError
from segkit.geometry import TileGrid
from segkit.models.encoders import ChannelNorm
from segkit.models.unet import UNet, least_side


class Reach(NamedTuple):
    """What the output needs of the input, in pixels.

    `field` is the side of the largest receptive field of a single output pixel. `around_block` is how far the
    inputs of a block of outputs on the alignment grid reach beyond that block: what a halo must cover. It is
    smaller than half of `field` plus the alignment, because a pixel's receptive field is not centred on it.
    """

    field: int
    around_block: int


def tile_grid(network: UNet, *, inexact: bool = False) -> TileGrid:
    """Return how the network is tiled exactly: alignment, halo, margin and legal input sizes.

    Parameters
    ----------
    inexact
        Let networks pass whose layers mix pixels at inference: the grid is then exact for all other layers.

    Raises
    ------
    ModelError
        A layer mixes pixels at inference (instance, group or layer norm), so that no halo makes tiles exact.
    """
    if not inexact:
        refuse_mixing_norms(network)
    path, alignment = network.deepest_path(), network.alignment
    size_offset, margin = _legal_sizes(path, alignment)
    # Valid convolutions give only outputs whose inputs are all there: the border that they lose is the halo.
    halo = margin or _round_up(computed_reach(path, alignment).around_block, alignment)
    return TileGrid(
        alignment=alignment,
        halo=halo,
        margin=margin,
        size_offset=size_offset,
        smallest=max(_smallest_for_equal_sums(layers, margin) for layers in (path, network.stem_path())),
    )


def common_grid(grids: Sequence[TileGrid]) -> TileGrid:
    """Return a grid whose read boxes hold those of all grids, their cores at the same place.

    Each network crops its own read box out of the common one. A single grid, or several that are equal, stay as they
    are; otherwise outputs are counted as if the common network kept the size.
    """
    first = grids[0]
    if all(grid == first for grid in grids):
        return first
    alignment = max(grid.alignment for grid in grids)  # powers of 2
    # Sizes that are no multiples of the alignment are rounded up by less than one alignment step.
    spare = [grid.alignment if grid.size_offset else 0 for grid in grids]
    halo = _round_up(max(grid.halo + more for grid, more in zip(grids, spare, strict=True)), alignment)
    smallest = max(grid.legal_size(grid.smallest) + halo - grid.halo for grid in grids)
    return TileGrid(alignment=alignment, halo=halo, smallest=smallest)


def refuse_mixing_norms(network: nn.Module) -> None:
    """Raise ModelError if a layer mixes all the pixels that it sees at inference; batch norm does not."""
    for name, module in mixing_norms(network).items():
        raise ModelError(
            f"layer `{name}` ({type(module).__name__}) averages over the pixels that it sees, so tiles would "
            "differ from the whole image. Use batch norm, and an encoder without squeeze-and-excitation, or accept "
            "that with --set inexact=true."
        )


def mixing_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that at inference mix all the pixels that they see, by name: norms and global poolings.

    Layer norm over the channels of each pixel (`ChannelNorm`) is none of them.
    """
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.GroupNorm | nn.InstanceNorm2d | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        or (isinstance(module, nn.LayerNorm) and not isinstance(module, ChannelNorm))
        or (isinstance(module, nn.BatchNorm2d) and not module.track_running_stats)
    }


def computed_reach(layers: Sequence[nn.Module], alignment: int) -> Reach:
    """Propagate the outputs of one block on the alignment grid back to the input, layer by layer."""
    _, margin = _legal_sizes(layers, alignment)
    block = 1024 * alignment  # far from 0, so that positions stay positive on the way back
    needed = [_needed_by(layers, position) for position in range(block, block + alignment)]
    field = max(last - first + 1 for first, last in needed)
    before = block + margin - min(first for first, _ in needed)
    after = max(last for _, last in needed) - (block + margin + alignment - 1)
    return Reach(field, max(before, after))


def probed_reach(network: UNet, in_channels: int) -> Reach:
    """Measure the same numbers: put a NaN into each input column of a block and see which outputs become NaN.

    Which pixels are seen does not depend on the number of maps: the network is probed with one map per layer.
    """
    twin = _thin(copy.deepcopy(network)).to("cpu", torch.float64).eval()
    alignment = network.alignment
    grid = tile_grid(network)
    height = grid.legal_size(alignment + 2 * grid.margin)
    width = grid.legal_size(4 * grid.halo + 3 * alignment)
    block = width // 2 // alignment * alignment
    field_of_phase: dict[int, list[int]] = {phase: [] for phase in range(alignment)}
    around = 0
    for column in range(block, block + alignment):
        image: Tensor = torch.ones(1, in_channels, height, width, dtype=torch.float64)
        image[..., column] = torch.nan
        with torch.inference_mode():
            outputs = twin(image)[0, 0].isnan().any(dim=0).numpy().nonzero()[0] + grid.margin
        first_block, last_block = outputs.min() // alignment * alignment, outputs.max() // alignment * alignment
        around = max(around, int(last_block - column), int(column - (first_block + alignment - 1)))
        for phase in np.unique(outputs % alignment):
            # By periodicity this column seen from one output is another column seen from the output in `block`.
            seen_from = outputs[outputs % alignment == phase] - phase
            field_of_phase[int(phase)] += (column - seen_from).tolist()
    field = max(max(columns) - min(columns) + 1 for columns in field_of_phase.values())
    return Reach(field, around)


def verified_reach(network: UNet, in_channels: int) -> Reach:
    """Return the reach after checking that the computed and the probed one agree (they do, or it is a bug).

    Of a network with layers that mix all pixels it is that of the other layers, as computed.
    """
    computed = computed_reach(network.deepest_path(), network.alignment)
    if mixing_norms(network):
        return computed
    probed = probed_reach(network, in_channels)
    if computed != probed:
        raise AssertionError(f"reach computed as {computed}, probed as {probed}")
    return computed


class _OneMap(nn.Module):
    """A layer that takes the mean of its input's maps and gives one map."""

    def __init__(self, layer: nn.Module, axis: int) -> None:
        super().__init__()
        self._layer, self._axis = layer, axis

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self._layer(maps.mean(dim=self._axis, keepdim=True))
        return result


def _thin(module: nn.Module) -> nn.Module:
    """Replace each layer by one of a single map that sees the same pixels; values stay near 1. In place."""
    for name, scale in list(module.named_parameters(recurse=False)):  # ConvNeXt's scale of each map
        setattr(module, name, nn.Parameter(torch.ones(1, *scale.shape[1:])))
    for name, child in module.named_children():
        match child:
            case nn.Conv2d() | nn.ConvTranspose2d():
                kernel, stride, padding = _along_x(child)
                layer = type(child)(1, 1, kernel, stride, padding, bias=False)
                nn.init.constant_(layer.weight, 1 / kernel**2)
                setattr(module, name, _OneMap(layer, 1))
            case nn.Linear():  # of ConvNeXt, where maps are the last axis
                setattr(module, name, _OneMap(nn.Identity(), -1))
            case nn.BatchNorm2d() | nn.LayerNorm():
                setattr(module, name, nn.Identity())
            case _:
                _thin(child)
    return module


def _needed_by(layers: Sequence[nn.Module], position: int) -> tuple[int, int]:
    """Return the first and last input position that the output at `position` needs."""
    first = last = position
    for layer in reversed(layers):
        match layer:
            case nn.Conv2d() | nn.MaxPool2d():
                kernel, stride, padding = _along_x(layer)
                first, last = first * stride - padding, last * stride - padding + kernel - 1
            case nn.ConvTranspose2d():
                kernel, stride, padding = _along_x(layer)
                first, last = -((kernel - 1 - first - padding) // stride), (last + padding) // stride
    return first, last


def _legal_sizes(layers: Sequence[nn.Module], alignment: int) -> tuple[int, int]:
    """Return (size_offset, margin): legal sizes are `alignment * m + size_offset`; pixels lost on each side."""
    for remainder in range(alignment):
        large = 1024 * alignment + remainder
        size = large
        poolings_even = True
        for layer in layers:
            match layer:
                case nn.Conv2d() | nn.MaxPool2d():
                    kernel, stride, padding = _along_x(layer)
                    poolings_even &= stride == 1 or size % stride == 0
                    size = (size + 2 * padding - kernel) // stride + 1
                case nn.ConvTranspose2d():
                    kernel, stride, padding = _along_x(layer)
                    size = (size - 1) * stride - 2 * padding + kernel
        if poolings_even:
            margin = (large - size) // 2
            # Large enough that the smallest legal size leaves output pixels.
            return remainder + 2 * margin // alignment * alignment, margin
    raise ModelError("no input size passes evenly through all poolings of this network.")


def _smallest_for_equal_sums(layers: Sequence[nn.Module], margin: int) -> int:
    """Return the input side from which on every convolution adds up its products in the same order."""
    stride, smallest = 1, 0
    for layer in layers:
        match layer:
            case nn.Conv2d() | nn.ConvTranspose2d():
                smallest = max(smallest, least_side(layer.in_channels) * stride)
                step = _along_x(layer)[1]
                stride = stride * step if isinstance(layer, nn.Conv2d) else stride // step
            case nn.MaxPool2d():
                stride *= _along_x(layer)[1]
    return smallest + 2 * margin


def _along_x(layer: nn.Conv2d | nn.MaxPool2d | nn.ConvTranspose2d) -> tuple[int, int, int]:
    kernel, stride, padding = (
        value[-1] if isinstance(value, tuple) else value for value in (layer.kernel_size, layer.stride, layer.padding)
    )
    return int(kernel), int(stride), int(padding)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
