"""Slides in memory, and folders of results as predict and sliding-window leave them, made without a network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.inference.detection_outputs import write_detections
from segkit.masks import colour_of_class
from segkit.points import Detections
from segkit.slides import Slide
from segkit.slides.geojson import GeoJSONWriter
from segkit.slides.pyramid import PyramidWriter
from segkit.slides.pyramid_levels import Reduce
from segkit.workflows.inputs import key_of_slide
from tests.tiny import MPP, write_slide

Pixels = NDArray[np.uint8]
CLASSES = ("background", "tumour", "stroma")


class MemorySlide(Slide):
    """Levels in memory, uint8 (H, W, C); remembers how much was read at once, and how often."""

    def __init__(self, *levels: Pixels) -> None:
        sizes = [level.shape[:2] for level in levels]
        super().__init__(
            Path("none"), sizes=sizes, channels=levels[0].shape[2], mpp=None, backend="raster", properties={}
        )
        self.pixels = levels
        self.areas: list[int] = []

    def _read(self, box: Box, level: int) -> Pixels:
        self.areas.append(box.area)
        return self.pixels[level][box.slices].copy()

    def close(self) -> None:
        pass


def draw_tissue(height: int, width: int, seed: int = 0) -> Pixels:
    """Return smooth colours, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / a + columns / b + c) for a, b, c in rng.uniform(5, 40, (3, 3))]
    return (150 + 80 * np.stack(waves, axis=2)).astype(np.uint8)


def squares(height: int, width: int, every: int = 60, side: int = 24) -> list[tuple[int, int, int, int]]:
    """Return x, y, side and class of squares in rows and columns."""
    return [
        (x, y, side, 1 + (x // every + y // every) % 2)
        for y in range(20, height - side, every)
        for x in range(20, width - side, every)
    ]


def make_slide(folder: Path, height: int = 700, width: int = 900) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_slide(folder / "tissue.tif", draw_tissue(height, width))


def make_results(
    folder: Path, path: Path, *, height: int = 700, width: int = 900, parts: Sequence[str] = (), **record: Any
) -> Path:
    """Write `mask`, `probability`, `objects`, `detections` (or some of them) of squares on a slide, and run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = parts or ("mask", "probability", "objects", "detections")
    found = squares(height, width)
    mask = np.zeros((height, width, 1), np.uint8)
    for x, y, side, index in found:
        mask[y : y + side, x : x + side] = index
    reduces: dict[str, Reduce] = {"mask": "nearest", "probability": "mean"}
    for name, reduce in reduces.items():
        if name in parts:
            with PyramidWriter(folder / f"{name}.tif", height, width, tile_px=64, mpp=MPP, reduce=reduce) as writer:
                writer.write_rows(mask if name == "mask" else mask * 127)
    if "objects" in parts:
        with GeoJSONWriter(folder / "objects.geojson") as geojson:
            for x, y, side, index in found:
                ring = np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side)], float)
                geojson.add_polygon([ring], label=CLASSES[index], colour=colour_of_class(index))
    if "detections" in parts:
        scores = np.linspace(0.95, 0.55, len(found))
        positions = np.array([(y + side / 2, x + side / 2) for x, y, side, _ in found]).reshape(-1, 2)
        classes = np.array([index for *_, index in found], np.int64)
        write_detections(folder, Detections(positions, classes, scores), CLASSES, MPP)
    content: dict[str, Any] = {
        "command": "predict",
        "input": str(path.resolve()),
        "slide": {"height": height, "width": width, "mpp": MPP},
        "models": [{"file": "model.safetensors", "classes": list(CLASSES)}],
        "plan": {
            "mpp": MPP, "downsample": 1.0, "stride": 1, "region": {"x": 0, "y": 0, "width": width, "height": height}
        },
        "shares": {"background": 0.8, "tumour": 0.1, "stroma": 0.1},
        "key": {"slide": key_of_slide(path)},
        "complete": True,
        **record,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content))
    return folder
