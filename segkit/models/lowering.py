"""From the layers of a patch CNN to steps whose geometry is known, so that they can run at every position of an image.

What is exactly the same at every position can be lowered: valid convolutions and poolings of any size and stride, batch
norm and dropout at inference, functions of single values, Flatten followed by Linear, global average pooling, and
`CroppedResidual`. Everything else is refused with its name.
"""

import copy
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.errors import ModelError

POINTWISE: Final = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.ReLU6, nn.Softplus,
    nn.Identity,
)  # fmt: skip
ZEROED_IN_TRAINING: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)


class NotConvertibleError(ModelError):
    """A layer of a patch CNN is not the same at every position of an image."""


class CroppedResidual(nn.Module):
    """The sum of a valid sub-network and its input, of which the border that the sub-network loses is cut off."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Return body(x) + the middle of x."""
        changed: Tensor = self.body(x)
        top, left = ((a - b) // 2 for a, b in zip(x.shape[-2:], changed.shape[-2:], strict=True))
        return changed + x[..., top : top + changed.shape[-2], left : left + changed.shape[-1]]


class Step(nn.Module):
    """One operation on a map.

    Attributes
    ----------
    span
        Side of the square of its input that one output needs, undilated.
    stride
        Distance of the inputs of neighbouring outputs.
    is_head
        It was a linear layer.
    """

    span: int = 1
    stride: int = 1
    is_head: bool = False

    def run(self, x: Tensor, *, stride: int, dilation: int) -> Tensor:
        """Return the valid outputs on a map (B, C, H, W), `stride` apart, inputs `dilation` apart."""
        raise NotImplementedError


class Pointwise(Step):
    """A function of single values, or batch norm."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def run(self, x: Tensor, *, stride: int, dilation: int) -> Tensor:  # noqa: ARG002 (the same everywhere)
        """Return function(x)."""
        result: Tensor = self.function(x)
        return result


class Convolution(Step):
    """A valid convolution."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, stride: int, dilation: int, groups: int, is_head: bool
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.stride, self.dilation, self.groups, self.is_head = stride, dilation, groups, is_head
        self.span = (weight.shape[-1] - 1) * dilation + 1

    @property
    def out_channels(self) -> int:
        """Number of maps."""
        return int(self.weight.shape[0])

    def run(self, x: Tensor, *, stride: int, dilation: int) -> Tensor:
        """Return the convolution."""
        return F.conv2d(x, self.weight, self.bias, stride=stride, dilation=dilation * self.dilation, groups=self.groups)


class Maximum(Step):
    """Max pooling."""

    def __init__(self, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation = kernel, stride, dilation
        self.span = (kernel - 1) * dilation + 1

    def run(self, x: Tensor, *, stride: int, dilation: int) -> Tensor:
        """Return the maxima."""
        dilation *= self.dilation
        if stride > 1:
            return F.max_pool2d(x, self.kernel, stride, dilation=dilation)
        # Rows first, then columns: 2 k instead of k^2 comparisons, and no strided kernel.
        for axis in (-2, -1):
            x = _reduce(torch.maximum, x, self.kernel, dilation, axis)
        return x


class Average(Step):
    """Average pooling over kernel x kernel pixels; `divisor` is what the sum is divided by."""

    def __init__(self, kernel: int, stride: int, divisor: int) -> None:
        super().__init__()
        self.span = self.kernel = kernel
        self.stride, self.divisor = stride, divisor

    def run(self, x: Tensor, *, stride: int, dilation: int) -> Tensor:
        """Return the means."""
        if dilation == 1:
            return F.avg_pool2d(x, self.kernel, stride, divisor_override=self.divisor)
        for axis in (-2, -1):
            x = _reduce(torch.add, x, self.kernel, dilation, axis)
        return x / self.divisor


class Residual(Step):
    """`CroppedResidual`, whose body has no stride."""

    def __init__(self, body: list[Step]) -> None:
        super().__init__()
        self.body = nn.ModuleList(body)
        self.span = 1 + sum(step.span - 1 for step in body)

    def run(self, x: Tensor, *, stride: int, dilation: int) -> Tensor:  # noqa: ARG002 (it is 1)
        """Return the body's result plus the middle of the input."""
        changed = x
        for step in self.body:
            assert isinstance(step, Step)
            changed = step.run(changed, stride=1, dilation=dilation)
        start = (self.span - 1) // 2 * dilation
        return changed + x[..., start : start + changed.shape[-2], start : start + changed.shape[-1]]


def lower(layers: nn.Sequential, in_channels: int, patch_px: int) -> list[Step]:
    """Return the steps of a patch CNN.

    Parameters
    ----------
    layers
        The network; Sequentials in it are opened.
    in_channels, patch_px
        Channels and side of the patches that it takes.

    Raises
    ------
    NotConvertibleError
        Naming the first layer that is not the same at every position, and why.
    """
    lowering = _Lowering(in_channels, patch_px)
    lowering.add(layers, "")
    if lowering.size != 1:
        raise NotConvertibleError(
            f"the network leaves {lowering.size} x {lowering.size} values of a patch of {patch_px} px, and not one. "
            "Give it a Flatten and Linear, or global average pooling."
        )
    return lowering.steps


class _Lowering:
    """Follows a patch through the layers: `size` is the side of the map, `flat` whether it was flattened."""

    def __init__(self, channels: int, size: int) -> None:
        self.channels, self.size, self.flat = channels, size, False
        self.steps: list[Step] = []

    def add(self, layer: nn.Module, name: str) -> None:
        """Append the steps of one layer."""
        match layer:
            case nn.Sequential():
                for child_name, child in layer.named_children():
                    self.add(child, f"{name}.{child_name}" if name else child_name)
            case nn.Conv2d():
                self._add_convolution(layer, name)
            case nn.Linear():
                self._add_linear(layer, name)
            case nn.MaxPool2d() | nn.AvgPool2d() | nn.AdaptiveAvgPool2d():
                self._add_pooling(layer, name)
            case nn.BatchNorm2d() | nn.BatchNorm1d():
                _require(layer.track_running_stats, name, layer, "it normalises over the patch that it sees")
                self.steps.append(Pointwise(_norm_of_maps(layer)))
            case nn.Flatten():
                _require(layer.start_dim == 1 and layer.end_dim == -1, name, layer, "it must flatten all but the batch")
                self.flat = True
            case CroppedResidual():
                self._add_residual(layer, name)
            case _ if isinstance(layer, ZEROED_IN_TRAINING):
                pass
            case _ if isinstance(layer, POINTWISE):
                self.steps.append(Pointwise(copy.deepcopy(layer)))
            case _:
                _require(False, name, layer, "it is not known to be the same at every position")

    def _add_convolution(self, layer: nn.Conv2d, name: str) -> None:
        padded = layer.padding not in ("valid", 0, (0, 0))
        _require(not padded, name, layer, f"it pads inside the patch (padding {layer.padding})")
        stride, dilation = _one(layer.stride, name, layer), _one(layer.dilation, name, layer)
        _one(layer.kernel_size, name, layer)
        step = Convolution(
            layer.weight, layer.bias, stride=stride, dilation=dilation, groups=layer.groups, is_head=False
        )
        self._add_spatial(step, name, layer)
        self.channels = layer.out_channels

    def _add_pooling(self, layer: nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d, name: str) -> None:
        step: Step
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            whole = layer.output_size in (1, (1, 1))
            _require(whole, name, layer, f"only an output size of 1 is a plain average, not {layer.output_size}")
            step = Average(self.size, 1, self.size**2)
        else:
            _require(not layer.ceil_mode, name, layer, "ceil_mode takes windows that reach outside the patch")
            _require(layer.padding in (0, (0, 0)), name, layer, "it pads inside the patch")
            kernel, stride = _one(layer.kernel_size, name, layer), _one(layer.stride, name, layer)
            if isinstance(layer, nn.MaxPool2d):
                step = Maximum(kernel, stride, _one(layer.dilation, name, layer))
            else:
                step = Average(kernel, stride, layer.divisor_override or kernel**2)
        self._add_spatial(step, name, layer)

    def _add_linear(self, layer: nn.Linear, name: str) -> None:
        _require(self.flat or self.size == 1, name, layer, "a Flatten must come before it")
        # The weights of a flattened map (C, size, size) are those of a convolution as large as the map.
        weight = layer.weight.reshape(layer.out_features, self.channels, self.size, self.size)
        self._add_spatial(
            Convolution(weight, layer.bias, stride=1, dilation=1, groups=1, is_head=True), name, layer, joins=True
        )
        self.channels = layer.out_features

    def _add_residual(self, layer: CroppedResidual, name: str) -> None:
        inner = _Lowering(self.channels, self.size)
        inner.add(layer.body, f"{name}.body")
        _require(all(step.stride == 1 for step in inner.steps), name, layer, "its body has a stride")
        lost = self.size - inner.size
        _require(lost % 2 == 0, name, layer, f"its body takes off {lost} pixels, and an even number has a middle")
        _require(inner.channels == self.channels, name, layer, "its body changes the number of maps")
        self.steps.append(Residual(inner.steps))
        self.size = inner.size

    def _add_spatial(self, step: Step, name: str, layer: nn.Module, *, joins: bool = False) -> None:
        _require(joins or not self.flat, name, layer, "it comes after a Flatten")
        left = (self.size - step.span) // step.stride + 1
        _require(self.size >= step.span, name, layer, f"it needs {step.span} pixels, and {self.size} are left")
        self.steps.append(step)
        self.size, self.flat = left, False if joins else self.flat


def _norm_of_maps(norm: nn.BatchNorm2d | nn.BatchNorm1d) -> nn.Module:
    """Return a batch norm for maps with the same numbers (after a Linear it is one for vectors)."""
    twin = nn.BatchNorm2d(norm.num_features, eps=norm.eps, affine=norm.affine)
    twin.load_state_dict(norm.state_dict())
    return twin.to(norm.running_mean.dtype if norm.running_mean is not None else torch.float32).eval()


def _reduce(function: object, x: Tensor, count: int, distance: int, axis: int) -> Tensor:
    """Combine `count` copies of x, shifted by `distance` along an axis."""
    length = x.shape[axis] - (count - 1) * distance
    result = x.narrow(axis, 0, length)
    for number in range(1, count):
        result = function(result, x.narrow(axis, number * distance, length))  # type: ignore[operator]
    return result


def _one(value: object, name: str, layer: nn.Module) -> int:
    """Return the size that holds for both axes."""
    sizes = value if isinstance(value, tuple) else (value,)
    _require(len(set(sizes)) == 1, name, layer, f"its height and width differ ({value})")
    assert isinstance(sizes[0], int)
    return sizes[0]


def _require(holds: bool, name: str, layer: nn.Module, why: str) -> None:
    if not holds:
        raise NotConvertibleError(f"layer `{name}` ({type(layer).__name__}) cannot run at every pixel at once: {why}.")
