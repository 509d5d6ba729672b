"""The batch on which a training diverged: what was in it, to be looked at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.masks import IGNORE, colour_of_class
from segkit.report.colouring import fit_image, fit_mask, outline
from segkit.report.sheet import LegendEntry, Panel, compose, write_png

_PATCH_PX, _COLUMNS, _MAX_PATCHES = 288, 4, 16
_LITTLE_CONTRAST = 4  # grey values, standard deviation


def draw_diverged_batch(
    images: NDArray[np.uint8],
    targets: NDArray[np.uint8],
    path: Path,
    *,
    classes: Sequence[str] = (),
    losses: Sequence[float] | None = None,
    title: str = "The batch on which training diverged",
) -> None:
    """Draw a batch's patches with the outlines of their classes, and above each what may be wrong with it.

    Parameters
    ----------
    images, targets
        uint8 (B, C, H, W) and (B, P, H, W); plane 0 has class indices, 255 = not labelled. At most 16 are drawn: those
        with the highest losses (not finite: first), or the first ones.
    path
        The PNG to write.
    classes
        Names by index, for the legend; none: no legend.
    losses
        Of each patch, if known.
    """
    order = np.arange(len(images))
    if losses is not None:
        known = np.asarray(losses, np.float64)
        order = np.argsort(np.where(np.isfinite(known), -known, -np.inf), kind="stable")
    panels = []
    for index in order[:_MAX_PATCHES].tolist():
        mask = targets[index, 0]
        fitted = fit_image(np.ascontiguousarray(images[index].transpose(1, 2, 0)), _PATCH_PX)
        loss = "" if losses is None else f"loss {losses[index]:.3g}, "
        caption = f"{index}: {loss}{_in_words(images[index], mask, len(classes))}"
        panels.append(Panel(outline(fitted, fit_mask(mask, _PATCH_PX), 2), caption))
    rows = [panels[start : start + _COLUMNS] for start in range(0, len(panels), _COLUMNS)]
    legend = [LegendEntry(name, colour_of_class(index)) for index, name in enumerate(classes) if index > 0]
    note = [LegendEntry(f"{len(panels)} of {len(images)} patches")] if len(panels) < len(images) else []
    write_png(compose(rows, title=title, legends=[one for one in (legend, note) if one]), path)


def _in_words(image: NDArray[np.uint8], mask: NDArray[np.uint8], num_classes: int) -> str:
    """Return what may be wrong: an empty image, no labels, unknown classes; else the share of objects."""
    labelled = mask[mask != IGNORE]
    if image.min() == image.max():
        return f"image all {image.min()}"
    if not labelled.size:
        return "nothing labelled"
    if num_classes and labelled.max() >= num_classes:
        return f"class {labelled.max()} of {num_classes}"
    if image.std() < _LITTLE_CONTRAST:
        return "hardly any contrast"
    return f"{np.count_nonzero(labelled) / mask.size:.0%} objects"
