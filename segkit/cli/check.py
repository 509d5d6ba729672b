"""`segkit check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.options import AsJson, Assignments, ConfigFile
from segkit.cli.progress import open_display
from segkit.cli.results import format_share, print_facts, print_json, print_lines, print_table
from segkit.config import TrainConfig, build_config
from segkit.errors import InputError

if TYPE_CHECKING:
    from segkit.data.check import CheckReport, SplitFacts

EPILOG = "Ends with exit code 3 where a training could not use the folder; warnings do not change the exit code."


def run(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The data folder.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Read the folder as a training with this configuration would, show facts, warnings and problems."""
    settings = build_config(TrainConfig, file=config, assignments=assignments or [], flags={"data.dir": directory})
    from segkit.workflows.inspect import check

    with open_display() as display:
        report = check(settings.data, on_progress=display.on_progress)
    if as_json:
        print_json({"problems": report.problems, "warnings": report.warnings, "facts": report.facts})
    else:
        _show(report)
    if report.problems:
        raise InputError(f"{directory}: {len(report.problems)} problem(s):", report.problems)
    if not as_json:
        print_lines(["No problems."])


def _show(report: "CheckReport") -> None:
    facts = report.facts
    if facts is not None:
        has_points = facts.annotation == "points"
        empty = "have no point of a class" if has_points else "show only background"
        print_facts(
            str(report.root),
            {
                "images": f"{facts.num_images}, of which {facts.num_empty} {empty}",
                "annotation": facts.annotation,
                "size": f"{_range(facts.heights)} x {_range(facts.widths)} px (height x width)",
                "channels": ", ".join(f"{number} in {count} images" for number, count in facts.channels.items()),
                "micrometres per pixel": "unknown" if facts.mpp is None else f"{facts.mpp:g}",
            },
        )
        print_table(
            "Number of points" if has_points else "Share of the labelled pixels",
            ["split", "images", "groups", *(("hard negatives", *facts.classes[1:]) if has_points else facts.classes)],
            [
                [name, str(split.num_images), str(split.num_groups), *_class_cells(split)]
                for name, split in facts.splits.items()
            ],
        )
    print_lines([f"Warning: {warning}" for warning in report.warnings])


def _class_cells(split: "SplitFacts") -> list[str]:
    """Return the number of points of every class, else its share of the pixels."""
    return [*map(format_share, split.class_shares)] if split.class_points is None else [*map(str, split.class_points)]


def _range(limits: tuple[int, int]) -> str:
    smallest, largest = limits
    return str(smallest) if smallest == largest else f"{smallest} to {largest}"
