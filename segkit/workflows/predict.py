"""From slides and a model to class maps, objects and pictures."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkit import files
from segkit.config import AUTO, PredictConfig
from segkit.inference.network import Predictor
from segkit.inference.outputs import OUTPUTS, SlideOutputs
from segkit.inference.pipeline import SlideLevel, Timings, run_tiles, with_channels
from segkit.inference.plan import Plan, make_plan
from segkit.models.inference_form import resolve_device, resolve_precision
from segkit.models.model_file import Model, load_model
from segkit.report.figures import draw_overview
from segkit.slides import Slide, open_slide
from segkit.slides.thumbnail import read_thumbnail, thumbnail_size
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.inputs import (
    InputResult,
    find_inputs,
    finished_record,
    key_of_slide,
    record_of_slide,
    work_through,
)

OVERVIEW = "overview.png"
OVERVIEW_PX = 1500


@dataclass(frozen=True, kw_only=True)
class SlideResult(InputResult):
    """What became of one input; `shares` is the area of each class, background included, as share of the slide."""

    num_objects: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """What became of all inputs, in the order given."""

    model: Path
    slides: list[SlideResult]


def predict(
    inputs: Sequence[Path],
    *,
    model: Path | None = None,
    out: Path = Path("predictions"),
    config: PredictConfig | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> PredictResult:
    """Predict slides and images of any size; each gets a folder `out/NAME`.

    An input that fails does not stop the others: its result says `failed` and why. An input that was finished
    before with the same model and settings is skipped.

    Parameters
    ----------
    inputs
        Files, folders (all images in them) or globs.
    model
        A model file or run folder; None takes the newest finished run under runs/.
    out
        Folder of the results.
    overwrite
        Replace results of another model or other settings.

    Raises
    ------
    UsageError
        There are no inputs, two share a name, or `out` cannot be written.
    ModelError
        The model cannot be used.
    """
    config = config or PredictConfig()
    paths = find_inputs(inputs)
    files.prepare_folder(out)
    if model is None:
        model = runs.newest_model("semantic")
        on_note(f"model: {model} (the newest finished run)")
    loaded = load_model(model)
    predictor = build_predictor(loaded, config)

    def work(path: Path, folder: Path, stage: str) -> SlideResult:
        return _predict_slide(path, folder, stage, loaded, predictor, config, overwrite, on_progress, on_note)

    return PredictResult(model=loaded.path, slides=work_through(paths, out, SlideResult, work, on_note))


def build_predictor(model: Model, config: PredictConfig) -> Predictor:
    """Return the model's network on the configured device, in the configured number format."""
    device = resolve_device(config.compute.device)
    return Predictor(
        model.unet,
        model.spec,
        device=device,
        precision=resolve_precision(config.compute.precision, device),
        dihedral=config.dihedral,
    )


def _predict_slide(
    path: Path,
    folder: Path,
    stage: str,
    model: Model,
    predictor: Predictor,
    config: PredictConfig,
    overwrite: bool,
    on_progress: OnProgress,
    on_note: OnNote,
) -> SlideResult:
    started = time.perf_counter()
    with open_slide(path) as slide:
        key = _key_of(path, model, predictor, config)
        finished = finished_record(folder, key, overwrite=overwrite)
        if finished is not None:
            on_note(f"{path.name}: finished before with the same model and settings, skipped")
            return SlideResult(
                input=path,
                folder=folder,
                status="skipped",
                num_objects=finished["num_objects"],
                shares=finished["shares"],
                seconds=finished["seconds"],
            )
        plan = make_plan(
            slide,
            model.spec,
            model.grid,
            mpp=None if config.mpp == AUTO else config.mpp,
            tile=config.tile,
            batch=config.batch,
            on_cuda=predictor.device.type == "cuda",
        )
        on_note(f"{path.name}: {plan.describe()}, {predictor.precision} on {predictor.device}")
        files.require_free_bytes(folder, plan.height * plan.width // 8, "the prediction")
        with files.folder_lock(folder):
            files.remove_leftovers(folder)
            for name in (runs.RECORD, *OUTPUTS, OVERVIEW):
                (folder / name).unlink(missing_ok=True)
            with SlideOutputs(
                folder, plan, model.spec.classes, probability=config.probability, min_area=config.min_area
            ) as results:
                timings = run_tiles(
                    SlideLevel(slide, plan.level, model.spec.arguments.in_channels),
                    predictor,
                    model.grid,
                    tile_px=plan.tile_px,
                    batch=plan.batch,
                    write_rows=results.write_rows,
                    on_tile=lambda done, total: on_progress(stage, done, total, {}),
                )
            _draw_overview(folder, slide, plan, model.spec.classes, results.shares())
            result = SlideResult(
                input=path,
                folder=folder,
                status="done",
                num_objects=results.num_objects,
                shares=results.shares(),
                seconds=time.perf_counter() - started,
            )
            _write_record(folder, slide, plan, key, result, timings, model, predictor)
    return result


def _key_of(path: Path, model: Model, predictor: Predictor, config: PredictConfig) -> dict[str, Any]:
    """Return what a result depends on: the slide's content, the model, the settings."""
    return {
        "slide": key_of_slide(path),
        "model_sha256": model.sha256,
        "precision": predictor.precision,
        "device": predictor.device.type,
        "settings": config.model_dump(mode="json", exclude={"compute", "batch"}),
    }


def _draw_overview(folder: Path, slide: Slide, plan: Plan, classes: Sequence[str], shares: Mapping[str, float]) -> None:
    height, width = thumbnail_size(plan.height, plan.width, OVERVIEW_PX)
    with open_slide(folder / "mask.tif") as mask:
        mask_small = read_thumbnail(mask, height, width, nearest=True)[..., 0]
    draw_overview(
        with_channels(read_thumbnail(slide, height, width), 3),
        mask_small,
        classes,
        folder / OVERVIEW,
        shares=shares,
        um_per_px=plan.mpp and plan.mpp * max(plan.height, plan.width) / max(height, width),
        title=slide.path.name,
    )


def _write_record(
    folder: Path,
    slide: Slide,
    plan: Plan,
    key: Mapping[str, Any],
    result: SlideResult,
    timings: Timings,
    model: Model,
    predictor: Predictor,
) -> None:
    files.write_json(
        folder / runs.RECORD,
        {
            "command": "predict",
            "model": {"file": str(model.path.resolve()), "sha256": model.sha256, "classes": model.spec.classes},
            "precision": predictor.precision,
            **record_of_slide(slide, plan, timings, result, key),
            "device": str(predictor.device),
            "num_objects": result.num_objects,
            "shares": dict(result.shares),
        },
    )
