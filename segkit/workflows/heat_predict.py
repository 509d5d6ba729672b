"""`segkit predict` with U-Nets that find points: it leaves what `segkit sliding-window` leaves with a patch CNN."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from segkit.config import ComputeConfig, PredictConfig, length_px
from segkit.errors import UsageError
from segkit.inference.detect import DetectorSettings, margin
from segkit.inference.heat import HeatPredictor
from segkit.inference.image_detection import averaged_detection, detector_settings
from segkit.inference.plan import Plan, Scale
from segkit.inference.sources import SlideLevel
from segkit.models.inference_form import resolve_precision
from segkit.models.model_file import DetectionSpec, Model
from segkit.workflows.engine import Engine, key_of_models, record_of_models
from segkit.workflows.inputs import InputResult
from segkit.workflows.planning import Planner, device_of_worker, free_device_bytes
from segkit.workflows.point_outputs import PointOutputs

ResultT = TypeVar("ResultT", bound=InputResult)

WINDOW_IN_RADII = 5
"""Side of the pictures of detections, in match radii: the object and as much around it."""


def finds_points(models: Sequence[Model]) -> bool:
    """Tell whether models are for points.

    Raises
    ------
    UsageError
        Some are and some are not.
    """
    found = [model.spec.task == "points" for model in models]
    if any(found) and not all(found):
        points, other = models[found.index(True)], models[found.index(False)]
        raise UsageError(
            f"{points.path}: finds points, and {other.path} is for {other.spec.task} segmentation. Models that are "
            "averaged are for the same task."
        )
    return any(found)


def build_heat_predictor(
    models: Sequence[Model], compute: ComputeConfig, *, dihedral: bool, inexact: bool = False
) -> tuple[HeatPredictor, DetectionSpec]:
    """Return U-Nets that find points on their device, and how detections are found in what they say.

    Raises
    ------
    ModelError
        A model is a patch CNN.
    UsageError
        The models do not fit each other.
    """
    device = device_of_worker(compute)
    predictor = HeatPredictor(
        [(model.unet, model.spec) for model in models],
        device=device,
        precision=resolve_precision(compute.precision, device),
        dihedral=dihedral,
        inexact=inexact,
    )
    # Only here is it sure that all models have the same classes.
    specs = [model.spec.detection for model in models if model.spec.detection is not None]
    return predictor, averaged_detection(specs)


def build_heat_engine(models: Sequence[Model], config: PredictConfig, result: type[ResultT]) -> Engine[ResultT]:
    """Return the networks, and what is made of slides with them.

    Parameters
    ----------
    models
        U-Nets that find points.
    config
        As of `predict`; the map of probabilities is always written.
    result
        Type of what becomes of an input; its field `num_detections`, if it has one, holds their number by class.

    Raises
    ------
    ModelError
        A model is a patch CNN.
    UsageError
        The models do not fit each other, or a setting is for areas only.
    """
    _refuse_settings_of_areas(config)
    predictor, detection = build_heat_predictor(
        models, config.compute, dihedral=config.dihedral, inexact=config.inexact
    )
    spec, alignment = predictor.spec, predictor.grid.alignment

    def settings_at(mpp: float | None) -> DetectorSettings:
        lowest = [min(detection.thresholds)] * len(detection.thresholds)
        return detector_settings(detection, lowest, mpp=mpp, stride=1)

    def margin_at(scale: Scale) -> int:
        # The tiles of a part begin with its margin, and have to lie on the networks' grid.
        return -(-margin(settings_at(scale.mpp)) // alignment) * alignment

    def outputs(source: SlideLevel, folder: Path, plan: Plan) -> PointOutputs:
        mpp = plan.scale.mpp
        return PointOutputs(
            source,
            folder,
            plan,
            predictor,
            detection,
            settings_at(mpp),
            map_format=config.format,
            window_px=round(WINDOW_IN_RADII * length_px(detection.match_radius, mpp)),
        )

    return Engine(
        command="predict",
        result=result,
        network=predictor,
        channels=spec.arguments.in_channels,
        config=config,
        planner=Planner(
            predictor,
            config,
            model_mpp=spec.mpp,
            channels=spec.arguments.in_channels,
            margin=margin_at,
            layer_bytes=2 * (len(spec.classes) - 1),
            device_bytes=free_device_bytes(predictor.device),
            batch=config.batch,
        ),
        key=key_of_models(models, predictor.maps),
        record={
            **record_of_models(models, predictor.maps),
            "detection": detection.model_dump(mode="json", exclude={"curves"}),
        },
        describe=f"points, {predictor.precision} on {predictor.device}",
        outputs=outputs,
    )


def _refuse_settings_of_areas(config: PredictConfig) -> None:
    if config.min_area:
        raise UsageError(
            f"min_area = {config.min_area:g}: is for models that segment. This one finds points, which have no area."
        )
    if config.probability_type != "uint8":
        raise UsageError(
            f"probability_type = {config.probability_type}: is for models that segment. The map of a model that finds "
            "points is written in uint8."
        )
