"""Patch CNNs as the pipeline sees them: tiles of uint8 pixels in, class probabilities at every window out."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.geometry import TileGrid
from segkit.inference.averaging import require_alike, softmax_over_classes
from segkit.inference.submission import Submitter, full_float32
from segkit.models.dense import DenseNetwork
from segkit.models.footprint import META, peak_bytes
from segkit.models.inference_form import Precision, inference_form
from segkit.models.lowering import NotConvertibleError
from segkit.models.model_file import ModelSpec
from segkit.models.patch_cnn import PatchCNN
from segkit.points import FULL_SCORE

Method = Literal["auto", "dense", "fragments", "atrous", "naive"]
_Method = Literal["fragments", "atrous", "naive"]
NAIVE_BATCH = 256


class WindowPrediction(NamedTuple):
    """`scores` uint16 (h, w, K): the probability of each foreground class, 0..1 scaled to 0..65,535."""

    scores: NDArray[np.uint16]


class NaiveNetwork(nn.Module):
    """A patch CNN that is run on every patch by itself, in batches: what the dense forms have to equal."""

    def __init__(self, layers: nn.Sequential, *, patch_px: int, stride: int) -> None:
        super().__init__()
        self.layers, self.patch_px, self.stride = layers, patch_px, stride

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits, float (B, classes, h, w), as `DenseNetwork.forward`."""
        windows = images_BCHW.unfold(2, self.patch_px, self.stride).unfold(3, self.patch_px, self.stride)
        batch, _, height, width = windows.shape[:4]
        places = torch.cartesian_prod(torch.arange(batch), torch.arange(height), torch.arange(width))
        logits = [
            self.layers(windows[part[:, 0], :, part[:, 1], part[:, 2]].contiguous(memory_format=torch.channels_last))
            for part in torch.split(places.to(images_BCHW.device), NAIVE_BATCH)
        ]
        return torch.cat(logits).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


class WindowPredictor:
    """One patch CNN, or several whose probabilities are averaged, at every `stride`-th pixel.

    Parameters
    ----------
    networks
        Networks with their descriptions; with the same classes, scale and channels.
    device, precision
        Where and in which number format they compute.
    stride
        Pixels from one window to the next.
    method
        As in `SlidingWindowConfig`; `auto` is `dense` where all networks can be converted.
    dihedral
        Average over the 8 flips and quarter turns of each window.

    Attributes
    ----------
    grid
        How tiles are laid. The window of a pixel begins `patch_px // 2` pixels before it.
    method
        What was chosen: fragments, atrous or naive.
    reason
        Why it is naive although that was not asked for; None otherwise.

    Raises
    ------
    NotConvertibleError
        A dense method was asked for and a layer of a network is in its way.
    UsageError
        The networks do not fit each other.
    """

    def __init__(
        self,
        networks: Sequence[tuple[PatchCNN, ModelSpec]],
        *,
        device: torch.device,
        precision: Precision,
        stride: int = 1,
        method: Method = "auto",
        dihedral: bool = False,
    ) -> None:
        require_alike([spec for _, spec in networks])
        self.spec = networks[0][1]
        self.device, self.precision, self.stride, self.dihedral = device, precision, stride, dihedral
        self.reason: str | None = None
        chosen = _chosen(method, device)
        try:
            self._members = [_Member(network, spec, stride, chosen, device, precision) for network, spec in networks]
        except NotConvertibleError as error:
            if method != "auto":
                raise
            chosen, self.reason = "naive", error.message
            self._members = [_Member(network, spec, stride, chosen, device, precision) for network, spec in networks]
        self.method = chosen
        self._submitter = Submitter(self._quantised, device)
        halo = max(member.patch_px // 2 for member in self._members)
        self.grid = TileGrid(
            alignment=stride,
            halo=halo,
            margin=halo,
            size_offset=2 * halo % stride,
            # All layers are then large enough to be added up in the same order whatever the tile, as for U-Nets: 144
            # grey pixels are more than 20,480 values, and maps behind a stride are as large.
            smallest=2 * halo + max(144, 36 * stride),
            stride=stride,
        )

    def submit(
        self, images_BHWC: NDArray[np.uint8], crops: Sequence[tuple[slice, slice]]
    ) -> Callable[[], list[WindowPrediction]]:
        """Start a batch of images, each to be cropped to its core; return the function that waits for the predictions.

        See `segkit.inference.submission.Submitter` for what happens then, also where memory is short.

        Raises
        ------
        ResourceError
            An image is too large for the device's memory.
        """
        result = self._submitter.submit(images_BHWC, crops)
        return lambda: [WindowPrediction(scores.view(np.uint16)) for (scores,) in result()]

    def predict(self, images_BHWC: NDArray[np.uint8], crops: Sequence[tuple[slice, slice]]) -> list[WindowPrediction]:
        """Return the prediction of each image of a batch, cropped to its core; see `submit`."""
        return self.submit(images_BHWC, crops)()

    def peak_bytes(self, read_px: int, batch: int) -> int:
        """Return the memory that a batch of square images of a side takes on the device, weights not included.

        What the device's libraries take for themselves within an operation comes on top. Nothing is computed.
        """
        channels = self.spec.arguments.in_channels
        return peak_bytes(
            lambda pixels: self._on_meta._quantised(pixels, [(slice(None), slice(None))] * batch),
            (batch, channels, read_px, read_px),
            torch.uint8,
        )

    @functools.cached_property
    def _on_meta(self) -> "WindowPredictor":
        twin = copy.copy(self)
        twin.device, twin._members = META, [member.on_meta() for member in self._members]
        return twin

    def probabilities(self, images_BHWC: NDArray[np.uint8]) -> Tensor:
        """Return class probabilities, float32 (B, classes, h, w), of the windows around (i, j) * stride of the core."""
        return self._probabilities(torch.from_numpy(images_BHWC).to(self.device).permute(0, 3, 1, 2))

    def _quantised(self, pixels_BCHW: Tensor, crops: Sequence[tuple[slice, slice]]) -> list[tuple[Tensor, ...]]:
        """Return the scores of each image, int16 (h, w, K), whose bits are those of uint16: half as much to copy."""
        probabilities = self._probabilities(pixels_BCHW)
        scores = (probabilities[:, 1:] * FULL_SCORE).round().to(torch.int32).to(torch.int16).permute(0, 2, 3, 1)
        return [(one[crop].contiguous(),) for one, crop in zip(scores, crops, strict=True)]

    @torch.inference_mode()
    def _probabilities(self, pixels: Tensor) -> Tensor:
        total = torch.zeros((), device=self.device)
        for member in self._members:
            # The largest patch needs the whole read box, a smaller one its middle.
            count = [1 + (side - 2 * self.grid.halo - 1) // self.stride for side in pixels.shape[-2:]]
            start = self.grid.halo - member.patch_px // 2
            rows, columns = (slice(start, start + (one - 1) * self.stride + member.patch_px) for one in count)
            with full_float32(self.device):
                total = total + member.probabilities(pixels[..., rows, columns], dihedral=self.dihedral)
        return total / len(self._members)


class _Member:
    """One network in its inference form, with its normalisation."""

    def __init__(
        self,
        network: PatchCNN,
        spec: ModelSpec,
        stride: int,
        method: _Method,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.patch_px = network.patch_px
        folded = inference_form(network.layers, device, precision)
        assert isinstance(folded, nn.Sequential)
        if method == "naive":
            self._network: nn.Module = NaiveNetwork(folded, patch_px=network.patch_px, stride=stride)
        else:
            self._network = DenseNetwork(
                folded, in_channels=spec.arguments.in_channels, patch_px=network.patch_px, stride=stride, form=method
            ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)
        self._scale = 1 / (255 * std)
        self._shift = -torch.tensor(spec.mean, device=device).view(1, -1, 1, 1) / std

    def on_meta(self) -> "_Member":
        """Return the same without values, for finding out how much memory it takes."""
        twin = copy.copy(self)
        twin._network = copy.deepcopy(self._network).to(META)
        twin._scale, twin._shift = self._scale.to(META), self._shift.to(META)
        return twin

    def probabilities(self, pixels_BCHW: Tensor, *, dihedral: bool) -> Tensor:
        """Return class probabilities of uint8 pixels, whose size is that of a whole number of windows."""
        images = (pixels_BCHW * self._scale + self._shift).to(self._dtype)
        if not dihedral:
            return self._softmax(images)
        total = torch.zeros((), device=images.device)
        for turns in range(4):
            for mirrored in (False, True):
                output = torch.rot90(
                    self._softmax(torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1))),
                    -turns,
                    (-2, -1),
                )
                total = total + (output.flip(-1) if mirrored else output)
        return total / 8

    def _softmax(self, images: Tensor) -> Tensor:
        return softmax_over_classes(self._network(images.contiguous(memory_format=torch.channels_last)))


def _chosen(method: Method, device: torch.device) -> _Method:
    """Return the method, of the dense forms the faster one as measured on a CPU (BENCHMARKS.md)."""
    match method:
        case "auto" | "dense":
            return "fragments" if device.type == "cuda" else "atrous"
        case _:
            return method
