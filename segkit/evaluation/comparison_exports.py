"""Write a comparison as JSON (everything), CSV (per image), Markdown (to read) and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from segkit.evaluation.comparison import DEFINITIONS, ComparedImage, ComparedMetric, Comparison, Difference
from segkit.evaluation.estimates import format_value
from segkit.evaluation.latex import name_of_metric, write_table
from segkit.evaluation.markdown import cell, table
from segkit.files import write_csv, write_json, write_text
from segkit.versions import version_of

JSON, CSV, MARKDOWN = "comparison.json", "comparison.csv", "comparison.md"
MOST_DIFFERENT: Final = 10
"""Images that the summary lists."""


def write_comparison(
    comparison: Comparison,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    remarks: Sequence[str],
    meanings: Mapping[str, str],
) -> None:
    """Write `comparison.csv`, `comparison.md`, `table.tex` and `comparison.json`, each whole or not at all.

    Parameters
    ----------
    comparison, folder
        What was found, and where it goes.
    facts
        What metrics.json is to say of the evaluations, as JSON knows it.
    remarks
        What a reader should know: images that were left out, settings that differ.
    meanings
        Definitions of the metrics, as the evaluations have them.
    """
    rows = as_csv_rows(comparison)
    write_csv(folder / CSV, rows, list(rows[0]))
    write_text(folder / MARKDOWN, as_markdown(comparison, facts=facts, remarks=remarks, meanings=meanings))
    write_table(comparison, folder)
    write_json(folder / JSON, as_json(comparison, facts=facts, remarks=remarks, meanings=meanings))


def as_csv_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of comparison.csv: one for each image, those with the largest difference first.

    The headline metric of each evaluation, and the differences to the first.
    """
    first, *others = comparison.labels
    name = comparison.headline.name
    rows = []
    for image in comparison.images:
        values = dict(zip(comparison.labels, image.values, strict=True))
        rows.append(
            {
                "image": image.image,
                "group": image.group,
                **{f"{name} {label}": value for label, value in values.items()},
                **{f"{label} - {first}": _minus(values[label], values[first]) for label in others},
                "largest_difference": round(image.largest_difference, 6),
            }
        )
    return rows


def as_json(
    comparison: Comparison, *, facts: Mapping[str, Any], remarks: Sequence[str], meanings: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of comparison.json."""
    return {
        "segkit": version_of("segkit"),
        "measured": comparison.kind,
        "evaluations": list(comparison.labels),
        **facts,
        "num_images": len(comparison.images),
        "notes": list(remarks),
        "headline": _metric(comparison.headline, comparison.labels),
        "metrics": [_metric(metric, comparison.labels) for metric in comparison.metrics],
        "images": [
            {
                "image": image.image,
                "group": image.group,
                "values": dict(zip(comparison.labels, image.values, strict=True)),
                "largest_difference": round(image.largest_difference, 6),
            }
            for image in comparison.images
        ],
        "intervals": comparison.intervals_as_json(),
        "definitions": {**meanings, **DEFINITIONS},
    }


def as_markdown(
    comparison: Comparison, *, facts: Mapping[str, Any], remarks: Sequence[str], meanings: Mapping[str, str]
) -> str:
    """Return the content of comparison.md: what was compared, the tables, where they differ most, definitions."""
    headline, labels = comparison.headline, comparison.labels
    folders = facts.get("folders", {})
    named = f"{name_of_metric(headline.name)} ({cell(headline.of)})"
    shown = [image for image in comparison.images if image.largest_difference > 0][:MOST_DIFFERENT]
    parts = [
        f"# {', '.join(map(cell, labels))}: {comparison.kind} of the same {len(comparison.images)} "
        f"{'image' if len(comparison.images) == 1 else 'images'}",
        "\n".join(f"- {cell(label)}: {cell(str(folders[label]))}" for label in labels if label in folders),
        f"**{named}, pooled: " + ", ".join(
            f"{cell(label)} {value}" for label, value in zip(labels, headline.values, strict=True)
        ) + ".** " + " ".join(
            in_words(cell(label), cell(labels[0]), difference)
            for label, difference in zip(labels[1:], headline.differences, strict=True)
        ),
        comparison.intervals_in_words(),
        "\n".join(f"- {remark}" for remark in remarks),
        *(
            f"## {title}\n\n" + _table(comparison, [one for one in comparison.metrics if one.how == how])
            for how, title in (("pooled", "Pooled over images"), ("mean", "Mean over images"))
        ),
        f"## Images where they differ most\n\nBy {named}." if shown else f"No image differs in its {named}.",
        _images_table(labels, shown) if shown else "",
        f"All images are in `{CSV}`, all numbers with their definitions in `{JSON}`, rows for LaTeX in `table.tex`.",
        "## Definitions",
        "\n".join(f"- {name}: {text}" for name, text in {**meanings, **DEFINITIONS}.items()),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def in_words(label: str, first: str, difference: Difference) -> str:
    """Return a sentence about a difference."""
    sentence = f"{label} - {first}: {format_difference(difference)}"
    if difference.share_better is None or difference.share_worse is None:
        return f"{sentence}."
    shares = (
        f"better in {100 * difference.share_better:.1f} % of the samples, worse in {100 * difference.share_worse:.1f} %"
    )
    return f"{sentence}; {label} is {shares}."


def format_difference(difference: Difference) -> str:
    """Return a difference with its sign and its interval, for people."""
    estimate = difference.estimate
    if estimate.value is None:
        return format_value(None)
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.3f}"
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else round(value - other, 6)


def _metric(metric: ComparedMetric, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "metric": metric.name,
        "of": metric.of,
        "how": metric.how,
        "better": metric.better,
        "values": {label: asdict(value) for label, value in zip(labels, metric.values, strict=True)},
        "differences": {
            label: {**asdict(one.estimate), "share_better": one.share_better, "share_worse": one.share_worse}
            for label, one in zip(labels[1:], metric.differences, strict=True)
        },
    }


def _table(comparison: Comparison, metrics: Sequence[ComparedMetric]) -> str:
    """Return the table of some metrics: a row each, the values, then the differences to the first."""
    first, *others = map(cell, comparison.labels)
    header = ["metric", "of", first]
    for label in others:
        header += [label, f"{label} - {first}", "better in"]
    rows = []
    for metric in metrics:
        row = [name_of_metric(metric.name), cell(metric.of), str(metric.values[0])]
        for value, difference in zip(metric.values[1:], metric.differences, strict=True):
            share = "" if difference.share_better is None else f"{100 * difference.share_better:.1f} %"
            row += [str(value), format_difference(difference), share]
        rows.append(row)
    return table(header, rows) if rows else ""


def _images_table(labels: Sequence[str], images: Sequence[ComparedImage]) -> str:
    return table(
        ["image", *map(cell, labels), "largest difference"],
        [[cell(image.image), *map(format_value, image.values), f"{image.largest_difference:.3f}"] for image in images],
    )
