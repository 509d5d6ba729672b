"""Settings that a training would read past: they are refused, so that nobody believes in what they did not do."""

from collections.abc import Collection, Mapping
from typing import Final

from segkit.config import TrainConfig
from segkit.errors import ConfigError
from segkit.workflows.resolve import differences

_OF_UNETS: Final = "is of U-Nets"
_HEAT_LOSS: Final = "a U-Net that finds points has a loss of its own"
_OF_POINTS: Final = "is of learning from points"
_OF_PATCHES: Final = "is of a patch CNN; a U-Net's patches are drawn by patches.balanced and points.hard_negatives"

_UNUSED: Final[Mapping[str, Mapping[str, str]]] = {
    "a patch CNN": {
        "model.encoder_weights": _OF_UNETS,
        "model.deep_supervision": _OF_UNETS,
        "compute.gradient_checkpointing": _OF_UNETS,
        "patches.balanced": "patches are drawn by points.positives, points.near_misses and points.hard_negatives",
        "loss.weight_map": "weighs the pixels of masks and labels",
    },
    "a U-Net that finds points": {
        "loss.class_weights": _HEAT_LOSS,
        "loss.weight_map": _HEAT_LOSS,
        "points.positives": _OF_PATCHES,
        "points.near_misses": _OF_PATCHES,
    },
    "a U-Net for masks or labels": {
        f"points.{key}": _OF_POINTS
        for key in (
            *("match_radius", "positive_radius", "near_radius", "positives", "near_misses"),
            *("hard_negatives", "mining_rounds"),
        )
    },
}


def refuse_unused(config: TrainConfig) -> None:
    """Refuse settings that were given and would change nothing in this training.

    Parameters
    ----------
    config
        With a task and a network (`segkit.workflows.resolve.resolve_task`).

    Raises
    ------
    ConfigError
        There are such settings, all of which are listed; or two that cannot both be followed.
    """
    given = differences(TrainConfig.model_validate({"data": {"dir": config.data.dir}}), config)
    kind = _kind_of(config)
    problems = [f"{key} = {given[key]}: {why}" for key, why in _UNUSED[kind].items() if key in given]
    problems += _unused_by_others(config, given)
    if kind == "a patch CNN" and config.loss.class_weights == "balanced":
        problems.append("loss.class_weights = balanced: classes are drawn evenly already; give one number for each")
    if problems:
        raise ConfigError(f"these settings change nothing in the training of {kind}. Leave them out:", problems)
    if config.compute.compile and config.compute.gradient_checkpointing:
        raise ConfigError(
            "compute.compile and compute.gradient_checkpointing do not go together: torch.compile cannot compute maps "
            "again. Leave one of them out."
        )


def _kind_of(config: TrainConfig) -> str:
    if config.task != "points":
        return "a U-Net for masks or labels"
    return "a U-Net that finds points" if config.model.network == "unet" else "a patch CNN"


def _unused_by_others(config: TrainConfig, given: Collection[str]) -> list[str]:
    """Return a line for each setting that others make useless, whatever is trained."""
    transfer = config.transfer
    lines = []
    if "transfer.unfreeze_epoch" in given and transfer.freeze == "none":
        lines.append(f"transfer.unfreeze_epoch = {transfer.unfreeze_epoch}: no part is frozen (transfer.freeze)")
    if "transfer.pretrained_rate" in given and transfer.init_from is None and config.model.encoder_weights == "none":
        lines.append(
            f"transfer.pretrained_rate = {transfer.pretrained_rate}: no part was learned before (transfer.init_from, "
            "model.encoder_weights)"
        )
    return lines
