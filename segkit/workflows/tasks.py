"""The task that suits prepared data."""

from typing import Any

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
    task: Task = kind(prepared, group=group, on_progress=on_progress, on_note=on_note)
    return task
