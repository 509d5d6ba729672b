"""From slides and models to class maps, objects and pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import files
from segkit.config import PredictConfig
from segkit.geometry import Box
from segkit.inference.instance_pieces import averaged_spec, find_instances, margin_px, picture_of, trace_instances
from segkit.inference.joining import ObjectJoiner
from segkit.inference.map_picture import MapPicture
from segkit.inference.network import Predictor
from segkit.inference.object_outputs import OBJECT_POLYGONS, OBJECT_TABLE, ObjectOutputs
from segkit.inference.pieces import trace_block
from segkit.inference.pipeline import Layers
from segkit.inference.plan import Plan
from segkit.inference.seams import share_of_range
from segkit.inference.sources import with_channels
from segkit.models.inference_form import resolve_precision
from segkit.models.model_file import InstanceSpec, Model
from segkit.report.figures import draw_overview
from segkit.slides import Slide, open_slide
from segkit.slides.pyramid_blocks import PyramidLayout, encode_block, join_pyramid, refuse_unfit_kind
from segkit.slides.thumbnail import read_thumbnail, thumbnail_size
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.engine import MAP_SUFFIXES, Engine, Order, key_of_models, map_file, record_of_models
from segkit.workflows.heat_predict import build_heat_engine, finds_points
from segkit.workflows.inputs import InputResult, find_inputs, write_summary
from segkit.workflows.planning import Planner, device_of_worker, free_device_bytes
from segkit.workflows.sharing import Share, Solo
from segkit.workflows.slide_runs import run_slides

OVERVIEW = "overview.png"
OVERVIEW_PX = 1500


@dataclass(frozen=True, kw_only=True)
class SlideResult(InputResult):
    """What became of one input.

    `shares` is the area of each class, background included, as share of the map; `num_detections` counts points by
    class, where the models find these.
    """

    num_objects: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    num_detections: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """What became of all inputs, in the order given."""

    models: list[Path]
    slides: list[SlideResult]


def predict(
    inputs: Sequence[Path],
    *,
    models: Sequence[Path] = (),
    out: Path = Path("predictions"),
    config: PredictConfig | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    share: Share | None = None,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> PredictResult:
    """Predict slides and images of any size; each gets a folder `out/NAME`.

    An input that fails does not stop the others: its result says `failed` and why. An input that was finished
    before with the same models and settings is skipped, and one that was begun goes on.

    Parameters
    ----------
    inputs
        Files, folders (all images in them) or globs.
    models
        Model files or run folders, whose probabilities are averaged; none takes the newest finished run under runs/.
    out
        Folder of the results.
    overwrite
        Replace results of another model or other settings.
    dry_run
        Make the plans only.
    share
        The part of the work that falls to this process, where several work into the same folder.

    Raises
    ------
    UsageError
        There are no inputs, two share a name, `out` cannot be written, or models do not fit each other.
    ModelError
        A model cannot be used.
    """
    config = config or PredictConfig()
    paths = find_inputs(inputs)
    if not dry_run:
        files.prepare_folder(out)
    loaded = runs.load_models(models, "unet", on_note)
    order = Order(out=out, share=share or Solo(), overwrite=overwrite, dry_run=dry_run)
    engine = build_heat_engine(loaded, config, SlideResult) if finds_points(loaded) else build_engine(loaded, config)
    slides = run_slides(paths, engine, order, on_progress, on_note)
    if not dry_run and len(paths) > 1:
        write_summary(out, slides)
    return PredictResult(models=[model.path for model in loaded], slides=slides)


def build_predictor(models: Sequence[Model], config: PredictConfig) -> Predictor:
    """Return the models' networks on the configured device, in the configured number format."""
    device = device_of_worker(config.compute)
    return Predictor(
        [(model.unet, model.spec) for model in models],
        device=device,
        precision=resolve_precision(config.compute.precision, device),
        dihedral=config.dihedral,
        float16=config.probability and config.probability_type == "float16",
        inexact=config.inexact,
    )


def build_engine(models: Sequence[Model], config: PredictConfig) -> Engine[SlideResult]:
    """Return the networks, and what is made of slides with them."""
    predictor = build_predictor(models, config)
    spec = predictor.spec
    channels = spec.arguments.in_channels
    specs = [model.spec.instances for model in models if model.spec.instances is not None]
    instances = averaged_spec(specs) if specs else None
    margin = margin_px(instances, predictor.grid.alignment) if instances else 0
    refuse_unfit_kind(_layout_of(1, 1, config, None, None, probability=True), config.format)
    return Engine(
        command="predict",
        result=SlideResult,
        network=predictor,
        channels=channels,
        config=config,
        planner=Planner(
            predictor,
            config,
            model_mpp=spec.mpp,
            channels=channels,
            margin=lambda _: margin,
            layer_bytes=2 + 2 * predictor.float16 + predictor.has_distance,
            device_bytes=free_device_bytes(predictor.device),
            batch=config.batch,
        ),
        key=key_of_models(models, predictor),
        record={
            **record_of_models(models, predictor),
            **({"instances": instances.model_dump(mode="json")} if instances else {}),
        },
        describe=f"{predictor.precision} on {predictor.device}",
        outputs=lambda _source, folder, plan: _Outputs(folder, plan, spec.classes, config, instances),
    )


def _layout_of(
    height: int,
    width: int,
    config: PredictConfig,
    mpp: float | None,
    offset_um: tuple[float, float] | None,
    *,
    probability: bool,
) -> PyramidLayout:
    return PyramidLayout(
        height=height,
        width=width,
        dtype=config.probability_type if probability else "uint8",
        reduce="mean" if probability else "nearest",
        mpp=mpp,
        offset_um=offset_um,
    )


class _Outputs:
    """mask (class ids), probability of the foreground on request, objects as rows and polygons, a picture.

    Objects are instances where `instances` says how they are told apart, else connected areas of a class.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        classes: Sequence[str],
        config: PredictConfig,
        instances: InstanceSpec | None,
    ) -> None:
        self._instances = instances
        self._folder, self._plan, self._classes, self._config = folder, plan, classes, config
        layout = plan.layout
        offset = None if plan.level_0_mpp is None else tuple(at * plan.level_0_mpp for at in reversed(plan.origin))
        size = layout.height, layout.width
        self._mask, self._probability = (
            _layout_of(*size, config, plan.map_mpp, offset, probability=probability)  # type: ignore[arg-type]
            for probability in (False, True)
        )
        self._picture = MapPicture(layout, "nearest")
        self._shares: dict[str, float] = {}
        self._num_objects = 0
        self.mask_file = map_file("mask", config.format)
        self.probability_file = map_file("probability", config.format)
        maps = [map_file(name, kind) for name in ("mask", "probability") for kind in MAP_SUFFIXES]
        self.files: Sequence[str] = [*maps, OBJECT_TABLE, OBJECT_POLYGONS, OVERVIEW]

    def work_up(self, layers: Layers, place: Box, block: Box) -> dict[str, NDArray[Any]]:
        """Return what is kept of a block: encoded tiles, pieces of objects, a small picture, number of pixels."""
        mask, foreground, *others = (layer[block.shift(-place.y, -place.x).slices] for layer in layers)
        if self._instances is None:
            objects, shown = trace_block(mask, foreground, len(self._classes)), mask
        else:
            found = find_instances(layers[1], layers[2], place, block, self._instances)
            objects, shown = trace_instances(mask, foreground, found, len(self._classes)), picture_of(mask, found)
        kept = {
            "mask": encode_block(mask, self._mask),
            "objects": objects,
            "picture": self._picture.of_block(shown),
            "pixels": {"count": np.bincount(mask.ravel(), minlength=len(self._classes))},
        }
        if self._config.probability:
            fine = others if self._instances is None else others[1:]  # the first one is the distance
            kept["probability"] = encode_block(fine[0] if fine else foreground, self._probability)
        return {f"{group}/{name}": array for group, arrays in kept.items() for name, array in arrays.items()}

    def join(
        self,
        row: Callable[[int, str], list[dict[str, NDArray[Any]] | None]],
        on_row: Callable[[int, int], None],
    ) -> None:
        """Write the files from the parts."""
        plan, layout, kind = self._plan, self._plan.layout, self._config.format
        maps = [("mask", self._mask, self.mask_file)]
        if self._config.probability:
            maps.append(("probability", self._probability, self.probability_file))
        total = layout.block_rows * (1 + 2 * len(maps))
        for number, (group, pyramid, name) in enumerate(maps):
            join_pyramid(
                self._folder / name,
                pyramid,
                lambda at, group=group: row(at, group),  # type: ignore[misc]
                num_rows=layout.block_rows,
                kind=kind,
                on_row=lambda done, _, number=number: on_row(2 * number * layout.block_rows + done, total),  # type: ignore[misc]
            )
        counts = np.zeros(len(self._classes), np.int64)
        with ObjectOutputs(
            self._folder,
            self._classes,
            origin=plan.origin,
            downsample=plan.map_downsample,
            mpp=plan.level_0_mpp,
            min_area=self._config.min_area,
        ) as objects:
            joiner = ObjectJoiner(
                layout.height,
                layout.width,
                len(self._classes),
                objects.add,
                instances=self._instances is not None,
                min_area_px=self._instances.min_area_px if self._instances else 0,
            )
            for at in range(layout.block_rows):
                joiner.add_row(row(at, "objects"))
                counts += sum((block["count"] for block in row(at, "pixels") if block is not None), np.int64(0))
                on_row(total - layout.block_rows + at + 1, total)
            joiner.finish()
        counts[0] += layout.height * layout.width - counts.sum()  # cells that were left out
        self._num_objects = objects.num_objects
        self._shares = dict(zip(self._classes, (counts / counts.sum()).tolist(), strict=True))
        self._small = self._picture.join(lambda at: row(at, "picture"))

    def draw(self, slide: Slide) -> None:
        """Write overview.png."""
        rows, columns = self._small.shape
        height, width = thumbnail_size(rows, columns, OVERVIEW_PX)
        region, mpp = self._plan.region_on_level_0, self._plan.level_0_mpp
        draw_overview(
            with_channels(read_thumbnail(slide, height, width, region=region), 3),
            self._small[np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)],
            self._classes,
            self._folder / OVERVIEW,
            shares=self._shares,
            um_per_px=mpp and mpp * max(region.height, region.width) / max(height, width),
            title=slide.path.name,
        )

    def written_difference(self, place: Box, layers: Layers) -> float:
        """Return the largest difference of a place's class ids, and its probabilities in uint8, to those written."""
        with open_slide(self._folder / self.mask_file) as mask:
            difference = share_of_range(mask.read(place)[..., 0], layers[0])
        if self._config.probability and self._config.probability_type == "uint8":
            with open_slide(self._folder / self.probability_file) as probability:
                difference = max(difference, share_of_range(probability.read(place)[..., 0], layers[1]))
        return difference

    def facts(self) -> dict[str, Any]:
        """Return the number of objects, and each class's share of the map."""
        return {"num_objects": self._num_objects, "shares": self._shares}
