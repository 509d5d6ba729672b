"""Folding batch norm changes the time, not the result."""

import pytest
import torch
from torch import nn

from segkit.errors import UsageError
from segkit.models.inference_form import fold_batch_norm, inference_form, resolve_device, resolve_precision
from segkit.models.unet import UNet


def trained_like_unet() -> UNet:
    torch.manual_seed(0)
    network = UNet(in_channels=3, num_classes=3, base_channels=4, depth=2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return network.eval()


def test_folded_network_gives_the_same_scores() -> None:
    network = trained_like_unet().double()
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    expected = network(image)
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(image), expected, rtol=1e-10, atol=1e-10)


def test_inference_form_leaves_the_original_alone() -> None:
    network = trained_like_unet()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    twin = inference_form(network, torch.device("cpu"), "bfloat16")
    assert next(twin.parameters()).dtype == torch.bfloat16
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_precision_that_is_given_is_kept() -> None:
    assert resolve_precision("float32", torch.device("cpu")) == "float32"
    assert resolve_precision("bfloat16", torch.device("cpu")) == "bfloat16"


def test_auto_precision_is_the_same_every_time() -> None:
    assert len({resolve_precision("auto", torch.device("cpu")) for _ in range(3)}) == 1


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps", "meta"])
def test_devices_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        resolve_device(name)
