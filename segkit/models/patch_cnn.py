"""Patch CNNs: networks that say the class of the pixel in the middle of a square patch.

All are plain sequences of valid convolutions, poolings and a head, so that `segkit.models.dense` can run them at every
pixel of an image at once. `dnn1` and `dnn2` are those of Ciresan, Giusti, Gambardella and Schmidhuber, "Mitosis
detection in breast cancer histology images with deep neural networks" (MICCAI 2013), layer for layer; ReLU is our
choice, the paper names no activation. `linear` and `mlp` see the same patch without any convolution: they show what
depth buys.
"""

import math
from typing import Literal, get_args

from torch import Tensor, nn

from segkit.errors import ConfigError
from segkit.models.initialisation import initialise

Form = Literal["modern", "dnn1", "dnn2", "lenet", "vgg", "mlp", "linear"]
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

    Raises
    ------
    ConfigError
        The patch is too small for so many poolings, or the form has another fixed size.
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
    ) -> None:
        super().__init__()
        self.patch_px = patch_px
        _require_fixed(form, patch_px, base_channels, depth)
        build = {
            "modern": _modern,
            "dnn1": _ciresan,
            "dnn2": _ciresan,
            "lenet": _lenet,
            "vgg": _vgg,
            "mlp": _mlp,
            "linear": _linear,
        }[form]
        self.layers = nn.Sequential(
            *build(form, in_channels, num_classes, patch_px, base_channels, depth, nn.Dropout(dropout))
        )
        initialise(self)

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


def _ciresan(
    form: Form, channels: int, classes: int, size: int, maps: int, _depth: int, dropout: nn.Module
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for kernel in _CIRESAN_KERNELS[form]:
        layers += [nn.Conv2d(channels, maps, kernel), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels, size = maps, (size - kernel + 1) // 2
    head = [nn.Flatten(), dropout, nn.Linear(size**2 * maps, _HIDDEN), nn.ReLU(inplace=True)]
    return [*layers, *head, nn.Linear(_HIDDEN, classes)]


def _modern(
    form: Form, channels: int, classes: int, size: int, maps: int, depth: int, dropout: nn.Module
) -> list[nn.Module]:
    # Run densely, every layer works at full resolution: late layers cost most, so they stay narrow.
    widths = [maps, maps * 3 // 2, 2 * maps]
    layers: list[nn.Module] = []
    for number in range(depth):
        kernel = 4 if size % 2 else 3  # leaves an even size, so that pooling drops nothing
        width = widths[min(number, 2)]
        layers += [*_normed(channels, width, kernel), nn.MaxPool2d(2)]
        channels, size = width, (size - kernel + 1) // 2
        _require_left(form, size, depth)
    while size > 4:
        layers += _normed(channels, 2 * maps, 3)
        channels, size = 2 * maps, size - 2
    return [*layers, *_normed(channels, 2 * maps, size), dropout, nn.Conv2d(2 * maps, classes, 1)]


def _vgg(
    form: Form, channels: int, classes: int, size: int, maps: int, depth: int, dropout: nn.Module
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [*_normed(channels, maps, 3), *_normed(maps, maps, 3), nn.MaxPool2d(2)]
        channels, maps, size = maps, 2 * maps, (size - 4) // 2
        _require_left(form, size, depth)
    head = [nn.Flatten(), dropout, nn.Linear(size**2 * channels, 4 * channels), nn.ReLU(inplace=True)]
    return [*layers, *head, nn.Linear(4 * channels, classes)]


def _lenet(
    form: Form, channels: int, classes: int, size: int, maps: int, depth: int, dropout: nn.Module
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, maps, 5), nn.Tanh(), nn.AvgPool2d(2)]
        channels, maps, size = maps, maps * 8 // 3, (size - 4) // 2
        _require_left(form, size, depth)
    head = [nn.Flatten(), dropout, nn.Linear(size**2 * channels, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh()]
    return [*layers, *head, nn.Linear(84, classes)]


def _mlp(
    _form: Form, channels: int, classes: int, size: int, _maps: int, _depth: int, dropout: nn.Module
) -> list[nn.Module]:
    hidden = [nn.Linear(size**2 * channels, _HIDDEN), nn.ReLU(inplace=True)]
    return [nn.Flatten(), *hidden, dropout, nn.Linear(_HIDDEN, classes)]


def _linear(
    _form: Form, channels: int, classes: int, size: int, _maps: int, _depth: int, _dropout: nn.Module
) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(size**2 * channels, classes)]


def _normed(channels: int, maps: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, maps, kernel, bias=False), nn.BatchNorm2d(maps), nn.ReLU(inplace=True)]


def _require_left(form: Form, size: int, depth: int) -> None:
    if size < 1:
        raise ConfigError(
            f"patches.size_px is too small for model.form = {form} with model.depth = {depth}: nothing is left of the "
            "patch. Give a larger patch or fewer poolings."
        )
