"""`segkit predict`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.inputs import raise_failures
from segkit.cli.options import (
    AsJson,
    Assignments,
    ConfigFile,
    DryRun,
    ModelPaths,
    Overwrite,
    Shard,
    config_option,
)
from segkit.cli.progress import open_display
from segkit.cli.progress_lines import format_seconds
from segkit.cli.results import format_share, print_json, print_pictures, print_table
from segkit.config import PredictConfig, build_config

if TYPE_CHECKING:
    from segkit.workflows.predict import SlideResult

EPILOG = (
    "Leaves a folder for each input with mask.tif (a tiled pyramid), objects.geojson (for QuPath), objects.csv, "
    "overview.png and run.json. Killed and run again, it goes on from the last finished part."
)


def run(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT", help="Images, slides, folders of them, or globs.")],
    models: ModelPaths = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("predictions"),
    mpp: Annotated[str | None, config_option(PredictConfig, "mpp", metavar="auto|UM")] = None,
    region: Annotated[str | None, config_option(PredictConfig, "region", metavar="X,Y,W,H")] = None,
    tissue: Annotated[str | None, config_option(PredictConfig, "tissue", metavar="auto|off|FILE")] = None,
    tile: Annotated[str | None, config_option(PredictConfig, "tile", metavar="auto|N")] = None,
    max_memory: Annotated[str | None, config_option(PredictConfig, "max_memory", metavar="auto|SIZE")] = None,
    batch: Annotated[str | None, config_option(PredictConfig, "batch", metavar="auto|N")] = None,
    dihedral: Annotated[bool | None, config_option(PredictConfig, "dihedral")] = None,
    probability: Annotated[bool | None, config_option(PredictConfig, "probability")] = None,
    probability_type: Annotated[str | None, config_option(PredictConfig, "probability_type")] = None,
    map_format: Annotated[str | None, config_option(PredictConfig, "format", "--format")] = None,
    min_area: Annotated[float | None, config_option(PredictConfig, "min_area", metavar="AREA")] = None,
    device: Annotated[str | None, config_option(PredictConfig, "compute.device", metavar="DEVICE")] = None,
    precision: Annotated[str | None, config_option(PredictConfig, "compute.precision")] = None,
    verify_seams: Annotated[int | None, config_option(PredictConfig, "verify_seams", metavar="N")] = None,
    inexact: Annotated[bool | None, config_option(PredictConfig, "inexact", "--inexact")] = None,
    shard: Shard = None,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Build the configuration, predict every input, show the results and name the inputs that failed."""
    settings = build_config(
        PredictConfig,
        file=config,
        assignments=assignments or [],
        flags={
            "mpp": mpp,
            "region": region,
            "tissue": tissue,
            "tile": tile,
            "max_memory": max_memory,
            "batch": batch,
            "dihedral": dihedral,
            "probability": probability,
            "probability_type": probability_type,
            "format": map_format,
            "min_area": min_area,
            "verify_seams": verify_seams,
            "inexact": inexact,
            "compute.device": device,
            "compute.precision": precision,
        },
    )
    from segkit.workflows.predict import predict
    from segkit.workflows.sharing import current_share

    with open_display() as display:
        result = predict(
            inputs,
            models=models or [],
            out=out,
            config=settings,
            overwrite=overwrite,
            dry_run=dry_run,
            share=current_share(shard, os.environ),
            on_progress=display.on_progress,
            on_note=display.on_note,
        )
    if as_json:
        print_json(result)
    else:
        _show(result.slides)
    raise_failures(result.slides)


def _found(slide: "SlideResult") -> str:
    if slide.num_detections:
        return "\n".join(f"{name} {number}" for name, number in slide.num_detections.items())
    return "" if slide.num_objects is None else f"{slide.num_objects} objects"


def _show(slides: "Sequence[SlideResult]") -> None:
    print_table(
        "Predictions",
        ["input", "status", "found", "share", "time"],
        [
            [
                slide.input.name,
                slide.status,
                _found(slide),
                "\n".join(f"{name} {format_share(share)}" for name, share in slide.shares.items()),
                "" if slide.seconds is None else format_seconds(slide.seconds),
            ]
            for slide in slides
        ],
    )
    print_pictures([slide.folder / "overview.png" for slide in slides if slide.status in {"done", "skipped"}])
