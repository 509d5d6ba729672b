"""The halo that makes tiles exact is computed from the layers; a NaN probe and other norms check it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from segkit.errors import ModelError
from segkit.geometry import Box, TileGrid
from segkit.models.receptive_field import common_grid, computed_reach, probed_reach, tile_grid, verified_reach
from segkit.models.unet import Form, UNet


def small_unet(form: Form, depth: int) -> UNet:
    return UNet(in_channels=1, num_classes=2, base_channels=2, depth=depth, form=form)


@pytest.mark.parametrize("form", ["modern", "paper"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_computed_reach_is_what_a_nan_probe_measures(form: Form, depth: int) -> None:
    network = small_unet(form, depth)
    assert computed_reach(network.deepest_path(), network.alignment) == probed_reach(network, 1)


def test_paper_form_has_the_papers_numbers() -> None:
    network = UNet(in_channels=1, num_classes=2, base_channels=64, depth=4, form="paper")
    grid = tile_grid(network)
    # Ronneberger 2015, figure 1: 572 -> 388, 23 convolutional layers, 31 million weights.
    assert grid.margin == 92
    assert grid.legal_size(570) == 572
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 23
    assert sum(parameter.numel() for parameter in network.parameters()) == 31_030_658


@pytest.mark.parametrize("form", ["modern", "paper"])
@pytest.mark.parametrize("depth", [1, 3])
def test_smallest_legal_size_passes_through_and_leaves_pixels(form: Form, depth: int) -> None:
    network = small_unet(form, depth).eval()
    grid = tile_grid(network)
    size = grid.legal_size(1)
    with torch.inference_mode():
        output = network(torch.zeros(1, 1, size, size + grid.alignment))
    assert output.shape == (1, 2, size - 2 * grid.margin, size + grid.alignment - 2 * grid.margin)
    assert min(output.shape[2:]) > 0


def test_halo_is_no_larger_than_needed() -> None:
    """One alignment step less of halo would cut into the receptive field."""
    network = small_unet("modern", 4)
    grid = tile_grid(network)
    assert grid.halo == 96
    assert computed_reach(network.deepest_path(), 16).around_block > grid.halo - grid.alignment


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm2d(2), nn.GroupNorm(1, 2), nn.BatchNorm2d(2, track_running_stats=False)]
)
def test_norms_over_pixels_are_refused_by_name(norm: nn.Module) -> None:
    network = small_unet("modern", 1)
    network.encoder[0][1] = norm  # type: ignore[index]
    with pytest.raises(ModelError, match=r"encoder\.0\.1.*batch norm"):
        tile_grid(network)


def test_norms_over_pixels_pass_where_inexact_results_are_asked_for() -> None:
    network = small_unet("modern", 1)
    expected = tile_grid(network)
    network.encoder[0][1] = nn.InstanceNorm2d(2)  # type: ignore[index]
    assert tile_grid(network, inexact=True) == expected


GRIDS = {(form, depth): tile_grid(small_unet(form, depth)) for form in ("modern", "paper") for depth in range(1, 5)}


@given(
    grids=st.lists(st.sampled_from(list(GRIDS.values())), min_size=1, max_size=3),
    y=st.integers(0, 9), x=st.integers(0, 9), height=st.integers(1, 300), width=st.integers(1, 300),
)  # fmt: skip
def test_read_boxes_of_the_common_grid_hold_those_of_all(
    grids: list[TileGrid], y: int, x: int, height: int, width: int
) -> None:
    common = common_grid(grids)
    core = Box(y * common.alignment, x * common.alignment, height, width)
    for grid in grids:
        assert common.alignment % grid.alignment == 0
        assert common.read_box(core).contains(grid.read_box(core))
    rows, columns = common.crop_in_output(core)
    inside = core.shift(-common.read_box(core).y - common.margin, -common.read_box(core).x - common.margin)
    assert (rows, columns) == inside.slices


@pytest.mark.parametrize("grid", GRIDS.values())
def test_equal_grids_stay_as_they_are(grid: TileGrid) -> None:
    assert common_grid([grid, grid]) is grid


def test_a_wrong_computation_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_unet("modern", 1)
    monkeypatch.setattr(UNet, "deepest_path", lambda self: [self.head])
    with pytest.raises(AssertionError, match="probed"):
        verified_reach(network, 1)
