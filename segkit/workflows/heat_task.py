"""Learning from points with a U-Net: heat maps with a summit at every point."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.config import TrainConfig, length_px
from segkit.data.heat_targets import HeatTarget
from segkit.data.mined import Mined
from segkit.data.sampling import PatchSource
from segkit.inference.heat import HeatPredictor
from segkit.models.model_file import DetectionSpec, ModelSpec
from segkit.models.receptive_field import verified_reach
from segkit.models.unet import UNet
from segkit.points import Points
from segkit.report.figures import draw_patches
from segkit.training.deep_supervision import supervised_loss
from segkit.training.distributed import Group
from segkit.training.heat_loss import RARE, heat_loss
from segkit.training.heat_validation import NOT_SMOOTHED, validate_heat
from segkit.training.point_validation import LabelledPoints
from segkit.training.samples import Samples
from segkit.training.validation import Validation
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.detection_task import FIRST_THRESHOLD, DetectionTask, fixed_patches
from segkit.workflows.prepare import Prepared
from segkit.workflows.settings import device_of, precision_of
from segkit.workflows.task import common_description, unet_arguments

SIGMA_IN_RADII: Final = 2 / 3
"""Standard deviation of the Gaussians, in positive radii: 2 px for nuclei that count as found within 6 px."""
VALIDATION_PATCHES = 16
FIRST_BATCH_SHOWN = 8


class HeatTask(DetectionTask):
    """See `Task`."""

    def __init__(
        self, prepared: Prepared[LabelledPoints], *, group: Group, on_progress: OnProgress, on_note: OnNote
    ) -> None:
        config, points, num_classes = prepared.config, prepared.config.points, len(prepared.dataset.classes)
        arguments = unet_arguments(prepared, num_classes=num_classes - 1)
        super().__init__(prepared, arguments, group=group, on_progress=on_progress, on_note=on_note)
        assert isinstance(self.network, UNet)
        if config.transfer.init_from is None and config.model.init != "zeros":
            _begin_with_background(self.network)
        self.num_planes = num_classes
        self._detection = DetectionSpec(
            match_radius=points.match_radius,
            smooth_radius=NOT_SMOOTHED,
            nms_radius=points.match_radius,
            stride=1,
            thresholds=[FIRST_THRESHOLD] * (num_classes - 1),
        )
        self.spec = ModelSpec.model_validate(
            {
                **common_description(prepared),
                "architecture": "unet",
                "task": "points",
                "arguments": arguments,
                "receptive_field": verified_reach(self.network, arguments.in_channels).field,
                "detection": self._detection,
            }
        )
        self.validation_patches = fixed_patches(
            heat_source(prepared, prepared.val, self.input_px), self.input_px, VALIDATION_PATCHES
        )

    def loss(self, outputs: Tensor | Sequence[Tensor], targets_BPHW: Tensor) -> Tensor:
        """Return the loss of heat logits."""
        return supervised_loss(outputs, targets_BPHW, functools.partial(heat_loss, total=self._group.total))

    def samples_of_round(self, number: int, run: Path) -> Samples:
        """Return augmented patches; from round 1 on some around false positives of the network as it is now."""
        mined = self.mined_in_round(run, number)
        return self.samples_from(heat_source(self._prepared, self._prepared.train, self.input_px, mined))

    def validate(self, network: nn.Module) -> Validation:
        """Find the points of the validation images, choose smoothing and thresholds, and score them."""
        return validate_heat(
            self._prepared.val,
            self.score_predictor(network),
            self._detection,
            mpp=self._prepared.dataset.mpp,
            group=self._group,
            on_image=self.on_validated,
        )

    def draw_first_batch(self, samples: Samples, path: Path) -> None:
        """Draw some of the first patches; what is within half of the summits' height is outlined."""
        drawn = self.first_drawn(samples, FIRST_BATCH_SHOWN)
        draw_patches(
            [image for image, _ in drawn],
            [summits(target) for _, target in drawn],
            self._prepared.dataset.classes,
            path,
            columns=4,
            title="First training batch: heat above one half",
        )

    def score_predictor(self, network: nn.Module) -> HeatPredictor:
        """Return the U-Net's exact tiles."""
        assert isinstance(network, UNet)
        compute = self._prepared.config.compute
        return HeatPredictor(
            [(network, self.spec)], device=device_of(compute), precision=precision_of(compute), inexact=True
        )


def _begin_with_background(network: UNet) -> None:
    """Let a network say from the start what most pixels are, far from every point, so that it need not learn it."""
    assert network.head.bias is not None
    nn.init.constant_(network.head.bias, math.log(RARE / (1 - RARE)))


def heat_source(
    prepared: Prepared[LabelledPoints],
    images: Sequence[LabelledPoints],
    patch_px: int,
    mined: Sequence[Mined] | None = None,
) -> PatchSource:
    """Return the patches of images with points.

    The share `patches.balanced` lies around points, each class and then each point being equally likely (and around
    background as often as around a class); the share `points.hard_negatives` around labelled look-alikes and what was
    mined; the rest anywhere.
    """
    config, classes = prepared.config, prepared.dataset.classes
    hard = [_hard_of(one.points, mined[number] if mined else None) for number, one in enumerate(images)]
    hard_share = config.points.hard_negatives if any(len(one.scores) for one in hard) else 0.0
    return PatchSource(
        [one.image for one in images],
        [_target_of(one, config, prepared.dataset.mpp, len(classes)) for one in images],
        patch_px=patch_px,
        balanced=min(config.patches.balanced, 1 - hard_share),
        num_classes=len(classes),
        objects=[_boxes_of(one.points) for one in images],
        hard=hard,
        hard_share=hard_share,
        # A point at the border can lie in the middle half of a patch, as any other, so that the network learns what an
        # object looks like that the border cuts.
        beyond_px=patch_px // 4,
    )


def summits(target_HWP: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask, uint8 (H, W), of the class whose heat is highest where that is above one half; for pictures."""
    heat = target_HWP[..., 1:]
    mask: NDArray[np.uint8] = np.where(heat.max(axis=2) > 127, 1 + heat.argmax(axis=2), 0).astype(np.uint8)
    return mask


def _target_of(one: LabelledPoints, config: TrainConfig, mpp: float | None, num_classes: int) -> HeatTarget:
    positive_px = length_px(config.points.positive_radius, mpp)
    height, width = one.image.shape[:2]
    return HeatTarget(
        one.points, height, width, num_classes, sigma_px=SIGMA_IN_RADII * positive_px, positive_px=positive_px
    )


def _boxes_of(points: Points) -> NDArray[np.int64]:
    """Return the pixels of the points of a class as boxes of objects (see `segkit.data.sampling.ObjectBoxes`)."""
    of_a_class = points.classes > 0
    corners = np.floor(points.positions[of_a_class]).astype(np.int64)
    return np.column_stack([corners, np.ones_like(corners), points.classes[of_a_class]])


def _hard_of(points: Points, mined: Mined | None) -> Mined:
    """Return the labelled look-alikes, each with a weight of 1, and what was mined."""
    labelled = points.of_class(0)
    if mined is None:
        return Mined(labelled, np.ones(len(labelled)))
    return Mined(np.concatenate([labelled, mined.positions]), np.concatenate([np.ones(len(labelled)), mined.scores]))
