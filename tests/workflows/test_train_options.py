"""Every choice that a training offers runs from the data folder to a model."""

import contextlib
import math
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from segkit.config import TrainConfig
from segkit.config.training_sections import LossName, OptimiserName, ScheduleName
from segkit.errors import UsageError
from segkit.models.model_file import load_model
from segkit.training.checkpoint import load_checkpoint, load_newest
from segkit.training.optimisation import rate_at
from segkit.training.state import Row
from segkit.workflows.train import train
from tests.tiny import tiny_config, tiny_point_config
from tests.workflows.label_data import make_label_data

SHORT = ("epochs=2", "steps_per_epoch=3")


def trained(config: TrainConfig, run: Path) -> list[Row]:
    """Train; return the history of a training in which something was learned, and numbers are numbers."""
    result = train(config, out=run)
    history: list[Row] = load_newest(run / "checkpoints")[1]["history"]
    assert [row["epoch"] for row in history] == list(range(1, config.epochs + 1))
    for row in history:
        assert all(math.isfinite(row[name] or 0.0) for name in ("train_loss", "val_loss", "learning_rate"))
    assert 0 <= result.score <= 1
    begun, ended = (
        load_checkpoint(run / "checkpoints" / "step-00000000.pt")["network"],
        load_newest(run / "checkpoints"),
    )
    # Each weight has moved, norms' and biases' too: nothing was forgotten.
    still = [name for name, value in ended[1]["network"].items() if torch.equal(value, begun[name])]
    assert still == []
    return history


@pytest.fixture(autouse=True)
def keep_the_first_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.training.checkpoint.KEPT", 100)


ZIPPED = list(zip(get_args(LossName), get_args(ScheduleName), strict=True))


@pytest.mark.parametrize(("loss", "schedule"), ZIPPED, ids=[f"{loss}-{schedule}" for loss, schedule in ZIPPED])
def test_losses_and_schedules(tiny_data: Path, tmp_path: Path, loss: str, schedule: str) -> None:
    config = tiny_config(
        tiny_data,
        *(*SHORT, f"loss.name={loss}", f"optimiser.schedule={schedule}", "optimiser.decay_epochs=1"),
        "optimiser.warmup_steps=1",
    )
    history = trained(config, tmp_path / "run")
    scores = [row["val_dice"] or 0.0 for row in history]
    expected = [
        0.02
        * rate_at(
            3 * epoch + 2,
            steps=6,
            steps_per_epoch=3,
            warmup_steps=1,
            schedule=config.optimiser.schedule,
            decay_factor=0.1,
            decay_epochs=1,
            scores=scores[:epoch],
        )
        for epoch in range(2)
    ]
    assert [row["learning_rate"] for row in history] == pytest.approx(expected)
    # The schedule is the one that was asked for.
    falls = history[1]["learning_rate"] < history[0]["learning_rate"]  # type: ignore[operator]
    assert falls or schedule in {"constant", "plateau"}


OPTIMISERS = {
    "adamw": ("optimiser.l1=1e-4",),
    "adam": ("optimiser.l2=1e-4", "model.activation=elu"),
    "sgd": ("optimiser.nesterov=true", "model.init=xavier"),
    "rmsprop": ("optimiser.clip_norm=0", "model.activation=leaky_relu"),
    "adagrad": ("model.init=normal", "model.activation=sigmoid"),
}
assert OPTIMISERS.keys() == set(get_args(OptimiserName))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_optimisers(tiny_data: Path, tmp_path: Path, optimiser: str) -> None:
    settings = (f"optimiser.name={optimiser}", "optimiser.learning_rate=0.001", *OPTIMISERS[optimiser])
    trained(tiny_config(tiny_data, *SHORT, *settings), tmp_path / "run")


MASK_OPTIONS: dict[str, tuple[str, ...]] = {
    "weight map": ("loss.weight_map=true", "loss.class_weights=balanced", "loss.name=cross_entropy"),
    "balanced": ("loss.class_weights=balanced", "loss.name=focal"),
    "averages": ("ema=0.9", "average_best=2"),
    "dropout, no norm": ("model.norm=none", "model.dropout=0.3"),
    "device": ("augment.backend=device",),
    "saving memory": ("compute.gradient_checkpointing=true", "compute.micro_batches=2"),
    "fold": ("data.folds=3", "data.fold=2"),
}


@pytest.mark.parametrize("option", MASK_OPTIONS)
def test_options_for_masks(tiny_data: Path, tmp_path: Path, option: str) -> None:
    trained(tiny_config(tiny_data, *SHORT, *MASK_OPTIONS[option]), tmp_path / "run")


def test_deep_supervision_leaves_the_model_as_it_is_without(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, *SHORT, "model.depth=3", "model.deep_supervision=true")
    trained(config, tmp_path / "run")
    heads = [name for name in load_newest(tmp_path / "run" / "checkpoints")[1]["network"] if name.startswith("heads.")]
    assert len(heads) == 2 * 2  # weights and biases at 1/2 and 1/4
    plain = train(tiny_config(tiny_data, *SHORT, "model.depth=3"), out=tmp_path / "plain")
    one, other = load_model(tmp_path / "run"), load_model(plain.model)
    assert one.network.state_dict().keys() == other.network.state_dict().keys()
    assert one.sha256 != other.sha256


def test_an_encoder_of_torchvisions(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, "epochs=2", "steps_per_epoch=2", "model.encoder=resnet18", "model.depth=2")
    trained(config, tmp_path / "run")
    assert load_model(tmp_path / "run").spec.arguments.encoder == "resnet18"  # type: ignore[union-attr]


def test_instances_from_labels(tmp_path: Path) -> None:
    label_data = make_label_data(tmp_path / "data")
    history = trained(tiny_config(label_data, *SHORT, "loss.weight_map=true"), tmp_path / "run")
    assert "val_ap" in history[0]
    spec = load_model(tmp_path / "run").spec
    assert (spec.task, spec.architecture) == ("instance", "unet")
    assert spec.instances is not None


def test_labels_as_masks(tmp_path: Path) -> None:
    label_data = make_label_data(tmp_path / "data")
    assert "val_dice" in trained(tiny_config(label_data, *SHORT, "task=semantic"), tmp_path / "run")[0]
    assert load_model(tmp_path / "run").spec.task == "semantic"


@pytest.mark.parametrize("network", ["unet", "patch_cnn"])
def test_points_by_either_network(tiny_point_data: Path, tmp_path: Path, network: str) -> None:
    size = ("patches.size_px=32", "patches.batch=4", "model.depth=1") if network == "unet" else ("model.depth=2",)
    config = tiny_point_config(tiny_point_data, "epochs=3", "steps_per_epoch=3", f"model.network={network}", *size)
    history = trained(config, tmp_path / "run")
    assert "val_f1" in history[0]
    spec = load_model(tmp_path / "run").spec
    assert (spec.task, spec.architecture) == ("points", network)
    assert spec.detection is not None


def test_zeros_do_not_learn_and_it_is_said(tiny_data: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    train(tiny_config(tiny_data, *SHORT, "model.init=zeros"), out=tmp_path / "run", on_note=notes.append)
    assert any("zero" in note.lower() for note in notes)
    network = load_newest(tmp_path / "run" / "checkpoints")[1]["network"]
    assert not network["encoder.0.0.weight"].any()


def test_what_is_written_for_tensorboard_is_closed(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Board(contextlib.AbstractContextManager["Board"]):
        def __init__(self, folder: Path, *, first_epoch: int) -> None:
            told.append((folder.name, first_epoch))

        def row(self, row: Row) -> None:
            told.append(row["epoch"])

        def __exit__(self, *_: object) -> None:
            told.append("closed")

    monkeypatch.setattr("segkit.workflows.train.TensorBoardLog", Board)
    train(tiny_config(tiny_data, *SHORT, "tensorboard=true"), out=tmp_path / "run")
    assert told == [("tensorboard", 1), 1, 2, "closed"]


def test_without_tensorboard_there_is_one_clear_line(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
    with pytest.raises(
        UsageError, match=r"TensorBoard is not installed.*pip install 'segkit\[tensorboard\]'"
    ) as caught:
        train(tiny_config(tiny_data, *SHORT, "tensorboard=true"), out=tmp_path / "run")
    assert caught.value.problems == []
    assert "\n" not in caught.value.message
    train(tiny_config(tiny_data, *SHORT), out=tmp_path / "run")  # the folder is not blocked
