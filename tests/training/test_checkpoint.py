"""A checkpoint gives back the state, bit for bit, or says that it cannot; it never runs code."""

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.errors import ModelError, ResourceError
from segkit.models.unet import UNet
from segkit.training.checkpoint import (
    KEPT,
    checkpoint_path,
    load_checkpoint,
    load_newest,
    newest_step,
    save_checkpoint,
)
from segkit.training.optimisation import ParameterGroup, build_optimiser
from tests.processes import limited_file_size


def make_state(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    network = UNet(in_channels=1, num_classes=2, base_channels=2, depth=1)
    groups = [ParameterGroup(list(network.parameters()))]
    optimiser = build_optimiser(groups, name="adamw", learning_rate=0.1, weight_decay=0.1)
    network(torch.rand(1, 1, 8, 8)).square().sum().backward()
    optimiser.step()
    return {
        "format": "segkit-checkpoint-2",
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "history": [{"epoch": 1, "val_dice": 0.25, "val_dice/a": None}],
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_the_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = make_state()
    save_checkpoint(tmp_path / "checkpoints", 7, state)
    path = checkpoint_path(tmp_path / "checkpoints", 7)
    assert [path] == list((tmp_path / "checkpoints").iterdir())
    assert equal(load_checkpoint(path), state)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    assert newest_step(tmp_path) is None
    for epoch in (8, 9, 10, 11):
        save_checkpoint(tmp_path, epoch, make_state(epoch))
    assert sorted(tmp_path.iterdir()) == [checkpoint_path(tmp_path, epoch) for epoch in (10, 11)]
    assert KEPT == 2
    assert newest_step(tmp_path) == 11
    path, state, damaged = load_newest(tmp_path)
    assert (path, damaged) == (checkpoint_path(tmp_path, 11), [])
    assert equal(state, make_state(11))


def test_more_steps_than_the_digits_of_a_name_are_in_order(tmp_path: Path) -> None:
    for step in (99_999_998, 99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, make_state())
    assert newest_step(tmp_path) == 100_000_000
    assert {path.name for path in tmp_path.iterdir()} == {"step-99999999.pt", "step-100000000.pt"}


def test_the_best_is_kept_beside_the_newest_two(tmp_path: Path) -> None:
    for step, best in ((1, None), (2, 1), (3, 1), (4, 1), (5, 4), (6, 4), (7, 4)):
        save_checkpoint(tmp_path, step, make_state(), best=best)
    assert sorted(tmp_path.iterdir()) == [checkpoint_path(tmp_path, step) for step in (4, 6, 7)]


@pytest.fixture
def two_checkpoints(tmp_path: Path) -> Path:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, epoch, make_state(epoch))
    return tmp_path


def damaged_copies(content: bytes) -> Iterator[bytes]:
    """Every kind of damage: single flipped bits anywhere, also in the archive's directory, and truncations."""
    rng = random.Random(0)
    positions = [*rng.sample(range(len(content)), 150), *range(len(content) - 40, len(content), 3)]
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        yield bytes(damaged)
    for length in (0, 1, 31, 32, 33, *rng.sample(range(len(content)), 20), len(content) - 1):
        yield content[:length]
    yield content + b"\0"


def test_any_damage_is_noticed(two_checkpoints: Path) -> None:
    path = checkpoint_path(two_checkpoints, 2)
    for damaged in damaged_copies(path.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="checksum"):
            load_checkpoint(path)


def test_the_newest_whole_checkpoint_is_used_and_a_damaged_one_named(two_checkpoints: Path) -> None:
    newest = checkpoint_path(two_checkpoints, 2)
    newest.write_bytes(newest.read_bytes()[:-100])
    path, state, damaged = load_newest(two_checkpoints)
    assert path == checkpoint_path(two_checkpoints, 1)
    assert equal(state, make_state(1))
    assert len(damaged) == 1
    assert str(newest) in damaged[0]


def test_without_a_whole_checkpoint_all_damaged_ones_are_named(two_checkpoints: Path) -> None:
    for path in two_checkpoints.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ModelError, match="no checkpoint to resume from") as caught:
        load_newest(two_checkpoints)
    assert len(caught.value.problems) == 2
    with pytest.raises(ModelError, match="no checkpoint to resume from"):
        load_newest(two_checkpoints / "none")


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def with_digest(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_cannot_run_code(tmp_path: Path, zipped: bool) -> None:
    content = io.BytesIO()
    torch.save(
        {"format": "segkit-checkpoint-2", "network": Malicious(tmp_path / "marker")},
        content,
        _use_new_zipfile_serialization=zipped,
    )
    path = tmp_path / "bad.pt"
    path.write_bytes(with_digest(content.getvalue()))
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(path)
    assert not (tmp_path / "marker").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "marker").exists()  # it is malicious indeed


@pytest.mark.parametrize("state", [{"format": "segkit-checkpoint-99"}, {"weights": torch.zeros(2)}, [1, 2]])
def test_a_file_of_another_kind_is_no_checkpoint(tmp_path: Path, state: object) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    path = tmp_path / "other.pt"
    path.write_bytes(with_digest(content.getvalue()))
    with pytest.raises(ModelError, match="not a checkpoint of this version"):
        load_checkpoint(path)
    path.write_bytes(with_digest(b"no archive at all"))
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(path)


def test_a_full_disk_is_called_by_its_name_and_costs_no_earlier_checkpoint(two_checkpoints: Path) -> None:
    before = {path: path.read_bytes() for path in two_checkpoints.iterdir()}
    size = max(map(len, before.values()))
    for limit in (100, size // 2, size - 16):
        with limited_file_size(limit), pytest.raises(ResourceError, match="disk is full"):
            save_checkpoint(two_checkpoints, 3, make_state(3))
        assert {path: path.read_bytes() for path in two_checkpoints.iterdir()} == before


def test_a_failure_that_is_none_of_the_disk_is_not_called_so(
    two_checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("cannot serialise")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="cannot serialise"):
        save_checkpoint(two_checkpoints, 3, make_state(3))
    assert len(list(two_checkpoints.iterdir())) == 2
