"""Who does what when several share the work: nothing is left out, nothing is done twice, whoever dies."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed

from segkit.errors import ResourceError, UsageError
from segkit.workflows import sharing
from segkit.workflows.sharing import ArrayShare, Share, Solo, StoreShare, current_share, local_rank

ARRAY_2_OF_3 = {
    "SLURM_ARRAY_TASK_ID": "6",
    "SLURM_ARRAY_TASK_MIN": "4",
    "SLURM_ARRAY_TASK_MAX": "8",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "3",
}
SRUN_4_OF_5 = {"SLURM_NTASKS": "5", "SLURM_STEP_NUM_TASKS": "5", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
POD_1_OF_4 = {"JOB_COMPLETION_INDEX": "0", "SEGKIT_SHARDS": "4"}
TORCHRUN_2_OF_2 = {
    "TORCHELASTIC_RUN_ID": "some",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "GROUP_WORLD_SIZE": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "1",
}


class Killed(BaseException):
    """The worker died here."""


class FakeStore:
    """torch.distributed's store in a dict; the worker that claims something dies first where `dies` is set."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.values: dict[str, str] = {}
        self.dies = False

    def add(self, key: str, amount: int) -> int:
        self.counters[key] += amount
        return self.counters[key]

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        if self.dies:
            self.dies = False
            raise Killed
        if self.values.get(key, "") == expected:
            self.values[key] = desired
        return self.values[key].encode()


def parts_of_slides(share: Share, slides: Mapping[str, list[int]]) -> Iterator[tuple[str, int]]:
    """Go through slides as a worker does."""
    total = sum(sum(weights) for weights in slides.values())
    before = 0
    for name, weights in slides.items():
        yield from ((name, part) for part in share.parts(name, weights, before, total))
        before += sum(weights)


def all_parts(slides: Mapping[str, list[int]]) -> list[tuple[str, int]]:
    return [(name, part) for name, weights in slides.items() for part in range(len(weights))]


SLIDES = st.lists(st.lists(st.integers(0, 1000), max_size=12), max_size=5).map(
    lambda slides: {f"slide {number}": weights for number, weights in enumerate(slides)}
)


@settings(deadline=None, max_examples=50)
@given(slides=SLIDES, count=st.integers(1, 9))
def test_fixed_shares_are_disjoint_covering_runs_of_nearly_the_same_weight(
    slides: dict[str, list[int]], count: int
) -> None:
    runs = [list(parts_of_slides(ArrayShare(number, count), slides)) for number in range(1, count + 1)]
    everything = all_parts(slides)
    weighing = [part for part in everything if slides[part[0]][part[1]]]
    # In order, one after the other: but for parts without weight, which may fall to anyone once.
    assert [part for run in runs for part in run if part in weighing] == weighing
    assert sorted(part for run in runs for part in run) == sorted(everything)
    ideal = sum(sum(weights) for weights in slides.values()) / count
    heaviest = max((weight for weights in slides.values() for weight in weights), default=0)
    for run in runs:
        assert abs(sum(slides[name][part] for name, part in run) - ideal) <= heaviest


def test_equal_parts_are_shared_equally() -> None:
    slides = {"a": [7] * 5, "b": [7] * 7}
    assert [len(list(parts_of_slides(ArrayShare(number, 4), slides))) for number in (1, 2, 3, 4)] == [3, 3, 3, 3]


def test_the_only_worker_does_everything() -> None:
    slides = {"a": [0, 3], "b": [], "c": [1]}
    assert list(parts_of_slides(Solo(), slides)) == all_parts(slides)


@settings(deadline=None, max_examples=50)
@given(slides=SLIDES, size=st.integers(1, 4), turns=st.lists(st.integers(0, 3), max_size=200))
def test_drawn_shares_give_each_part_once_whoever_is_faster(
    slides: dict[str, list[int]], size: int, turns: list[int]
) -> None:
    store = FakeStore()
    workers = [parts_of_slides(StoreShare(store, rank, size), slides) for rank in range(size)]
    drawn = [part for turn in turns if (part := next(workers[turn % size], None)) is not None]
    for worker in workers:
        drawn += worker
    assert sorted(drawn) == sorted(all_parts(slides))


@settings(deadline=None, max_examples=50)
@given(
    slides=SLIDES,
    size=st.integers(1, 4),
    turns=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["works", "works", "works", "dies at work", "dies at claiming"])),
        max_size=80,
    ),
    all_start_again=st.booleans(),
)
def test_what_dead_workers_had_drawn_is_drawn_again(
    slides: dict[str, list[int]], size: int, turns: list[tuple[int, str]], all_start_again: bool
) -> None:
    # On one node torchrun starts all workers again, with fixed nodes (--node-rank) only those of one node.
    store = FakeStore()
    finished: list[tuple[str, int]] = []

    def worker(rank: int) -> Iterator[None]:
        for part in parts_of_slides(StoreShare(store, rank, size), slides):
            if part in finished:
                continue
            yield  # at work
            finished.append(part)

    workers = [worker(rank) for rank in range(size)]
    for number, fate in turns:
        rank = number % size
        store.dies = fate == "dies at claiming"
        dead = fate == "dies at work"
        try:
            next(workers[rank], None)
        except Killed:
            dead = True
        store.dies = False
        if dead:
            for one in range(size) if all_start_again else [rank]:
                workers[one].close()
                workers[one] = worker(one)
    for one in workers:
        for _ in one:
            pass
    assert sorted(finished) == sorted(all_parts(slides))
    assert len(set(finished)) == len(finished)


def test_a_successor_leaves_the_claims_of_the_living_alone() -> None:
    store = FakeStore()
    living = StoreShare(store, 0, 2).parts("slide", [1] * 5, 0, 5)
    dying = StoreShare(store, 1, 2).parts("slide", [1] * 5, 0, 5)
    assert [next(living), next(dying), next(living)] == [0, 1, 2]
    assert list(StoreShare(store, 1, 2).parts("slide", [1] * 5, 0, 5)) == [1, 3, 4]
    assert list(living) == []


def test_a_part_that_a_successor_takes_between_drawing_and_claiming_is_given_once() -> None:
    class SlowStore(FakeStore):
        """The worker of rank 0 is so slow to claim that another one starts and does everything before."""

        def compare_set(self, key: str, expected: str, desired: str) -> bytes:
            if desired == "rank 0" and not overtaken:
                overtaken.append(-1)
                overtaken.extend(StoreShare(self, 1, 2).parts("slide", [1] * 3, 0, 3))
            return super().compare_set(key, expected, desired)

    overtaken: list[int] = []
    store = SlowStore()
    StoreShare(store, 1, 2)  # the one that died
    assert list(StoreShare(store, 0, 2).parts("slide", [1] * 3, 0, 3)) == []
    assert overtaken == [-1, 0, 1, 2]


def test_workers_of_a_group_within_a_fixed_share_draw_that_share_only() -> None:
    slides = {"a": [1] * 6, "b": [1] * 6}
    drawn = []
    for number in (1, 2, 3):
        store = FakeStore()  # each has its own torchrun
        for rank in (0, 1):
            share = StoreShare(store, rank, 2, ArrayShare(number, 3, "SLURM job array"))
            drawn += [(number, *part) for part in parts_of_slides(share, slides)]
    assert [part for _, *part in drawn] == [list(part) for part in all_parts(slides)]
    assert Counter(number for number, *_ in drawn) == {1: 4, 2: 4, 3: 4}
    assert share.describe() == "worker 2 of 2 (torchrun) of worker 3 of 3 (SLURM job array)"
    assert (share.number, share.count) == (6, 6)


def test_a_second_command_in_the_same_script_draws_anew_where_the_slide_is_cut_differently() -> None:
    store = FakeStore()
    for length in (2, 9):
        shares = [StoreShare(store, rank, 2) for rank in (0, 1)]
        drawn = [part for share in shares for part in share.parts("slide", [1] * length, 0, length)]
        assert sorted(drawn) == list(range(length))


@pytest.mark.parametrize(
    ("shard", "environ", "expected"),
    [
        (None, {}, "the only worker"),
        ("3/8", {}, "worker 3 of 8 (--shard)"),
        ("1/1", {}, "worker 1 of 1 (--shard)"),
        (None, ARRAY_2_OF_3, "worker 2 of 3 (SLURM job array)"),
        (None, SRUN_4_OF_5, "worker 4 of 5 (srun)"),
        (None, ARRAY_2_OF_3 | SRUN_4_OF_5, "worker 9 of 15 (SLURM job array and srun)"),
        # A batch script, or salloc's shell, that starts segkit once.
        (None, {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, "the only worker"),
        (None, {"SLURM_NTASKS": "5", "SLURM_PROCID": "0"}, "the only worker"),
        (None, {"SLURM_NTASKS": "5", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, "the only worker"),
        # A task of an array that was submitted again alone.
        (
            None,
            {f"SLURM_ARRAY_TASK_{name}": "3" for name in ("ID", "MIN", "MAX")}
            | {"SLURM_ARRAY_TASK_STEP": "0", "SLURM_ARRAY_TASK_COUNT": "1"},
            "the only worker",
        ),
        (None, POD_1_OF_4, "worker 1 of 4 (Kubernetes indexed Job)"),
        (None, {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}, "worker 3 of 3 (Kubernetes indexed Job)"),
        (None, POD_1_OF_4 | {"JOB_COMPLETIONS": "9"}, "worker 1 of 4 (Kubernetes indexed Job)"),
        (None, {"JOB_COMPLETION_INDEX": "0", "SEGKIT_SHARDS": "1"}, "the only worker"),
        (None, {"JOB_COMPLETIONS": "3"}, "the only worker"),
        # The flag wins, also over what could not be understood; SLURM wins over Kubernetes.
        ("3/8", ARRAY_2_OF_3 | SRUN_4_OF_5 | POD_1_OF_4, "worker 3 of 8 (--shard)"),
        ("3/8", {"JOB_COMPLETION_INDEX": "7"}, "worker 3 of 8 (--shard)"),
        (None, ARRAY_2_OF_3 | POD_1_OF_4, "worker 2 of 3 (SLURM job array)"),
        # torchrun draws within the fixed share; srun's tasks are its nodes.
        (None, TORCHRUN_2_OF_2, "worker 2 of 2 (torchrun)"),
        (None, TORCHRUN_2_OF_2 | SRUN_4_OF_5, "worker 2 of 2 (torchrun)"),
        (
            None,
            TORCHRUN_2_OF_2 | SRUN_4_OF_5 | ARRAY_2_OF_3,
            "worker 2 of 2 (torchrun) of worker 2 of 3 (SLURM job array)",
        ),
        ("3/8", TORCHRUN_2_OF_2 | ARRAY_2_OF_3, "worker 2 of 2 (torchrun) of worker 3 of 8 (--shard)"),
        (None, TORCHRUN_2_OF_2 | POD_1_OF_4, "worker 2 of 2 (torchrun) of worker 1 of 4 (Kubernetes indexed Job)"),
        (None, TORCHRUN_2_OF_2 | {"JOB_COMPLETION_INDEX": "1"}, "worker 2 of 2 (torchrun)"),
        (None, TORCHRUN_2_OF_2 | {"RANK": "0", "WORLD_SIZE": "1"}, "the only worker"),
        (None, TORCHRUN_2_OF_2 | ARRAY_2_OF_3 | {"WORLD_SIZE": "1"}, "worker 2 of 3 (SLURM job array)"),
        # Variables of other launchers' names alone mean nothing.
        (None, {"RANK": "1", "WORLD_SIZE": "2"}, "the only worker"),
    ],
)
def test_the_environment_tells_who_this_is(
    shard: str | None, environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_torchrun_store", lambda environ: FakeStore())
    assert current_share(shard, environ).describe() == expected


@pytest.mark.parametrize(
    ("environ", "numbers"),
    [
        ([{**ARRAY_2_OF_3, "SLURM_ARRAY_TASK_ID": str(task)} for task in (4, 6, 8)], [1, 2, 3]),
        (
            [
                {**ARRAY_2_OF_3, **SRUN_4_OF_5, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_PROCID": str(rank)}
                for task in (4, 6, 8)
                for rank in range(5)
            ],
            list(range(1, 16)),
        ),
        ([{**POD_1_OF_4, "JOB_COMPLETION_INDEX": str(index)} for index in range(4)], [1, 2, 3, 4]),
    ],
)
def test_all_workers_together_have_every_number_once(environ: list[dict[str, str]], numbers: list[int]) -> None:
    shares = [current_share(None, one) for one in environ]
    assert [share.number for share in shares] == numbers
    assert {share.count for share in shares} == {len(numbers)}


@pytest.mark.parametrize(
    "shard", ["0/8", "9/8", "3", "3/", "/8", "3/0", "-1/8", "3/8/2", "a/b", "1.0/2", "", "３/８", " 3/8"]
)
def test_a_wrong_shard_is_refused(shard: str) -> None:
    with pytest.raises(UsageError, match="Give I/N with I from 1 to N") as caught:
        current_share(shard, {})
    assert str(caught.value).startswith(f"--shard {shard}: ")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (ARRAY_2_OF_3 | {"SLURM_ARRAY_TASK_ID": "5"}, "task 5 of 3 tasks from 4 to 8 in steps of 2"),
        (ARRAY_2_OF_3 | {"SLURM_ARRAY_TASK_ID": "10"}, "--array=1-8"),
        # --array=4,7,8
        (ARRAY_2_OF_3 | {"SLURM_ARRAY_TASK_STEP": "1"}, "Submit the whole array again"),
        (ARRAY_2_OF_3 | {"SLURM_ARRAY_TASK_COUNT": "x"}, "SLURM_ARRAY_TASK_COUNT is 'x'"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is not set"),
        (SRUN_4_OF_5 | {"SLURM_PROCID": "5"}, "SLURM_PROCID is 5 and SLURM_STEP_NUM_TASKS 5"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID is not set"),
        ({"SLURM_STEP_NUM_TASKS": "-2"}, "SLURM_STEP_NUM_TASKS is '-2'"),
        (POD_1_OF_4 | {"JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX is 4 and SEGKIT_SHARDS 4"),
        ({"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "3"}, "Set JOB_COMPLETIONS to the Job's completions"),
        ({"JOB_COMPLETION_INDEX": "0", "SEGKIT_SHARDS": "0"}, "JOB_COMPLETION_INDEX is 0 and SEGKIT_SHARDS 0"),
        ({"JOB_COMPLETION_INDEX": "0"}, "Set SEGKIT_SHARDS to the Job's completions"),
        ({"SEGKIT_SHARDS": "4"}, "completionMode to Indexed"),
        (TORCHRUN_2_OF_2 | POD_1_OF_4 | {"GROUP_WORLD_SIZE": "2"}, "Remove SEGKIT_SHARDS"),
        (TORCHRUN_2_OF_2 | {"RANK": "2"}, "RANK is 2 and WORLD_SIZE 2"),
        (TORCHRUN_2_OF_2 | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(
    environ: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_torchrun_store", lambda environ: FakeStore())
    with pytest.raises(UsageError) as caught:
        current_share(None, environ)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, "--rdzv-backend c10d"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is ''"),
    ],
)
def test_a_torchrun_without_a_lasting_store_is_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        current_share(None, TORCHRUN_2_OF_2 | environ)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 0),
        (TORCHRUN_2_OF_2, 1),
        (SRUN_4_OF_5, 1),
        (SRUN_4_OF_5 | TORCHRUN_2_OF_2 | {"LOCAL_RANK": "7"}, 7),
        ({"SLURM_NTASKS": "5", "SLURM_LOCALID": "1"}, 0),
        ({"LOCAL_RANK": "3"}, 0),
    ],
)
def test_workers_on_one_machine_are_numbered(environ: dict[str, str], expected: int) -> None:
    assert local_rank(environ) == expected


def test_a_store_that_is_gone_or_was_never_there_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    environ = TORCHRUN_2_OF_2 | {"MASTER_PORT": str(server.port)}
    share = current_share(None, environ)
    parts = share.parts("slide", [1, 1, 1], 0, 3)
    assert next(parts) == 0
    del server
    with pytest.raises(ResourceError, match=r"connection to its store, on its first node, is lost .* are kept"):
        next(parts)
    monkeypatch.setattr(sharing, "CONNECT_SECONDS", 1)
    with pytest.raises(ResourceError, match=f"port {environ['MASTER_PORT']}, cannot be reached"):
        current_share(None, environ)
    capfd.readouterr()  # torch's own lines about it


WORKER = """
import os, pathlib, signal, sys, time
from segkit.workflows.sharing import current_share

folder, deadly = pathlib.Path(sys.argv[1]), sys.argv[2:]
share = current_share(None, os.environ)
(folder / f"up-{share.number}").touch()
while len(list(folder.glob("up-*"))) < share.count:
    time.sleep(0.01)
for part in share.parts("slide", [1] * 40, 0, 40):
    with (folder / "drawn").open("a") as drawn:
        drawn.write(f"{part} {share.number}\\n")
    if (folder / f"part-{part}").exists():
        continue
    time.sleep(0.005)
    if str(part) in deadly and not (folder / f"killed-{part}").exists():
        (folder / f"killed-{part}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"part-{part}").touch()
"""


def run_torchrun(folder: Path, *options: str, deadly: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """Run two workers and return what each drew: part and worker."""
    script = folder / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--monitor-interval=0.1", *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "JOB_", "SEGKIT_"))}
    ended = subprocess.run(
        [*command, str(script), str(folder), *map(str, deadly)],
        env=clean | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = (folder / "drawn").read_text().splitlines()
    return [(int(part), int(number)) for part, number in map(str.split, lines)]


def test_two_workers_of_a_real_torchrun_draw_each_part_once(tmp_path: Path) -> None:
    drawn = run_torchrun(tmp_path, "--standalone")
    assert sorted(part for part, _ in drawn) == list(range(40))
    assert {number for _, number in drawn} == {1, 2}


def test_after_a_real_restart_what_the_killed_worker_had_drawn_is_done(tmp_path: Path) -> None:
    drawn = run_torchrun(tmp_path, "--standalone", "--max-restarts=1", deadly=(11,))
    assert (tmp_path / "killed-11").exists()
    assert {path.name for path in tmp_path.glob("part-*")} == {f"part-{part}" for part in range(40)}
    # Claimed before and claimed again by the same number, not by both.
    assert all(len({number for part, number in drawn if part == one}) == 1 for one in range(40))
