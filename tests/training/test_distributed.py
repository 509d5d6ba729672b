"""Several processes train as one: who they are, what they say to each other, and that the result is the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from segkit.errors import ResourceError, SegkitError, UsageError
from segkit.training import distributed
from segkit.training.checkpoint import load_newest
from segkit.training.distributed import (
    ALONE,
    Rank,
    count_processes,
    first_node,
    open_group,
    processes_here,
    rank_of,
)
from segkit.training.diverged import load_batch
from segkit.training.losses import LossName
from tests.ranks import Ranks, free_port, srun_environment, torchrun_environment
from tests.training.rank_jobs import (
    diverge,
    lose_the_last,
    stop_in_the_last,
    talk,
    train_fields,
    train_in_parts,
    train_with_losses,
    validate_with_batch_norm,
)

TORCHRUN = {**torchrun_environment(3, 8, 29500), "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a"}
SRUN = {**srun_environment(5, 6, 0), "MASTER_PORT": "", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[03-05]"}


def test_without_torchrun_and_srun_a_process_is_alone() -> None:
    one_task = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    in_a_batch_script = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}
    left_by_a_shell = {"RANK": "1", "WORLD_SIZE": "2"}
    for environment in ({}, one_task, in_a_batch_script, left_by_a_shell, {"SLURM_STEP_NUM_TASKS": ""}):
        assert rank_of(environment) is None
        assert (count_processes(environment), processes_here(environment)) == (1, 1)


def test_torchrun_tells_each_process_who_it_is() -> None:
    assert rank_of(TORCHRUN) == Rank(3, 8, 1, "a", 29500)
    assert (count_processes(TORCHRUN), processes_here(TORCHRUN)) == (8, 2)


def test_srun_tells_each_process_who_it_is() -> None:
    assert rank_of(SRUN) == Rank(5, 6, 1, "gpu03", 20_007)
    assert rank_of({**SRUN, "MASTER_ADDR": "b", "MASTER_PORT": "5"}) == Rank(5, 6, 1, "b", 5)
    assert rank_of({**SRUN, "SLURM_JOB_ID": "1234567"}) == Rank(5, 6, 1, "gpu03", 20_000 + 1234567 % 20_000)
    tasks = {"2(x3)": 2, "4(x2),3": 4, "1,5": 1, "": 1, "odd": 1}
    for text, expected in tasks.items():
        assert processes_here({**SRUN, "SLURM_STEP_TASKS_PER_NODE": text}) == expected


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_an_incomplete_torchrun_is_named(name: str) -> None:
    for environment in ({**TORCHRUN, name: ""}, {key: value for key, value in TORCHRUN.items() if key != name}):
        with pytest.raises(UsageError, match=f"torchrun started, but lacks {name}"):
            rank_of(environment)


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID"])
def test_an_incomplete_srun_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"srun started, but lacks {name}"):
        rank_of({key: value for key, value in SRUN.items() if key != name})


NONSENSE = [
    ({**TORCHRUN, "RANK": "one"}, r"RANK = 'one': is no whole number"),
    ({**TORCHRUN, "MASTER_PORT": "x"}, r"MASTER_PORT = 'x': is no whole number"),
    ({**TORCHRUN, "RANK": "8"}, r"process 8 of 8"),
    ({**TORCHRUN, "RANK": "-1"}, r"process -1 of 8"),
    ({**TORCHRUN, "LOCAL_WORLD_SIZE": "few"}, r"LOCAL_WORLD_SIZE = 'few': is no whole number"),
    ({**SRUN, "SLURM_PROCID": "6"}, r"process 6 of 6"),
    ({**SRUN, "SLURM_STEP_NUM_TASKS": "many"}, r"SLURM_STEP_NUM_TASKS = 'many': is no whole number"),
    ({**SRUN, "MASTER_PORT": "port"}, r"MASTER_PORT = 'port': is no whole number"),
    ({**SRUN, "SLURM_STEP_NODELIST": "[1-2]"}, r"SLURM_STEP_NODELIST = \[1-2\]: is no list of nodes"),
]


@pytest.mark.parametrize(("environment", "message"), NONSENSE, ids=[message for _, message in NONSENSE])
def test_nonsense_is_refused_by_name(environment: dict[str, str], message: str) -> None:
    ask = processes_here if "LOCAL_WORLD_SIZE" in message else rank_of
    with pytest.raises(UsageError, match=message):
        ask(environment)


names = st.from_regex(r"[a-z][a-z-]{0,6}[a-z]", fullmatch=True)


@given(names, st.integers(0, 99), st.integers(0, 9), st.lists(names, max_size=2))
def test_the_first_node_of_a_list(name: str, first: int, more: int, others: list[str]) -> None:
    rest = "".join(f",{one}" for one in others)
    assert first_node(f"{name}{rest}") == name
    assert first_node(f"{name}[{first:02}-{first + more:02},100]{rest}") == f"{name}{first:02}"
    assert first_node(f"{name}{first}{rest}") == f"{name}{first}"


def test_alone_nothing_is_said(tmp_path: Path) -> None:
    done: list[int] = []
    assert ALONE.map(lambda item: -item, [1, 2, 3], done.append) == [-1, -2, -3]
    assert done == [1, 2, 3]
    tensor = torch.ones(2)
    assert ALONE.total(tensor) is tensor
    assert (ALONE.is_first, ALONE.largest(3), ALONE.from_first(lambda: 4), ALONE.together(lambda: 5)) == (True, 3, 4, 5)
    assert not ALONE.told_once(SegkitError("")).is_told_elsewhere


@pytest.mark.parametrize("environment", [torchrun_environment, srun_environment])
def test_processes_share_work_results_and_errors(tmp_path: Path, environment: Any) -> None:
    first, second = Ranks(tmp_path, talk, environment=environment).results()
    assert [first["place"], second["place"]] == [[0, 2, True], [1, 2, False]]
    # In order, though five cannot be divided by two; who did which is seen in the last number.
    items = [[item, item * item, item % 2] for item in range(5)]
    assert first["map"] == second["map"] == items
    assert (first["done"][:3], second["done"][:2]) == ([2, 4, 5], [2, 4])
    assert first["empty"] == second["empty"] == []
    assert first["fewer"] == second["fewer"] == ["alone"]
    assert first["first"] == second["first"] == {"rank": 0}
    assert first["largest"] == second["largest"] == 10
    # 3 * (1 + 2); the gradient of its square is 2 * 9 * 3, twice that where it will be averaged over two.
    assert first["total"] == second["total"] == [9.0, 108.0]
    assert (first["together"], second["together"]) == (0, 1)

    told = {"kind": "InputError", "message": "no data", "problems": ["a", "b"], "code": 3, "is_told_elsewhere": False}
    assert first["first fails"] == told
    assert second["first fails"] == {**told, "is_told_elsewhere": True}
    assert first["all fail"] == {**told, "problems": []}
    assert second["all fail"] == {**told, "problems": [], "is_told_elsewhere": True}
    assert second["last fails"] == {**told, "message": "lost", "problems": []}
    assert first["last fails"] == {**second["last fails"], "is_told_elsewhere": True}
    assert second["bug"] == {"kind": "KeyError"}
    assert (first["bug"]["code"], first["bug"]["is_told_elsewhere"]) == (1, True)
    assert first["after"] == second["after"] == "still here"


LOSSES: tuple[LossName, ...] = ("cross_entropy", "dice", "dice_cross_entropy")


def test_two_processes_learn_what_one_learns_from_the_same_batch(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, train_with_losses, tmp_path / "together", *LOSSES)
    alone = {loss: train_fields(tmp_path / "alone" / loss, loss, ALONE) for loss in LOSSES}
    told = ranks.results()
    assert told[0] == told[1]
    for number, loss in enumerate(LOSSES):
        one, other = (load_file(folder / f"{loss}.safetensors") for folder in ranks.folders)
        assert all(torch.equal(one[name], other[name]) for name in one)
        expected = alone[loss].weights[-1]
        assert max((one[name] - expected[name]).abs().max().item() for name in expected) < 1e-5
        moved = max((alone[loss].weights[0][name] - expected[name]).abs().max().item() for name in expected)
        assert moved > 1e-2  # it has learned something
        assert told[0][number] == pytest.approx([info["loss"] for _, _, info in alone[loss].steps], abs=1e-5)


def test_parts_of_each_share_are_added_up_before_they_are_averaged(tmp_path: Path) -> None:
    # Of four samples each process has two, one after the other. The parts hold other samples than alone, and as their
    # means are over as many pixels, the sum is the same.
    ranks = Ranks(tmp_path, train_in_parts, tmp_path / "run")
    alone = train_fields(tmp_path / "alone", "cross_entropy", ALONE, compute__micro_batches=2)
    ranks.results()
    one = load_file(ranks.folders[0] / "weights.safetensors")
    for name, value in alone.weights[-1].items():
        torch.testing.assert_close(one[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ema", [0, 0.5])
def test_all_processes_validate_with_the_first_ones_statistics(tmp_path: Path, ema: float) -> None:
    first, second = Ranks(tmp_path, validate_with_batch_norm, tmp_path / "run", ema).results()
    assert len(first) == 2
    assert first == second
    for by_process in first:
        assert by_process[0] == by_process[1]
    assert first[0] != first[1]
    saved = load_newest(tmp_path / "run" / "checkpoints")[1]
    network = saved["network"] if not ema else saved["ema"]["network"]
    means = [value for name, value in network.items() if name.endswith("running_mean")]
    assert torch.cat(means).tolist() == first[1][0]


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    results = Ranks(tmp_path, stop_in_the_last, tmp_path / "run").results()
    assert results == [{"steps": 3, "code": 143, "is_told_elsewhere": other} for other in (False, True)]
    assert load_newest(tmp_path / "run" / "checkpoints")[1]["step"] == 3


def test_processes_diverge_together_and_the_first_one_saves_its_batch(tmp_path: Path) -> None:
    first, second = Ranks(tmp_path, diverge, tmp_path / "run").results()
    assert (first["kind"], first["code"], first["steps"], first["is_told_elsewhere"]) == ("DivergedError", 6, 2, False)
    assert (second["kind"], second["code"], second["steps"], second["is_told_elsewhere"]) == (
        "DivergedError",
        6,
        2,
        True,
    )
    assert "The batch is in" in first["message"]
    assert load_batch(tmp_path / "run" / "diverged_step_3.safetensors").images.shape == (2, 1, 32, 32)
    assert load_newest(tmp_path / "run" / "checkpoints")[1]["step"] == 0


def test_where_a_process_is_lost_the_others_end_with_the_cause(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, lose_the_last, tmp_path / "run", count=3)
    for process in ranks.processes[:2]:
        ended = process.wait(30)
        assert ended.code == 0, ended.err
    first, second = ((folder / "result.json").read_text() for folder in ranks.folders[:2])
    assert "another of the 3 processes of this training has ended" in first
    assert '"is_told_elsewhere": false' in first
    assert '"is_told_elsewhere": true' in second


def test_processes_that_cannot_be_reached_are_an_error_with_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    for name, value in torchrun_environment(1, 2, port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "WAIT_SECONDS", 1)
    with pytest.raises(ResourceError, match=f"cannot reach each other at 127.0.0.1:{port}"):  # noqa: SIM117
        with open_group(torch.device("cpu")):
            pass
