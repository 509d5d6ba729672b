"""From slides and a patch CNN to a map of probabilities, detections and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segkit import files
from segkit.config import AUTO, SlidingWindowConfig
from segkit.inference.detect import DetectorSettings, margin
from segkit.inference.image_detection import averaged_detection, detector_settings
from segkit.inference.plan import Plan, Scale
from segkit.inference.sources import SlideLevel
from segkit.inference.window import WindowPredictor
from segkit.models.model_file import DetectionSpec, Model
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.engine import Engine, Order, key_of_models, record_of_models
from segkit.workflows.inputs import InputResult, find_inputs, write_summary
from segkit.workflows.planning import Planner, device_of_worker, free_device_bytes
from segkit.workflows.point_outputs import PointOutputs
from segkit.workflows.sharing import Share, Solo
from segkit.workflows.slide_runs import run_slides


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


def sliding_window(
    inputs: Sequence[Path],
    *,
    models: Sequence[Path] = (),
    out: Path = Path("detections"),
    config: SlidingWindowConfig | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    share: Share | None = None,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> SlidingWindowResult:
    """Run a patch CNN at every `stride`-th pixel of slides and images, and find the objects in its probabilities.

    Each input gets a folder `out/NAME`. An input that fails does not stop the others; one that was finished before
    with the same models and settings is skipped, and one that was begun goes on.

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
    dry_run
        Make the plans only.
    share
        The part of the work that falls to this process, where several work into the same folder.

    Raises
    ------
    UsageError
        There are no inputs, two share a name, `out` cannot be written, or models do not fit each other.
    ModelError
        A model cannot be used, or not converted although a dense method was asked for.
    """
    config = config or SlidingWindowConfig()
    paths = find_inputs(inputs)
    if not dry_run:
        files.prepare_folder(out)
    loaded = runs.load_models(models, "patch_cnn", on_note)
    predictor, detection = build_window_predictor(loaded, config)
    say_if_naive(predictor, on_note)
    engine = _build_engine(loaded, predictor, detection, config, on_note)
    order = Order(out=out, share=share or Solo(), overwrite=overwrite, dry_run=dry_run)
    slides = run_slides(paths, engine, order, on_progress, on_note)
    if not dry_run and len(paths) > 1:
        write_summary(out, slides)
    return SlidingWindowResult(models=[model.path for model in loaded], method=predictor.method, slides=slides)


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
    stride = specs[0].stride if config.stride == AUTO else config.stride
    predictor = WindowPredictor(
        networks,
        device=device_of_worker(config.compute),
        # The probabilities of a window are to be those of the same window by itself, and bfloat16 keeps 3 digits.
        precision="bfloat16" if config.compute.precision == "bfloat16" else "float32",
        stride=stride,
        method=config.method,
        dihedral=config.dihedral,
    )
    # Only here is it sure that all models have the same classes.
    usual = averaged_detection(specs)
    detection = usual.model_copy(
        update={
            "smooth_radius": usual.smooth_radius if config.smooth_radius == AUTO else config.smooth_radius,
            "nms_radius": usual.nms_radius if config.nms_radius == AUTO else config.nms_radius,
            "stride": stride,
            "thresholds": usual.thresholds if config.threshold == AUTO else [config.threshold] * len(usual.thresholds),
        }
    )
    return predictor, detection


def say_if_naive(predictor: WindowPredictor, on_note: OnNote) -> None:
    """Say why windows are computed one by one although nobody asked for it, if that is so."""
    if predictor.reason is not None:
        on_note(f"{predictor.reason} Every window is computed by itself, which is far slower.")


def _build_engine(
    models: Sequence[Model],
    predictor: WindowPredictor,
    detection: DetectionSpec,
    config: SlidingWindowConfig,
    on_note: OnNote,
) -> Engine[WindowResult]:
    spec = predictor.spec
    channels = spec.arguments.in_channels

    def settings_at(mpp: float | None) -> DetectorSettings:
        lowest = [min(detection.thresholds)] * len(detection.thresholds)
        return detector_settings(detection, lowest, mpp=mpp, stride=predictor.stride)

    def margin_at(scale: Scale) -> int:
        return margin(settings_at(scale.mpp))

    def naive() -> WindowPredictor:
        return build_window_predictor(models, config.model_copy(update={"method": "naive", "stride": 1}))[0]

    def outputs(source: SlideLevel, folder: Path, plan: Plan) -> PointOutputs:
        return PointOutputs(
            source,
            folder,
            plan,
            predictor,
            detection,
            settings_at(plan.scale.mpp),
            map_format=config.format,
            window_px=2 * predictor.grid.halo + 1,
            verify=config.verify,
            naive=naive if config.verify else None,
            on_note=on_note,
        )

    return Engine(
        command="sliding-window",
        result=WindowResult,
        network=predictor,
        channels=channels,
        config=config,
        planner=Planner(
            predictor,
            config,
            model_mpp=spec.mpp,
            channels=channels,
            margin=margin_at,
            layer_bytes=2 * (len(spec.classes) - 1),
            device_bytes=free_device_bytes(predictor.device),
            batch=1,
        ),
        key={**key_of_models(models, predictor), "method": predictor.method},
        record={
            **record_of_models(models, predictor),
            "method": predictor.method,
            "detection": detection.model_dump(mode="json", exclude={"curves"}),
        },
        describe=f"{predictor.method}, {predictor.precision} on {predictor.device}",
        outputs=outputs,
    )
