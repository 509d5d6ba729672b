"""A model file gives back the model, or says in one line why it cannot."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segkit.errors import ConfigError, ModelError
from segkit.models.model_file import (
    METADATA_KEY,
    DetectionSpec,
    ModelSpec,
    PatchCNNArguments,
    UNetArguments,
    build_network,
    load_model,
    save_model,
)
from segkit.models.model_list import write_model_list
from segkit.models.patch_cnn import FORMS, PatchCNN, usual_base_channels, usual_depth
from segkit.models.unet import UNet


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


def test_a_folder_of_several_models_names_them_and_what_takes_all(tmp_path: Path) -> None:
    write_model_list(tmp_path, [tmp_path / "fold-1" / "model.safetensors", tmp_path / "fold-2" / "model.safetensors"])
    with pytest.raises(ModelError, match=r"holds several models.*`predict`.*fold-1.*, .*fold-2"):
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
        {"architecture": "patch_cnn"},  # with a U-Net's arguments
        {"task": "points"},
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


# Descriptions as earlier versions wrote them, with the hashes that they stated for weights as of `counted`.
OLD: dict[str, Any] = {
    "format": 1, "task": "semantic", "classes": ["background", "nucleus"], "mpp": 0.5, "mean": [0.5], "std": [0.25],
    "receptive_field": 18, "scores": {}, "training": {},
}  # fmt: skip
OLD_UNET = OLD | {
    "architecture": "unet",
    "arguments": {
        "in_channels": 1, "num_classes": 2, "base_channels": 2, "depth": 1, "form": "paper", "dropout": 0.5
    },
    "sha256": "d59af7d5187825d808158038210483e3685698df32064249eb1ebaff738fc975",
}  # fmt: skip
OLD_PATCH_CNN = OLD | {
    "architecture": "patch_cnn",
    "task": "points",
    "arguments": {
        "in_channels": 1, "num_classes": 2, "form": "modern", "patch_px": 15, "base_channels": 2, "depth": 1,
        "dropout": 0.0,
    },
    "detection": {
        "match_radius": "7.5um", "smooth_radius": "3.75um", "nms_radius": "30px", "stride": 4, "thresholds": [0.25],
        "curves": [],
    },
    "sha256": "be5a85916895c390fe954a833889c9ef970b3da00aa32a5516bf315917567804",
}  # fmt: skip

OLD_INSTANCES = OLD | {
    "architecture": "unet",
    "task": "instance",
    "arguments": {
        "in_channels": 1, "num_classes": 2, "base_channels": 2, "depth": 1, "form": "modern", "dropout": 0.0,
        "extra_maps": 1,
    },
    "instances": {"foreground_threshold": 0.5, "seed_threshold": 0.4, "min_area_px": 8, "grow_px": 12},
    "sha256": "920c767759524a57d52d2de8838a667a3215abebbc5f9bbd0766b225e6956089",
}  # fmt: skip


def counted(arguments: dict[str, Any]) -> dict[str, Tensor]:
    kind = PatchCNNArguments if "patch_px" in arguments else UNetArguments
    weights = build_network(kind.model_validate(arguments), device="cpu").state_dict()
    return {
        name: (torch.arange(value.numel()).view(value.shape) % (7 + number)).to(value.dtype)
        for number, (name, value) in enumerate(weights.items())
    }


@pytest.mark.parametrize("content", [OLD_UNET, OLD_UNET | {"detection": None}, OLD_PATCH_CNN])
def test_files_from_before_there_were_encoders_and_instances_are_as_good(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    path = tmp_path / "old.safetensors"
    save_file(counted(content["arguments"]), path, metadata={METADATA_KEY: json.dumps(content)})
    model = load_model(path)
    assert model.sha256 == content["sha256"]
    assert model.spec.instances is None


def test_files_from_before_maps_were_smoothed_are_as_good(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file(counted(OLD_INSTANCES["arguments"]), path, metadata={METADATA_KEY: json.dumps(OLD_INSTANCES)})
    model = load_model(path)
    assert model.sha256 == OLD_INSTANCES["sha256"]
    assert model.spec.instances is not None
    assert model.spec.instances.smooth_px == 0


def test_an_edited_description_is_noticed(model_file: Path) -> None:
    """Another scale or normalisation gives another result, as other weights do."""
    with_description(model_file, {"mpp": 0.25})
    with pytest.raises(ModelError, match="damaged or edited"):
        load_model(model_file)


DETECTION: dict[str, Any] = {
    "match_radius": "7.5um", "smooth_radius": "3.75um", "nms_radius": "30px", "stride": 4, "thresholds": [0.25, 0.5],
    "curves": [[(0.9, 1.0, 0.5, 0.666667), (0.25, 0.8, 0.9, 0.847059)], []],
}  # fmt: skip


def patch_arguments(**changes: Any) -> PatchCNNArguments:
    values = {
        "in_channels": 3, "num_classes": 3, "form": "modern", "patch_px": 33, "base_channels": 4, "depth": 2,
        "dropout": 0.1,
    }  # fmt: skip
    return PatchCNNArguments.model_validate(values | changes)


def patch_spec(arguments: PatchCNNArguments | None = None, **changes: Any) -> ModelSpec:
    values = {
        **spec().model_dump(), "architecture": "patch_cnn", "task": "points", "receptive_field": 33,
        "arguments": arguments or patch_arguments(), "classes": ["background", "mitosis", "apoptosis"],
        "detection": DETECTION, "scores": {"f1": 0.8},
    }  # fmt: skip
    return ModelSpec.model_validate(values | changes)


@pytest.fixture
def patch_file(tmp_path: Path) -> Path:
    path = tmp_path / "patch" / "model.safetensors"
    torch.manual_seed(3)
    save_model(path, build_network(patch_arguments(), device="cpu"), patch_spec())
    return path


def with_patch_description(path: Path, change: dict[str, Any]) -> None:
    content = {**patch_spec().model_dump(mode="json"), "sha256": load_model(path).sha256, **change}
    save_file(load_file(path), path, metadata={METADATA_KEY: json.dumps(content)})


@pytest.mark.parametrize("form", FORMS)
def test_every_patch_cnn_comes_back_with_its_thresholds(tmp_path: Path, form: Any) -> None:
    patch_px = 101 if form in {"dnn1", "dnn2"} else 33
    arguments = patch_arguments(
        form=form, patch_px=patch_px, depth=usual_depth(form, patch_px), base_channels=usual_base_channels(form)
    )
    network = build_network(arguments, device="cpu").eval()
    description = patch_spec(arguments, receptive_field=patch_px)
    save_model(tmp_path / "model.safetensors", network, description)
    model = load_model(tmp_path)
    assert isinstance(model.network, PatchCNN)
    assert not model.network.training
    assert model.patch_cnn is model.network
    assert model.spec == description
    assert model.spec.detection == DetectionSpec.model_validate(DETECTION)
    patches = torch.rand(2, 3, patch_px, patch_px)
    assert torch.equal(model.network(patches), network(patches))
    assert model.network(patches).shape == (2, 3, 1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "unet"},
        {"task": "semantic"},
        {"arguments": arguments(num_classes=3).model_dump()},
        {"detection": None},
        {"detection": DETECTION | {"thresholds": [0.5]}},  # for two classes
        {"detection": DETECTION | {"thresholds": [0.5, 1.5]}},
        {"detection": DETECTION | {"match_radius": "7.5"}},
        {"detection": DETECTION | {"match_radius": "0px"}},
        {"detection": DETECTION | {"stride": 0}},
        {"detection": DETECTION | {"surprise": 1}},
        {"arguments": patch_arguments().model_dump() | {"form": "dnn3"}},
        {"arguments": patch_arguments().model_dump() | {"patch_px": 10**6}},  # would ask for all memory
        {"arguments": patch_arguments().model_dump() | {"patch_px": 9, "depth": 7}},  # nothing would be left of it
        {"arguments": patch_arguments().model_dump() | {"form": "dnn1"}},  # which has other sizes
    ],
)
def test_descriptions_of_patch_cnns_that_cannot_be_used_are_refused(patch_file: Path, change: dict[str, Any]) -> None:
    with_patch_description(patch_file, change)
    with pytest.raises(ModelError, match="description cannot be used"):
        load_model(patch_file)


@pytest.mark.parametrize("change", [{"thresholds": [0.3, 0.5]}, {"nms_radius": "31px"}, {"stride": 2}])
def test_edited_detection_is_noticed(patch_file: Path, change: dict[str, Any]) -> None:
    """What is found depends on it as on the weights."""
    with_patch_description(patch_file, {"detection": DETECTION | change})
    with pytest.raises(ModelError, match="damaged or edited"):
        load_model(patch_file)


def test_a_unet_with_detection_is_no_model() -> None:
    with pytest.raises(ValueError, match="go together"):
        spec(classes=["background", "a", "b"], arguments=arguments(num_classes=3), detection=DETECTION)


INSTANCES: dict[str, Any] = {"foreground_threshold": 0.5, "seed_threshold": 0.6, "min_area_px": 30, "grow_px": 16}
NEW = {
    "resnet18": {"arguments": {"encoder": "resnet18"}},
    "no norm": {"arguments": {"norm": "none", "activation": "leaky_relu"}},
    "instances": {"arguments": {"extra_maps": 1}, "task": "instance", "instances": INSTANCES},
    "points": {
        "arguments": {"num_classes": 1}, "task": "points", "detection": DETECTION | {"thresholds": [0.5], "curves": []}
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", NEW.values(), ids=NEW)
def test_new_kinds_of_unets_come_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    description = spec(**{**changes, "arguments": arguments(**changes["arguments"])})
    network = build_network(description.arguments, device="cpu").eval()
    save_model(tmp_path / "model.safetensors", network, description)
    model = load_model(tmp_path)
    assert model.spec == description
    image = torch.rand(1, 3, 32, 32)
    given = changes["arguments"]
    assert model.network(image).shape == (1, given.get("num_classes", 2) + given.get("extra_maps", 0), 32, 32)
    assert torch.equal(model.network(image), network(image))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("instances", {"task": "semantic"}),
        ("instances", {"instances": None}),
        ("instances", {"instances": INSTANCES | {"seed_threshold": 1.5}}),
        ("instances", {"arguments": {"extra_maps": 0}}),  # no map of the distance
        ("resnet18", {"arguments": {"extra_maps": 1}}),  # a map that means nothing
        ("resnet18", {"arguments": {"num_classes": 1}}),
        ("resnet18", {"arguments": {"encoder": "resnet19"}}),
        ("no norm", {"arguments": {"activation": "eval"}}),
        ("points", {"arguments": {"num_classes": 2}}),  # background has no heat map
        ("points", {"detection": None}),
        ("points", {"classes": ["background"], "detection": DETECTION | {"thresholds": []}}),
    ],
)
def test_new_descriptions_that_cannot_be_used_are_refused(kind: str, change: dict[str, Any]) -> None:
    both = {**NEW[kind], **change}
    given = {**NEW[kind]["arguments"], **change.get("arguments", {})}
    with pytest.raises(ValueError, match=r"ModelSpec|UNetArguments"):
        spec(**{**both, "arguments": arguments(**given)})


@pytest.mark.parametrize("change", [{"instances": INSTANCES | {"grow_px": 17}}, {"classes": ["background", "cell"]}])
def test_edited_instances_are_noticed(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    description = spec(arguments=arguments(extra_maps=1), task="instance", instances=INSTANCES)
    save_model(path, build_network(description.arguments, device="cpu"), description)
    content = {**description.model_dump(mode="json"), "sha256": load_model(path).sha256, **change}
    save_file(load_file(path), path, metadata={METADATA_KEY: json.dumps(content)})
    with pytest.raises(ModelError, match="damaged or edited"):
        load_model(path)


def test_another_activation_is_another_model(tmp_path: Path) -> None:
    """The weights have the same names and shapes."""
    hashes = set()
    for activation in ("relu", "elu"):
        torch.manual_seed(0)
        network = build_network(arguments(activation=activation), device="cpu")
        save_model(tmp_path / "model.safetensors", network, spec(arguments=arguments(activation=activation)))
        hashes.add(load_model(tmp_path).sha256)
    assert len(hashes) == 2


@pytest.mark.parametrize(
    "change", [{"encoder": "vgg16_bn", "depth": 5}, {"encoder": "convnext_tiny", "depth": 1},
               {"encoder": "resnet18", "form": "paper"}]
)  # fmt: skip
def test_encoders_that_do_not_fit_name_the_setting(model_file: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.(depth|form) = "):
        build_network(arguments(**change))
    with_description(model_file, {"arguments": arguments(**change).model_dump()})
    with pytest.raises(ModelError, match=r"description cannot be used \(model\."):
        load_model(model_file)


def test_the_grid_of_a_unet_that_is_not_exact_is_that_of_its_other_layers(tmp_path: Path) -> None:
    description = spec(arguments=arguments(encoder="efficientnet_b0"))
    save_model(tmp_path / "model.safetensors", build_network(description.arguments, device="cpu"), description)
    assert load_model(tmp_path).grid.alignment == 4


def test_a_patch_cnn_is_no_unet(patch_file: Path) -> None:
    model = load_model(patch_file)
    with pytest.raises(ModelError, match=r"model\.safetensors: is a patch CNN.*`segkit sliding-window`"):
        _ = model.unet
    with pytest.raises(ModelError, match="`segkit sliding-window`"):
        _ = model.grid


def test_a_unet_is_no_patch_cnn(model_file: Path) -> None:
    model = load_model(model_file)
    assert isinstance(model.unet, UNet)
    assert model.grid.alignment == 4
    with pytest.raises(ModelError, match=r"model\.safetensors: is a U-Net.*`segkit predict`"):
        _ = model.patch_cnn


def test_arguments_that_do_not_go_together_name_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"model\.depth = 2: the paper's dnn1 has 5"):
        build_network(patch_arguments(form="dnn1", patch_px=101, base_channels=16))
