"""Tiles through the network: threads read ahead, the network computes, other threads work up what it says.

The network is meant to be the bottleneck. Tiles are read ahead across the borders of parts and of slides, so that it
does not wait where one ends and the next begins. An error in any stage ends the slide (or, where it would end every
slide, the run) with that error; nothing waits for a thread that has died, because every result is fetched from the
future that computes it.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError, SegkitError, UsageError
from segkit.geometry import Box, TileGrid, lay_tiles
from segkit.inference.layout import MapLayout
from segkit.inference.sources import PixelSource

READ_THREADS = max(2, min(8, (os.cpu_count() or 1) // 2))
WORK_THREADS = max(1, min(8, (os.cpu_count() or 1) - 1))
PARTS_AHEAD = 1
"""Parts that may wait to be worked up or written while the network goes on."""
SLIDES_AHEAD = 4
"""Slides whose last tile has been asked for and not computed: each is an open file, also one without any tile."""
IMAGE_TILE_PX = 512

Layers = Sequence[NDArray[Any]]
"""What a network says of a place: arrays (h, w) or (h, w, K) of equal h and w."""

Crop = tuple[slice, slice]


class TilePredictor(Protocol):
    """What the pipeline asks of a network."""

    grid: TileGrid

    def submit(self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]) -> Callable[[], Sequence[Layers]]:
        """Begin with a batch; the call that is returned waits for the layers of each image, cropped to its core."""


class Stopped(Exception):  # noqa: N818 (no error: it ends work that nobody waits for)
    """The run has ended while this slide was being joined."""


@dataclass
class Timings:
    """Seconds that the main thread waited for pixels, the network and the threads behind it; and how much was done."""

    read: float = 0.0
    network: float = 0.0
    write: float = 0.0
    tiles: int = 0
    pixels_read: int = 0


@dataclass(kw_only=True, eq=False)
class SlideJob:
    """A slide on its way through the pipeline.

    Attributes
    ----------
    source, layout
        What is read, and how its map is cut.
    parts
        Numbers of the parts to do; the next one is asked for when it is needed.
    work_up
        Called in several threads with the layers of a block and its margin, their place in the map, and the block's:
        returns what is kept of it.
    write_part
        Called in one thread with a part's number and what is kept of its blocks.
    on_tiles
        Called with the number of tiles done after each batch.
    batch
        Tiles per pass of the network.
    finish
        Called in one thread, after the last part was written, with a function that raises `Stopped` if the run ends.
    fail
        Called once, in the main thread, instead of `finish`, with the error that ended the slide, once nothing reads
        it any more.
    """

    source: PixelSource
    layout: MapLayout
    parts: Iterable[int]
    work_up: Callable[[Layers, Box, Box], dict[str, NDArray[Any]] | None]
    write_part: Callable[[int, list[dict[str, NDArray[Any]] | None]], None]
    finish: Callable[[Callable[[], None]], None]
    fail: Callable[[SegkitError], None]
    on_tiles: Callable[[int], None] = lambda _: None
    batch: int = 1
    timings: Timings = field(default_factory=Timings)
    failed: bool = False
    landings: list[Future[None]] = field(default_factory=list)
    reads: deque[Future[NDArray[np.uint8]]] = field(default_factory=deque)


@dataclass(eq=False)
class _Part:
    """A part whose tiles come in: their layers are collected in arrays of the part with its margin."""

    job: SlideJob
    index: int
    missing: int
    place: Box
    layers: list[NDArray[Any]] = field(default_factory=list)

    def paste(self, core: Box, layers: Layers) -> None:
        """Take the layers of a tile."""
        if not self.layers:
            size = self.place.height, self.place.width
            # Zeros: what is not wanted stays 0.
            self.layers = [np.zeros((*size, *layer.shape[2:]), layer.dtype) for layer in layers]
        where = self.job.layout.in_map(core).shift(-self.place.y, -self.place.x).slices
        for whole, layer in zip(self.layers, layers, strict=True):
            whole[where] = layer
        self.missing -= 1


@dataclass(eq=False)
class _Step:
    """What the main thread does next: a tile, the end of a part without tiles, or the end of a job."""

    job: SlideJob
    part: _Part | None = None
    core: Box | None = None
    read: Box | None = None
    pixels: Future[NDArray[np.uint8]] | None = None


def run_jobs(jobs: Iterator[SlideJob], predictor: TilePredictor) -> None:
    """Take slides through the network, one after the other, each with reading, computing and writing at once.

    Memory is bounded by a few batches of tiles and a few parts.

    Parameters
    ----------
    jobs
        The next one is asked for while the last tiles of the one before are still being computed.
    predictor
        The network.
    """
    with contextlib.ExitStack() as stack:
        stages = stack.enter_context(_Stages())
        steps = _steps(jobs, predictor.grid)
        waiting: deque[tuple[list[_Step], Callable[[], Sequence[Layers]]]] = deque()

        def collect() -> None:
            group, result = waiting.popleft()
            started = time.perf_counter()
            predictions = result()
            job = group[0].job
            job.timings.network += time.perf_counter() - started
            job.timings.tiles += len(group)
            for step, layers in zip(group, predictions, strict=True):
                assert step.part is not None
                assert step.core is not None
                step.part.paste(step.core, layers)
                if step.part.missing == 0:
                    stages.complete(step.part)
            job.on_tiles(job.timings.tiles)

        for group, images in _batches(steps, stages):
            job = group[0].job
            if images is None:  # not a tile: whatever was computed before comes first
                while waiting:
                    collect()
                if group[0].part is not None:
                    stages.complete(group[0].part)
                elif not job.failed:
                    stages.finish(job)
                continue
            crops = [predictor.grid.crop_in_output(step.core) for step in group if step.core is not None]
            started = time.perf_counter()
            waiting.append((group, predictor.submit(images, crops)))
            job.timings.network += time.perf_counter() - started
            job.timings.pixels_read += images.shape[0] * images.shape[1] * images.shape[2]
            if len(waiting) > 1:  # the device computes one batch while the one before it is fetched
                collect()


def predict_image(source: PixelSource, predictor: TilePredictor) -> list[NDArray[Any]]:
    """Return the layers of a whole image in memory, by the same kind of tiles as a slide's, without threads."""
    grid = predictor.grid
    tile_px = -(-IMAGE_TILE_PX // grid.alignment) * grid.alignment
    size = grid.map_size(source.height, source.width)
    whole: list[NDArray[Any]] = []
    for tile in lay_tiles(source.height, source.width, tile_px, grid):
        layers = predictor.submit(source.read(tile.read)[None], [grid.crop_in_output(tile.core)])()[0]
        whole = whole or [np.empty((*size, *layer.shape[2:]), layer.dtype) for layer in layers]
        y, x = tile.core.y // grid.stride, tile.core.x // grid.stride
        for all_of_it, layer in zip(whole, layers, strict=True):
            all_of_it[y : y + layer.shape[0], x : x + layer.shape[1]] = layer
    return whole


def _steps(jobs: Iterator[SlideJob], grid: TileGrid) -> Iterator[_Step]:
    for job in jobs:
        for index in job.parts:
            if job.failed:
                break
            cores = job.layout.tiles(index)
            part = _Part(job, index, len(cores), job.layout.grown(job.layout.part(index)))
            if not cores:
                yield _Step(job, part)
            for core in cores:
                yield _Step(job, part, core, grid.read_box(core))
        yield _Step(job)


def _batches(steps: Iterator[_Step], stages: "_Stages") -> Iterator[tuple[list[_Step], NDArray[np.uint8] | None]]:
    """Yield batches of equally large read boxes of one slide in order, or a single step that is no tile (None).

    Up to two batches are read ahead.
    """
    ahead: deque[_Step] = deque()

    def fill() -> None:
        tiles = READ_THREADS + 2 * (ahead[0].job.batch if ahead else 1)
        while (
            sum(one.read is not None for one in ahead) < tiles
            and sum(one.part is None for one in ahead) < SLIDES_AHEAD
            and (step := next(steps, None)) is not None
        ):
            if step.read is not None:
                step.pixels = stages.readers.submit(step.job.source.read, step.read)
                step.job.reads.append(step.pixels)
            ahead.append(step)

    fill()
    while ahead:
        first = ahead[0]
        if first.read is None:
            ahead.popleft()
            if first.part is None or not first.job.failed:
                yield [first], None
            fill()
            continue
        group: list[_Step] = []
        images: list[NDArray[np.uint8]] = []
        while ahead and len(group) < first.job.batch and ahead[0].job is first.job and ahead[0].read is not None:
            if ahead[0].read[2:] != first.read[2:]:
                break
            step = ahead.popleft()
            step.job.reads.popleft()
            if not step.job.failed and step.pixels is not None:
                started = time.perf_counter()
                with stages.failures_of(step.job):
                    images.append(step.pixels.result())
                    group.append(step)
                first.job.timings.read += time.perf_counter() - started
            fill()  # which may open and plan the next slide: not counted as waiting for pixels
        if group and not first.job.failed:
            yield group, np.stack(images)


class _Stages:
    """The threads around the network, and what they still have to do."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._stop = threading.Event()
        self._landings: deque[tuple[SlideJob, Future[None]]] = deque()
        self._finishing: deque[tuple[SlideJob, Future[None]]] = deque()

    def __enter__(self) -> "_Stages":
        with contextlib.ExitStack() as stack:
            self._finisher = stack.enter_context(_threads(1, "finish"))
            self._writer = stack.enter_context(_threads(1, "write"))
            self._workers = stack.enter_context(_threads(WORK_THREADS, "work"))
            self.readers = stack.enter_context(_threads(READ_THREADS, "read"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._wait(self._landings, 0)
                self._wait(self._finishing, 0)
        except BaseException as failure:
            self._stop.set()
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        if kind is not None:
            self._stop.set()
        self._stack.__exit__(kind, error, trace)

    def complete(self, part: _Part) -> None:
        """Let a part whose layers are all there be worked up and written."""
        job, layout = part.job, part.job.layout
        if job.failed:
            return
        blocks: list[Future[dict[str, NDArray[Any]] | None] | None] = []
        for block in layout.blocks(part.index):
            if part.layers and layout.wants(block):
                blocks.append(self._workers.submit(_work_up, job, part, block))
            else:
                blocks.append(None)
        landing = self._writer.submit(_land, job, part.index, blocks)
        job.landings.append(landing)
        self._landings.append((job, landing))
        started = time.perf_counter()
        self._wait(self._landings, PARTS_AHEAD)
        job.timings.write += time.perf_counter() - started

    def finish(self, job: SlideJob) -> None:
        """Let a slide whose parts are all on their way be finished."""
        self._finishing.append((job, self._finisher.submit(_finish, job, self._check)))
        self._wait(self._finishing, 1)

    @contextlib.contextmanager
    def failures_of(self, job: SlideJob) -> Iterator[None]:
        """Let an error that concerns one slide end that slide only."""
        try:
            yield
        except (InputError, UsageError) as error:
            if not job.failed:
                job.failed = True
                wait(job.reads)
                job.fail(error)

    def _wait(self, pending: "deque[tuple[SlideJob, Future[None]]]", number: int) -> None:
        """Wait until no more than `number` are pending."""
        while len(pending) > number or (pending and pending[0][1].done()):
            job, future = pending.popleft()
            with self.failures_of(job):
                future.result()

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped


def _work_up(job: SlideJob, part: _Part, block: Box) -> dict[str, NDArray[Any]] | None:
    place = job.layout.grown(block)
    where = place.shift(-part.place.y, -part.place.x).slices
    layers = [layer[where] for layer in part.layers]
    if job.layout.wanted is not None:
        layers = [layer.copy() for layer in layers]
        job.layout.clear_unwanted(layers, place)
    return job.work_up(layers, place, block)


def _land(job: SlideJob, index: int, blocks: "list[Future[dict[str, NDArray[Any]] | None] | None]") -> None:
    job.write_part(index, [None if block is None else block.result() for block in blocks])


def _finish(job: SlideJob, check: Callable[[], None]) -> None:
    for landing in job.landings:
        if landing.exception() is not None:
            return  # which the main thread meets, too
    job.finish(check)


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
