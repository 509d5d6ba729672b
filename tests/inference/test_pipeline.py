"""Reading, computing and writing at once: in order and bounded; an error in any stage ends what it concerns."""

import itertools
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.errors import InputError, ResourceError, UsageError
from segkit.geometry import Box, TileGrid
from segkit.inference.network import Predictor
from segkit.inference.pipeline import PARTS_AHEAD, READ_THREADS, SLIDES_AHEAD, Layers, SlideJob, Stopped, run_jobs
from segkit.inference.sources import ArrayImage, with_channels
from tests.inference.jobs import Kept, joined, keep_layers, layout_of, make_job
from tests.inference.test_exact_tiles import predictor_of, random_image, random_unet

GRID = TileGrid(alignment=4, halo=4)
SECONDS = 30.0


class PixelPredictor:
    """A network of one pixel, which says of each what it is; it notes the batches that it was given."""

    grid = GRID

    def __init__(self) -> None:
        self.batches: list[NDArray[np.uint8]] = []

    def submit(
        self, images_BHWC: NDArray[np.uint8], crops: Sequence[tuple[slice, slice]]
    ) -> Callable[[], Sequence[Layers]]:
        self.batches.append(images_BHWC)
        layers = [(image[crop][..., 0],) for image, crop in zip(images_BHWC, crops, strict=True)]
        return lambda: layers


@pytest.fixture(autouse=True)
def ends_in_time_and_leaves_no_thread() -> Iterator[None]:
    """Let a test that hangs fail."""

    def late(*_: object) -> None:
        raise TimeoutError(f"still at work after {SECONDS} s")

    threads = threading.active_count()
    handler = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    assert threading.active_count() == threads


def job_of(
    kept: Kept, source: ArrayImage, *, tile_px: int = 16, part_px: int = 32, cut: dict[str, Any] | None = None,
    **changes: Any,
) -> SlideJob:  # fmt: skip
    layout = layout_of(source, GRID, tile_px=tile_px, part_px=part_px, **(cut or {}))
    return make_job(source, layout, kept, **{"batch": 2, **changes})


def image_of(value: int, height: int = 70, width: int = 50) -> ArrayImage:
    return ArrayImage(np.full((height, width, 1), value, np.uint8))


def run(*jobs: SlideJob, predictor: Any = None) -> None:
    run_jobs(iter(jobs), predictor or PixelPredictor())


# In order and whole


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), tile=st.integers(1, 12), block=st.integers(1, 8),
    blocks=st.integers(1, 3), margin=st.sampled_from([0, 4, 12]), batch=st.integers(1, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_block_comes_with_its_margin_and_parts_come_in_order(
    height: int, width: int, tile: int, block: int, blocks: int, margin: int, batch: int, seed: int
) -> None:
    image, kept = random_image(height, width, 1, seed), Kept()

    def work_up(layers: Layers, place: Box, own: Box) -> dict[str, NDArray[Any]]:
        assert place == own.expand(margin).intersect(Box(0, 0, height, width))
        assert np.array_equal(layers[0], image[place.slices][..., 0])
        return keep_layers(layers, place, own)

    job = job_of(
        kept, ArrayImage(image), tile_px=4 * tile, part_px=4 * block * blocks, work_up=work_up, batch=batch,
        cut={"block_px": 4 * block, "margin": margin},
    )  # fmt: skip
    run(job)
    assert list(kept.parts) == list(range(job.layout.num_parts))
    assert np.array_equal(joined(job.layout, kept)[0], image[..., 0])
    assert (kept.finished, kept.errors) == (True, [])
    assert kept.tiles == sorted(set(kept.tiles))
    assert kept.tiles[-1] == job.timings.tiles == job.layout.num_tiles


def test_only_the_parts_that_are_asked_for_are_done() -> None:
    source, kept = image_of(7), Kept()
    job = job_of(kept, source, parts=iter([4, 1]))
    predictor = PixelPredictor()
    run(job, predictor=predictor)
    assert list(kept.parts) == [4, 1]
    assert kept.finished
    assert sum(len(batch) for batch in predictor.batches) == sum(len(job.layout.tiles(index)) for index in (4, 1))


def test_without_parts_a_slide_is_only_finished() -> None:
    kept, other = Kept(), Kept()
    run(job_of(kept, image_of(7), parts=()), job_of(other, image_of(8)))
    assert (kept.finished, kept.parts) == (True, {})
    assert other.finished


def test_a_slide_is_finished_after_its_last_part_and_slides_in_their_order() -> None:
    log: list[str] = []

    def job(name: str) -> SlideJob:
        def write(index: int, _: Any) -> None:
            time.sleep(0.002)
            log.append(f"{name}{index}")

        return job_of(Kept(), image_of(1), write_part=write, finish=lambda _: log.append(f"{name} finished"))

    run(job("a"), job("b"))
    for name in "ab":
        own = [entry for entry in log if entry.startswith(name)]
        assert own == [*(f"{name}{index}" for index in range(6)), f"{name} finished"]
    assert log.index("a finished") < log.index("b finished")


def test_cells_without_tissue_are_neither_read_nor_worked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.inference.layout.CELL_PX", 8)
    wanted = np.zeros((9, 7), np.bool_)
    wanted[0, 0] = wanted[5, 2:5] = True
    read: list[Box] = []

    class Noting(ArrayImage):
        def read(self, box: Box) -> NDArray[np.uint8]:
            read.append(box)
            return super().read(box)

    image, kept = random_image(70, 50, 1, 3), Kept()
    job = job_of(kept, Noting(image), cut={"block_px": 16, "wanted": wanted, "margin": 4})
    run(job)
    assert kept.finished
    assert 0 < len(read) == job.layout.num_tiles < 15
    expected = np.where(wanted.repeat(8, 0).repeat(8, 1)[:70, :50], image[..., 0], 0)
    assert np.array_equal(joined(job.layout, kept)[0], expected)
    present = [block is not None for blocks in kept.parts.values() for block in blocks]
    # Of the 20 blocks: the corner's, and those of three cells, two of which lie side by side.
    assert sum(present) == 3
    assert [len(blocks) for blocks in kept.parts.values()] == [len(job.layout.blocks(index)) for index in range(6)]


# Batches


def test_batches_hold_equally_large_tiles_of_one_slide() -> None:
    predictor = PixelPredictor()
    jobs = [job_of(Kept(), image_of(value), batch=batch) for value, batch in ((10, 3), (20, 1), (30, 4))]
    run(*jobs, predictor=predictor)
    batches = [(set(batch.ravel().tolist()), len(batch)) for batch in predictor.batches]
    assert all(len(values) == 1 for values, _ in batches)
    values = [value for (value,), _ in batches]
    assert values == sorted(values)
    for value, job in zip((10, 20, 30), jobs, strict=True):
        sizes = [size for (one,), size in batches if one == value]
        assert max(sizes) == job.batch
        assert sum(sizes) == job.layout.num_tiles == job.timings.tiles
        pixels = sum(batch.size for batch, ((one,), _) in zip(predictor.batches, batches, strict=True) if one == value)
        assert job.timings.pixels_read == pixels


class Broken(ArrayImage):
    """An image of which some reads fail, counted from 0."""

    def __init__(self, image_HWC: NDArray[np.uint8], error: BaseException, *reads: int) -> None:
        super().__init__(image_HWC)
        self._error, self._reads, self._count = error, set(reads), itertools.count()

    def read(self, box: Box) -> NDArray[np.uint8]:
        if next(self._count) in self._reads:
            raise self._error
        return super().read(box)


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("reads", [(0,), (1,), (2, 3), (5,), (19,), range(20)])
def test_a_slide_that_fails_within_a_batch_leaves_the_others_whole(batch: int, reads: Sequence[int]) -> None:
    error = InputError("slide.tif: tile 7 cannot be decoded")
    kept = [Kept(), Kept(), Kept()]
    images = [random_image(70, 50, 1, seed) for seed in range(3)]
    sources = [ArrayImage(images[0]), Broken(images[1], error, *reads), ArrayImage(images[2])]
    jobs = [job_of(one, source, batch=batch) for one, source in zip(kept, sources, strict=True)]
    assert jobs[1].layout.num_tiles == 20
    run(*jobs)
    for number in (0, 2):
        assert np.array_equal(joined(jobs[number].layout, kept[number])[0], images[number][..., 0])
        assert kept[number].finished
    assert kept[1].errors == [error]
    assert not kept[1].finished
    assert jobs[1].timings.tiles < 20
    # What was written of it is right.
    for index, blocks in kept[1].parts.items():
        (block,) = blocks
        assert block is not None
        assert np.array_equal(block["0"], images[1][jobs[1].layout.part(index).slices][..., 0])


# Errors


def raising(error: BaseException, calls: int) -> Callable[..., Any]:
    """Return a function that raises when it is called for the so-many-th time."""
    count = itertools.count(1)

    def call(*arguments: Any) -> Any:
        if next(count) == calls:
            raise error
        return keep_layers(*arguments) if len(arguments) == 3 else None

    return call


def failing_job(stage: str, error: BaseException, kept: Kept) -> SlideJob:
    image = random_image(70, 50, 1, 5)
    match stage:
        case "read":
            return job_of(kept, Broken(image, error, 9))
        case "finish":
            return job_of(kept, ArrayImage(image), finish=raising(error, 1))
        case _:
            return job_of(kept, ArrayImage(image), **{stage: raising(error, 4)})


STAGES = ["read", "work_up", "write_part", "finish"]


@pytest.mark.parametrize("kind", [InputError, UsageError])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_an_error_that_concerns_one_slide_stops_no_other(stage: str, place: int, kind: type[InputError]) -> None:
    error = kind("slide.tif: is damaged")
    broken, whole = Kept(), [Kept(), Kept()]
    jobs = [job_of(one, image_of(7)) for one in whole]
    jobs.insert(place, failing_job(stage, error, broken))
    run(*jobs)
    assert broken.errors == [error]
    assert not broken.finished
    for one in whole:
        assert (one.finished, one.errors, len(one.parts)) == (True, [], 6)


@pytest.mark.parametrize(
    "error", [ResourceError("the disk is full"), RuntimeError("kernel failed"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("stage", [*STAGES, "on_tiles"])
def test_an_error_that_concerns_all_ends_the_run(stage: str, place: int, error: BaseException) -> None:
    broken, before, after = Kept(), Kept(), Kept()
    jobs = [*[job_of(before, image_of(7))][:place], failing_job(stage, error, broken)]
    many = (job_of(after, image_of(7)) for _ in range(1000))
    with pytest.raises(type(error)) as caught:
        run_jobs(itertools.chain(jobs, many), PixelPredictor())
    assert caught.value is error
    assert broken.errors == before.errors == after.errors == []
    assert next(many, None) is not None


@pytest.mark.parametrize("when", ["submit", "result"])
@pytest.mark.parametrize("error", [ResourceError("too large for the device"), RuntimeError("kernel failed")])
def test_an_error_of_the_network_ends_the_run(when: str, error: Exception) -> None:
    class Failing(PixelPredictor):
        def submit(self, *arguments: Any) -> Any:
            honest = super().submit(*arguments)
            if len(self.batches) < 4:
                return honest
            if when == "submit":
                raise error
            return raising(error, 1)

    kept = Kept()
    with pytest.raises(type(error)) as caught:
        run(job_of(kept, image_of(7)), job_of(kept, image_of(8)), predictor=Failing())
    assert caught.value is error
    assert (kept.finished, kept.errors) == (False, [])


def test_an_error_of_the_slides_themselves_ends_the_run() -> None:
    def jobs() -> Iterator[SlideJob]:
        yield job_of(Kept(), image_of(7))
        raise ResourceError("the disk is full")

    with pytest.raises(ResourceError, match="disk"):
        run_jobs(jobs(), PixelPredictor())


def test_a_slide_is_given_up_only_when_nothing_reads_it_any_more() -> None:
    """What fails is closed, and some libraries do not bear that while another thread reads."""
    reading = threading.Semaphore(0)
    running = 0
    seen: list[int] = []

    class Slow(ArrayImage):
        def read(self, box: Box) -> NDArray[np.uint8]:
            nonlocal running
            if box.x < 0 and box.y < 0:  # the first: it fails while the second is read
                reading.acquire(timeout=10)
                raise InputError("slide.tif: is damaged")
            running += 1
            reading.release()
            time.sleep(0.05)
            running -= 1
            return super().read(box)

    run(job_of(Kept(), Slow(image_of(7).read(Box(0, 0, 70, 50))), fail=lambda _: seen.append(running)))
    assert seen == [0]


@pytest.mark.parametrize("how", ["error", "interrupted"])
def test_finishing_ends_when_the_run_does(how: str) -> None:
    """Joining a large slide takes minutes, during which nobody waits for it any more."""
    outcome: list[str] = []
    begun = threading.Event()

    def finish(check: Callable[[], None]) -> None:
        check()
        begun.set()
        try:
            while True:
                check()
                time.sleep(0.001)
        except Stopped:
            outcome.append("stopped")
            raise

    error: BaseException = RuntimeError("kernel failed") if how == "error" else KeyboardInterrupt()

    def end(_: int) -> None:
        assert begun.wait(10)
        raise error

    with pytest.raises(type(error)) as caught:
        run(job_of(Kept(), image_of(7), finish=finish), job_of(Kept(), image_of(8), on_tiles=end))
    assert caught.value is error
    assert outcome == ["stopped"]


# Ahead, and how far


def test_tiles_of_the_next_slide_are_read_while_the_last_of_the_one_before_are_computed() -> None:
    is_read = threading.Event()

    class Next(ArrayImage):
        def read(self, box: Box) -> NDArray[np.uint8]:
            is_read.set()
            return super().read(box)

    waited: list[bool] = []

    class Waiting(PixelPredictor):
        def submit(self, images: Any, crops: Any) -> Any:
            if images.max() == 7 and sum(len(batch) for batch in self.batches) + len(images) == 20:
                waited.append(is_read.wait(5))
            return super().submit(images, crops)

    first, second = job_of(Kept(), image_of(7)), job_of(Kept(), Next(image_of(8).read(Box(0, 0, 70, 50))))
    assert first.layout.num_tiles == 20
    run(first, second, predictor=Waiting())
    assert waited == [True]


@pytest.mark.parametrize("batch", [1, 3])
def test_reading_ahead_is_bounded(batch: int) -> None:
    """The reader never runs further ahead of the network than two batches and its threads."""
    largest = started = finished = 0
    lock = threading.Lock()

    class Counting(ArrayImage):
        def read(self, box: Box) -> NDArray[np.uint8]:
            nonlocal started, largest
            with lock:
                started += 1
                largest = max(largest, started - finished)
            return super().read(box)

    class Slow(PixelPredictor):
        def submit(self, images: Any, crops: Any) -> Any:
            nonlocal finished
            time.sleep(0.002)
            with lock:
                finished += len(images)
            return super().submit(images, crops)

    source = Counting(random_image(200, 200, 1))
    run(job_of(Kept(), source, part_px=64, batch=batch), job_of(Kept(), source, batch=batch), predictor=Slow())
    assert batch < largest <= batch + 2 * batch + READ_THREADS


@pytest.mark.parametrize("wanted", [True, False])
def test_slides_are_asked_for_a_few_at_a_time(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they have no tissue at all, and so no tiles: each is an open file."""
    monkeypatch.setattr("segkit.inference.layout.CELL_PX", 4)
    most = begun = done = 0

    def finish(_: Any) -> None:
        nonlocal done
        time.sleep(0.001)
        done += 1

    def jobs() -> Iterator[SlideJob]:
        nonlocal most, begun
        for _ in range(100):
            begun += 1
            most = max(most, begun - done)
            cells = np.full((1, 1), wanted)
            yield job_of(Kept(), image_of(7, 4, 4), part_px=4, cut={"wanted": cells}, finish=finish, batch=1)

    run_jobs(jobs(), PixelPredictor())
    assert (begun, done) == (100, 100)
    # Those, one that is read, and two that are finished.
    assert most <= SLIDES_AHEAD + 3


@pytest.mark.parametrize("slow", ["work_up", "write_part"])
def test_a_slow_stage_behind_it_holds_up_the_network(slow: str) -> None:
    computed = written = most = 0

    def write(index: int, blocks: Any) -> None:
        nonlocal written
        time.sleep(0.01 if slow == "write_part" else 0)
        written += 1

    def work_up(*arguments: Any) -> Any:
        time.sleep(0.01 if slow == "work_up" else 0)
        return keep_layers(*arguments)

    class Counting(PixelPredictor):
        def submit(self, images: Any, crops: Any) -> Any:
            nonlocal computed, most
            computed += 1
            most = max(most, computed - written)
            return super().submit(images, crops)

    # A part is a tile and a batch.
    cut = {"part_px": 16, "work_up": work_up, "write_part": write, "batch": 1}
    job = job_of(Kept(), image_of(7, 100, 100), **cut)
    run(job, job_of(Kept(), image_of(7, 100, 100), **cut), predictor=Counting())
    assert written == 2 * 49
    # One that is computed while the one before is collected, one that is completed, and those that may wait.
    assert most <= PARTS_AHEAD + 3
    assert job.timings.write > 0.1


def test_memory_does_not_grow_with_the_number_of_parts() -> None:
    class Generated(ArrayImage):
        """A slide of any size, of which nothing is in memory."""

        def __init__(self, height: int) -> None:
            self.height, self.width = height, 256

        def read(self, box: Box) -> NDArray[np.uint8]:
            return np.zeros((box.height, box.width, 1), np.uint8)

    class Silent(PixelPredictor):
        def submit(self, *arguments: Any) -> Any:
            result = super().submit(*arguments)
            self.batches.clear()
            return result

    def peak(parts: int) -> int:
        job = job_of(
            Kept(), Generated(256 * parts), tile_px=64, part_px=256, work_up=keep_layers,
            write_part=lambda *_: time.sleep(0.002),
        )  # fmt: skip
        tracemalloc.start()
        run(job, predictor=Silent())
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(3)
    assert peak(30) < 1.3 * peak(6)


# What the network and its memory do to batches


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_out_of_memory_halves_the_batch_and_changes_nothing(monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    images = np.stack([random_image(16, 16, seed=seed) for seed in range(5)])
    crops = [(slice(2, 10), slice(3, 16))] * 5
    predictor = predictor_of(random_unet("modern", depth=1, base_channels=2))
    one_by_one = [predictor.predict(image[None], crops[:1])[0] for image in images]
    whole = Predictor.layers

    def limited(self: Predictor, batch: torch.Tensor, crop: Any) -> Any:
        if len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, batch, crop)

    monkeypatch.setattr(Predictor, "layers", limited)
    predictor = predictor_of(random_unet("modern", depth=1, base_channels=2))
    for got, expected in zip(predictor.predict(images, crops), one_by_one, strict=True):
        assert np.array_equal(got.mask, expected.mask)


def test_a_tile_that_never_fits_ends_the_run_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Predictor, "layers", full)
    predictor = predictor_of(random_unet("modern", depth=1, base_channels=2))
    source, kept = ArrayImage(random_image(40, 40)), Kept()
    with pytest.raises(ResourceError, match=r"a tile of \d+ x \d+ px.*--tile"):
        run_jobs(
            iter([make_job(source, layout_of(source, predictor.grid, tile_px=32, part_px=32), kept, batch=2)]),
            predictor,
        )
    assert (kept.finished, kept.errors) == (False, [])


def test_channels_are_made_to_fit() -> None:
    grey = random_image(4, 5, 1)
    assert np.array_equal(with_channels(grey, 3), np.repeat(grey, 3, axis=2))
    white = np.full((2, 2, 3), 255, np.uint8)
    assert np.array_equal(with_channels(white, 1), np.full((2, 2, 1), 255, np.uint8))
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 100
    assert with_channels(red, 1).item() == 30
