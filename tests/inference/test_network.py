"""Several networks, batches, layers and memory: what the pipeline relies on."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.errors import ModelError, ResourceError, UsageError
from segkit.geometry import Box, lay_tiles, mirror_indices
from segkit.inference import submission
from segkit.inference.network import FinePrediction, Prediction, Predictor
from segkit.inference.submission import Submitter
from segkit.models.inference_form import Precision
from segkit.models.model_file import ModelSpec, UNetArguments
from segkit.models.unet import Form, UNet

CPU = torch.device("cpu")


def member(
    form: Form = "modern", *, depth: int = 2, base_channels: int = 4, channels: int = 3, seed: int = 0, **changes: Any
) -> tuple[UNet, ModelSpec]:
    """A U-Net with statistics as after training, and its description."""
    torch.manual_seed(seed)
    arguments = UNetArguments(
        in_channels=channels, num_classes=3, base_channels=base_channels, depth=depth, form=form, dropout=0
    )  # fmt: skip
    network = UNet(**arguments.model_dump()).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    fields: dict[str, Any] = {
        "arguments": arguments,
        "classes": ["background", "a", "b"],
        "mpp": None,
        "mean": [0.4 + seed / 100] * channels,
        "std": [0.25] * channels,
        "receptive_field": 0,
        "scores": {},
        "training": {},
    }
    return network, ModelSpec(**{**fields, **changes})


def predictor_of(*members: tuple[UNet, ModelSpec], precision: Precision = "float32", **settings: Any) -> Predictor:
    return Predictor(members, device=CPU, precision=precision, **{"dihedral": False, **settings})


def random_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def read(image: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    rows, columns = mirror_indices(box.y, box.height, image.shape[0]), mirror_indices(box.x, box.width, image.shape[1])
    return image[rows[:, None], columns]


def probabilities(predictor: Predictor, image: NDArray[np.uint8], tile_px: int) -> Tensor:
    """Probabilities of a whole image, (classes, H, W), in tiles of `tile_px`."""
    found = torch.full((3, *image.shape[:2]), torch.nan)
    for tile in lay_tiles(*image.shape[:2], tile_px, predictor.grid):
        crop = predictor.grid.crop_in_output(tile.core)
        found[(slice(None), *tile.core.slices)] = predictor.probabilities(read(image, tile.read)[None], crop)[0]
    return found


def tiles_of(predictor: Predictor, *cores: Box) -> tuple[NDArray[np.uint8], list[tuple[slice, slice]]]:
    image = random_image(90, 90)
    boxes = [predictor.grid.read_box(core) for core in cores]
    return np.stack([read(image, box) for box in boxes]), [predictor.grid.crop_in_output(core) for core in cores]


@settings(max_examples=8, deadline=None)
@given(
    first=st.sampled_from(["modern", "paper"]), second=st.sampled_from(["modern", "paper"]),
    depths=st.tuples(st.integers(1, 2), st.integers(1, 2)), height=st.integers(1, 50), width=st.integers(1, 70),
    tile=st.integers(6, 12), precision=st.sampled_from(["float32", "bfloat16"]),
)  # fmt: skip
def test_several_networks_are_exact_and_averaged_in_order(
    first: Form, second: Form, depths: tuple[int, int], height: int, width: int, tile: int, precision: Precision
) -> None:
    """Networks of other forms and depths have other grids: each sees what it would see by itself."""
    members = member(first, depth=depths[0], seed=1), member(second, depth=depths[1], seed=2)
    both = predictor_of(*members, precision=precision)
    image = random_image(height, width)
    in_tiles = probabilities(both, image, tile * both.grid.alignment)
    assert torch.equal(in_tiles, probabilities(both, image, 96))
    alone = [probabilities(predictor_of(one, precision=precision), image, 96) for one in members]
    assert torch.equal(in_tiles, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("form", ["modern", "paper"])
def test_flips_and_turns_are_averaged_over_the_same_core(form: Form) -> None:
    """Cores that lie off the middle: each variant's core is where the flips and turns put it."""
    network = member(form, depth=1)
    image = random_image(50, 64)  # even sides: turned images have the same pooling grid
    in_tiles = probabilities(predictor_of(network, dihedral=True), image, 32)
    total = torch.zeros(3, 50, 64)
    for turns in range(4):
        for mirrored in (False, True):
            variant = np.rot90(image[:, ::-1] if mirrored else image, turns)
            output = torch.rot90(probabilities(predictor_of(network), variant, 64), -turns, (-2, -1))
            total += output.flip(-1) if mirrored else output
    torch.testing.assert_close(in_tiles, total / 8, rtol=0, atol=1e-5)
    assert torch.equal(in_tiles, probabilities(predictor_of(network, dihedral=True), image, 64))


def test_layers_are_those_of_the_probabilities() -> None:
    network = member()
    plain, fine = predictor_of(network), predictor_of(network, float16=True)
    images, crops = tiles_of(plain, Box(16, 16, 32, 24))
    expected = plain.probabilities(images, crops[0])[0].numpy()
    (coarse,), (found,) = plain.predict(images, crops), fine.submit(images, crops)()
    assert isinstance(coarse, Prediction)
    assert isinstance(found, FinePrediction)
    assert [layer.dtype for layer in found] == [np.uint8, np.uint8, np.float16]
    np.testing.assert_array_equal(found.mask, expected.argmax(axis=0))
    np.testing.assert_array_equal(found.foreground, np.rint((1 - expected[0]) * 255))
    np.testing.assert_array_equal(found.probability, (1 - expected[0]).astype(np.float16))
    for one, other in zip(coarse, found, strict=False):
        np.testing.assert_array_equal(one, other)


def test_each_image_of_a_batch_is_cropped_to_its_own_core() -> None:
    predictor = predictor_of(member())
    cores = Box(0, 0, 16, 16), Box(16, 16, 3, 12), Box(0, 48, 9, 1)
    images, crops = tiles_of(predictor, *cores)
    for found, image, crop, core in zip(predictor.predict(images, crops), images, crops, cores, strict=True):
        (alone,) = predictor.predict(image[None], [crop])
        assert found.mask.shape == (core.height, core.width)
        # Batches let other convolution kernels run, whose sums differ in the last bits.
        np.testing.assert_allclose(found.foreground, alone.foreground, atol=1)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"classes": ["background", "b", "a"]}, "classes"), ({"mpp": 0.5}, "mpp"), ({"channels": 1}, "grey")],
)
def test_networks_that_do_not_fit_each_other_are_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        predictor_of(member(), member(**changes))


def test_norms_over_pixels_are_refused_unless_asked_for() -> None:
    network, spec = member()
    network.encoder[0][1] = nn.InstanceNorm2d(4)  # type: ignore[index]
    with pytest.raises(ModelError, match="InstanceNorm2d"):
        predictor_of((network, spec))
    network.decoder[1][1] = nn.InstanceNorm2d(4)  # type: ignore[index]
    predictor = predictor_of((network, spec), inexact=True)
    images, (crop,) = tiles_of(predictor, Box(32, 16, 16, 16))
    # They see the whole read box, whatever is cropped from it.
    everything = predictor.probabilities(images, (slice(None), slice(None)))
    assert torch.equal(predictor.probabilities(images, crop), everything[(..., *crop)])


class ScarceMemory:
    """A device whose memory holds so many images."""

    def __init__(self, images: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        self.images, self.error, self.batches = images, error, list[int]()

    def __call__(self, pixels_BCHW: Tensor, crops: Sequence[tuple[slice, slice]]) -> list[tuple[Tensor, ...]]:
        self.batches.append(len(pixels_BCHW))
        if len(pixels_BCHW) > self.images:
            raise self.error("out of memory")
        return [(image[0][crop],) for image, crop in zip(pixels_BCHW, crops, strict=True)]


def batch_of(number: int) -> tuple[NDArray[np.uint8], list[tuple[slice, slice]]]:
    images = np.arange(number * 12, dtype=np.uint8).reshape(number, 3, 4, 1)
    return images, [(slice(0, 2), slice(one % 3, 4)) for one in range(number)]


@given(number=st.integers(1, 9), fits=st.integers(1, 9))
def test_a_batch_that_is_too_large_is_done_in_halves(number: int, fits: int) -> None:
    device = ScarceMemory(fits)
    images, crops = batch_of(number)
    results = Submitter(device, CPU).submit(images, crops)()
    assert len(results) == number
    for (found,), image, crop in zip(results, images, crops, strict=True):
        np.testing.assert_array_equal(found, image[..., 0][crop])
    assert device.batches[0] == number
    assert sum(batch for batch in device.batches if batch <= fits) == number


def test_a_tile_that_does_not_fit_alone_is_named() -> None:
    device = ScarceMemory(0)
    with pytest.raises(ResourceError, match=r"cpu: a tile of 3 x 4 px .*--tile"):
        Submitter(device, CPU).submit(*batch_of(4))
    assert device.batches == [4, 2, 1]


def test_other_errors_are_not_retried() -> None:
    device = ScarceMemory(1, RuntimeError)
    with pytest.raises(RuntimeError, match="out of memory"):
        Submitter(device, CPU).submit(*batch_of(4))
    assert device.batches == [4]


class FakeStream:
    """Notes in which order work is queued and what waits for what."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: "FakeStream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> "FakeStream":
        self.log.append(f"{self.name}: event")
        return self

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")


def test_on_cuda_copies_are_ordered_with_the_computation_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: the calls to torch's streams are noted, the tensors stay on the CPU."""
    log: list[str] = []
    names = iter(["in", "out"])

    @contextlib.contextmanager
    def within(stream: FakeStream) -> Iterator[None]:
        log.append(f"on {stream.name}")
        yield

    def copied(self: Tensor, *_: object, non_blocking: bool) -> Tensor:
        assert non_blocking
        log.append("copy in")
        return self.clone()

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: FakeStream(next(names), log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: FakeStream("compute", log))
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: log.append(f"kept for {stream.name}"))
    monkeypatch.setattr(Tensor, "to", copied)
    empty = torch.empty
    monkeypatch.setattr(submission.torch, "empty", lambda *size, dtype, pin_memory: empty(*size, dtype=dtype))
    device = ScarceMemory(9)
    images, crops = batch_of(1)
    wait = Submitter(device, torch.device("cuda")).submit(images, crops)
    assert log == [
        *("on in", "copy in", "compute waits for in", "kept for compute"),
        *("out waits for compute", "on out", "kept for out", "out: event"),
    ]
    ((found,),) = wait()
    assert log[-1] == "host waits for out"
    np.testing.assert_array_equal(found, images[0, ..., 0][crops[0]])


def test_memory_of_a_batch_is_foreseen() -> None:
    predictor = predictor_of(member(base_channels=8), member("paper", depth=1), dihedral=True, float16=True)
    one = predictor.peak_bytes(128, 1)
    # At least the first block's two maps in float32, at most what an unrolled network would keep.
    assert 2 * 8 * 128**2 * 4 < one < 20 * 8 * 128**2 * 4
    assert predictor.peak_bytes(128, 2) == pytest.approx(2 * one, rel=0.01)
    assert predictor_of(member(base_channels=8), precision="bfloat16").peak_bytes(128, 1) < 0.7 * one
    assert predictor.predict(*tiles_of(predictor, Box(0, 0, 8, 8)))[0].mask.shape == (8, 8)
