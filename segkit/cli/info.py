"""`segkit info`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from segkit.cli.options import AsJson
from segkit.cli.results import print_facts, print_json, print_table

EPILOG = (
    "For a slide: sizes of its levels, micrometres per pixel, reader. For a model: classes, network, training and "
    "the cost of each block of layers (with -v: of each layer)."
)


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image, slide, model file or run folder.")],
    as_json: AsJson = False,
) -> None:
    """Show what is known about a file without reading its pixels."""
    from segkit.workflows.inspect import info

    facts = info(file)
    if as_json:
        print_json(facts)
        return
    layers, blocks = facts.pop("layers", None), facts.pop("blocks", None)
    print_facts(str(file), {name: _format(value) for name, value in facts.items()})
    if layers:
        details = logging.getLogger("segkit").isEnabledFor(logging.INFO)  # what -v switches on, on every command
        _print_layers("Layers" if details else "Layers by block (each: -v)", layers if details else blocks)


def _print_layers(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    table = [
        [
            row["name"],
            row["kind"],
            " x ".join(map(str, row["output"])),
            f"{row['parameters']:,}",
            _in_short(row["macs"]),
        ]
        for row in rows
    ]
    parameters, macs = (sum(row[column] for row in rows) for column in ("parameters", "macs"))
    table.append(["total", "", "", f"{parameters:,}", _in_short(macs)])
    print_table(title, ["name", "layers", "output", "parameters", "multiply-adds"], table)


def _in_short(count: float) -> str:
    """Return a number with three digits, e.g. `12.3 M` (powers of 1000)."""
    for unit in ("", " k", " M", " G"):
        if count < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} T"


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
