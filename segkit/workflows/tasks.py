"""The task that suits prepared data."""

import math
from typing import Any

from torch import nn

from segkit.errors import ConfigError
from segkit.models.single_patch import takes_single_patches
from segkit.training.distributed import ALONE, Group
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.heat_task import HeatTask
from segkit.workflows.instance_task import InstanceTask
from segkit.workflows.mask_task import MaskTask
from segkit.workflows.point_task import PointTask
from segkit.workflows.prepare import AnyPrepared
from segkit.workflows.task import Task


def build_task(prepared: AnyPrepared, *, group: Group = ALONE, on_progress: OnProgress, on_note: OnNote) -> Task:
    """Return the task with its network, whose weights are drawn from torch's generator.

    Parameters
    ----------
    prepared
        Data and configuration.
    group
        The processes that train together.
    on_progress, on_note
        Told how far validation and mining are, and what the user should know.
    """
    match prepared.config.task, prepared.config.model.network:
        case "points", "unet":
            kind: Any = HeatTask
        case "points", _:
            kind = PointTask
        case "instance", _:
            kind = InstanceTask
        case _:
            kind = MaskTask
    task: Any = kind(prepared, group=group, on_progress=on_progress, on_note=on_note)
    _require_batch(task.network, task.input_px, prepared, group)
    network_task: Task = task
    return network_task


def _require_batch(network: nn.Module, side: int, prepared: AnyPrepared, group: Group) -> None:
    """Refuse batches of which a single patch at a time goes through batch norms over a single pixel."""
    batch, parts = int(prepared.config.patches.batch), prepared.config.compute.micro_batches
    count = batch // group.count
    part = math.ceil(count / min(parts, count))  # as torch.chunk
    last = count - (math.ceil(count / part) - 1) * part
    if last > 1 or takes_single_patches(network, prepared.channels, side):
        return
    shared = "" if group.count == 1 else f" in {group.count} processes"
    raise ConfigError(
        f"patches.batch = {batch} with compute.micro_batches = {parts}{shared}: a single patch goes through the "
        f"network at a time, of whose {side} px one pixel is left at the narrowest place, where batch norm needs "
        "several values. Take a larger batch in fewer parts, a smaller model.depth, or model.norm=none."
    )
