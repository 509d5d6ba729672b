"""Learning from points: a patch CNN that says what lies in the middle of a patch."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segkit.config import length_px
from segkit.data.augment import Augmenter
from segkit.data.point_sampling import Mined, PointSource, Shares
from segkit.data.sampling import sample_rng
from segkit.evaluation.points import outcomes
from segkit.inference.window import WindowPredictor
from segkit.models.model_file import DetectionSpec, ModelSpec, PatchCNNArguments
from segkit.models.patch_cnn import PatchCNN
from segkit.report.detections import draw_point_patches, draw_points_case
from segkit.training.distributed import Group
from segkit.training.losses import class_loss
from segkit.training.mining import mine
from segkit.training.point_validation import LabelledPoints, PointValidation, validate_points
from segkit.training.samples import Batch, Samples
from segkit.training.validation import Validation
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.prepare import Prepared
from segkit.workflows.settings import device_of
from segkit.workflows.task import NetworkTask, checked_arguments, common_description, middle_of

VALIDATION_PATCHES = 256
FIRST_BATCH_SHOWN = 32
FIRST_THRESHOLD = 0.5


class PointTask(NetworkTask[LabelledPoints]):
    """See `Task`."""

    metric = "f1"

    def __init__(
        self, prepared: Prepared[LabelledPoints], *, group: Group, on_progress: OnProgress, on_note: OnNote
    ) -> None:
        config, points = prepared.config, prepared.config.points
        model = config.model
        self._patch_px = int(config.patches.size_px)
        arguments = checked_arguments(
            PatchCNNArguments,
            {
                "in_channels": prepared.channels,
                "num_classes": len(prepared.dataset.classes),
                "form": model.form,
                "patch_px": self._patch_px,
                "base_channels": model.base_channels,
                "depth": model.depth,
                "dropout": model.dropout,
                "norm": model.norm,
                "activation": model.activation,
            },
        )
        super().__init__(prepared, arguments, group=group, on_progress=on_progress, on_note=on_note)
        self._detection = DetectionSpec(
            match_radius=points.match_radius,
            smooth_radius=points.positive_radius,
            nms_radius=points.match_radius,
            stride=usual_stride(length_px(points.positive_radius, prepared.dataset.mpp)),
            thresholds=[FIRST_THRESHOLD] * (len(prepared.dataset.classes) - 1),
        )
        self.spec = ModelSpec.model_validate(
            {
                **common_description(prepared),
                "architecture": "patch_cnn",
                "task": "points",
                "arguments": arguments,
                "receptive_field": self._patch_px,
                "detection": self._detection,
            }
        )
        weights = config.loss.class_weights
        self._class_loss = class_loss(
            config.loss.name,  # type: ignore[arg-type]  # resolved
            class_weights=None if isinstance(weights, str) else weights,
            focal_gamma=config.loss.focal_gamma,
            tversky_alpha=config.loss.tversky_alpha,
            tversky_beta=config.loss.tversky_beta,
            total=group.total,
        )
        self.validation_patches = self._cut_validation_patches()

    def loss(self, outputs: Tensor | Sequence[Tensor], targets_BPHW: Tensor) -> Tensor:
        """Return the loss of the class scores of the pixels in the middle."""
        assert isinstance(outputs, Tensor)
        return self._class_loss(outputs, middle_of(targets_BPHW, outputs)[:, 0])

    def round_ends(self) -> Sequence[int]:
        """Return the epochs after which hard negatives are mined, evenly spread, and the last epoch."""
        config = self._prepared.config
        rounds = config.points.mining_rounds if config.points.hard_negatives else 0
        ends = {config.epochs * number // (rounds + 1) for number in range(1, rounds + 2)} - {0}
        return sorted(ends)

    def samples_of_round(self, number: int, run: Path) -> Samples:
        """Return augmented patches; from round 1 on with false positives of the network as it is now.

        What a round has found is written down, so that a resumed run draws the same.
        """
        config = self._prepared.config
        mined: list[Mined] | None = None
        if number:
            mined = self.mined_in_round(run, number, lambda: self._mine(number))
        source = point_source(self._prepared, self._prepared.train, mined)
        return Samples(source, Augmenter(config.augment, self._patch_px, self.spec.arguments.in_channels), config.seed)

    def validate(self, network: nn.Module) -> Validation:
        """Find the points of the validation images, choose thresholds and score them."""
        return validate_points(
            self._prepared.val,
            self._predictor(network),
            self._detection,
            mpp=self._prepared.dataset.mpp,
            group=self._group,
            on_image=lambda done, total: self._on_progress("validate", done, total, {}),
        )

    def draw_first_batch(self, samples: Samples, path: Path) -> None:
        """Draw some of the first patches with their classes."""
        shown = min(int(self._prepared.config.patches.batch), FIRST_BATCH_SHOWN)
        drawn = [samples.draw(0, number) for number in range(shown)]
        draw_point_patches(
            [image for image, _ in drawn],
            [int(target[0, 0, 0]) for _, target in drawn],
            self._prepared.dataset.classes,
            path,
            columns=8,
            title="First training batch",
        )

    def draw_validation(self, validation: Validation, path: Path) -> None:
        """Draw the validation image with the most errors."""
        assert isinstance(validation, PointValidation)
        match_px = length_px(self._detection.match_radius, self._prepared.dataset.mpp)
        judged = [
            outcomes(found, one.points, validation.thresholds, match_px)
            for found, one in zip(validation.detections, self._prepared.val, strict=True)
        ]
        worst = int(np.argmax([len(one.wrong) + len(one.missed) for one in judged]))
        shown = self._prepared.val[worst]
        draw_points_case(
            shown.image,
            path,
            true_positives=judged[worst].right,
            false_positives=judged[worst].wrong,
            false_negatives=judged[worst].missed,
            hard_negatives=shown.points.of_class(0),
            title=f"{shown.name}: the validation image with the most errors",
        )

    def _predictor(self, network: nn.Module) -> WindowPredictor:
        assert isinstance(network, PatchCNN)
        return WindowPredictor(
            [(network, self.spec)],
            device=device_of(self._prepared.config.compute),
            precision="float32",
            stride=self._detection.stride,
        )

    def _mine(self, number: int) -> list[Mined]:
        started = time.perf_counter()
        self.network.eval()
        mined = mine(
            self._prepared.train,
            self._predictor(self.network),
            self._detection,
            mpp=self._prepared.dataset.mpp,
            group=self._group,
            on_image=lambda done, total: self._on_progress(f"mine, round {number}", done, total, {}),
        )
        found = sum(len(one.scores) for one in mined)
        weight = sum(float(one.scores.sum()) for one in mined)
        self._on_note(
            f"mining round {number}: {found} false positives in {len(mined)} training images, mean score "
            f"{weight / max(found, 1):.2f}, {time.perf_counter() - started:.0f} s"
        )
        return mined

    def _cut_validation_patches(self) -> Batch:
        """Cut a fixed set of patches of the validation images, drawn as those of training are."""
        source = point_source(self._prepared, self._prepared.val)
        drawn = [source.draw(sample_rng(0, 0, number), self._patch_px) for number in range(VALIDATION_PATCHES)]
        return Batch(
            torch.from_numpy(np.stack([image.transpose(2, 0, 1) for image, _ in drawn])),
            torch.from_numpy(np.stack([target.transpose(2, 0, 1) for _, target in drawn])),
        )


def point_source(
    prepared: Prepared[LabelledPoints], images: Sequence[LabelledPoints], mined: Sequence[Mined] | None = None
) -> PointSource:
    """Return the patches of images with points."""
    config, mpp = prepared.config, prepared.dataset.mpp
    return PointSource(
        [one.image for one in images],
        [one.points for one in images],
        patch_px=int(config.patches.size_px),
        positive_px=length_px(config.points.positive_radius, mpp),
        near_px=length_px(config.points.near_radius, mpp),
        shares=Shares(
            positives=config.points.positives,
            near_misses=config.points.near_misses,
            hard_negatives=config.points.hard_negatives,
        ),
        mined=mined,
    )


def usual_stride(positive_px: float) -> int:
    """Return 1, 2 or 4 pixels: objects are then still found by several windows, at a fraction of the work."""
    return next(stride for stride in (4, 2, 1) if stride == 1 or 1.5 * stride <= positive_px)
