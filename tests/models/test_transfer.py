"""Weights are taken over where they fit, and what is frozen stays as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.errors import ConfigError, ModelError
from segkit.models.model_file import Model, ModelSpec, UNetArguments
from segkit.models.patch_cnn import PatchCNN
from segkit.models.torchvision_door import torchvision_network
from segkit.models.transfer import (
    PARTS,
    freeze,
    load_encoder_weights,
    parameter_groups,
    part_of,
    settle_frozen,
    start_from,
)
from segkit.models.unet import UNet


def unet(seed: int = 0, **changes: Any) -> UNet:
    torch.manual_seed(seed)
    return UNet(**{"in_channels": 3, "num_classes": 2, "base_channels": 4, "depth": 2, **changes})


def patch_cnn(seed: int = 0, **changes: Any) -> PatchCNN:
    torch.manual_seed(seed)
    return PatchCNN(**{"in_channels": 3, "num_classes": 2, "patch_px": 21, "base_channels": 4, "depth": 1, **changes})


def model_of(network: UNet | PatchCNN) -> Model:
    """Of the description nothing is used but the path."""
    arguments = UNetArguments(in_channels=3, num_classes=2, base_channels=4, depth=2, form="modern", dropout=0)
    spec = ModelSpec(
        arguments=arguments, classes=["background", "cell"], mpp=None, mean=[0.5] * 3, std=[0.2] * 3,
        receptive_field=1, scores={}, training={},
    )  # fmt: skip
    return Model(network, spec, Path("old/model.safetensors"), "0")


def copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("make", [unet, patch_cnn])
def test_a_network_with_the_same_outputs_starts_as_the_model(make: Any) -> None:
    network, model = make(0), model_of(make(1))
    notes = start_from(network, model)
    assert all(torch.equal(value, model.network.state_dict()[name]) for name, value in network.state_dict().items())
    count = len(network.state_dict())
    assert notes == [f"{count} of {count} tensors start from old/model.safetensors."]


@pytest.mark.parametrize("make", [unet, patch_cnn])
@pytest.mark.parametrize("outputs", [3, 1])
def test_a_head_with_other_outputs_starts_afresh(make: Any, outputs: int) -> None:
    network, model = make(0), model_of(make(1, num_classes=outputs))
    before = copied(network)
    notes = start_from(network, model)
    for name, value in network.state_dict().items():
        expected = before if part_of(network, name) == "head" else model.network.state_dict()
        assert torch.equal(value, expected[name]), name
    assert notes[1] == f"The head starts afresh: the model has {outputs} outputs, this task needs 2 outputs."


def test_a_head_starts_afresh_on_another_encoder_too() -> None:
    network, model = unet(encoder="resnet18"), model_of(unet(1, encoder="resnet18", num_classes=4))
    assert start_from(network, model)[1].endswith("the model has 4 outputs, this task needs 2 outputs.")
    assert torch.equal(network.state_dict()["encoder.0.0.weight"], model.network.state_dict()["encoder.0.0.weight"])


def test_classes_and_a_distance_are_not_three_classes() -> None:
    """The number of maps is the same, and the weights would fit."""
    network, model = unet(extra_maps=1), model_of(unet(1, num_classes=3))
    before = copied(network)
    notes = start_from(network, model)
    assert torch.equal(network.head.weight, before["head.weight"])
    assert notes[1] == "The head starts afresh: the model has 3 outputs, this task needs 2 outputs and 1 more."


@pytest.mark.parametrize(
    ("ours", "theirs", "problem"),
    [
        (unet(), unet(base_channels=8), "decoder.0.0.bias|decoder.0.0.weight: (16, 32, 3, 3) in the model"),
        (unet(), unet(norm="none"), "decoder.0.0.bias: not part of the network to train"),
        (unet(), unet(depth=3), ""),
        (unet(), unet(encoder="resnet18"), ""),
        (patch_cnn(), patch_cnn(form="lenet"), ""),
        (patch_cnn(), patch_cnn(base_channels=8), "layers.0.weight: (8, 3, 4, 4) in the model, (4, 3, 4, 4) in the"),
    ],
)
def test_other_networks_are_refused_with_the_first_differences(
    ours: UNet | PatchCNN, theirs: UNet | PatchCNN, problem: str
) -> None:
    before = copied(ours)
    with pytest.raises(ModelError, match=r"old/model\.safetensors: is not the network to train") as caught:
        start_from(ours, model_of(theirs))
    assert 1 <= len(caught.value.problems) <= 5
    assert any(line.startswith(one) for line in caught.value.problems for one in problem.split("|"))
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_another_architecture_is_refused_in_words() -> None:
    with pytest.raises(ModelError, match="is a patch CNN, the network to train is a U-Net"):
        start_from(unet(), model_of(patch_cnn()))


@pytest.mark.parametrize("changes", [{}, {"encoder": "resnet18"}, {"form": "paper"}])
def test_parts_of_a_unet(changes: dict[str, Any]) -> None:
    network = unet(**changes)
    inside = {id(parameter) for parameter in network.encoder.parameters()}
    for name, parameter in network.named_parameters():
        expected = "encoder" if id(parameter) in inside else "head" if name.startswith("head") else "decoder"
        assert part_of(network, name) == expected
    assert {part_of(network, name) for name in network.state_dict()} == set(PARTS)


@pytest.mark.parametrize("form", ["modern", "lenet", "vgg", "mlp", "linear"])
def test_the_head_of_a_patch_cnn_is_its_last_layer(form: Any) -> None:
    network = patch_cnn(form=form)
    head = [name for name, _ in network.named_parameters() if part_of(network, name) == "head"]
    assert head == [name for name, _ in network.named_parameters()][-2:]
    assert network.get_parameter(head[1]).shape == (2,)


def test_groups_hold_every_trained_parameter_once_with_its_rate() -> None:
    network = unet(encoder="resnet18")
    groups = parameter_groups(network, frozen={"head"}, pretrained={"encoder"}, pretrained_rate=0.1)
    assert [factor for _, factor in groups] == [1.0, 0.1]
    for parameters, factor in groups:
        names = {name for name, value in network.named_parameters() if any(value is one for one in parameters)}
        assert {part_of(network, name) for name in names} == ({"decoder"} if factor == 1 else {"encoder"})
        assert len(names) == len(parameters)
    count = sum(len(parameters) for parameters, _ in groups)
    assert count == len(list(network.parameters())) - len(list(network.head.parameters()))


def test_equal_rates_are_one_group() -> None:
    groups = parameter_groups(unet(), frozen=set(), pretrained={"encoder"}, pretrained_rate=1.0)
    assert [(len(parameters), factor) for parameters, factor in groups] == [(len(list(unet().parameters())), 1.0)]


def test_a_network_that_is_frozen_altogether_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"transfer\.freeze: .*nothing is left to train"):
        parameter_groups(unet(), frozen=set(PARTS), pretrained=set(), pretrained_rate=1)


def test_a_step_changes_what_is_not_frozen_and_nothing_else() -> None:
    network = unet(encoder="resnet18")
    freeze(network, {"encoder"})
    network.train()
    settle_frozen(network)
    before = copied(network)
    groups = parameter_groups(network, frozen={"encoder"}, pretrained=set(), pretrained_rate=1)
    optimiser = torch.optim.SGD([{"params": parameters} for parameters, _ in groups], lr=0.1, weight_decay=0.1)
    network(torch.rand(2, 3, 32, 32)).square().mean().backward()
    optimiser.step()
    for name, value in network.state_dict().items():
        unchanged = torch.equal(value, before[name])  # running means and counts of batch norms are among them
        assert unchanged == (part_of(network, name) == "encoder"), name


@pytest.mark.parametrize("build", [unet, patch_cnn])
def test_frozen_layers_are_given_what_they_were_given_before(build: Callable[..., UNet | PatchCNN]) -> None:
    network = build(dropout=0.5, **({"form": "mlp"} if build is patch_cnn else {}))
    (dropout,) = (one for one in network.modules() if isinstance(one, nn.Dropout))
    # Of the multilayer perceptron the layer behind it is the head, which learns.
    for frozen, drops in ((set(), True), ({"encoder"}, True), ({"encoder", "decoder"}, build is patch_cnn)):
        freeze(network, frozen)
        network.train()
        settle_frozen(network)
        assert dropout.training == drops
    lenet = patch_cnn(dropout=0.5, form="lenet", base_channels=6, depth=2, patch_px=32)
    freeze(lenet, {"encoder"})
    lenet.train()
    settle_frozen(lenet)
    assert not any(one.training for one in lenet.modules() if isinstance(one, nn.Dropout))  # a frozen layer is behind


def test_thawed_parts_learn_again() -> None:
    network = unet()
    freeze(network, {"encoder", "decoder"})
    network.train()
    settle_frozen(network)
    assert not network.encoder.training
    assert network.training
    freeze(network, set())
    network.train()
    settle_frozen(network)
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_encoder_weights_come_from_a_file(tmp_path: Path, channels: int) -> None:
    torch.manual_seed(5)
    trained = torchvision_network("resnet18")
    trained.fc = nn.Linear(512, 9)  # another task's classifier
    torch.save(trained.state_dict(), tmp_path / "histology.pth")
    network = unet(encoder="resnet18", in_channels=channels)
    before = copied(network)
    notes = load_encoder_weights(network, tmp_path / "histology.pth")
    state = network.state_dict()
    expected = trained.conv1.weight if channels == 3 else trained.conv1.weight.sum(1, keepdim=True)
    assert torch.equal(state["encoder.0.0.weight"], expected)
    assert torch.equal(state["encoder.1.1.0.conv1.weight"], trained.layer1[0].conv1.weight)
    assert all(torch.equal(state[name], before[name]) for name in state if part_of(network, name) != "encoder")
    assert len(notes) == 1
    assert ("summed over the colours" in notes[0]) == (channels == 1)


def test_encoder_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"other\.pth: these are not the weights of resnet18") as caught:
        load_encoder_weights(unet(encoder="resnet18"), tmp_path / "other.pth")
    assert caught.value.problems[0] == "conv1.weight: missing"


def test_the_plain_encoder_has_no_weights_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"model\.encoder_weights = imagenet: .*transfer\.init_from"):
        load_encoder_weights(unet(), "imagenet")
