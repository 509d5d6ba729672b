"""A model file gives back the model, or says in one line why it cannot."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from segkit.errors import ModelError
from segkit.models.model_file import (
    METADATA_KEY,
    ModelSpec,
    UNetArguments,
    build_network,
    load_model,
    save_model,
)


def arguments(**changes: Any) -> UNetArguments:
    values = {
        "in_channels": 3, "num_classes": 2, "base_channels": 4, "depth": 2, "form": "modern", "dropout": 0.0
    }  # fmt: skip
    return UNetArguments.model_validate(values | changes)


def spec(**changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "arguments": arguments(), "classes": ["background", "nucleus"], "mpp": 0.5, "mean": [0.5] * 3,
        "std": [0.2] * 3, "receptive_field": 44, "scores": {"dice": 0.9, "dice/nucleus": None}, "training": {"seed": 1},
    }  # fmt: skip
    return ModelSpec.model_validate(values | changes)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.safetensors"
    torch.manual_seed(3)
    save_model(path, build_network(arguments(), device="cpu"), spec())
    return path


def test_loading_gives_back_weights_and_description(model_file: Path) -> None:
    torch.manual_seed(3)
    network = build_network(arguments(), device="cpu").eval()
    model = load_model(model_file)
    assert model.spec == spec()
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(model.network(image), network(image))
    assert model.sha256 == load_model(model_file.parent).sha256  # a run folder names its model


def test_every_flipped_bit_of_the_weights_is_noticed(model_file: Path) -> None:
    content = bytearray(model_file.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for position in range(header, len(content), (len(content) - header) // 25):
        damaged = bytearray(content)
        damaged[position] ^= 1
        model_file.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged"):
            load_model(model_file)


@pytest.mark.parametrize("length", [0, 4, 100, 2000, -1])
def test_truncated_files_are_refused(model_file: Path, length: int) -> None:
    model_file.write_bytes(model_file.read_bytes()[:length])
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(model_file)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="another program"):
        load_model(path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model there"):
        load_model(tmp_path)


def with_description(path: Path, change: dict[str, Any]) -> None:
    weights = load_file(path)
    content = {**spec().model_dump(mode="json"), "sha256": load_model(path).sha256, **change}
    save_file(weights, path, metadata={METADATA_KEY: json.dumps(content)})


def test_weights_of_another_network_are_listed(model_file: Path) -> None:
    with_description(model_file, {"arguments": arguments(base_channels=8).model_dump()})
    with pytest.raises(ModelError, match="do not fit") as caught:
        load_model(model_file)
    assert (
        "decoder.0.0.weight: (8, 16, 3, 3) torch.float32, expected (16, 32, 3, 3) torch.float32"
        in caught.value.problems
    )


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": arguments().model_dump() | {"base_channels": 10**9}},  # would ask for all memory
        {"architecture": "transformer"},
        {"surprise": 1},
        {"format": 2},
        {"std": [0.0, 0.0, 0.0]},  # would divide by zero
        {"mean": [0.5]},
        {"classes": ["background", "nucleus", "stroma"]},  # one name more than outputs
        {"mpp": -1},
    ],
)
def test_descriptions_that_cannot_be_used_are_refused(model_file: Path, change: dict[str, Any]) -> None:
    with_description(model_file, change)
    with pytest.raises(ModelError, match="description"):
        load_model(model_file)


def test_an_edited_description_is_noticed(model_file: Path) -> None:
    """Another scale or normalisation gives another result, as other weights do."""
    with_description(model_file, {"mpp": 0.25})
    with pytest.raises(ModelError, match="damaged or edited"):
        load_model(model_file)
