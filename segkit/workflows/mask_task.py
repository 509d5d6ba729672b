"""Learning from masks: a U-Net that says the class of every pixel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from segkit.data.augment import Augmenter
from segkit.data.sampling import PatchSource, cut_mirrored, sample_rng
from segkit.geometry import Box
from segkit.inference.network import Predictor
from segkit.models.model_file import ModelSpec, UNetArguments, build_network
from segkit.models.receptive_field import tile_grid, verified_reach
from segkit.models.unet import UNet
from segkit.report.figures import Case, draw_patches, draw_validation
from segkit.training.samples import Batch, Samples
from segkit.training.validation import LabelledImage, PixelValidation, Validation, validate_pixels
from segkit.workflows.callbacks import OnProgress
from segkit.workflows.prepare import Prepared, input_px
from segkit.workflows.settings import device_of, precision_of
from segkit.workflows.task import common_description

VALIDATION_PATCHES = 16
FIRST_BATCH_SHOWN = 8


class MaskTask:
    """See `Task`."""

    metric = "dice"

    def __init__(self, prepared: Prepared[LabelledImage], on_progress: OnProgress) -> None:
        self._prepared, self._on_progress = prepared, on_progress
        config = prepared.config
        arguments = UNetArguments.model_validate(
            {
                "in_channels": prepared.train[0].image.shape[2],
                "num_classes": len(prepared.dataset.classes),
                "base_channels": config.model.base_channels,
                "depth": config.model.depth,
                "form": config.model.form,
                "dropout": config.model.dropout,
            }
        )
        network = build_network(arguments, device="cpu")
        assert isinstance(network, UNet)
        self.network: UNet = network
        self._grid = tile_grid(network)
        self._input_px = input_px(config, self._grid)
        self.spec = ModelSpec.model_validate(
            {
                **common_description(prepared),
                "architecture": "unet",
                "task": "semantic",
                "arguments": arguments,
                "receptive_field": verified_reach(network, arguments.in_channels).field,
            }
        )
        self.validation_patches = _validation_patches(prepared.val, self._input_px)

    def round_ends(self) -> Sequence[int]:
        """Return the last epoch: the samples stay the same."""
        return [self._prepared.config.epochs]

    def samples_of_round(self, number: int, run: Path) -> Samples:  # noqa: ARG002 (there is one round)
        """Return augmented patches."""
        config = self._prepared.config
        source = patch_source(self._prepared, self._input_px)
        return Samples(source, Augmenter(config.augment, self._input_px), config.seed)

    def validate(self) -> Validation:
        """Segment the validation images and compare."""
        compute = self._prepared.config.compute
        predictor = Predictor(
            [(self.network, self.spec)], device=device_of(compute), precision=precision_of(compute), dihedral=False
        )
        return validate_pixels(
            self._prepared.val,
            predictor,
            on_image=lambda done, total: self._on_progress("validate", done, total, {}),
        )

    def draw_first_batch(self, samples: Samples, path: Path) -> None:
        """Draw some of the first patches with their masks."""
        drawn = [
            samples.draw(0, number)
            for number in range(min(int(self._prepared.config.patches.batch), FIRST_BATCH_SHOWN))
        ]
        draw_patches(
            [image for image, _ in drawn],
            [mask for _, mask in drawn],
            self._prepared.dataset.classes,
            path,
            columns=4,
            title="First training batch",
        )

    def draw_validation(self, validation: Validation, path: Path) -> None:
        """Draw validation images, worst to best."""
        assert isinstance(validation, PixelValidation)
        cases = [
            Case(one.name, one.image, one.mask, mask, score)
            for one, mask, score in zip(self._prepared.val, validation.masks, validation.per_image, strict=True)
        ]
        draw_validation(cases, self._prepared.dataset.classes, path)


def patch_source(prepared: Prepared[LabelledImage], patch_px: int) -> PatchSource:
    """Return the patches of the training images."""
    return PatchSource(
        [one.image for one in prepared.train],
        [one.mask for one in prepared.train],
        patch_px=patch_px,
        balanced=prepared.config.patches.balanced,
        num_classes=len(prepared.dataset.classes),
    )


def _validation_patches(images: Sequence[LabelledImage], side: int) -> Batch:
    """Cut a fixed set of patches, spread over the validation images."""
    patches, masks = [], []
    for number in range(VALIDATION_PATCHES):
        one = images[number % len(images)]
        rng = sample_rng(0, 0, number)
        y, x = (int(rng.integers(max(1, size - side + 1))) for size in one.mask.shape)
        box = Box(y, x, side, side)
        patches.append(cut_mirrored(one.image, box).transpose(2, 0, 1))
        masks.append(cut_mirrored(one.mask, box))
    return Batch(torch.from_numpy(np.stack(patches)), torch.from_numpy(np.stack(masks)))
