"""How the thresholds were chosen by which a model's maps became objects or points: on validation images, in training.

An evaluation uses them as they are. What the measured images would give with other values is shown beside what the
validation images gave, so that a reader sees whether the choice carries over; nothing is ever chosen by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.estimates import number

DEFINITIONS: Final = MappingProxyType(
    {
        "choice": "thresholds and what else makes objects or points of a model's maps, chosen in training on its "
        "validation images, and used here as they are; validation_score is the metric there, on the very images of the "
        "choice, and so somewhat too good",
        "sweeps": "the metric with other values of one parameter, the others as they are used: on the measured images "
        "(nothing is chosen by it) and on the validation images in training",
    }
)
"""What files say about it."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A metric (K,) at values (K,) of a parameter, ascending; float64, NaN where the metric is undefined."""

    values: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """A metric over one parameter, the others as they are used.

    `parameter` is called as in `Choice.parameters`, `used` is its value. `measured` is of the measured images,
    `num_images` of them; `validation` of the validation images in training, None where that was not kept.
    """

    parameter: str
    used: float
    metric: str
    measured: Curve
    num_images: int
    validation: Curve | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """How a model's parameters were chosen.

    Attributes
    ----------
    parameters
        What is used, by name.
    criterion
        What was to be best.
    metric, metric_in_words, score, by_class
        The metric of the validation, as files and as people call it, its value there, and that of each class, None
        where undefined.
    data
        The name of the training's data folder.
    num_images
        How many validation images there were; None where that was not kept.
    num_shared
        How many of the measured images are among them, by their names; None where that is not known.
    epoch
        The training's best epoch, counted from 1; None where that was not kept.
    sweeps
        The metric with other values of some of the parameters.
    """

    parameters: Mapping[str, float | str]
    criterion: str
    metric: str
    metric_in_words: str
    score: float | None
    by_class: Mapping[str, float | None]
    data: str
    num_images: int | None
    num_shared: int | None
    epoch: int | None
    sweeps: tuple[Sweep, ...] = ()


def as_json(choice: Choice | None) -> dict[str, Any] | None:
    """Return what metrics.json says of a choice; None where there is none."""
    if choice is None:
        return None
    return {
        "chosen_on": "validation images of the training",
        "training_data": choice.data,
        "epoch": choice.epoch,
        "num_validation_images": choice.num_images,
        "num_measured_images_among_them": choice.num_shared,
        "criterion": choice.criterion,
        "metric": choice.metric,
        "metric_in_words": choice.metric_in_words,
        "validation_score": _rounded(choice.score),
        "validation_scores": {name: _rounded(value) for name, value in choice.by_class.items()},
        "parameters": dict(choice.parameters),
        "sweeps": [
            {
                "parameter": sweep.parameter,
                "used": sweep.used,
                "metric": sweep.metric,
                "num_images": sweep.num_images,
                "measured": _curve(sweep.measured),
                "validation": None if sweep.validation is None else _curve(sweep.validation),
            }
            for sweep in choice.sweeps
        ],
    }


def sentences_of(choice: Choice) -> tuple[str, ...]:
    """Return in words how the parameters were chosen, and what the measured images had to do with it."""
    images = "the validation images" if choice.num_images is None else f"the {choice.num_images} validation images"
    epoch = "" if choice.epoch is None else f", after epoch {choice.epoch}"
    there = "" if choice.score is None else f" {choice.metric_in_words} was {choice.score:.3f} there."
    among: dict[int | None, str] = {
        None: "Whether images measured here were among them is not known, as no splits.csv of the training "
        "lies beside the model.",
        0: "None of the images measured here was among them.",
    }
    were = "was" if choice.num_shared == 1 else "were"
    shared = f"{choice.num_shared} of the images measured here {were} among them: the numbers are somewhat too good."
    return (
        f"Chosen in training on {images} of {choice.data}{epoch}: {choice.criterion}.{there}",
        among.get(choice.num_shared, shared),
        "They are used here as they are.",
    )


def side_by_side(sweep: Sweep) -> list[tuple[float, float | None, float | None]]:
    """Return each value with the metric on the measured images and on the validation images, None where not known."""
    here, then = (
        {} if curve is None else dict(zip(curve.values.tolist(), map(number, curve.scores), strict=True))
        for curve in (sweep.measured, sweep.validation)
    )
    return [(value, here.get(value), then.get(value)) for value in sorted({*here, *then})]


def _curve(curve: Curve) -> dict[str, list[float | None]]:
    return {
        "values": [number(value) for value in curve.values],
        "scores": [number(value) for value in curve.scores],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else number(value)
