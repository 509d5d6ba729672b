"""Model files: one safetensors file with weights and, as JSON metadata, all that is needed to use them.

Nothing in a model file can execute code. Its weights are hashed, because safetensors has no checksum of its own.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import safetensors
import torch
from pydantic import Field, ValidationError, model_validator
from safetensors.torch import save_file
from torch import Tensor, nn

from segkit import files
from segkit.config import Length, Section
from segkit.errors import ConfigError, ModelError
from segkit.geometry import TileGrid
from segkit.models import patch_cnn
from segkit.models.activations import ActivationName
from segkit.models.encoders import Encoder
from segkit.models.model_list import LIST_NAME, expand_models
from segkit.models.patch_cnn import PatchCNN
from segkit.models.receptive_field import tile_grid
from segkit.models.unet import Norm, UNet

MODEL_NAME = "model.safetensors"
METADATA_KEY = "segkit"


class UNetArguments(Section):
    """The arguments that build the network again; bounds keep a hostile file from asking for much memory.

    Fields with a default came later. It means what was there before, so that older files and their hashes hold.
    """

    in_channels: Literal[1, 3]
    num_classes: Annotated[int, Field(ge=1, le=255)]
    base_channels: Annotated[int, Field(ge=1, le=1024)]
    depth: Annotated[int, Field(ge=1, le=7)]
    form: Literal["modern", "paper"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    encoder: Encoder = "plain"
    norm: Norm | None = None
    activation: ActivationName = "relu"
    extra_maps: Annotated[int, Field(ge=0, le=255)] = 0


class PatchCNNArguments(Section):
    """Likewise for a patch CNN; None for norm and activation is the form's own."""

    in_channels: Literal[1, 3]
    num_classes: Annotated[int, Field(ge=2, le=255)]
    form: patch_cnn.Form
    patch_px: Annotated[int, Field(ge=3, le=512)]
    base_channels: Annotated[int, Field(ge=1, le=1024)]
    depth: Annotated[int, Field(ge=1, le=7)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    norm: Norm | None = None
    activation: ActivationName | None = None


class DetectionSpec(Section):
    """How the maps of a network that finds points become detections.

    Radii and stride are those it was trained and validated with (see `PointsConfig` and `SlidingWindowConfig`). For
    each foreground class: `thresholds` is the lowest score of a detection, tuned for F1 on the validation images, and
    `curves` is the curve that it was chosen from, rows of (threshold, precision, recall, F1).
    """

    match_radius: Length
    smooth_radius: Length
    nms_radius: Length
    stride: Annotated[int, Field(ge=1, le=64)]
    thresholds: list[Annotated[float, Field(ge=0, le=1)]]
    curves: list[list[tuple[float, float, float, float]]] = Field(default_factory=list)


class InstanceSpec(Section):
    """How the maps of a network for instances become objects.

    A pixel is foreground if its probability of not being background is at least `foreground_threshold`, and seed of an
    object if its object-normalised distance to the border (0..1) is at least `seed_threshold` too. Seeds grow over the
    foreground by `grow_px` pixels at most; objects of fewer than `min_area_px` pixels are dropped. Both maps
    are smoothed first, by a Gaussian of `smooth_px`, 0: not at all. All were tuned on the validation images, in pixels
    of the model's scale.
    """

    foreground_threshold: Annotated[float, Field(ge=0, le=1)]
    seed_threshold: Annotated[float, Field(ge=0, le=1)]
    min_area_px: Annotated[int, Field(ge=0, le=10**9)]
    grow_px: Annotated[int, Field(ge=0, le=1024)]
    smooth_px: Annotated[float, Field(ge=0, le=16)] = 0.0


class ModelSpec(Section):
    """What a model is, beside its weights.

    `mean` and `std` normalise channel values in 0..1 before the network; `mpp` is the scale (um per px) it was
    trained at; `scores` are those of the validation images; `training` says how it came about.
    """

    format: Literal[1] = 1
    architecture: Literal["unet", "patch_cnn"] = "unet"
    arguments: UNetArguments | PatchCNNArguments
    task: Literal["semantic", "instance", "points"] = "semantic"
    classes: list[str]
    mpp: Annotated[float, Field(gt=0)] | None
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]
    receptive_field: int
    detection: DetectionSpec | None = None
    instances: InstanceSpec | None = None
    scores: dict[str, float | None]
    training: dict[str, Any]

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        is_patch_cnn = isinstance(self.arguments, PatchCNNArguments)
        if is_patch_cnn != (self.architecture == "patch_cnn"):
            raise ValueError(f"the arguments are not those of {self.architecture}")
        if (self.task == "points") != (self.detection is not None):
            raise ValueError("points and how they are detected go together")
        if (self.task == "instance") != (self.instances is not None):
            raise ValueError("instances and how they are told apart go together")
        if is_patch_cnn and self.task != "points":
            raise ValueError("a patch CNN, points and how they are detected go together")
        if self.detection is not None and len(self.detection.thresholds) != len(self.classes) - 1:
            raise ValueError(f"{len(self.detection.thresholds)} thresholds for {len(self.classes) - 1} classes")
        if len(self.classes) < 2:
            raise ValueError("a model tells at least two classes apart: background and one more")
        self._require_outputs()
        if not len(self.mean) == len(self.std) == self.arguments.in_channels:
            raise ValueError(f"mean and std must have {self.arguments.in_channels} values, one for each channel")
        return self

    def _require_outputs(self) -> None:
        """Check the number of output maps; a U-Net for points has a heat map for each class but background."""
        arguments = self.arguments
        no_background = self.task == "points" and isinstance(arguments, UNetArguments)
        wanted = len(self.classes) - no_background
        if arguments.num_classes != wanted:
            raise ValueError(f"{len(self.classes)} class names for {arguments.num_classes} outputs")
        extra = arguments.extra_maps if isinstance(arguments, UNetArguments) else 0
        if extra != (self.task == "instance"):
            raise ValueError(f"{extra} maps beside the classes: instances have 1 (the distance), other tasks none")


@dataclass(frozen=True)
class Model:
    """A network with all that is needed to use it; `sha256` identifies its weights and how they are used."""

    network: UNet | PatchCNN
    spec: ModelSpec
    path: Path
    sha256: str

    @property
    def unet(self) -> UNet:
        """The network, if it is a U-Net.

        Raises
        ------
        ModelError
            It is a patch CNN.
        """
        if not isinstance(self.network, UNet):
            raise ModelError(f"{self.path}: is a patch CNN, which finds points. Use it with `segkit sliding-window`.")
        return self.network

    @property
    def patch_cnn(self) -> PatchCNN:
        """The network, if it is a patch CNN.

        Raises
        ------
        ModelError
            It is a U-Net.
        """
        if not isinstance(self.network, PatchCNN):
            raise ModelError(f"{self.path}: is a U-Net. Use it with `segkit predict`.")
        return self.network

    @functools.cached_property
    def grid(self) -> TileGrid:
        """How the U-Net is tiled exactly; of one with layers that mix all pixels, the grid of its other layers."""
        return tile_grid(self.unet, inexact=True)


def save_model(path: Path, network: nn.Module, spec: ModelSpec) -> None:
    """Write a model file, whole or not at all."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = {**spec.model_dump(mode="json"), "sha256": _hash_of(weights, spec)}
    with files.atomic_path(path) as temporary:
        save_file(weights, temporary, metadata={METADATA_KEY: json.dumps(content, allow_nan=False)})


def model_path(path: Path) -> Path:
    """Return the model file that `path` names: itself, or the one in a run folder.

    Raises
    ------
    ModelError
        There is none.
    """
    candidate = path / MODEL_NAME if path.is_dir() else path
    if (path / LIST_NAME).is_file() and not candidate.is_file():
        raise ModelError(
            f"{path}: holds several models (segkit train --folds), and one is needed here. `predict` and "
            f"`sliding-window` average them, and `evaluate --pred` measures what these leave. Give one of: "
            f"{', '.join(map(str, expand_models([path])))}."
        )
    if not candidate.is_file():
        raise ModelError(f"{path}: no model there. Give a {MODEL_NAME} file or a run folder that holds one.")
    return candidate


def load_model(path: Path) -> Model:
    """Load a model file or the model of a run folder, on the CPU, in evaluation mode.

    Raises
    ------
    ModelError
        It is missing, damaged, of another program, or weights and description do not fit each other.
    """
    file = model_path(path)
    try:
        with safetensors.safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (it is no mapping)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read as a model file ({error}). Train or copy it again.") from error
    if METADATA_KEY not in metadata:
        raise ModelError(f"{file}: is a safetensors file of another program: it has no `{METADATA_KEY}` description.")
    try:
        content = json.loads(metadata[METADATA_KEY])
        stated_hash = content.pop("sha256", None)
        spec = ModelSpec.model_validate(content)
    except (ValueError, AttributeError, ValidationError) as error:
        raise ModelError(f"{file}: its description cannot be used ({' '.join(str(error).split())[:300]}).") from error
    try:
        network = build_network(spec.arguments)
    except ConfigError as error:
        raise ModelError(f"{file}: its description cannot be used ({error}).") from error
    _check_weights(file, network, weights)
    sha256 = _hash_of(weights, spec)
    if sha256 != stated_hash:
        raise ModelError(f"{file}: is damaged or edited (its hash is not the stated one). Train or copy it again.")
    network.load_state_dict(weights, assign=True)
    network.eval()
    return Model(network, spec, file, sha256)


def build_network(arguments: UNetArguments | PatchCNNArguments, *, device: str = "meta") -> UNet | PatchCNN:
    """Return the network that `arguments` describe; on the `meta` device it takes no memory yet.

    Raises
    ------
    ConfigError
        The arguments do not go together.
    """
    with torch.device(device):
        if isinstance(arguments, UNetArguments):
            return UNet(**arguments.model_dump(exclude_defaults=True))
        return PatchCNN(**arguments.model_dump(exclude_defaults=True))


def _check_weights(file: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    expected = network.state_dict()
    problems = [f"{name}: missing" for name in expected.keys() - weights.keys()]
    problems += [f"{name}: not part of this network" for name in weights.keys() - expected.keys()]
    problems += [
        f"{name}: {tuple(weights[name].shape)} {weights[name].dtype}, expected {tuple(tensor.shape)} {tensor.dtype}"
        for name, tensor in expected.items()
        if name in weights and (weights[name].shape != tensor.shape or weights[name].dtype != tensor.dtype)
    ]
    if problems:
        raise ModelError(f"{file}: the weights do not fit the described network:", sorted(problems)[:5])


def _hash_of(weights: Mapping[str, Tensor], spec: ModelSpec) -> str:
    """Hash what results depend on: the weights and the description, without the story of the training."""
    used = spec.model_dump(mode="json", exclude={"training", "scores"})
    # What came later is left out where it means what was there before, so that older files keep their hashes.
    used["arguments"] = spec.arguments.model_dump(mode="json", exclude_defaults=True)
    used["instances"] = spec.instances and spec.instances.model_dump(mode="json", exclude_defaults=True)
    used = {key: value for key, value in used.items() if key not in {"detection", "instances"} or value is not None}
    digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
