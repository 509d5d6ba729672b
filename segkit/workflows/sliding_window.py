"""From slides and a patch CNN to a map of probabilities, detections and pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import files
from segkit.config import AUTO, SlidingWindowConfig
from segkit.geometry import Box
from segkit.inference import verification
from segkit.inference.detect import DetectorSettings, MapGrid, detections_of_runs, find_runs, margin
from segkit.inference.detection_outputs import (
    DETECTION_POINTS,
    DETECTION_TABLE,
    foreground_of,
    reaching,
    write_detections,
)
from segkit.inference.image_detection import detector_settings
from segkit.inference.map_picture import MapPicture
from segkit.inference.pipeline import Layers
from segkit.inference.plan import Plan, Scale
from segkit.inference.seams import share_of_range
from segkit.inference.sources import SlideLevel, with_channels
from segkit.inference.window import WindowPredictor
from segkit.models.model_file import DetectionSpec, Model, load_model
from segkit.points import Detections
from segkit.report.detections import draw_contact_sheet, draw_detections_overview
from segkit.slides import Slide, open_slide
from segkit.slides.pyramid_blocks import PyramidLayout, encode_block, join_pyramid
from segkit.slides.thumbnail import read_thumbnail, thumbnail_size
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.engine import MAP_SUFFIXES, Engine, Order, key_of_models, map_file, record_of_models
from segkit.workflows.inputs import InputResult, find_inputs, write_summary
from segkit.workflows.planning import Planner, device_of_worker, free_device_bytes
from segkit.workflows.sharing import Share, Solo
from segkit.workflows.slide_runs import run_slides

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
    if not models:
        models = [runs.newest_model("points")]
        on_note(f"model: {models[0]} (the newest finished run on points)")
    loaded = [load_model(path) for path in models]
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
    first = specs[0]
    stride = first.stride if config.stride == AUTO else config.stride
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

    def outputs(source: SlideLevel, folder: Path, plan: Plan) -> _Outputs:
        return _Outputs(
            source, folder, plan, models, predictor, detection, settings_at(plan.scale.mpp), config, on_note
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


class _Outputs:
    """probability of the foreground, detections as rows and points, pictures."""

    def __init__(
        self,
        source: SlideLevel,
        folder: Path,
        plan: Plan,
        models: Sequence[Model],
        predictor: WindowPredictor,
        detection: DetectionSpec,
        settings: DetectorSettings,
        config: SlidingWindowConfig,
        on_note: OnNote,
    ) -> None:
        self._source, self._folder, self._plan, self._models = source, folder, plan, models
        self._predictor, self._detection, self._settings = predictor, detection, settings
        self._config, self._on_note, self._classes = config, on_note, predictor.spec.classes
        layout, mpp = plan.layout, plan.level_0_mpp
        self._probability = PyramidLayout(
            height=layout.height,
            width=layout.width,
            dtype="uint8",
            reduce="mean",
            mpp=plan.map_mpp,
            offset_um=None if mpp is None else (plan.origin[1] * mpp, plan.origin[0] * mpp),
        )
        self._picture = MapPicture(layout, "mean")
        self._positions = verification.positions(layout.height, layout.width, config.verify, wanted=layout.wanted)
        self._found = Detections(np.empty((0, 2)), np.empty(0, np.int64), np.empty(0))
        self._difference: float | None = None
        self._probability_file = map_file("probability", config.format)
        maps = [map_file("probability", kind) for kind in MAP_SUFFIXES]
        self.files: Sequence[str] = [*maps, DETECTION_TABLE, DETECTION_POINTS, OVERVIEW, CONTACT_SHEET]

    def work_up(self, layers: Layers, place: Box, block: Box) -> dict[str, NDArray[Any]]:
        """Return what is kept of a block: encoded tiles, maxima, a small picture, scores that are to be verified."""
        (scores,) = layers
        layout = self._plan.layout
        foreground = foreground_of(scores[block.shift(-place.y, -place.x).slices])
        kept = {
            "probability": encode_block(foreground, self._probability),
            "maxima": find_runs(scores, place, block, layout.height, layout.width, self._settings),
            "picture": self._picture.of_block(foreground),
            "verify": verification.take(scores, place, block, self._positions),
        }
        return {f"{group}/{name}": array for group, arrays in kept.items() for name, array in arrays.items()}

    def join(
        self,
        row: Callable[[int, str], list[dict[str, NDArray[Any]] | None]],
        on_row: Callable[[int, int], None],
    ) -> None:
        """Write the files from the parts."""
        plan, layout = self._plan, self._plan.layout
        total = 3 * layout.block_rows

        def all_blocks(prefix: str) -> Any:
            return (block for at in range(layout.block_rows) for block in row(at, prefix))

        join_pyramid(
            self._folder / self._probability_file,
            self._probability,
            lambda at: row(at, "probability"),
            num_rows=layout.block_rows,
            kind=self._config.format,
            on_row=lambda done, _: on_row(done, total),
        )
        grid = MapGrid(
            stride=layout.stride, downsample=plan.scale.downsample, origin=(layout.region.y, layout.region.x)
        )
        candidates = detections_of_runs(
            (block for block in all_blocks("maxima") if block is not None), layout.width, self._settings, grid
        )
        self._found = reaching(candidates, self._detection.thresholds)
        write_detections(self._folder, self._found, self._classes, plan.level_0_mpp)
        if self._config.verify:
            self._difference = self._verify(all_blocks("verify"))
        self._small = self._picture.join(lambda at: row(at, "picture"))
        on_row(total, total)

    def _verify(self, scores: Any) -> float:
        naive, _ = build_window_predictor(
            self._models, self._config.model_copy(update={"method": "naive", "stride": 1})
        )
        region = self._plan.layout.region
        difference = verification.largest_difference(
            scores, self._positions, self._source, naive, self._predictor.stride, origin=(region.y, region.x)
        )
        self._on_note(
            f"verified at {self._config.verify} random positions: the largest difference to windows computed by "
            f"themselves is {difference:.2g}"
        )
        if difference > ROUNDING[self._predictor.precision]:
            self._on_note("that is more than rounding explains: take --method naive for this model, and report it")
        return difference

    def draw(self, slide: Slide) -> None:
        """Write overview.png and windows.png, the latter if there is anything to show."""
        plan = self._plan
        region, mpp = plan.region_on_level_0, plan.level_0_mpp
        height, width = thumbnail_size(region.height, region.width, OVERVIEW_PX)
        rows, columns = self._small.shape
        heat = self._small[np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)]
        # An image of a few rows or columns is not shrunk as much in both directions.
        scale = np.array([height / region.height, width / region.width])
        draw_detections_overview(
            with_channels(read_thumbnail(slide, height, width, region=region), 3),
            self._found._replace(positions=(self._found.positions - np.array([region.y, region.x])) * scale),
            self._classes,
            self._folder / OVERVIEW,
            um_per_px=mpp and mpp * max(region.height, region.width) / max(height, width),
            title=slide.path.name,
            probability=heat,
        )
        side = max(2 * self._predictor.grid.halo + 1, SMALLEST_WINDOW_PX)
        windows, captions = [], []
        for (y, x), index, score in zip(
            (self._found.positions[:WINDOWS_SHOWN] / plan.scale.downsample).tolist(),
            self._found.classes.tolist()[:WINDOWS_SHOWN],
            self._found.scores.tolist()[:WINDOWS_SHOWN],
            strict=True,
        ):
            box = Box(int(y) - side // 2, int(x) - side // 2, side, side)
            windows.append(with_channels(self._source.read(box), 3))
            captions.append(f"{score:.2f}" if len(self._classes) == 2 else f"{score:.2f} {self._classes[index]}")
        if windows:
            draw_contact_sheet(
                windows, captions, self._folder / CONTACT_SHEET, title=f"{slide.path.name}: highest scores"
            )

    def written_difference(self, place: Box, layers: Layers) -> float:
        """Return the largest difference of a place's probabilities to those that were written."""
        with open_slide(self._folder / self._probability_file) as probability:
            return share_of_range(probability.read(place)[..., 0], foreground_of(np.asarray(layers[0])))

    def facts(self) -> dict[str, Any]:
        """Return the number of detections by class, and the difference that verification found."""
        classes = self._found.classes
        return {
            "num_detections": {name: int((classes == at).sum()) for at, name in enumerate(self._classes) if at},
            "largest_difference": self._difference,
        }
