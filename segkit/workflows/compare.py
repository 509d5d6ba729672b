"""Two or more evaluations of the same images against each other; runs are evaluated first."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from segkit import files
from segkit.config import DataConfig, EvaluateConfig
from segkit.errors import InputError, UsageError
from segkit.evaluation.comparison import Comparison, compare_metrics
from segkit.evaluation.comparison_exports import CSV, JSON, MARKDOWN, write_comparison
from segkit.evaluation.comparison_rows import Rows, metrics_of, read_rows
from segkit.models.model_file import MODEL_NAME
from segkit.workflows import own_folder, runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.evaluate import evaluate
from segkit.workflows.given_files import METRICS, read_object

COMMAND: Final = "compare"
LEAVES: Final = (JSON, CSV, MARKDOWN, "table.tex")
"""The files that a comparison writes, but for its record."""
TABLE: Final = "metrics.csv"
MAX_NAMED: Final = 5
MODEL_SUFFIX: Final = ".safetensors"

# What must be alike, by its key in metrics.json, and what it is to a person.
_RULES: Final = {
    "thresholds": "thresholds of IoU",
    "radius_px": "radius of a match in pixels",
    "radius_um": "radius of a match in um",
    "rule": "rule of matching",
    "class": "class of the objects",
    "surface_tolerance": "tolerance of NSD",
}
# Settings that numbers of an evaluation do not depend on, or that are spoken of otherwise.
_NOT_SAID: Final = {"compute", "bootstrap", "seed", "split", "match_radius", "match_rule", "surface_tolerance"}
_UNITS: Final = {"pixels": "pixels", "objects": "objects", "points": "points"}


@dataclass(frozen=True, kw_only=True)
class CompareResult:
    """What a comparison found and left; `remarks` are what a reader should know of it."""

    comparison: Comparison
    folder: Path
    remarks: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What `segkit evaluate` left in a folder: rows of metrics.csv, metrics.json, run.json."""

    label: str
    folder: Path
    rows: Rows
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def split(self) -> str | None:
        """The split that a model was measured on, None for predictions that were there."""
        return self.record.get("settings", {}).get("split") if "model" in self.record else None


def compare(
    inputs: Sequence[Path],
    *,
    data: DataConfig | None = None,
    config: EvaluateConfig | None = None,
    out: Path = Path("comparison"),
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> CompareResult:
    """Compare evaluations of the same images by a paired bootstrap; the first is what the others are compared with.

    Parameters
    ----------
    inputs
        Folders that `segkit evaluate` left, and run folders or model files, which are evaluated on `data` first.
    data
        The data folder that runs are evaluated on.
    config
        How runs are evaluated (split, ...); the number of bootstrap samples and their seed for all.
    out
        Folder of the results: comparison.json, comparison.csv, comparison.md, table.tex, run.json, and an evaluation of
        each run.

    Raises
    ------
    UsageError
        There are fewer than two, one is named twice, runs are given without data; `out` holds something else.
    InputError
        One is no evaluation and no run, or they cannot be compared: another task, other classes or rules, no common
        image, other truths.
    """
    config = config or EvaluateConfig()
    labels = labels_of(inputs)
    models = {label: path for label, path in labels.items() if _is_run(path)}
    _require_data(models, data)
    files.prepare_folder(out)
    own_folder.require_own_folder(out, COMMAND, LEAVES)
    with files.folder_lock(out):
        files.remove_leftovers(out)
        folders = {label: out / label.replace("/", "_") if label in models else path for label, path in labels.items()}
        # Before any model is run: what is there already may be no use.
        there = {label: read_evaluation(label, path) for label, path in folders.items() if label not in models}
        for label, path in models.items():
            _evaluate_run(label, path, folders[label], data, config, on_progress, on_note)
            there[label] = read_evaluation(label, folders[label])
        evaluations = [there[label] for label in labels]
        names, remarks = common_images(evaluations)
        chosen = [one.rows.of_images(names) for one in evaluations]
        remarks += _require_comparable(evaluations, chosen, names)
        for remark in remarks:
            on_note(remark)
        meanings: dict[str, str] = {}
        for one in evaluations:
            meanings |= one.metrics.get("definitions", {})
        try:
            metrics = metrics_of(chosen, meanings, evaluations[0].metrics.get("thresholds", ()))
        except ValueError as error:
            raise InputError(f"{TABLE} of {', '.join(map(str, folders.values()))}: {error}. Evaluate again.") from error
        comparison = compare_metrics(
            chosen[0].kind,
            list(labels),
            names,
            metrics,
            groups=_groups(chosen, remarks, on_note),
            num_samples=config.bootstrap,
            seed=config.seed,
        )
        facts = {
            "folders": {label: str(folder) for label, folder in folders.items()},
            "models": {one.label: one.record.get("model") for one in evaluations},
            "splits": {one.label: one.split for one in evaluations},
        }
        own_folder.begin(out, COMMAND, LEAVES)
        write_comparison(comparison, out, facts=facts, remarks=remarks, meanings=meanings)
        record = {
            "command": COMMAND,
            **facts,
            "settings": config.model_dump(mode="json"),
            "images": names,
            "versions": runs.versions(),
            "finished": runs.now(),
            "complete": True,
        }
        own_folder.finish(out, record)
    return CompareResult(comparison=comparison, folder=out, remarks=remarks)


def _evaluate_run(
    label: str,
    model: Path,
    folder: Path,
    data: DataConfig | None,
    config: EvaluateConfig,
    on_progress: OnProgress,
    on_note: OnNote,
) -> None:
    evaluate(
        config,
        data=data,
        model=model,
        out=folder,
        on_progress=lambda stage, *rest: on_progress(f"{label}: {stage}", *rest),
        on_note=lambda note: on_note(f"{label}: {note}"),
    )


def labels_of(inputs: Sequence[Path]) -> dict[str, Path]:
    """Return inputs by a name for each: the last parts of the paths that tell them apart.

    Raises
    ------
    UsageError
        There are fewer than two, or one is named twice.
    """
    folders = [path.resolve() for path in inputs]
    if len(inputs) < 2:
        raise UsageError("give at least two evaluations or runs to be compared.")
    if twice := sorted({str(path) for path in folders if folders.count(path) > 1}):
        raise UsageError(f"{twice[0]}: is given twice.")
    parts = [(path.parent if path.name == MODEL_NAME else path).parts for path in folders]
    for length in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(one[-length:]) for one in parts]
        if len(set(labels)) == len(labels):
            return dict(zip(labels, inputs, strict=True))
    raise UsageError("a run and its own model are given: they are the same.")


def _is_run(path: Path) -> bool:
    """Tell whether a path is a run or model, not an evaluation.

    Raises
    ------
    InputError
        It is neither.
    """
    if path.is_file() and path.suffix == MODEL_SUFFIX:
        return True
    command = (runs.read_record(path) or {}).get("command")
    if command == "evaluate":
        return False
    if (path / MODEL_NAME).is_file():
        return True
    if command is None and ((path / METRICS).is_file() or own_folder.is_unfinished(path, "evaluate")):
        raise InputError(f"{path}: holds an evaluation that was not finished (no {runs.RECORD}). Evaluate again.")
    what = f"is what `segkit {command}` left" if command else "holds neither" if path.is_dir() else "is no folder"
    raise InputError(
        f"{path}: {what}. Give folders that `segkit evaluate` left ({METRICS}, {TABLE}), or runs ({MODEL_NAME})."
    )


def _require_data(models: Mapping[str, Path], data: DataConfig | None) -> None:
    if models and data is None:
        named = ", ".join(str(path) for path in models.values())
        raise UsageError(f"{named}: a run is evaluated first, and needs images. Give --data DIR (and --split).")
    if data is not None and not models:
        raise UsageError("--data is for runs, and all that is given has been evaluated already.")


def read_evaluation(label: str, folder: Path) -> Evaluation:
    """Read what `segkit evaluate` left in a folder.

    Raises
    ------
    InputError
        It was not finished, or is damaged.
    """
    record, metrics = runs.read_record(folder) or {}, read_object(folder / METRICS)
    if record.get("complete") is not True or not metrics:
        raise InputError(f"{folder}: holds no evaluation that was finished ({METRICS}, {runs.RECORD}). Evaluate again.")
    path = folder / TABLE
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            header = list(reader.fieldnames or [])
            rows = read_rows(header, list(reader))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}). Evaluate again.") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}. Evaluate again.") from error
    return Evaluation(label=label, folder=folder, rows=rows, metrics=metrics, record=record)


def common_images(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[str]]:
    """Return the images that all have, sorted, and what is to be said of the others.

    Raises
    ------
    InputError
        They have none in common.
    """
    common = set.intersection(*(set(one.rows.images) for one in evaluations))
    remarks = []
    for one in evaluations:
        left_out = [name for name in one.rows.images if name not in common]
        if left_out:
            shown = ", ".join(left_out[:MAX_NAMED]) + (", ..." if len(left_out) > MAX_NAMED else "")
            remarks.append(
                f"{one.label}: {len(left_out)} of {len(one.rows.images)} images are not in all evaluations and are "
                f"left out: {shown}"
            )
    if not common:
        raise InputError("the evaluations have no image in common, so there is nothing to compare:", remarks)
    return sorted(common), remarks


def _require_comparable(evaluations: Sequence[Evaluation], chosen: Sequence[Rows], names: Sequence[str]) -> list[str]:
    """Return what differs and is to be said; InputError for what must not differ."""
    first = evaluations[0]
    remarks = []
    for one, rows in zip(evaluations[1:], chosen[1:], strict=True):
        pair = f"{first.folder} and {one.folder}"
        if one.rows.kind != first.rows.kind:
            raise InputError(f"{pair} cannot be compared: they measure {first.rows.kind} and {one.rows.kind}.")
        if one.rows.classes != first.rows.classes:
            classes = " and ".join(f"({', '.join(of.rows.classes)})" for of in (first, one))
            raise InputError(f"{pair} cannot be compared: their classes are {classes}.")
        for key, meaning in _RULES.items():
            rule, other = first.metrics.get(key), one.metrics.get(key)
            # Without boundaries, as of slides, there is no tolerance, and no NSD to compare.
            is_absent = key == "surface_tolerance" and None in (rule, other)
            if not is_absent and _plain(rule) != _plain(other):
                raise InputError(f"{pair} cannot be compared: the {meaning} is {rule} and {other}.")
        _require_same_truth(first, one, chosen[0], rows, names)
        remarks += _differences(first, one)
    return remarks


def _plain(value: Any) -> Any:
    """Return a number rounded to what matters."""
    return round(value, 4) if isinstance(value, float) else value


def _require_same_truth(
    first: Evaluation, other: Evaluation, rows: Rows, other_rows: Rows, names: Sequence[str]
) -> None:
    places = np.argwhere(rows.truth != other_rows.truth)
    if len(places):
        image, index = places[0]
        counts = " and ".join(f"{int(one.truth[image, index])}" for one in (rows, other_rows))
        of = "" if len(rows.classes) == 1 else f" of {rows.classes[index]}"
        raise InputError(
            f"{first.folder} and {other.folder} cannot be compared: they were measured against different truths. In "
            f"{names[image]} {counts} {_UNITS[rows.kind]}{of} are labelled."
        )


def _differences(first: Evaluation, other: Evaluation) -> list[str]:
    """Return what a reader should know of two evaluations: settings, splits and versions that differ."""
    pair = f"{first.label} and {other.label}"
    remarks = []
    if first.split != other.split and None not in {first.split, other.split}:
        remarks.append(
            f"{pair} were measured on the splits {first.split} and {other.split}: images that a model has learned from "
            "may be among the common ones"
        )
    settings, others = (one.record.get("settings", {}) for one in (first, other))
    differing = sorted(
        key for key in settings.keys() & others.keys() if key not in _NOT_SAID and settings[key] != others[key]
    )
    remarks += [f"{pair} differ in {key}: {settings[key]} and {others[key]}" for key in differing]
    thresholds, other_thresholds = _score_thresholds(first), _score_thresholds(other)
    if thresholds != other_thresholds:
        remarks.append(f"{pair} have thresholds of their own: {_shown(thresholds)} and {_shown(other_thresholds)}")
    meanings, other_meanings = (one.metrics.get("definitions", {}) for one in (first, other))
    changed = sorted(name for name in meanings.keys() & other_meanings.keys() if meanings[name] != other_meanings[name])
    if changed:
        remarks.append(f"{pair} define {', '.join(changed)} otherwise: they come from different versions of segkit")
    return remarks


def _score_thresholds(evaluation: Evaluation) -> dict[str, Any]:
    """Return the thresholds of the scores of points by class."""
    classes = evaluation.metrics.get("classes")
    return {
        str(one["name"]): _plain(one["threshold"])
        for one in (classes if isinstance(classes, list) else [])
        if isinstance(one, dict) and {"name", "threshold"} <= one.keys()
    }


def _shown(thresholds: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {threshold}" for name, threshold in thresholds.items())


def _groups(chosen: Sequence[Rows], remarks: list[str], on_note: OnNote) -> list[str] | None:
    """Return the group of each image where all that know groups agree; they are in most evaluations or in none."""
    known = [[group for group in one.groups if group is not None] for one in chosen]
    whole = [groups for groups in known if len(groups) == len(chosen[0].images)]
    if any(groups != whole[0] for groups in whole[1:]):
        note = "the evaluations have images in different groups: intervals are over images"
        remarks.append(note)
        on_note(note)
        return None
    return whole[0] if whole else None
