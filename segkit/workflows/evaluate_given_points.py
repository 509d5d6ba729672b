"""Detections that are there measured against labelled points, whatever the size of the images."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.config import EvaluateConfig
from segkit.errors import UsageError
from segkit.geometry import Box
from segkit.inference.detection_outputs import DETECTION_TABLE
from segkit.slides import open_slide
from segkit.slides.thumbnail import read_thumbnail, thumbnail_size
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.evaluate_points import Found, match_radius_px
from segkit.workflows.given_files import is_polygons, slide_record
from segkit.workflows.given_points import (
    detections_in,
    in_searched_part,
    read_given_detections,
    require_inside,
    true_points,
)
from segkit.workflows.truth_files import TruthFolder

LARGEST_WHOLE_PX: Final = 64_000_000
"""Larger images are drawn from a thumbnail."""
THUMBNAIL_PX: Final = 2000


def has_detections(prediction: Path) -> bool:
    """Tell whether a folder holds what `sliding-window`, or `predict` with a U-Net for points, leaves.

    Raises
    ------
    UsageError
        It is what was left for one image.
    """
    if (prediction / DETECTION_TABLE).is_file():
        raise UsageError(
            f"{prediction}: holds the detections of one image. Give the folder that it lies in, "
            f"{prediction.resolve().parent}."
        )
    return any(prediction.glob(f"*/{DETECTION_TABLE}"))


def given_points(
    config: EvaluateConfig,
    prediction: Path,
    truth: TruthFolder,
    figures: Path,
    on_progress: OnProgress,
    on_note: OnNote,
) -> Found:
    """Put detections that are there beside the true points.

    They are what `sliding-window` or `predict` left, NAME/detections.csv, or NAME.csv, or NAME.geojson of points. Where
    only a region of a slide was searched, true points outside of it do not count. Images are read for drawing only, and
    large ones as thumbnails.

    Raises
    ------
    UsageError
        There is no match radius.
    InputError
        A folder cannot be used, predictions and images do not pair by name, or they are of other slides.
    """
    tables = detections_in(prediction)
    true = true_points(truth, prediction, tables, on_note)
    if any(is_polygons(tables[one.name]) for one in true.images):
        on_note(f"{prediction}: GeoJSON has no scores, so average precision and FROC have one threshold only")
    found = Found(
        true.classes,
        match_radius_px(config, None, true.mpp),
        true.mpp,
        [0.0] * (len(true.classes) - 1),
        config.match_rule,
        groups=true.groups,
        attributes=true.attributes,
    )
    parts = []
    for number, one in enumerate(true.images, start=1):
        path = tables[one.name]
        points, area_px = in_searched_part(one, slide_record(path))
        if area_px < one.height * one.width:
            parts.append(one.name)
        detections = read_given_detections(path, true.classes)
        require_inside(detections, one, path, found.radius_px)
        found.add(
            one.name,
            None if one.image is None else _picture(one.image, one.height, one.width),
            detections,
            points,
            figures,
            size=(one.height, one.width),
            area_px=area_px,
        )
        on_progress("measure", number, len(true.images), {})
    if parts:
        on_note(f"{', '.join(parts)} in {prediction}: only a region was searched; true points outside do not count")
    return found


def _picture(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    with open_slide(path) as slide:
        if height * width <= LARGEST_WHOLE_PX:
            return slide.read(Box(0, 0, height, width))
        return read_thumbnail(slide, *thumbnail_size(height, width, THUMBNAIL_PX))
