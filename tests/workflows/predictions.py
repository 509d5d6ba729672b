"""Predicting in tests, and reading what a prediction left."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.config import PredictConfig, build_config
from segkit.geometry import Box
from segkit.slides import open_slide
from segkit.workflows.predict import PredictResult, SlideResult, predict
from tests.tiny import draw_field

IMAGE, TRUTH = draw_field(50, 150, 210)
LEAVES = {"mask.tif", "objects.csv", "objects.geojson", "overview.png", "run.json"}


def config(*assignments: str) -> PredictConfig:
    return build_config(PredictConfig, assignments=["compute.device=cpu", "compute.precision=float32", *assignments])


def run(
    inputs: list[Path], model: Path | list[Path], out: Path, *assignments: str, overwrite: bool = False
) -> PredictResult:
    models = model if isinstance(model, list) else [model]
    return predict(inputs, models=models, out=out, config=config(*assignments), overwrite=overwrite)


def one(result: PredictResult) -> SlideResult:
    (slide,) = result.slides
    return slide


def read_pixels(path: Path, level: int = 0) -> NDArray[np.uint8]:
    with open_slide(path) as slide:
        size = slide.levels[level]
        return slide.read(Box(0, 0, size.height, size.width), level)[..., 0]


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "objects.csv").open() as handle:
        return list(csv.DictReader(handle))


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return record


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def results_in(folder: Path) -> dict[str, bytes]:
    """The contents that the same prediction must give again."""
    return {name: (folder / name).read_bytes() for name in LEAVES - {"run.json"}}
