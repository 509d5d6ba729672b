"""From predictions and truth to metrics; the predictions are made here, or are there already."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from segkit import files
from segkit.config import AUTO, DataConfig, EvaluateConfig
from segkit.evaluation.latex import write_table
from segkit.evaluation.reports import NO_REMARKS, Remarks, Report, as_json, left_out_in_words, write_remarks
from segkit.models.model_file import Model, load_model
from segkit.versions import METRIC_PACKAGES, versions_of
from segkit.workflows import own_folder, runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.evaluate_given import measure_given
from segkit.workflows.evaluate_objects import FoundObjects, measure_found, predicted_objects
from segkit.workflows.evaluate_points import (
    CURVE_TABLE,
    CURVES,
    Found,
    measure,
    predicted_points,
)
from segkit.workflows.evaluation_page import PAGE, write_page
from segkit.workflows.measured_masks import FoundMasks, measure_masks
from segkit.workflows.missing import Missing
from segkit.workflows.predicted_masks import predicted_masks
from segkit.workflows.test_looks import TEST_SPLITS, WHAT_COUNTS, looks_in_words, read_looks, record_look

FIGURES, PREDICTIONS = "figures", "predictions"
COMMAND: Final = "evaluate"
LEAVES: Final = ("metrics.json", "metrics.csv", "summary.md", PAGE, "table.tex", CURVE_TABLE, CURVES)
"""The files that an evaluation writes, but for its record, pictures and masks."""


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """What an evaluation found and left; `remarks` are what a reader should know beside the numbers."""

    report: Report
    folder: Path
    figures: list[Path]
    remarks: Remarks = NO_REMARKS


def evaluate(
    config: EvaluateConfig,
    *,
    data: DataConfig | None = None,
    model: Path | None = None,
    prediction: Path | None = None,
    truth: Path | None = None,
    out: Path = Path("evaluation"),
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> EvaluateResult:
    """Measure a model on a data folder, or predictions that are there against the truth.

    Parameters
    ----------
    data, model
        A data folder and a model (None: the newest run): its images are predicted, then measured: by pixels, by
        objects or by points, as the model's task is. That the test set is looked at is written down beside the model.
    prediction, truth
        Folders of files, paired by name: masks of class ids, ids of objects, polygons (GeoJSON), detections; a
        prediction may also be what `predict` and `sliding-window` leave, the truth a data folder. See
        `segkit.workflows.evaluate_given`, which chooses what is measured. Slides of any size are read in blocks.
    out
        Folder of the results: report.html, metrics.json, metrics.csv, summary.md, table.tex, figures/, and predictions/
        where masks were made; for points also curves.csv and curves.png.

    Raises
    ------
    InputError
        The data, model or masks do not fit together, or truths have no prediction and may not be left out.
    UsageError
        `out` holds what another command left, or files that would be replaced and are of nobody known.
    """
    if config.split == AUTO:
        config = config.model_copy(update={"split": "all" if data is None else "val"})
    files.prepare_folder(out)
    own_folder.require_own_folder(out, COMMAND, LEAVES)
    loaded = None if data is None else _load(model, on_note)  # first: without a model, former results stay
    missing = Missing(allowed=config.allow_missing)
    notes: list[str] = []

    def say(note: str) -> None:
        notes.append(note)
        on_note(note)

    with files.folder_lock(out):
        files.remove_leftovers(out)
        former = own_folder.begin(out, COMMAND, LEAVES)
        _remove_pictures(out, former, *([FIGURES, PREDICTIONS] if data is not None else [FIGURES]))
        report: Report
        measured: FoundMasks | Found | FoundObjects
        if data is not None and loaded is not None:
            if loaded.spec.task == "points":
                measured = predicted_points(config, data, loaded, out / FIGURES, on_progress, say)
            elif loaded.spec.task == "instance":
                measured = predicted_objects(config, data, loaded, out / FIGURES, out / PREDICTIONS, on_progress, say)
            else:
                measured = predicted_masks(config, data, loaded, out / FIGURES, out / PREDICTIONS, on_progress, say)
            if config.split in TEST_SPLITS:
                record_look(loaded, split=config.split, out=out, on_note=on_note)
        elif prediction is not None and truth is not None:
            measured = measure_given(config, prediction, truth, out / FIGURES, on_progress, say, missing)
            if missing.names:
                on_note(left_out_in_words(missing.names, len(measured.names)))
        else:
            raise ValueError("give data, or prediction and truth")
        if isinstance(measured, Found):
            report = measure(measured, config, out)
            measured.figures.insert(0, out / CURVES)
        elif isinstance(measured, FoundObjects):
            report = measure_found(measured, config, out)
        else:
            report = measure_masks(measured, config, out)
        remarks = Remarks(left_out=tuple(missing.names), notes=tuple(notes))
        looks = [] if loaded is None or config.split not in TEST_SPLITS else _on_looks(loaded)
        write_remarks(report, out, replace(remarks, notes=(*notes, *looks)))
        write_table(report, out)
        record = {
            "command": COMMAND,
            **{name: str(path.resolve()) for name, path in {"prediction": prediction, "truth": truth}.items() if path},
            **measured.source,
            "settings": config.model_dump(mode="json"),
            "images": measured.names,
            "left_out": list(remarks.left_out),
            "notes": list(remarks.notes),
            "versions": runs.versions() | versions_of(METRIC_PACKAGES),
            "finished": runs.now(),
            "complete": True,
        }
        write_page(
            report,
            out / PAGE,
            record=record,
            definitions=as_json(report)["definitions"],
            remarks=remarks,
            run=None if loaded is None else loaded.path.parent,
            pictures=measured.shelf.pictures(),
        )
        own_folder.finish(out, record)
    return EvaluateResult(report=report, folder=out, figures=measured.figures, remarks=remarks)


def _on_looks(model: Model) -> list[str]:
    """Return how often the test set was looked at, and what that means, where the model lies in its run."""
    run = model.path.parent
    return [f"{looks_in_words(run)}. {WHAT_COUNTS}"] if read_looks(run) else []


def _remove_pictures(out: Path, images: Sequence[str], *folders: str) -> None:
    """Delete pictures of an earlier evaluation, so that no figure or mask of another split stays among the new ones.

    Only those of images that it named: the folder may be one that the user has other pictures in.
    """
    for path in [path for folder in folders for kind in ("*.png", "*.tif") for path in (out / folder).glob(kind)]:
        if path.stem in images:
            path.unlink()


def _load(path: Path | None, on_note: OnNote) -> Model:
    if path is None:
        path = runs.newest_model()
        on_note(f"model: {path} (the newest finished run)")
    return load_model(path)
