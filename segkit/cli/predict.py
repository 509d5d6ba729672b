"""`segkit predict`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.inputs import raise_failures
from segkit.cli.options import AsJson, Assignments, ConfigFile, ModelPath, Overwrite, config_option
from segkit.cli.progress import open_display
from segkit.cli.progress_lines import format_seconds
from segkit.cli.results import format_share, print_json, print_pictures, print_table
from segkit.config import PredictConfig, build_config

if TYPE_CHECKING:
    from segkit.workflows.predict import SlideResult

EPILOG = (
    "Leaves a folder for each input with mask.tif (a tiled pyramid), objects.geojson (for QuPath), objects.csv, "
    "overview.png and run.json."
)


def run(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT", help="Images, slides, folders of them, or globs.")],
    model: ModelPath = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("predictions"),
    mpp: Annotated[str | None, config_option(PredictConfig, "mpp", metavar="auto|UM")] = None,
    tile: Annotated[str | None, config_option(PredictConfig, "tile", metavar="auto|N")] = None,
    batch: Annotated[str | None, config_option(PredictConfig, "batch", metavar="auto|N")] = None,
    dihedral: Annotated[bool | None, config_option(PredictConfig, "dihedral")] = None,
    probability: Annotated[bool | None, config_option(PredictConfig, "probability")] = None,
    min_area: Annotated[float | None, config_option(PredictConfig, "min_area", metavar="AREA")] = None,
    device: Annotated[str | None, config_option(PredictConfig, "compute.device", metavar="DEVICE")] = None,
    precision: Annotated[str | None, config_option(PredictConfig, "compute.precision")] = None,
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
            "tile": tile,
            "batch": batch,
            "dihedral": dihedral,
            "probability": probability,
            "min_area": min_area,
            "compute.device": device,
            "compute.precision": precision,
        },
    )
    from segkit.workflows.predict import predict

    with open_display() as display:
        result = predict(
            inputs,
            model=model,
            out=out,
            config=settings,
            overwrite=overwrite,
            on_progress=display.on_progress,
            on_note=display.on_note,
        )
    if as_json:
        print_json(result)
    else:
        _show(result.slides)
    raise_failures(result.slides)


def _show(slides: "Sequence[SlideResult]") -> None:
    print_table(
        "Predictions",
        ["input", "status", "objects", "share", "time"],
        [
            [
                slide.input.name,
                slide.status,
                "" if slide.num_objects is None else str(slide.num_objects),
                "\n".join(f"{name} {format_share(share)}" for name, share in slide.shares.items()),
                "" if slide.seconds is None else format_seconds(slide.seconds),
            ]
            for slide in slides
        ],
    )
    print_pictures([slide.folder / "overview.png" for slide in slides if slide.status != "failed"])
