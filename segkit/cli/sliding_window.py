"""`segkit sliding-window`."""

import os
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
from segkit.cli.results import print_json, print_lines, print_pictures, print_table
from segkit.config import SlidingWindowConfig, build_config

if TYPE_CHECKING:
    from segkit.workflows.sliding_window import SlidingWindowResult

EPILOG = (
    "Leaves a folder for each input with detections.csv, detections.geojson (for QuPath), probability.tif (a tiled "
    "pyramid), overview.png, windows.png and run.json. Killed and run again, it goes on from the last finished part."
)


def run(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT", help="Images, slides, folders of them, or globs.")],
    models: ModelPaths = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("detections"),
    stride: Annotated[str | None, config_option(SlidingWindowConfig, "stride", metavar="auto|N")] = None,
    method: Annotated[str | None, config_option(SlidingWindowConfig, "method")] = None,
    verify: Annotated[int | None, config_option(SlidingWindowConfig, "verify", metavar="N")] = None,
    threshold: Annotated[str | None, config_option(SlidingWindowConfig, "threshold", metavar="auto|SCORE")] = None,
    mpp: Annotated[str | None, config_option(SlidingWindowConfig, "mpp", metavar="auto|UM")] = None,
    region: Annotated[str | None, config_option(SlidingWindowConfig, "region", metavar="X,Y,W,H")] = None,
    tissue: Annotated[str | None, config_option(SlidingWindowConfig, "tissue", metavar="auto|off|FILE")] = None,
    tile: Annotated[str | None, config_option(SlidingWindowConfig, "tile", metavar="auto|N")] = None,
    max_memory: Annotated[str | None, config_option(SlidingWindowConfig, "max_memory", metavar="auto|SIZE")] = None,
    map_format: Annotated[str | None, config_option(SlidingWindowConfig, "format", "--format")] = None,
    dihedral: Annotated[bool | None, config_option(SlidingWindowConfig, "dihedral")] = None,
    device: Annotated[str | None, config_option(SlidingWindowConfig, "compute.device", metavar="DEVICE")] = None,
    verify_seams: Annotated[int | None, config_option(SlidingWindowConfig, "verify_seams", metavar="N")] = None,
    shard: Shard = None,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Build the configuration, scan every input, show the results and name the inputs that failed."""
    settings = build_config(
        SlidingWindowConfig,
        file=config,
        assignments=assignments or [],
        flags={
            "stride": stride,
            "method": method,
            "verify": verify,
            "threshold": threshold,
            "mpp": mpp,
            "region": region,
            "tissue": tissue,
            "tile": tile,
            "max_memory": max_memory,
            "format": map_format,
            "verify_seams": verify_seams,
            "dihedral": dihedral,
            "compute.device": device,
        },
    )
    from segkit.workflows.sharing import current_share
    from segkit.workflows.sliding_window import sliding_window

    with open_display() as display:
        result = sliding_window(
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
        _show(result)
    raise_failures(result.slides)


def _show(result: "SlidingWindowResult") -> None:
    print_table(
        f"Detections ({result.method})",
        ["input", "status", "detections", "time"],
        [
            [
                slide.input.name,
                slide.status,
                "\n".join(f"{name} {number}" for name, number in slide.num_detections.items()),
                "" if slide.seconds is None else format_seconds(slide.seconds),
            ]
            for slide in result.slides
        ],
    )
    for slide in result.slides:
        if slide.largest_difference is not None:
            print_lines([f"{slide.input.name}: largest difference to single windows {slide.largest_difference:.2g}"])
    print_pictures([slide.folder / "overview.png" for slide in result.slides if slide.status in {"done", "skipped"}])
