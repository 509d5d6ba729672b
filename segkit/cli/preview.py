"""`segkit preview`."""

from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.options import AsJson, Assignments, ConfigFile, config_option
from segkit.cli.progress import open_display
from segkit.cli.results import print_json, print_lines
from segkit.config import TrainConfig, build_config

EPILOG = "A training draws its first batch into figures/first_batch.png of its run folder."


def run(
    data: Annotated[Path | None, config_option(TrainConfig, "data.dir", "--data", metavar="DIR")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The picture.")] = Path("preview.png"),
    seed: Annotated[int | None, config_option(TrainConfig, "seed", metavar="N")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the first augmented patches of a training with this configuration."""
    settings = build_config(
        TrainConfig, file=config, assignments=assignments or [], flags={"data.dir": data, "seed": seed}
    )
    from segkit.workflows.preview import preview

    with open_display() as display:
        picture = preview(settings, out, on_progress=display.on_progress, on_note=display.on_note)
    if as_json:
        print_json({"picture": picture})
    else:
        print_lines([f"Look at: {picture}"])
