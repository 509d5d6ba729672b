"""The three kinds of reports as one: for what treats them alike, and what a reader should know beside their numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from segkit.evaluation import confidence, object_exports, pixel_exports, point_exports
from segkit.evaluation.object_tables import ObjectReport
from segkit.evaluation.pixel_tables import PixelReport
from segkit.evaluation.point_tables import PointReport
from segkit.files import write_json, write_text
from segkit.versions import METRIC_PACKAGES, versions_of

Report = PixelReport | ObjectReport | PointReport

SUMMARY: Final = "summary.md"
METRICS: Final = "metrics.json"
MAX_NAMED: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Remarks:
    """What a reader should know of an evaluation beside its numbers.

    `left_out` are the images that have a truth and no prediction; `notes` sentences on what was measured, and how.
    """

    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


NO_REMARKS: Final = Remarks()


def as_json(report: Report, remarks: Remarks = NO_REMARKS) -> dict[str, Any]:
    """Return the content of metrics.json: remarks, definitions and the versions that metrics depend on in it."""
    match report:
        case PixelReport():
            content = pixel_exports.as_json(report)
        case ObjectReport():
            content = object_exports.as_json(report)
        case PointReport():
            content = point_exports.as_json(report)
    return {
        "segkit": content["segkit"],
        "versions": versions_of(METRIC_PACKAGES),
        "left_out": list(remarks.left_out),
        "notes": list(remarks.notes),
        **content,
        "definitions": {**content["definitions"], **confidence.DEFINITIONS},
    }


def write_remarks(report: Report, folder: Path, remarks: Remarks) -> None:
    """Put remarks, versions and what intervals are into the `summary.md` and `metrics.json` that a report has left.

    Each is replaced whole or not at all.
    """
    summary = (folder / SUMMARY).read_text(encoding="utf-8")
    write_text(folder / SUMMARY, _with_remarks(summary, remarks, len(report.images)))
    write_json(folder / METRICS, as_json(report, remarks))


def _with_remarks(summary: str, remarks: Remarks, num_measured: int) -> str:
    """Return a summary with what was left out below its title, and notes below its definitions, which stand last."""
    title, _, rest = summary.rstrip("\n").partition("\n\n")
    left_out = [f"**{left_out_in_words(remarks.left_out, num_measured)}**"] if remarks.left_out else []
    defined = "".join(f"\n- {name}: {meaning}" for name, meaning in confidence.DEFINITIONS.items())
    notes = ["## Notes", "\n".join(f"- {' '.join(note.split())}" for note in remarks.notes)] if remarks.notes else []
    return "\n\n".join([title, *left_out, rest + defined, *notes]) + "\n"


def left_out_in_words(left_out: Sequence[str], num_measured: int) -> str:
    """Return a sentence on the images that have a truth and no prediction."""
    total, rest = len(left_out) + num_measured, len(left_out) - MAX_NAMED
    named = ", ".join(left_out[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    return (
        f"{len(left_out)} of {total} images have no prediction and are left out of all numbers, which may therefore "
        f"be too good: {named}."
    )
