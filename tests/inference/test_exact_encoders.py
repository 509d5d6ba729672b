"""Tiles of U-Nets with torchvision's encoders equal the whole image: difference exactly 0 in float32 on the CPU."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segkit.errors import ModelError
from segkit.geometry import Box, TileGrid, lay_tiles
from segkit.inference.network import Predictor
from segkit.inference.sources import ArrayImage
from segkit.models.model_file import ModelSpec, UNetArguments, build_network
from segkit.models.receptive_field import tile_grid
from segkit.models.unet import UNet


def predictor_of(encoder: Any, depth: int, *, inexact: bool = False) -> Predictor:
    torch.manual_seed(7)
    arguments = UNetArguments(
        in_channels=3, num_classes=3, base_channels=8, depth=depth, form="modern", dropout=0, encoder=encoder
    )
    network = build_network(arguments, device="cpu").eval()
    assert isinstance(network, UNet)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    spec = ModelSpec(
        arguments=arguments, classes=["background", "a", "b"], mpp=None, mean=[0.5] * 3, std=[0.25] * 3,
        receptive_field=0, scores={}, training={},
    )  # fmt: skip
    return Predictor(
        [(network, spec)], device=torch.device("cpu"), precision="float32", dihedral=False, inexact=inexact
    )


def differences(predictor: Predictor, grid: TileGrid, tile_px: int, height: int, width: int) -> int:
    """Return how many probabilities of the tiles, read as `grid` says, are not those of the whole image."""
    source = ArrayImage(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    core = Box(0, 0, height, width)
    whole_grid = predictor.grid
    whole = predictor.probabilities(source.read(whole_grid.read_box(core))[None], whole_grid.crop_in_output(core))[0]
    count = 0
    for tile in lay_tiles(height, width, tile_px, grid):
        found = predictor.probabilities(source.read(tile.read)[None], grid.crop_in_output(tile.core))[0]
        count += int((found != whole[(slice(None), *tile.core.slices)]).sum())
    return count


@pytest.mark.parametrize(("encoder", "depth"), [("resnet18", 3), ("resnet50", 2), ("convnext_tiny", 2)])
def test_probabilities_of_tiles_are_those_of_the_whole_image(encoder: str, depth: int) -> None:
    predictor = predictor_of(encoder, depth)
    assert differences(predictor, predictor.grid, 64, 117, 203) == 0


def test_a_smaller_halo_would_show() -> None:
    predictor = predictor_of("resnet18", 3)
    small = TileGrid(alignment=8, halo=predictor.grid.halo - 3 * 8)
    assert differences(predictor, small, 64, 117, 203) > 0


def test_squeeze_and_excitation_gives_tiles_of_their_own() -> None:
    with pytest.raises(ModelError, match="squeeze-and-excitation"):
        predictor_of("efficientnet_b0", 2)
    predictor = predictor_of("efficientnet_b0", 2, inexact=True)
    assert predictor.grid == tile_grid(
        UNet(in_channels=3, num_classes=3, depth=2, encoder="efficientnet_b0"), inexact=True
    )
    assert differences(predictor, predictor.grid, 64, 117, 203) > 0
