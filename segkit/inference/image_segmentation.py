"""The class map of an image in memory, as that of a slide."""

import numpy as np
from numpy.typing import NDArray

from segkit.inference.network import Predictor
from segkit.inference.pipeline import predict_image
from segkit.inference.sources import ArrayImage, with_channels


def segment_image(image_HWC: NDArray[np.uint8], predictor: Predictor) -> NDArray[np.uint8]:
    """Return the class ids, uint8 (H, W), of an image, uint8 (H, W, C), by the same kind of tiles as a slide's."""
    source = ArrayImage(with_channels(image_HWC, predictor.spec.arguments.in_channels))
    mask: NDArray[np.uint8] = predict_image(source, predictor)[0]
    return mask
