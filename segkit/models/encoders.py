"""Contracting paths of U-Nets made of torchvision's classification networks, cut into levels of equal stride.

ResNet (He et al. 2016), VGG with batch norm (Simonyan and Zisserman 2015), EfficientNet (Tan and Le 2019) and ConvNeXt
(Liu et al. 2022). What is cut off is the classifier. All but EfficientNet, whose squeeze-and-excitation averages over
all pixels that it sees, give for a tile exactly what they give for the whole image.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import ConfigError, ModelError
from segkit.models.torchvision_door import torchvision_network

Encoder = Literal["plain", "resnet18", "resnet34", "resnet50", "vgg16_bn", "efficientnet_b0", "convnext_tiny"]


class Levels(NamedTuple):
    """A network's levels: the first has the stride 2^`first`, each further one twice as much.

    `widths` are their numbers of maps.
    """

    first: int
    widths: tuple[int, ...]

    @property
    def deepest(self) -> int:
        """The number of halvings of the last level: the largest depth of a U-Net with this encoder."""
        return self.first + len(self.widths) - 1


LEVELS: Mapping[str, Levels] = {
    "resnet18": Levels(1, (64, 64, 128, 256, 512)),
    "resnet34": Levels(1, (64, 64, 128, 256, 512)),
    "resnet50": Levels(1, (64, 256, 512, 1024, 2048)),
    "vgg16_bn": Levels(0, (64, 128, 256, 512, 512)),
    "efficientnet_b0": Levels(1, (16, 24, 40, 112, 320)),
    "convnext_tiny": Levels(2, (96, 192, 384, 768)),
}

# Not on the longest way through a block: the shortcut and what weighs maps by their mean.
_SIDE_BRANCHES = {"downsample", "avgpool", "fc1", "fc2"}


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel on its own, which are the last axis: exact in tiles."""


class ChannelNorm2d(ChannelNorm):
    """The same for maps (B, C, H, W)."""

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Return the normalised maps, of the same shape."""
        pixels_BHWC = maps_BCHW.permute(0, 2, 3, 1)
        normed = F.layer_norm(pixels_BHWC, self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


def levels_of(name: Encoder, depth: int) -> Levels:
    """Return a network's levels down to the stride 2^depth.

    Raises
    ------
    ConfigError
        The network has no level of this stride.
    """
    levels = LEVELS[name]
    if not max(levels.first, 1) <= depth <= levels.deepest:
        raise ConfigError(
            f"model.depth = {depth}: {name} has levels for {max(levels.first, 1)} to {levels.deepest} halvings. "
            "Give one of these, or model.encoder=plain."
        )
    return Levels(levels.first, levels.widths[: depth - levels.first + 1])


def build_encoder(name: Encoder, in_channels: int, depth: int) -> nn.ModuleList:
    """Return the levels of a network from `LEVELS`, with its own fresh weights; each halves what the one before gives.

    Parameters
    ----------
    name
        One of `LEVELS`.
    in_channels
        1 or 3; for 1 the weights of the first convolution are summed over the colours.
    depth
        The last level has the stride 2^depth.

    Raises
    ------
    ConfigError
        The network has no level of this stride.
    """
    levels = levels_of(name, depth)
    network = torchvision_network(name)
    stages = _stages(name, network)[: len(levels.widths)]
    encoder = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
    _exact_norms(encoder)
    if in_channels != 3:
        _sum_colours(encoder)
    return encoder


def encoder_weights(name: Encoder, in_channels: int, depth: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's weights, named as by torchvision, under the names that `build_encoder` gives them.

    Weights of the classifier and of deeper levels are left out; they may be missing.

    Raises
    ------
    ModelError
        Something is missing or has another shape.
    """
    with torch.device("meta"):
        network = torchvision_network(name)
    expected = network.state_dict()
    stages = _stages(name, network)[: len(levels_of(name, depth).widths)]
    names = {id(tensor): key for key, tensor in network.state_dict(keep_vars=True).items()}
    ours = nn.ModuleList(nn.Sequential(*stage) for stage in stages).state_dict(keep_vars=True)
    found, problems = {}, []
    for our_name, tensor in ours.items():
        key = names[id(tensor)]
        if key not in weights:
            # Old files do not count the batches that a batch norm has seen.
            if not key.endswith("num_batches_tracked"):
                problems.append(f"{key}: missing")
        elif weights[key].shape != expected[key].shape:
            problems.append(f"{key}: {tuple(weights[key].shape)}, expected {tuple(expected[key].shape)}")
        else:
            found[our_name] = weights[key]
    if problems:
        raise ModelError(f"these are not the weights of {name} as torchvision names them:", problems[:5])
    if in_channels != 3:
        first = next(name for name, tensor in found.items() if tensor.ndim == 4)
        found[first] = found[first].sum(dim=1, keepdim=True)
    return found


def longest_way(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers along the longest way through a level, in the order in which they compute."""
    children = [child for name, child in module.named_children() if name not in _SIDE_BRANCHES]
    if not children:
        yield module
    for child in children:
        yield from longest_way(child)


def attribute_pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of convolutions and the batch norms that alone see their output, in a residual block.

    torchvision's ResNet blocks hold them as attributes `conv1`, `bn1`, ... and compute `bn1(conv1(x))`.
    """
    if type(module).__name__ not in {"BasicBlock", "Bottleneck"}:
        return []
    return [(f"conv{number}", f"bn{number}") for number in (1, 2, 3) if hasattr(module, f"conv{number}")]


def _stages(name: str, network: nn.Module) -> list[Sequence[nn.Module]]:
    """Return the layers of each level; from the second on each begins with its halving."""
    if name.startswith("resnet"):
        stem = [network.get_submodule(part) for part in ("conv1", "bn1", "relu")]
        first, *others = (network.get_submodule(f"layer{number}") for number in range(1, 5))
        return [stem, [network.get_submodule("maxpool"), first], *([layer] for layer in others)]
    features = list(network.get_submodule("features").children())
    if name == "vgg16_bn":
        pools = [number for number, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
        return [features[start:stop] for start, stop in zip([0, *pools], pools, strict=False)]
    if name == "convnext_tiny":
        return [features[number : number + 2] for number in range(0, 8, 2)]
    return [features[start:stop] for start, stop in ((0, 2), (2, 3), (3, 4), (4, 6), (6, 8))]


def _exact_norms(encoder: nn.Module) -> None:
    """Say of ConvNeXt's norms, in their type, that they see the channels of one pixel only."""
    for parent in list(encoder.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.LayerNorm):
                kind = ChannelNorm2d if type(child).__name__ == "LayerNorm2d" else ChannelNorm
                norm = kind(child.normalized_shape, eps=child.eps)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm)


def _sum_colours(encoder: nn.Module) -> None:
    """Make the first convolution one for grey images: what it says of a colour image whose channels are equal."""
    first = next(layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d))
    first.in_channels = 1
    first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
