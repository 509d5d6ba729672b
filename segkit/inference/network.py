"""U-Nets as the pipeline sees them: batches of uint8 pixels in, class ids, probabilities and distances out."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.errors import UsageError
from segkit.geometry import TileGrid
from segkit.inference.averaging import require_alike, softmax_over_classes
from segkit.inference.submission import Crop, Submitter, full_float32
from segkit.models.footprint import META, peak_bytes
from segkit.models.inference_form import Precision, inference_form
from segkit.models.model_file import ModelSpec
from segkit.models.receptive_field import common_grid, mixing_norms, tile_grid
from segkit.models.unet import UNet

Span = tuple[int, int]
"""First row or column, and the first one behind."""


class Prediction(NamedTuple):
    """What the networks say of one tile: `mask` (H, W) uint8 class ids, `foreground` (H, W) uint8.

    `foreground` is the probability of not being background, 0..1 scaled to 0..255.
    """

    mask: NDArray[np.uint8]
    foreground: NDArray[np.uint8]


class FinePrediction(NamedTuple):
    """The same with a third layer: `probability` (H, W) float16, that of not being background, 0..1."""

    mask: NDArray[np.uint8]
    foreground: NDArray[np.uint8]
    probability: NDArray[np.float16]


class InstancePrediction(NamedTuple):
    """What networks for instances say of one tile: a `Prediction` and `distance` (H, W) uint8.

    `distance` is how far inside its object a pixel lies: 255 in the middle, 0 at the border and outside.
    """

    mask: NDArray[np.uint8]
    foreground: NDArray[np.uint8]
    distance: NDArray[np.uint8]


class FineInstancePrediction(NamedTuple):
    """The same with a fourth layer: `probability` (H, W) float16, that of not being background, 0..1."""

    mask: NDArray[np.uint8]
    foreground: NDArray[np.uint8]
    distance: NDArray[np.uint8]
    probability: NDArray[np.float16]


AnyPrediction = Prediction | FinePrediction | InstancePrediction | FineInstancePrediction
_KINDS: dict[tuple[bool, bool], type[AnyPrediction]] = {
    (False, False): Prediction,
    (False, True): FinePrediction,
    (True, False): InstancePrediction,
    (True, True): FineInstancePrediction,
}


class Predictor:
    """One U-Net in its inference form, or several whose probabilities are averaged, on their device.

    Parameters
    ----------
    networks
        Networks with their descriptions; with the same classes, scale and channels.
    device, precision
        Where and in which number format they compute.
    dihedral
        Average class probabilities and distances over the 8 flips and quarter turns of the input.
    float16
        Give the foreground's probability as float16 too: a last layer of the predictions.
    inexact
        Take networks with norms over pixels too, for which no halo makes tiles equal the whole image.

    Attributes
    ----------
    grid
        How tiles are laid, so that all networks are exact.
    has_distance
        Whether they are for instances: predictions have the layer `distance`.

    Raises
    ------
    ModelError
        A layer mixes pixels at inference, and `inexact` is not set.
    UsageError
        The networks do not fit each other.
    """

    def __init__(
        self,
        networks: Sequence[tuple[UNet, ModelSpec]],
        *,
        device: torch.device,
        precision: Precision,
        dihedral: bool,
        float16: bool = False,
        inexact: bool = False,
    ) -> None:
        require_alike([spec for _, spec in networks])
        tasks = sorted({spec.task for _, spec in networks})
        if len(tasks) > 1:
            raise UsageError(f"models whose maps are averaged need the same task: {' and '.join(tasks)} were given.")
        self.spec = networks[0][1]
        self.device, self.precision, self.dihedral, self.float16 = device, precision, dihedral, float16
        self.has_distance = self.spec.task == "instance"
        self._members = [
            self.member(network, spec, tile_grid(network, inexact=inexact), device, precision)
            for network, spec in networks
        ]
        self.grid: TileGrid = common_grid([member.grid for member in self._members])
        self._submitter = Submitter(self.layers, device)

    @property
    def member(self) -> "type[Member]":
        """What one network is."""
        return Member

    def submit(self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]) -> Callable[[], list[AnyPrediction]]:
        """Start the prediction of a batch and return the function that waits for it.

        On a CPU all is done on return. On CUDA copies and computation are only queued; a few batches can be under
        way at once. Where the device's memory is too small for the batch, the same images are done in halves.

        Parameters
        ----------
        images_BHWC
            Pixels of read boxes, uint8.
        crops
            Where each image's core lies in the output, as `grid.crop_in_output` says.

        Raises
        ------
        ResourceError
            A single image is too large for the device's memory.
        """
        result = self._submitter.submit(images_BHWC, crops)
        kind = _KINDS[self.has_distance, self.float16]
        return lambda: [kind(*layers) for layers in result()]

    def predict(self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]) -> list[AnyPrediction]:
        """Return the prediction of each image of a batch, cropped to its core: `submit`, and wait."""
        return self.submit(images_BHWC, crops)()

    def peak_bytes(self, read_px: int, batch: int) -> int:
        """Return the memory that a batch of square images of a side takes on the device, weights not included.

        What the device's libraries take for themselves within an operation comes on top. Nothing is computed.
        """
        core = slice(self.grid.halo - self.grid.margin, max(read_px - self.grid.halo - self.grid.margin, 1))
        twin, shape = self._on_meta, (batch, self.spec.arguments.in_channels, read_px, read_px)
        return peak_bytes(lambda pixels: twin.layers(pixels, [(core, core)] * batch), shape, torch.uint8)

    @functools.cached_property
    def _on_meta(self) -> "Predictor":
        twin = copy.copy(self)
        twin.device, twin._members = META, [member.on_meta() for member in self._members]
        return twin

    @torch.inference_mode()
    def layers(self, pixels_BCHW: Tensor, crops: Sequence[Crop]) -> list[tuple[Tensor, ...]]:
        """Return the layers of each image of a batch of uint8 pixels, cropped to its core; all on the device."""
        bounds = [self._bounds(pixels_BCHW, crop) for crop in crops]
        # One core around all: those of a batch begin at the same pixel, at the image's border some end earlier.
        y, x = ((min(start for start, _ in axis), max(stop for _, stop in axis)) for axis in zip(*bounds, strict=True))
        probabilities = self._average(pixels_BCHW, y, x)
        return [
            self.quantised(one[:, rows[0] - y[0] : rows[1] - y[0], columns[0] - x[0] : columns[1] - x[0]])
            for one, (rows, columns) in zip(probabilities, bounds, strict=True)
        ]

    @torch.inference_mode()
    def probabilities(self, images_BHWC: NDArray[np.uint8], crop: Crop) -> Tensor:
        """Return class probabilities, float32 (B, classes, h, w), of the cropped output, on the device.

        With `has_distance` there is one more map behind those of the classes: the distance, 0..1.
        """
        pixels = torch.from_numpy(images_BHWC).to(self.device).permute(0, 3, 1, 2)
        return self._average(pixels, *self._bounds(pixels, crop))

    def quantised(self, maps_CHW: Tensor) -> tuple[Tensor, ...]:
        """Return the layers of a prediction."""
        mask = maps_CHW[: self.spec.arguments.num_classes].argmax(dim=0).to(torch.uint8)
        probability = 1 - maps_CHW[0]
        layers = [mask, (probability * 255).round().to(torch.uint8)]
        if self.has_distance:
            layers.append((maps_CHW[-1] * 255).round().to(torch.uint8))
        if self.float16:
            layers.append(probability.to(torch.float16))
        return tuple(layers)

    def _bounds(self, pixels_BCHW: Tensor, crop: Crop) -> tuple[Span, Span]:
        """Return the rows and columns of a crop, counted in the image instead of the output."""
        margin = self.grid.margin
        height, width = (side - 2 * margin for side in pixels_BCHW.shape[-2:])
        (top, bottom, _), (left, right, _) = crop[0].indices(height), crop[1].indices(width)
        return (margin + top, margin + bottom), (margin + left, margin + right)

    def _average(self, pixels_BCHW: Tensor, rows: Span, columns: Span) -> Tensor:
        total = torch.zeros((), device=self.device)
        with full_float32(self.device):
            for member in self._members:
                if member.grid == self.grid:
                    found = member.probabilities(pixels_BCHW, rows, columns, dihedral=self.dihedral)
                else:
                    y, x = member.read_span(rows), member.read_span(columns)
                    found = member.probabilities(
                        pixels_BCHW[..., slice(*y), slice(*x)],
                        (rows[0] - y[0], rows[1] - y[0]),
                        (columns[0] - x[0], columns[1] - x[0]),
                        dihedral=self.dihedral,
                    )
                total = total + found
        return total / len(self._members)


class Member:
    """One network in its inference form, with its normalisation. Rows and columns are counted in the image it sees."""

    def __init__(
        self, network: UNet, spec: ModelSpec, grid: TileGrid, device: torch.device, precision: Precision
    ) -> None:
        self.grid = grid
        self._network = inference_form(network, device, precision)
        # Norms over pixels have to see all that a tile has, and not what a trimmed decoder leaves of it.
        self._trims = not mixing_norms(network)
        self._num_classes = spec.arguments.num_classes
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        # (v / 255 - mean) / std as one multiplication and one addition.
        std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)
        self._scale = 1 / (255 * std)
        self._shift = -torch.tensor(spec.mean, device=device).view(1, -1, 1, 1) / std

    def on_meta(self) -> "Member":
        """Return a copy without values."""
        twin = copy.copy(self)
        twin._network = copy.deepcopy(self._network).to(META)
        twin._scale, twin._shift = self._scale.to(META), self._shift.to(META)
        return twin

    def read_span(self, core: Span) -> Span:
        """Return what this network has to see along an axis, of an image that was read for all of them."""
        start = core[0] - self.grid.halo
        return start, start + self.grid.legal_size(max(core[1] - core[0] + 2 * self.grid.halo, self.grid.smallest))

    def probabilities(self, pixels_BCHW: Tensor, rows: Span, columns: Span, *, dihedral: bool) -> Tensor:
        """Return class probabilities and what other maps there are, float32 (B, maps, h, w), of rows and columns."""
        images = (pixels_BCHW * self._scale + self._shift).to(self._dtype)
        if not dihedral:
            return self._maps(images, rows, columns)
        total = torch.zeros((), device=images.device)
        for turns in range(4):
            for mirrored in (False, True):
                variant, y, x = images, rows, columns
                if mirrored:
                    variant, x = variant.flip(-1), (variant.shape[-1] - x[1], variant.shape[-1] - x[0])
                for _ in range(turns):
                    y, x = (variant.shape[-1] - x[1], variant.shape[-1] - x[0]), y
                    variant = torch.rot90(variant, 1, (-2, -1))
                output = torch.rot90(self._maps(variant, y, x), -turns, (-2, -1))
                total = total + (output.flip(-1) if mirrored else output)
        return total / 8

    def activated(self, logits: Tensor) -> Tensor:
        """Return the maps, float32 (B, maps, h, w) in 0..1, of what the network says."""
        classes = softmax_over_classes(logits[:, : self._num_classes])
        if logits.shape[1] == self._num_classes:
            return classes
        return torch.cat([classes, sigmoid(logits[:, self._num_classes :])], dim=1)

    def _maps(self, images: Tensor, rows: Span, columns: Span) -> Tensor:
        margin = self.grid.margin
        core = slice(rows[0] - margin, rows[1] - margin), slice(columns[0] - margin, columns[1] - margin)
        images = images.contiguous(memory_format=torch.channels_last)
        return self.activated(self._network(images, core) if self._trims else self._network(images)[(..., *core)])


def sigmoid(logits: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-logits)), float32. Not torch.sigmoid: see `softmax_over_classes`."""
    return 1 / (1 + torch.exp(-logits.float()))
