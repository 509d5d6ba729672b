"""Patches that excite a unit are found and cut where it looked; the effective field is where gradients go."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkit.errors import ModelError
from segkit.models.patch_cnn import PatchCNN
from segkit.models.receptive_field import computed_reach
from segkit.models.unet import UNet
from segkit.training.excite import effective_field, top_patches, unit_activations


def scaled(images: Tensor) -> Tensor:
    return images / 255


class SpotFinder(nn.Module):
    """Unit 0 adds up 5 x 5 pixels of the first channel, unit 1 of the second; poolings and paddings lie between."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.ReLU())
        weight = torch.zeros(2, 2, 3, 3)
        weight[0, 0], weight[1, 1] = 1, 1
        self.body[1].weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images).mean(dim=(2, 3))


def spots(num: int = 6, side: int = 40) -> Tensor:
    """Return images, each with a spot in one channel (even: 0, odd: 1) that is the brighter the later."""
    rng = np.random.default_rng(0)
    images = torch.zeros(num, 2, side, side, dtype=torch.uint8)
    for number in range(num):
        y, x = (2 * int(at) for at in rng.integers(4, side // 2 - 5, 2))
        images[number, number % 2, y : y + 4, x : x + 4] = 100 + 20 * number
    return images


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_each_unit_gets_its_patches_strongest_first(batch: int) -> None:
    images = spots()
    found = top_patches(SpotFinder(), "body.2", images, scaled, num_units=5, ranks=3, window_px=8, batch=batch)
    assert found.windows.shape == (2, 3, 8, 8, 2)
    for unit, order in ((0, (4, 2, 0)), (1, (5, 3, 1))):
        assert list(found.values[unit]) == sorted(found.values[unit], reverse=True)
        for rank, number in enumerate(order):
            window = found.windows[unit, rank]
            assert window.max() == 100 + 20 * number
            y, x = (window[..., unit] > 0).nonzero()
            # The whole spot lies in the window, around its middle.
            assert len(y) == 16
            assert abs(y.mean() - 3.5) <= 1
            assert abs(x.mean() - 3.5) <= 1


def test_activations_are_the_largest_over_positions() -> None:
    images = spots()
    network = SpotFinder()
    values = unit_activations(network, "body.2", images, scaled, batch=4)
    torch.testing.assert_close(values, network.body(images / 255).amax(dim=(2, 3)).detach())
    assert not network.body[2]._forward_hooks


def test_windows_at_the_border_are_moved_inside_and_no_larger_than_patches() -> None:
    images = torch.zeros(2, 2, 20, 20, dtype=torch.uint8)
    images[0, 0, :2, :2], images[1, 0, -2:, -2:] = 200, 250
    found = top_patches(SpotFinder(), "body.2", images, scaled, num_units=1, ranks=9, window_px=12)
    assert found.windows.shape == (1, 2, 12, 12, 2)
    assert [found.windows[0, rank, ..., 0].sum() for rank in (0, 1)] == [4 * 250, 4 * 200]
    whole = top_patches(SpotFinder(), "body.2", images, scaled, window_px=99)
    assert whole.windows.shape[2:4] == (20, 20)


def test_layers_of_real_networks_of_every_shape_can_be_chosen() -> None:
    images = torch.randint(0, 255, (3, 3, 33, 33), dtype=torch.uint8)
    network = PatchCNN(in_channels=3, num_classes=2, form="vgg", patch_px=33, base_channels=4, depth=2).eval()
    for name in ("layers.0", "layers.2", f"layers.{len(network.layers) - 1}"):
        found = top_patches(network, name, images, scaled, num_units=2, ranks=2, window_px=9)
        assert found.windows.shape == (2, 2, 9, 9, 3)
        assert np.isfinite(found.values).all()


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="there is no layer `nothing`"):
        unit_activations(SpotFinder(), "nothing", spots(), scaled)


def test_the_effective_field_lies_within_the_computed_one() -> None:
    torch.manual_seed(0)
    network = UNet(in_channels=1, num_classes=2, base_channels=4, depth=2).eval()
    reach = computed_reach(network.deepest_path(), network.alignment)
    side = 96
    field = effective_field(network, torch.randint(0, 255, (3, 1, side, side), dtype=torch.uint8), scaled, batch=2)
    assert field.shape == (side, side)
    assert field.sum() == pytest.approx(1, abs=1e-5)
    rows = field.sum(axis=1).nonzero()[0]
    assert side // 2 - reach.field <= rows.min() <= side // 2 <= rows.max() <= side // 2 + reach.field
    assert rows.max() - rows.min() + 1 <= reach.field
    assert all(one.grad is None for one in network.parameters())


def test_the_field_of_one_convolution_is_its_kernel() -> None:
    network = nn.Conv2d(1, 1, 3, padding=1)
    field = effective_field(network, torch.zeros(1, 1, 9, 9, dtype=torch.uint8), scaled)
    kernel = network.weight.detach().abs()[0, 0].numpy()
    np.testing.assert_allclose(field[3:6, 3:6], kernel / kernel.sum(), rtol=1e-5)
    assert np.count_nonzero(field) == 9
