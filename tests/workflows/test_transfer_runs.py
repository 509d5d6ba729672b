"""Trainings that begin with what another network has learned, some of it frozen for a while."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segkit.config import TrainConfig, build_config
from segkit.errors import InterruptedRunError, ModelError, UsageError
from segkit.models.model_file import load_model
from segkit.training.checkpoint import load_checkpoint, load_newest
from segkit.workflows.train import train
from tests.tiny import SPLITS, draw_field, make_data, save_png, tiny_config
from tests.workflows.stopping import asking_at

State = dict[str, Tensor]
THREE_CLASSES = "mpp: 0.5\nclasses: [background, disk, corner]\n"


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data with one class more; not to be changed."""
    data = make_data(tmp_path_factory.mktemp("three") / "data", description=THREE_CLASSES)
    for number in range(len(SPLITS)):
        mask = draw_field(number)[1]
        mask[:20, :20] = 2
        save_png(data / "masks" / f"field{number}.png", mask)
    return data


def state_of(run: Path, step: int | None = None) -> State:
    """The network in a checkpoint, the newest one or that of a step."""
    if step is None:
        network: State = load_newest(run / "checkpoints")[1]["network"]
        return network
    found: State = load_checkpoint(run / "checkpoints" / f"step-{step:08d}.pt")["network"]
    return found


def part(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key.startswith(f"{name}.")}


def same(one: State, other: State) -> bool:
    assert one.keys() == other.keys()
    assert one
    return all(torch.equal(one[name], other[name]) for name in one)


def learned_from(data: Path, run: Path, *more: str, **options: Any) -> tuple[Path, list[str]]:
    notes: list[str] = []
    trained = train(tiny_config(data, *more), out=run, on_note=notes.append, **options)
    return trained.run, notes


def test_another_number_of_classes_starts_with_all_but_the_head(
    tiny_run: Path, three_classes: Path, tmp_path: Path
) -> None:
    run, notes = learned_from(three_classes, tmp_path / "run", f"transfer.init_from={tiny_run}", "epochs=1")
    assert any(note == "The head starts afresh: the model has 2 outputs, this task needs 3 outputs." for note in notes)
    assert any(str(tiny_run) in note and "tensors start from" in note for note in notes)
    source, begun = load_model(tiny_run).network.state_dict(), state_of(run, 0)
    assert same(part(begun, "encoder"), part(source, "encoder"))
    assert same(part(begun, "decoder"), part(source, "decoder"))
    assert begun["head.weight"].shape[0] == 3
    assert load_model(run).spec.classes == ["background", "disk", "corner"]
    assert not same(part(state_of(run), "encoder"), part(source, "encoder"))  # and learns on


def test_as_many_classes_start_with_everything(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    # A model file means the same as its run.
    run, notes = learned_from(
        tiny_data, tmp_path / "run", f"transfer.init_from={tiny_run / 'model.safetensors'}", "epochs=1"
    )
    assert same(state_of(run, 0), dict(load_model(tiny_run).network.state_dict()))
    assert not any("starts afresh" in note for note in notes)


def test_what_does_not_fit_is_refused_before_anything_is_left(
    tiny_data: Path, tiny_run: Path, tiny_point_run: Path, tmp_path: Path
) -> None:
    refused = {"model.base_channels=6": tiny_run, "model.depth=2": tiny_run, "seed=0": tiny_point_run}
    for setting, model in refused.items():
        with pytest.raises(ModelError, match=r"is not the network to train|is a patch CNN"):
            learned_from(tiny_data, tmp_path / "run", f"transfer.init_from={model}", setting)
    with pytest.raises(ModelError, match="no-such-run"):
        learned_from(tiny_data, tmp_path / "run", f"transfer.init_from={tmp_path / 'no-such-run'}")
    assert not (tmp_path / "run" / "checkpoints").exists()


FROZEN = ("transfer.freeze=encoder", "transfer.unfreeze_epoch=3", "epochs=4", "steps_per_epoch=3")


def test_a_frozen_encoder_stays_as_it_is_until_it_thaws(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    settings = (f"transfer.init_from={tiny_run}", *FROZEN)
    run, notes = tmp_path / "run", list[str]()
    with pytest.raises(InterruptedRunError):
        train(tiny_config(tiny_data, *settings), out=run, hold=asking_at(run, 6), on_note=notes.append)
    source = dict(load_model(tiny_run).network.state_dict())
    frozen = state_of(run, 6)
    assert any(name.endswith("running_mean") for name in part(frozen, "encoder"))
    assert same(part(frozen, "encoder"), part(source, "encoder"))  # weights and batch norm's statistics
    for moving in ("decoder", "head"):
        assert not same(part(frozen, moving), part(source, moving))
    assert "from epoch 1 on encoder of the network is frozen" in notes
    train(build_config(TrainConfig, file=run / "config.yaml"), resume=run, on_note=notes.append)
    thawed = state_of(run)
    for name, value in part(thawed, "encoder").items():
        assert not torch.equal(value, source[name]), name
    assert "from epoch 3 on no part of the network is frozen" in notes


def test_all_but_the_head_can_be_frozen_for_good(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    run, _ = learned_from(
        tiny_data, tmp_path / "run", f"transfer.init_from={tiny_run}", "transfer.freeze=all_but_head", "ema=0.5"
    )
    source, ended = dict(load_model(tiny_run).network.state_dict()), state_of(run)
    moved = {name for name in source if not torch.equal(source[name], ended[name])}
    assert moved == {"head.weight", "head.bias"}
    assert {
        name for name, value in load_model(run).network.state_dict().items() if not torch.equal(value, source[name])
    } == moved


def test_pretrained_parts_learn_at_their_own_rate(tiny_run: Path, three_classes: Path, tmp_path: Path) -> None:
    # Adam's first step is as long as the rate, nearly everywhere.
    settings = (f"transfer.init_from={tiny_run}", "epochs=1", "steps_per_epoch=1", "optimiser.warmup_steps=0")
    lengths = {}
    for rate in (1.0, 0.01):
        run, _ = learned_from(
            three_classes,
            tmp_path / str(rate),
            *settings,
            f"transfer.pretrained_rate={rate}",
            "optimiser.weight_decay=0",
        )
        begun, ended = state_of(run, 0), state_of(run, 1)
        lengths[rate] = {
            name: (ended[name] - begun[name]).abs().median().item()
            for name in ("encoder.0.0.weight", "decoder.0.conv.0.weight", "head.weight")
            if name in begun
        }
    assert lengths[1.0].keys() >= {"encoder.0.0.weight", "head.weight"}
    for name, length in lengths[1.0].items():
        expected = length if name == "head.weight" else length / 100
        assert lengths[0.01][name] == pytest.approx(expected, rel=0.05), name
    assert lengths[1.0]["head.weight"] == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("more", [(), ("model.deep_supervision=true", "ema=0.9", "transfer.pretrained_rate=0.1")])
@pytest.mark.parametrize("step", [5, 6, 8])  # before the encoder thaws, just when it does, after
def test_a_run_that_is_resumed_across_the_thawing_is_bit_identical(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, step: int, more: tuple[str, ...]
) -> None:
    config = tiny_config(tiny_data, f"transfer.init_from={tiny_run}", *FROZEN, *more)
    whole = train(config, out=tmp_path / "whole").run
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        train(config, out=run, hold=asking_at(run, step))
    train(build_config(TrainConfig, file=run / "config.yaml"), resume=run)
    assert same(state_of(run), state_of(whole))
    assert load_model(run).sha256 == load_model(whole).sha256


def test_other_settings_of_transfer_are_refused_on_resuming(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = tiny_config(tiny_data, f"transfer.init_from={tiny_run}", *FROZEN)
    with pytest.raises(InterruptedRunError):
        train(config, out=run, hold=asking_at(run, 2))
    with pytest.raises(UsageError, match="settings that it was begun with"):
        train(build_config(TrainConfig, file=run / "config.yaml", assignments=["transfer.freeze=none"]), resume=run)


def test_a_resumed_training_needs_the_weights_it_began_with_no_more(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    origin = shutil.copytree(tiny_run, tmp_path / "origin")
    config = tiny_config(tiny_data, f"transfer.init_from={origin}")
    whole = train(config, out=tmp_path / "whole").model
    stopped = tmp_path / "stopped"
    with pytest.raises(InterruptedRunError):
        train(config, out=stopped, hold=asking_at(stopped, 12))
    shutil.rmtree(origin)
    resumed = train(build_config(TrainConfig, file=stopped / "config.yaml"), resume=stopped).model
    assert load_model(resumed).sha256 == load_model(whole).sha256
