"""Several processes that train one network: who this one is, and what they say to each other.

They are started by something else, which is read from the environment: `torchrun` (RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR, MASTER_PORT) or `srun` with more than one task (SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID,
SLURM_STEP_NODELIST). Numbers travel by NCCL between GPUs and by gloo between CPUs; what is no tensor goes by gloo.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from segkit.errors import ResourceError, SegkitError, UsageError

T = TypeVar("T")
R = TypeVar("R")

CONNECT_SECONDS = 120
WAIT_SECONDS = 3600
"""How long a process waits for the others: the first one writes and draws in between."""
LOST = re.compile(r"gloo|nccl|connection (was )?(closed|reset)|broken pipe|socket", re.IGNORECASE)
"""What torch's RuntimeErrors say where another process has ended."""


class Rank(NamedTuple):
    """Which process this is, of how many, which one on its machine, and where the first one listens."""

    rank: int
    processes: int
    local_rank: int
    address: str
    port: int


class Group:
    """The processes of a training; this class is the group of one, in which nothing is said to anybody.

    Attributes
    ----------
    rank, count
        Which process this is, from 0 on, and how many there are.
    """

    rank = 0
    count = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and tells the user."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes; gradients flow through it."""
        return tensor

    def largest(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        return number

    def map(self, function: Callable[[T], R], items: Sequence[T], on_item: Callable[[int], None]) -> list[R]:
        """Return function(item) of every item, in order; the processes divide the items among themselves.

        `on_item` is called with the number of items that are done, as far as this process knows.
        """
        results = []
        for number, item in enumerate(items, start=1):
            results.append(function(item))
            on_item(number)
        return results

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what the first process makes; the others do not call `make`. Its error is raised in all."""
        return make()

    def together(self, make: Callable[[], T]) -> T:
        """Return what each process makes for itself; if one fails, its error is raised in all, and told once."""
        return make()

    def told_once(self, error: SegkitError) -> SegkitError:
        """Return an error that all processes are about to raise, so that only the first one tells of it."""
        return error

    def share_buffers(self, network: nn.Module) -> None:
        """Give all processes the first one's buffers: batch norm gathers statistics of each one's own samples."""

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network as the training loop calls it, with gradients averaged over the processes."""
        return network

    def without_averaging(self, network: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which a wrapped network only adds up its own gradients."""
        return contextlib.nullcontext(network)


ALONE = Group()


class ProcessGroup(Group):
    """The processes of `torch.distributed`'s default group; see `Group`."""

    def __init__(self) -> None:
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
        # NCCL moves tensors on GPUs only.
        self._objects = distributed.new_group(backend="gloo", timeout=timedelta(seconds=WAIT_SECONDS))

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes; gradients flow through it."""
        # The backward pass adds the gradients of all processes, each of which holds the same loss: count times the
        # gradient, which averaging divides by count.
        summed: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
        return summed

    def largest(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        value = torch.tensor(number)
        distributed.all_reduce(value, distributed.ReduceOp.MAX, group=self._objects)
        return int(value.item())

    def map(self, function: Callable[[T], R], items: Sequence[T], on_item: Callable[[int], None]) -> list[R]:
        """Return function(item) of every item, in order; the processes divide the items among themselves."""
        own: list[R] = []
        for number, item in enumerate(items[self.rank :: self.count], start=1):
            own.append(function(item))
            on_item(min(number * self.count, len(items)))
        gathered: list[list[R]] = [[] for _ in range(self.count)]
        distributed.all_gather_object(gathered, own, group=self._objects)
        return [gathered[number % self.count][number // self.count] for number in range(len(items))]

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what the first process makes; the others do not call `make`. Its error is raised in all."""
        message: list[Any] = [None]
        if self.is_first:
            try:
                message = [(make(), None)]
            except Exception as error:
                distributed.broadcast_object_list([(None, _portable(error))], src=0, group=self._objects)
                raise
        distributed.broadcast_object_list(message, src=0, group=self._objects)
        result: T
        result, failure = message[0]
        if failure is not None:
            raise self.told_once(failure)
        return result

    def together(self, make: Callable[[], T]) -> T:
        """Return what each process makes for itself; if one fails, its error is raised in all, and told once."""
        failures: list[SegkitError | None] = [None] * self.count
        try:
            made = make()
        except Exception as error:
            distributed.all_gather_object(failures, _portable(error), group=self._objects)
            if any(failures[: self.rank]):  # most likely it is the same: one tells of it
                raise self.told_once(_portable(error)) from error
            raise
        distributed.all_gather_object(failures, None, group=self._objects)
        failure = next((one for one in failures if one is not None), None)
        if failure is not None:
            failure.is_told_elsewhere = True
            raise failure
        return made

    def told_once(self, error: SegkitError) -> SegkitError:
        """Return an error that all processes are about to raise, so that only the first one tells of it."""
        error.is_told_elsewhere = not self.is_first
        return error

    def share_buffers(self, network: nn.Module) -> None:
        """Give all processes the first one's buffers: batch norm gathers statistics of each one's own samples."""
        for buffer in network.buffers():
            distributed.broadcast(buffer, src=0)

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network as the training loop calls it, with gradients averaged over the processes."""
        return DistributedDataParallel(network)

    def without_averaging(self, network: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which a wrapped network only adds up its own gradients."""
        assert isinstance(network, DistributedDataParallel)
        return network.no_sync()


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        summed = tensor.detach().clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone()
        distributed.all_reduce(summed)
        return summed


@contextlib.contextmanager
def open_group(device: torch.device) -> Iterator[Group]:
    """Yield the group that this process belongs to, connected, as long as the block lasts.

    Raises
    ------
    UsageError
        The environment of torchrun or srun is incomplete.
    ResourceError
        The other processes cannot be reached, or one of them has ended.
    """
    place = rank_of(os.environ)
    if place is None:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{place.address}:{place.port}" if "TORCHELASTIC_RUN_ID" not in os.environ else "env://",
            rank=place.rank,
            world_size=place.processes,
            timeout=timedelta(seconds=WAIT_SECONDS),
        )
        group = ProcessGroup()
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"the {place.processes} processes of this training cannot reach each other at {place.address}:{place.port} "
            f"({' '.join(str(error).split())[:200]}). Is the port free, and reachable from all machines?"
        ) from error
    try:
        yield group
    except RuntimeError as error:
        if LOST.search(str(error)) is None:
            raise
        raise group.told_once(
            ResourceError(
                f"another of the {place.processes} processes of this training has ended. What it said is the cause; "
                "if it said nothing, it was killed, most likely because memory ran out. Go on with --resume."
            )
        ) from error
    finally:
        distributed.destroy_process_group()


def rank_of(environment: Mapping[str, str]) -> Rank | None:
    """Return which process of a training this is, as torchrun or srun tell it; None where there is only one.

    Raises
    ------
    UsageError
        The environment is incomplete or makes no sense.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        values = dict(zip(names, _needed(environment, names, "torchrun"), strict=True))
        place = Rank(
            _whole(values, "RANK"),
            _whole(values, "WORLD_SIZE"),
            _whole(values, "LOCAL_RANK"),
            values["MASTER_ADDR"],
            _whole(values, "MASTER_PORT"),
        )
    elif _whole(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
        values = dict(zip(names, _needed(environment, names, "srun"), strict=True))
        place = Rank(
            _whole(values, "SLURM_PROCID"),
            _whole(values, "SLURM_STEP_NUM_TASKS"),
            _whole(values, "SLURM_LOCALID"),
            environment.get("MASTER_ADDR") or first_node(values["SLURM_STEP_NODELIST"]),
            # Several jobs can share a machine; the job's number tells their ports apart.
            _whole(environment, "MASTER_PORT", 20_000 + _whole(values, "SLURM_JOB_ID") % 20_000),
        )
    else:
        return None
    if not 0 <= place.rank < place.processes:
        raise UsageError(
            f"the environment says that this is process {place.rank} of {place.processes}. Start it again."
        )
    return place


def count_processes(environment: Mapping[str, str]) -> int:
    """Return how many processes train together."""
    place = rank_of(environment)
    return 1 if place is None else place.processes


def processes_here(environment: Mapping[str, str]) -> int:
    """Return how many of them are on this machine."""
    if "TORCHELASTIC_RUN_ID" in environment:
        return _whole(environment, "LOCAL_WORLD_SIZE", 1)
    # `4(x2),3`: the tasks of each node; the first stands for all.
    found = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return int(found[0]) if found and count_processes(environment) > 1 else 1


def first_node(nodes: str) -> str:
    """Return the first name of a SLURM node list such as `gpu[03-05,9],cpu1`."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?", nodes)
    if found is None:
        raise UsageError(f"SLURM_STEP_NODELIST = {nodes}: is no list of nodes. Set MASTER_ADDR to the first one.")
    return found[1] + (found[2] or "")


def _portable(error: Exception) -> SegkitError:
    """Return an error that can be sent to another process."""
    return error if isinstance(error, SegkitError) else SegkitError(f"{type(error).__name__}: {error}")


def _needed(environment: Mapping[str, str], names: Sequence[str], starter: str) -> list[str]:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UsageError(f"this process looks like one of several that {starter} started, but lacks {missing[0]}.")
    return [environment[name] for name in names]


def _whole(values: Mapping[str, str], name: str, otherwise: int = 0) -> int:
    try:
        return int(values.get(name) or otherwise)
    except ValueError as error:
        raise UsageError(f"{name} = {values[name]!r}: is no whole number.") from error
