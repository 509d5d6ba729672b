"""Batches of windows that are submitted give the scores of their images by themselves, whatever happens on the way."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.errors import ResourceError
from segkit.inference.window import WindowPredictor
from segkit.models.model_file import DetectionSpec, ModelSpec, PatchCNNArguments, build_network
from segkit.models.patch_cnn import PatchCNN

CROPS = [(slice(0, 40), slice(0, 37)), (slice(0, 1), slice(2, 30)), (slice(5, 40), slice(0, 40))]


@pytest.fixture(scope="module")
def predictor() -> WindowPredictor:
    torch.manual_seed(1)
    arguments = PatchCNNArguments(
        in_channels=3, num_classes=3, form="modern", patch_px=33, depth=2, base_channels=8, dropout=0.0
    )
    network = build_network(arguments, device="cpu").eval()
    assert isinstance(network, PatchCNN)
    values: dict[str, Any] = {
        "architecture": "patch_cnn", "task": "points", "arguments": arguments, "classes": ["background", "a", "b"],
        "mpp": None, "mean": [0.5] * 3, "std": [0.05] * 3, "receptive_field": 33, "scores": {}, "training": {},
        "detection": DetectionSpec(
            match_radius="6px", smooth_radius="3px", nms_radius="6px", stride=1, thresholds=[0.5, 0.5]
        ),
    }  # fmt: skip
    spec = ModelSpec.model_validate(values)
    return WindowPredictor([(network, spec)], device=torch.device("cpu"), precision="float32", stride=2)


@pytest.fixture
def images(predictor: WindowPredictor) -> NDArray[np.uint8]:
    side = 2 * predictor.grid.halo + 160
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)


def test_scores_are_rounded_probabilities_up_to_the_highest(
    predictor: WindowPredictor, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = predictor.submit(images[:1], CROPS[:1])()[0].scores
    expected = (predictor.probabilities(images[:1])[0, 1:, :40, :37].permute(1, 2, 0) * 65_535).round().numpy()
    assert real.dtype == np.uint16
    assert np.array_equal(real, expected)
    # Scores of all sizes, also those that a signed number would not hold.
    steps = torch.arange(80 * 80, dtype=torch.float32).reshape(80, 80) * (65_535 / 6399)
    made = torch.stack([torch.zeros(80, 80), steps / 65_535, torch.ones(80, 80)])[None]
    monkeypatch.setattr(predictor, "_probabilities", lambda _: made)
    scores = predictor.predict(images[:1], [(slice(0, 80), slice(0, 80))])[0].scores
    assert np.abs(scores[..., 0] - steps.numpy()).max() <= 0.51
    assert scores[..., 0].max() == 65_535
    assert np.all(scores[..., 1] == 65_535)


def test_a_batch_is_its_images_each_cropped_to_its_core(predictor: WindowPredictor, images: NDArray[np.uint8]) -> None:
    together = predictor.submit(images, CROPS)()
    assert [one.scores.shape for one in together] == [(40, 37, 2), (1, 28, 2), (35, 40, 2)]
    assert np.ptp(together[0].scores) > 10_000
    for number, one in enumerate(together):
        (alone,) = predictor.predict(images[number : number + 1], CROPS[number : number + 1])
        assert np.abs(one.scores.astype(int) - alone.scores).max() <= 1


def test_what_was_submitted_may_change_afterwards(predictor: WindowPredictor, images: NDArray[np.uint8]) -> None:
    expected = predictor.predict(images[:1], CROPS[:1])[0].scores
    result = predictor.submit(images[:1], CROPS[:1])
    images[:] = 0
    assert np.array_equal(result()[0].scores, expected)


def room_for(number: int, monkeypatch: pytest.MonkeyPatch, predictor: WindowPredictor) -> list[int]:
    """Let the device's memory hold so many images; return the list in which the sizes of batches appear."""
    honest, sizes = predictor._probabilities, []

    def probabilities(pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        if len(pixels) > number:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(pixels)

    monkeypatch.setattr(predictor, "_probabilities", probabilities)
    return sizes


def test_a_batch_without_room_is_done_in_halves(
    predictor: WindowPredictor, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [predictor.predict(images[number : number + 1], CROPS[number : number + 1])[0] for number in range(3)]
    sizes = room_for(1, monkeypatch, predictor)
    found = predictor.predict(images, CROPS)
    assert sizes == [3, 1, 2, 1, 1]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.scores, other.scores)


def test_an_image_without_room_is_an_error_that_says_what_to_do(
    predictor: WindowPredictor, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(0, monkeypatch, predictor)
    with pytest.raises(ResourceError, match=r"192 x 192 px.*--tile"):
        predictor.submit(images, CROPS)


def test_other_errors_are_not_tried_again(
    predictor: WindowPredictor, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(_: Tensor) -> Tensor:
        calls.append(1)
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(predictor, "_probabilities", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        predictor.submit(images, CROPS)
    assert len(calls) == 1
