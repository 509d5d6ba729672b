"""Results on standard output: tables for people, one JSON document for machines.

Names and metadata come from files: what would steer the terminal is shown as escapes.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit.cli.failures import printable, printable_lines
from segkit.cli.json_log import log_result

MAX_PICTURES_NAMED = 5


def print_json(result: Any) -> None:
    """Print a result as one JSON document; numbers that are not finite become null, as JSON has none.

    With `--log-json` it goes into the log, and is printed if `--json` was given, too.
    """
    document = as_plain(result)
    if log_result(document):
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def as_plain(value: Any) -> Any:
    """Return a result (data classes, mappings, sequences, paths, numpy scalars) as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence | set | frozenset):
        return [as_plain(item) for item in value]
    raise TypeError(f"no JSON form for {type(value).__name__}")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns but the first are numbers or short words and keep to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=printable(title), title_justify="left", title_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(printable_lines, row))
    Console(markup=False, emoji=False, highlight=False).print(table)


def print_facts(title: str, facts: Mapping[str, str]) -> None:
    """Print names and values, one pair a line, values wrapped."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=printable(title), title_justify="left", title_style="bold", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(printable(name), printable_lines(value))
    Console(markup=False, emoji=False, highlight=False).print(table)


def print_lines(lines: Sequence[str]) -> None:
    """Print lines as they are: never wrapped, so that a path can be copied."""
    for line in lines:
        sys.stdout.write(f"{printable(line)}\n")


def print_pictures(pictures: Sequence[Path]) -> None:
    """Say which pictures to open, the first few by name."""
    print_lines([f"Look at: {picture}" for picture in pictures[:MAX_PICTURES_NAMED]])
    if len(pictures) > MAX_PICTURES_NAMED:
        print_lines([f"         and {len(pictures) - MAX_PICTURES_NAMED} more like these"])


def format_share(share: float) -> str:
    """Return a share of 1 in per cent, e.g. `12.3 %`."""
    return f"{100 * share:.1f} %"
