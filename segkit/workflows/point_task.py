"""Learning from points: a patch CNN that says what lies in the middle of a patch."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from segkit.config import length_px
from segkit.data.mined import Mined
from segkit.data.point_sampling import PointSource, Shares
from segkit.inference.window import WindowPredictor
from segkit.models.model_file import DetectionSpec, ModelSpec, PatchCNNArguments
from segkit.models.patch_cnn import PatchCNN
from segkit.report.detections import draw_point_patches
from segkit.training.distributed import Group
from segkit.training.losses import class_loss
from segkit.training.point_validation import LabelledPoints, validate_points
from segkit.training.samples import Samples
from segkit.training.validation import Validation
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.detection_task import FIRST_THRESHOLD, DetectionTask, fixed_patches
from segkit.workflows.prepare import Prepared
from segkit.workflows.settings import device_of
from segkit.workflows.task import checked_arguments, common_description, middle_of

VALIDATION_PATCHES = 256
FIRST_BATCH_SHOWN = 32


class PointTask(DetectionTask):
    """See `Task`."""

    def __init__(
        self, prepared: Prepared[LabelledPoints], *, group: Group, on_progress: OnProgress, on_note: OnNote
    ) -> None:
        config, points = prepared.config, prepared.config.points
        model = config.model
        arguments = checked_arguments(
            PatchCNNArguments,
            {
                "in_channels": prepared.channels,
                "num_classes": len(prepared.dataset.classes),
                "form": model.form,
                "patch_px": config.patches.size_px,
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
                "receptive_field": self.input_px,
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
        self.validation_patches = fixed_patches(point_source(prepared, prepared.val), self.input_px, VALIDATION_PATCHES)

    def loss(self, outputs: Tensor | Sequence[Tensor], targets_BPHW: Tensor) -> Tensor:
        """Return the loss of the class scores of the pixels in the middle."""
        assert isinstance(outputs, Tensor)
        return self._class_loss(outputs, middle_of(targets_BPHW, outputs)[:, 0])

    def samples_of_round(self, number: int, run: Path) -> Samples:
        """Return augmented patches; from round 1 on with false positives of the network as it is now."""
        mined = self.mined_in_round(run, number)
        return self.samples_from(point_source(self._prepared, self._prepared.train, mined))

    def validate(self, network: nn.Module) -> Validation:
        """Find the points of the validation images, choose thresholds and score them."""
        return validate_points(
            self._prepared.val,
            self.score_predictor(network),
            self._detection,
            mpp=self._prepared.dataset.mpp,
            group=self._group,
            on_image=self.on_validated,
        )

    def draw_first_batch(self, samples: Samples, path: Path) -> None:
        """Draw some of the first patches with their classes."""
        drawn = self.first_drawn(samples, FIRST_BATCH_SHOWN)
        draw_point_patches(
            [image for image, _ in drawn],
            [int(target[0, 0, 0]) for _, target in drawn],
            self._prepared.dataset.classes,
            path,
            columns=8,
            title="First training batch",
        )

    def score_predictor(self, network: nn.Module) -> WindowPredictor:
        """Return the dense form of the patch CNN."""
        assert isinstance(network, PatchCNN)
        return WindowPredictor(
            [(network, self.spec)],
            device=device_of(self._prepared.config.compute),
            precision="float32",
            stride=self._detection.stride,
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
