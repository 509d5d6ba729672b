"""Which parts of which slides this process works on, when several share the work.

Workers never talk about results: each writes parts into the same folder, and whoever finds all parts of a slide there
joins them. So a share only says which parts to compute, and a part that two workers compute costs time, not
correctness. Who this worker is comes from `--shard I/N` or from what started the process (`current_share`):

====================== ===================================== ==================================================
started by             read from the environment             share
====================== ===================================== ==================================================
`--shard I/N`          nothing                               run I of N (wins over SLURM and Kubernetes)
SLURM job array        `SLURM_ARRAY_TASK_ID`, `_MIN`,        one run of parts for each task of the array
                       `_MAX`, `_STEP`, `_COUNT`
`srun -n N`, N > 1     `SLURM_STEP_NUM_TASKS`,               one run for each task; in a job array, each task of
                       `SLURM_PROCID`                        the array is divided among the tasks of its step
Kubernetes indexed Job `JOB_COMPLETION_INDEX`,               one run for each index. Kubernetes does not tell how
                       `SEGKIT_SHARDS` (`JOB_COMPLETIONS`)   many there are: the manifest has to set it
torchrun               `TORCHELASTIC_RUN_ID`, `RANK`,        parts are drawn one by one, within the run of the
                       `WORLD_SIZE`, `MASTER_ADDR`, ...      shard, job array or indexed Job, if there is one
====================== ===================================== ==================================================

`SLURM_NTASKS` alone says nothing: a batch script sees it, too, and starts its command once. `SLURM_STEP_NUM_TASKS` is
set by `srun` alone. Under torchrun the tasks of the step are its nodes, so they are not counted again.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from torch import distributed

from segkit.errors import ResourceError, UsageError

CONNECT_SECONDS = 60


class Share(Protocol):
    """The part of the work that falls to this process."""

    number: int  # of this worker, from 1
    count: int  # of workers

    def describe(self) -> str:
        """Return who this is, e.g. `worker 2 of 8 (SLURM job array)`."""

    def parts(self, slide: str, weights: Sequence[int], before: int, total: int) -> Iterator[int]:
        """Yield the numbers of the parts of a slide that this worker computes, if they are not finished yet.

        Every worker has to give the same arguments, whenever it starts and whatever is finished by then.

        Parameters
        ----------
        slide
            What tells the slide from the others, e.g. its name.
        weights
            How much work each of the slide's parts is, e.g. its number of cells with tissue; 0 or more.
        before
            Sum of the weights of all parts of earlier slides.
        total
            Sum of the weights of all parts of all slides.

        Raises
        ------
        ResourceError
            The store that the workers draw from is gone.
        """


class Solo:
    """The share of the only worker: everything."""

    number = 1
    count = 1

    def describe(self) -> str:
        """Return who this is."""
        return "the only worker"

    def parts(self, slide: str, weights: Sequence[int], before: int, total: int) -> Iterator[int]:  # noqa: ARG002
        """Yield every part."""
        yield from range(len(weights))


class ArrayShare:
    """A fixed share: the parts of all slides in a row are cut into `count` runs of nearly the same weight.

    A part belongs to the run that the middle of its weight falls into, so the weight of a run differs from the ideal
    one by at most the weight of the heaviest part. Neighbouring parts stay together: few workers work on a slide.

    Parameters
    ----------
    number, count
        Which run this is, from 1, and of how many.
    origin
        What made it so, for people, e.g. `SLURM job array`.
    """

    def __init__(self, number: int, count: int, origin: str = "--shard") -> None:
        if not 1 <= number <= count:
            raise UsageError(f"{origin}: there is no worker {number} of {count}. They are counted from 1 to {count}.")
        self.number = number
        self.count = count
        self._origin = origin

    def describe(self) -> str:
        """Return who this is."""
        return f"worker {self.number} of {self.count} ({self._origin})"

    def parts(self, slide: str, weights: Sequence[int], before: int, total: int) -> Iterator[int]:  # noqa: ARG002
        """Yield the parts that belong to this run, in order."""
        starts = itertools.accumulate(weights, initial=before)
        for part, (weight, start) in enumerate(zip(weights, starts, strict=False)):
            # Whole numbers throughout: every worker has to come to the same result. A part without weight may lie at
            # the very end, past the last run.
            twice_the_middle = 2 * start + weight
            run = min(twice_the_middle * self.count // max(2 * total, 1), self.count - 1)
            if run == self.number - 1:
                yield part


class Store(Protocol):
    """What `StoreShare` needs of a store of torch.distributed."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to the counter `key`, which begins at 0, and return what it is then."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Set `key` to `desired` if it is `expected` ("": not set yet) and return what it is then."""


class StoreShare:
    """A share that is drawn part by part from a store of the process group, so that a slow worker holds nobody up.

    A counter in the store gives out the parts, and each drawn part is claimed under the worker's number. torchrun's
    store outlives the workers: when torchrun starts them again after one has died, the counter goes on from where it
    was, and what the dead ones had drawn would be left out. So a worker first yields again what an earlier worker of
    its number had claimed, and what nobody had claimed between drawing and claiming. Finished parts among them cost
    nothing. (The number of restarts cannot be used to begin anew: it is not the same on all nodes.)

    Parameters
    ----------
    store
        A store that all workers of the group see.
    rank, size
        The number of this worker in its group, from 0, and how many there are.
    within
        What the group as a whole has to do.
    """

    def __init__(self, store: Store, rank: int, size: int, within: Share | None = None) -> None:
        if not 0 <= rank < size:
            raise UsageError(f"torchrun: RANK is {rank} and WORLD_SIZE {size}. Ranks go from 0 to {size - 1}.")
        self._within = within or Solo()
        self.number = (self._within.number - 1) * size + rank + 1
        self.count = self._within.count * size
        self._store = store
        self._rank = rank
        self._size = size
        # Claims of a group of another size are of no use to this one: not every number in it has a successor.
        self._prefix = f"segkit/{size}"
        self._is_successor = self._add(f"{self._prefix}/started/{rank}", 1) > 1

    def describe(self) -> str:
        """Return who this is."""
        name = f"worker {self._rank + 1} of {self._size} (torchrun)"
        return name if isinstance(self._within, Solo) else f"{name} of {self._within.describe()}"

    def parts(self, slide: str, weights: Sequence[int], before: int, total: int) -> Iterator[int]:
        """Draw parts until there are none left."""
        candidates = list(self._within.parts(slide, weights, before, total))
        # The number of parts is in the name because two commands in one script may cut a slide differently.
        prefix = f"{self._prefix}/{len(weights)}/{slide}"
        if self._is_successor:
            drawn = min(self._add(f"{prefix}/drawn", 0), len(candidates))
            yield from (candidates[draw] for draw in range(drawn) if self._claim(f"{prefix}/claim/{draw}"))
        while (draw := self._add(f"{prefix}/drawn", 1) - 1) < len(candidates):
            if self._claim(f"{prefix}/claim/{draw}"):
                yield candidates[draw]

    def _add(self, key: str, amount: int) -> int:
        try:
            return self._store.add(key, amount)
        except distributed.DistError as error:
            raise _lost_store(error) from error

    def _claim(self, key: str) -> bool:
        """Return whether `key` belongs to this worker's number, which it does if nobody had it."""
        mine = f"rank {self._rank}"
        try:
            return self._store.compare_set(key, "", mine) == mine.encode()
        except distributed.DistError as error:
            raise _lost_store(error) from error


def current_share(shard: str | None, environ: Mapping[str, str]) -> Share:
    """Return the share of this process.

    Parameters
    ----------
    shard
        The value of `--shard`, e.g. `3/8`, or None.
    environ
        The environment of the process; the table at the top says what is read of it.

    Raises
    ------
    UsageError
        `shard` is malformed, or the environment contradicts itself.
    ResourceError
        torchrun's store cannot be reached.
    """
    fixed = _fixed_share(shard, environ)
    if "TORCHELASTIC_RUN_ID" not in environ:
        return fixed
    rank, size = _integer(environ, "RANK", "torchrun"), _integer(environ, "WORLD_SIZE", "torchrun")
    return fixed if size == 1 else StoreShare(_torchrun_store(environ), rank, size, fixed)


def local_rank(environ: Mapping[str, str]) -> int:
    """Return which of the workers on this machine this is, from 0: the number of the GPU to take, if all are seen.

    Raises
    ------
    UsageError
        The environment contradicts itself.
    """
    if "TORCHELASTIC_RUN_ID" in environ:
        return _integer(environ, "LOCAL_RANK", "torchrun")
    if _tasks_of_step(environ) > 1:
        return _integer(environ, "SLURM_LOCALID", "srun")
    return 0


def _fixed_share(shard: str | None, environ: Mapping[str, str]) -> Share:
    """Return the share that is known before work begins."""
    under_torchrun = "TORCHELASTIC_RUN_ID" in environ
    if shard is not None:
        return _share_of_flag(shard)
    if "SLURM_ARRAY_TASK_ID" in environ or (_tasks_of_step(environ) > 1 and not under_torchrun):
        return _share_of_slurm(environ, under_torchrun)
    if "JOB_COMPLETION_INDEX" in environ or "SEGKIT_SHARDS" in environ:
        return _share_of_kubernetes(environ, under_torchrun)
    return Solo()


def _share_of_flag(shard: str) -> Share:
    matched = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    number, count = (int(matched[1]), int(matched[2])) if matched else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"--shard {shard}: is not one of N workers. Give I/N with I from 1 to N, e.g. --shard 3/8.")
    return ArrayShare(number, count)


def _share_of_slurm(environ: Mapping[str, str], under_torchrun: bool) -> Share:
    index, count, origins = 0, 1, []
    if "SLURM_ARRAY_TASK_ID" in environ:
        index, count = _place_in_slurm_array(environ)
        origins.append("SLURM job array")
    tasks = 1 if under_torchrun else _tasks_of_step(environ)
    if tasks > 1:
        rank = _integer(environ, "SLURM_PROCID", "srun")
        if rank >= tasks:
            raise UsageError(
                f"srun: SLURM_PROCID is {rank} and SLURM_STEP_NUM_TASKS {tasks}. Tasks go from 0 to {tasks - 1}; "
                "say which worker this is with --shard I/N."
            )
        index, count = index * tasks + rank, count * tasks
        origins.append("srun")
    return ArrayShare(index + 1, count, " and ".join(origins)) if count > 1 else Solo()


def _place_in_slurm_array(environ: Mapping[str, str]) -> tuple[int, int]:
    """Return the number of this task in its job array, from 0, and how many tasks that has."""
    task, first, last, step, count = (
        _integer(environ, f"SLURM_ARRAY_TASK_{name}", "SLURM job array")
        for name in ("ID", "MIN", "MAX", "STEP", "COUNT")
    )
    tasks = range(first, last + 1, max(step, 1))
    if count != len(tasks) or task not in tasks:
        # Of a list such as 1,3,7 SLURM tells its ends and its length only.
        raise UsageError(
            f"SLURM job array: task {task} of {count} tasks from {first} to {last} in steps of {step} has no certain "
            "place. Submit the whole array again (finished parts are not computed again), with a plain range such as "
            '--array=1-8, or say which worker this is: --shard "$SLURM_ARRAY_TASK_ID/8".'
        )
    return tasks.index(task), count


def _tasks_of_step(environ: Mapping[str, str]) -> int:
    """Return how many tasks `srun` has started, 1 where it has not."""
    return _integer(environ, "SLURM_STEP_NUM_TASKS", "srun") if "SLURM_STEP_NUM_TASKS" in environ else 1


def _share_of_kubernetes(environ: Mapping[str, str], under_torchrun: bool) -> Share:
    origin = "Kubernetes indexed Job"
    name = "SEGKIT_SHARDS" if "SEGKIT_SHARDS" in environ else "JOB_COMPLETIONS"
    if name not in environ:
        if under_torchrun:
            return Solo()  # the pods are the nodes of one torchrun
        raise UsageError(
            f"{origin}: JOB_COMPLETION_INDEX is {environ['JOB_COMPLETION_INDEX']}, and nothing says of how many. Set "
            "SEGKIT_SHARDS to the Job's completions in the container's env (1: this pod does everything)."
        )
    if "JOB_COMPLETION_INDEX" not in environ:
        raise UsageError(
            f"SEGKIT_SHARDS is {environ['SEGKIT_SHARDS']}, and nothing says which of them this is. Set the Job's "
            "completionMode to Indexed, or give --shard I/N."
        )
    if under_torchrun and _integer(environ, "GROUP_WORLD_SIZE", "torchrun") > 1:
        raise UsageError(
            f"torchrun: its workers are on several nodes, and {name} says that each pod has a share of its own. Remove "
            f"{name} from the container's env, or start torchrun with --nnodes 1."
        )
    index, count = _integer(environ, "JOB_COMPLETION_INDEX", origin), _integer(environ, name, origin)
    if index >= count:
        raise UsageError(
            f"{origin}: JOB_COMPLETION_INDEX is {index} and {name} {count}. Set {name} to the Job's completions."
        )
    return ArrayShare(index + 1, count, origin) if count > 1 else Solo()


def _torchrun_store(environ: Mapping[str, str]) -> Store:
    """Return a connection to the store of torchrun's first node."""
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise UsageError(
            "torchrun keeps no store that lasts as long as its workers (TORCHELASTIC_USE_AGENT_STORE is not True). "
            "Start it with --standalone or --rdzv-backend c10d and without TORCH_DISABLE_SHARE_RDZV_TCP_STORE, or "
            "share the work with --shard I/N instead."
        )
    if "MASTER_ADDR" not in environ:
        raise UsageError("torchrun: MASTER_ADDR is not set. Start segkit through torchrun.")
    port = _integer(environ, "MASTER_PORT", "torchrun")
    try:
        store: Store = distributed.TCPStore(  # type: ignore[attr-defined]  # documented, and not in torch's __all__
            environ["MASTER_ADDR"],
            port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=CONNECT_SECONDS),
        )
    except distributed.DistError as error:
        raise ResourceError(
            f"torchrun: its store at {environ['MASTER_ADDR']}, port {port}, cannot be reached ({_first_line(error)}). "
            "Check that the nodes see each other, then run the same command again."
        ) from error
    return store


def _lost_store(error: Exception) -> ResourceError:
    return ResourceError(
        f"torchrun: the connection to its store, on its first node, is lost ({_first_line(error)}). Run the same "
        "command again: finished parts are kept."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _integer(environ: Mapping[str, str], name: str, origin: str) -> int:
    """Return the variable `name`, a whole number of 0 or more."""
    value = environ.get(name)
    if value is None or not re.fullmatch(r"[0-9]{1,18}", value):
        found = "is not set" if value is None else f"is {value!r}"
        raise UsageError(f"{origin}: {name} {found}, and a whole number is needed. Or give --shard I/N.")
    return int(value)
