"""From slides and a patch CNN to a map of probabilities, detections and pictures."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segkit import files
from segkit.config import AUTO, SlidingWindowConfig
from segkit.geometry import Box
from segkit.inference.detect import MapGrid
from segkit.inference.detection_outputs import DETECTION_OUTPUTS, PROBABILITY, DetectionOutputs
from segkit.inference.image_detection import detector_settings
from segkit.inference.pipeline import SlideLevel, Timings, run_tiles, with_channels
from segkit.inference.plan import Plan, make_plan
from segkit.inference.verification import Verifier
from segkit.inference.window import WindowPredictor
from segkit.models.inference_form import resolve_device
from segkit.models.model_file import DetectionSpec, Model, load_model
from segkit.points import Detections
from segkit.report.detections import draw_contact_sheet, draw_detections_overview
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

OVERVIEW, CONTACT_SHEET = "overview.png", "windows.png"
OVERVIEW_PX = 1500
WINDOWS_SHOWN = 24
SMALLEST_WINDOW_PX = 64
ROUNDING: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.05}
"""Differences of a probability that orders of adding explain, far above those that were measured."""


@dataclass(frozen=True, kw_only=True)
class WindowResult(InputResult):
    """What became of one input; `num_detections` by class, `largest_difference` where `verify` was asked for."""

    num_detections: Mapping[str, int] = field(default_factory=dict)
    largest_difference: float | None = None


@dataclass(frozen=True, kw_only=True)
class SlidingWindowResult:
    """What became of all inputs, in the order given; `method` is how the windows were computed."""

    models: list[Path]
    method: str
    slides: list[WindowResult]


@dataclass(frozen=True)
class _Job:
    """What holds for all inputs of a call."""

    models: Sequence[Model]
    predictor: WindowPredictor
    detection: DetectionSpec
    config: SlidingWindowConfig
    overwrite: bool
    on_progress: OnProgress
    on_note: OnNote


def sliding_window(
    inputs: Sequence[Path],
    *,
    models: Sequence[Path] = (),
    out: Path = Path("detections"),
    config: SlidingWindowConfig | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> SlidingWindowResult:
    """Run a patch CNN at every `stride`-th pixel of slides and images, and find the objects in its probabilities.

    Each input gets a folder `out/NAME`. An input that fails does not stop the others; one that was finished before
    with the same models and settings is skipped.

    Parameters
    ----------
    inputs
        Files, folders (all images in them) or globs.
    models
        Model files or run folders, whose probabilities are averaged; none takes the newest finished run under runs/
        that learned from points.
    out
        Folder of the results.
    overwrite
        Replace results of other models or settings.

    Raises
    ------
    UsageError
        There are no inputs, two share a name, `out` cannot be written, or models do not fit each other.
    ModelError
        A model cannot be used, or not converted although a dense method was asked for.
    """
    config = config or SlidingWindowConfig()
    paths = find_inputs(inputs)
    files.prepare_folder(out)
    if not models:
        models = [runs.newest_model("points")]
        on_note(f"model: {models[0]} (the newest finished run on points)")
    loaded = [load_model(path) for path in models]
    predictor, detection = build_window_predictor(loaded, config)
    say_if_naive(predictor, on_note)
    job = _Job(loaded, predictor, detection, config, overwrite, on_progress, on_note)
    return SlidingWindowResult(
        models=[model.path for model in loaded],
        method=predictor.method,
        slides=work_through(
            paths, out, WindowResult, lambda path, folder, stage: _scan_slide(path, folder, stage, job), on_note
        ),
    )


def build_window_predictor(
    models: Sequence[Model], config: SlidingWindowConfig
) -> tuple[WindowPredictor, DetectionSpec]:
    """Return the networks at their stride, and how detections are found in what they say.

    Radii, stride and thresholds are the configuration's, else those of the first model; thresholds of several models
    are averaged.

    Raises
    ------
    ModelError
        A model is a U-Net, or cannot be converted although a dense method was asked for.
    UsageError
        The models do not fit each other.
    """
    networks = [(model.patch_cnn, model.spec) for model in models]
    specs = [model.spec.detection for model in models if model.spec.detection is not None]
    first = specs[0]
    stride = first.stride if config.stride == AUTO else config.stride
    predictor = WindowPredictor(
        networks,
        device=resolve_device(config.compute.device),
        # The probabilities of a window are to be those of the same window by itself, and bfloat16 keeps 3 digits.
        precision="bfloat16" if config.compute.precision == "bfloat16" else "float32",
        stride=stride,
        method=config.method,
        dihedral=config.dihedral,
    )
    # Only here is it sure that all models have the same classes.
    thresholds = [sum(values) / len(specs) for values in zip(*(spec.thresholds for spec in specs), strict=True)]
    detection = first.model_copy(
        update={
            "smooth_radius": first.smooth_radius if config.smooth_radius == AUTO else config.smooth_radius,
            "nms_radius": first.nms_radius if config.nms_radius == AUTO else config.nms_radius,
            "stride": stride,
            "thresholds": thresholds if config.threshold == AUTO else [config.threshold] * len(first.thresholds),
        }
    )
    return predictor, detection


def say_if_naive(predictor: WindowPredictor, on_note: OnNote) -> None:
    """Say why windows are computed one by one although nobody asked for it, if that is so."""
    if predictor.reason is not None:
        on_note(f"{predictor.reason} Every window is computed by itself, which is far slower.")


def _scan_slide(path: Path, folder: Path, stage: str, job: _Job) -> WindowResult:
    started = time.perf_counter()
    config, predictor, spec = job.config, job.predictor, job.predictor.spec
    with open_slide(path) as slide:
        key = _key_of(path, job)
        finished = finished_record(folder, key, overwrite=job.overwrite)
        if finished is not None:
            job.on_note(f"{path.name}: finished before with the same models and settings, skipped")
            return WindowResult(
                input=path,
                folder=folder,
                status="skipped",
                num_detections=finished["num_detections"],
                largest_difference=finished["largest_difference"],
                seconds=finished["seconds"],
            )
        plan = make_plan(
            slide,
            spec,
            predictor.grid,
            mpp=None if config.mpp == AUTO else config.mpp,
            tile=config.tile,
            batch=1,
            on_cuda=predictor.device.type == "cuda",
        )
        job.on_note(f"{path.name}: {plan.describe()}, {predictor.method}, {predictor.precision} on {predictor.device}")
        height, width = plan.map_size
        settings = detector_settings(
            job.detection,
            [min(job.detection.thresholds)] * len(job.detection.thresholds),
            mpp=plan.mpp,
            stride=plan.stride,
        )
        files.require_free_bytes(folder, height * width // 8, "the scan")
        with files.folder_lock(folder):
            files.remove_leftovers(folder)
            for name in (runs.RECORD, *DETECTION_OUTPUTS, OVERVIEW, CONTACT_SHEET):
                (folder / name).unlink(missing_ok=True)
            source = SlideLevel(slide, plan.level, spec.arguments.in_channels)
            verifier = Verifier(height, width, config.verify)
            with DetectionOutputs(
                folder,
                height,
                width,
                spec.classes,
                settings=settings,
                thresholds=job.detection.thresholds,
                grid=MapGrid(stride=plan.stride, downsample=plan.downsample),
                mpp=plan.mpp and plan.mpp / plan.downsample,
            ) as outputs:

                def write_rows(scores: Any) -> None:
                    outputs.write_rows(scores)
                    verifier.add_rows(scores)

                timings = run_tiles(
                    source,
                    predictor,
                    predictor.grid,
                    tile_px=plan.tile_px,
                    batch=plan.batch,
                    write_rows=write_rows,
                    on_tile=lambda done, total: job.on_progress(stage, done, total, {}),
                )
            difference = _verify(verifier, source, job) if config.verify else None
            _draw(folder, slide, plan, outputs.detections, predictor)
            result = WindowResult(
                input=path,
                folder=folder,
                status="done",
                num_detections=_counts(outputs.detections, spec.classes),
                largest_difference=difference,
                seconds=time.perf_counter() - started,
            )
            _write_record(folder, slide, plan, key, result, timings, job)
    return result


def _verify(verifier: Verifier, source: SlideLevel, job: _Job) -> float:
    naive, _ = build_window_predictor(job.models, job.config.model_copy(update={"method": "naive", "stride": 1}))
    difference = verifier.largest_difference(source, naive, job.predictor.stride)
    job.on_note(
        f"verified at {job.config.verify} random positions: the largest difference to windows computed by themselves "
        f"is {difference:.2g}"
    )
    if difference > ROUNDING[job.predictor.precision]:
        job.on_note("that is more than rounding explains: take --method naive for this model, and report it")
    return difference


def _counts(detections: Detections, classes: Sequence[str]) -> dict[str, int]:
    return {name: int((detections.classes == index).sum()) for index, name in enumerate(classes) if index}


def _key_of(path: Path, job: _Job) -> dict[str, Any]:
    """Return what a result depends on: the slide's content, the models, how windows are computed, the settings."""
    return {
        "slide": key_of_slide(path),
        "model_sha256": [model.sha256 for model in job.models],
        "method": job.predictor.method,
        "precision": job.predictor.precision,
        "device": job.predictor.device.type,
        "settings": job.config.model_dump(mode="json", exclude={"compute", "method"}),
    }


def _draw(folder: Path, slide: Slide, plan: Plan, detections: Detections, predictor: WindowPredictor) -> None:
    height, width = thumbnail_size(plan.height, plan.width, OVERVIEW_PX)
    map_height, map_width = plan.map_size
    with open_slide(folder / PROBABILITY) as probability:
        rows, columns = min(height, map_height), min(width, map_width)
        small = read_thumbnail(probability, rows, columns)[..., 0]
    heat = small[np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)]
    thumbnail = with_channels(read_thumbnail(slide, height, width), 3)
    # An image of a few rows or columns is not shrunk as much in both directions.
    scale = np.array([height / slide.height, width / slide.width])
    draw_detections_overview(
        thumbnail,
        detections._replace(positions=detections.positions * scale),
        predictor.spec.classes,
        folder / OVERVIEW,
        um_per_px=plan.mpp and plan.mpp * max(plan.height, plan.width) / max(height, width),
        title=slide.path.name,
        probability=heat,
    )
    side = max(2 * predictor.grid.halo + 1, SMALLEST_WINDOW_PX)
    classes = predictor.spec.classes
    windows, captions = [], []
    for (y, x), index, score in zip(
        (detections.positions[:WINDOWS_SHOWN] / plan.downsample).tolist(),
        detections.classes.tolist()[:WINDOWS_SHOWN],
        detections.scores.tolist()[:WINDOWS_SHOWN],
        strict=True,
    ):
        box = Box(int(y) - side // 2, int(x) - side // 2, side, side)
        windows.append(with_channels(slide.read_mirrored(box, plan.level), 3))
        captions.append(f"{score:.2f}" if len(classes) == 2 else f"{score:.2f} {classes[index]}")
    if windows:
        draw_contact_sheet(windows, captions, folder / CONTACT_SHEET, title=f"{slide.path.name}: highest scores")


def _write_record(
    folder: Path, slide: Slide, plan: Plan, key: Mapping[str, Any], result: WindowResult, timings: Timings, job: _Job
) -> None:
    files.write_json(
        folder / runs.RECORD,
        {
            "command": "sliding-window",
            "models": [
                {"file": str(model.path.resolve()), "sha256": model.sha256, "classes": model.spec.classes}
                for model in job.models
            ],
            "method": job.predictor.method,
            "detection": job.detection.model_dump(mode="json", exclude={"curves"}),
            "precision": job.predictor.precision,
            **record_of_slide(slide, plan, timings, result, key),
            "device": str(job.predictor.device),
            "num_detections": dict(result.num_detections),
            "largest_difference": result.largest_difference,
        },
    )
