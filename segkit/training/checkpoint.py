"""Checkpoints: the full state of a training, for resuming. The only place where torch.save and torch.load are used.

Only tensors and plain values are stored, and loaded with `weights_only=True`, so that a checkpoint cannot execute
code. torch itself does not notice damage, and the checksums in its zip archive do not cover the archive's directory
(a flipped bit there can lead to other weights without a word). So a checkpoint ends with the SHA-256 of all that
comes before, which is compared first.
"""

import hashlib
import pickle
import re
from pathlib import Path
from typing import IO, Any

import torch

from segkit import files
from segkit.errors import ModelError

FORMAT = "segkit-checkpoint-2"
KEPT = 2
_DIGEST_BYTES = 32
_NAME = re.compile(r"step-\d{8,}\.pt")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` steps."""
    return folder / f"step-{step:08d}.pt"


def newest_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint in a folder, valid or not; None where there is none."""
    return next((_step_of(path) for path in _newest_first(folder)), None)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, best: int | None = None) -> None:
    """Write the state after `step` steps, whole or not at all, then delete all but the newest two and the best one.

    Parameters
    ----------
    folder
        The checkpoints of a run.
    step
        Steps done.
    state
        Tensors and plain values.
    best
        The step of the checkpoint with the best validation score, if there is one.

    Raises
    ------
    ResourceError
        The disk is full; the earlier checkpoints stay.
    """
    with files.atomic_path(checkpoint_path(folder, step)) as temporary, temporary.open("w+b") as handle:
        _save(state, handle)
        handle.seek(0)
        digest = hashlib.file_digest(handle, "sha256").digest()  # leaves the position at the end
        handle.write(digest)
    for path in _newest_first(folder)[KEPT:]:
        if _step_of(path) != best:
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
    raise ModelError(f"{folder}: no checkpoint to resume from. Start a new run.", damaged)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in a checkpoint file, on the CPU.

    Raises
    ------
    ModelError
        It is damaged, or no checkpoint of segkit.
    """
    try:
        content = memoryview(path.read_bytes())
        if hashlib.sha256(content[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
            raise ModelError(f"{path}: is damaged or no checkpoint (its checksum is wrong).")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path}: cannot be read as a checkpoint ({' '.join(str(error).split())[:200]}).") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ModelError(f"{path}: is not a checkpoint of this version of segkit.")
    return state


def _save(state: dict[str, Any], handle: IO[bytes]) -> None:
    try:
        torch.save(state, handle)
    except RuntimeError as error:
        # While the operating system's error is on its way, torch closes its archive, fails again and hides it.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)), key=_step_of)[::-1]


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
