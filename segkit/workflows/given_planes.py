"""The two images that are compared, truth and prediction of one name, opened: files of integers, or polygons."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.data.classes import BACKGROUND
from segkit.data.polygon_blocks import PolygonBlocks
from segkit.data.raster_blocks import RasterBlocks
from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides import open_slide
from segkit.slides.geojson import Feature, read_geojson
from segkit.workflows.callbacks import OnProgress
from segkit.workflows.given_files import SlideRecord, is_polygons
from segkit.workflows.placement import Placed, Placement, Plane, Size, blocks_of, differ, place
from segkit.workflows.truth_files import TrueFile

ValueOf = Callable[[Feature, int], int]
"""The value of a polygon, at least 1, from its feature and its number in the file."""

PROBABILITIES: Final = {"mask.tif": "probability.tif", "mask.ome.tif": "probability.ome.tif"}
"""What `segkit predict --probability` leaves beside a mask."""

TELLING_BLOCKS = 16
"""Images of more blocks tell of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPair:
    """Truth and prediction of an image, which are read at the same boxes, those of the truth's pixels.

    `mpp` is micrometres per pixel of the truth, or what the prediction's tell of them; None where nobody says them.
    `map_size` is that of the prediction's own pixels, None for polygons.
    """

    name: str
    truth_path: Path
    prediction_path: Path
    truth: Plane
    prediction: Placed
    placement: Placement
    mpp: float | None
    map_size: tuple[int, int] | None
    in_strips: bool

    def boxes(self, on_progress: OnProgress) -> Iterator[Box]:
        """Yield the blocks that cover what is compared."""
        boxes = list(blocks_of(self.placement.box, in_strips=self.in_strips))
        for number, box in enumerate(boxes, start=1):
            yield box
            if len(boxes) > TELLING_BLOCKS:
                on_progress(f"measure {self.name}", number, len(boxes), {})

    def blocks(self, on_progress: OnProgress) -> Iterator[tuple[NDArray[np.integer], NDArray[np.integer]]]:
        """Yield the integers of truth and prediction in the blocks that cover what is compared."""
        for box in self.boxes(on_progress):
            yield self.truth.read(box), self.prediction.read(box)

    def whole(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Return all integers of truth and prediction that are compared."""
        return self.truth.read(self.placement.box), self.prediction.read(self.placement.box)

    @property
    def num_px(self) -> int:
        """How many pixels are compared."""
        return self.placement.box.area


@contextlib.contextmanager
def open_pair(
    true: TrueFile,
    prediction: Path,
    record: SlideRecord | None,
    *,
    mpp: float | None,
    true_value: ValueOf,
    predicted_value: ValueOf,
    needs_size: bool = True,
) -> Iterator[OpenPair]:
    """Open truth and prediction of an image.

    Parameters
    ----------
    true, prediction, record
        The files, and what `segkit predict` wrote down of the slide.
    mpp
        Micrometres per pixel of the truth, where they are known otherwise than from its file.
    true_value, predicted_value
        What is painted for polygons.
    needs_size
        Whether pixels outside of all polygons matter. Otherwise the size of an image that nothing tells is what the
        polygons on it reach.

    Raises
    ------
    InputError
        A file cannot be used, or the two do not fit each other.
    """
    with contextlib.ExitStack() as stack:
        truth_raster = None if is_polygons(true.path) else stack.enter_context(RasterBlocks(true.path))
        raster = None if is_polygons(prediction) else stack.enter_context(RasterBlocks(prediction))
        predicted_mpp = None if raster is None else raster.mpp
        if record is not None and record.map_mpp is not None:
            predicted_mpp = record.map_mpp
        own = None if raster is None else Size(raster.height, raster.width, predicted_mpp)
        size = _size_of_truth(true, truth_raster, own, record, mpp)
        if size is None and not needs_size:
            size = _reach([true.path, prediction])
        if size is None:
            raise InputError(
                f"{true.path}: the size of its image is not known. Give a data folder as truth, with the image in "
                "images/ and this file in geojson/."
            )
        truth: Plane = truth_raster or _painted(true.path, size, true_value, true.name)
        if raster is None or own is None:
            if record is not None and ((record.height, record.width) != size[:2] or differ(record.mpp, size.mpp)):
                raise InputError(
                    f"{true.name}: was predicted on a slide of {Size(record.height, record.width, record.mpp)}, and "
                    f"the truth is {size}. Polygons are in pixels of level 0, which the truth must have, too."
                )
            whole = Box(0, 0, size.height, size.width)
            box = whole if record is None or not record.is_part else record.box.intersect(whole)
            placement = Placement(step=1.0, origin=(0.0, 0.0), box=box, is_part=box != whole)
            plane: Plane = _painted(prediction, size, predicted_value, true.name)
            predicted_mpp = None if record is None else record.mpp
        else:
            placement, plane = place(true.name, own, size, record), raster
        told = size.mpp if size.mpp is not None else predicted_mpp
        yield OpenPair(
            name=true.name,
            truth_path=true.path,
            prediction_path=prediction,
            truth=truth,
            prediction=Placed(plane, placement),
            placement=placement,
            mpp=told if size.mpp is not None or told is None else told / placement.step,
            map_size=None if own is None else own[:2],
            in_strips=any(one is not None and one.in_strips for one in (truth_raster, raster)),
        )


@contextlib.contextmanager
def open_probability(pair: OpenPair) -> Iterator[Placed | str | None]:
    """Open the map of probabilities beside a mask that `segkit predict` left: that of not being background, uint8.

    Yields None where there is none, and why where it is of no use.
    """
    beside = PROBABILITIES.get(pair.prediction_path.name)
    path = None if beside is None else pair.prediction_path.with_name(beside)
    if path is None or not path.is_file() or pair.map_size is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            raster = stack.enter_context(RasterBlocks(path))
        except InputError as error:
            yield error.message
            return
        if (raster.height, raster.width) != pair.map_size:
            yield f"{path}: is {raster.width} x {raster.height} pixels, and the mask has another size."
        elif (kind := raster.read(Box(0, 0, 1, 1)).dtype) != np.uint8:
            yield f"{path}: holds {kind} numbers, and probabilities are read as uint8 (255 = 1)."
        else:
            yield Placed(raster, pair.placement)


def _size_of_truth(
    true: TrueFile, raster: RasterBlocks | None, prediction: Size | None, record: SlideRecord | None, mpp: float | None
) -> Size | None:
    """Return the size of the truth; that of polygons is the image's, else the predicted slide's or map's, if any."""
    if raster is not None:
        return Size(raster.height, raster.width, raster.mpp if mpp is None else mpp)
    if true.image is not None:
        with open_slide(true.image) as image:
            return Size(image.height, image.width, image.mpp if mpp is None else mpp)
    if record is not None:
        return Size(record.height, record.width, record.mpp)
    return prediction


def _reach(paths: Sequence[Path]) -> Size:
    """Return the size of the smallest image that the polygons of all files lie in."""
    features = [feature for path in paths for feature in read_geojson(path)]
    rings = [ring for feature in features for rings in feature.polygons for ring in rings]
    width, height = np.ceil(np.max([np.ones(2), *(ring.max(axis=0) for ring in rings)], axis=0)).astype(int).tolist()
    return Size(height, width, None)


def _painted(path: Path, size: Size, value_of: ValueOf, name: str) -> PolygonBlocks:
    polygons, values = [], []
    features = [feature for feature in read_geojson(path) if feature.polygons]
    for number, feature in enumerate(features):
        polygons += feature.polygons
        values += [value_of(feature, number)] * len(feature.polygons)
    painted = PolygonBlocks(polygons, values, size.height, size.width)
    if painted.num_outside:
        raise InputError(
            f"{path}: {painted.num_outside} of {len(polygons)} polygons lie outside of {name}, which has {size}. "
            "Coordinates are pixels of level 0, x and y, from the image's top left corner."
        )
    return painted


def class_values(values: dict[str, int], class_of: Callable[[Feature], str]) -> ValueOf:
    """Return a function that gives polygons of a class the same value: 0 for the background, else a new one for each.

    `values` is filled by it.
    """

    def value_of(feature: Feature, _: int) -> int:
        name = class_of(feature)
        return values.setdefault(name, 0 if name == BACKGROUND else sum(value > 0 for value in values.values()) + 1)

    return value_of
