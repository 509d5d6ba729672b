"""What a training needs to know of the kind of annotation that it learns from."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from segkit.data.augment import Augmenter
from segkit.errors import ConfigError
from segkit.inference.network import Predictor
from segkit.models.initialisation import ZEROS_WARNING, initialise
from segkit.models.model_file import ModelSpec, PatchCNNArguments, UNetArguments, build_network, load_model
from segkit.models.patch_cnn import PatchCNN
from segkit.models.receptive_field import mixing_norms, tile_grid
from segkit.models.transfer import (
    PARTS,
    Part,
    freeze,
    load_encoder_weights,
    parameter_groups,
    settle_frozen,
    start_from,
)
from segkit.models.unet import UNet
from segkit.training.deep_supervision import DeepSupervision
from segkit.training.device_augment import DeviceAugmenter
from segkit.training.distributed import Group
from segkit.training.instance_validation import LabelledObjects
from segkit.training.optimisation import ParameterGroup
from segkit.training.point_validation import LabelledPoints
from segkit.training.samples import Batch, Samples, Source
from segkit.training.trainable import Trainable
from segkit.training.validation import LabelledImage, Validation
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.prepare import AnyPrepared, Prepared, input_px
from segkit.workflows.reading import channel_statistics
from segkit.workflows.settings import device_of, precision_of

LabelledT = TypeVar("LabelledT", LabelledImage, LabelledPoints, LabelledObjects)
ArgumentsT = TypeVar("ArgumentsT", UNetArguments, PatchCNNArguments)
Augment = Callable[[Batch, int, Sequence[int]], Batch]
_SETTING_OF: Final = {
    "patch_px": "patches.size_px",
    "num_classes": "number of classes",
    **{key: f"model.{key}" for key in ("base_channels", "depth", "dropout")},
}


class Task(Trainable, Protocol):
    """A network, its samples and its validation; made from prepared data. See `Trainable` for the rest."""

    def round_ends(self) -> Sequence[int]:
        """Return the epochs after which the samples change, and the last epoch."""

    def samples_of_round(self, number: int, run: Path) -> Samples:
        """Return the samples of a round, from 0 on; what they depend on is left in the run's folder."""

    def augment_on_device(self) -> Augment | None:
        """Return what changes batches on the device, None where samples come changed."""

    def shown_patches(self) -> Tensor:
        """Return patches of validation images for pictures of what the network sees, uint8 (N, C, H, W).

        They lie inside their images, unless these are smaller: what is mirrored is not what an image shows.
        """

    def draw_first_batch(self, samples: Samples, path: Path) -> None:
        """Draw some of the first patches."""

    def draw_validation(self, validation: Validation, path: Path) -> None:
        """Draw validation images with what is right and wrong."""


class NetworkTask(Generic[LabelledT]):
    """What all tasks do alike: a network that begins as the configuration says, and which parts of it are trained.

    Attributes
    ----------
    network
        The network that becomes the model.
    trained
        It, or `DeepSupervision` around it.
    input_px
        The side of the patches that the network is fed: that of the output and, of a U-Net, what the network loses.
    """

    network: UNet | PatchCNN
    trained: nn.Module
    spec: ModelSpec
    validation_patches: Batch
    num_planes = 1
    """Planes of the targets."""

    def __init__(
        self,
        prepared: Prepared[LabelledT],
        arguments: UNetArguments | PatchCNNArguments,
        *,
        group: Group,
        on_progress: OnProgress,
        on_note: OnNote,
    ) -> None:
        self._prepared: Prepared[LabelledT] = prepared
        self._group, self._on_progress, self._on_note = group, on_progress, on_note
        config = prepared.config
        self.network = build_network(arguments, device="cpu")
        if config.model.init != "he":  # which networks begin with
            initialise(self.network, config.model.init, arguments.activation or "relu")
        if config.model.init == "zeros":
            on_note(ZEROS_WARNING)
        mixing = mixing_norms(self.network) if isinstance(self.network, UNet) else {}
        if mixing:
            on_note(mixing_warning(mixing))
        size_px = int(config.patches.size_px)
        self.input_px = (
            input_px(config, tile_grid(self.network, inexact=True)) if isinstance(self.network, UNet) else size_px
        )
        self._pretrained = self._take_over()
        with_heads = config.model.deep_supervision and isinstance(self.network, UNet)
        self.trained = DeepSupervision(self.network) if with_heads else self.network  # type: ignore[arg-type]
        self._frozen: set[Part] = set()

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return all parameters, those that were learned before in a group of their own."""
        rate = self._prepared.config.transfer.pretrained_rate
        groups = parameter_groups(self.network, frozen=set(), pretrained=self._pretrained, pretrained_rate=rate)
        if isinstance(self.trained, DeepSupervision):
            groups.append((list(self.trained.heads.parameters()), 1.0))
        return [ParameterGroup(parameters, factor) for parameters, factor in groups]

    def begin_epoch(self, epoch: int) -> bool:
        """Put the network into training mode, frozen parts aside; tell whether other parts are frozen than before."""
        before, self._frozen = self._frozen, self._frozen_in(epoch)
        if before != self._frozen:
            freeze(self.network, self._frozen)
            frozen = " and ".join(sorted(self._frozen)) or "no part"
            self._on_note(f"from epoch {epoch + 1} on {frozen} of the network is frozen")
        self.trained.train()
        settle_frozen(self.trained)
        return before != self._frozen

    def augment_on_device(self) -> Augment | None:
        """Return what changes batches on the device, None where samples come changed."""
        config = self._prepared.config
        if config.augment.backend != "device":
            return None
        augmenter = DeviceAugmenter(config.augment, self.input_px, self.num_planes, config.seed)
        return lambda batch, step, numbers: Batch(*augmenter(batch.images, batch.targets, step, numbers))

    def round_ends(self) -> Sequence[int]:
        """Return the last epoch: the samples stay the same, unless a task says otherwise."""
        return [self._prepared.config.epochs]

    def shown_patches(self) -> Tensor:
        """Return the patches of the validation loss, which lie inside the images, unless a task says otherwise."""
        return self.validation_patches.images

    def samples_from(self, source: Source) -> Samples:
        """Return augmented patches of a source."""
        config = self._prepared.config
        return Samples(source, Augmenter(config.augment, self.input_px, self.spec.arguments.in_channels), config.seed)

    def first_drawn(self, samples: Samples, most: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """Return the first samples of a training, at most a batch and at most so many."""
        return [samples.draw(0, number) for number in range(min(int(self._prepared.config.patches.batch), most))]

    def predictor_of(self, network: nn.Module) -> Predictor:
        """Return a U-Net's exact tiles, for whole validation images.

        Layers that mix pixels are no hindrance for training; `predict` asks for --inexact then (`mixing_warning`).
        """
        assert isinstance(network, UNet)
        compute = self._prepared.config.compute
        return Predictor(
            [(network, self.spec)],
            device=device_of(compute),
            precision=precision_of(compute),
            dihedral=False,
            inexact=True,
        )

    def on_validated(self, done: int, total: int) -> None:
        """Tell how far a validation is."""
        self._on_progress("validate", done, total, {})

    def _frozen_in(self, epoch: int) -> set[Part]:
        transfer = self._prepared.config.transfer
        if transfer.freeze == "none" or (transfer.unfreeze_epoch is not None and epoch + 1 >= transfer.unfreeze_epoch):
            return set()
        return {"encoder"} if transfer.freeze == "encoder" else set(PARTS) - {"head"}

    def _say(self, notes: Sequence[str]) -> None:
        for note in notes:
            self._on_note(note)

    def _take_over(self) -> set[Part]:
        """Put weights that were learned before into the network; return the parts that have them."""
        config = self._prepared.config
        taken: set[Part] = set()
        if config.model.encoder_weights != "none" and isinstance(self.network, UNet):
            if not self._prepared.is_resumed:
                self._say(load_encoder_weights(self.network, config.model.encoder_weights))
            taken = {"encoder"}
        if config.transfer.init_from is not None:
            if not self._prepared.is_resumed:
                self._say(start_from(self.network, load_model(config.transfer.init_from)))
            taken = set(PARTS) - {"head"}
        return taken


def mixing_warning(layers: Mapping[str, nn.Module]) -> str:
    """Return what to expect of a network with layers that mix all the pixels that they see (`mixing_norms`)."""
    name, layer = next(iter(layers.items()))
    return (
        f"This network is not exact: {len(layers)} of its layers average over all the pixels that they see (the first "
        f"is `{name}`, {type(layer).__name__}: squeeze-and-excitation has these). What it says of a pixel depends on "
        "the tile that the pixel lies in, so tiles differ from the whole image, and there may be seams. `segkit "
        "predict` refuses the model without --inexact, `segkit evaluate` without --set inexact=true. With another "
        "model.encoder tiles equal the whole."
    )


def unet_arguments(prepared: AnyPrepared, **outputs: int) -> UNetArguments:
    """Return the arguments of the U-Net that a configuration without `auto` asks for.

    Parameters
    ----------
    outputs
        `num_classes` and, where there are, `extra_maps`.
    """
    model = prepared.config.model
    return checked_arguments(
        UNetArguments,
        {
            "in_channels": prepared.channels,
            "base_channels": model.base_channels,
            "depth": model.depth,
            "form": model.form,
            "dropout": model.dropout,
            "encoder": model.encoder,
            "norm": model.norm,
            "activation": model.activation,
            **outputs,
        },
    )


def checked_arguments(kind: type[ArgumentsT], values: Mapping[str, Any]) -> ArgumentsT:
    """Return a network's arguments.

    Raises
    ------
    ConfigError
        A value is beyond what networks of segkit have.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{_SETTING_OF.get(str(one['loc'][0]), one['loc'][0])} = {one['input']!r}: "
            + one["msg"].replace("Input should be", "should be")
            for one in error.errors(include_url=False)
        ]
        raise ConfigError("there is no such network:", problems) from error


def common_description(prepared: AnyPrepared) -> Mapping[str, object]:
    """Return what the description of every model holds."""
    mean, std = channel_statistics([one.image for one in prepared.learned])
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
            "num_train": len(prepared.learned),
            "num_val": len(prepared.val),
            "epochs": prepared.config.epochs,
            "seed": prepared.config.seed,
            "started": runs.now(),
            "versions": runs.versions(),
        },
    }


def middle_of(targets_BPHW: Tensor, outputs_BCHW: Tensor) -> Tensor:
    """Return the middle of the targets, as large as the outputs: valid convolutions lose a border."""
    top, left = (
        (whole - part) // 2 for whole, part in zip(targets_BPHW.shape[-2:], outputs_BCHW.shape[-2:], strict=True)
    )
    height, width = outputs_BCHW.shape[-2:]
    return targets_BPHW[..., top : top + height, left : left + width]
