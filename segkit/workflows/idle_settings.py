"""Parameters of what was not chosen: they do no harm, and are named, so that nobody waits for their effect.

What asks for something that a training does not do at all is refused: see `segkit.workflows.unused_settings`.
"""

from typing import Any

from segkit.config import AUTO, TrainConfig
from segkit.models.patch_cnn import usual_activation, usual_base_channels, usual_depth, usual_norm
from segkit.workflows.resolve import differences, times


def note_idle(config: TrainConfig) -> list[str]:
    """Return a line for each setting that another one makes idle.

    Parameters
    ----------
    config
        Without `auto`; values that `auto` has chosen are not named.
    """
    usual = TrainConfig.model_validate({"data": {"dir": config.data.dir}})
    given = differences(usual, config)
    automatic = _chosen_by_auto(config)
    lines = [
        f"without effect: {key} = {given[key]} ({why})"
        for is_idle, keys, why in _rules(config)
        for key in keys
        if is_idle and key in given and given[key] != automatic.get(key)
    ]
    transfer = config.transfer
    if transfer.freeze != "none" and transfer.init_from is None and config.model.encoder_weights == "none":
        lines.append(
            f"transfer.freeze = {transfer.freeze}: no part was learned before (transfer.init_from, "
            "model.encoder_weights), and what is frozen stays as chance has made it"
        )
    if config.average_best > config.epochs:
        lines.append(f"average_best = {config.average_best}: is more than there are epochs ({config.epochs})")
    return lines


def _rules(config: TrainConfig) -> list[tuple[bool, tuple[str, ...], str]]:
    """Return which settings are idle when, and by which other one."""
    model, loss, optimiser = config.model, config.loss, config.optimiser
    form, schedule = f"model.form = {model.form}", f"optimiser.schedule = {optimiser.schedule}"
    is_rated = optimiser.schedule in ("step", "plateau")
    has_momentum = optimiser.name in ("sgd", "rmsprop")
    by_heat = config.task == "points" and model.network == "unet"
    weight_map, task, epochs = f"loss.weight_map = {loss.weight_map}", f"task = {config.task}", config.epochs
    return [
        (model.form in ("mlp", "linear"), ("model.base_channels", "model.depth", "model.norm"), form),
        (model.form == "linear", ("model.dropout", "model.activation"), form),
        (by_heat, ("points.near_radius",), "model.network = unet"),
        (config.task != "points", ("data.hard_negatives",), task),
        (config.task == "points", ("data.ignore",), task),
        (loss.name != "focal", ("loss.focal_gamma",), f"loss.name = {loss.name}"),
        (loss.name != "tversky", ("loss.tversky_alpha", "loss.tversky_beta"), f"loss.name = {loss.name}"),
        (not loss.weight_map, ("loss.weight_map_w0", "loss.weight_map_sigma_px"), weight_map),
        (not has_momentum, ("optimiser.momentum",), f"optimiser.name = {optimiser.name}"),
        (not is_rated, ("optimiser.decay_factor", "optimiser.decay_epochs"), schedule),
        (optimiser.schedule == "one_cycle", ("optimiser.warmup_steps",), schedule),
        ((config.transfer.unfreeze_epoch or 0) > epochs, ("transfer.unfreeze_epoch",), f"epochs = {epochs}"),
        (config.patience >= epochs, ("patience",), f"epochs = {epochs}"),
    ]


def _chosen_by_auto(config: TrainConfig) -> dict[str, Any]:
    """Return what `auto` gives to settings that may be idle."""
    chosen: dict[str, Any] = {
        "optimiser.warmup_steps": min(200, round(0.05 * int(config.steps_per_epoch) * config.epochs)),
        "model.dropout": 0.0,
    }
    form, match = config.model.form, config.points.match_radius
    if form in ("mlp", "linear"):
        chosen["model.base_channels"] = usual_base_channels(form)
        chosen["model.depth"] = usual_depth(form, int(config.patches.size_px))
        chosen["model.norm"], chosen["model.activation"] = usual_norm(form), usual_activation(form)
    if match != AUTO:
        chosen["points.near_radius"] = times(match, 3)
    return chosen
