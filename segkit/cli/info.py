"""`segkit info`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from segkit.cli.options import AsJson
from segkit.cli.results import print_facts, print_json

EPILOG = "For a slide: sizes of its levels, micrometres per pixel, reader. For a model: classes, network, training."


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image, slide, model file or run folder.")],
    as_json: AsJson = False,
) -> None:
    """Show what is known about a file without reading its pixels."""
    from segkit.workflows.inspect import info

    facts = info(file)
    if as_json:
        print_json(facts)
    else:
        print_facts(str(file), {name: _format(value) for name, value in facts.items()})


def _format(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_format_inline(item)}" for name, item in value.items())
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return "\n".join(_format_inline(item) for item in value)
    return _format_inline(value)


def _format_inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format_inline(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_format_inline(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "unknown" if value is None else str(value)
