"""A small training of a small network on disks in small fields."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.config import AugmentConfig, TrainConfig
from segkit.data.augment import Augmenter
from segkit.data.presets import resolve_augment
from segkit.data.sampling import PatchSource
from segkit.inference.network import Predictor
from segkit.models.model_file import ModelSpec, UNetArguments, build_network
from segkit.models.unet import UNet
from segkit.training.distributed import ALONE, Group
from segkit.training.fit import FitResult, Hold, fit, hold_nothing
from segkit.training.losses import dice_cross_entropy
from segkit.training.optimisation import ParameterGroup
from segkit.training.samples import Batch, Samples
from segkit.training.validation import LabelledImage, Validation, validate_pixels
from segkit.workflows.task import middle_of
from tests.tiny import draw_field

ARGUMENTS = UNetArguments(in_channels=1, num_classes=2, base_channels=4, depth=1, form="modern", dropout=0)
SPEC = ModelSpec(
    arguments=ARGUMENTS, classes=["background", "disk"], mpp=None, mean=[0.6], std=[0.15], receptive_field=0,
    scores={}, training={"seed": 3},
)  # fmt: skip
CPU = torch.device("cpu")
FIELDS = [draw_field(number, channels=1) for number in range(6)]


def settings(**changes: Any) -> TrainConfig:
    """Return a configuration without `auto`; changes are dotted keys with `__` for the dot."""
    values: dict[str, Any] = {
        "data": {"dir": "none"},
        "task": "semantic",
        "patches": {"size_px": 32, "batch": 4},
        "loss": {"name": "dice_cross_entropy"},
        "optimiser": {"learning_rate": 0.02, "weight_decay": 1e-4, "warmup_steps": 2},
        "compute": {"device": "cpu", "precision": "float32"},
        "epochs": 2,
        "steps_per_epoch": 4,
        "seed": 3,
        "workers": 0,
    }
    for key, value in changes.items():
        *sections, name = key.split("__")
        tree = values
        for section in sections:
            tree = tree.setdefault(section, {})
        tree[name] = value
    return TrainConfig.model_validate(values)


def build_seeded(arguments: UNetArguments = ARGUMENTS) -> UNet:
    torch.manual_seed(3)
    network = build_network(arguments, device="cpu")
    assert isinstance(network, UNet)
    return network


def validate_fields(network: nn.Module) -> Validation:
    images = [LabelledImage(f"f{number}", image, mask) for number, (image, mask) in enumerate(FIELDS[4:])]
    assert isinstance(network, UNet)
    predictor = Predictor([(network, SPEC)], device=torch.device("cpu"), precision="float32", dihedral=False)
    return validate_pixels(images, predictor, on_image=lambda *_: None)


def field_patches() -> Batch:
    images, masks = zip(*FIELDS[4:], strict=True)
    return Batch(
        torch.from_numpy(np.stack([image[:32, :32].transpose(2, 0, 1) for image in images])),
        torch.from_numpy(np.stack([mask[None, :32, :32] for mask in masks])),
    )


@dataclass
class FieldTask:
    """Disks in small fields."""

    network: UNet = field(default_factory=build_seeded)
    spec: ModelSpec = SPEC
    metric: str = "dice"
    class_term: Callable[[Tensor, Tensor], Tensor] = dice_cross_entropy
    validation: Callable[[nn.Module], Validation] = validate_fields
    validation_patches: Batch = field(default_factory=field_patches)

    @property
    def trained(self) -> UNet:
        return self.network

    def loss(self, outputs: Tensor | Sequence[Tensor], targets_BPHW: Tensor) -> Tensor:
        assert isinstance(outputs, Tensor)
        return self.class_term(outputs, middle_of(targets_BPHW, outputs)[:, 0])

    def validate(self, network: nn.Module) -> Validation:
        return self.validation(network)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(list(self.network.parameters()))]

    def begin_epoch(self, epoch: int) -> bool:
        self.network.train()
        return False


def field_samples() -> Samples:
    source = PatchSource(
        [image for image, _ in FIELDS[:4]], [mask[..., None] for _, mask in FIELDS[:4]], patch_px=32, balanced=0.5,
        num_classes=2,
    )  # fmt: skip
    return Samples(source, Augmenter(resolve_augment(AugmentConfig(), 1), 32, 1), 3)


@dataclass
class Training:
    """A training in a folder, with what it told on the way and the weights after each step."""

    run: Path
    task: FieldTask = field(default_factory=FieldTask)
    steps: list[tuple[int, int, Mapping[str, Any]]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    epochs: list[tuple[Mapping[str, float | None], Validation, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def start(
        self,
        *,
        resume: bool = False,
        until: int | None = None,
        hold: Hold = hold_nothing,
        device: torch.device = CPU,
        group: Group = ALONE,
        **changes: Any,
    ) -> FitResult:
        return fit(
            self.task,
            settings(**changes),
            field_samples(),
            run=self.run,
            device=device,
            group=group,
            resume=resume,
            until=until,
            hold=hold,
            on_step=self.on_step,
            on_epoch=lambda *values: self.epochs.append(values),
            on_note=self.notes.append,
        )

    def on_step(self, done: int, total: int, info: Mapping[str, Any]) -> None:
        self.steps.append((done, total, info))
        self.weights.append(self.weights_now())

    def weights_now(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.task.network.named_parameters()}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
