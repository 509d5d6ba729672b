"""`segkit evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.options import AsJson, Assignments, ConfigFile, ModelPath, config_option
from segkit.cli.progress import open_display
from segkit.cli.results import print_json, print_lines, print_pictures, print_table
from segkit.config import DataConfig, EvaluateConfig, build_config
from segkit.errors import UsageError

if TYPE_CHECKING:
    from segkit.evaluation.estimates import Estimate
    from segkit.evaluation.object_tables import ObjectReport
    from segkit.evaluation.pixel_tables import PixelReport
    from segkit.evaluation.point_tables import PointReport
    from segkit.evaluation.reports import Report

EPILOG = (
    "Leaves metrics.json, metrics.csv (per image), summary.md, report.html, table.tex, figures/, predictions/ and "
    "run.json."
)
FEW_UNITS = 6
METRICS = ("dice", "iou", "precision", "recall")
OBJECT_METRICS = {"average_precision": "AP", "f1": "F1", "precision": "precision", "recall": "recall"}
CLASS_METRICS = {"average_precision": "AP", "f1": "F1", "panoptic_quality": "PQ"}
POINT_METRICS = {"f1": "F1", "precision": "precision", "recall": "recall", "average_precision": "AP"}


def run(
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Data folder: predict its images, then measure.")
    ] = None,
    model: ModelPath = None,
    split: Annotated[str | None, config_option(EvaluateConfig, "split")] = None,
    prediction: Annotated[
        Path | None, typer.Option("--pred", metavar="DIR", help="Folder of predictions that are there.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="DIR", help="Data folder, or folder of true masks, labels, GeoJSON or points."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("evaluation"),
    device: Annotated[str | None, config_option(EvaluateConfig, "compute.device", metavar="DEVICE")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Build the configuration, evaluate, show the metrics."""
    _require_one_way(data=data, model=model, prediction=prediction, truth=truth)
    settings = build_config(
        EvaluateConfig,
        file=config,
        assignments=assignments or [],
        flags={"split": split, "compute.device": device},
    )
    from segkit.workflows.evaluate import evaluate

    with open_display() as display:
        result = evaluate(
            settings,
            data=None if data is None else DataConfig(dir=data),
            model=model,
            prediction=prediction,
            truth=truth,
            out=out,
            on_progress=display.on_progress,
            on_note=display.on_note,
        )
    if as_json:
        from segkit.evaluation import reports

        content = reports.as_json(result.report, result.remarks)
        print_json({"folder": result.folder, "figures": result.figures, **content})
        return
    _show(result.report)
    print_lines([f"All numbers and cases: {result.folder / 'report.html'}"])
    print_pictures(result.figures)


def _require_one_way(*, data: Path | None, model: Path | None, prediction: Path | None, truth: Path | None) -> None:
    measured = prediction is not None and truth is not None and data is None and model is None
    predicted = data is not None and prediction is None and truth is None
    if not (measured or predicted):
        raise UsageError(
            "give either --data DIR (with --model) to predict and measure, or --pred DIR and --truth DIR to measure "
            "what is there."
        )


def _show(report: "Report") -> None:
    from segkit.evaluation.object_tables import ObjectReport
    from segkit.evaluation.point_tables import PointReport

    match report:
        case PointReport():
            _show_points(report)
        case ObjectReport():
            _show_objects(report)
        case _:
            _show_pixels(report)


def _show_pixels(report: "PixelReport") -> None:
    print_table(
        "Pooled over all pixels, with 95 % intervals",
        ["class", *METRICS],
        [[row.name, *(_format(row.pooled[metric]) for metric in METRICS)] for row in report.per_class],
    )
    print_lines(
        [
            f"Dice {report.headline}, mean of the foreground classes",
            f"Pixel error {report.pixel_error_pooled}",
            *_further_pixel_lines(report),
            f"Images: {len(report.images)}; {_intervals_in_words(report)}",
        ]
    )


def _further_pixel_lines(report: "PixelReport") -> list[str]:
    from segkit.evaluation.pixel_exports import name_of_metric

    lines = []
    if report.surfaces is not None:
        metrics = (f"hd95_{report.surfaces.unit}", f"assd_{report.surfaces.unit}", "nsd")
        told = ", ".join(f"{name_of_metric(metric)} {report.foreground.mean[metric]}" for metric in metrics)
        lines.append(f"{told} within {report.surfaces.tolerance}, means over images")
    lines += [f"ECE {one.pooled['ece']} of {one.name}" for one in report.calibrations]
    if report.membranes is not None:
        v_rand, v_info = report.membranes.headline, report.membranes.mean["v_info"]
        lines.append(f"V-Rand {v_rand}, V-Info {v_info}: cells between {report.membranes.membrane}, means over images")
    return lines


def _show_objects(report: "ObjectReport") -> None:
    first = f"{report.thresholds[0]:g}"
    lines = []
    if report.foreground is not None:
        summaries = {one.name: one.pooled for one in report.per_class}
        summaries |= {"mean of the classes": report.foreground.pooled, "any class": report.pooled}
        print_table(
            f"Objects by class at IoU {first}, pooled over images, with 95 % intervals",
            ["class", *CLASS_METRICS.values()],
            [[name, *(_format(one.at[metric][0]) for metric in CLASS_METRICS)] for name, one in summaries.items()],
        )
        any_class = report.pooled.at["average_precision"][0]
        lines.append(f"AP at IoU {first}, any class (class is not looked at): {any_class}; so are Dice and AJI")
    rows = [
        [f"{threshold:g}", *(_format(report.pooled.at[metric][number]) for metric in OBJECT_METRICS)]
        for number, threshold in enumerate(report.thresholds)
    ]
    print_table(
        f"Objects ({report.name}), pooled over images, with 95 % intervals", ["IoU", *OBJECT_METRICS.values()], rows
    )
    of_classes = "" if report.foreground is None else ", mean of the classes"
    print_lines(
        [
            f"AP at IoU {first}{of_classes}: {report.headline} pooled over images, "
            f"{(report.foreground or report).mean.at['average_precision'][0]} as mean over images",
            *lines,
            f"Dice {report.pooled.dice}",
            f"AJI {report.pooled.aji}, AJI+ {report.pooled.aji_plus}",
            f"Objects: {report.num_true} labelled, {report.num_predicted} found",
            f"Images: {len(report.images)}; {_intervals_in_words(report)}",
        ]
    )


def _show_points(report: "PointReport") -> None:
    radius = f"{report.radius_px:.3g} px" + ("" if report.radius_um is None else f" ({report.radius_um:.3g} um)")
    if report.rule != "optimal":
        radius += f" by the rule {report.rule}"
    print_table(
        f"Pooled over all points, within {radius}, with 95 % intervals",
        ["class", *POINT_METRICS.values()],
        [[row.name, *(_format(row.pooled[metric]) for metric in POINT_METRICS)] for row in report.per_class],
    )
    print_lines(
        [
            f"F1 {report.headline}, mean of the foreground classes",
            f"As a mean over images: F1 {report.foreground_mean['f1']}",
            *(
                f"{row.name}: {row.counts.tp} right, {row.counts.fp} wrong, {row.counts.fn} missed"
                for row in report.per_class
            ),
            f"Images: {len(report.images)}; {_intervals_in_words(report)}",
        ]
    )


def _intervals_in_words(report: "Report") -> str:
    if report.num_units < 2:
        return f"no intervals: they need at least two {report.unit}s"
    few = "; with so few they say little" if report.num_units < FEW_UNITS else ""
    return f"intervals from {report.num_samples} resamplings of {report.num_units} {report.unit}s{few}"


def _format(estimate: "Estimate") -> str:
    from segkit.evaluation.estimates import format_value

    value = format_value(estimate.value)
    if estimate.low is None:
        return value
    return f"{value}\n{format_value(estimate.low)}-{format_value(estimate.high)}"
