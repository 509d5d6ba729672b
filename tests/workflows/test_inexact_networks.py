"""Who trains a network whose tiles differ from the whole image is told so at the beginning, and nobody else."""

from pathlib import Path

import pytest

from segkit.config import TrainConfig
from segkit.errors import ModelError
from segkit.models.model_file import load_model
from segkit.models.receptive_field import refuse_mixing_norms
from segkit.training.distributed import ALONE
from segkit.workflows.callbacks import quiet_note, quiet_progress
from segkit.workflows.prepare import prepare
from segkit.workflows.tasks import build_task
from segkit.workflows.train import train
from tests.tiny import tiny_config, tiny_point_config

WORDS = "This network is not exact"
SQUEEZING = ("model.encoder=efficientnet_b0", "model.depth=1")


def test_a_training_begins_with_what_predict_will_ask_for(tiny_data: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    config = tiny_config(tiny_data, *SQUEEZING, "epochs=1", "steps_per_epoch=1")
    result = train(config, out=tmp_path / "run", on_note=notes.append)
    (said,) = [number for number, note in enumerate(notes) if WORDS in note]
    assert said < next(number for number, note in enumerate(notes) if note.startswith("epoch 1/1"))
    assert "--inexact" in notes[said]
    assert (tmp_path / "run" / "log.txt").read_text().count(WORDS) == 1
    with pytest.raises(ModelError, match="inexact=true"):
        refuse_mixing_norms(load_model(result.model).network)


@pytest.mark.parametrize(
    ("settings", "is_told"),
    [(SQUEEZING, True), (("model.encoder=resnet18", "model.depth=2"), False), ((), False)],
)
def test_networks_whose_tiles_equal_the_whole_are_not_warned_of(
    tiny_data: Path, settings: tuple[str, ...], is_told: bool
) -> None:
    assert is_told == any(WORDS in note for note in _notes(tiny_config(tiny_data, *settings)))


def test_it_is_said_of_heat_maps_and_not_of_patch_networks(tiny_point_data: Path) -> None:
    heat = tiny_point_config(tiny_point_data, "model.network=unet", "patches.size_px=32", *SQUEEZING)
    assert any(WORDS in note for note in _notes(heat))
    assert not any(WORDS in note for note in _notes(tiny_point_config(tiny_point_data)))


def _notes(config: TrainConfig) -> list[str]:
    notes: list[str] = []
    prepared = prepare(config, on_progress=quiet_progress, on_note=quiet_note)
    build_task(prepared, group=ALONE, on_progress=quiet_progress, on_note=notes.append)
    return notes
