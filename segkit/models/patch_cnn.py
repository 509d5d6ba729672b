"""Patch CNNs: networks that say the class of the pixel in the middle of a square patch.

All are plain sequences of valid convolutions, poolings and a head, so that `segkit.models.dense` can run them at every
pixel of an image at once. `dnn1` and `dnn2` are those of Ciresan, Giusti, Gambardella and Schmidhuber, "Mitosis
detection in breast cancer histology images with deep neural networks" (MICCAI 2013), layer for layer; ReLU is our
choice, the paper names no activation. `linear` and `mlp` see the same patch without any convolution: they show what
depth buys.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.activations import ActivationName, make_activation
from segkit.models.initialisation import InitScheme, initialise

Form = Literal["modern", "dnn1", "dnn2", "lenet", "vgg", "mlp", "linear"]
Norm = Literal["batch", "none"]
FORMS: tuple[Form, ...] = get_args(Form)
CIRESAN_PX = 101
CIRESAN_MAPS = 16
_CIRESAN_KERNELS = {"dnn1": (2, 3, 3, 2, 2), "dnn2": (4, 4, 4, 3)}
_HIDDEN = 100  # units of the paper's fully connected layer


class PatchCNN(nn.Module):
    """A network for patches of `patch_px` pixels; its layers lie in one `nn.Sequential`.

    Parameters
    ----------
    in_channels
        Channels of the input.
    num_classes
        Classes, background included.
    form
        `modern`: per pooling one convolution with batch norm, maps growing to twice as many, 3 x 3 convolutions until
        at most 4 pixels are left, and one over these.
        `dnn1`, `dnn2`: the paper's. `lenet`: two 5 x 5 convolutions with average pooling and tanh, three linear layers
        (LeCun et al. 1998). `vgg`: two 3 x 3 convolutions per pooling with batch norm, two linear layers. `mlp`: one
        hidden layer. `linear`: logistic regression.
    patch_px
        Side of the patch.
    base_channels
        Maps of the first layer (`mlp`, `linear`: of no meaning).
    depth
        Number of 2 x 2 poolings (`mlp`, `linear`: of no meaning).
    dropout
        Probability of dropping a value before the head, while training.
    activation
        Between the layers (`segkit.models.activations`; `linear`: of no meaning). None: the form's own, tanh for
        `lenet`, ReLU for all others.
    norm
        `batch`: every convolution is followed by batch norm instead of having a bias; `none`: by nothing (`mlp`,
        `linear`: of no meaning). None: the form's own, batch norm for `modern` and `vgg`.
    init
        How the weights begin (`segkit.models.initialisation`); of no meaning once weights are loaded.

    Raises
    ------
    ConfigError
        The patch is too small for so many poolings, or the form has another fixed size; there is no such activation
        or scheme.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        form: Form = "modern",
        patch_px: int,
        base_channels: int = 32,
        depth: int = 2,
        dropout: float = 0.0,
        activation: ActivationName | None = None,
        norm: Norm | None = None,
        init: InitScheme = "he",
    ) -> None:
        super().__init__()
        self.patch_px = patch_px
        _require_fixed(form, patch_px, base_channels, depth)
        plan = _Plan(
            form=form,
            channels=in_channels,
            classes=num_classes,
            size=patch_px,
            maps=base_channels,
            depth=depth,
            dropout=dropout,
            activation=activation or usual_activation(form),
            norm=norm or usual_norm(form),
        )
        build = {
            "modern": _modern,
            "dnn1": _ciresan,
            "dnn2": _ciresan,
            "lenet": _lenet,
            "vgg": _vgg,
            "mlp": _mlp,
            "linear": _linear,
        }[form]
        self.layers = nn.Sequential(*build(plan))
        initialise(self, init, plan.activation)

    def forward(self, patches_BCHW: Tensor) -> Tensor:
        """Return class scores (logits), float (B, classes, 1, 1), of patches (B, C, patch_px, patch_px)."""
        scores: Tensor = self.layers(patches_BCHW)
        return scores.flatten(1)[..., None, None]


def usual_depth(form: Form, patch_px: int) -> int:
    """Return the number of poolings that leaves a map of about 8 pixels; the paper's networks have their own."""
    if form in _CIRESAN_KERNELS:
        return len(_CIRESAN_KERNELS[form])
    return 2 if form == "lenet" else max(1, round(math.log2(patch_px / 8)))


def usual_base_channels(form: Form) -> int:
    """Return the usual number of maps of the first layer."""
    return {"dnn1": CIRESAN_MAPS, "dnn2": CIRESAN_MAPS, "lenet": 6}.get(form, 32)


def usual_activation(form: Form) -> ActivationName:
    """Return the form's own activation."""
    return "tanh" if form == "lenet" else "relu"


def usual_norm(form: Form) -> Norm:
    """Return the form's own norm."""
    return "batch" if form in {"modern", "vgg"} else "none"


def _require_fixed(form: Form, patch_px: int, base_channels: int, depth: int) -> None:
    if form in _CIRESAN_KERNELS:
        for key, given, fixed in (
            ("patches.size_px", patch_px, CIRESAN_PX),
            ("model.base_channels", base_channels, CIRESAN_MAPS),
            ("model.depth", depth, usual_depth(form, patch_px)),
        ):
            if given != fixed:
                raise ConfigError(
                    f"{key} = {given}: the paper's {form} has {fixed}. Leave it out, or take model.form=modern."
                )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a form is built from: the arguments of `PatchCNN`, with its own activation and norm filled in."""

    form: Form
    channels: int
    classes: int
    size: int
    maps: int
    depth: int
    dropout: float
    activation: ActivationName
    norm: Norm

    def convolution(self, channels: int, maps: int, kernel: int) -> list[nn.Module]:
        """Return a convolution with what follows it; batch norm brings a shift of its own, so it takes no bias."""
        if self.norm == "none":
            return [nn.Conv2d(channels, maps, kernel), make_activation(self.activation)]
        convolution = nn.Conv2d(channels, maps, kernel, bias=False)
        return [convolution, nn.BatchNorm2d(maps), make_activation(self.activation)]

    def linear(self, inputs: int, outputs: int) -> list[nn.Module]:
        """Return a hidden linear layer."""
        return [nn.Linear(inputs, outputs), make_activation(self.activation)]


def _ciresan(plan: _Plan) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels, size = plan.channels, plan.size
    for kernel in _CIRESAN_KERNELS[plan.form]:
        layers += [*plan.convolution(channels, plan.maps, kernel), nn.MaxPool2d(2)]
        channels, size = plan.maps, (size - kernel + 1) // 2
    head = [nn.Flatten(), nn.Dropout(plan.dropout), *plan.linear(size**2 * channels, _HIDDEN)]
    return [*layers, *head, nn.Linear(_HIDDEN, plan.classes)]


def _modern(plan: _Plan) -> list[nn.Module]:
    # Run densely, every layer works at full resolution: late layers cost most, so they stay narrow.
    widths = [plan.maps, plan.maps * 3 // 2, 2 * plan.maps]
    layers: list[nn.Module] = []
    channels, size = plan.channels, plan.size
    for number in range(plan.depth):
        kernel = 4 if size % 2 else 3  # leaves an even size, so that pooling drops nothing
        width = widths[min(number, 2)]
        layers += [*plan.convolution(channels, width, kernel), nn.MaxPool2d(2)]
        channels, size = width, (size - kernel + 1) // 2
        _require_left(plan.form, size, plan.depth)
    while size > 4:
        layers += plan.convolution(channels, widths[2], 3)
        channels, size = widths[2], size - 2
    head = [*plan.convolution(channels, widths[2], size), nn.Dropout(plan.dropout)]
    return [*layers, *head, nn.Conv2d(widths[2], plan.classes, 1)]


def _vgg(plan: _Plan) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels, maps, size = plan.channels, plan.maps, plan.size
    for _ in range(plan.depth):
        layers += [*plan.convolution(channels, maps, 3), *plan.convolution(maps, maps, 3), nn.MaxPool2d(2)]
        channels, maps, size = maps, 2 * maps, (size - 4) // 2
        _require_left(plan.form, size, plan.depth)
    head = [nn.Flatten(), nn.Dropout(plan.dropout), *plan.linear(size**2 * channels, 4 * channels)]
    return [*layers, *head, nn.Linear(4 * channels, plan.classes)]


def _lenet(plan: _Plan) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels, maps, size = plan.channels, plan.maps, plan.size
    for _ in range(plan.depth):
        layers += [*plan.convolution(channels, maps, 5), nn.AvgPool2d(2)]
        channels, maps, size = maps, maps * 8 // 3, (size - 4) // 2
        _require_left(plan.form, size, plan.depth)
    head = [nn.Flatten(), nn.Dropout(plan.dropout), *plan.linear(size**2 * channels, 120), *plan.linear(120, 84)]
    return [*layers, *head, nn.Linear(84, plan.classes)]


def _mlp(plan: _Plan) -> list[nn.Module]:
    hidden = plan.linear(plan.size**2 * plan.channels, _HIDDEN)
    return [nn.Flatten(), *hidden, nn.Dropout(plan.dropout), nn.Linear(_HIDDEN, plan.classes)]


def _linear(plan: _Plan) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(plan.size**2 * plan.channels, plan.classes)]


def _require_left(form: Form, size: int, depth: int) -> None:
    if size < 1:
        raise ConfigError(
            f"patches.size_px is too small for model.form = {form} with model.depth = {depth}: nothing is left of the "
            "patch. Give a larger patch or fewer poolings."
        )
