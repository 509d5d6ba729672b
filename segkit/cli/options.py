"""Options that several commands share, and options whose help, default and choices are the configuration's."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from segkit.config import Section, describe

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file with any of the settings.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set one value, e.g. compute.device=cpu; goes before the file's; repeatable."
    ),
]
ModelPath = Annotated[
    Path | None,
    typer.Option(
        "--model", metavar="MODEL|RUN", help="Model file or run folder; without it, the newest finished run in runs/."
    ),
]
ModelPaths = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        metavar="MODEL|RUN",
        help="Model file or run folder; several are averaged; without it, the newest finished run in runs/ that suits.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do part I of N of the work; the last of the N that ends joins the results. Found by itself under "
        "torchrun, srun, in SLURM job arrays and indexed Kubernetes Jobs.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan of each input, and do nothing.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell more; show the traceback of an unexpected error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results of other inputs, models or settings.")]


def config_option(kind: type[Section], key: str, *names: str, metavar: str | None = None) -> Any:
    """Return an option for the setting with the dotted `key`; its own default None means: not given.

    Parameters
    ----------
    kind
        The configuration's class.
    key
        Dotted key of the setting.
    names
        The option's names, e.g. `--seed`; without them Typer names it after the parameter.
    metavar
        What stands for the value in the help; not needed where the values are a fixed choice.
    """
    *sections, name = key.split(".")
    for section in sections:
        annotation = kind.model_fields[section].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, Section)
        kind = annotation
    field = kind.model_fields[name]
    choices = [str(choice) for choice in get_args(field.annotation)] if get_origin(field.annotation) is Literal else []
    return typer.Option(
        *names,
        help=describe(kind, name) + ("" if field.is_required() else f"  [default: {str(field.default).lower()}]"),
        metavar=metavar or "|".join(choices) or None,
        autocompletion=_completer(choices) if choices else None,
    )


def _completer(choices: list[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete
