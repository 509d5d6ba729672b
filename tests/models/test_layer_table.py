"""The table of layers agrees with torch's own counting, for every kind of network."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segkit.models.dense import DenseNetwork
from segkit.models.layer_table import by_block, dense_macs_per_pixel, layer_table
from segkit.models.patch_cnn import PatchCNN
from segkit.models.unet import UNet

UNETS = {
    "modern": ({"form": "modern", "depth": 2}, 64),
    "paper": ({"form": "paper", "depth": 2}, 92),
    "resnet18": ({"encoder": "resnet18", "depth": 3}, 64),
    "efficientnet_b0": ({"encoder": "efficientnet_b0", "depth": 3}, 64),
    "convnext_tiny": ({"encoder": "convnext_tiny", "depth": 3}, 64),
}


def counted_by_torch(network: nn.Module, channels: int, side: int) -> float:
    image = torch.empty(1, channels, side, side, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.to("meta").eval()(image)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", UNETS)
def test_sums_of_a_unet_are_torchs(name: str) -> None:
    arguments, side = UNETS[name]
    with torch.device("meta"):
        network = UNet(in_channels=3, num_classes=2, base_channels=4, **arguments)  # type: ignore[arg-type]
    rows = layer_table(network, 3, side)
    assert sum(row.macs for row in rows) == counted_by_torch(network, 3, side)
    assert sum(row.parameters for row in rows) == sum(one.numel() for one in network.parameters())
    blocks = by_block(rows)
    assert len(blocks) < len(rows)
    for column in ("macs", "parameters"):
        assert sum(getattr(row, column) for row in blocks) == sum(getattr(row, column) for row in rows)
    assert (
        blocks[-1].output == rows[-1].output == tuple(network(torch.empty(1, 3, side, side, device="meta")).shape[1:])
    )


def test_rows_say_what_each_layer_gives() -> None:
    network = UNet(in_channels=1, num_classes=3, base_channels=4, depth=1)
    rows = {row.name: row for row in layer_table(network, 1, 16)}
    assert rows["encoder.0.0"].output == (4, 16, 16)
    assert rows["encoder.0.0"].macs == 16 * 16 * 4 * 9
    assert rows["pool"].output == (4, 8, 8)
    assert (rows["up.0"].output, rows["up.0"].macs) == ((4, 16, 16), 8 * 8 * 8 * 4 * 4)
    assert (rows["head"].output, rows["head"].parameters) == ((3, 16, 16), 3 * 4 + 3)


def test_a_layer_that_is_used_twice_has_its_parameters_once() -> None:
    shared = nn.Conv2d(2, 2, 1)
    rows = layer_table(nn.Sequential(shared, nn.ReLU(), shared), 2, 4)
    assert [row.parameters for row in rows] == [6, 0, 0]
    assert [row.macs for row in rows] == [64, 0, 64]


def test_parameters_of_a_module_with_parts_count() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5))
            self.convolution = nn.Conv2d(1, 5, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.convolution(image) * self.scale[:, None, None]

    assert sum(row.parameters for row in layer_table(Scaled(), 1, 4)) == 15


def test_the_network_is_left_as_it_is() -> None:
    network = UNet(in_channels=1, num_classes=2, base_channels=2, depth=1).train()
    layer_table(network, 1, 8)
    assert network.training
    assert {one.device.type for one in network.parameters()} == {"cpu"}
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_dense_cost_is_that_of_the_dense_network(stride: int) -> None:
    network = PatchCNN(in_channels=3, num_classes=2, form="modern", patch_px=33, base_channels=4).eval()
    per_patch = sum(row.macs for row in layer_table(network, 3, 33))
    assert per_patch == counted_by_torch(PatchCNN(
        in_channels=3, num_classes=2, form="modern", patch_px=33, base_channels=4), 3, 33)  # fmt: skip
    cost = dense_macs_per_pixel(network, 3, stride)
    assert cost < per_patch / stride**2
    # Another image, whose border weighs more: a little dearer.
    dense = DenseNetwork(network.layers, in_channels=3, patch_px=33, stride=stride, form="fragments")
    small = counted_by_torch(dense, 3, 512) / ((1 + (512 - 33) // stride) * stride) ** 2
    assert cost < small < 1.3 * cost


def test_a_linear_network_costs_each_pixel_its_whole_patch() -> None:
    network = PatchCNN(in_channels=1, num_classes=2, form="linear", patch_px=9).eval()
    assert dense_macs_per_pixel(network, 1, 1) == 2 * 81
