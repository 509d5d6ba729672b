"""`segkit train`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.interruption import held_signals
from segkit.cli.launch import is_first_process, is_launched, launch
from segkit.cli.options import AsJson, Assignments, ConfigFile, config_option
from segkit.cli.progress import open_display
from segkit.cli.progress_lines import format_seconds
from segkit.cli.results import print_facts, print_json, print_lines, print_pictures, print_table
from segkit.config import TrainConfig, build_config, default_of, describe, known_keys
from segkit.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from segkit.workflows.folds import FoldsResult
    from segkit.workflows.train import TrainResult

EPILOG = "Leaves a run folder with the model, the resolved configuration, metrics.csv and figures/."


def show_settings(asked: bool) -> None:
    """Print key, default and meaning of every setting and end, if asked."""
    if asked:
        texts = {}
        for key in known_keys(TrainConfig):
            default = default_of(TrainConfig, key)
            texts[key] = describe(TrainConfig, key) + (f" [default: {str(default).lower()}]" if default != "" else "")
        print_facts("Settings of a training", texts)
        raise typer.Exit


def run(
    data: Annotated[Path | None, config_option(TrainConfig, "data.dir", "--data", metavar="DIR")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN", help="Run folder; without it, a new one in runs/.")
    ] = None,
    epochs: Annotated[int | None, config_option(TrainConfig, "epochs", metavar="N")] = None,
    seed: Annotated[int | None, config_option(TrainConfig, "seed", metavar="N")] = None,
    device: Annotated[str | None, config_option(TrainConfig, "compute.device", metavar="DEVICE")] = None,
    init_from: Annotated[
        Path | None, config_option(TrainConfig, "transfer.init_from", "--init-from", metavar="MODEL|RUN")
    ] = None,
    cache: Annotated[str | None, config_option(TrainConfig, "data.cache", "--cache", metavar="auto|none|DIR")] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            metavar="K",
            min=2,
            max=50,
            help="Train K models, each validated on another part of the images; --model RUN then means their average.",
        ),
    ] = None,
    gpus: Annotated[
        int,
        typer.Option("--gpus", metavar="N", min=1, help="Train with N processes on this machine, one for each GPU."),
    ] = 1,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on with this run, with its configuration and last state. With the same folder as --out: begin it "
            "there if it has not begun, so that one command begins it and goes on with it.",
        ),
    ] = None,
    _settings: Annotated[
        bool,
        typer.Option(
            "--settings", is_eager=True, callback=show_settings, help="List every setting for --set, and exit."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build the configuration, train, show what came of it."""
    begins_or_resumes = resume is not None and resume == out
    if resume is not None and (config is not None or out is not None) and not begins_or_resumes:
        raise UsageError(
            "--resume takes the run's own configuration and folder: leave out --config and --out. (Or give --out the "
            "same folder, to begin the run where it has not begun.)"
        )
    if resume is not None and folds is not None:
        raise UsageError("--folds goes on by itself with what is in --out: leave out --resume.")
    if resume is not None and begins_or_resumes and not _has_begun(resume):
        resume = None
    wanted = build_config(
        TrainConfig,
        base=None if resume is None else _begun_with(resume),
        file=config,
        assignments=assignments or [],
        flags={
            "data.dir": data,
            "epochs": epochs,
            "seed": seed,
            "compute.device": device,
            "transfer.init_from": init_from,
            "data.cache": cache,
        },
    )
    if gpus > 1 and not is_launched():
        sys.exit(launch(gpus, sys.argv[1:]))
    from segkit.workflows.folds import train_folds
    from segkit.workflows.train import train

    if folds is not None:
        with open_display() as display:
            trained = train_folds(
                wanted, folds, out=out, hold=held_signals, on_progress=display.on_progress, on_note=display.on_note
            )
        if is_first_process():
            print_json(trained) if as_json else _show_folds(trained)
        return
    with open_display() as display:
        result = train(
            wanted,
            out=out if resume is None else None,
            resume=resume,
            hold=held_signals,
            on_progress=display.on_progress,
            on_note=display.on_note,
        )
    if not is_first_process():
        return
    if as_json:
        print_json(result)
    else:
        _show(result)


def _has_begun(run: Path) -> bool:
    """Tell whether there is something to go on with; a training that was stopped before its first checkpoint is none.

    Several processes find the same: none writes before all have asked.
    """
    from segkit.workflows.runs import has_checkpoint

    return has_checkpoint(run)


def _begun_with(run: Path) -> Path:
    """Return the configuration of a run, which has to be one that can be gone on with."""
    path = run / "config.yaml"
    if not path.is_file():
        raise UsageError(
            f"--resume {run}: is no run folder (there is no config.yaml in it). Give the folder that `segkit train` "
            "wrote; a folder of --folds is gone on with by the command that began it."
        )
    try:
        build_config(TrainConfig, file=path)
    except ConfigError as error:
        raise ConfigError(
            f"{path}: cannot be gone on with: another version of segkit wrote it, or it was changed. Start a new run:",
            error.problems or [error.message],
        ) from error
    return path


def _show_folds(result: "FoldsResult") -> None:
    from segkit.report.judgement import METRIC_NAMES

    name = METRIC_NAMES[result.metric]
    print_table(
        "Validation",
        ["fold", "best epoch", name],
        [[str(number), str(one.best_epoch), f"{one.score:.4f}"] for number, one in enumerate(result.folds, start=1)],
    )
    print_lines(
        [
            f"mean {name} {result.mean:.4f}, standard deviation over the folds {result.deviation:.4f}",
            f"Use the average of the {len(result.folds)} models with --model {result.run}",
        ]
    )


def _show(result: "TrainResult") -> None:
    from segkit.report.judgement import METRIC_NAMES

    name = METRIC_NAMES[result.metric]
    print_facts(
        "Training finished",
        {
            "best epoch": str(result.best_epoch),
            f"{name} (validation)": f"{result.score:.4f}",
            "time of all epochs": format_seconds(result.seconds),
            "run folder": str(result.run),
        },
    )
    print_table(
        "Validation",
        ["class", name],
        [[label, "" if score is None else f"{score:.4f}"] for label, score in result.scores.items()],
    )
    print_lines([f"Model: {result.model}"])
    print_pictures(result.figures)
