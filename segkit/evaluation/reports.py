"""The three kinds of reports as one: for what treats them alike."""

from typing import Any

from segkit.evaluation import object_exports, pixel_exports, point_exports
from segkit.evaluation.object_tables import ObjectReport
from segkit.evaluation.pixel_tables import PixelReport
from segkit.evaluation.point_tables import PointReport

Report = PixelReport | ObjectReport | PointReport


def as_json(report: Report) -> dict[str, Any]:
    """Return the content of metrics.json, definitions and versions in it."""
    match report:
        case PixelReport():
            return pixel_exports.as_json(report)
        case ObjectReport():
            return object_exports.as_json(report)
        case PointReport():
            return point_exports.as_json(report)
