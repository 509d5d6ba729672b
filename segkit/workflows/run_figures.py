"""The pictures of a run: what was learned from, how it went, and what has come of it."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segkit.models.model_file import load_model
from segkit.models.patch_cnn import PatchCNN
from segkit.models.unet import UNet
from segkit.report.curves import draw_curves
from segkit.report.diverged import draw_diverged_batch
from segkit.report.figures import draw_kernels
from segkit.report.receptive_field import draw_receptive_field
from segkit.report.units import draw_top_patches
from segkit.training.diverged import load_batch
from segkit.training.excite import effective_field, top_patches
from segkit.training.fit import FitResult
from segkit.training.gradients import Normalise
from segkit.training.samples import Samples
from segkit.training.state import Row
from segkit.training.validation import Validation
from segkit.workflows.task import Task

FIGURES = "figures"
SECONDS_BETWEEN_CURVES = 30
UNITS, RANKS, WINDOW_PX = 8, 8, 64
FIELD_PATCHES = 2
UNIT_PATCHES_PX = 8 * 256**2  # as many patches are looked at for the units as make so many pixels


class RunFigures:
    """Draws into the folder `figures` of a run."""

    def __init__(self, run: Path, task: Task) -> None:
        self.folder = run / FIGURES
        self._run, self._task = run, task
        self._drawn = 0.0

    def draw_begin(self, samples: Samples) -> None:
        """Draw some of the first patches."""
        self._task.draw_first_batch(samples, self.folder / "first_batch.png")

    def draw_epoch(self, rows: Sequence[Row], validation: Validation, is_best: bool) -> None:
        """Draw the curves so far, now and then, and what the best network is like."""
        if time.monotonic() - self._drawn > SECONDS_BETWEEN_CURVES:
            self._draw_curves(rows, stopped_early=False)
            self._drawn = time.monotonic()
        if is_best:
            self._task.draw_validation(validation, self.folder / "validation.png")
            draw_kernels(_first_weights(load_model(self._run).network), self.folder / "kernels.png")

    def draw_end(self, result: FitResult) -> None:
        """Draw the curves, and what the model looks at."""
        self._draw_curves(result.history, stopped_early=result.stopped_early)
        model = load_model(self._run)
        network, spec = model.network, model.spec
        patches = self._task.shown_patches()
        normalise = Normalise(spec.mean, spec.std)
        field = effective_field(network, patches[:FIELD_PATCHES], normalise)
        draw_receptive_field(
            patches[0].permute(1, 2, 0).numpy(),
            spec.receptive_field,
            self.folder / "receptive_field.png",
            effective=field,
        )
        layer = shown_layer(network)
        if layer is not None:
            shown = patches[: max(RANKS, UNIT_PATCHES_PX // (patches.shape[-1] * patches.shape[-2]))]
            found = top_patches(network, layer, shown, normalise, num_units=UNITS, ranks=RANKS, window_px=WINDOW_PX)
            draw_top_patches(found.windows, found.values, self.folder / "units.png", layer=layer)

    def draw_diverged(self) -> None:
        """Draw the batches at which training diverged."""
        for path in sorted(self._run.glob("diverged_step_*.safetensors")):
            batch = load_batch(path)
            draw_diverged_batch(
                batch.images.numpy(),
                batch.targets.numpy(),
                self.folder / f"{path.stem}.png",
                classes=self._task.spec.classes,
            )

    def _draw_curves(self, rows: Sequence[Row], *, stopped_early: bool) -> None:
        draw_curves(
            rows,
            self.folder / "curves.png",
            title=self._run.name,
            metric=self._task.metric,
            stopped_early=stopped_early,
        )


def shown_layer(network: nn.Module) -> str | None:
    """Return the name of a layer in the middle of the contracting path, None where there is no such thing."""
    match network:
        case UNet():
            return f"encoder.{min(2, len(network.encoder) - 1)}"
        case PatchCNN():
            activated = [
                number + 2
                for number, layer in enumerate(network.layers)
                if isinstance(layer, nn.Conv2d) and number + 2 < len(network.layers)
            ]
            return f"layers.{activated[len(activated) // 2]}" if activated else None
    return None


def _first_weights(network: nn.Module) -> NDArray[np.float32]:
    """Return what the first layer's units look for; where it is a linear one, its weights lie on the patch."""
    weights: torch.Tensor = next(network.parameters()).detach().float().cpu()
    if weights.ndim == 2 and isinstance(network, PatchCNN):
        weights = weights.reshape(len(weights), -1, network.patch_px, network.patch_px)
    array: NDArray[np.float32] = weights.numpy()
    return array
