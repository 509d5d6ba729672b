"""The memory of a computation is counted without doing it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segkit.models.footprint import META, peak_bytes
from segkit.models.receptive_field import tile_grid
from segkit.models.unet import UNet

SHAPE, BYTES = (1, 2, 3, 4), 24 * 4


def two_steps(x: Tensor) -> Tensor:
    y = x + 1  # input and y
    z = y * 2  # and z
    del y
    return z + x  # without y, but with the result


def in_place(x: Tensor) -> Tensor:
    return (x + 1).relu_().mul_(2)


def view_that_outlives(x: Tensor) -> Tensor:
    y = (x + 1)[:, :1]  # the whole of it stays
    z = x + 2
    return y + z  # of z's size


def joined(x: Tensor) -> Tensor:
    y = x + 1
    del y
    y = x + 1
    del y
    return torch.cat([x, x])


@pytest.mark.parametrize(
    ("compute", "maps"), [(lambda x: x, 1), (two_steps, 3), (in_place, 2), (view_that_outlives, 4), (joined, 3)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chains_that_are_counted_by_hand(compute: nn.Module, maps: float, dtype: torch.dtype) -> None:
    assert peak_bytes(compute, SHAPE, dtype) == maps * BYTES * dtype.itemsize // 4


def test_memory_of_inference_mode_is_counted_too() -> None:
    assert peak_bytes(torch.inference_mode()(two_steps), SHAPE, torch.float32) == 3 * BYTES


def test_an_earlier_peak_is_not_forgotten() -> None:
    def wide_then_narrow(x: Tensor) -> Tensor:
        return x.repeat(5, 1, 1, 1).sum(dim=0, keepdim=True) + 1

    assert peak_bytes(wide_then_narrow, SHAPE, torch.float32) == 7 * BYTES


def test_a_convolution_holds_its_input_and_output() -> None:
    layer = nn.Conv2d(2, 8, 3, padding=1, device=META)
    assert peak_bytes(layer, SHAPE, torch.float32) == BYTES + 4 * BYTES


@settings(max_examples=8, deadline=None)
@given(batch=st.integers(1, 4), doubled=st.booleans())
def test_a_network_takes_memory_in_proportion_to_the_batch(batch: int, doubled: bool) -> None:
    network = UNet(in_channels=3, num_classes=2, base_channels=8, depth=2).eval().to(META)
    side = 128 if doubled else 64
    one = peak_bytes(network, (1, 3, 64, 64), torch.float32)
    found = peak_bytes(network, (batch, 3, side, side), torch.float32)
    assert found == pytest.approx(one * batch * (side // 64) ** 2, rel=1e-3)


def test_a_core_takes_less_memory_than_the_whole() -> None:
    network = UNet(in_channels=3, num_classes=2, base_channels=32, depth=4).eval().to(META)
    halo = tile_grid(network).halo
    core = slice(halo, halo + 256)
    shape = (1, 3, 256 + 2 * halo, 256 + 2 * halo)
    whole = peak_bytes(network, shape, torch.float32)
    assert peak_bytes(lambda images: network(images, (core, core)), shape, torch.float32) < 0.7 * whole
