"""Validation on whole images, with the same tiles as a prediction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.estimates import mean_of_defined
from segkit.evaluation.membrane_images import MembraneRules, membranes_of
from segkit.evaluation.membrane_totals import THINNED_METRICS
from segkit.evaluation.pixel_tables import dice_of_image
from segkit.evaluation.pixels import confusion, dice, mean_over_foreground
from segkit.inference.image_segmentation import segment_image
from segkit.inference.network import Predictor
from segkit.training.distributed import ALONE, Group


class LabelledImage(NamedTuple):
    """An image, uint8 (H, W, C), and its mask of class indices, uint8 (H, W)."""

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a network is worth on whole images.

    `score` is what the best epoch is chosen by; `by_class` has each foreground class, None where it is undefined;
    `beside` has further metrics to look at, by the names that files give them;
    `changes` are fields of the model's description that were found on the way, such as tuned thresholds; `story` is
    what its `training` is to say about them.
    """

    score: float
    by_class: Mapping[str, float | None]
    beside: Mapping[str, float] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    story: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PixelValidation(Validation):
    """Dice over a set of images.

    `score` is the mean of the foreground classes' Dice, each pooled over all images (undefined: the class is
    nowhere, neither true nor predicted), or V-Rand, the mean over images, and Dice stands `beside`; `per_image` is
    the mean of the foreground classes' Dice in each image; `masks` are the predictions.
    """

    per_image: list[float | None]
    masks: list[NDArray[np.uint8]]


def validate_pixels(
    images: Sequence[LabelledImage],
    predictor: Predictor,
    *,
    membranes: MembraneRules | None = None,
    group: Group = ALONE,
    on_image: Callable[[int, int], None],
) -> PixelValidation:
    """Predict whole images and score them; classes that are in no image and no prediction do not count.

    With `membranes` the score is V-Rand of ISBI 2012, which sees gaps in membranes that Dice hardly notices.
    The processes of `group` divide the images. `on_image` is called after each image with (images done, images).
    """
    classes = predictor.spec.classes
    masks = group.map(lambda one: segment_image(one.image, predictor), images, lambda done: on_image(done, len(images)))
    confusions = np.stack([confusion(mask, one.mask, len(classes)) for mask, one in zip(masks, images, strict=True)])
    pooled = dice(confusions.sum(axis=0))
    score = _defined_or_0(mean_over_foreground(pooled))
    by_class = {
        name: None if np.isnan(value) else float(value) for name, value in zip(classes[1:], pooled[1:], strict=True)
    }
    beside: dict[str, float] = {}
    if membranes is not None:
        totals = [membranes_of(mask, one.mask, membranes).totals for mask, one in zip(masks, images, strict=True)]
        v_rand = _defined_or_0(mean_of_defined(THINNED_METRICS["v_rand"](np.stack(totals))))
        score, by_class, beside = v_rand, {classes[1]: v_rand}, {"dice": score}
    return PixelValidation(
        score=score,
        by_class=by_class,
        beside=beside,
        per_image=[dice_of_image(one) for one in confusions],
        masks=masks,
    )


def _defined_or_0(score: NDArray[np.float64]) -> float:
    """Return a score; images without any foreground, true or predicted, say nothing about a model."""
    return 0.0 if np.isnan(score) else float(score)
