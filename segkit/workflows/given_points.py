"""Detections that are there, and the true points that they are compared with: with images or without."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.config import DataConfig
from segkit.data.classes import BACKGROUND, point_classes
from segkit.data.layout import MPP_TOLERANCE, load_dataset
from segkit.data.listing import POINT_TABLE, name_of
from segkit.data.point_files import UNLABELLED, RawPoints, read_features, read_table
from segkit.data.points import read_points
from segkit.errors import InputError
from segkit.inference.detection_outputs import DETECTION_TABLE, read_detections
from segkit.points import Detections, Points
from segkit.slides import open_slide
from segkit.workflows.callbacks import OnNote
from segkit.workflows.dataset_items import attributes_of, groups_of, items_with
from segkit.workflows.given_files import (
    SlideRecord,
    files_in,
    hold_points,
    is_polygons,
    require_pairs,
    slide_record,
)
from segkit.workflows.missing import Missing
from segkit.workflows.placement import Size, differ
from segkit.workflows.truth_files import TruthFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class TruePoints:
    """The true points of an image, its size in pixels, and its file where there is one."""

    name: str
    points: Points
    height: int
    width: int
    image: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTruth:
    """True points of images; classes by index, background first; `mpp` None where unknown.

    `groups` and `attributes` are what splits.csv says of the images, see `segkit.workflows.dataset_items`.
    """

    classes: tuple[str, ...]
    mpp: float | None
    images: tuple[TruePoints, ...]
    groups: list[str] | None
    attributes: dict[str, list[str]]


def detections_in(folder: Path) -> dict[str, Path]:
    """Return the files with detections by image: NAME/detections.csv, NAME.csv, or NAME.geojson of points.

    Raises
    ------
    InputError
        There are none, or several of a name.
    UsageError
        It is what was left for one image.
    """
    tables = files_in(folder, "points", "detections")
    drawn = {name: path for name, path in files_in(folder, "polygons", "detections").items() if path.parent == folder}
    if drawn and not hold_points(drawn.values()):
        drawn = {}
    if not tables and not drawn:
        raise InputError(
            f"{folder}: holds no detections (NAME/{DETECTION_TABLE}, NAME.csv with x, y, score and label, or "
            "NAME.geojson of points)."
        )
    if twice := sorted(tables.keys() & drawn.keys()):
        raise InputError(f"{folder}: holds several files of detections of a name. Keep one of each:", twice)
    return tables | drawn


def read_given_detections(path: Path, classes: tuple[str, ...]) -> Detections:
    """Read detections; those in GeoJSON have no scores, and so all have the score 1.

    Raises
    ------
    InputError
        See `read_detections`; or a point is of no class.
    """
    if not is_polygons(path):
        return read_detections(path, classes)
    raw = read_features(path)
    names = [classes[1] if label == UNLABELLED and len(classes) == 2 else label for label in raw.labels]
    if unknown := sorted(set(names) - set(classes[1:])):
        raise InputError(
            f"{path}: holds points of {', '.join(unknown)}, and the classes of the truth are {', '.join(classes[1:])}."
        )
    return Detections(
        raw.positions, np.array([classes.index(name) for name in names], np.int64), np.ones(len(raw.positions))
    )


def true_points(truth: TruthFolder, prediction: Path, predictions: Mapping[str, Path], on_note: OnNote) -> PointTruth:
    """Read the true points of the images that there are detections of.

    Truths without detections are refused, or left out where `truth.missing` allows it. In a plain folder (NAME.csv,
    NAME.geojson, or points.csv for all images) what was searched is what `segkit predict` or `sliding-window` wrote
    down of the slide.

    Raises
    ------
    InputError
        The truth cannot be used, or does not pair with the detections by name.
    """
    if not truth.is_data:
        return _plain(truth.root, prediction, predictions, truth.missing)
    dataset = load_dataset(DataConfig(dir=truth.root, annotation="points"))
    items = items_with(
        predictions, prediction, dataset, "detections", on_note, split=truth.split, missing=truth.missing
    )
    images = []
    for item in items:
        with open_slide(item.image) as slide:
            height, width = slide.height, slide.width
        points = read_points(item, dataset, height, width)
        _require_same_slide(item.name, Size(height, width, dataset.mpp), slide_record(predictions[item.name]))
        images.append(TruePoints(name=item.name, points=points, height=height, width=width, image=item.image))
    return PointTruth(
        classes=dataset.classes,
        mpp=dataset.mpp,
        images=tuple(images),
        groups=groups_of(items),
        attributes=attributes_of(items),
    )


def in_searched_part(true: TruePoints, record: SlideRecord | None) -> tuple[Points, int]:
    """Return the true points in what was searched, and its area in pixels: the image, or a region of the slide."""
    whole = true.height * true.width
    if record is None or not record.is_part:
        return true.points, whole
    low, high = np.array(record.origin), np.array(record.end)
    inside = np.all((true.points.positions >= low) & (true.points.positions < high), axis=1)
    area = min(whole, round(float(np.prod(high - low))))
    return Points(true.points.positions[inside], true.points.classes[inside]), area


def require_inside(found: Detections, true: TruePoints, path: Path, radius_px: float) -> None:
    """Raise InputError if a detection lies outside of its image, by more than what a match may be away."""
    beyond = np.maximum(-found.positions, found.positions - (true.height, true.width)).max(axis=1, initial=0)
    if (outside := beyond > radius_px).any():
        y, x = found.positions[outside][0]
        raise InputError(
            f"{path}: {outside.sum()} of {len(outside)} detections lie outside of {true.name}, which has {true.width} "
            f"x {true.height} pixels, the first at x = {x:.10g}, y = {y:.10g}. Positions are in pixels of level 0."
        )


def _require_same_slide(name: str, truth: Size, record: SlideRecord | None) -> None:
    if record is None:
        return
    searched = Size(record.height, record.width, record.mpp)
    if searched[:2] != truth[:2] or differ(searched.mpp, truth.mpp):
        raise InputError(
            f"{name}: points were found on a slide of {searched}, and the truth's image is {truth}. Both are in pixels "
            "of level 0 and must be the same; correct the scale that is wrong, or search the truth's image."
        )


def _plain(root: Path, prediction: Path, predictions: Mapping[str, Path], missing: Missing) -> PointTruth:
    raws = _read_plain(root, predictions)
    names = require_pairs(predictions, raws, prediction, root, missing)
    records = {name: slide_record(predictions[name]) for name in names}
    labels = {root: Counter(label for raw in raws.values() for label in raw.labels)}
    found = point_classes(labels, None, None)
    if found.problems:
        raise InputError(f"{root}: cannot be used as truth:", found.problems)
    classes = found.names or _classes_of_records(records)
    images = []
    for name in names:
        record, raw = records[name], raws[name]
        if record is None:
            raise InputError(
                f"{root}: holds points and no images, and {predictions[name].parent} no run.json of segkit: the size "
                f"of {name} is not known. Give a data folder as truth, with images/ and the points."
            )
        positions = raw.positions
        outside = np.any((positions < 0) | (positions > (record.height, record.width)), axis=1)
        if outside.any():
            y, x = positions[outside][0]
            raise InputError(
                f"{root}: {outside.sum()} of {len(positions)} points of {name} lie outside of its {record.width} x "
                f"{record.height} pixels, the first at x = {x:.10g}, y = {y:.10g}. Positions are in pixels of level 0."
            )
        indices = np.array([found.labels[label] for label in raw.labels], np.int64)
        images.append(
            TruePoints(
                name=name, points=Points(positions, indices), height=record.height, width=record.width, image=None
            )
        )
    mpp = _common_mpp(prediction, records)
    return PointTruth(classes=classes, mpp=mpp, images=tuple(images), groups=None, attributes={})


def _read_plain(root: Path, predictions: Mapping[str, Path]) -> dict[str, RawPoints]:
    """Return the points by image, of single files or of one table for all."""
    tables = files_in(root, "points", "truths")
    if set(tables) == {name_of(root / POINT_TABLE)} and set(predictions) != set(tables):
        whole = read_table(root / POINT_TABLE, has_images=True)
        _require_whole(root / POINT_TABLE, whole)
        rows: dict[str, list[int]] = {name: [] for name in predictions}
        for number, cell in enumerate(whole.images):
            rows.setdefault(cell if cell in rows else name_of(Path(cell)), []).append(number)
        return {
            name: RawPoints(positions=whole.positions[numbers], labels=[whole.labels[number] for number in numbers])
            for name, numbers in rows.items()
        }
    raws = {}
    for name, path in {**tables, **files_in(root, "polygons", "truths")}.items():
        raws[name] = read_features(path) if is_polygons(path) else read_table(path, has_images=False)
        _require_whole(path, raws[name])
    return raws


def _require_whole(path: Path, raw: RawPoints) -> None:
    if raw.problems:
        raise InputError(f"{path}: holds rows that are no points.", raw.problems)


def _classes_of_records(records: Mapping[str, SlideRecord | None]) -> tuple[str, ...]:
    """Return the classes where no point is labelled: those of the model."""
    return next((record.classes for record in records.values() if record is not None), (BACKGROUND, UNLABELLED))


def _common_mpp(prediction: Path, records: Mapping[str, SlideRecord | None]) -> float | None:
    scales = {name: record.mpp for name, record in records.items() if record is not None and record.mpp is not None}
    if len(scales) < len(records):
        return None
    low, high = min(scales, key=lambda name: scales[name]), max(scales, key=lambda name: scales[name])
    if scales[high] > scales[low] * (1 + MPP_TOLERANCE):
        raise InputError(
            f"{prediction}: {high} has {scales[high]:.4g} um per pixel, and {low} {scales[low]:.4g}. Measure images of "
            "one scale together."
        )
    return scales[low]
