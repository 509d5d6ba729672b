"""Heat maps in tiles are those of the whole image, to the last bit, and so are the points that are found in them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from segkit.errors import ModelError, UsageError
from segkit.geometry import Box, lay_tiles
from segkit.inference.detect import MapGrid, detect
from segkit.inference.heat import HeatPredictor
from segkit.inference.image_detection import averaged_detection, detect_in_image, detector_settings, score_image
from segkit.inference.sources import ArrayImage
from segkit.models.model_file import UNetArguments
from segkit.models.receptive_field import tile_grid
from segkit.models.unet import UNet
from segkit.points import FULL_SCORE
from tests.heat_model import heat_spec, make_heat_network
from tests.inference.test_exact_tiles import random_image
from tests.patch_model import draw_red_and_blue
from tests.tiny import MPP

ALL = (slice(None), slice(None))
DISKS = draw_red_and_blue(1, 151, 210)


def random_heat_network(*, depth: int = 2, base_channels: int = 4, seed: int = 7) -> tuple[UNet, UNetArguments]:
    """A network with statistics as after training and two heat maps."""
    torch.manual_seed(seed)
    arguments = UNetArguments(
        in_channels=3, num_classes=2, base_channels=base_channels, depth=depth, form="modern", dropout=0.0
    )
    network = UNet(**arguments.model_dump(exclude_defaults=True)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return network, arguments


def predictor_of(*networks: tuple[UNet, UNetArguments], dihedral: bool = False) -> HeatPredictor:
    return HeatPredictor(
        [(network, heat_spec(arguments)) for network, arguments in networks],
        device=torch.device("cpu"),
        precision="float32",
        dihedral=dihedral,
    )


def whole(image: NDArray[np.uint8], predictor: HeatPredictor) -> NDArray[np.uint16]:
    """One forward pass over the whole image, mirrored at the border."""
    core = Box(0, 0, *image.shape[:2])
    pixels = ArrayImage(image).read(predictor.grid.read_box(core))
    return predictor.predict(pixels[None], [predictor.grid.crop_in_output(core)])[0].scores


def tiled(image: NDArray[np.uint8], predictor: HeatPredictor, tile_px: int) -> NDArray[np.uint16]:
    source, grid = ArrayImage(image), predictor.grid
    height, width = image.shape[:2]
    result = np.full((height, width, 2), 12_345, np.uint16)
    for tile in lay_tiles(height, width, tile_px, grid):
        (one,) = predictor.predict(source.read(tile.read)[None], [grid.crop_in_output(tile.core)])
        result[tile.core.slices] = one.scores
    return result


@pytest.mark.parametrize("dihedral", [False, True])
def test_scores_of_tiles_are_those_of_the_whole_image(dihedral: bool) -> None:
    predictor = predictor_of(random_heat_network(depth=3), dihedral=dihedral)
    image = random_image(180, 243)
    expected = whole(image, predictor)
    assert len(np.unique(expected)) > 1000
    for tile_px in (64, 128):
        assert np.array_equal(tiled(image, predictor, tile_px), expected)
    assert np.array_equal(score_image(image, predictor_of(random_heat_network(depth=3), dihedral=dihedral)), expected)


def test_each_map_is_the_sigmoid_of_its_logit() -> None:
    network, arguments = random_heat_network()
    predictor = predictor_of((network, arguments))
    image = random_image(64, 80)
    with torch.inference_mode():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        expected = torch.sigmoid(network(pixels))[0].permute(1, 2, 0).numpy()
    scores = predictor.predict(image[None], [ALL])[0].scores
    assert scores.dtype == np.uint16
    assert np.abs(scores / FULL_SCORE - expected).max() < 1e-4
    # The maps do not share a sum of 1.
    assert np.ptp(scores.sum(axis=2, dtype=np.int64)) > 1000
    heat = predictor.probabilities(image[None], ALL)[0].permute(1, 2, 0).numpy()
    assert np.abs(heat - expected).max() < 1e-5


def test_logits_far_from_zero_are_no_scores_out_of_range() -> None:
    network, arguments = random_heat_network()
    assert network.head.bias is not None
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([-1e4, 1e4]))
    scores = predictor_of((network, arguments)).predict(random_image(32, 32)[None], [ALL])[0].scores
    assert not scores[..., 0].any()
    assert (scores[..., 1] == FULL_SCORE).all()


def test_flips_and_turns_and_networks_are_averaged_as_heat() -> None:
    one, other = random_heat_network(seed=1), random_heat_network(depth=3, seed=2)
    image = random_image(64, 64)
    first, second, both = (
        whole(image, predictor_of(*networks)).astype(np.float64) for networks in ([one], [other], [one, other])
    )
    assert np.abs(both - (first + second) / 2).max() <= 1
    straight = predictor_of(one)
    variants = []
    for turns in range(4):
        for mirrored in (False, True):
            seen = np.rot90(image[:, ::-1] if mirrored else image, turns)
            found = np.rot90(straight.predict(np.ascontiguousarray(seen)[None], [ALL])[0].scores, -turns)
            variants.append(found[:, ::-1] if mirrored else found)
    averaged = predictor_of(one, dihedral=True).predict(image[None], [ALL])[0].scores
    assert np.abs(averaged - np.mean(variants, axis=0)).max() <= 1
    assert np.abs(averaged - variants[0].astype(np.float64)).max() > 100


def test_a_batch_has_a_crop_for_each_image() -> None:
    predictor = predictor_of(random_heat_network())
    images = np.stack([random_image(64, 64, seed=seed) for seed in range(2)])
    crops = [(slice(0, 20), slice(8, 64)), (slice(30, 64), slice(0, 5))]
    found = predictor.predict(images, crops)
    for one, image, crop in zip(found, images, crops, strict=True):
        assert one.scores.shape == (crop[0].stop - crop[0].start, crop[1].stop - crop[1].start, 2)
        alone = predictor.predict(image[None], [crop])[0].scores
        assert np.abs(one.scores.astype(int) - alone).max() <= 1
    assert predictor.peak_bytes(256, 2) > 1.5 * predictor.peak_bytes(256, 1) > 0


@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 160), width=st.integers(1, 160), tile=st.integers(1, 6))
def test_points_do_not_depend_on_the_tiles(height: int, width: int, tile: int) -> None:
    predictor = predictor_of(random_heat_network())
    image = random_image(height, width, seed=height)
    settings_ = detector_settings(heat_spec(random_heat_network()[1]).detection, [0.02] * 2, mpp=MPP, stride=1)  # type: ignore[arg-type]
    first, second = (
        detect(scores, settings_, MapGrid())
        for scores in (tiled(image, predictor, 16 * tile), score_image(image, predictor))
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_disks_are_found_at_their_middles() -> None:
    network, arguments = make_heat_network()
    spec = heat_spec(arguments)
    assert spec.detection is not None
    found = detect_in_image(DISKS.image, predictor_of((network, arguments)), spec.detection, mpp=MPP, lowest=0.9)
    for index in (1, 2):
        true, detected = DISKS.points.of_class(index), found.positions[found.classes == index]
        assert len(true) == len(detected)
        assert np.linalg.norm(true[:, None] - detected, axis=2).min(axis=1).max() < 1


def test_thresholds_of_several_models_are_averaged() -> None:
    first = heat_spec(random_heat_network()[1]).detection
    assert first is not None
    second = first.model_copy(update={"thresholds": [0.1, 0.5], "nms_radius": "99um"})
    both = averaged_detection([first, second])
    assert both.thresholds == pytest.approx([0.5, 0.7])
    assert both.nms_radius == first.nms_radius


def test_networks_that_do_not_fit_are_refused() -> None:
    network, arguments = random_heat_network()
    other = heat_spec(arguments, mpp=2 * MPP)
    with pytest.raises(UsageError, match="mpp"):
        HeatPredictor(
            [(network, heat_spec(arguments)), (network, other)], device=torch.device("cpu"), precision="float32"
        )
    block = network.decoder[0]
    assert isinstance(block, nn.Sequential)
    block.append(nn.InstanceNorm2d(8))
    with pytest.raises(ModelError, match="InstanceNorm2d"):
        predictor_of((network, arguments))
    assert tile_grid(network, inexact=True).alignment == 4
