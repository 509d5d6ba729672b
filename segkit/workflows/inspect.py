"""Looking before working: check a data folder, describe a slide or model, preview augmentation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.config import DataConfig, TrainConfig
from segkit.data.augment import Augmenter
from segkit.data.check import CheckReport, check_dataset
from segkit.data.sampling import PatchSource, sample_rng
from segkit.errors import InputError
from segkit.models.model_file import MODEL_NAME, Model, load_model
from segkit.report.figures import draw_patches
from segkit.slides import open_slide
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.prepare import prepare

PREVIEW_IMAGES = 4
PREVIEW_VARIANTS = 4


def check(config: DataConfig, *, on_progress: OnProgress = quiet_progress) -> CheckReport:
    """Read a whole data folder as a training would and report facts, warnings and problems."""
    return check_dataset(config, on_progress=lambda done, total: on_progress("check", done, total, {}))


def info(path: Path) -> dict[str, Any]:
    """Return what is known about a slide, image, model file or run folder, without reading pixels.

    Raises
    ------
    InputError
        It cannot be opened.
    """
    if path.is_dir() and not (path / MODEL_NAME).is_file():
        raise InputError(f"{path}: a folder without a model. Give an image, a slide, a model file or a run folder.")
    if path.is_dir() or path.suffix == ".safetensors":
        return _model_info(load_model(path))
    with open_slide(path) as slide:
        return {
            "kind": "slide",
            "reader": slide.backend,
            "width": slide.width,
            "height": slide.height,
            "channels": slide.channels,
            "mpp": slide.mpp,
            "levels": [
                {"width": level.width, "height": level.height, "downsample": level.downsample} for level in slide.levels
            ],
            "properties": slide.properties,
        }


def preview(
    config: TrainConfig,
    out: Path,
    *,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> Path:
    """Draw training patches as they are and, beside each, as augmentation changes them; return the picture's path."""
    prepared = prepare(config, on_progress=on_progress, on_note=on_note)
    config = prepared.config
    patch_px = int(config.patches.size_px)
    source = PatchSource(
        [one.image for one in prepared.train],
        [one.mask for one in prepared.train],
        patch_px=patch_px,
        balanced=config.patches.balanced,
        num_classes=len(prepared.dataset.classes),
    )
    augmenter = Augmenter(config.augment, patch_px)
    border = (augmenter.context_px - patch_px) // 2
    middle = slice(border, border + patch_px)
    patches, captions = [], []
    for row in range(PREVIEW_IMAGES):
        rng = sample_rng(config.seed, 0, row)
        image, mask = source.draw(rng, augmenter.context_px)
        patches.append((image[middle, middle], mask[middle, middle]))
        captions.append("original")
        for _ in range(PREVIEW_VARIANTS):
            patches.append(augmenter.apply(image, mask, int(rng.integers(2**32))))
            captions.append("augmented")
    draw_patches(
        [image for image, _ in patches],
        [mask for _, mask in patches],
        prepared.dataset.classes,
        out,
        columns=1 + PREVIEW_VARIANTS,
        captions=captions,
        title=f"Augmentation: {config.augment.preset}",
    )
    return out


def _model_info(model: Model) -> dict[str, Any]:
    spec = model.spec
    training: Mapping[str, Any] = spec.training
    return {
        "kind": "model",
        "file": str(model.path),
        "network": f"{spec.architecture} ({spec.arguments.form})",
        "arguments": spec.arguments.model_dump(),
        "parameters": sum(one.numel() for one in model.network.parameters()),
        "receptive_field_px": spec.receptive_field,
        "halo_px": model.grid.halo,
        "alignment_px": model.grid.alignment,
        "task": spec.task,
        "classes": spec.classes,
        "mpp": spec.mpp,
        "mean": spec.mean,
        "std": spec.std,
        "scores": spec.scores,
        "training": dict(training),
        "sha256": model.sha256,
    }
