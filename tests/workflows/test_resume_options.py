"""With what a training offers beside the usual, too, a run that was stopped and resumed equals one that was not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.config import TrainConfig, build_config
from segkit.errors import InterruptedRunError
from segkit.models.model_file import load_model
from segkit.training.checkpoint import load_newest
from segkit.workflows.train import train
from tests.tiny import tiny_config, tiny_point_config
from tests.workflows.label_data import make_label_data
from tests.workflows.stopping import asking_at

RESUMED: dict[str, tuple[str, ...]] = {
    "averages": ("average_best=2", "ema=0.9"),
    "plateau": ("optimiser.schedule=plateau", "optimiser.decay_epochs=1", "optimiser.name=sgd", "patience=2"),
    "device": ("augment.backend=device", "model.dropout=0.2"),
    "labels": ("loss.class_weights=balanced",),
    "points": ("model.network=unet", "patches.size_px=32", "patches.batch=4", "ema=0.9"),
}


@pytest.mark.parametrize("option", RESUMED)
def test_stopped_twice_and_resumed_it_is_bit_identical(
    tiny_data: Path, tiny_point_data: Path, tmp_path: Path, option: str
) -> None:
    short = ("epochs=4", "steps_per_epoch=3", *RESUMED[option])
    data = {"labels": tmp_path / "labels", "points": tiny_point_data}.get(option, tiny_data)
    if option == "labels":
        make_label_data(data)
    config = (tiny_point_config if option == "points" else tiny_config)(data, *short)
    whole, run = train(config, out=tmp_path / "whole"), tmp_path / "run"
    with pytest.raises(InterruptedRunError, match="stopped after step 4 of 12"):
        train(config, out=run, hold=asking_at(run, 4))
    with pytest.raises(InterruptedRunError, match="stopped after step 8 of 12"):
        train(build_config(TrainConfig, file=run / "config.yaml"), resume=run, hold=asking_at(run, 4))
    resumed = train(build_config(TrainConfig, file=run / "config.yaml"), resume=run)
    one, other = (load_newest(folder / "checkpoints")[1] for folder in (run, whole.run))
    assert tensors_in(one) == tensors_in(other)
    assert (resumed.score, resumed.best_epoch) == (whole.score, whole.best_epoch)
    assert load_model(run).sha256 == load_model(whole.run).sha256
    columns = [name for name in one["history"][0] if not name.startswith(("seconds", "samples_per", "data_wait"))]
    assert [[row[name] for name in columns] for row in one["history"]] == [
        [row[name] for name in columns] for row in other["history"]
    ]


def tensors_in(state: Any) -> list[tuple[str, Any]]:
    """All weights, moments and averages, by the way to them."""
    if isinstance(state, torch.Tensor):
        return [("", state.tolist())]
    if isinstance(state, dict):
        return [(f"{key}/{path}", value) for key, one in state.items() for path, value in tensors_in(one)]
    return []
