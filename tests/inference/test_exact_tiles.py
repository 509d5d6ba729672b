"""A tiled prediction equals the prediction of the whole image: difference exactly 0 in float32 on the CPU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.geometry import Box, TileGrid, lay_tiles
from segkit.inference.network import Predictor
from segkit.inference.pipeline import predict_image
from segkit.inference.sources import ArrayImage
from segkit.models.model_file import ModelSpec, UNetArguments
from segkit.models.receptive_field import tile_grid
from segkit.models.unet import Form, UNet
from tests.inference.jobs import layers_of


def random_unet(form: Form, *, depth: int = 4, base_channels: int = 8, channels: int = 3) -> UNet:
    """A U-Net whose batch norms have statistics as after training, so that borders and scales matter."""
    torch.manual_seed(7)
    network = UNet(in_channels=channels, num_classes=3, base_channels=base_channels, depth=depth, form=form).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return network


def predictor_of(network: UNet, *, dihedral: bool = False) -> Predictor:
    channels = network.encoder[0][0].in_channels  # type: ignore[index]
    arguments = UNetArguments(
        in_channels=channels, num_classes=3, base_channels=8, depth=network.depth, form=network.form, dropout=0
    )
    spec = ModelSpec(
        arguments=arguments,
        classes=["background", "a", "b"],
        mpp=None,
        mean=[0.5] * channels,
        std=[0.25] * channels,
        receptive_field=0,
        scores={},
        training={},
    )
    return Predictor([(network, spec)], device=torch.device("cpu"), precision="float32", dihedral=dihedral)


def random_image(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def whole(image: NDArray[np.uint8], predictor: Predictor, grid: TileGrid) -> Tensor:
    """One forward pass over the whole image, mirrored at the border."""
    core = Box(0, 0, *image.shape[:2])
    pixels = ArrayImage(image).read(grid.read_box(core))
    return predictor.probabilities(pixels[None], grid.crop_in_output(core))[0]


def tiled(image: NDArray[np.uint8], predictor: Predictor, grid: TileGrid, tile_px: int) -> Tensor:
    """The same in tiles, put together again."""
    height, width = image.shape[:2]
    result = torch.full((3, height, width), torch.nan)
    source = ArrayImage(image)
    for tile in lay_tiles(height, width, tile_px, grid):
        pixels = source.read(tile.read)[None]
        result[(slice(None), *tile.core.slices)] = predictor.probabilities(pixels, grid.crop_in_output(tile.core))[0]
    return result


@pytest.mark.parametrize("form", ["modern", "paper"])
@pytest.mark.parametrize("tile_px", [128, 256, 512, 1024])
def test_probabilities_of_tiles_are_those_of_the_whole_image(form: Form, tile_px: int) -> None:
    network = random_unet(form)
    grid, predictor = tile_grid(network), predictor_of(network)
    image = random_image(613, 1117 if tile_px == 1024 else 541)
    assert torch.equal(tiled(image, predictor, grid, tile_px), whole(image, predictor, grid))


@pytest.mark.parametrize("form", ["modern", "paper"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (17, 129), (128, 128), (129, 127)])
def test_images_of_odd_and_tiny_sizes(form: Form, shape: tuple[int, int]) -> None:
    network = random_unet(form)
    grid, predictor = tile_grid(network), predictor_of(network)
    image = random_image(*shape)
    assert torch.equal(tiled(image, predictor, grid, 128), whole(image, predictor, grid))


def test_average_over_flips_and_turns_is_exact_too() -> None:
    network = random_unet("modern", depth=2)
    grid, predictor = tile_grid(network), predictor_of(network, dihedral=True)
    image = random_image(150, 211)
    assert torch.equal(tiled(image, predictor, grid, 64), whole(image, predictor, grid))


def test_average_over_flips_and_turns_commutes_with_them() -> None:
    network = random_unet("modern", depth=2)
    predictor = predictor_of(network, dihedral=True)
    image = random_image(64, 64)[None]
    everything = (slice(None), slice(None))
    straight = predictor.probabilities(image, everything)
    turned = predictor.probabilities(np.ascontiguousarray(np.rot90(image, axes=(1, 2))[:, :, ::-1]), everything)
    torch.testing.assert_close(turned, torch.rot90(straight, 1, (2, 3)).flip(3), rtol=0, atol=1e-6)


def test_a_halo_one_step_smaller_would_show() -> None:
    """The test of exactness can fail: with too small a halo there are seams."""
    network = random_unet("modern", depth=3)
    grid, predictor = tile_grid(network), predictor_of(network)
    small = TileGrid(alignment=grid.alignment, halo=grid.halo - 3 * grid.alignment)
    image = random_image(300, 300)
    assert not torch.equal(tiled(image, predictor, small, 64), whole(image, predictor, grid))


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 150), width=st.integers(1, 150), tile=st.integers(1, 8), part=st.integers(1, 10),
    batch=st.integers(1, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_pipeline_gives_the_same_map_for_any_part_tile_and_batch(
    height: int, width: int, tile: int, part: int, batch: int, seed: int
) -> None:
    predictor = predictor_of(random_unet("modern", depth=2, base_channels=4))
    image = random_image(height, width, seed=seed)
    expected = predict_image(ArrayImage(image), predictor)
    mask, foreground = layers_of(image, predictor, tile_px=16 * tile, part_px=16 * part, batch=batch)
    if batch == 1:
        assert np.array_equal(mask, expected[0])
        assert np.array_equal(foreground, expected[1])
    # Batches let other convolution kernels run, whose sums differ in the last bits: class ids may tie.
    assert np.mean(mask == expected[0]) > 0.999
    assert np.abs(foreground.astype(int) - expected[1]).max() <= 1
