"""What U-Nets say of an image in memory, by the same kind of tiles as a slide's."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.inference.network import Predictor
from segkit.inference.pipeline import predict_image
from segkit.inference.sources import ArrayImage, with_channels


class Segmented(NamedTuple):
    """A mask with the probabilities that it was made of, all uint8; 255 stands for 1.

    `mask` (H, W) are class ids, `foreground` (H, W) is the probability of not being background, as `segkit predict`
    writes it, `of_classes` (H, W, C-1) that of each class but the background, None where there are only two.
    """

    mask: NDArray[np.uint8]
    foreground: NDArray[np.uint8]
    of_classes: NDArray[np.uint8] | None


class ClassPredictor(Predictor):
    """A `Predictor` whose second layer is (H, W, 1), or with more than two classes (H, W, C): see `Segmented`."""

    def quantised(self, maps_CHW: Tensor) -> tuple[Tensor, ...]:
        """Return the layers of a prediction: the foreground's probability comes before those of its classes."""
        num_classes = self.spec.arguments.num_classes
        mask = maps_CHW[:num_classes].argmax(dim=0).to(torch.uint8)
        foreground = 1 - maps_CHW[:1]
        maps = foreground if num_classes == 2 else torch.cat([foreground, maps_CHW[1:num_classes]])
        return mask, (maps * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def segment_image(image_HWC: NDArray[np.uint8], predictor: Predictor) -> NDArray[np.uint8]:
    """Return the class ids, uint8 (H, W), of an image, uint8 (H, W, C)."""
    mask: NDArray[np.uint8] = predict_layers(image_HWC, predictor)[0]
    return mask


def segment_with_probabilities(image_HWC: NDArray[np.uint8], predictor: ClassPredictor) -> Segmented:
    """Return the class ids of an image, uint8 (H, W, C), and all probabilities, from one prediction."""
    mask, maps = predict_layers(image_HWC, predictor)
    return Segmented(mask, maps[..., 0], maps[..., 1:] if maps.shape[-1] > 1 else None)


def predict_layers(image_HWC: NDArray[np.uint8], predictor: Predictor) -> tuple[NDArray[Any], ...]:
    """Return the layers (H, W) of an image, uint8 (H, W, C), grey or colour whatever the network wants.

    They are `mask` and `foreground`, with networks for instances `distance` (all uint8), with float16 `probability`
    (float16): see `network.Prediction` and `network.InstancePrediction`.
    """
    source = ArrayImage(with_channels(image_HWC, predictor.spec.arguments.in_channels))
    return tuple(predict_image(source, predictor))
