"""What each layer of a network gives and costs, found without computing."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segkit.models.dense import DenseNetwork
from segkit.models.footprint import META
from segkit.models.patch_cnn import PatchCNN

_DENSE_STEPS = 64  # positions along a side, in patches: the border then costs little


class LayerRow(NamedTuple):
    """A layer, or several in a row that are one block: its last output's shape without the batch, its costs.

    `macs` are multiply-adds of convolutions, transposed convolutions and linear layers for the whole input; norms,
    activations and poolings have none worth counting. A layer that is used again has its parameters in the first row.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int


def layer_table(network: nn.Module, in_channels: int, side: int) -> list[LayerRow]:
    """Return the layers in the order in which they run, for one image of `side` x `side` pixels.

    Runs on PyTorch's `meta` device: shapes are exact, and nothing is computed. Layers are modules without parts, and
    those with parameters of their own.

    Parameters
    ----------
    network
        Is copied, and left as it is.
    in_channels, side
        Of the input; a size that the network takes.
    """
    twin = copy.deepcopy(network).to(META).eval()
    rows: list[LayerRow] = []
    seen: set[str] = set()

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        own = 0 if name in seen else sum(one.numel() for one in module.parameters(recurse=False))
        seen.add(name)
        macs = _macs(module, inputs[0], output)
        rows.append(LayerRow(name, type(module).__name__, tuple(output.shape[1:]), own, macs))

    def hook(name: str) -> Any:
        return lambda module, inputs, output: record(name, module, inputs, output)

    for name, module in twin.named_modules():
        if not any(module.children()) or any(True for _ in module.parameters(recurse=False)):
            module.register_forward_hook(hook(name))
    with torch.no_grad():
        twin(torch.empty(1, in_channels, side, side, device=META))
    return rows


def by_block(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """Return the rows with those of a block in one, where they follow each other.

    A block is what shares the first two parts of its name (`encoder.1` of `encoder.1.0`, `encoder.1.2`); its kind
    tells how many layers it has of those that cost something, or of all where none does. Identities are left out.
    """
    blocks: list[list[LayerRow]] = []
    for row in rows:
        if row.kind == "Identity":
            continue  # a place that other networks have a layer at
        if blocks and _block_of(blocks[-1][-1].name) == _block_of(row.name):
            blocks[-1].append(row)
        else:
            blocks.append([row])
    return [
        LayerRow(
            _block_of(block[0].name),
            _kinds(block),
            block[-1].output,
            sum(row.parameters for row in block),
            sum(row.macs for row in block),
        )
        for block in blocks
    ]


def dense_macs_per_pixel(network: PatchCNN, in_channels: int, stride: int) -> float:
    """Return the multiply-adds per image pixel of a patch CNN run at every `stride`-th pixel of a large image.

    Counted by torch on the network that does it (`segkit.models.dense`), in fragments; the border of the image,
    which costs more, is left out as far as 64 patches along a side can.
    """
    twin = copy.deepcopy(network).to(META).eval()
    with torch.device(META):
        dense = DenseNetwork(
            twin.layers, in_channels=in_channels, patch_px=network.patch_px, stride=stride, form="fragments"
        )
    side = _DENSE_STEPS * network.patch_px
    positions = 1 + (side - network.patch_px) // stride
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        dense.to(META)(torch.empty(1, in_channels, side, side, device=META))
    return float(counter.get_total_flops() / 2 / (positions * stride) ** 2)


def _macs(module: nn.Module, image: Tensor, output: Tensor) -> int:
    match module:
        case nn.ConvTranspose2d():
            weights_per_value, values = module.weight[0].numel(), image.numel()
        case nn.Conv2d() | nn.Linear():
            weights_per_value, values = module.weight[0].numel(), output.numel()
        case _:
            return 0
    return int(weights_per_value * values)


def _block_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _kinds(block: Sequence[LayerRow]) -> str:
    counts: Mapping[str, int] = Counter([row.kind for row in block if row.macs] or [row.kind for row in block])
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in counts.items())
