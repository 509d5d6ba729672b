"""How many processes prepare training samples, and what to do where the network waits for them."""

import contextlib
import math
import os
import shutil
from pathlib import Path
from typing import Final

MOST_WORKERS: Final = 8
PREFETCH: Final = 2  # batches that a worker is ahead
WAIT_SHARE: Final = 0.05
"""Share of a training's time spent on waiting for samples from which something should be done about it."""


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: its affinity, and the quota of its control group (Docker's --cpus).

    Parameters
    ----------
    root
        The folder that holds `sys`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    group = root / "sys/fs/cgroup"
    # Of control groups version 2, then 1; as a container sees them.
    for files in ([group / "cpu.max"], [group / "cpu/cpu.cfs_quota_us", group / "cpu/cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or no quota (`max`)
            quota, period = (int(word) for path in files for word in path.read_text(encoding="ascii").split())
            if quota > 0:
                cores = min(cores, math.ceil(quota / period))
    return max(cores, 1)


def choose_workers(device: str, *, processes: int = 1, cores: int | None = None) -> int:
    """Return how many workers each training process should have.

    By cores, and not by a measurement: so it is the same at every start, and the samples are the same for any number.
    On a GPU every core but the one that launches its work, up to 8. Where the network computes on the processor, a
    quarter of the cores: workers take them from it, and with 2 or 3 cores each gets in the other's way. What they can
    gain is small there: with the usual U-Net 8 samples take 35 ms of a step's 4 s (2 cores), with a patch CNN a
    quarter of its time.

    Parameters
    ----------
    device
        `cpu`, `cuda` or another of torch's names.
    processes
        Training processes on this machine.
    cores
        That may be used; None: `usable_cores`.
    """
    share = (cores or usable_cores()) // processes
    return min(MOST_WORKERS, share // 4 if device == "cpu" else max(1, share - 1))


def fit_shared_memory(
    workers: int, batch_bytes: int, free: int | None = None, *, processes: int = 1
) -> tuple[int, int]:
    """Return workers and batches that each is ahead, so that finished batches fill at most half of /dev/shm.

    Parameters
    ----------
    workers
        That are wanted.
    batch_bytes
        Size of a batch.
    free
        Bytes free there; None: found out.
    processes
        Training processes on this machine, each with as many workers.
    """
    if free is None:
        try:
            free = shutil.disk_usage("/dev/shm").free
        except OSError:
            return workers, PREFETCH  # macOS
    batches = free // (2 * processes * max(batch_bytes, 1))
    # One more than is ahead is on its way to the caller.
    for prefetch in range(PREFETCH, 0, -1):
        if workers * (prefetch + 1) <= batches:
            return workers, prefetch
    return int(batches // 2), 1


def waiting_advice(share: float, *, workers: int, cores: int, device: str, on_device: bool) -> str | None:
    """Return what to do about waiting for samples, None where it is not worth it.

    Parameters
    ----------
    share
        Of the training's time that was spent on waiting.
    workers, cores
        Processes that prepare samples, and cores for them.
    device
        Where the network computes.
    on_device
        Whether samples are augmented there, too.
    """
    if share <= WAIT_SHARE:
        return None
    remedies = []
    if device != "cpu" and not on_device:
        remedies.append("augment.backend=device")
    if device != "cpu" and workers < cores - 1:
        remedies.append(f"workers={min(2 * max(workers, 1), cores - 1)}")
    if device == "cpu" and not workers and cores > 1:
        remedies.append("workers=1")
    remedies.append("smaller augment.elastic_px, augment.blur_px and augment.noise (0: none)")
    return f"{share:.0%} of the training's time was spent on waiting for samples. Try {', or '.join(remedies)}."
