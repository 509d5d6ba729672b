"""Several models that are used as one: a list of their files in a folder."""

import json
from collections.abc import Sequence
from pathlib import Path

from segkit import files
from segkit.errors import ModelError

LIST_NAME = "models.json"
MAX_BYTES = 100_000


def write_model_list(folder: Path, models: Sequence[Path]) -> None:
    """Write the list of model files that lie below a folder."""
    files.write_json(folder / LIST_NAME, {"models": [str(path.relative_to(folder)) for path in models]})


def expand_models(paths: Sequence[Path]) -> list[Path]:
    """Return the paths with folders that hold a list replaced by what it names.

    Raises
    ------
    ModelError
        A list is damaged, names nothing, or names what lies outside its folder.
    """
    expanded: list[Path] = []
    for path in paths:
        table = path / LIST_NAME
        expanded += _read(table) if table.is_file() else [path]
    return expanded


def _read(table: Path) -> list[Path]:
    try:
        if table.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        names = json.loads(table.read_text(encoding="utf-8"))["models"]
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("it names no models")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{table}: cannot be used as a list of models ({error}).") from error
    folder = table.parent.resolve()
    paths = [table.parent / name for name in names]
    outside = [str(path) for path in paths if not path.resolve().is_relative_to(folder)]
    if outside:
        raise ModelError(f"{table}: names models outside its folder:", outside)
    return paths
