"""From predictions and truth to metrics; the predictions are made here, or are there already."""

from dataclasses import dataclass
from pathlib import Path

from segkit import files
from segkit.config import AUTO, DataConfig, EvaluateConfig
from segkit.errors import UsageError
from segkit.evaluation.latex import write_table
from segkit.evaluation.reports import Report, as_json
from segkit.models.model_file import Model, load_model
from segkit.workflows import runs
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
from segkit.workflows.predicted_masks import predicted_masks
from segkit.workflows.test_looks import TEST_SPLITS, record_look

FIGURES, PREDICTIONS = "figures", "predictions"


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """What an evaluation found and left."""

    report: Report
    folder: Path
    figures: list[Path]


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
        The data, model or masks do not fit together.
    UsageError
        `out` holds what another command left.
    """
    if config.split == AUTO:
        config = config.model_copy(update={"split": "all" if data is None else "val"})
    files.prepare_folder(out)
    require_own_folder(out, "evaluate")
    loaded = None if data is None else _load(model, on_note)  # first: without a model, former results stay
    with files.folder_lock(out):
        files.remove_leftovers(out)
        _remove_former(out, *([FIGURES, PREDICTIONS] if data is not None else [FIGURES]))
        report: Report
        measured: FoundMasks | Found | FoundObjects
        if data is not None and loaded is not None:
            if loaded.spec.task == "points":
                measured = predicted_points(config, data, loaded, out / FIGURES, on_progress, on_note)
            elif loaded.spec.task == "instance":
                measured = predicted_objects(
                    config, data, loaded, out / FIGURES, out / PREDICTIONS, on_progress, on_note
                )
            else:
                measured = predicted_masks(config, data, loaded, out / FIGURES, out / PREDICTIONS, on_progress, on_note)
            if config.split in TEST_SPLITS:
                record_look(loaded, split=config.split, out=out, on_note=on_note)
        elif prediction is not None and truth is not None:
            measured = measure_given(config, prediction, truth, out / FIGURES, on_progress, on_note)
        else:
            raise ValueError("give data, or prediction and truth")
        if isinstance(measured, Found):
            report = measure(measured, config, out)
            measured.figures.insert(0, out / CURVES)
        elif isinstance(measured, FoundObjects):
            report = measure_found(measured, config, out)
        else:
            report = measure_masks(measured, config, out)
        write_table(report, out)
        record = {
            "command": "evaluate",
            **{name: str(path.resolve()) for name, path in {"prediction": prediction, "truth": truth}.items() if path},
            **measured.source,
            "settings": config.model_dump(mode="json"),
            "images": measured.names,
            "versions": runs.versions(),
            "finished": runs.now(),
            "complete": True,
        }
        write_page(
            report,
            out / PAGE,
            record=record,
            definitions=as_json(report)["definitions"],
            run=None if loaded is None else loaded.path.parent,
            pictures=measured.shelf.pictures(),
        )
        files.write_json(out / runs.RECORD, record)
    return EvaluateResult(report=report, folder=out, figures=measured.figures)


def require_own_folder(out: Path, command: str) -> None:
    """Raise UsageError where another command left its record in `out`, such as a training, which would be replaced."""
    record = runs.read_record(out)
    if record is not None and record.get("command") != command:
        raise UsageError(
            f"{out}: holds what `segkit {record.get('command')}` left ({runs.RECORD}), which would be replaced. Choose "
            "another --out."
        )


def _remove_former(out: Path, *folders: str) -> None:
    """Delete what an earlier evaluation left, so that no figure or mask of another split stays among the new ones.

    Only files of images that its record names: the folder may be one that the user has other pictures in.
    """
    record = runs.read_record(out)
    if record is None or record.get("command") != "evaluate":
        return
    (out / runs.RECORD).unlink()
    for path in [path for folder in folders for kind in ("*.png", "*.tif") for path in (out / folder).glob(kind)]:
        if path.stem in record["images"]:
            path.unlink()
    for name in (CURVES, CURVE_TABLE, PAGE):
        (out / name).unlink(missing_ok=True)


def _load(path: Path | None, on_note: OnNote) -> Model:
    if path is None:
        path = runs.newest_model()
        on_note(f"model: {path} (the newest finished run)")
    return load_model(path)
