"""Errors in any stage end the run with their cause; memory of the device is backed off from."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segkit.errors import InputError, ResourceError
from segkit.geometry import Box, TileGrid
from segkit.inference.network import Prediction, Predictor
from segkit.inference.pipeline import ArrayImage, run_tiles, with_channels
from tests.inference.test_exact_tiles import predictor_of, random_image, random_unet

GRID = TileGrid(alignment=4, halo=4)


class ThresholdPredictor:
    """A network of one pixel: foreground where the first channel is above 127."""

    def predict(self, images_BHWC: NDArray[np.uint8], crops: list[tuple[slice, slice]]) -> list[Prediction]:
        return [
            Prediction((image[crop][..., 0] > 127).astype(np.uint8), image[crop][..., 0])
            for image, crop in zip(images_BHWC, crops, strict=True)
        ]


def run(source: Any, write_rows: Any = lambda *_: None, predictor: Any = None, batch: int = 2) -> Any:
    return run_tiles(
        source,
        predictor or ThresholdPredictor(),
        GRID,
        tile_px=16,
        batch=batch,
        write_rows=write_rows,
        on_tile=lambda *_: None,
    )


def test_rows_arrive_in_order_and_whole() -> None:
    image = random_image(75, 50, 1)
    rows: list[NDArray[np.uint8]] = []
    timings = run(ArrayImage(image), lambda mask, foreground: rows.append(foreground))
    assert np.array_equal(np.concatenate(rows), image[..., 0])
    assert timings.tiles == 5 * 4


def test_an_error_of_the_reader_ends_the_run() -> None:
    class Broken(ArrayImage):
        def read(self, box: Box) -> NDArray[np.uint8]:
            if box.y > 20:
                raise InputError("slide.tif: tile 7 cannot be decoded")
            return super().read(box)

    with pytest.raises(InputError, match="tile 7"):
        run(Broken(random_image(200, 50, 1)))


def test_an_error_of_the_writer_ends_the_run() -> None:
    def fail(*_: Any) -> None:
        raise ResourceError("the disk is full")

    with pytest.raises(ResourceError, match="disk"):
        run(ArrayImage(random_image(200, 50, 1)), fail)


def test_an_error_of_the_network_ends_the_run_and_leaves_no_thread() -> None:
    class Broken(ThresholdPredictor):
        def predict(self, *_: Any) -> list[Prediction]:
            raise RuntimeError("kernel failed")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="kernel failed"):
        run(ArrayImage(random_image(200, 50, 1)), predictor=Broken())
    assert threading.active_count() == before


def test_reading_ahead_is_bounded() -> None:
    """The reader never runs further ahead of the network than two batches and its threads."""
    image = random_image(400, 400, 1)
    largest = 0
    started = finished = 0
    lock = threading.Lock()

    class Counting(ArrayImage):
        def read(self, box: Box) -> NDArray[np.uint8]:
            nonlocal started, largest
            with lock:
                started += 1
                largest = max(largest, started - finished)
            return super().read(box)

    class Slow(ThresholdPredictor):
        def predict(self, images: Any, crops: Any) -> list[Prediction]:
            nonlocal finished
            predictions = super().predict(images, crops)
            with lock:
                finished += len(predictions)
            return predictions

    run(Counting(image), predictor=Slow(), batch=3)
    assert largest <= 3 + 2 * 3 + 2


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_out_of_memory_halves_the_batch_and_changes_nothing(monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    predictor = predictor_of(random_unet("modern", depth=1, base_channels=2))
    images = np.stack([random_image(16, 16, seed=seed) for seed in range(5)])
    crops = [(slice(2, 10), slice(3, 16))] * 5
    one_by_one = [predictor.predict(image[None], crops[:1])[0] for image in images]
    whole = Predictor.probabilities

    def limited(self: Predictor, batch: NDArray[np.uint8], crop: Any) -> torch.Tensor:
        if len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, batch, crop)

    monkeypatch.setattr(Predictor, "probabilities", limited)
    for got, expected in zip(predictor.predict(images, crops), one_by_one, strict=True):
        assert np.array_equal(got.mask, expected.mask)


def test_a_tile_that_never_fits_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Predictor, "probabilities", full)
    predictor = predictor_of(random_unet("modern", depth=1, base_channels=2))
    with pytest.raises(ResourceError, match=r"16 x 16 px.*--tile"):
        predictor.predict(random_image(16, 16)[None], [(slice(0, 16), slice(0, 16))])


def test_other_runtime_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(*_: Any) -> torch.Tensor:
        calls.append(1)
        raise RuntimeError("out of memory, says some other library")

    monkeypatch.setattr(Predictor, "probabilities", broken)
    predictor = predictor_of(random_unet("modern", depth=1, base_channels=2))
    with pytest.raises(RuntimeError, match="other library"):
        predictor.predict(np.stack([random_image(16, 16)] * 4), [(slice(0, 16), slice(0, 16))] * 4)
    assert len(calls) == 1


def test_channels_are_made_to_fit() -> None:
    grey = random_image(4, 5, 1)
    assert np.array_equal(with_channels(grey, 3), np.repeat(grey, 3, axis=2))
    white = np.full((2, 2, 3), 255, np.uint8)
    assert np.array_equal(with_channels(white, 1), np.full((2, 2, 1), 255, np.uint8))
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 100
    assert with_channels(red, 1).item() == 30
