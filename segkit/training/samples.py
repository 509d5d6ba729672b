"""Training samples: sample i of step s is a pure function of (seed, s, i), whoever computes it."""

import contextlib
import multiprocessing.connection
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segkit.data.augment import Augmenter
from segkit.data.sampling import sample_rng
from segkit.errors import ResourceError


class Batch(NamedTuple):
    """`images` uint8 (B, C, H, W) and `masks` uint8 (B, H, W) of class indices."""

    images: Tensor
    masks: Tensor


class Source(Protocol):
    """Where patches come from: `PatchSource` for masks, `PointSource` for points."""

    def draw(self, rng: np.random.Generator, context_px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image (H, W, C) and mask (H, W), uint8, of `context_px` pixels around a drawn patch."""


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Augmented patches, indexed by (step, number in the batch)."""

    def __init__(self, source: Source, augmenter: Augmenter, seed: int) -> None:
        self._source = source
        self._augmenter = augmenter
        self._seed = seed

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, Tensor]:
        image, mask = self.draw(*index)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(mask)

    def draw(self, step: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return sample `number` of `step`: image uint8 (H, W, C) and mask uint8 (H, W)."""
        rng = sample_rng(self._seed, step, number)
        image, mask = self._source.draw(rng, self._augmenter.context_px)
        return self._augmenter.apply(image, mask, int(rng.integers(2**32)))


@contextlib.contextmanager
def open_batches(
    samples: Samples, *, first_step: int, last_step: int, batch: int, workers: int, pin_memory: bool
) -> Iterator[Iterator[Batch]]:
    """Yield the batches of steps first_step .. last_step - 1, in order, whatever the number of workers.

    Raises
    ------
    ResourceError
        A worker was killed, which the operating system does when memory runs out.
    """
    loader = DataLoader(
        samples,
        batch_sampler=[[(step, number) for number in range(batch)] for step in range(first_step, last_step)],
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker if workers else None,
    )
    iterator: Any = iter(loader)
    try:
        yield (Batch(images, masks) for images, masks in iterator)
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
