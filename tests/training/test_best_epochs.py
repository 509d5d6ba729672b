"""The average of the best epochs, and what becomes the model where it is no better."""

from pathlib import Path
from typing import Any

import torch

from segkit.models.model_file import MODEL_NAME, load_model, save_model
from segkit.training.best_epochs import average_of_best, keep_best, restore_best
from segkit.training.validation import Validation
from tests.training.fields import SPEC, FieldTask, build_seeded

SCORES = [0.2, 0.5, 0.9, 0.4]


def run_of_epochs(run: Path, scores: list[float], *, count: int) -> None:
    for epoch in range(1, len(scores) + 1):
        network = build_seeded()
        with torch.no_grad():
            network.head.weight.fill_(epoch)
        spec = SPEC.model_copy(update={"training": {"best_epoch": epoch}})
        keep_best(run, network, spec, scores[:epoch], count=count)


def average(run: Path, scored: float) -> Any:
    found = Validation(score=scored, by_class={"disk": scored}, story={"tried": [scored]})
    task = FieldTask(validation=lambda _: found)
    return average_of_best(task, run, SCORES, count=3, on_note=lambda _: None)


def test_the_average_is_of_the_best_epochs_and_names_the_best_one(tmp_path: Path) -> None:
    run_of_epochs(tmp_path, SCORES, count=3)
    network, spec, _, epochs = average(tmp_path, 0.95)
    assert epochs == [2, 3, 4]
    assert torch.all(network.head.weight == 3)
    assert spec.training == {"best_epoch": 3, "averaged_epochs": [2, 3, 4], "tried": [0.95]}


def test_an_epoch_whose_network_is_gone_is_left_out(tmp_path: Path) -> None:
    """As after an epoch that was done again with another score, on a device that does not compute the same twice."""
    run_of_epochs(tmp_path, SCORES, count=3)
    (gone,) = tmp_path.rglob("epoch-00002.safetensors")
    gone.unlink()
    assert average(tmp_path, 0.95)[3] == [3, 4]


def test_an_average_of_fewer_epochs_does_not_stay_the_model(tmp_path: Path) -> None:
    """A run that had an average as its model was given more epochs, whose average is no better than the best one."""
    run_of_epochs(tmp_path, SCORES, count=3)
    before = SPEC.model_copy(update={"training": {"best_epoch": 3, "averaged_epochs": [2, 3]}})
    save_model(tmp_path / MODEL_NAME, build_seeded(), before)
    assert average(tmp_path, 0.8) is None
    restore_best(tmp_path, SCORES)
    model = load_model(tmp_path)
    assert model.spec.training == {"best_epoch": 3}
    assert torch.all(model.network.state_dict()["head.weight"] == 3)
