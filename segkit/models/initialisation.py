"""How the weights of a network begin."""

from torch import nn


def initialise(network: nn.Module) -> None:
    """Draw weights from N(0, 2 / fan_in) (He et al. 2015, as the U-Net paper), zero the biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if module.weight.is_meta:
                continue
            nn.init.normal_(module.weight, std=(2.0 / _fan_in(module)) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _fan_in(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> int:
    match module:
        case nn.Linear():
            return module.in_features
        case nn.ConvTranspose2d():
            # Of a 2x2 transposed convolution of stride 2: each output pixel sees one input pixel.
            return module.in_channels
        case _:
            return module.in_channels * module.kernel_size[0] * module.kernel_size[1]
