"""What only a GPU can show: it says what the CPU says, it runs out of memory, it learns and goes on.

Skipped where there is none. SEGKIT_TEST_DEVICE=cpu runs the tests on the CPU, which only shows that they run.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.config import AugmentConfig
from segkit.data.deformation import WarpStrengths, draw_warp
from segkit.data.presets import resolve_augment
from segkit.errors import ResourceError
from segkit.geometry import Box
from segkit.inference.network import Predictor
from segkit.inference.sources import ArrayImage
from segkit.inference.submission import Submitter
from segkit.inference.window import Method, WindowPredictor
from segkit.models.inference_form import Precision
from segkit.models.model_file import DetectionSpec, ModelSpec, PatchCNNArguments, UNetArguments, build_network
from segkit.models.patch_cnn import PatchCNN
from segkit.models.unet import UNet
from segkit.training.device_augment import DeviceAugmenter, augment_rng, warp_batch
from segkit.training.distributed import ALONE
from segkit.training.gradients import Gradients
from tests.tiny import LEARNED
from tests.training.fields import FieldTask, Training, equal, settings

CPU = torch.device("cpu")
DEVICE = torch.device(os.environ.get("SEGKIT_TEST_DEVICE", "cuda"))
MORE_THAN_THERE_IS = 2**50

pytestmark = pytest.mark.skipif(
    DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="needs a GPU that torch can use (CUDA)"
)


@pytest.fixture
def repeatable() -> Iterator[None]:
    """Let cuDNN choose such kernels only that give the same every time."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def run_out_of_memory() -> None:
    if DEVICE.type == "cuda":
        torch.empty(MORE_THAN_THERE_IS, dtype=torch.uint8, device=DEVICE)
    raise torch.OutOfMemoryError


# Networks


def unet() -> tuple[UNet, ModelSpec]:
    """A U-Net with statistics as after training, and its description."""
    torch.manual_seed(0)
    arguments = UNetArguments(in_channels=3, num_classes=3, base_channels=16, depth=3, form="modern", dropout=0)
    network = build_network(arguments, device="cpu").eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    assert isinstance(network, UNet)
    return network, ModelSpec(
        arguments=arguments, classes=["background", "a", "b"], mpp=None, mean=[0.5] * 3, std=[0.25] * 3,
        receptive_field=0, scores={}, training={},
    )  # fmt: skip


def patch_cnn() -> tuple[PatchCNN, ModelSpec]:
    torch.manual_seed(1)
    arguments = PatchCNNArguments(
        in_channels=3, num_classes=2, form="modern", patch_px=33, depth=2, base_channels=8, dropout=0.0
    )
    network = build_network(arguments, device="cpu").eval()
    assert isinstance(network, PatchCNN)
    values: dict[str, Any] = {
        "architecture": "patch_cnn", "task": "points", "arguments": arguments, "classes": ["background", "a"],
        "mpp": None, "mean": [0.5] * 3, "std": [0.25] * 3, "receptive_field": 33, "scores": {}, "training": {},
        "detection": DetectionSpec(
            match_radius="6px", smooth_radius="3px", nms_radius="6px", stride=1, thresholds=[0.5]
        ),
    }  # fmt: skip
    return network, ModelSpec.model_validate(values)


def batch_of(predictor: Predictor, count: int = 4) -> tuple[NDArray[np.uint8], list[tuple[slice, slice]]]:
    """Return read boxes in a random picture with coarse and fine structures, and where their cores are."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(40, 200, (20, 20, 3)), np.ones((20, 20, 1), np.int64))
    source = ArrayImage((coarse + rng.integers(-40, 40, coarse.shape)).astype(np.uint8))
    cores = [Box(64 * number, 32 * number, 128, 128) for number in range(count)]
    grid = predictor.grid
    pixels = np.stack([source.read(grid.read_box(core)) for core in cores])
    return pixels, [grid.crop_in_output(core) for core in cores]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
@pytest.mark.parametrize("dihedral", [False, True])
def test_a_unet_says_what_it_says_on_the_cpu(precision: Precision, tolerance: float, dihedral: bool) -> None:
    there = Predictor([unet()], device=DEVICE, precision=precision, dihedral=dihedral)
    here = Predictor([unet()], device=CPU, precision="float32", dihedral=dihedral)
    pixels, crops = batch_of(here)
    expected = here.probabilities(pixels, crops[0])
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(there.probabilities(pixels, crops[0]).cpu(), expected, rtol=0, atol=tolerance)
    # Two submitted at once: what one copies must not be what the other computes.
    results = [there.submit(pixels[number::2], crops[number::2]) for number in range(2)]
    for number, result in enumerate(results):
        for found, alone in zip(result(), here.predict(pixels[number::2], crops[number::2]), strict=True):
            clear = np.abs(alone.foreground.astype(int) - found.foreground) <= 255 * tolerance + 1
            assert clear.all()
            assert np.mean(found.mask == alone.mask) > 1 - 5 * tolerance


@pytest.mark.parametrize("method", ["fragments", "atrous"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_dense_windows_say_what_single_ones_say(method: Method, precision: Precision, tolerance: float) -> None:
    def scores(how: Method, number_format: Precision) -> NDArray[np.float64]:
        predictor = WindowPredictor([patch_cnn()], device=DEVICE, precision=number_format, stride=2, method=how)
        side = 2 * predictor.grid.halo + 160
        pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
        return predictor.predict(pixels, [(slice(0, 40), slice(0, 40))])[0].scores / 65_535

    naive = scores("naive", "float32")
    assert np.ptp(naive) > 0.2
    assert np.abs(scores(method, precision) - naive).max() < tolerance


# Memory


def test_a_batch_without_room_is_done_in_halves() -> None:
    sizes = []

    def compute(pixels: Tensor, crops: Sequence[tuple[slice, slice]]) -> list[tuple[Tensor, ...]]:
        sizes.append(len(pixels))
        if len(pixels) > 1:
            run_out_of_memory()
        return [(255 - one[(0, *crop)],) for one, crop in zip(pixels, crops, strict=True)]

    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    crops = [(slice(number, 10), slice(2, 9 + number)) for number in range(3)]
    found = Submitter(compute, DEVICE).submit(pixels, crops)()
    assert sizes == [3, 1, 2, 1, 1]
    for (layer,), image, crop in zip(found, pixels, crops, strict=True):
        assert np.array_equal(layer, 255 - image[..., 0][crop])


def test_a_tile_without_room_is_an_error_that_says_what_to_do() -> None:
    def compute(_pixels: Tensor, _crops: Sequence[tuple[slice, slice]]) -> list[tuple[Tensor, ...]]:
        run_out_of_memory()
        return []

    with pytest.raises(ResourceError, match="--tile"):
        Submitter(compute, DEVICE).submit(np.zeros((2, 8, 8, 3), np.uint8), [(slice(0, 8), slice(0, 8))] * 2)


def test_training_finds_in_how_many_parts_a_batch_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    task = FieldTask()
    task.network.to(DEVICE)
    gradients = Gradients(task, settings().compute, DEVICE, ALONE)
    forward = type(task.network).forward

    def small(self: UNet, images: Tensor, *rest: Any) -> Tensor:
        if len(images) > 2:
            run_out_of_memory()
        return forward(self, images, *rest)

    monkeypatch.setattr(UNet, "forward", small)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    notes: list[str] = []
    gradients.fit_memory(8, notes.append)
    assert gradients.micro_batches == 4
    assert "4 parts" in notes[0]
    assert equal(before, task.network.state_dict())


# Augmentation


def strengths(**changes: Any) -> AugmentConfig:
    return resolve_augment(AugmentConfig.model_validate({"preset": "histology", "elastic_px": 4, **changes}), 3)


def contexts(side: int, size: int = 4) -> tuple[Tensor, Tensor]:
    """Return smooth pictures, and targets of a checkerboard and a smooth plane."""
    y, x = np.mgrid[:side, :side]
    image = (127 + 90 * np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)])).astype(np.uint8)
    target = np.stack([(x // 16 + y // 16) % 2, image[0]]).astype(np.uint8)
    both = [torch.from_numpy(one).expand(size, -1, -1, -1).contiguous() for one in (image, target)]
    return both[0], both[1]


def test_samples_are_warped_to_the_same_places_as_on_the_cpu() -> None:
    warp, patch = WarpStrengths.of(strengths()), 96
    draws = [draw_warp(augment_rng(0, 3, number), warp, patch) for number in range(4)]
    images, targets = contexts(patch + 2 * warp.margin(patch))
    expected = warp_batch(images, targets, draws, patch)
    found = [one.cpu() for one in warp_batch(images.to(DEVICE), targets.to(DEVICE), draws, patch)]
    assert float((found[0] - expected[0]).abs().max()) < 0.1
    assert float((found[1][:, 0] == expected[1][:, 0]).float().mean()) > 0.999
    assert int((found[1][:, 1].int() - expected[1][:, 1].int()).abs().max()) <= 1


def test_samples_are_coloured_as_on_the_cpu() -> None:
    # Noise is drawn by the device's own generator.
    augmenter = DeviceAugmenter(strengths(noise=0, blur_px=2), 64, 2, seed=1)
    images, targets = contexts(augmenter.context_px)
    expected, _ = augmenter(images, targets, 5, range(4))
    found, _ = augmenter(images.to(DEVICE), targets.to(DEVICE), 5, range(4))
    assert int((found.cpu().int() - expected.int()).abs().max()) <= 2


def test_a_sample_is_the_same_in_every_batch_and_every_time() -> None:
    augmenter = DeviceAugmenter(strengths(noise=0.1, blur_px=2), 64, 2, seed=1)
    images, targets = (one.to(DEVICE) for one in contexts(augmenter.context_px))
    whole = augmenter(images, targets, 5, range(4))
    for first, again in zip(whole, augmenter(images, targets, 5, range(4)), strict=True):
        assert torch.equal(first, again)
    for first, alone in zip(whole, augmenter(images[2:3], targets[2:3], 5, [2]), strict=True):
        assert torch.equal(first[2:3], alone)


# Training


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_it_learns_in_every_number_format(tmp_path: Path, precision: str) -> None:
    training = Training(tmp_path / "run")
    result = training.start(
        device=DEVICE, epochs=6, steps_per_epoch=15, compute__precision=precision, optimiser__learning_rate=0.01
    )
    assert next(training.task.network.parameters()).device.type == DEVICE.type
    assert result.score > LEARNED
    assert training.epochs[-1][0]["train_loss"] < training.epochs[0][0]["train_loss"]  # type: ignore[operator]


@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_it_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, precision: str) -> None:
    options: dict[str, Any] = {
        "device": DEVICE, "epochs": 3, "compute__precision": precision, "ema": 0.9, "optimiser__learning_rate": 2e-3,
    }  # fmt: skip
    whole, stopped = Training(tmp_path / "whole"), Training(tmp_path / "stopped")
    expected = whole.start(**options)
    stopped.start(until=1, **options)
    resumed = Training(tmp_path / "stopped")
    found = resumed.start(resume=True, **options)
    losses = [info["loss"] for training in (stopped, resumed) for _, _, info in training.steps]
    assert losses == pytest.approx([info["loss"] for _, _, info in whole.steps], rel=1e-3)
    assert found.score == pytest.approx(expected.score, abs=1e-2)
    # The very first step behind the checkpoint differs by nothing but the order of sums.
    for name, value in resumed.weights[0].items():
        torch.testing.assert_close(value, whole.weights[4][name], rtol=0, atol=1e-4)
