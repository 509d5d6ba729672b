"""Tiles through the network: threads read ahead, the network computes, another thread takes the results.

The network is meant to be the bottleneck. An error in any stage ends the run with that error; nothing waits for a
thread that has died, because every result is fetched from the future that computes it.
"""

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box, Tile, TileGrid, count_tiles, lay_tiles, mirror_indices
from segkit.inference.network import Prediction, Predictor
from segkit.slides import Slide

READ_THREADS = 2


class PixelSource(Protocol):
    """What the pipeline reads: pixels of one level, uint8 (H, W, C), mirrored outside."""

    height: int
    width: int

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box that may reach outside."""


class SlideLevel:
    """One level of a slide, with the number of channels that the model wants."""

    def __init__(self, slide: Slide, level: int, channels: int) -> None:
        self._slide, self._level, self._channels = slide, level, channels
        self.height, self.width = slide.levels[level].height, slide.levels[level].width

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box that may reach outside."""
        return with_channels(self._slide.read_mirrored(box, self._level), self._channels)


class ArrayImage:
    """An image in memory, uint8 (H, W, C)."""

    def __init__(self, image_HWC: NDArray[np.uint8]) -> None:
        self._image = image_HWC
        self.height, self.width = image_HWC.shape[:2]

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box that may reach outside."""
        rows = mirror_indices(box.y, box.height, self.height)
        columns = mirror_indices(box.x, box.width, self.width)
        return self._image[rows[:, None], columns]


@dataclass
class Timings:
    """Seconds that the main thread waited for pixels, for the network and for the writer; and how much was done."""

    read: float = 0.0
    network: float = 0.0
    write: float = 0.0
    tiles: int = 0
    pixels_read: int = 0


Layers = tuple[NDArray[Any], ...]
"""What a network says of a tile: arrays (h, w) or (h, w, K) of equal h and w."""


class TilePredictor(Protocol):
    """What the pipeline asks of a network."""

    def predict(self, images_BHWC: NDArray[np.uint8], crops: Sequence[tuple[slice, slice]]) -> Sequence[Layers]:
        """Return the layers of each image of a batch, cropped to its core."""


RowsWriter = Callable[..., None]
"""Takes the layers of consecutive rows, one array for each layer."""


def run_tiles(
    source: PixelSource,
    predictor: TilePredictor,
    grid: TileGrid,
    *,
    tile_px: int,
    batch: int,
    write_rows: RowsWriter,
    on_tile: Callable[[int, int], None],
) -> Timings:
    """Predict an image of any size and hand over finished rows of tiles, top to bottom.

    Memory is bounded by a few batches of tiles and two rows of tiles.

    Parameters
    ----------
    source
        Where the pixels come from.
    grid
        How the network is tiled exactly.
    tile_px, batch
        Side of a core, a multiple of the grid's alignment; tiles per pass of the network.
    write_rows
        Called with one array for each layer of the predictor, (rows, width) or (rows, width, K), for consecutive
        rows of the output, in one other thread.
    on_tile
        Called with (done, total) after each batch.
    """
    timings = Timings()
    num_rows, num_columns = count_tiles(source.height, source.width, tile_px)
    tiles = lay_tiles(source.height, source.width, tile_px, grid)
    with _threads(READ_THREADS, "read") as readers, _threads(1, "write") as writer:
        pending_write: Future[None] | None = None
        band: list[tuple[Tile, Layers]] = []
        for group, images in _batches(source, tiles, readers, batch, timings):
            started = time.perf_counter()
            predictions = predictor.predict(images, [grid.crop_in_output(tile.core) for tile in group])
            timings.network += time.perf_counter() - started
            timings.tiles += len(group)
            timings.pixels_read += images.shape[0] * images.shape[1] * images.shape[2]
            for tile, prediction in zip(group, predictions, strict=True):
                band.append((tile, prediction))
                if tile.column == num_columns - 1:
                    started = time.perf_counter()
                    if pending_write is not None:
                        pending_write.result()
                    timings.write += time.perf_counter() - started
                    pending_write = writer.submit(_write_band, band, grid, source.width, write_rows)
                    band = []
            on_tile(timings.tiles, num_rows * num_columns)
        started = time.perf_counter()
        if pending_write is not None:
            pending_write.result()
        timings.write += time.perf_counter() - started
    return timings


def predict_array(
    image_HWC: NDArray[np.uint8], predictor: Predictor, grid: TileGrid, *, tile_px: int = 512
) -> Prediction:
    """Return the prediction of a whole image in memory, uint8 (H, W, C), by the same tiles as a slide's."""
    masks: list[NDArray[np.uint8]] = []
    foregrounds: list[NDArray[np.uint8]] = []

    def collect(mask: NDArray[np.uint8], foreground: NDArray[np.uint8]) -> None:
        masks.append(mask)
        foregrounds.append(foreground)

    source = ArrayImage(with_channels(image_HWC, predictor.spec.arguments.in_channels))
    tile_px = grid.legal_size(tile_px) - grid.size_offset
    run_tiles(source, predictor, grid, tile_px=tile_px, batch=1, write_rows=collect, on_tile=lambda *_: None)
    return Prediction(np.concatenate(masks), np.concatenate(foregrounds))


def with_channels(image_HWC: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Return an image with 1 or 3 channels: grey is repeated, colour becomes luminance (ITU-R 601-2)."""
    if image_HWC.shape[2] == channels:
        return image_HWC
    if channels == 3:
        return np.repeat(image_HWC, 3, axis=2)
    luminance = image_HWC.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return luminance.round().astype(np.uint8)[..., None]


def _batches(
    source: PixelSource, tiles: Iterator[Tile], readers: ThreadPoolExecutor, batch: int, timings: Timings
) -> Iterator[tuple[list[Tile], NDArray[np.uint8]]]:
    """Yield batches of equally large read boxes in tile order, reading up to two batches ahead."""
    ahead: deque[tuple[Tile, Future[NDArray[np.uint8]]]] = deque()

    def fill() -> None:
        for tile in itertools.islice(tiles, max(0, 2 * batch + READ_THREADS - len(ahead))):
            ahead.append((tile, readers.submit(source.read, tile.read)))

    fill()
    while ahead:
        group: list[Tile] = []
        images: list[NDArray[np.uint8]] = []
        shape = ahead[0][0].read[2:]
        started = time.perf_counter()
        while ahead and len(group) < batch and ahead[0][0].read[2:] == shape:
            tile, future = ahead.popleft()
            images.append(future.result())
            group.append(tile)
            fill()
        timings.read += time.perf_counter() - started
        yield group, np.stack(images)


def _write_band(band: list[tuple[Tile, Layers]], grid: TileGrid, width: int, write_rows: RowsWriter) -> None:
    height, width = grid.map_size(band[0][0].core.height, width)
    rows = [np.empty((height, width, *layer.shape[2:]), layer.dtype) for layer in band[0][1]]
    for tile, layers in band:
        start = tile.core.x // grid.stride
        for whole, layer in zip(rows, layers, strict=True):
            whole[:, start : start + layer.shape[1]] = layer
    write_rows(*rows)


@contextlib.contextmanager
def _threads(number: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads whose queued work is dropped when the body fails, so that the error is not held up by it."""
    executor = ThreadPoolExecutor(number, name)
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    executor.shutdown()
