"""Run folders: their names, their records, and finding the newest one."""

import csv
import json
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segkit import files
from segkit.errors import InputError, ModelError, UsageError
from segkit.models.model_file import MODEL_NAME, Model, load_model
from segkit.models.model_list import expand_models
from segkit.training.checkpoint import newest_step
from segkit.versions import version_of

RUNS = Path("runs")
RECORD = "run.json"
CONFIG = "config.yaml"
SPLITS = "splits.csv"
CHECKPOINTS = "checkpoints"


def new_run_folder(out: Path | None, data: Path) -> Path:
    """Return the folder for a new training: `out`, or `runs/DATE-TIME-DATA`.

    Raises
    ------
    UsageError
        There is a training in it already. (One that was stopped before its first checkpoint is none: it can neither
        be resumed nor is anything lost with it.)
    """
    if out is None:
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        out = RUNS / f"{stamp}-{data.resolve().name}"
    if (out / MODEL_NAME).exists() or newest_step(out / CHECKPOINTS) is not None:
        raise UsageError(f"{out}: holds a training already. Go on with it by --resume {out}, or choose another --out.")
    return out


def has_checkpoint(run: Path) -> bool:
    """Tell whether a training in this folder can be gone on with."""
    return newest_step(run / CHECKPOINTS) is not None


def point_latest_to(run: Path) -> None:
    """Let `latest` beside a run folder point to it, if it lies in a folder called `runs`."""
    run = run.resolve()
    if run.parent.name == RUNS.name:
        files.point_link(run.parent / "latest", run.name)


def newest_model(architecture: str | None = None) -> Path:
    """Return the newest finished training under runs/, of one architecture (unet, patch_cnn) or any.

    Raises
    ------
    ModelError
        There is none.
    """
    finished = [path.parent for path in RUNS.glob(f"*/{RECORD}") if _is_finished_training(path.parent, architecture)]
    if not finished:
        kind = {"unet": " of a U-Net", "patch_cnn": " of a patch CNN"}.get(architecture or "", "")
        raise ModelError(
            f"no finished training{kind} under {RUNS.resolve()}. Give --model, or run `segkit train` first."
        )
    return max(finished, key=lambda run: (run / RECORD).stat().st_mtime)


def load_models(paths: Sequence[Path], architecture: str | None, on_note: Callable[[str], None]) -> list[Model]:
    """Load model files, run folders, and the models of folders with several (`segkit train --folds`).

    Parameters
    ----------
    paths
        None: the newest finished training of this architecture, which is said.

    Raises
    ------
    ModelError
        One cannot be used, or there is none.
    """
    if not paths:
        paths = [newest_model(architecture)]
        on_note(f"model: {paths[0]} (the newest finished run)")
    return [load_model(path) for path in expand_models(paths)]


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's run.json, None where there is no readable one."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_splits(run: Path) -> dict[str, str]:
    """Return the split of every image, by name, as the training in a run folder used them.

    Raises
    ------
    InputError
        The run's splits.csv is missing or damaged.
    """
    try:
        with (run / SPLITS).open(encoding="utf-8", newline="") as handle:
            return {row["image"]: row["split"] for row in csv.DictReader(handle)}
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{run / SPLITS}: cannot be read ({error}). Start a new run.") from error


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on."""
    packages = ("segkit", "torch", "numpy", "albumentations", "tifffile", "imagecodecs")
    return {
        "python": platform.python_version(),
        **{name: version_of(name) for name in packages},
    }


def now() -> str:
    """Return the time, in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_memory_bytes() -> int:
    """Return this process's largest resident memory so far."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux


def require_folder(path: Path, what: str) -> Path:
    """Return `path`, or raise InputError if it is no folder."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder ({what}).")
    return path


def _is_finished_training(folder: Path, architecture: str | None) -> bool:
    record = read_record(folder) or {}
    named_otherwise = folder.is_symlink()  # `latest`
    trained = record.get("command") == "train" and record.get("complete") is True
    # The first runs did not say: patch CNNs were those for points.
    usual = "patch_cnn" if record.get("task") == "points" else "unet"
    suits = architecture is None or record.get("architecture", usual) == architecture
    return trained and suits and not named_otherwise and (folder / MODEL_NAME).is_file()
