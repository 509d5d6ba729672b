"""Checkpoints: the full state of a training, for resuming. The only place where torch.save and torch.load are used.

Only tensors and plain values are stored, and loaded with `weights_only=True`, so that a checkpoint cannot execute
code. A checkpoint is an uncompressed zip archive whose CRCs torch itself does not check; they are checked here first.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from segkit import files
from segkit.errors import ModelError

KEPT = 2
_NAME = re.compile(r"epoch-(\d{5})\.pt")


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Return the path of the checkpoint after `epoch` epochs."""
    return folder / f"epoch-{epoch:05d}.pt"


def save_checkpoint(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write the state after `epoch` epochs, whole or not at all, then delete all but the newest two."""
    with files.atomic_path(checkpoint_path(folder, epoch)) as temporary:
        torch.save(state, temporary)
        _check_archive(temporary)
    for path in _newest_first(folder)[KEPT:]:
        path.unlink()


def load_newest(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Return path and state of the newest valid checkpoint, and a note about each newer one that is damaged.

    Raises
    ------
    ModelError
        There is no valid one; nothing is started afresh silently.
    """
    damaged: list[str] = []
    for path in _newest_first(folder):
        try:
            return path, load_checkpoint(path), damaged
        except ModelError as error:
            damaged.append(str(error))
    raise ModelError(f"{folder}: no checkpoint to resume from. Start a new run without --resume.", damaged)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in a checkpoint file, on the CPU.

    Raises
    ------
    ModelError
        It is damaged, or no checkpoint of segkit.
    """
    try:
        _check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path}: is damaged or no checkpoint ({' '.join(str(error).split())[:200]}).") from error
    if not isinstance(state, dict) or state.get("format") != "segkit-checkpoint-1":
        raise ModelError(f"{path}: is not a checkpoint of this version of segkit.")
    return state


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise zipfile.BadZipFile(f"wrong checksum of `{broken}`")


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("epoch-*.pt") if _NAME.fullmatch(path.name)), reverse=True)
