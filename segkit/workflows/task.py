"""What a training needs to know of the kind of annotation that it learns from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from segkit.models.model_file import ModelSpec
from segkit.models.patch_cnn import PatchCNN
from segkit.models.unet import UNet
from segkit.training.point_validation import LabelledPoints
from segkit.training.samples import Batch, Samples
from segkit.training.validation import LabelledImage, Validation
from segkit.workflows import runs
from segkit.workflows.prepare import Prepared, channel_statistics


class Task(Protocol):
    """A network, its samples and its validation; made from prepared data.

    Attributes
    ----------
    metric
        What `Validation.score` is: dice or f1.
    spec
        The network's description.
    validation_patches
        A fixed set of patches for the validation loss.
    """

    metric: str
    spec: ModelSpec
    validation_patches: Batch

    @property
    def network(self) -> UNet | PatchCNN:
        """The network to train."""

    def round_ends(self) -> Sequence[int]:
        """Return the epochs after which the samples change, and the last epoch."""

    def samples_of_round(self, number: int, run: Path) -> Samples:
        """Return the samples of a round, from 0 on; what they depend on is left in the run's folder."""

    def validate(self) -> Validation:
        """Measure the network on the validation images."""

    def draw_first_batch(self, samples: Samples, path: Path) -> None:
        """Draw some of the first patches."""

    def draw_validation(self, validation: Validation, path: Path) -> None:
        """Draw validation images with what is right and wrong."""


def common_description(prepared: Prepared[LabelledImage] | Prepared[LabelledPoints]) -> Mapping[str, object]:
    """Return what the description of every model holds."""
    mean, std = channel_statistics([one.image for one in prepared.train])
    return {
        "classes": list(prepared.dataset.classes),
        "mpp": prepared.dataset.mpp,
        "mean": mean,
        "std": std,
        "scores": {},
        "training": {
            "data": prepared.config.data.dir.resolve().name,
            "annotation": prepared.dataset.annotation,
            "ignore": prepared.dataset.ignore,
            "hard_negatives": list(prepared.dataset.hard_negatives),
            "num_train": len(prepared.train),
            "num_val": len(prepared.val),
            "epochs": prepared.config.epochs,
            "seed": prepared.config.seed,
            "started": runs.now(),
            "versions": runs.versions(),
        },
    }
