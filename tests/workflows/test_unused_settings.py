"""Settings that would change nothing in a training are refused."""

from pathlib import Path

import pytest

from segkit.config import TrainConfig
from segkit.errors import ConfigError
from segkit.workflows.callbacks import quiet_note, quiet_progress
from segkit.workflows.prepare import prepare
from segkit.workflows.unused_settings import refuse_unused
from tests.tiny import tiny_config, tiny_point_config

HEAT = ("model.network=unet", "patches.size_px=32")
TRANSFER = ("transfer.unfreeze_epoch=2", "transfer.pretrained_rate=0.1")
ENCODER = ("model.encoder=resnet18", "model.encoder_weights=imagenet", "transfer.pretrained_rate=0.1")


def refused(config: TrainConfig) -> list[str]:
    with pytest.raises(
        ConfigError, match=r"these settings change nothing in the training of a .*Leave them out"
    ) as caught:
        prepare(config, on_progress=quiet_progress, on_note=quiet_note)
    return [line.partition(" = ")[0] for line in caught.value.problems]


@pytest.mark.parametrize(
    "assignments",
    [
        ("model.encoder_weights=imagenet", "model.deep_supervision=true", "compute.gradient_checkpointing=true"),
        ("loss.class_weights=balanced",),
        ("loss.weight_map=true", "patches.balanced=0.9"),
        (*HEAT, "loss.class_weights=balanced", "loss.weight_map=true"),
        (*HEAT, "points.positives=0.5", "points.near_misses=0.1"),
        TRANSFER,
    ],
)
def test_what_learns_from_points_tells_of_all_that_it_would_read_past(
    tiny_point_data: Path, assignments: tuple[str, ...]
) -> None:
    given = [one.partition("=")[0] for one in assignments if one not in HEAT]
    assert sorted(refused(tiny_point_config(tiny_point_data, *assignments))) == sorted(given)


def test_what_learns_from_masks_does_so_too(tiny_data: Path) -> None:
    assert refused(tiny_config(tiny_data, "points.mining_rounds=0")) == ["points.mining_rounds"]
    assert refused(tiny_config(tiny_data, *TRANSFER)) == ["transfer.unfreeze_epoch", "transfer.pretrained_rate"]
    with pytest.raises(ConfigError, match=r"compute.compile and compute.gradient_checkpointing do not go together"):
        prepare(
            tiny_config(tiny_data, "compute.compile=true", "compute.gradient_checkpointing=true"),
            on_progress=quiet_progress,
            on_note=quiet_note,
        )


def test_what_is_used_passes_and_so_does_every_resolved_configuration(tiny_data: Path, tiny_point_data: Path) -> None:
    for config in (
        tiny_config(tiny_data, "loss.weight_map=true", "loss.class_weights=balanced", "patches.balanced=0.9"),
        tiny_config(tiny_data, "model.deep_supervision=true", "compute.gradient_checkpointing=true", *ENCODER),
        tiny_config(tiny_data, "transfer.freeze=encoder", "transfer.unfreeze_epoch=2"),
        tiny_point_config(tiny_point_data, "loss.class_weights=[1,2]", "points.positives=0.5"),
        tiny_point_config(tiny_point_data, *HEAT, "patches.balanced=0.9", "points.hard_negatives=0.1"),
    ):
        refuse_unused(prepare(config, on_progress=quiet_progress, on_note=quiet_note).config)
