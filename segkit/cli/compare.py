"""`segkit compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.options import AsJson, Assignments, ConfigFile, config_option
from segkit.cli.progress import open_display
from segkit.cli.results import print_json, print_lines, print_table
from segkit.config import DataConfig, EvaluateConfig, build_config

if TYPE_CHECKING:
    from segkit.evaluation.comparison import Comparison

EPILOG = "Leaves comparison.json, comparison.csv (per image), comparison.md, table.tex (LaTeX) and run.json."
IMAGES_SHOWN = 5


def run(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="EVAL|RUN...",
            help="Folders that `segkit evaluate` left, or runs, which are evaluated first; the first one is what the "
            "others are compared with.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Data folder that runs are evaluated on.")
    ] = None,
    split: Annotated[str | None, config_option(EvaluateConfig, "split")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("comparison"),
    device: Annotated[str | None, config_option(EvaluateConfig, "compute.device", metavar="DEVICE")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Build the configuration, compare, show the differences."""
    settings = build_config(
        EvaluateConfig,
        file=config,
        assignments=assignments or [],
        flags={"split": split, "compute.device": device},
    )
    from segkit.workflows.compare import compare

    with open_display() as display:
        result = compare(
            inputs,
            data=None if data is None else DataConfig(dir=data),
            config=settings,
            out=out,
            on_progress=display.on_progress,
            on_note=display.on_note,
        )
    if as_json:
        print_json({"folder": result.folder, "notes": result.remarks, "comparison": result.comparison})
        return
    _show(result.comparison)
    print_lines([f"All numbers: {result.folder / 'comparison.md'}"])


def _show(comparison: "Comparison") -> None:
    from segkit.evaluation.comparison_exports import format_difference, in_words
    from segkit.evaluation.estimates import format_value
    from segkit.evaluation.latex import name_of_metric

    first, *others = comparison.labels
    columns = ["metric", "of", first]
    for label in others:
        columns += [label, f"{label} - {first}", "better in"]
    rows = []
    for metric in comparison.metrics:
        if metric.how == "pooled" and not metric.name.startswith("average_precision_"):  # those are in the files
            row = [name_of_metric(metric.name), metric.of, format_value(metric.values[0].value)]
            for value, difference in zip(metric.values[1:], metric.differences, strict=True):
                share = "" if difference.share_better is None else f"{100 * difference.share_better:.1f} %"
                row += [format_value(value.value), format_difference(difference).replace(" (", "\n("), share]
            rows.append(row)
    num_images = len(comparison.images)
    print_table(
        f"The same {num_images} {'image' if num_images == 1 else 'images'}, pooled; differences with 95 % intervals",
        columns,
        rows,
    )
    headline = comparison.headline
    print_lines(
        [
            *(
                in_words(label, first, difference)
                for label, difference in zip(others, headline.differences, strict=True)
            ),
            "Better in: share of the bootstrap samples, all measured on the same images; no p-value.",
            comparison.intervals_in_words(),
        ]
    )
    differing = [image for image in comparison.images if image.largest_difference > 0][:IMAGES_SHOWN]
    if differing:
        print_lines([f"Images where {name_of_metric(headline.name)} ({headline.of}) differs most:"])
    print_lines(
        [f"  {image.image}: {', '.join(map(format_value, image.values))}" for image in differing],
    )
