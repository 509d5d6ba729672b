"""Scanning with a sliding window in tests, and reading what a scan left."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from segkit.config import SlidingWindowConfig, build_config
from segkit.inference.detection_outputs import read_detections
from segkit.points import Detections, Points
from segkit.workflows.sliding_window import SlidingWindowResult, WindowResult, sliding_window
from tests.patch_model import CLASSES, draw_red_and_blue

DISKS = draw_red_and_blue(1, 151, 210)
LEAVES = {"probability.tif", "detections.csv", "detections.geojson", "overview.png", "windows.png", "run.json"}
SAME_SCORE = 4 / 65535
"""Scores of the same window computed in two ways: they are rounded to 1 / 65,535, and averaged over a disk."""


def config(*assignments: str) -> SlidingWindowConfig:
    return build_config(SlidingWindowConfig, assignments=["compute.device=cpu", *assignments])


def run(
    inputs: list[Path], model: Path | list[Path], out: Path, *assignments: str, overwrite: bool = False
) -> SlidingWindowResult:
    models = model if isinstance(model, list) else [model]
    return sliding_window(inputs, models=models, out=out, config=config(*assignments), overwrite=overwrite)


def one(result: SlidingWindowResult) -> WindowResult:
    (slide,) = result.slides
    return slide


def found_in(folder: Path, classes: tuple[str, ...] = CLASSES) -> Detections:
    return read_detections(folder / "detections.csv", classes)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "detections.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def results_in(folder: Path) -> dict[str, bytes]:
    """The contents that the same scan must give again."""
    return {name: (folder / name).read_bytes() for name in LEAVES - {"run.json"} if (folder / name).exists()}


def assert_same_detections(one: Detections, other: Detections) -> None:
    """Same places and classes; scores, and so the order of nearly equal ones, as far apart as rounding allows."""
    assert len(one.scores) == len(other.scores)
    first, second = (np.lexsort((*found.positions.T, found.classes)) for found in (one, other))
    assert np.array_equal(one.positions[first], other.positions[second])
    assert np.array_equal(one.classes[first], other.classes[second])
    assert np.abs(one.scores[first] - other.scores[second]).max(initial=0) <= SAME_SCORE


def assert_found(found: Detections, points: Points, classes: tuple[int, ...] = (1, 2), within: float = 2.0) -> None:
    """Every point of a class is found near its place, and nothing else is."""
    for index in classes:
        detected, true = found.positions[found.classes == index], points.of_class(index)
        assert len(detected) == len(true)
        distances, nearest = nearest_of(true, detected)
        assert distances.max(initial=0) <= within
        assert len(set(nearest.tolist())) == len(true)
    assert set(found.classes.tolist()) <= set(classes)


def nearest_of(
    true: NDArray[np.float64], detected: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    if not len(true):
        return np.empty(0), np.empty(0, np.intp)
    distances, nearest = cKDTree(detected).query(true)
    return distances, nearest
