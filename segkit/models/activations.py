"""The functions between the layers of a network, by name."""

from typing import Literal, get_args

from torch import nn

from segkit.errors import ConfigError

ActivationName = Literal["relu", "leaky_relu", "elu", "tanh", "sigmoid"]
ACTIVATIONS: tuple[ActivationName, ...] = get_args(ActivationName)
LEAKY_SLOPE = 0.01
"""Slope of `leaky_relu` below 0 (Maas, Hannun and Ng 2013)."""


def make_activation(name: str) -> nn.Module:
    """Return a new layer: one of `ACTIVATIONS`.

    `relu` (Nair and Hinton 2010), `leaky_relu` and `elu` (Clevert et al. 2016) work in place, which saves a map per
    layer while training. That is safe after a convolution, a linear layer or a norm, none of which needs its own
    output again; it is not safe on a tensor that something else still uses, as the skip of a residual block.
    Each of them works value by value, so a network stays the same at every position of an image.

    Raises
    ------
    ConfigError
        There is no activation of that name.
    """
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)
        case "elu":
            return nn.ELU(inplace=True)
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
        case _:
            raise ConfigError(f"model.activation = {name}: there is no such activation. Give {', '.join(ACTIVATIONS)}.")
