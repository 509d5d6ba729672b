"""What U-Nets for instances say: classes and, with them, how far inside its object a pixel lies."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit.geometry import Box, lay_tiles
from segkit.inference.image_segmentation import predict_layers, segment_image
from segkit.inference.network import FineInstancePrediction, FinePrediction, InstancePrediction, Prediction, Predictor
from segkit.inference.sources import ArrayImage
from segkit.models.inference_form import Precision
from segkit.models.model_file import InstanceSpec, ModelSpec, UNetArguments
from segkit.models.unet import UNet

HOW = InstanceSpec(foreground_threshold=0.5, seed_threshold=0.5, min_area_px=0, grow_px=5)


def member(seed: int = 0, *, channels: int = 3, instances: bool = True) -> tuple[UNet, ModelSpec]:
    torch.manual_seed(seed)
    arguments = UNetArguments(
        in_channels=channels, num_classes=3, base_channels=4, depth=2, form="modern", dropout=0, extra_maps=instances
    )  # fmt: skip
    network = UNet(**arguments.model_dump()).eval()
    with torch.no_grad():
        network.head.weight.mul_(8)  # so that not all probabilities are close to a half
    spec = ModelSpec(
        arguments=arguments,
        task="instance" if instances else "semantic",
        instances=HOW if instances else None,
        classes=["background", "a", "b"],
        mpp=None,
        mean=[0.5] * channels,
        std=[0.25] * channels,
        receptive_field=0,
        scores={},
        training={},
    )
    return network, spec


def predictor_of(*members: tuple[UNet, ModelSpec], precision: Precision = "float32", **settings: Any) -> Predictor:
    return Predictor(members, device=torch.device("cpu"), precision=precision, **{"dihedral": False, **settings})


def random_image(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def maps_of(predictor: Predictor, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """All maps of an image in one piece, (classes + 1, H, W)."""
    core, grid = Box(0, 0, *image.shape[:2]), predictor.grid
    pixels = ArrayImage(image).read(grid.read_box(core))
    maps: NDArray[np.float32] = predictor.probabilities(pixels[None], grid.crop_in_output(core))[0].numpy()
    return maps


def test_classes_are_a_softmax_and_the_distance_a_sigmoid_of_its_own() -> None:
    network, spec = member()
    image = random_image(64, 64)
    predictor = predictor_of((network, spec))
    core = Box(16, 16, 16, 32)
    grid = predictor.grid
    pixels = ArrayImage(image).read(grid.read_box(core))
    found = predictor.probabilities(pixels[None], grid.crop_in_output(core))[0]
    normalised = (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    with torch.inference_mode():
        logits = network(normalised)[(0, slice(None), *grid.crop_in_output(core))]
    assert found.shape == (4, 16, 32)
    torch.testing.assert_close(found[:3], logits[:3].softmax(dim=0), rtol=0, atol=1e-4)
    torch.testing.assert_close(found[3], logits[3].sigmoid(), rtol=0, atol=1e-4)
    assert found[3].std() > 0.02


@pytest.mark.parametrize("dihedral", [False, True])
def test_layers_are_the_maps_in_uint8_whatever_the_tiles(*, dihedral: bool) -> None:
    predictor = predictor_of(member(1), member(2), dihedral=dihedral)
    image = random_image(50, 70)
    maps = maps_of(predictor, image)
    layers = predict_layers(image, predictor)
    assert [layer.dtype for layer in layers] == [np.uint8] * 3
    np.testing.assert_array_equal(layers[0], maps[:3].argmax(axis=0))
    np.testing.assert_array_equal(layers[1], np.rint((1 - maps[0]) * 255))
    np.testing.assert_array_equal(layers[2], np.rint(maps[3] * 255))
    np.testing.assert_array_equal(segment_image(image, predictor), layers[0])
    for tile in lay_tiles(50, 70, 32, predictor.grid):
        pixels = ArrayImage(image).read(tile.read)[None]
        (found,) = predictor.predict(pixels, [predictor.grid.crop_in_output(tile.core)])
        for layer, whole in zip(found, layers, strict=True):
            np.testing.assert_array_equal(layer, whole[tile.core.slices])


def test_several_networks_and_variants_are_averaged_as_distances() -> None:
    image = random_image(48, 48)
    alone = [maps_of(predictor_of(member(seed)), image) for seed in (1, 2)]
    np.testing.assert_array_equal(maps_of(predictor_of(member(1), member(2)), image), (alone[0] + alone[1]) / 2)
    turned = []
    for turns in range(4):
        for step in (1, -1):
            variant = np.ascontiguousarray(np.rot90(image[:, ::step], turns))
            turned.append(np.rot90(maps_of(predictor_of(member(1)), variant), -turns, (1, 2))[..., ::step])
    together = maps_of(predictor_of(member(1), dihedral=True), image)
    np.testing.assert_allclose(together, np.mean(turned, axis=0), atol=1e-4)


@pytest.mark.parametrize(
    ("instances", "float16", "kind"),
    [
        (False, False, Prediction),
        (False, True, FinePrediction),
        (True, False, InstancePrediction),
        (True, True, FineInstancePrediction),
    ],
)
def test_layers_have_names(*, instances: bool, float16: bool, kind: type) -> None:
    predictor = predictor_of(member(instances=instances), float16=float16)
    core = Box(0, 0, 16, 16)
    pixels = ArrayImage(random_image(16, 16)).read(predictor.grid.read_box(core))[None]
    (found,) = predictor.predict(pixels, [predictor.grid.crop_in_output(core)])
    assert isinstance(found, kind)
    assert predictor.has_distance == instances
    if float16:
        assert found[-1].dtype == np.float16
        np.testing.assert_allclose(found[-1] * 255.0, found[1], atol=0.7)


def test_grey_and_colour_images_fit_any_network() -> None:
    colour, grey = predictor_of(member()), predictor_of(member(channels=1))
    image = random_image(20, 30, 1)
    np.testing.assert_array_equal(
        predict_layers(image, colour)[2], predict_layers(np.repeat(image, 3, axis=2), colour)[2]
    )
    assert predict_layers(random_image(20, 30), grey)[2].shape == (20, 30)


def test_maps_of_other_tasks_are_not_averaged() -> None:
    with pytest.raises(UsageError, match="instance and semantic"):
        predictor_of(member(), member(instances=False))


def test_the_memory_of_one_more_map_is_foreseen() -> None:
    plain, more = (predictor_of(member(instances=instances)).peak_bytes(64, 1) for instances in (False, True))
    assert plain <= more < 2 * plain
