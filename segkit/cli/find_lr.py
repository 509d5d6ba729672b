"""`segkit find-lr`."""

from pathlib import Path
from typing import Annotated

import typer

from segkit.cli.options import AsJson, Assignments, ConfigFile, config_option
from segkit.cli.progress import open_display
from segkit.cli.results import print_json, print_lines, print_pictures
from segkit.config import TrainConfig, build_config
from segkit.errors import UsageError

EPILOG = "Leaves learning_rates.png and learning_rates.csv."


def run(
    data: Annotated[Path | None, config_option(TrainConfig, "data.dir", "--data", metavar="DIR")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("find_lr"),
    low: Annotated[float, typer.Option("--low", help="Smallest rate.")] = 1e-6,
    high: Annotated[float, typer.Option("--high", help="Largest rate.")] = 1.0,
    steps: Annotated[int, typer.Option("--steps", min=20, help="Number of rates, a training step at each.")] = 100,
    seed: Annotated[int | None, config_option(TrainConfig, "seed", metavar="N")] = None,
    device: Annotated[str | None, config_option(TrainConfig, "compute.device", metavar="DEVICE")] = None,
    as_json: AsJson = False,
) -> None:
    """Train for some steps at growing learning rates, draw the loss over them and propose one."""
    if not 0 < low < high < float("inf"):
        raise UsageError(f"--low {low:g} --high {high:g}: the rates have to be above 0, the first below the second.")
    settings = build_config(
        TrainConfig,
        file=config,
        assignments=assignments or [],
        flags={"data.dir": data, "seed": seed, "compute.device": device},
    )
    from segkit.workflows.find_lr import find_lr

    with open_display() as display:
        result = find_lr(
            settings,
            out,
            low=low,
            high=high,
            steps=steps,
            on_progress=display.on_progress,
            on_note=display.on_note,
        )
    if as_json:
        print_json(result)
        return
    if result.rate is None:
        print_lines([f"No learning rate can be proposed: {result.reason}."])
    else:
        print_lines([f"Learning rate: {result.rate:.2g} ({result.reason}).", "", "Use it with:"])
        print_lines([f"  --set optimiser.learning_rate={result.rate:.2g}"])
    print_pictures([result.picture])
