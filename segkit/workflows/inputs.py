"""Inputs of commands that work through slides: finding them, and skipping what is done."""

import dataclasses
import glob
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segkit import files
from segkit.data.listing import name_of
from segkit.errors import UsageError
from segkit.slides import IMAGE_SUFFIXES
from segkit.workflows import runs


@dataclass(frozen=True, kw_only=True)
class InputResult:
    """What became of one input.

    `planned`: nothing was done but the plan (a dry run); `shared`: this worker has done its parts, and others theirs.
    """

    input: Path
    folder: Path
    status: Literal["done", "skipped", "failed", "planned", "shared"]
    cause: str | None = None
    exit_code: int = 0
    seconds: float | None = None


SUMMARY = "summary.csv"


def write_summary(out: Path, results: "Sequence[InputResult]") -> None:
    """Write `out/summary.csv`: a row for each input with what became of it.

    A worker that shares the inputs with others writes what it finds: the last one to end, what became of all.
    """
    names = [field.name for kind in {type(one): None for one in results} for field in dataclasses.fields(kind)]
    rows = [{name: _cell(getattr(one, name)) for name in names if name != "exit_code"} for one in results]
    files.write_csv(out / SUMMARY, rows, [name for name in names if name != "exit_code"])


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {number:.6g}" for name, number in value.items())
    return value


def key_of_slide(path: Path) -> dict[str, Any]:
    """Return what identifies a slide's content, not where its file lies."""
    stat = path.stat()
    return {
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "sha256_of_ends": files.sha256_of_ends(path),
    }


def finished_record(folder: Path, key: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
    """Return the record of a result that is there already, None where there is none.

    Raises
    ------
    UsageError
        There is one of something else, and it may not be replaced.
    """
    record = runs.read_record(folder)
    if record is None or overwrite or record.get("complete") is not True:
        return None
    if not all((folder / name).exists() for name in record.get("files", [])):  # someone has removed one
        return None
    if record.get("key") != key:
        raise UsageError(
            f"{folder}: holds a finished result of another slide, model or other settings. Choose another --out, or "
            "replace it with --overwrite."
        )
    return record


def find_inputs(inputs: Sequence[Path]) -> list[Path]:
    """Return the files that files, folders and globs name, without repeats, in order.

    Raises
    ------
    UsageError
        Nothing is found, or two files would share an output folder.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        if given.is_dir():
            inside = _images_among(given.iterdir())
            if not inside:
                raise UsageError(f"{given}: no images in this folder (of {', '.join(sorted(IMAGE_SUFFIXES))}).")
        elif glob.has_magic(str(given)) and not given.exists():
            base = Path(given.anchor)
            try:
                inside = sorted(path for path in base.glob(str(given.relative_to(base))) if path.is_file())
            except ValueError as error:
                raise UsageError(f"{given}: is no pattern that can be searched for ({error}).") from error
            if not inside:
                raise UsageError(f"{given}: no file matches.")
        else:
            inside = [given]
        found |= dict.fromkeys(inside)
    nameless = [str(path) for path in found if name_of(path).strip(".") == ""]
    if nameless:
        raise UsageError("results are written to a folder named like the input. Rename these first:", nameless)
    names = Counter(name_of(path) for path in found)
    twice = [f"{name}: {', '.join(str(p) for p in found if name_of(p) == name)}" for name in names if names[name] > 1]
    if twice:
        raise UsageError("several inputs would write to the same folder. Give each of them another --out:", twice)
    return list(found)


def _images_among(paths: Iterable[Path]) -> list[Path]:
    """Return the image files, sorted; hidden ones are left out (macOS puts a ._NAME beside each NAME)."""
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
