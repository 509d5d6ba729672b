"""`segkit make-sample`."""

from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.options import AsJson
from segkit.cli.progress import open_display
from segkit.cli.results import print_json, print_lines

EPILOG = "The same seed gives the same pixels. The folder sample_data/ of the project was made by this command."


def run(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of everything random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write the sample data."""
    from segkit.workflows.sample import make_sample

    with open_display() as display:
        make_sample(directory, seed=seed, on_progress=display.on_progress)
    if as_json:
        print_json({"folder": directory})
    else:
        print_lines([f"Written: {directory}", f"Next: segkit check {directory}"])
