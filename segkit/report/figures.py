"""The pictures that a run and an evaluation leave; each function writes one PNG.

Images are uint8 (H, W, 1 or 3), masks uint8 (H, W) of class indices (0 = background, 255 = not labelled), `classes`
the class names by index.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.masks import IGNORE, colour_of_class
from segkit.report.colouring import (
    WHITE,
    Colour,
    Outcome,
    as_pale_grey,
    fill,
    fit_image,
    fit_mask,
    outcomes,
    outline,
    paint,
)
from segkit.report.kernels import judge_kernels
from segkit.report.ranking import worst_to_best
from segkit.report.sheet import LegendEntry, Panel, add_scale_bar, compose, write_png

_PATCH_PX, _CASE_PX, _OVERLAY_PX, _OVERVIEW_PX, _KERNEL_PX = 288, 400, 760, 1000, 56
_LINE_PX = 2

# Okabe and Ito's colours, as in the palette; correct pixels are paler, so that the eye goes to the errors.
_OUTCOME_STYLE: dict[Outcome, tuple[str, Colour, float]] = {
    Outcome.TRUE_POSITIVE: ("true positive", (0, 158, 115), 0.35),
    Outcome.FALSE_POSITIVE: ("false positive", (213, 94, 0), 0.85),
    Outcome.FALSE_NEGATIVE: ("false negative", (0, 114, 178), 0.85),
    Outcome.WRONG_CLASS: ("wrong class", (204, 121, 167), 0.85),
    Outcome.NOT_LABELLED: ("not labelled", (160, 160, 160), 0.7),
}


class Case(NamedTuple):
    """One validation image with its prediction; `dice` as the caller measured it, None where undefined."""

    name: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    dice: float | None


def draw_patches(
    images: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.uint8]],
    classes: Sequence[str],
    path: Path,
    *,
    columns: int,
    captions: Sequence[str] = (),
    title: str = "",
) -> None:
    """Draw patches in rows of `columns`, the regions of their masks outlined in the colours of the classes.

    `captions` are the words above each patch, or none at all.
    """
    captions = captions or [""] * len(images)
    panels = [
        Panel(_outlined(image, mask, _PATCH_PX), caption)
        for image, mask, caption in zip(images, masks, captions, strict=True)
    ]
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    write_png(compose(rows, title=title, legends=[_class_legend(classes)]), path)


def draw_overlay(
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    classes: Sequence[str],
    path: Path,
    *,
    title: str,
    dice: float | None,
) -> None:
    """Draw one evaluated image four times: plain, with the truth, with the prediction, and with the errors.

    `dice` is the image's Dice as measured (None: undefined) and stands in the title. Large images are shrunk.
    """
    case = Case(title, image, truth, prediction, dice)
    plain, true, predicted, errors = _case_panels(case, _OVERLAY_PX)
    height, width = image.shape[:2]
    if width > 2 * height:
        rows = [[plain], [true], [predicted], [errors]]
    elif height > 2 * width:
        rows = [[plain, true, predicted, errors]]
    else:
        rows = [[plain, true], [predicted, errors]]
    legends = [_class_legend(classes), _outcome_legend(classes, _has_ignored([case]))]
    write_png(compose(rows, title=f"{title}: Dice {_dice_in_words(dice)}", legends=legends), path)


def draw_validation(cases: Sequence[Case], classes: Sequence[str], path: Path) -> None:
    """Draw validation images from the worst Dice to the best, one row each; at most six, evenly spread by rank."""
    chosen, title = worst_to_best(cases, lambda case: (case.dice is None, case.dice or 0.0, case.name))
    rows = []
    for case in chosen:
        plain, true, predicted, errors = _case_panels(case, _CASE_PX)
        named = Panel(plain.image, case.name)
        scored = Panel(errors.image, f"errors, Dice {_dice_in_words(case.dice)}")
        rows.append([named, true, predicted, scored])
    legends = [_class_legend(classes), _outcome_legend(classes, _has_ignored(chosen))]
    write_png(compose(rows, title=title, legends=legends), path)


def draw_kernels(weights: NDArray[np.floating], path: Path) -> None:
    """Draw a first layer's kernels, (out, in, kh, kw) with in = 1 (grey) or 3 (RGB), as tiles, and judge them.

    One scale for all, symmetric about 0: mid grey is 0, black and white are minus and plus the largest weight. In the
    title stands whether they are smooth or noisy, in the legend by how much (see `kernel_smoothness`).
    """
    if weights.ndim != 4 or weights.shape[1] not in (1, 3):
        raise ValueError(f"kernels of an image layer are (out, 1 or 3, kh, kw), got {weights.shape}")
    largest = float(np.abs(weights).max())
    scaled = np.clip(127.5 + 127.5 * weights / (largest or 1.0), 0, 255).round().astype(np.uint8)
    columns = min(max(int(np.ceil(np.sqrt(2 * len(scaled)))), 12), len(scaled))
    # Few kernels are drawn larger, so that the words below have room.
    tile_px = max(_KERNEL_PX, min(12 * _KERNEL_PX // columns, 6 * _KERNEL_PX))
    panels = [Panel(fit_image(kernel, tile_px)) for kernel in scaled.transpose(0, 2, 3, 1)]
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    num, _, height, width = weights.shape
    scale = LegendEntry(f"grey: 0, white: {largest:+.3g}, black: {-largest:+.3g}")
    judged = judge_kernels(weights)
    verdict = f": {judged.split(':')[0].lower()}" if ":" in judged else ""
    legends = [[scale], *[[LegendEntry(words)] for words in judged.split("; ")]]
    write_png(compose(rows, title=f"First layer: {num} kernels of {height} x {width}{verdict}", legends=legends), path)


def draw_overview(
    thumbnail: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    classes: Sequence[str],
    path: Path,
    *,
    shares: Mapping[str, float],
    um_per_px: float | None,
    title: str,
) -> None:
    """Draw a slide's thumbnail beside the same with its classes tinted and outlined, and the area of each class.

    Parameters
    ----------
    thumbnail, mask
        Of the same height and width; shrunk where larger than the picture.
    shares
        Each class's share of the slide, by name: the thumbnail would give it only roughly.
    um_per_px
        Micrometres per pixel of the thumbnail, for the scale bar and areas in mm2; None where unknown.
    """
    _require_same_size(thumbnail, mask)
    plain, small_mask = fit_image(thumbnail, _OVERVIEW_PX), fit_mask(mask, _OVERVIEW_PX)
    faded = paint(plain, np.ones(small_mask.shape, np.bool_), WHITE, 0.35)
    tinted = outline(fill(faded, small_mask, 0.5), small_mask, 1)
    if um_per_px is not None:
        plain = add_scale_bar(plain, um_per_px * thumbnail.shape[1] / plain.shape[1])
    panels = [Panel(plain, "slide"), Panel(tinted, "prediction")]
    rows = [[panel] for panel in panels] if thumbnail.shape[1] > 1.6 * thumbnail.shape[0] else [panels]
    area_mm2 = None if um_per_px is None else mask.size * um_per_px**2 / 1e6
    write_png(compose(rows, title=title, legends=[_area_legend(classes, shares, area_mm2)]), path)


def _require_same_size(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image {image.shape} and mask {mask.shape} differ in size")


def _outlined(image: NDArray[np.uint8], mask: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    """Return an image made to fit, with outlines of its mask."""
    _require_same_size(image, mask)
    fitted = fit_image(image, longest_px)
    return outline(fitted, fit_mask(mask, longest_px), _LINE_PX)


def _case_panels(case: Case, longest_px: int) -> tuple[Panel, Panel, Panel, Panel]:
    """Return the image plain, with the truth, with the prediction, and with the errors."""
    found = fit_mask(outcomes(case.prediction, case.truth), longest_px)
    errors = as_pale_grey(fit_image(case.image, longest_px))
    for outcome, (_, colour, opacity) in _OUTCOME_STYLE.items():
        errors = paint(errors, found == outcome, colour, opacity)
    return (
        Panel(fit_image(case.image, longest_px), "image"),
        Panel(_outlined(case.image, case.truth, longest_px), "truth"),
        Panel(_outlined(case.image, case.prediction, longest_px), "prediction"),
        Panel(errors, "errors"),
    )


def _class_legend(classes: Sequence[str]) -> list[LegendEntry]:
    """Return the foreground classes with the colours of their outlines."""
    return [LegendEntry("outlines:")] + [
        LegendEntry(name, colour_of_class(index)) for index, name in enumerate(classes) if index > 0
    ]


def _outcome_legend(classes: Sequence[str], has_ignored: bool) -> list[LegendEntry]:
    """Return the outcomes that can occur with these classes."""
    possible = [Outcome.TRUE_POSITIVE, Outcome.FALSE_POSITIVE, Outcome.FALSE_NEGATIVE]
    possible += [Outcome.WRONG_CLASS] if len(classes) > 2 else []
    possible += [Outcome.NOT_LABELLED] if has_ignored else []
    grey = np.full((1, 1, 3), 200, np.uint8)
    entries = [LegendEntry("errors:")]
    for outcome in possible:
        name, colour, opacity = _OUTCOME_STYLE[outcome]
        red, green, blue = paint(grey, np.ones((1, 1), np.bool_), colour, opacity)[0, 0].tolist()
        entries.append(LegendEntry(name, (red, green, blue)))
    return entries


def _area_legend(classes: Sequence[str], shares: Mapping[str, float], area_mm2: float | None) -> list[LegendEntry]:
    """Return the foreground classes with their share of the slide, and mm2 where its area is known."""
    entries = []
    for index, name in enumerate(classes[1:], start=1):
        area = f"{shares[name]:.1%}"
        if area_mm2 is not None:
            area += f", {shares[name] * area_mm2:.3g} mm²"
        entries.append(LegendEntry(f"{name} ({area})", colour_of_class(index)))
    return entries


def _has_ignored(cases: Sequence[Case]) -> bool:
    return any(bool((case.truth == IGNORE).any()) for case in cases)


def _dice_in_words(dice: float | None) -> str:
    return "undefined" if dice is None else f"{dice:.3f}"
