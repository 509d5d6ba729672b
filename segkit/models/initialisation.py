"""How the weights of a network begin."""

from typing import Literal

from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.activations import LEAKY_SLOPE

InitScheme = Literal["he", "xavier", "normal", "zeros"]

NORMAL_STD = 0.01
"""Of `normal`: what Krizhevsky, Sutskever and Hinton (2012) began with."""
ZEROS_WARNING = (
    "model.init=zeros: a network that begins with zeros does not learn. All units of a layer compute the same and get "
    "the same gradient, so they stay copies of each other; and where an activation is 0 at 0, nothing passes through a "
    "layer in either direction: the gradient of every weight is 0, and only the bias of the last layer moves, "
    "to the classes' frequencies. Take model.init=he."
)
"""What a user who asks for zeros should be told."""
_SECOND_MOMENTS = {
    "relu": 0.5,
    "leaky_relu": (1 + LEAKY_SLOPE**2) / 2,
    "elu": 0.6449454,
    "tanh": 0.3942945,
    "sigmoid": 0.2933790,
}
"""E[f(z)^2] of the activation f for z from N(0, 1)."""


def initialise(network: nn.Module, scheme: InitScheme = "he", activation: str = "relu") -> None:
    """Draw the weights of all convolutions and linear layers, set biases to 0 and norms to scale 1, shift 0.

    Networks on the `meta` device are left alone.

    Parameters
    ----------
    network
        Changed in place.
    scheme
        `he`: N(0, gain^2 / fan_in) (He et al. 2015, the U-Net paper's choice). Their condition is that a layer's
        output varies as much as that of the layer before, so gain^2 = 1 / E[f(z)^2] for the activation f and z from
        N(0, 1): 2 for ReLU, 2 / (1 + slope^2) for leaky ReLU (their equation 15).
        `xavier`: N(0, 2 / (fan_in + fan_out)) (Glorot and Bengio 2010). `normal`: N(0, 0.01^2). `zeros`: see
        `ZEROS_WARNING`.
    activation
        The name of the network's activation (`segkit.models.activations`); `he` depends on it.

    Raises
    ------
    ConfigError
        There is no such scheme or activation.
    """
    if activation not in _SECOND_MOMENTS:
        raise ConfigError(f"model.activation = {activation}: there is no such activation.")
    for module in network.modules():
        match module:
            case nn.Conv2d() | nn.ConvTranspose2d() | nn.Linear():
                if not module.weight.is_meta:
                    _draw(module.weight, scheme, *_fans(module), 1 / _SECOND_MOMENTS[activation])
                    _fill(module.bias, 0)
            case nn.BatchNorm2d() | nn.BatchNorm1d() | nn.LayerNorm() | nn.GroupNorm():
                _fill(module.weight, 1)
                _fill(module.bias, 0)


def _draw(weight: Tensor, scheme: InitScheme, fan_in: int, fan_out: int, gain_squared: float) -> None:
    match scheme:
        case "he":
            nn.init.normal_(weight, std=(gain_squared / fan_in) ** 0.5)
        case "xavier":
            nn.init.normal_(weight, std=(2 / (fan_in + fan_out)) ** 0.5)
        case "normal":
            nn.init.normal_(weight, std=NORMAL_STD)
        case "zeros":
            nn.init.zeros_(weight)
        case _:
            raise ConfigError(f"model.init = {scheme}: there is no such scheme. Give he, xavier, normal or zeros.")


def _fill(parameter: Tensor | None, value: float) -> None:
    if parameter is not None and not parameter.is_meta:
        nn.init.constant_(parameter, value)


def _fans(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> tuple[int, int]:
    """Return how many values each output value is made of, and how many output values each input value goes into."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    kernel = module.kernel_size[0] * module.kernel_size[1]
    stride = module.stride[0] * module.stride[1]
    inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
    if isinstance(module, nn.ConvTranspose2d):
        # The U-Net's 2 x 2 with stride 2: each output pixel sees one input pixel.
        return inputs * max(1, kernel // stride), outputs * kernel
    return inputs * kernel, outputs * max(1, kernel // stride)
