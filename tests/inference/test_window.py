"""A patch CNN run over tiles says at every window what it says of that window by itself, for any tile and any form."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.errors import ResourceError, UsageError
from segkit.geometry import lay_tiles
from segkit.inference.image_detection import detect_in_image, score_image
from segkit.inference.sources import ArrayImage
from segkit.inference.window import Method, WindowPredictor
from segkit.models.lowering import NotConvertibleError
from segkit.models.model_file import DetectionSpec, ModelSpec, PatchCNNArguments, build_network
from segkit.models.patch_cnn import Form, PatchCNN, usual_base_channels, usual_depth
from segkit.points import Detections
from tests.inference.jobs import layers_of
from tests.tiny import draw_field

Network = tuple[PatchCNN, ModelSpec]
CPU = torch.device("cpu")
ALL: list[tuple[Form, int, int]] = [("dnn1", 101, 3), ("modern", 33, 3), ("vgg", 34, 1), ("lenet", 32, 3)]
STRIDES = (1, 2, 3, 4, 8)
DETECTION = DetectionSpec(
    match_radius="6px", smooth_radius="3px", nms_radius="6px", stride=1, thresholds=[0.5, 0.5]
)  # fmt: skip


@functools.cache
def network_of(form: Form, patch_px: int, channels: int = 3, seed: int = 1) -> Network:
    """A random network; its batch norms have statistics as after training, its scores reach from 0 to 1."""
    arguments = PatchCNNArguments(
        in_channels=channels, num_classes=3, form=form, patch_px=patch_px, depth=usual_depth(form, patch_px),
        base_channels=usual_base_channels(form) if form in {"dnn1", "dnn2"} else 8, dropout=0.2,
    )  # fmt: skip
    torch.manual_seed(seed)
    network = build_network(arguments, device="cpu").eval()
    assert isinstance(network, PatchCNN)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    values: dict[str, Any] = {
        "architecture": "patch_cnn", "task": "points", "arguments": arguments, "classes": ["background", "a", "b"],
        "mpp": None, "mean": [0.5, 0.6, 0.7][:channels], "std": [0.2, 0.15, 0.1][:channels],
        "receptive_field": patch_px, "detection": DETECTION, "scores": {}, "training": {},
    }  # fmt: skip
    return network, ModelSpec.model_validate(values)


def predictor_of(
    *networks: Network, stride: int = 1, method: Method = "auto", dihedral: bool = False
) -> WindowPredictor:
    return WindowPredictor(
        networks, device=CPU, precision="float32", stride=stride, method=method, dihedral=dihedral
    )  # fmt: skip


def image_of(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return draw_field(1, height, width, channels)[0]


def tiled(image: NDArray[np.uint8], predictor: WindowPredictor, tile_px: int) -> Tensor:
    """Return probabilities, float32 (classes, h, w), put together from tiles of about `tile_px`."""
    stride = predictor.stride
    height, width = image.shape[:2]
    result = torch.full((3, *predictor.grid.map_size(height, width)), torch.nan)
    source = ArrayImage(image)
    for tile in lay_tiles(height, width, -(-tile_px // stride) * stride, predictor.grid):
        (found,) = predictor.probabilities(source.read(tile.read)[None])
        found = found[(slice(None), *predictor.grid.crop_in_output(tile.core))]
        top, left = tile.core.y // stride, tile.core.x // stride
        result[:, top : top + found.shape[1], left : left + found.shape[2]] = found
    return result


@pytest.mark.parametrize("method", ["atrous", "fragments"])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(("form", "patch_px", "channels"), ALL)
def test_tiles_are_bitwise_equal_to_the_whole_image(
    form: Form, patch_px: int, channels: int, stride: int, method: Method
) -> None:
    predictor = predictor_of(network_of(form, patch_px, channels), stride=stride, method=method)
    for height, width in ((101, 163), (1, 70), (29, 1), (23, 57)):  # the last three are smaller than the patch
        image = image_of(height, width, channels)
        whole = tiled(image, predictor, 1000)
        assert whole.shape[1:] == (-(-height // stride), -(-width // stride))
        for tile_px in (96, 41) if width > 96 else (41,):
            assert torch.equal(tiled(image, predictor, tile_px), whole), (height, width, tile_px)


def patch_by_hand(image: NDArray[np.uint8], spec: ModelSpec, patch_px: int, y: int, x: int) -> Tensor:
    """Cut the patch around a pixel, which begins `patch_px // 2` pixels before, and normalise it: (1, C, P, P)."""
    padded = np.pad(image, ((patch_px, patch_px), (patch_px, patch_px), (0, 0)), mode="reflect")
    top, left = (patch_px + place - patch_px // 2 for place in (y, x))
    normalised = (padded[top : top + patch_px, left : left + patch_px] / 255 - spec.mean) / spec.std
    return torch.from_numpy(normalised).float().permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("form", "patch_px", "stride", "method", "size", "tile_px"),
    [
        # What was left over for a last piece of the head was small, and added up in another order.
        ("lenet", 32, 2, "atrous", (273, 239), 46),
        ("dnn1", 101, 2, "fragments", (109, 267), 187),
        # Pieces of fewer fragments than 16 and of more are added up in different orders.
        ("dnn2", 101, 4, "fragments", (469, 397), 116),
    ],
)
def test_a_head_in_pieces_is_the_same_for_any_tile(
    form: Form, patch_px: int, stride: int, method: Method, size: tuple[int, int], tile_px: int
) -> None:
    predictor = predictor_of(network_of(form, patch_px), stride=stride, method=method)
    image = image_of(*size)
    assert torch.equal(tiled(image, predictor, tile_px), tiled(image, predictor, 1000))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("form", "patch_px", "stride"), [("dnn1", 101, 4), ("modern", 33, 3), ("modern", 40, 1), ("lenet", 33, 2)]
)
def test_a_score_is_that_of_the_patch_around_its_pixel(form: Form, patch_px: int, stride: int) -> None:
    network, spec = network_of(form, patch_px)
    image = image_of(60, 93)
    found = tiled(image, predictor_of((network, spec), stride=stride), 48)
    for row, column in ((0, 0), (1, 7), (found.shape[1] - 1, found.shape[2] - 1), (9, 4)):
        patch = patch_by_hand(image, spec, patch_px, row * stride, column * stride)
        expected = torch.softmax(network(patch), 1).flatten()
        torch.testing.assert_close(found[:, row, column], expected, rtol=0, atol=2e-5)


def assert_same_detections(one: Detections, other: Detections) -> None:
    """Same places and classes in the same order; scores apart by as much as the maps."""
    assert np.array_equal(one.positions, other.positions)
    assert np.array_equal(one.classes, other.classes)
    assert np.abs(one.scores - other.scores).max() <= 1 / 65_535


@pytest.mark.parametrize(
    ("form", "patch_px", "channels", "stride"),
    # Patches of 101 px one by one at every pixel would take a minute.
    [(*one, stride) for one in ALL for stride in STRIDES if one[0] != "dnn1" or stride >= 4],
)
def test_all_methods_find_the_same(form: Form, patch_px: int, channels: int, stride: int) -> None:
    network = network_of(form, patch_px, channels)
    image = image_of(60, 93, channels)
    maps, lists = [], []
    for method in ("atrous", "fragments", "naive"):
        predictor = predictor_of(network, stride=stride, method=method)
        assert (predictor.method, predictor.reason) == (method, None)
        maps.append(score_image(image, predictor).astype(np.int64))
        lists.append(detect_in_image(image, predictor, DETECTION, mpp=None))
    assert len(lists[0].scores) > 3
    assert np.ptp(maps[0]) > 20_000
    for scores, found in zip(maps[1:], lists[1:], strict=True):
        assert np.abs(scores - maps[0]).max() <= 1
        assert_same_detections(found, lists[0])


@pytest.mark.parametrize("stride", [1, 3])
def test_the_pipeline_gives_the_same_map_for_any_tile_part_and_margin(stride: int) -> None:
    image = image_of(131, 197)
    predictor = predictor_of(network_of("modern", 33), stride=stride)
    expected = score_image(image, predictor)
    probabilities = tiled(image, predictor, 1000)[1:].permute(1, 2, 0)
    assert np.array_equal(expected, (probabilities * 65_535).round().numpy().astype(np.uint16))
    for tile_px, part_px, margin in ((48, 200, 0), (99, 24, 5), (48, 33, 40)):
        (scores,) = layers_of(image, predictor, tile_px=tile_px, part_px=part_px, margin=margin)
        assert np.array_equal(scores, expected)


DIHEDRAL = [(turns, flipped) for turns in range(4) for flipped in (False, True)]


@torch.inference_mode()
@pytest.mark.parametrize(("patch_px", "stride"), [(33, 1), (33, 3), (40, 4)])
@pytest.mark.parametrize("method", ["atrous", "fragments"])
def test_dihedral_is_the_mean_over_eight_changed_patches(patch_px: int, stride: int, method: Method) -> None:
    network, spec = network_of("modern", patch_px)
    image = image_of(50, 71)
    found = tiled(image, predictor_of((network, spec), stride=stride, method=method, dihedral=True), 48)
    for row, column in ((0, 0), (3, 7), (found.shape[1] - 1, found.shape[2] - 1)):
        patch = patch_by_hand(image, spec, patch_px, row * stride, column * stride)
        changed = [torch.rot90(patch.flip(-1) if flipped else patch, turns, (-2, -1)) for turns, flipped in DIHEDRAL]
        expected = torch.softmax(network(torch.cat(changed)), 1).mean(0).flatten()
        torch.testing.assert_close(found[:, row, column], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_dihedral_tiles_are_bitwise_equal_to_the_whole_image(stride: int) -> None:
    predictor = predictor_of(network_of("modern", 33), stride=stride, dihedral=True)
    image = image_of(131, 197)
    assert torch.equal(tiled(image, predictor, 48), tiled(image, predictor, 1000))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("method", ["atrous", "fragments"])
def test_several_networks_are_the_mean_of_each(stride: int, method: Method) -> None:
    """Also where their patches differ in size, and are even or odd."""
    image = image_of(60, 93)
    networks = [network_of("modern", 33), network_of("lenet", 32), network_of("modern", 57, seed=2)]
    together = predictor_of(*networks, stride=stride, method=method)
    singly = [tiled(image, predictor_of(one, stride=stride, method=method), 1000) for one in networks]
    found = tiled(image, together, 1000)
    torch.testing.assert_close(found, sum(singly) / 3, rtol=0, atol=1e-6)
    assert torch.equal(tiled(image, together, 41), found)


def test_networks_normalise_their_own_way() -> None:
    network, spec = network_of("modern", 33)
    other = spec.model_copy(update={"mean": [0.2, 0.3, 0.4], "std": [0.3, 0.3, 0.3]})
    image = image_of(40, 50)
    singly = [tiled(image, predictor_of((network, one)), 1000) for one in (spec, other)]
    assert not torch.equal(*singly)
    found = tiled(image, predictor_of((network, spec), (network, other)), 1000)
    torch.testing.assert_close(found, sum(singly) / 2, rtol=0, atol=1e-6)


def padding_network() -> Network:
    """A patch CNN that pads inside the patch, so that it cannot be run at every pixel at once."""
    _, spec = network_of("lenet", 32)
    torch.manual_seed(2)
    network = PatchCNN(in_channels=3, num_classes=3, form="lenet", patch_px=32)
    network.layers = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.Tanh(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8 * 8**2, 3)
    )
    return network.eval(), spec


@torch.inference_mode()
def test_what_cannot_be_converted_is_run_patch_by_patch_with_a_reason() -> None:
    network, spec = padding_network()
    predictor = predictor_of((network, spec), stride=4)
    assert predictor.method == "naive"
    assert predictor.reason is not None
    assert "layer `0` (Conv2d)" in predictor.reason
    assert "pads inside the patch" in predictor.reason
    image = image_of(20, 27)
    found = tiled(image, predictor, 1000)
    for row, column in ((0, 0), (2, 1), (4, 6)):
        expected = torch.softmax(network(patch_by_hand(image, spec, 32, 4 * row, 4 * column)), 1).flatten()
        torch.testing.assert_close(found[:, row, column], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["dense", "fragments", "atrous"])
def test_a_dense_method_that_was_asked_for_does_not_fall_back(method: Method) -> None:
    with pytest.raises(NotConvertibleError, match="layer `0`"):
        predictor_of(padding_network(), method=method)


def test_one_network_that_cannot_be_converted_makes_all_naive() -> None:
    predictor = predictor_of(network_of("lenet", 32), padding_network(), stride=4)
    assert (predictor.method, predictor.reason is not None) == ("naive", True)


def test_a_method_that_was_chosen_has_no_reason() -> None:
    for method in ("naive", "fragments", "atrous"):
        predictor = predictor_of(network_of("lenet", 32), method=method)
        assert (predictor.method, predictor.reason) == (method, None)
    assert predictor_of(network_of("lenet", 32), method="dense").method in {"atrous", "fragments"}


DIFFERENT: dict[str, tuple[Sequence[str] | float | None, str]] = {
    "classes": (["background", "a", "c"], r"same classes: \['background', 'a', 'b'\] and \['background', 'a', 'c'\]"),
    "mpp": (0.5, "same mpp: None and 0.5"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_networks_that_mean_other_things_are_refused(what: str) -> None:
    network, spec = network_of("modern", 33)
    value, message = DIFFERENT[what]
    with pytest.raises(UsageError, match=message):
        predictor_of((network, spec), (network, spec.model_copy(update={what: value})))


def test_networks_for_grey_and_colour_are_refused_together() -> None:
    with pytest.raises(UsageError, match="one is for grey, one for colour"):
        predictor_of(network_of("modern", 33), network_of("vgg", 34, 1))


def test_a_tile_that_does_not_fit_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    predictor = predictor_of(network_of("lenet", 32))
    monkeypatch.setattr(predictor, "_probabilities", full)
    with pytest.raises(ResourceError, match=r"144 x 144 px.*--tile"):
        predictor.predict(np.zeros((1, 144, 144, 3), np.uint8), [(slice(0, 1), slice(0, 1))])
