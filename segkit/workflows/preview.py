"""Training patches as they are and as augmentation changes them, with all that the network is taught of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.config import TrainConfig
from segkit.data.augment import Augmenter
from segkit.data.sampling import sample_rng
from segkit.report.colouring import heat_over
from segkit.report.detections import draw_point_patches
from segkit.report.figures import draw_patches
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.heat_task import heat_source
from segkit.workflows.instance_task import object_source
from segkit.workflows.mask_task import patch_source
from segkit.workflows.point_task import point_source
from segkit.workflows.prepare import AnyPrepared, prepare

PREVIEW_ROWS: Final = 4
PREVIEW_VARIANTS: Final = 4


class Source(Protocol):
    """Where patches come from."""

    def draw(self, rng: np.random.Generator, context_px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image (H, W, C) and target (H, W, P), uint8, of `context_px` pixels around a drawn patch."""


class Sample(NamedTuple):
    """A patch in the picture: image uint8 (H, W, C), target uint8 (H, W, P), and the words above it."""

    image: NDArray[np.uint8]
    target: NDArray[np.uint8]
    caption: str


def preview(
    config: TrainConfig,
    out: Path,
    *,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> Path:
    """Draw training patches as they are and, beside each, as augmentation changes them; return the picture's path.

    Classes are outlined (patch CNN: the frame's colour), and below follow the other planes that the network learns
    from, as heat over the image: distance maps, heat maps of points, weights of pixels.
    """
    prepared = prepare(config, on_progress=on_progress, on_note=on_note)
    config, classes = prepared.config, prepared.dataset.classes
    patch_px = int(config.patches.size_px)
    title = f"Augmentation: {config.augment.preset}"
    rows = _drawn(_source(prepared, patch_px), config, patch_px)
    if _has_labels_only(prepared):
        samples = [sample for row in rows for sample in row]
        draw_point_patches(
            [one.image for one in samples],
            [int(one.target[0, 0, 0]) for one in samples],
            classes,
            out,
            columns=1 + PREVIEW_VARIANTS,
            captions=[one.caption for one in samples],
            title=title,
        )
    else:
        draw_rows(rows, classes, plane_names(prepared), out, title=title)
    return out


def plane_names(prepared: AnyPrepared) -> list[str]:
    """Return what the planes of a U-Net's targets from 1 on are."""
    if prepared.config.task == "points":
        return [f"heat: {name}" for name in prepared.dataset.classes[1:]]
    names = ["distance"] if prepared.config.task == "instance" else []
    return [*names, "weight"] if prepared.config.loss.weight_map else names


def draw_rows(
    rows: Sequence[Sequence[Sample]], classes: Sequence[str], names: Sequence[str], path: Path, *, title: str
) -> None:
    """Draw rows of samples of equal number: each row with its classes, then once more for every other plane.

    Parameters
    ----------
    rows
        Samples side by side.
    classes
        Names of the classes in plane 0.
    names
        Of the planes from 1 on.
    path
        The picture.
    title
        Above it.
    """
    images, masks, captions = [], [], []
    # All planes of a few samples say more than the first of many.
    for row in rows[: max(1, PREVIEW_ROWS // (1 + len(names)))] if names else rows:
        images += [one.image for one in row]
        masks += [one.target[..., 0] for one in row]
        captions += [one.caption for one in row]
        for plane, name in enumerate(names, start=1):
            images += [heat_over(one.image, one.target[..., plane]) for one in row]
            masks += [np.zeros(one.target.shape[:2], np.uint8) for one in row]
            captions += [name] * len(row)
    draw_patches(images, masks, classes, path, columns=len(rows[0]), captions=captions, title=title)


def _drawn(source: Source, config: TrainConfig, patch_px: int) -> list[list[Sample]]:
    """Return, for each of a few patches, the patch as it is and then as augmentation changes it."""
    augmenter = Augmenter(config.augment, patch_px, channels=_channels(source, patch_px))
    border = (augmenter.context_px - patch_px) // 2
    middle = slice(border, border + patch_px)
    rows = []
    for number in range(PREVIEW_ROWS):
        rng = sample_rng(config.seed, 0, number)
        image, target = source.draw(rng, augmenter.context_px)
        row = [Sample(image[middle, middle], target[middle, middle], "original")]
        for _ in range(PREVIEW_VARIANTS):
            changed = augmenter.apply(image, target, int(rng.integers(2**32)))
            row.append(Sample(*changed, "augmented"))
        rows.append(row)
    return rows


def _has_labels_only(prepared: AnyPrepared) -> bool:
    """Tell whether a patch has one class as a whole: a patch CNN's."""
    return prepared.config.model.network == "patch_cnn"


def _source(prepared: AnyPrepared, patch_px: int) -> Source:
    # The task tells which kind of data it is; mypy cannot follow that.
    known: Any = prepared
    match prepared.config.task:
        case "points" if _has_labels_only(prepared):
            return point_source(known, known.train)
        case "points":
            return heat_source(known, known.train, patch_px)
        case "instance":
            return object_source(known, patch_px)
        case _:
            return patch_source(known, patch_px, on_progress=quiet_progress)


def _channels(source: Source, patch_px: int) -> int:
    image, _ = source.draw(sample_rng(0, 0, 0), patch_px)
    return int(image.shape[2])
