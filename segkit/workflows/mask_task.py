"""Learning from masks: a U-Net that says the class of every pixel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.data.sampling import PatchSource, cut_mirrored, sample_rng
from segkit.data.weight_map import unet_weights, weight_scale
from segkit.errors import ConfigError
from segkit.evaluation.membrane_images import MembraneRules, membrane_among
from segkit.geometry import Box
from segkit.masks import IGNORE
from segkit.models.model_file import ModelSpec
from segkit.models.receptive_field import verified_reach
from segkit.models.unet import UNet
from segkit.report.figures import Case, draw_patches, draw_validation
from segkit.training.deep_supervision import supervised_loss
from segkit.training.distributed import Group
from segkit.training.losses import class_loss
from segkit.training.samples import Batch, Samples
from segkit.training.validation import LabelledImage, PixelValidation, Validation, validate_pixels
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.prepare import Prepared
from segkit.workflows.reading import kept_planes
from segkit.workflows.task import NetworkTask, common_description, unet_arguments

VALIDATION_PATCHES = 16
FIRST_BATCH_SHOWN = 8


class MaskTask(NetworkTask[LabelledImage]):
    """See `Task`."""

    def __init__(
        self, prepared: Prepared[LabelledImage], *, group: Group, on_progress: OnProgress, on_note: OnNote
    ) -> None:
        config, num_classes = prepared.config, len(prepared.dataset.classes)
        arguments = unet_arguments(prepared, num_classes=num_classes)
        super().__init__(prepared, arguments, group=group, on_progress=on_progress, on_note=on_note)
        membrane = membrane_among(prepared.dataset.classes) if config.best_by == "v_rand" else None
        self._membranes = None if membrane is None else MembraneRules(index=membrane)
        self.metric = "dice" if self._membranes is None else "v_rand"
        assert isinstance(self.network, UNet)
        self.spec = ModelSpec.model_validate(
            {
                **common_description(prepared),
                "architecture": "unet",
                "task": "semantic",
                "arguments": arguments,
                "receptive_field": verified_reach(self.network, arguments.in_channels).field,
            }
        )
        _refuse_counts_of_slides(prepared)
        self._class_weights = class_weights_of(prepared)
        self.num_planes = 1 + config.loss.weight_map
        self._class_loss = class_loss(
            config.loss.name,  # type: ignore[arg-type]  # resolved
            # The weight map holds the classes' weights, too.
            class_weights=None if config.loss.weight_map else self._class_weights,
            focal_gamma=config.loss.focal_gamma,
            tversky_alpha=config.loss.tversky_alpha,
            tversky_beta=config.loss.tversky_beta,
            total=group.total,
        )
        self.validation_patches = self._cut_validation_patches()

    def loss(self, outputs: Tensor | Sequence[Tensor], targets_BPHW: Tensor) -> Tensor:
        """Return the loss of class scores."""
        return supervised_loss(outputs, targets_BPHW, self._loss_of_level)

    def samples_of_round(self, number: int, run: Path) -> Samples:  # noqa: ARG002 (there is one round)
        """Return augmented patches."""
        return self.samples_from(patch_source(self._prepared, self.input_px, on_progress=self._on_progress))

    def validate(self, network: nn.Module) -> Validation:
        """Segment the validation images and compare."""
        return validate_pixels(
            self._prepared.val,
            self.predictor_of(network),
            membranes=self._membranes,
            group=self._group,
            on_image=self.on_validated,
        )

    def draw_first_batch(self, samples: Samples, path: Path) -> None:
        """Draw some of the first patches with their masks."""
        drawn = self.first_drawn(samples, FIRST_BATCH_SHOWN)
        draw_patches(
            [image for image, _ in drawn],
            [target[..., 0] for _, target in drawn],
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

    def _loss_of_level(self, logits_BCHW: Tensor, targets_BPHW: Tensor) -> Tensor:
        if self.num_planes == 1:
            return self._class_loss(logits_BCHW, targets_BPHW[:, 0])
        scale = weight_scale(self._prepared.config.loss.weight_map_w0, self._class_weights or [1.0])
        return self._class_loss(logits_BCHW, targets_BPHW[:, 0], targets_BPHW[:, 1].float() * scale)

    def _cut_validation_patches(self) -> Batch:
        """Cut a fixed set of patches, spread over the validation images."""
        images, side = self._prepared.val, self.input_px
        planes = targets_of(images[:VALIDATION_PATCHES], self._prepared, on_progress=self._on_progress)
        patches, targets = [], []
        for number in range(VALIDATION_PATCHES):
            one = images[number % len(images)]
            rng = sample_rng(0, 0, number)
            y, x = (int(rng.integers(max(1, size - side + 1))) for size in one.mask.shape)
            box = Box(y, x, side, side)
            patches.append(cut_mirrored(one.image, box).transpose(2, 0, 1))
            targets.append(cut_mirrored(planes[number % len(images)], box).transpose(2, 0, 1))
        return Batch(torch.from_numpy(np.stack(patches)), torch.from_numpy(np.stack(targets)))


def patch_source(prepared: Prepared[LabelledImage], patch_px: int, *, on_progress: OnProgress) -> PatchSource:
    """Return the patches of the training images and slides."""
    return PatchSource(
        [one.image for one in prepared.learned],
        [
            *targets_of(prepared.train, prepared, on_progress=on_progress),
            *(one.mask for one in prepared.slides),
        ],
        patch_px=patch_px,
        balanced=prepared.config.patches.balanced,
        num_classes=len(prepared.dataset.classes),
    )


def targets_of(
    images: Sequence[LabelledImage], prepared: Prepared[LabelledImage], *, on_progress: OnProgress
) -> list[NDArray[np.uint8]]:
    """Return the target planes of images: classes and, where it is asked for, the weight map."""
    loss, num_classes = prepared.config.loss, len(prepared.dataset.classes)
    if not loss.weight_map:
        return [one.mask[..., None] for one in images]
    class_weights = class_weights_of(prepared) or [1.0] * num_classes

    def with_weights(one: LabelledImage) -> NDArray[np.uint8]:
        weights, _ = unet_weights(
            one.mask, w0=loss.weight_map_w0, sigma_px=loss.weight_map_sigma_px, class_weights=class_weights
        )
        return np.stack([one.mask, weights], axis=-1)

    kind = f"weights {loss.weight_map_w0} {loss.weight_map_sigma_px} {class_weights}"
    return kept_planes(prepared.dataset, images, prepared.store, kind, with_weights, on_progress=on_progress)


def _refuse_counts_of_slides(prepared: Prepared[LabelledImage]) -> None:
    if prepared.config.loss.class_weights == "balanced" and prepared.slides:
        raise ConfigError(
            f"loss.class_weights = balanced: counts the pixels of whole images; {prepared.slides[0].name} is read by "
            "region, because it is large. Give one number for each class."
        )
    if prepared.config.loss.weight_map and prepared.slides:
        raise ConfigError(
            f"loss.weight_map = true: needs the cells of whole images, and {prepared.slides[0].name} is read by "
            "region, because it is large. Leave it out, or cut fields out of the slide."
        )


def class_weights_of(prepared: Prepared[LabelledImage]) -> list[float] | None:
    """Return the weight of each class, None where all weigh the same.

    `balanced` weighs a class by the inverse of its share of the labelled training pixels, divided by the number of
    classes that occur, so that the mean weight of a pixel is 1; a class that does not occur weighs 1.
    """
    wanted, num_classes = prepared.config.loss.class_weights, len(prepared.dataset.classes)
    if wanted == "none":
        return None
    if wanted != "balanced":
        return list(wanted)
    counts = np.zeros(IGNORE + 1, np.int64)
    for one in prepared.train:
        counts += np.bincount(one.mask.ravel(), minlength=IGNORE + 1)
    counts = counts[:num_classes]
    present = counts > 0
    weights = np.ones(num_classes)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return [float(value) for value in weights]
