"""Inputs of commands that work through slides: finding them, one failing without the others, skipping what is done."""

import dataclasses
import glob
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from segkit import files
from segkit.data.listing import name_of
from segkit.errors import InputError, UsageError
from segkit.inference.pipeline import Timings
from segkit.inference.plan import Plan
from segkit.slides import IMAGE_SUFFIXES, Slide
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT", bound="InputResult")


@dataclass(frozen=True, kw_only=True)
class InputResult:
    """What became of one input."""

    input: Path
    folder: Path
    status: Literal["done", "skipped", "failed"]
    cause: str | None = None
    exit_code: int = 0
    seconds: float | None = None


def work_through(
    paths: Sequence[Path], out: Path, result: type[ResultT], work: Callable[[Path, Path, str], ResultT], on_note: OnNote
) -> list[ResultT]:
    """Call `work` with each input, its folder `out/NAME` and what to call it in progress; return what became of each.

    An input that cannot be used does not stop the others. Full disks and the like would fail them, too: they do.
    """
    results = []
    for number, path in enumerate(paths, start=1):
        folder = out / name_of(path)
        stage = path.name if len(paths) == 1 else f"{path.name} ({number}/{len(paths)})"
        try:
            if folder.resolve() == path.resolve().parent:
                raise UsageError(
                    f"{path}: lies in the folder that its results would be written to. Choose another --out."
                )
            results.append(work(path, folder, stage))
        except (InputError, UsageError) as error:
            log.info("%s failed", path, exc_info=True)
            on_note(f"failed: {error}")
            results.append(
                result(input=path, folder=folder, status="failed", cause=str(error), exit_code=error.exit_code)
            )
    return results


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
    if record.get("key") != key:
        raise UsageError(
            f"{folder}: holds a finished result of another slide, model or other settings. Choose another --out, or "
            "replace it with --overwrite."
        )
    return record


def record_of_slide(
    slide: Slide, plan: Plan, timings: Timings, result: InputResult, key: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the record of every finished input holds."""
    seconds = {
        "total": result.seconds or 0.0,
        "waiting_for_pixels": timings.read,
        "network": timings.network,
        "waiting_for_writer": timings.write,
    }
    return {
        "input": str(slide.path.resolve()),
        "slide": {"height": slide.height, "width": slide.width, "mpp": slide.mpp, "properties": slide.properties},
        "plan": dataclasses.asdict(plan),
        "timings_s": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": runs.peak_memory_bytes(),
        "seconds": result.seconds,
        "versions": runs.versions(),
        "finished": runs.now(),
        "key": key,
        "complete": True,
    }


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
