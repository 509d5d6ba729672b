"""What files say about membranes: a part of metrics.json, columns of metrics.csv, a part of summary.md, table rows."""

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Final

from segkit.evaluation import membrane_totals
from segkit.evaluation.estimates import Estimate, format_value
from segkit.evaluation.markdown import cell, table
from segkit.evaluation.membrane_tables import MembraneReport

COLUMNS: Final = tuple(membrane_totals.METRICS)
"""Columns of metrics.csv; they are the image's, and so repeat for each class."""

LABELS: Final = MappingProxyType(
    {
        "v_rand": "V-Rand",
        "v_rand_precision": "V-Rand precision",
        "v_rand_recall": "V-Rand recall",
        "v_info": "V-Info",
        "v_info_precision": "V-Info precision",
        "v_info_recall": "V-Info recall",
        "rand_error": "Rand error",
        "rand_score": "Rand score",
        "rand_precision": "Rand precision",
        "rand_recall": "Rand recall",
        "vi_bits": "variation of information, bits",
        "vi_split_bits": "VI by splits, bits",
        "vi_merge_bits": "VI by merges, bits",
    }
)
"""What people call the metrics."""

DEFINITIONS: Final = MappingProxyType(
    {
        **membrane_totals.DEFINITIONS,
        "membranes_mean": "the metric per image, then the mean of the defined values, as in the ISBI 2012 challenge",
        "membranes_pooled": "pairs of pixels and bits added up over images, then the metric: variation of information "
        "per pixel; large cells count more",
        "membranes_chosen_threshold": "of the probability of cell; chosen on images that are not measured here, the "
        "middle of the thresholds whose mean V-Rand is within one standard error of the highest, or one that was given",
        "membranes_best_threshold": "the highest mean over the thresholds on the measured images themselves, by each "
        "metric, as the ISBI 2012 challenge took it: too good, to be compared with the challenge's numbers only",
    }
)
"""What metrics.json says, beside the definitions of pixel metrics."""

BRIEF: Final = ("v_rand", "v_info", "rand_error", "vi_bits")
"""What small tables show, one of each kind."""

_NUM_LOWEST: Final = 5  # images that the summary lists
_MAX_GROUPS: Final = 20  # groups that the summary lists


def csv_cells(report: MembraneReport) -> dict[str, Mapping[str, float | None]]:
    """Return the cells of metrics.csv by image and column."""
    return {row.image: row.metrics for row in report.images}


def as_json(report: MembraneReport) -> dict[str, Any]:
    """Return the part `membranes` of metrics.json."""
    return {
        "class": report.membrane,
        "num_images": len(report.images),
        "headline": {"metric": "v_rand", "how": "mean", **asdict(report.headline)},
        "mean": _estimates(report.mean),
        "pooled": _estimates(report.pooled),
        "groups": [
            {
                **{name: getattr(one, name) for name in ("by", "name", "num_images", "num_units")},
                "mean": _estimates(one.mean),
                "pooled": _estimates(one.pooled),
            }
            for one in report.groups
        ],
        "chosen_threshold": None if report.chosen is None else asdict(report.chosen),
        "best_threshold": {metric: asdict(best) for metric, best in report.best.items()},
        "thresholds": [
            {"threshold": one.threshold, "mean": _estimates(one.mean), "pooled": _estimates(one.pooled)}
            for one in report.sweep
        ],
        "intervals": report.intervals_as_json(),
    }


def markdown_parts(report: MembraneReport) -> list[str]:
    """Return the parts of summary.md, a heading first."""
    num_images = f"{len(report.images)} {'image' if len(report.images) == 1 else 'images'}"
    lowest = sorted(
        (row for row in report.images if row.metrics["v_rand"] is not None),
        key=lambda row: (row.metrics["v_rand"], row.image),
    )
    return [
        "## Membranes",
        f"**V-Rand {report.headline}**, V-Info {report.mean['v_info']}, Rand error {report.mean['rand_error']}, "
        f"variation of information {report.mean['vi_bits']} bits: cells between the class {cell(report.membrane)} of "
        f"the predicted masks, mean over {num_images}.",
        table(
            ["", "mean over images", "pooled"],
            [[label, str(report.mean[metric]), str(report.pooled[metric])] for metric, label in LABELS.items()],
        ),
        *_threshold_parts(report),
        *_group_parts(report),
        "### Images with the lowest V-Rand",
        table(
            ["image", "V-Rand", "V-Info", "Rand error", "VI, bits"],
            [
                [
                    cell(row.image),
                    *(format_value(row.metrics[name]) for name in BRIEF),
                ]
                for row in lowest[:_NUM_LOWEST]
            ],
        ),
    ]


def latex_rows(report: MembraneReport) -> list[tuple[str, list[Estimate]]]:
    """Return rows of a table of `BRIEF`, means over images: what the cells are of, and the estimates.

    At a threshold that was chosen there are those after thinning only.
    """
    rows = [("predicted mask", [report.mean[name] for name in BRIEF])]
    if (at := report.at_chosen) is not None:
        undefined = Estimate(None, None, None)
        rows.append((f"threshold {at.threshold:g}", [at.mean.get(name, undefined) for name in BRIEF]))
    return rows


def chosen_in_words(report: MembraneReport) -> str:
    """Return a sentence about the threshold that was chosen elsewhere, empty without one."""
    if report.chosen is None:
        return ""
    threshold = f"The threshold {report.chosen.threshold:g}"
    if report.chosen.chosen_on is None:
        return f"{threshold} was given."
    return f"{threshold} was chosen on {report.chosen.chosen_on} (V-Rand {format_value(report.chosen.score)} there)."


def best_in_words(report: MembraneReport) -> str:
    """Return a sentence about the maxima over thresholds, empty without a sweep."""
    if not report.best:
        return ""
    maxima = " and ".join(
        f"{LABELS[metric]} {best.value:.3f} (at {best.threshold:g})" for metric, best in report.best.items()
    )
    return (
        f"The best thresholds on these very images give {maxima}: too good by the choice, as the published numbers of "
        "the ISBI 2012 challenge are, which took the best threshold on its test slices."
    )


def _threshold_parts(report: MembraneReport) -> list[str]:
    if not report.sweep:
        return []
    chosen = None if report.chosen is None else report.chosen.threshold
    rows = [
        [
            f"{one.threshold:g}" + (", chosen" if one.threshold == chosen else ""),
            *(str(one.mean[metric]) for metric in ("v_rand", "v_info")),
        ]
        for one in report.sweep
    ]
    return [
        "### Over thresholds of the probability of cell",
        " ".join(filter(None, [chosen_in_words(report), best_in_words(report)])),
        table(["threshold", "V-Rand", "V-Info"], rows),
    ]


def _group_parts(report: MembraneReport) -> list[str]:
    parts = []
    for by in dict.fromkeys(one.by for one in report.groups):
        groups = [one for one in report.groups if one.by == by]
        rows = [
            [cell(one.name), str(one.num_images), *(str(one.mean[metric]) for metric in BRIEF)]
            for one in groups[:_MAX_GROUPS]
        ]
        parts += [
            f"### Membranes by {cell(by)}, mean over images",
            table([cell(by), "images", *(LABELS[metric] for metric in BRIEF)], rows),
        ]
        if len(groups) > _MAX_GROUPS:
            parts.append(f"The first {_MAX_GROUPS} of {len(groups)}; all are in `metrics.json`.")
    return parts


def _estimates(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {metric: asdict(estimate) for metric, estimate in estimates.items()}
