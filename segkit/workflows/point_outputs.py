"""What is left of slides in which points are found: their map of probabilities, detections and pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.inference import verification
from segkit.inference.detect import DetectorSettings, MapGrid, detections_of_runs, find_runs
from segkit.inference.detection_outputs import (
    DETECTION_POINTS,
    DETECTION_TABLE,
    foreground_of,
    reaching,
    write_detections,
)
from segkit.inference.image_detection import ScorePredictor
from segkit.inference.map_picture import MapPicture
from segkit.inference.pipeline import Layers
from segkit.inference.plan import Plan
from segkit.inference.seams import share_of_range
from segkit.inference.sources import SlideLevel, with_channels
from segkit.inference.window import WindowPredictor
from segkit.models.model_file import DetectionSpec
from segkit.points import Detections
from segkit.report.detections import draw_contact_sheet, draw_detections_overview
from segkit.slides import Slide, open_slide
from segkit.slides.pyramid_blocks import PyramidLayout, encode_block, join_pyramid
from segkit.slides.thumbnail import read_thumbnail, thumbnail_size
from segkit.workflows.callbacks import OnNote, quiet_note
from segkit.workflows.engine import MAP_SUFFIXES, map_file

OVERVIEW, CONTACT_SHEET = "overview.png", "windows.png"
OVERVIEW_PX = 1500
WINDOWS_SHOWN = 24
SMALLEST_WINDOW_PX = 64
ROUNDING: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.05}
"""Differences of a probability that orders of adding explain, far above those that were measured."""


class PointOutputs:
    """probability of the foreground, detections as rows and points, pictures; see `segkit.workflows.engine.Outputs`.

    Parameters
    ----------
    source, folder, plan
        What is read, where results go, how the map is cut.
    predictor
        The networks.
    detection, settings
        How points are found, and the same in map pixels with the lowest of the classes' thresholds.
    map_format
        Of probability.tif, see `segkit.config.SlideConfig.format`.
    window_px
        Side of the pictures of the best detections, in pixels that are read.
    verify, naive, on_note
        How many random positions are compared with windows that are computed by themselves, the networks that compute
        them (called when they are needed), and what is told of it.
    """

    def __init__(
        self,
        source: SlideLevel,
        folder: Path,
        plan: Plan,
        predictor: ScorePredictor,
        detection: DetectionSpec,
        settings: DetectorSettings,
        *,
        map_format: Literal["tiff", "ome-tiff", "ome-zarr"],
        window_px: int,
        verify: int = 0,
        naive: Callable[[], WindowPredictor] | None = None,
        on_note: OnNote = quiet_note,
    ) -> None:
        self._source, self._folder, self._plan = source, folder, plan
        self._detection, self._settings = detection, settings
        self._stride, self._classes = predictor.stride, predictor.spec.classes
        self._format, self._window_px = map_format, window_px
        self._verified, self._naive, self._on_note = verify, naive, on_note
        layout, mpp = plan.layout, plan.level_0_mpp
        self._probability = PyramidLayout(
            height=layout.height,
            width=layout.width,
            dtype="uint8",
            reduce="mean",
            mpp=plan.map_mpp,
            offset_um=None if mpp is None else (plan.origin[1] * mpp, plan.origin[0] * mpp),
        )
        self._picture = MapPicture(layout, "mean")
        self._positions = verification.positions(layout.height, layout.width, verify, wanted=layout.wanted)
        self._found = Detections(np.empty((0, 2)), np.empty(0, np.int64), np.empty(0))
        self._difference: float | None = None
        self._probability_file = map_file("probability", map_format)
        maps = [map_file("probability", kind) for kind in MAP_SUFFIXES]
        self.files: Sequence[str] = [*maps, DETECTION_TABLE, DETECTION_POINTS, OVERVIEW, CONTACT_SHEET]

    def work_up(self, layers: Layers, place: Box, block: Box) -> dict[str, NDArray[Any]]:
        """Return what is kept of a block: encoded tiles, maxima, a small picture, scores that are to be verified."""
        (scores,) = layers
        layout = self._plan.layout
        foreground = foreground_of(scores[block.shift(-place.y, -place.x).slices])
        kept = {
            "probability": encode_block(foreground, self._probability),
            "maxima": find_runs(scores, place, block, layout.height, layout.width, self._settings),
            "picture": self._picture.of_block(foreground),
            "verify": verification.take(scores, place, block, self._positions),
        }
        return {f"{group}/{name}": array for group, arrays in kept.items() for name, array in arrays.items()}

    def join(
        self,
        row: Callable[[int, str], list[dict[str, NDArray[Any]] | None]],
        on_row: Callable[[int, int], None],
    ) -> None:
        """Write the files from the parts."""
        plan, layout = self._plan, self._plan.layout
        total = 3 * layout.block_rows

        def all_blocks(prefix: str) -> Any:
            return (block for at in range(layout.block_rows) for block in row(at, prefix))

        join_pyramid(
            self._folder / self._probability_file,
            self._probability,
            lambda at: row(at, "probability"),
            num_rows=layout.block_rows,
            kind=self._format,
            on_row=lambda done, _: on_row(done, total),
        )
        grid = MapGrid(
            stride=layout.stride, downsample=plan.scale.downsample, origin=(layout.region.y, layout.region.x)
        )
        candidates = detections_of_runs(
            (block for block in all_blocks("maxima") if block is not None),
            layout.height,
            layout.width,
            self._settings,
            grid,
        )
        self._found = reaching(candidates, self._detection.thresholds)
        write_detections(self._folder, self._found, self._classes, plan.level_0_mpp)
        if self._naive is not None:
            self._difference = self._verify(all_blocks("verify"), self._naive())
        self._small = self._picture.join(lambda at: row(at, "picture"))
        on_row(total, total)

    def _verify(self, scores: Any, naive: WindowPredictor) -> float:
        region = self._plan.layout.region
        difference = verification.largest_difference(
            scores, self._positions, self._source, naive, self._stride, origin=(region.y, region.x)
        )
        self._on_note(
            f"verified at {self._verified} random positions: the largest difference to windows computed by "
            f"themselves is {difference:.2g}"
        )
        if difference > ROUNDING[naive.precision]:
            self._on_note("that is more than rounding explains: take --method naive for this model, and report it")
        return difference

    def draw(self, slide: Slide) -> None:
        """Write overview.png and windows.png, the latter if there is anything to show."""
        plan = self._plan
        region, mpp = plan.region_on_level_0, plan.level_0_mpp
        height, width = thumbnail_size(region.height, region.width, OVERVIEW_PX)
        rows, columns = self._small.shape
        heat = self._small[np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)]
        # An image of a few rows or columns is not shrunk as much in both directions.
        scale = np.array([height / region.height, width / region.width])
        draw_detections_overview(
            with_channels(read_thumbnail(slide, height, width, region=region), 3),
            self._found._replace(positions=(self._found.positions - np.array([region.y, region.x])) * scale),
            self._classes,
            self._folder / OVERVIEW,
            um_per_px=mpp and mpp * max(region.height, region.width) / max(height, width),
            title=slide.path.name,
            probability=heat,
        )
        side = max(self._window_px, SMALLEST_WINDOW_PX)
        windows, captions = [], []
        for (y, x), index, score in zip(
            (self._found.positions[:WINDOWS_SHOWN] / plan.scale.downsample).tolist(),
            self._found.classes.tolist()[:WINDOWS_SHOWN],
            self._found.scores.tolist()[:WINDOWS_SHOWN],
            strict=True,
        ):
            box = Box(int(y) - side // 2, int(x) - side // 2, side, side)
            windows.append(with_channels(self._source.read(box), 3))
            captions.append(f"{score:.2f}" if len(self._classes) == 2 else f"{score:.2f} {self._classes[index]}")
        if windows:
            draw_contact_sheet(
                windows, captions, self._folder / CONTACT_SHEET, title=f"{slide.path.name}: highest scores"
            )

    def written_difference(self, place: Box, layers: Layers) -> float:
        """Return the largest difference of a place's probabilities to those that were written."""
        with open_slide(self._folder / self._probability_file) as probability:
            return share_of_range(probability.read(place)[..., 0], foreground_of(np.asarray(layers[0])))

    def facts(self) -> dict[str, Any]:
        """Return the number of detections by class, and the difference that verification found."""
        classes = self._found.classes
        return {
            "num_detections": {name: int((classes == at).sum()) for at, name in enumerate(self._classes) if at},
            "largest_difference": self._difference,
        }
