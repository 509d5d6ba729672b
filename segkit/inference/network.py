"""The network as the pipeline sees it: batches of uint8 pixels in, class ids and probabilities out."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.errors import ResourceError
from segkit.models.inference_form import Precision, inference_form
from segkit.models.model_file import ModelSpec
from segkit.models.unet import UNet


class Prediction(NamedTuple):
    """What the network says of one tile: `mask` (H, W) uint8 class ids, `foreground` (H, W) uint8.

    `foreground` is the probability of not being background, 0..1 scaled to 0..255.
    """

    mask: NDArray[np.uint8]
    foreground: NDArray[np.uint8]


class Predictor:
    """A network in its inference form, on its device.

    Parameters
    ----------
    network, spec
        The network and its description, of which the normalisation is used.
    device, precision
        Where and in which number format it computes.
    dihedral
        Average the class probabilities over the 8 flips and quarter turns of the input.
    """

    def __init__(
        self, network: UNet, spec: ModelSpec, *, device: torch.device, precision: Precision, dihedral: bool
    ) -> None:
        self.spec = spec
        self.device = device
        self.precision = precision
        self.dihedral = dihedral
        self._network = inference_form(network, device, precision)
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        # (v / 255 - mean) / std as one multiplication and one addition.
        std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)
        self._scale = 1 / (255 * std)
        self._shift = -torch.tensor(spec.mean, device=device).view(1, -1, 1, 1) / std

    @torch.inference_mode()
    def probabilities(self, images_BHWC: NDArray[np.uint8], crop: tuple[slice, slice]) -> Tensor:
        """Return class probabilities, float32 (B, classes, h, w), of the cropped output, on the device."""
        pixels = torch.from_numpy(images_BHWC).to(self.device).permute(0, 3, 1, 2)
        images = (pixels * self._scale + self._shift).to(self._dtype).contiguous(memory_format=torch.channels_last)
        if not self.dihedral:
            return self._softmax(images)[(..., *crop)]
        total = torch.zeros((), device=self.device)
        for turns in range(4):
            for mirrored in (False, True):
                variant = torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1))
                output = torch.rot90(
                    self._softmax(variant.contiguous(memory_format=torch.channels_last)), -turns, (-2, -1)
                )
                total = total + (output.flip(-1) if mirrored else output)
        return (total / 8)[(..., *crop)]

    def predict(self, images_BHWC: NDArray[np.uint8], crops: Sequence[tuple[slice, slice]]) -> list[Prediction]:
        """Return the prediction of each image of a batch, cropped to its core.

        Where the device's memory is too small for the batch, the same images are done in halves; the result is
        the same.

        Raises
        ------
        ResourceError
            A single image is too large for the device's memory.
        """
        try:
            whole = (slice(None), slice(None))
            probabilities = self.probabilities(images_BHWC, whole)
            return [_quantised(one[(..., *crop)]) for one, crop in zip(probabilities, crops, strict=True)]
        except torch.OutOfMemoryError as error:
            if len(images_BHWC) == 1:
                raise ResourceError(
                    f"{self.device}: a tile of {images_BHWC.shape[1]} x {images_BHWC.shape[2]} px (halo included) "
                    "does not fit its memory. Use a smaller --tile, or --device cpu."
                ) from error
        half = len(images_BHWC) // 2
        return self.predict(images_BHWC[:half], crops[:half]) + self.predict(images_BHWC[half:], crops[half:])

    def _softmax(self, images: Tensor) -> Tensor:
        # Not torch.softmax, whose last bit depends on where in memory a pixel lies: a tile would differ from the whole.
        logits = self._network(images).float()
        exponentials = torch.exp(logits - logits.amax(dim=1, keepdim=True))
        return exponentials / functools.reduce(torch.add, exponentials.unbind(1)).unsqueeze(1)


def _quantised(probabilities_CHW: Tensor) -> Prediction:
    mask = probabilities_CHW.argmax(dim=0).to(torch.uint8)
    foreground = ((1 - probabilities_CHW[0]) * 255).round().to(torch.uint8)
    return Prediction(mask.cpu().numpy(), foreground.cpu().numpy())
