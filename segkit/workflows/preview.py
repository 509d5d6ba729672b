"""Training patches as they are and as augmentation changes them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.config import TrainConfig
from segkit.data.augment import Augmenter
from segkit.data.sampling import sample_rng
from segkit.report.detections import draw_point_patches
from segkit.report.figures import draw_patches
from segkit.training.point_validation import LabelledPoints
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.mask_task import patch_source
from segkit.workflows.point_task import point_source
from segkit.workflows.prepare import prepare

PREVIEW_IMAGES = 4
PREVIEW_VARIANTS = 4

Draw = Callable[[np.random.Generator, int], tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def preview(
    config: TrainConfig,
    out: Path,
    *,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> Path:
    """Draw training patches as they are and, beside each, as augmentation changes them; return the picture's path."""
    prepared = prepare(config, on_progress=on_progress, on_note=on_note)
    config, classes = prepared.config, prepared.dataset.classes
    patch_px = int(config.patches.size_px)
    title = f"Augmentation: {config.augment.preset}"
    columns = 1 + PREVIEW_VARIANTS
    if isinstance(prepared.train[0], LabelledPoints):
        points = point_source(prepared, prepared.train)
        images, masks, captions = _drawn(points.draw, config, patch_px)
        labels = [int(mask[0, 0]) for mask in masks]
        draw_point_patches(images, labels, classes, out, columns=columns, captions=captions, title=title)
    else:
        source = patch_source(prepared, patch_px)
        images, masks, captions = _drawn(source.draw, config, patch_px)
        draw_patches(images, masks, classes, out, columns=columns, captions=captions, title=title)
    return out


def _drawn(
    draw: Draw, config: TrainConfig, patch_px: int
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]], list[str]]:
    augmenter = Augmenter(config.augment, patch_px)
    border = (augmenter.context_px - patch_px) // 2
    middle = slice(border, border + patch_px)
    images, masks, captions = [], [], []
    for row in range(PREVIEW_IMAGES):
        rng = sample_rng(config.seed, 0, row)
        image, mask = draw(rng, augmenter.context_px)
        variants = [(image[middle, middle], mask[middle, middle])]
        variants += [augmenter.apply(image, mask, int(rng.integers(2**32))) for _ in range(PREVIEW_VARIANTS)]
        images += [image for image, _ in variants]
        masks += [mask for _, mask in variants]
        captions += ["original", *["augmented"] * PREVIEW_VARIANTS]
    return images, masks, captions
