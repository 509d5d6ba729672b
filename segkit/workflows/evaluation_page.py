"""The page of an evaluation, report.html: from a report, its record and the run of its model to one file."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from segkit import files
from segkit.evaluation.estimates import Resampled
from segkit.evaluation.object_tables import ObjectReport
from segkit.evaluation.pixel_tables import PixelReport
from segkit.evaluation.point_tables import PointReport
from segkit.evaluation.reports import NO_REMARKS, Remarks, Report, left_out_in_words
from segkit.report.judgement import judge_curves
from segkit.report.page.content import Block, Case, Fact, Page, Section
from segkit.report.page.document import as_html
from segkit.report.page.gallery import make_gallery
from segkit.report.page.number import in_digits
from segkit.report.page.shelf import Draw
from segkit.report.page.standard_charts import learning_charts
from segkit.workflows import runs
from segkit.workflows.object_page import object_parts
from segkit.workflows.page_parts import ReportParts, in_plural, label_of
from segkit.workflows.pixel_page import pixel_parts, pixel_sections
from segkit.workflows.point_page import point_parts
from segkit.workflows.test_looks import TEST_SPLITS, WHAT_COUNTS, read_looks

PAGE: Final = "report.html"
FEW_UNITS: Final = 20
"""Bootstrap intervals over fewer images or groups are too narrow, and the page says so."""


def write_page(
    report: Report,
    path: Path,
    *,
    record: Mapping[str, Any],
    definitions: Mapping[str, str],
    run: Path | None = None,
    pictures: Mapping[str, Draw] | None = None,
    sections: Sequence[Section] = (),
    remarks: Remarks = NO_REMARKS,
) -> None:
    """Write the page of an evaluation, one file that needs no other.

    Parameters
    ----------
    report
        What was measured.
    path
        The file to write.
    record
        What run.json says of the evaluation: `data`, `model`, `model_sha256`, or `prediction` and `truth`; `settings`,
        `versions`, `finished`. All of it may be missing.
    definitions
        Those of metrics.json.
    run
        The folder of the model's run, whose learning curves and looks at the test set are shown.
    pictures
        By the names of images, what draws them (`segkit.report.page.shelf`); None: the page has no cases.
    sections
        What else was measured, after the numbers and charts of the report.
    remarks
        What a reader should know beside the numbers.
    """
    match report:
        case PixelReport():
            parts = pixel_parts(report, definitions)
            sections = (*pixel_sections(report, definitions), *sections)
        case ObjectReport():
            parts = object_parts(report, definitions)
        case PointReport():
            parts = point_parts(report, definitions)
    training = None if run is None else _training(run)
    drawn = [
        Section("Numbers", parts.numbers),
        Section("Charts", parts.charts),
        *sections,
        *([Section("Groups", parts.groups)] if parts.groups else []),
        *([_cases(parts, pictures)] if pictures else []),
        Section("Images", (parts.images,)),
        *([] if training is None else [training]),
        *([Section("Notes", (), remarks.notes)] if remarks.notes else []),
    ]
    page = Page(
        kicker="Evaluation report",
        title=_title(record),
        headline=parts.headline,
        facts=_facts(report, record, run, len(parts.names)),
        sections=tuple(drawn),
        definitions={label_of(name): text for name, text in definitions.items()},
        warnings=_warnings(report, record, run, remarks),
        footer=_footer(record),
    )
    files.write_text(path, as_html(page))


def _title(record: Mapping[str, Any]) -> str:
    split = _split(record)
    source = record.get("model") or record.get("prediction") or ""
    target = record.get("data") or record.get("truth") or ""
    measured = f"{_name(source) or 'Predictions'} on {_name(target) or 'the truth'}"
    return f"{measured}, {split} images" if split else measured


def _name(path: str) -> str:
    """Return what a path is known by: a model file in a run folder by the folder's name."""
    parts = Path(path).parts
    return parts[-2] if len(parts) > 1 and Path(path).suffix == ".safetensors" else (parts[-1] if parts else "")


def _split(record: Mapping[str, Any]) -> str:
    """Return the split that was measured, empty where predictions were given."""
    return str(record.get("settings", {}).get("split", "")) if record.get("data") else ""


def _facts(report: Resampled, record: Mapping[str, Any], run: Path | None, num_images: int) -> tuple[Fact, ...]:
    split = _split(record)
    facts = [Fact("Images", f"{num_images:,}" + (f", split {split}" if split else ""))]
    for name, key in (("Data", "data"), ("Truth", "truth"), ("Predictions", "prediction")):
        if record.get(key):
            facts.append(Fact(name, _name(record[key]), (record[key],)))
    if record.get("model"):
        digest = str(record.get("model_sha256", ""))
        facts.append(Fact("Model", _name(record["model"]), (record["model"], f"SHA-256 {digest}")))
    trained = None if run is None else runs.read_record(run)
    if trained is not None and trained.get("command") == "train":
        epochs = (
            f"{trained['epochs']} epochs, the best {trained['best_epoch']}"
            if {"epochs", "best_epoch"} <= trained.keys()
            else ""
        )
        facts.append(Fact("Trained", str(trained.get("finished", ""))[:10] or "unknown", (epochs,) if epochs else ()))
    intervals = (
        f"bootstrap over {report.num_units} {report.unit}s" if report.num_units > 1 else "none: a single " + report.unit
    )
    facts.append(Fact("Intervals", intervals, (report.intervals_in_words(),)))
    if run is not None:
        looks = read_looks(run)
        told = "never" if not looks else in_plural(len(looks), "time")
        facts.append(
            Fact(
                "Test set looked at",
                f"{told} with models of this run",
                (
                    *(f"{one['date']}, split {one['split']}, model {one['model_sha256'][:12]}" for one in looks),
                    WHAT_COUNTS,
                ),
            )
        )
    if record.get("finished"):
        facts.append(Fact("Evaluated", str(record["finished"]).replace("T", " ").replace("+00:00", " UTC")))
    versions = record.get("versions", {})
    if versions:
        details = tuple(f"{name} {version}" for name, version in versions.items())
        facts.append(Fact("Software", f"segkit {versions.get('segkit', '')}".strip(), details))
    return tuple(facts)


def _warnings(report: Report, record: Mapping[str, Any], run: Path | None, remarks: Remarks) -> tuple[str, ...]:
    """Return what a reader must know before believing the number."""
    said = []
    if remarks.left_out:
        said.append(left_out_in_words(remarks.left_out, len(report.images)))
    split = _split(record)
    if split == "train":
        said.append("These are images that the model was trained on: the numbers say nothing about other images.")
    elif split == "val":
        said.append(
            "These are validation images. On such a training chooses its epoch and its thresholds, so the numbers may "
            "be somewhat too good: report those of the test split."
        )
    if split in TEST_SPLITS and run is not None and len(read_looks(run)) > 1:
        said.append(
            f"The test set has been looked at {len(read_looks(run))} times with models of this run. If one of these "
            f"looks had a part in choosing the model, the numbers are too good. {WHAT_COUNTS}"
        )
    if 1 < report.num_units < FEW_UNITS:
        said.append(
            f"The intervals rest on {report.num_units} {report.unit}s only; of fewer than about {FEW_UNITS} they come "
            "out too narrow."
        )
    return tuple(said)


def _cases(parts: ReportParts, pictures: Mapping[str, Draw]) -> Section:
    def case_of(index: int, longest_px: int) -> Case:
        name = parts.names[index]
        score = f"{parts.score_name} {in_digits(parts.scores[index])}"
        return Case(name, score, parts.texts[index], pictures[name](longest_px))

    drawable = [index for index, name in enumerate(parts.names) if name in pictures]
    gallery = make_gallery(parts.scores, parts.names, case_of, drawable=drawable, legend=parts.legend)
    return Section("Cases", (gallery,), (f"Images by their {parts.score_in_full}. Open one to see it large.",))


def _training(run: Path) -> Section | None:
    """Return the learning curves of a run, None where there are none that can be read."""
    rows = _history(run)
    scores = [name for row in rows[:1] for name in row if name.startswith("val_") and name != "val_loss"]
    metric = next((name.removeprefix("val_") for name in scores if "/" not in name), None)
    if metric is None:
        return None
    blocks: tuple[Block, ...] = learning_charts(rows, metric)
    return Section("Training", blocks, tuple(judge_curves(rows, metric=metric)))


def _history(run: Path) -> list[dict[str, float | None]]:
    """Return the rows of a run's metrics.csv; cells that are no number are None."""
    try:
        with (run / "metrics.csv").open(encoding="utf-8", newline="") as handle:
            return [{name: _float(text) for name, text in row.items()} for row in csv.DictReader(handle)]
    except (OSError, UnicodeDecodeError):
        return []


def _float(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _footer(record: Mapping[str, Any]) -> str:
    version = record.get("versions", {}).get("segkit", "")
    return (
        f"Made by segkit {version}. ".replace(" . ", ". ")
        + "The same numbers, for machines, are in metrics.json and metrics.csv."
    )
