"""Looking before working: check a data folder, describe a slide or model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.config import DataConfig
from segkit.data.check import CheckReport, check_dataset
from segkit.errors import InputError, ModelError
from segkit.models.layer_table import by_block, dense_macs_per_pixel, layer_table
from segkit.models.model_file import MODEL_NAME, Model, load_model
from segkit.models.patch_cnn import PatchCNN
from segkit.models.receptive_field import refuse_mixing_norms, tile_grid
from segkit.slides import open_slide
from segkit.training.instance_validation import TRIED
from segkit.workflows.callbacks import OnProgress, quiet_progress
from segkit.workflows.test_looks import read_looks

LAYER_TABLE_PX = 256
"""Layers of a U-Net are described for an image of about this side (that comes out of it)."""


def check(config: DataConfig, *, on_progress: OnProgress = quiet_progress) -> CheckReport:
    """Read a whole data folder as a training would and report facts, warnings and problems."""
    return check_dataset(config, on_progress=lambda done, total: on_progress("check", done, total, {}))


def info(path: Path) -> dict[str, Any]:
    """Return what is known about a slide, image, model file or run folder, without reading pixels.

    A model's `layers` and `blocks` are those of `segkit.models.layer_table`; `macs_per_pixel` are multiply-adds per
    pixel of the result: a U-Net's tiles without their halo, a patch CNN's dense form at its stride.

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
    costs, layers = _costs(model)
    training: Mapping[str, Any] = spec.training
    return {
        "kind": "model",
        "file": str(model.path),
        "network": f"{spec.architecture} ({spec.arguments.form})",
        "arguments": spec.arguments.model_dump(exclude_none=True),
        "parameters": sum(one.numel() for one in model.network.parameters()),
        **costs,
        "receptive_field_px": spec.receptive_field,
        **_tiling(model),
        "task": spec.task,
        "classes": spec.classes,
        "mpp": spec.mpp,
        "mean": spec.mean,
        "std": spec.std,
        # Without the curves, which are long: figures are made of them.
        **({"detection": spec.detection.model_dump(exclude={"curves"})} if spec.detection is not None else {}),
        **({"instances": spec.instances.model_dump()} if spec.instances is not None else {}),
        "scores": spec.scores,
        "training": {name: value for name, value in training.items() if name != TRIED},  # long, too
        "looks_at_test_set": len(read_looks(model.path.parent)),
        "sha256": model.sha256,
        **layers,
    }


def _tiling(model: Model) -> dict[str, Any]:
    if isinstance(model.network, PatchCNN):
        return {"patch_px": model.network.patch_px}
    grid = tile_grid(model.network, inexact=True)
    facts: dict[str, Any] = {"halo_px": grid.halo, "alignment_px": grid.alignment}
    try:
        refuse_mixing_norms(model.network)
    except ModelError as error:
        # It is worth describing nevertheless; --inexact runs it.
        facts["inexact"] = error.message
    return facts


def _costs(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the network's multiply-adds, a U-Net's per pixel, a patch CNN's per patch, too; and its layers."""
    network, channels = model.network, model.spec.arguments.in_channels
    if isinstance(network, PatchCNN):
        layers = layer_table(network, channels, network.patch_px)
        stride = model.spec.detection.stride if model.spec.detection is not None else 1
        costs: dict[str, Any] = {
            "macs_per_patch": sum(row.macs for row in layers),
            "macs_per_pixel": dense_macs_per_pixel(network, channels, stride),
        }
    else:
        grid = tile_grid(network, inexact=True)
        side = grid.legal_size(max(LAYER_TABLE_PX + 2 * grid.margin, grid.smallest))
        layers = layer_table(network, channels, side)
        # Valid convolutions take pixels that they give none for: the cost is that of the pixels that come out.
        costs = {"macs_per_pixel": sum(row.macs for row in layers) / (side - 2 * grid.margin) ** 2}
    return costs, {
        "layers": [row._asdict() for row in layers],
        "blocks": [row._asdict() for row in by_block(layers)],
    }
