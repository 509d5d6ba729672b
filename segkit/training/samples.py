"""Training samples: sample i of step s is a pure function of (seed, s, i), whoever computes it."""

import contextlib
import multiprocessing.connection
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segkit.data.augment import Augmenter
from segkit.data.sampling import sample_rng
from segkit.errors import ResourceError
from segkit.training.distributed import processes_here
from segkit.training.loading import fit_shared_memory


class Batch(NamedTuple):
    """`images` uint8 (B, C, H, W) and `targets` uint8 (B, P, H, W).

    Plane 0 of the targets holds class indices, `IGNORE` where nothing counts; the others hold values 0..255.
    """

    images: Tensor
    targets: Tensor


class Source(Protocol):
    """Where patches come from: `PatchSource` for masks, `PointSource` for points."""

    def draw(self, rng: np.random.Generator, context_px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image (H, W, C) and target (H, W, P), uint8, of `context_px` pixels around a drawn patch."""


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Patches, indexed by (step, number in the batch, whether they are augmented)."""

    def __init__(self, source: Source, augmenter: Augmenter, seed: int) -> None:
        self._source = source
        self._augmenter = augmenter
        self._seed = seed

    def __getitem__(self, index: tuple[int, int, bool]) -> tuple[Tensor, Tensor]:
        step, number, is_augmented = index
        image, target = self.draw(step, number) if is_augmented else self.context(step, number)
        return _planes_first(image), _planes_first(target)

    def draw(self, step: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return sample `number` of `step`: image uint8 (H, W, C) and target uint8 (H, W, P)."""
        rng = sample_rng(self._seed, step, number)
        image, target = self._source.draw(rng, self._augmenter.context_px)
        return self._augmenter.apply(image, target, int(rng.integers(2**32)))

    def context(self, step: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return what `draw` augments: image and target of the augmenter's `context_px`; they may be views."""
        return self._source.draw(sample_rng(self._seed, step, number), self._augmenter.context_px)


@contextlib.contextmanager
def open_batches(
    samples: Samples,
    *,
    first_step: int,
    last_step: int,
    numbers: Sequence[int],
    workers: int,
    pin_memory: bool,
    augmented: bool = True,
) -> Iterator[Iterator[Batch]]:
    """Yield the batches of steps first_step .. last_step - 1, in order, whatever the number of workers.

    Parameters
    ----------
    samples
        What batches are made of.
    first_step, last_step
        Steps of the run.
    numbers
        Which samples of each step's batch: all, or those of one of several processes.
    workers
        Processes that prepare batches; 0: the caller's own does, when it asks for one. Where /dev/shm, through which
        batches travel, has room for fewer (64 MB in a container), there are fewer.
    pin_memory
        Put batches where a GPU can fetch them from while the processor goes on.
    augmented
        False: contexts are yielded, which the device changes.

    Raises
    ------
    ResourceError
        A worker was killed, which the operating system does when memory runs out.
    """
    prefetch = None
    if workers and first_step < last_step:
        shapes = samples[first_step, numbers[0], augmented]
        workers, prefetch = fit_shared_memory(
            workers, len(numbers) * sum(one.nbytes for one in shapes), processes=processes_here(os.environ)
        )
    loader = DataLoader(
        samples,
        batch_sampler=_Indices(first_step, last_step, numbers, augmented),
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker if workers else None,
    )
    iterator: Any = iter(loader)
    try:
        yield (Batch(images, targets) for images, targets in iterator)
    except (RuntimeError, OSError, EOFError) as error:
        # torch tells of a dead worker wherever the main thread just is, and reads from it fail in several ways.
        number = _signal_that_killed(getattr(iterator, "_workers", ()), patience=isinstance(error, OSError | EOFError))
        if number is not None:
            raise ResourceError(
                f"a loader process was killed by signal {number}, most likely because memory ran out. Go on with "
                "--resume and fewer workers (--set workers=0 needs least), or on a machine with more memory."
            ) from error
        raise
    finally:
        # Not left to the garbage collector: the traceback of an error keeps the iterator alive, and Python waits for
        # its workers, which know of no end, before it exits.
        if workers:
            with contextlib.suppress(RuntimeError):  # it may tell of the dead worker again
                iterator._shutdown_workers()


class _Indices(Sampler[list[tuple[int, int, bool]]]):
    """The samples' indices, batch by batch; a list of all of them would take 100 MB in a long training."""

    def __init__(self, first_step: int, last_step: int, numbers: Sequence[int], augmented: bool) -> None:
        self._steps, self._numbers, self._augmented = range(first_step, last_step), numbers, augmented

    def __iter__(self) -> Iterator[list[tuple[int, int, bool]]]:
        for step in self._steps:
            yield [(step, number, self._augmented) for number in self._numbers]

    def __len__(self) -> int:
        return len(self._steps)


def _planes_first(array: NDArray[np.uint8]) -> Tensor:
    # Always a copy: a context may be a view of an image, or of a file that is mapped read only.
    return torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C"))


def _signal_that_killed(workers: Sequence[Any], *, patience: bool) -> int | None:
    """Return the signal that killed a worker, None where none was.

    With `patience` a moment is waited: reads from a dying process fail before it can be seen that it is dead.
    """
    with contextlib.suppress(RuntimeError):  # torch's own word of the death, once that can be seen
        for sentinel in multiprocessing.connection.wait([one.sentinel for one in workers], 1.0 if patience else 0.0):
            next(one for one in workers if one.sentinel == sentinel).join()
    return next((-one.exitcode for one in workers if (one.exitcode or 0) < 0), None)


def _start_worker(_: int) -> None:
    import signal

    import cv2

    # The parent decides what a signal means; a worker that dies first would make it fail instead of save.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker's errors travel to the parent; what is left to print is that the parent has gone.
    sys.excepthook = _say_nothing
    cv2.setNumThreads(0)


def _say_nothing(*_: object) -> None:
    pass
