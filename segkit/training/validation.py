"""Validation on whole images, with the same tiles as a prediction."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.pixels import confusion, dice, mean_over_foreground
from segkit.evaluation.tables import dice_of_image
from segkit.geometry import TileGrid
from segkit.inference.network import Predictor
from segkit.inference.pipeline import predict_array


class LabelledImage(NamedTuple):
    """An image, uint8 (H, W, C), and its mask of class indices, uint8 (H, W)."""

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


class Validation(NamedTuple):
    """Scores over a set of images.

    `score` is the mean of the foreground classes' Dice, each pooled over all images; `dice` has each class, None
    where it is undefined (the class is nowhere, neither true nor predicted); `per_image` is the mean of the
    foreground classes' Dice in each image; `masks` are the predictions.
    """

    score: float
    dice: Mapping[str, float | None]
    per_image: list[float | None]
    masks: list[NDArray[np.uint8]]


def validate(
    images: Sequence[LabelledImage], predictor: Predictor, grid: TileGrid, *, on_image: Callable[[int, int], None]
) -> Validation:
    """Predict whole images and score them; classes that are in no image and no prediction do not count.

    `on_image` is called after each image with (images done, images).
    """
    classes = predictor.spec.classes
    masks = []
    for number, one in enumerate(images, start=1):
        masks.append(predict_array(one.image, predictor, grid).mask)
        on_image(number, len(images))
    confusions = np.stack([confusion(mask, one.mask, len(classes)) for mask, one in zip(masks, images, strict=True)])
    pooled = dice(confusions.sum(axis=0))
    score = mean_over_foreground(pooled).item()
    return Validation(
        # Without any foreground, true or predicted, the images say nothing about the model.
        score=0.0 if np.isnan(score) else score,
        dice={
            name: None if np.isnan(value) else float(value) for name, value in zip(classes[1:], pooled[1:], strict=True)
        },
        per_image=[dice_of_image(one) for one in confusions],
        masks=masks,
    )
