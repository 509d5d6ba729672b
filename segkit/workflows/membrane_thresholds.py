"""Which class is membrane, and the threshold of the probability of cell, chosen on images that are not measured.

Training chooses an epoch and no threshold; the mask of a model takes the most probable class. How well cells are told
apart depends much on that cut: a gap of one pixel merges two cells. The ISBI 2012 challenge therefore took the best
threshold, but on its test slices. Here it comes from another split of the same data folder: for test images from the
validation images, for validation images from the training images. These the model has seen, so its maps of them are too
sure, but nothing of what is measured has a part in the choice. Over a wide range V-Rand hardly changes, and the highest
value in it is chance, with more images, too: a threshold in the middle of that range is taken, for which a handful of
images is enough, so that choosing costs little.
"""

from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Final

from segkit.config import AUTO, EvaluateConfig
from segkit.data.layout import Item
from segkit.errors import ConfigError
from segkit.evaluation.image_counts import ComparedImage, ImageCounts
from segkit.evaluation.membrane_images import MembraneRules, cell_probability, membrane_among, sweep_of
from segkit.evaluation.membrane_tables import ChosenThreshold, choose_threshold
from segkit.evaluation.membranes import THRESHOLDS
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.measured_masks import LARGEST_WHOLE_PX

NONE: Final = "none"
MOST_IMAGES: Final = 10
"""So many images, evenly among those there are, choose a threshold."""

OTHERS: Final = MappingProxyType({"test": ("val", "train"), "val": ("train",), "train": ("val",), "all": ()})
"""Splits whose images choose the threshold for another's, the first that has images."""


def membrane_rules(config: EvaluateConfig, classes: Sequence[str]) -> MembraneRules | None:
    """Return which of the classes is membrane, and the thresholds; None where none is to be measured.

    A threshold that the configuration names is among them.

    Raises
    ------
    ConfigError
        No class has the name that was given.
    """
    if config.membrane == NONE:
        return None
    index = membrane_among(classes) if config.membrane == AUTO else None
    if config.membrane != AUTO and config.membrane not in classes:
        raise ConfigError(
            f"membrane = {config.membrane}: the classes are {', '.join(classes)}. Name the one that separates cells, "
            "or none."
        )
    if config.membrane in classes:
        index = list(classes).index(config.membrane)
    given = () if isinstance(config.membrane_threshold, str) else (config.membrane_threshold,)
    return None if index is None else MembraneRules(index=index, thresholds=tuple(sorted({*THRESHOLDS, *given})))


def given_threshold(config: EvaluateConfig) -> ChosenThreshold | None:
    """Return the threshold that the configuration names, if any."""
    return None if isinstance(config.membrane_threshold, str) else ChosenThreshold(config.membrane_threshold)


def notes_on_maps(config: EvaluateConfig, images: Sequence[ImageCounts]) -> Iterator[str]:
    """Yield what a user should know where probabilities are missing that a threshold needs."""
    measured = [image.membranes for image in images if image.membranes is not None]
    num_maps = sum(one.sweep is not None for one in measured)
    if num_maps < len(measured) and (num_maps or given_threshold(config) is not None):
        yield (
            f"membranes: probabilities are known of {num_maps} of {len(measured)} images only: nothing is told of "
            "thresholds"
        )


def choose_on_other_images(
    config: EvaluateConfig,
    items: Sequence[Item],
    compare: Callable[[Item], ComparedImage],
    rules: MembraneRules,
    num_classes: int,
    on_progress: OnProgress,
    on_note: OnNote,
) -> ChosenThreshold | None:
    """Return the threshold with the best V-Rand on images that `config.split` does not hold, or the one that is given.

    Parameters
    ----------
    items
        All images of the data folder, with their splits.
    compare
        Predicts an image.
    rules, num_classes
        Which class is membrane, and how many classes there are.
    """
    if config.membrane_threshold != AUTO:
        return given_threshold(config)
    found = {split: [item for item in items if item.split == split] for split in OTHERS[config.split]}
    split = next((split for split, of_split in found.items() if of_split), None)
    if split is None:
        on_note("membranes: no threshold was chosen, as there are no images of another split.")
        return None
    others = found[split]
    used = others[:: -(-len(others) // MOST_IMAGES)]
    sweeps = []
    for number, item in enumerate(used, start=1):
        image = compare(item)
        probability = cell_probability(image.foreground, image.of_classes, rules, num_classes)
        if probability is not None and image.truth.size <= LARGEST_WHOLE_PX:
            sweeps.append(sweep_of(image.truth, rules, probability))
        on_progress("choose threshold", number, len(used), {})
    chosen = choose_threshold(sweeps, f"{len(sweeps)} images of the split {split}")
    if chosen is None:
        on_note(f"membranes: no threshold was chosen, as no image of the split {split} that was tried has a cell.")
    else:
        on_note(f"membranes: the threshold {chosen.threshold:g} was chosen on {chosen.chosen_on}")
    return chosen
