"""What U-Nets say of an image in memory, by the same kind of tiles as a slide's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.inference.network import Predictor
from segkit.inference.pipeline import predict_image
from segkit.inference.sources import ArrayImage, with_channels


def segment_image(image_HWC: NDArray[np.uint8], predictor: Predictor) -> NDArray[np.uint8]:
    """Return the class ids, uint8 (H, W), of an image, uint8 (H, W, C)."""
    mask: NDArray[np.uint8] = predict_layers(image_HWC, predictor)[0]
    return mask


def predict_layers(image_HWC: NDArray[np.uint8], predictor: Predictor) -> tuple[NDArray[Any], ...]:
    """Return the layers (H, W) of an image, uint8 (H, W, C), grey or colour whatever the network wants.

    They are `mask` and `foreground`, with networks for instances `distance` (all uint8), with float16 `probability`
    (float16): see `network.Prediction` and `network.InstancePrediction`.
    """
    source = ArrayImage(with_channels(image_HWC, predictor.spec.arguments.in_channels))
    return tuple(predict_image(source, predictor))
