"""Networks as other programs take them: raw pixel values in, probabilities out, all that is between in one graph."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from segkit.errors import UsageError
from segkit.models.dense import DenseNetwork
from segkit.models.inference_form import fold_batch_norm
from segkit.models.lowering import Step
from segkit.models.model_file import Model
from segkit.models.patch_cnn import PatchCNN
from segkit.models.unet import UNet

Kind = Literal["map", "patch", "dense"]
InputType = Literal["float32", "uint8"]
OutputValues = Literal["probabilities", "logits"]
INPUT_NAME = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Which heights and widths a graph takes, and which come out.

    Attributes
    ----------
    step, offset
        Legal sizes are `step * n + offset` with n >= 2; with a step of 0 there is but one, the offset.
    margin
        Pixels that the output lacks on each side (valid convolutions of a U-Net).
    stride
        Pixels from one output to the next.
    """

    step: int
    offset: int
    margin: int = 0
    stride: int = 1

    @property
    def smallest(self) -> int:
        """The smallest legal size. PyTorch's exporter takes a single step for a constant, so there are two."""
        return 2 * self.step + self.offset

    def legal_size(self, minimum: int) -> int:
        """Return the smallest legal size that is at least `minimum`, or the only one."""
        if not self.step:
            return self.offset
        return self.step * max(2, -(-(minimum - self.offset) // self.step)) + self.offset

    @property
    def are_kept(self) -> bool:
        """Whether height and width of the output are those of the input."""
        return self.step > 0 and self.stride == 1 and self.offset == 0


class ExportForm(nn.Module):
    """A trained network with its normalisation before and its softmax or sigmoid behind it, batch norm folded.

    Parameters
    ----------
    model
        What is exported.
    dense
        A patch CNN at every `stride`-th pixel of an image instead of on single patches.
    stride
        Of the dense form; None: the one that the model was validated with.
    input_type
        Type of the input's values, which are 0..255 either way.
    values
        What comes out: probabilities, or the network's own values before softmax and sigmoid.

    Attributes
    ----------
    kind
        `map`: a U-Net. `patch`: a patch CNN on single patches. `dense`: one at many pixels of an image.
    channels
        Of the input.
    sizes
        Legal heights and widths.
    output_names
        In the order of the outputs.

    Raises
    ------
    NotConvertibleError
        The dense form was asked for, and a layer of the patch CNN is in its way.
    UsageError
        The model is a U-Net, and a dense form was asked for; a stride without one.
    """

    def __init__(
        self,
        model: Model,
        *,
        dense: bool = False,
        stride: int | None = None,
        input_type: InputType = "float32",
        values: OutputValues = "probabilities",
    ) -> None:
        super().__init__()
        spec = model.spec
        if stride is not None and not dense:
            raise UsageError(f"--stride {stride}: is for the dense form of a patch CNN. Give --dense, too.")
        if dense and isinstance(model.network, UNet):
            raise UsageError(f"{model.path}: is a U-Net, whose output is a map as it is. Leave --dense away.")
        self.input_type: InputType = input_type
        self.channels: int = spec.arguments.in_channels
        network = fold_batch_norm(copy.deepcopy(model.network).to("cpu", torch.float32)).eval().requires_grad_(False)
        if isinstance(network, UNet):
            self.kind: Kind = "map"
            self.network: nn.Module = network
            grid = model.grid
            self.sizes = Sizes(step=grid.alignment, offset=grid.size_offset, margin=grid.margin)
        else:
            assert isinstance(network, PatchCNN)
            assert spec.detection is not None, "validated with the model"
            patch_px = network.patch_px
            if dense:
                self.kind = "dense"
                stride = stride or spec.detection.stride
                self.network = _WholeImage(
                    DenseNetwork(
                        network.layers, in_channels=self.channels, patch_px=patch_px, stride=stride, form="atrous"
                    )
                )
                self.sizes = Sizes(step=stride, offset=patch_px - stride, stride=stride)
            else:
                self.kind, self.network = "patch", network
                self.sizes = Sizes(step=0, offset=patch_px)
        self._probabilities = values == "probabilities"
        # A U-Net for points has no background: its maps are told apart by a sigmoid each.
        self._num_softmax = 0 if spec.task == "points" and self.kind == "map" else len(spec.classes)
        self.output_names = output_names(spec.task, self.kind, values)
        # (v / 255 - mean) / std as one multiplication and one addition.
        std = torch.tensor(spec.std).view(1, -1, 1, 1)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -torch.tensor(spec.mean).view(1, -1, 1, 1) / std)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for images (B, channels, H, W) of values 0..255."""
        pixels = image.to(torch.float32) if self.input_type == "uint8" else image
        logits: Tensor = self.network(pixels * self.get_buffer("scale") + self.get_buffer("shift"))
        if self.kind == "patch":
            logits = logits.flatten(1)
        return self.outputs_of(logits)

    def outputs_of(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs that the network's own values (B, maps, ...) become."""
        classes, others = logits[:, : self._num_softmax], logits[:, self._num_softmax :]
        outputs = [torch.softmax(classes, dim=1) if self._probabilities else classes] if self._num_softmax else []
        if len(outputs) < len(self.output_names):
            outputs.append(torch.sigmoid(others) if self._probabilities else others)
        return tuple(outputs)


def output_names(task: str, kind: Kind, values: OutputValues) -> tuple[str, ...]:
    """Return what the outputs of a model for a task are called, in their order."""
    if task == "points" and kind == "map":
        return ("heat",) if values == "probabilities" else ("heat_logits",)
    if task == "instance":
        return ("probabilities", "distance") if values == "probabilities" else ("logits", "distance_logits")
    return (values,)


class _WholeImage(nn.Module):
    """A dense network in its a-trous form without pieces and padding: one graph for images of any size.

    Rows and columns have to be those of whole numbers of windows: `patch_px + stride * (n - 1)`.
    """

    def __init__(self, dense: DenseNetwork) -> None:
        super().__init__()
        self.steps = nn.ModuleList([*dense.body, *dense.head])
        self.kept, self.stride, self.patch_px = dense.kept, dense.stride, dense.patch_px

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, classes, h, w), as `DenseNetwork.forward`."""
        height, width = (1 + (side - self.patch_px) // self.stride for side in images_BCHW.shape[-2:])
        x, dilation, cumulative = images_BCHW, 1, 1
        for step in self.steps:
            assert isinstance(step, Step)
            strided = cumulative * step.stride <= self.kept
            x = step.run(x, stride=step.stride if strided else 1, dilation=dilation)
            cumulative *= step.stride
            dilation *= 1 if strided else step.stride
        skip = self.stride // self.kept
        # Where poolings leave pixels of the patch over, there are a few windows more than whole patches.
        return x[..., ::skip, ::skip][..., :height, :width]


def dynamic_shapes(form: ExportForm) -> dict[str, dict[int, object]]:
    """Return which axes of the input are free, as `torch.export.export` takes them."""
    axes: dict[int, object] = {0: torch.export.Dim("batch", min=1)}
    if form.sizes.step:
        axes |= {2: _axis("height_steps", form.sizes), 3: _axis("width_steps", form.sizes)}
    return {INPUT_NAME: axes}


def _axis(name: str, sizes: Sizes) -> object:
    steps = torch.export.Dim(name, min=2)
    scaled = sizes.step * steps if sizes.step > 1 else steps
    return scaled + sizes.offset if sizes.offset else scaled


def example_input(form: ExportForm, steps: Sequence[int] = (3, 4)) -> Tensor:
    """Return a batch of two images of legal sizes, of zeros, to export the graph with."""
    height, width = (form.sizes.step * count + form.sizes.offset for count in steps)
    return torch.zeros(2, form.channels, height, width, dtype=getattr(torch, form.input_type))
