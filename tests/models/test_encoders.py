"""Torchvision's networks as contracting paths: the same maps, all strides, exact in tiles where that is possible."""

from typing import Any

import pytest
import torch
from torch import nn

from segkit.errors import ConfigError, ModelError
from segkit.models.encoders import LEVELS, ChannelNorm, Encoder, build_encoder, encoder_weights
from segkit.models.inference_form import Precision, fold_batch_norm, inference_form
from segkit.models.receptive_field import computed_reach, mixing_norms, probed_reach, tile_grid, verified_reach
from segkit.models.torchvision_door import torchvision_network
from segkit.models.unet import UNet

CPU = torch.device("cpu")
ENCODERS: list[Any] = list(LEVELS)
EXACT: list[Any] = [name for name in LEVELS if name != "efficientnet_b0"]


def trained_like(encoder: Encoder, depth: int, base_channels: int = 4, channels: int = 3) -> UNet:
    """A U-Net whose norms and scales have values as after training, so that they matter."""
    torch.manual_seed(depth)
    network = UNet(
        in_channels=channels, num_classes=3, base_channels=base_channels, depth=depth, encoder=encoder
    ).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    for name, parameter in network.named_parameters():
        if name.endswith("layer_scale"):
            nn.init.uniform_(parameter, 0.3, 1)
    return network


@pytest.mark.parametrize("name", ENCODERS)
def test_levels_are_those_of_torchvisions_network(name: Encoder) -> None:
    """Each level has the promised stride and width, and the last one the maps that the classifier would see."""
    levels = LEVELS[name]
    torch.manual_seed(0)
    network = torchvision_network(name).eval()
    encoder = build_encoder(name, 3, levels.deepest).eval()
    encoder.load_state_dict(encoder_weights(name, 3, levels.deepest, network.state_dict()))
    x = image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for number, (level, width) in enumerate(zip(encoder, levels.widths, strict=True), levels.first):
            x = level(x)
            assert x.shape == (1, width, 64 >> number, 96 >> number)
        expected = image
        for child_name, child in network.named_children():
            if child_name == "features":
                # EfficientNet's last 1 x 1 convolution and VGG's last pooling belong to the classifier.
                child = child[:-1] if name in {"efficientnet_b0", "vgg16_bn"} else child  # type: ignore[index] # noqa: PLW2901
            if child_name not in {"avgpool", "fc", "classifier"}:
                expected = child(expected)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
def test_grey_images_give_what_equal_colours_give(name: Encoder) -> None:
    weights = {key: value.double() for key, value in torchvision_network(name).state_dict().items()}
    depth = max(LEVELS[name].first, 1)
    grey, colour = (build_encoder(name, channels, depth).double().eval() for channels in (1, 3))
    grey.load_state_dict(encoder_weights(name, 1, depth, weights))
    colour.load_state_dict(encoder_weights(name, 3, depth, weights))
    image = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(grey[0](image), colour[0](image.expand(1, 3, 32, 32)), rtol=1e-10, atol=1e-10)


def test_other_weights_are_refused_by_name() -> None:
    weights = torchvision_network("resnet18").state_dict()
    del weights["fc.weight"], weights["bn1.num_batches_tracked"]  # not needed
    encoder_weights("resnet18", 3, 5, weights)
    del weights["layer2.0.conv1.weight"]
    weights["conv1.weight"] = weights["conv1.weight"][:, :1]
    encoder_weights("resnet34", 3, 1, torchvision_network("resnet18").state_dict())  # as far as they are the same
    with pytest.raises(ModelError, match="resnet18") as caught:
        encoder_weights("resnet18", 3, 3, weights)
    assert caught.value.problems == [
        "conv1.weight: (64, 1, 7, 7), expected (64, 3, 7, 7)",
        "layer2.0.conv1.weight: missing",
    ]


@pytest.mark.parametrize("name", ENCODERS)
def test_sizes_stay_and_every_weight_learns(name: Encoder) -> None:
    network = UNet(in_channels=1, num_classes=2, base_channels=4, depth=LEVELS[name].deepest, encoder=name)
    output = network(torch.rand(2, 1, 64, 96))
    assert output.shape == (2, 2, 64, 96)
    output.square().mean().backward()
    silent = [key for key, value in network.named_parameters() if value.grad is None]
    # Stochastic depth may have dropped a block's branch for the whole batch.
    assert not [key for key in silent if not key.startswith("encoder")]
    assert name in {"efficientnet_b0", "convnext_tiny"} or not silent


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_computed_reach_is_what_a_nan_probe_measures(name: Encoder, depth: int) -> None:
    if not max(LEVELS[name].first, 1) <= depth <= LEVELS[name].deepest:
        with pytest.raises(ConfigError, match=rf"model\.depth = {depth}: {name} has levels for \d to \d"):
            UNet(in_channels=1, num_classes=2, base_channels=2, depth=depth, encoder=name)
        return
    with torch.device("meta"):  # the probe brings its own weights
        network = UNet(in_channels=1, num_classes=2, base_channels=2, depth=depth, encoder=name)
    assert network.alignment == 2**depth
    assert computed_reach(network.deepest_path(), network.alignment) == probed_reach(network, 1)


@pytest.mark.parametrize(
    ("name", "depth", "precision"),
    [
        ("resnet18", 4, "float32"),
        ("resnet18", 3, "bfloat16"),
        ("resnet50", 2, "float32"),
        ("vgg16_bn", 2, "float32"),
        ("convnext_tiny", 3, "float32"),
    ],
)
def test_scores_of_a_core_are_those_of_the_whole(name: Encoder, depth: int, precision: Precision) -> None:
    network = trained_like(name, depth)
    twin = inference_form(network, CPU, precision)
    grid = tile_grid(network)
    side = grid.legal_size(grid.smallest)
    images = torch.randn(1, 3, side, side + grid.alignment).to(next(twin.parameters()).dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        whole = twin(images)
        assert whole.shape[-2:] == images.shape[-2:]
        for core in (
            (slice(0, 1), slice(side - 1, side)),
            (slice(31, 90), slice(17, 60)),
            (slice(side // 2, side), slice(0, side + grid.alignment)),
        ):
            assert torch.equal(twin(images, core), whole[(..., *core)])


def test_the_stem_computes_what_the_core_needs() -> None:
    network = UNet(in_channels=3, num_classes=2, base_channels=32, depth=2, encoder="resnet18").eval()
    seen: list[tuple[int, ...]] = []
    network.stem[0].register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 256, 256), (slice(100, 200), slice(0, 100)))
    # 2 px around for the decoder's two convolutions and 2 more for the stem's, in whole pixels of the level below.
    assert seen == [(100 + 8, 100 + 4)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16_bn", "efficientnet_b0"])
def test_folded_networks_give_the_same_scores(name: Encoder) -> None:
    network = trained_like(name, depth=3, channels=1).double()
    image = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    expected = network(image)
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(image), expected, rtol=1e-9, atol=1e-9)


def test_squeeze_and_excitation_is_named_and_refused() -> None:
    network = UNet(in_channels=3, num_classes=2, base_channels=4, depth=2, encoder="efficientnet_b0")
    with pytest.raises(ModelError, match=r"`encoder\.0\..*avgpool` \(AdaptiveAvgPool2d\) averages over the pixels"):
        tile_grid(network)
    # Where inexact results are asked for, the other layers decide; a probe would find all pixels.
    assert tile_grid(network, inexact=True).halo >= 8
    assert verified_reach(network, 3) == computed_reach(network.deepest_path(), 4)


def test_norms_over_the_channels_of_a_pixel_are_exact() -> None:
    network = UNet(in_channels=3, num_classes=2, base_channels=4, depth=3, encoder="convnext_tiny")
    assert sum(isinstance(module, ChannelNorm) for module in network.modules()) == 1 + 3 + 1 + 3
    assert not mixing_norms(network)
    network.encoder[0][0][1] = nn.LayerNorm([8, 8])  # type: ignore[index]
    assert list(mixing_norms(network)) == ["encoder.0.0.1"]


def test_a_unet_on_the_meta_device_has_an_encoder_without_values() -> None:
    with torch.device("meta"):
        network = UNet(in_channels=1, num_classes=2, base_channels=4, depth=5, encoder="resnet18")
    assert all(value.is_meta for value in network.state_dict().values())
