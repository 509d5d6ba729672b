"""Looking before working: check a data folder, describe a slide or model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.config import DataConfig
from segkit.data.check import CheckReport, check_dataset
from segkit.errors import InputError
from segkit.models.model_file import MODEL_NAME, Model, load_model
from segkit.slides import open_slide
from segkit.workflows.callbacks import OnProgress, quiet_progress


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
        **_tiling(model),
        "task": spec.task,
        "classes": spec.classes,
        "mpp": spec.mpp,
        "mean": spec.mean,
        "std": spec.std,
        "scores": spec.scores,
        "training": dict(training),
        "sha256": model.sha256,
    }


def _tiling(model: Model) -> dict[str, Any]:
    if model.spec.detection is not None:
        # Without the curves, which are long: figures are made of them.
        return {"patch_px": model.patch_cnn.patch_px, "detection": model.spec.detection.model_dump(exclude={"curves"})}
    return {"halo_px": model.grid.halo, "alignment_px": model.grid.alignment}
