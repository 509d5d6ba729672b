"""Learning from objects: a U-Net that says the class of every pixel, and how far inside its object it is."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.data.instance_labels import UNLABELLED
from segkit.data.instance_targets import CLASS_PLANE, DISTANCE_PLANE, NUM_PLANES, object_radii_px, target_planes
from segkit.data.sampling import PatchSource, cut_mirrored, object_boxes, sample_rng
from segkit.data.weight_map import unet_weights, weight_scale
from segkit.evaluation.objects import matched_pairs
from segkit.geometry import Box
from segkit.masks import IGNORE
from segkit.models.model_file import InstanceSpec, ModelSpec
from segkit.models.receptive_field import verified_reach
from segkit.models.unet import UNet
from segkit.report.figures import draw_patches
from segkit.report.instances import InstanceCase, draw_instances_validation
from segkit.training.deep_supervision import supervised_loss
from segkit.training.distributed import Group
from segkit.training.instance_loss import instance_loss
from segkit.training.instance_validation import (
    IOU,
    InstanceValidation,
    LabelledObjects,
    overlaps_of,
    validate_instances,
)
from segkit.training.losses import class_loss
from segkit.training.samples import Batch, Samples
from segkit.training.validation import LabelledImage, Validation
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_progress
from segkit.workflows.mask_task import class_weights_of
from segkit.workflows.prepare import Prepared
from segkit.workflows.reading import kept_planes
from segkit.workflows.task import NetworkTask, common_description, unet_arguments

VALIDATION_PATCHES: Final = 16
FIRST_BATCH_SHOWN: Final = 8
USUAL_THRESHOLD: Final = 0.5
"""Of foreground and seeds, before validation has chosen."""

USUAL_SMOOTHING_PX: Final = 1.0

GROWTH_IN_RADII: Final = 1.5
"""How far seeds may grow: rounds take steps to four sides, of which a diagonal needs 1.41 for each pixel."""
CORE: Final = 85
"""A third of the greatest distance: what is above is drawn."""

RADII_QUANTILE: Final = 0.995
"""A few objects that are annotated larger than all others do not decide how far every seed may grow."""


class InstanceTask(NetworkTask[LabelledObjects]):
    """See `Task`."""

    metric = "ap"

    def __init__(
        self, prepared: Prepared[LabelledObjects], *, group: Group, on_progress: OnProgress, on_note: OnNote
    ) -> None:
        config, num_classes = prepared.config, len(prepared.dataset.classes)
        arguments = unet_arguments(prepared, num_classes=num_classes, extra_maps=1)
        super().__init__(prepared, arguments, group=group, on_progress=on_progress, on_note=on_note)
        assert isinstance(self.network, UNet)
        self._instances = InstanceSpec(
            foreground_threshold=USUAL_THRESHOLD,
            seed_threshold=USUAL_THRESHOLD,
            min_area_px=0,
            smooth_px=USUAL_SMOOTHING_PX,
            grow_px=growth_px([one.labels for one in prepared.train]),
        )
        self.spec = ModelSpec.model_validate(
            {
                **common_description(prepared),
                "architecture": "unet",
                "task": "instance",
                "arguments": arguments,
                "receptive_field": verified_reach(self.network, arguments.in_channels).field,
                "instances": self._instances,
            }
        )
        self.num_planes = NUM_PLANES + config.loss.weight_map
        class_weights = _class_weights(prepared)
        self._loss = instance_loss(
            class_term=class_loss(
                config.loss.name,  # type: ignore[arg-type]  # resolved
                # The weight map holds the classes' weights, too.
                class_weights=None if config.loss.weight_map else class_weights,
                focal_gamma=config.loss.focal_gamma,
                tversky_alpha=config.loss.tversky_alpha,
                tversky_beta=config.loss.tversky_beta,
                total=group.total,
            ),
            weight_scale=weight_scale(config.loss.weight_map_w0, class_weights or [1.0])
            if config.loss.weight_map
            else None,
            total=group.total,
        )
        self.validation_patches = _cut_validation_patches(prepared, self.input_px)

    def samples_of_round(self, number: int, run: Path) -> Samples:  # noqa: ARG002 (there is one round)
        """Return augmented patches."""
        return self.samples_from(object_source(self._prepared, self.input_px))

    def loss(self, outputs: Tensor | Sequence[Tensor], targets_BPHW: Tensor) -> Tensor:
        """Return the loss of outputs (B, C + 1, H, W), of one scale or of several, for uint8 target planes."""
        return supervised_loss(outputs, targets_BPHW, self._loss)

    def validate(self, network: nn.Module) -> Validation:
        """Find the objects of the validation images, choose thresholds, and compare."""
        return validate_instances(
            self._prepared.val,
            self.predictor_of(network),
            self._instances,
            group=self._group,
            on_image=self.on_validated,
        )

    def draw_first_batch(self, samples: Samples, path: Path) -> None:
        """Draw some of the first patches with what is well inside objects, by which those that touch are told apart."""
        drawn = self.first_drawn(samples, FIRST_BATCH_SHOWN)
        draw_patches(
            [image for image, _ in drawn],
            [cores(target) for _, target in drawn],
            self._prepared.dataset.classes,
            path,
            columns=4,
            title="First training batch: outlines where the distance to the border is a third of the greatest",
        )

    def draw_validation(self, validation: Validation, path: Path) -> None:
        """Draw validation images, worst to best."""
        assert isinstance(validation, InstanceValidation)
        cases = [
            instance_case(one.name, one.image, one.labels, labels, score)
            for one, labels, score in zip(self._prepared.val, validation.labels, validation.per_image, strict=True)
        ]
        draw_instances_validation(cases, path)


def object_source(prepared: Prepared[LabelledObjects], patch_px: int) -> PatchSource:
    """Return the patches of the training images; balanced ones lie around evenly drawn objects."""
    return PatchSource(
        [one.image for one in prepared.train],
        planes_of(prepared, prepared.train),
        patch_px=patch_px,
        balanced=prepared.config.patches.balanced,
        num_classes=len(prepared.dataset.classes),
        objects=[object_boxes(one.labels, one.mask) for one in prepared.train],
    )


def planes_of(prepared: Prepared[LabelledObjects], images: Sequence[LabelledObjects]) -> list[NDArray[np.uint8]]:
    """Return what is learned of each image, uint8 (H, W, P): class, distance and, where configured, weight.

    They are kept where the images are.
    """
    loss, dataset = prepared.config.loss, prepared.dataset
    class_weights = _class_weights(prepared) or [1.0] * len(dataset.classes)
    weighting = [loss.weight_map_w0, loss.weight_map_sigma_px, class_weights] if loss.weight_map else None

    def make(one: LabelledObjects) -> NDArray[np.uint8]:
        planes = target_planes(one.labels, ignore=UNLABELLED)
        planes[..., CLASS_PLANE] = one.mask
        if weighting is None:
            return planes
        weights, _ = unet_weights(
            one.mask,
            w0=loss.weight_map_w0,
            sigma_px=loss.weight_map_sigma_px,
            class_weights=class_weights,
            labels=one.labels,
        )
        return np.concatenate([planes, weights[..., np.newaxis]], axis=-1)

    kind = f"instance planes {weighting}"
    return kept_planes(dataset, images, prepared.store, kind, make, on_progress=quiet_progress)


def _class_weights(prepared: Prepared[LabelledObjects]) -> list[float] | None:
    masks = [LabelledImage(one.name, one.image, one.mask) for one in prepared.train]
    return class_weights_of(Prepared(config=prepared.config, dataset=prepared.dataset, train=masks, val=[]))


def growth_px(labels: Sequence[NDArray[np.integer]]) -> int:
    """Return how far seeds may grow, from the radii of the objects in images (H, W)."""
    radii = np.concatenate([np.zeros(1), *(object_radii_px(np.maximum(one, 0)) for one in labels)])
    return min(1024, 4 + math.ceil(GROWTH_IN_RADII * float(np.quantile(radii, RADII_QUANTILE))))


def cores(target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the class plane of a target, uint8 (H, W), without what is near to the borders of objects."""
    inside = target[..., CLASS_PLANE]
    return np.where((target[..., DISTANCE_PLANE] < CORE) & (inside != IGNORE), np.uint8(0), inside)


def instance_case(
    name: str,
    image: NDArray[np.uint8],
    truth: NDArray[np.int32],
    labels: NDArray[np.int32],
    score: float | None,
) -> InstanceCase:
    """Return what is drawn of an image; `UNLABELLED` pixels (of `truth`) are background in both label images."""
    overlaps = overlaps_of(truth, labels)
    pairs = matched_pairs(overlaps, IOU)
    unlabelled = truth == UNLABELLED
    return InstanceCase(
        name,
        image,
        np.where(unlabelled, 0, truth),
        np.where(unlabelled, 0, labels),
        np.stack([overlaps.true_ids[overlaps.true[pairs]], overlaps.predicted_ids[overlaps.predicted[pairs]]], axis=1),
        score,
    )


def _cut_validation_patches(prepared: Prepared[LabelledObjects], side: int) -> Batch:
    """Cut a fixed set of patches, spread over the validation images."""
    patches, targets = [], []
    planes = planes_of(prepared, prepared.val[:VALIDATION_PATCHES])
    for number in range(VALIDATION_PATCHES):
        one, target = prepared.val[number % len(planes)], planes[number % len(planes)]
        rng = sample_rng(0, 0, number)
        y, x = (int(rng.integers(max(1, size - side + 1))) for size in one.mask.shape)
        box = Box(y, x, side, side)
        patches.append(cut_mirrored(one.image, box).transpose(2, 0, 1))
        targets.append(cut_mirrored(target, box).transpose(2, 0, 1))
    return Batch(torch.from_numpy(np.stack(patches)), torch.from_numpy(np.stack(targets)))
