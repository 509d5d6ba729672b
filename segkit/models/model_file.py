"""Model files: one safetensors file with weights and, as JSON metadata, all that is needed to use them.

Nothing in a model file can execute code. Its weights are hashed, because safetensors has no checksum of its own.
"""

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
from torch import Tensor

from segkit import files
from segkit.config import Section
from segkit.errors import ModelError
from segkit.geometry import TileGrid
from segkit.models.receptive_field import tile_grid
from segkit.models.unet import UNet

MODEL_NAME = "model.safetensors"
METADATA_KEY = "segkit"


class UNetArguments(Section):
    """The arguments that build the network again; bounds keep a hostile file from asking for much memory."""

    in_channels: Literal[1, 3]
    num_classes: Annotated[int, Field(ge=2, le=255)]
    base_channels: Annotated[int, Field(ge=1, le=1024)]
    depth: Annotated[int, Field(ge=1, le=7)]
    form: Literal["modern", "paper"]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class ModelSpec(Section):
    """What a model is, beside its weights.

    `mean` and `std` normalise channel values in 0..1 before the network; `mpp` is the scale (um per px) it was
    trained at; `scores` are those of the validation images; `training` says how it came about.
    """

    format: Literal[1] = 1
    architecture: Literal["unet"] = "unet"
    arguments: UNetArguments
    task: Literal["semantic"] = "semantic"
    classes: list[str]
    mpp: Annotated[float, Field(gt=0)] | None
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]
    receptive_field: int
    scores: dict[str, float | None]
    training: dict[str, Any]

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if len(self.classes) != self.arguments.num_classes:
            raise ValueError(f"{len(self.classes)} class names for {self.arguments.num_classes} outputs")
        if not len(self.mean) == len(self.std) == self.arguments.in_channels:
            raise ValueError(f"mean and std must have {self.arguments.in_channels} values, one for each channel")
        return self


@dataclass(frozen=True)
class Model:
    """A network with all that is needed to use it; `sha256` identifies its weights and how they are used."""

    network: UNet
    spec: ModelSpec
    grid: TileGrid
    path: Path
    sha256: str


def save_model(path: Path, network: UNet, spec: ModelSpec) -> None:
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
    network = build_network(spec.arguments)
    _check_weights(file, network, weights)
    sha256 = _hash_of(weights, spec)
    if sha256 != stated_hash:
        raise ModelError(f"{file}: is damaged or edited (its hash is not the stated one). Train or copy it again.")
    network.load_state_dict(weights, assign=True)
    network.eval()
    return Model(network, spec, tile_grid(network), file, sha256)


def build_network(arguments: UNetArguments, *, device: str = "meta") -> UNet:
    """Return the network that `arguments` describe; on the `meta` device it takes no memory yet."""
    with torch.device(device):
        return UNet(**arguments.model_dump())


def _check_weights(file: Path, network: UNet, weights: Mapping[str, Tensor]) -> None:
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
    digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
