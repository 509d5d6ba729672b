"""The command `segkit`: its commands by name, each imported when it is used."""

import functools
import importlib
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from segkit.cli.failures import explained, show_details
from segkit.cli.json_log import FLAG, with_result_logged

# Name and summary of every command; the command itself is the function `run` of segkit/cli/NAME.py.
COMMANDS = {
    "train": "Train a model on labelled images.",
    "predict": "Segment images and slides of any size.",
    "sliding-window": "Find points with a patch CNN, run densely and exactly.",
    "evaluate": "Measure a model, or given predictions.",
    "compare": "Compare evaluations or runs on the same images.",
    "view": "Look at a slide, and at what was found on it, in the browser.",
    "check": "Report everything wrong with a folder.",
    "info": "Describe an image, slide or model.",
    "preview": "Draw augmented training patches.",
    "find-lr": "Propose a learning rate.",
    "export": "Write a model for other programs: ONNX or torch.export.",
    "make-sample": "Write a synthetic data folder.",
}
CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}


class LazyCommands(TyperGroup):
    """Commands that are known by name and summary until one is used, so that `segkit --help` is quick."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Return the command that `args` name, loaded, for running it, for its help and for completion."""
        name, known, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if known and name else None, rest


def load_command(name: str) -> Any:
    """Import a command's module and return the command as Typer runs it, with the options that all commands have."""
    module = importlib.import_module(f"segkit.cli.{name.replace('-', '_')}")
    single = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=CONTEXT_SETTINGS)
    single.command(name, help=COMMANDS[name], epilog=module.EPILOG)(_explaining(module.run))
    command = typer.main.get_command(single)
    common = [one for one in typer.main.get_command(app).params if {"--verbose", FLAG}.intersection(one.opts)]
    command.params += common
    return command


def _explaining(run: Callable[..., None]) -> Callable[..., None]:
    """Let a command's errors end in a message before Typer sees them (it has words of its own for a closed pipe)."""

    @functools.wraps(run)
    def run_explained(**arguments: Any) -> None:
        with explained(log_folder=arguments.get("out")):
            run(**with_result_logged(arguments))

    return run_explained


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"segkit {version('segkit')}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyCommands,
    name="segkit",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT_SETTINGS,
    epilog="Exit codes: 0 done, 1 bug, 2 usage, 3 bad input or model, 4 memory or disk, 5 some inputs failed, "
    "6 training diverged, 130 and 143 interrupted.",
)


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
    _verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            callback=show_details,
            expose_value=False,
            is_eager=True,
            help="Show warnings of libraries and the traceback of a bug, too.",
        ),
    ] = False,
    _log_json: Annotated[
        bool,
        typer.Option(
            FLAG,
            expose_value=False,
            is_eager=True,
            help="Tell progress, result and errors as one JSON object per line on standard error.",
        ),
    ] = False,
) -> None:
    """From a folder of labelled microscopy images to exact results on gigapixel slides."""
