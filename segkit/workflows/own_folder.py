"""The folder that `evaluate` and `compare` write to: nothing of others is replaced, what they left themselves is.

Their record, run.json, is written last, so an interrupted one has none. A hidden file tells of it, so that the same
command may be run again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from segkit import files
from segkit.errors import UsageError
from segkit.models.model_file import MODEL_NAME
from segkit.workflows import runs
from segkit.workflows.given_files import read_object

STARTED: Final = ".started.json"


def require_own_folder(out: Path, command: str, names: Sequence[str]) -> None:
    """Raise UsageError where `out` holds what this command did not leave and would replace.

    Parameters
    ----------
    out
        The folder.
    command
        The command that is to write there.
    names
        The files that it writes, but for its record.
    """
    record = runs.read_record(out)
    if record is not None and record.get("command") != command:
        raise UsageError(
            f"{out}: holds what `segkit {record.get('command')}` left ({runs.RECORD}), which would be replaced. Choose "
            "another --out."
        )
    is_own = record is not None or is_unfinished(out, command)
    # Beside a record of this command a configuration is one that the command was given.
    of_training = [runs.CHECKPOINTS, MODEL_NAME, *([runs.CONFIG] if record is None else [])]
    if found := [name for name in of_training if (out / name).exists()]:
        raise UsageError(
            f"{out}: is the folder of a training ({', '.join(found)}), maybe one that was interrupted, and files of it "
            "would be replaced. Choose another --out."
        )
    if not is_own and (found := [name for name in (*names, runs.RECORD) if (out / name).exists()]):
        raise UsageError(
            f"{out}: holds {', '.join(found)}, which would be replaced, and nothing says that `segkit {command}` left "
            "it. Choose another --out, or move it away."
        )


def begin(out: Path, command: str, names: Sequence[str]) -> list[str]:
    """Delete what an earlier call of the command left in its folder, and write down that one has begun.

    Parameters
    ----------
    out, command, names
        As for `require_own_folder`, which was called before.

    Returns
    -------
    The images of the earlier call, as far as its record names them.
    """
    images = _images_of(out, command)
    files.write_json(out / STARTED, {"command": command, "images": images, "started": runs.now()})
    for name in (runs.RECORD, *names):
        files.remove(out / name)
    return images


def finish(out: Path, record: dict[str, Any]) -> None:
    """Write the record of the finished command."""
    files.write_json(out / runs.RECORD, record)
    files.remove(out / STARTED)


def is_unfinished(out: Path, command: str) -> bool:
    """Tell whether a folder is what an interrupted call of the command left."""
    return read_object(out / STARTED).get("command") == command


def _images_of(out: Path, command: str) -> list[str]:
    """Return the images that a finished or an interrupted call had pictures of."""
    for record in (runs.read_record(out) or {}, read_object(out / STARTED)):
        images = record.get("images")
        if record.get("command") == command and isinstance(images, list):
            return [str(name) for name in images]
    return []
