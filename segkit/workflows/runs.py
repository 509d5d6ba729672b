"""Run folders: their names, their records, and finding the newest one."""

import importlib.metadata
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segkit import files
from segkit.errors import InputError, ModelError, UsageError
from segkit.models.model_file import MODEL_NAME

RUNS = Path("runs")
RECORD = "run.json"


def new_run_folder(out: Path | None, data: Path) -> Path:
    """Return the folder for a new training: `out`, or `runs/DATE-TIME-DATA`.

    Raises
    ------
    UsageError
        There is a training in it already.
    """
    if out is None:
        stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
        out = RUNS / f"{stamp}-{data.resolve().name}"
    if (out / "config.yaml").exists():
        raise UsageError(f"{out}: holds a training already. Go on with it by --resume {out}, or choose another --out.")
    return out


def point_latest_to(run: Path) -> None:
    """Let `latest` beside a run folder point to it, if it lies in a folder called `runs`."""
    if run.resolve().parent.name == RUNS.name:
        files.point_link(run.resolve().parent / "latest", run.name)


def newest_model() -> Path:
    """Return the newest finished training under runs/.

    Raises
    ------
    ModelError
        There is none.
    """
    finished = [path.parent for path in RUNS.glob(f"*/{RECORD}") if is_complete(path.parent) and not _is_link(path)]
    if not finished:
        raise ModelError(f"no finished training under {RUNS.resolve()}. Give --model, or run `segkit train` first.")
    return max(finished, key=lambda run: (run / RECORD).stat().st_mtime)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's run.json, None where there is no readable one."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_complete(folder: Path) -> bool:
    """Tell whether the run in a folder was finished."""
    record = read_record(folder)
    return record is not None and record.get("complete") is True


def versions() -> dict[str, str]:
    """Return the versions of what numbers depend on."""
    packages = ("segkit", "torch", "numpy", "albumentations", "tifffile", "imagecodecs")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
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


def _is_link(record: Path) -> bool:
    return record.parent.is_symlink()


def has_model(folder: Path) -> bool:
    """Tell whether a folder holds a model file."""
    return (folder / MODEL_NAME).is_file()
