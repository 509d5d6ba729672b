"""Class masks that were compared with true ones, image by image, and the report of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.config import EvaluateConfig
from segkit.evaluation.calibration_tables import stack_calibrations
from segkit.evaluation.image_counts import ImageCounts
from segkit.evaluation.membrane_images import MembraneRules
from segkit.evaluation.membrane_tables import ChosenThreshold, MembraneReport, tabulate_membranes
from segkit.evaluation.pixel_exports import write_report
from segkit.evaluation.pixel_tables import PixelReport, dice_of_image, measure_pixels
from segkit.evaluation.surface_tables import stack_surfaces
from segkit.report.page.pictures import Picture
from segkit.report.page.shelf import Shelf

VALIDATION: Final = "val"
"""The split on which thresholds may be chosen."""

LARGEST_WHOLE_PX: Final = 36_000_000
"""Distances and membranes are measured in images of up to so many pixels: they need all boundaries or cells at once."""


@dataclass
class FoundMasks:
    """What was measured of images, as far as they were gathered.

    `attributes` is what else is known of the images, a value for each, by name; `source` is written to run.json.
    `threshold` is the one of the probability that masks of two classes were made with, None where it is not known.
    `membranes` says which class is membrane, if one is, and `chosen` at which threshold they are measured, too.
    """

    classes: tuple[str, ...]
    threshold: float | None = None
    membranes: MembraneRules | None = None
    chosen: ChosenThreshold | None = None
    images: list[ImageCounts] = field(default_factory=list)
    groups: list[str] | None = None
    attributes: dict[str, list[str]] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    figures: list[Path] = field(default_factory=list)
    shelf: Shelf = field(default_factory=Shelf)

    @property
    def names(self) -> list[str]:
        """The images' names, in order."""
        return [image.name for image in self.images]

    def add(self, image: ImageCounts, draw: Callable[[int], Picture]) -> None:
        """Take one image; `draw` makes its picture with a longest side in pixels, now or not at all."""
        self.images.append(image)
        self.shelf.put(image.name, dice_of_image(image.confusion), draw)


def measure_masks(found: FoundMasks, config: EvaluateConfig, out: Path) -> PixelReport:
    """Make the tables and write them."""
    confusions: NDArray[np.int64] = np.stack([image.confusion for image in found.images])
    rows, mpps = [image.surfaces for image in found.images], [image.mpp for image in found.images]
    report = measure_pixels(
        found.names,
        confusions,
        found.classes,
        surfaces=stack_surfaces(rows, mpps, len(found.classes)),
        tolerance=config.surface_tolerance,
        calibrations=stack_calibrations([image.calibrations for image in found.images]),
        membranes=_membranes(found, config),
        groups=found.groups,
        attributes=found.attributes,
        threshold=found.threshold,
        is_validation=config.split == VALIDATION,
        num_samples=config.bootstrap,
        seed=config.seed,
    )
    write_report(report, out)
    return report


def _membranes(found: FoundMasks, config: EvaluateConfig) -> MembraneReport | None:
    """Make the tables of the images whose membranes were measured, None where there are none."""
    measured = {index: one for index, image in enumerate(found.images) if (one := image.membranes) is not None}
    if found.membranes is None or not measured:
        return None
    has_sweep = all(one.sweep is not None for one in measured.values())
    return tabulate_membranes(
        [found.names[index] for index in measured],
        list(measured.values()),
        membrane=found.classes[found.membranes.index],
        thresholds=found.membranes.thresholds,
        chosen=found.chosen if has_sweep else None,
        groups=None if found.groups is None else [found.groups[index] for index in measured],
        attributes={name: [values[index] for index in measured] for name, values in found.attributes.items()},
        num_samples=config.bootstrap,
        seed=config.seed,
    )


def note_on_large(names: Sequence[str]) -> str:
    """Return what a user should know of images that are too large for distances and membranes to be measured."""
    return (
        f"{in_words(names)}: more than {LARGEST_WHOLE_PX / 1e6:g} million pixels, so distances between boundaries and "
        "membranes are not measured there, and means of them leave these images out"
    )


def in_words(names: Sequence[str]) -> str:
    """Return such as `slide_1` or `slide_1 and 3 more`."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
