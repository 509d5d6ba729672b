"""U-Nets that find points, as the pipeline sees them: tiles of uint8 pixels in, a heat map for each class out.

The maps come from the U-Net's exact tiles at the full resolution, as scores in the same form as those of a patch CNN
with a stride of 1 (see `segkit.inference.window`), so that what makes detections of the one makes them of the other.
A pixel's score is no probability that sums up with others: it says how near a point of that class is.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.geometry import TileGrid
from segkit.inference.network import Member, Predictor, sigmoid
from segkit.inference.submission import Crop, Submitter
from segkit.inference.window import WindowPrediction
from segkit.models.inference_form import Precision
from segkit.models.model_file import ModelSpec
from segkit.models.unet import UNet
from segkit.points import FULL_SCORE


class HeatPredictor:
    """One U-Net that finds points, or several whose heat maps are averaged; what `WindowPredictor` is to patch CNNs.

    Parameters
    ----------
    networks
        Networks with their descriptions; with the same classes, scale and channels.
    device, precision
        Where and in which number format they compute.
    dihedral
        Average the maps over the 8 flips and quarter turns of the input.
    inexact
        Take networks with norms over pixels too, for which no halo makes tiles equal the whole image.

    Attributes
    ----------
    maps
        The networks as they compute the averaged maps.
    grid
        How tiles are laid, so that all networks are exact.
    stride
        Pixels from one map pixel to the next: 1.

    Raises
    ------
    ModelError
        A layer mixes pixels at inference, and `inexact` is not set.
    UsageError
        The networks do not fit each other.
    """

    stride = 1

    def __init__(
        self,
        networks: Sequence[tuple[UNet, ModelSpec]],
        *,
        device: torch.device,
        precision: Precision,
        dihedral: bool = False,
        inexact: bool = False,
    ) -> None:
        self.maps = _HeatMaps(networks, device=device, precision=precision, dihedral=dihedral, inexact=inexact)
        self.spec, self.device, self.precision = self.maps.spec, device, precision
        self.grid: TileGrid = self.maps.grid
        self._submitter = Submitter(self.maps.layers, device)

    def submit(self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]) -> Callable[[], list[WindowPrediction]]:
        """Start a batch of images, each to be cropped to its core; return the function that waits for the predictions.

        See `segkit.inference.submission.Submitter` for what happens then, also where memory is short.

        Raises
        ------
        ResourceError
            An image is too large for the device's memory.
        """
        result = self._submitter.submit(images_BHWC, crops)
        return lambda: [WindowPrediction(scores.view(np.uint16)) for (scores,) in result()]

    def predict(self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]) -> list[WindowPrediction]:
        """Return the prediction of each image of a batch, cropped to its core; see `submit`."""
        return self.submit(images_BHWC, crops)()

    def probabilities(self, images_BHWC: NDArray[np.uint8], crop: Crop) -> Tensor:
        """Return the heat of each foreground class, float32 (B, K, h, w) in 0..1, of the cropped output."""
        return self.maps.probabilities(images_BHWC, crop)

    def peak_bytes(self, read_px: int, batch: int) -> int:
        """Return the memory that a batch of square images of a side takes on the device, weights not included."""
        return self.maps.peak_bytes(read_px, batch)


class _HeatMaps(Predictor):
    """The networks of `Predictor`, with a sigmoid on each map instead of a softmax over all."""

    @property
    def member(self) -> type[Member]:
        """What one network is."""
        return _HeatMember

    def quantised(self, maps_CHW: Tensor) -> tuple[Tensor, ...]:
        """Return the scores, int16 (h, w, K), whose bits are those of uint16: torch knows few operations on that."""
        scores = (maps_CHW * FULL_SCORE).round().to(torch.int32).to(torch.int16)
        return (scores.permute(1, 2, 0).contiguous(),)


class _HeatMember(Member):
    """One network with its normalisation."""

    def activated(self, logits: Tensor) -> Tensor:
        """Return the heat maps, float32 (B, K, h, w) in 0..1, of what the network says."""
        return sigmoid(logits)
