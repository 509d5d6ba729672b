"""`segkit export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.options import AsJson
from segkit.cli.progress import open_display
from segkit.cli.results import print_facts, print_json, print_lines

if TYPE_CHECKING:
    from segkit.workflows.export import ExportResult

EPILOG = (
    "Leaves the file and FILE.json beside it, which says what goes in and what comes out, and how images are prepared "
    "and results read without segkit. The graph is compared with the model first. ONNX needs segkit[export]."
)


def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL|RUN", help="Model file or run folder.")],
    file_format: Annotated[
        str | None,
        typer.Option("--format", metavar="onnx|torch", help="ONNX, or torch.export (.pt2); without it, as --out ends."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file; without it, beside the model file.")
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="A patch CNN at all places of an image at once: a map comes out.")
    ] = False,
    stride: Annotated[
        int | None,
        typer.Option("--stride", metavar="N", min=1, max=64, help="Pixels between these; without it, the model's."),
    ] = None,
    input_type: Annotated[
        str, typer.Option("--input", metavar="float32|uint8", help="Type of the pixels, 0 to 255 either way.")
    ] = "float32",
    values: Annotated[
        str,
        typer.Option("--output", metavar="probabilities|logits", help="What comes out: after softmax, or before."),
    ] = "probabilities",
    as_json: AsJson = False,
) -> None:
    """Write the model as a file that other programs run, with its description, compared with the model."""
    from segkit.workflows.export import export

    with open_display() as display:
        result = export(
            model,
            file_format=file_format,
            out=out,
            dense=dense,
            stride=stride,
            input_type=input_type,
            values=values,
            on_note=display.on_note,
        )
    if as_json:
        print_json(result)
    else:
        _show(result)


def _show(result: "ExportResult") -> None:
    description = result.description
    given, check = description["input"], description["check"]
    facts = {
        "format": " ".join(
            f"{name} {value}" if name != "name" else value for name, value in description["format"].items()
        ),
        "input": f"{given['name']}: {given['type']} ({given['layout']}), {given['channels']}, 0 to 255",
        "height, width": given["height_and_width"],
        "output": "\n".join(f"{one['name']}: {one['type']} ({one['layout']})" for one in description["outputs"]),
        "classes": ", ".join(description["classes"]),
        "micrometres per pixel": "unknown" if description["mpp"] is None else f"{description['mpp']:g}",
        "compared with the model": f"largest difference {result.largest_difference:.2g} on {len(check['inputs'])} "
        f"batches ({result.tolerance:g} is allowed)",
    }
    print_facts(str(result.file), facts)
    print_lines([f"How to use it: {result.metadata}"])
