"""Objects that are there, ids or polygons, measured against true ones, whatever the size of the images."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.data.classes import class_of_polygon
from segkit.data.instance_labels import UNLABELLED
from segkit.data.instance_targets import compact_ids
from segkit.data.layout import Item, read_image
from segkit.errors import InputError
from segkit.evaluation.object_blocks import match_blocks
from segkit.inference.object_outputs import OBJECT_POLYGONS
from segkit.slides.geojson import Feature
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.class_codes import Codes, codes_of_labels, codes_of_polygons, common_classes
from segkit.workflows.dataset_items import attributes_of
from segkit.workflows.evaluate_objects import FoundObjects
from segkit.workflows.given_files import MASKS, files_in, slide_record
from segkit.workflows.given_planes import OpenPair, class_values, open_pair
from segkit.workflows.placement import Placement, differ, in_short, scales_in_words
from segkit.workflows.truth_files import TrueFile, TruthFolder, groups_of_truths, pair_truths

LARGEST_FIGURE_PX: Final = 16_000_000
"""Of an image that is drawn: objects of a larger one could not be seen."""

_Ids = tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.bool_] | None]


def given_objects(
    prediction: Path, truth: TruthFolder, figures: Path, on_progress: OnProgress, on_note: OnNote
) -> FoundObjects:
    """Compare objects that are there with true ones, block by block.

    They are what `evaluate` leaves, NAME.png or NAME.tif of ids, or what `predict` leaves, NAME/objects.geojson, or
    NAME.geojson. Memory grows with the number of objects, not with the size of the image.

    Parameters
    ----------
    prediction
        The folder.
    truth
        Labels or polygons. What is compared are its pixels; those of polygons are level 0 of the image.
    figures
        Where images are drawn, those that are not too large to be looked at.

    Raises
    ------
    InputError
        A folder or file cannot be used, predictions and images do not pair by name, or sizes, scales or classes do not
        fit.
    """
    paths = _objects_in(prediction)
    truths = pair_truths(truth, paths, prediction, "objects", on_note)
    found = FoundObjects("", groups=groups_of_truths(truths), attributes=attributes_of(truths))
    mpps: dict[str, float | None] = {}
    labels: dict[str, int] = {}
    predicted_labels: dict[str, int] = {}
    placements: dict[str, Placement] = {}
    for number, true in enumerate(truths, start=1):
        path = paths[true.name]
        with open_pair(
            true,
            path,
            slide_record(path),
            mpp=truth.mpp_of(true),
            true_value=_Numbered(labels),
            predicted_value=_Numbered(predicted_labels),
            needs_size=False,
        ) as pair:
            placements[true.name], mpps[true.name] = pair.placement, pair.mpp
            _measure(found, pair, true, path, truth.described.ignore, figures, on_progress)
        on_progress("measure", number, len(truths), {})
    scales = scales_in_words(placements, prediction)
    for note in scales:
        on_note(note)
    if scales:
        found.source["scale"] = "; ".join(scales)
    found.mpp = _common_mpp(mpps, truth.root, on_note)
    names = _names_of(truth, labels)
    if predicted_labels:
        predicted = codes_of_polygons(prediction, predicted_labels, None)
        # Objects are matched whatever their class; but of other classes they are other objects.
        common_classes(Codes(folder=truth.root, names=names, index_of={}), predicted, on_note)
    found.name = names[1] if names is not None and len(names) == 2 else "any class"
    return found


def _objects_in(folder: Path) -> dict[str, Path]:
    """Return files of ids and of polygons by name; what `predict` calls mask.tif holds classes."""
    rasters = {name: path for name, path in files_in(folder, "raster", "objects").items() if path.name not in MASKS}
    polygons = files_in(folder, "polygons", "objects")
    if not rasters and not polygons:
        raise InputError(
            f"{folder}: holds no objects (NAME.png or NAME.tif of ids, NAME.geojson, or NAME/{OBJECT_POLYGONS})."
        )
    if twice := sorted(rasters.keys() & polygons.keys()):
        raise InputError(f"{folder}: holds ids and polygons of the same name. Keep one of each:", twice)
    return rasters | polygons


class _Numbered:
    """The id of a polygon is its number in the file; the classes that occur are gathered on the way."""

    def __init__(self, labels: dict[str, int]) -> None:
        self._note_class = class_values(labels, class_of_polygon)

    def __call__(self, feature: Feature, number: int) -> int:
        self._note_class(feature, number)
        return number + 1


def _measure(
    found: FoundObjects,
    pair: OpenPair,
    true: TrueFile,
    prediction: Path,
    ignore: int | None,
    figures: Path,
    on_progress: OnProgress,
) -> None:
    """Add one image; it is drawn where there is one that can be looked at."""
    if true.image is None or pair.num_px > LARGEST_FIGURE_PX or pair.placement.is_part:
        area_px = 0

        def labelled() -> Iterator[_Ids]:
            nonlocal area_px
            for true_ids, ids, ignored in _checked(pair.blocks(on_progress), true.path, prediction, ignore):
                area_px += true_ids.size - (0 if ignored is None else int(ignored.sum()))
                yield true_ids, ids, ignored

        found.names.append(true.name)
        found.overlaps.append(match_blocks(labelled()))
        found.areas_px.append(area_px)
        return
    ((true_ids, ids, ignored),) = _checked([pair.whole()], true.path, prediction, ignore)
    labels = compact_ids(true_ids)
    if ignored is not None:
        labels[ignored] = UNLABELLED
    image = read_image(Item(true.name, true.image, None, None, None))
    found.add(true.name, image, compact_ids(ids), labels, figures)


def _checked(
    blocks: Iterable[tuple[NDArray[np.integer], NDArray[np.integer]]], truth: Path, prediction: Path, ignore: int | None
) -> Iterator[_Ids]:
    """Yield ids and what is not labelled; ids must not be negative."""
    for true_ids, ids in blocks:
        ignored = None if ignore is None else true_ids == ignore
        labelled = true_ids if ignored is None else np.where(ignored, 0, true_ids)
        for path, values in ((truth, labelled), (prediction, ids)):
            if (lowest := int(values.min(initial=0))) < 0:
                raise InputError(f"{path}: holds the id {lowest}, and ids are 0 (background) and up.")
        yield labelled, ids, ignored


def _common_mpp(mpps: Mapping[str, float | None], truth: Path, on_note: OnNote) -> float | list[float] | None:
    """Return micrometres per pixel of all images, or of each where they differ; None where some are not known."""
    known = {name: mpp for name, mpp in mpps.items() if mpp is not None}
    if len(known) < len(mpps):
        if known:
            missing = [name for name in mpps if name not in known]
            on_note(
                f"{truth}: the pixel size of {in_short(missing)} is not known, so sizes of objects are in pixels, and "
                "there are no numbers per mm2"
            )
        return None
    low, high = min(known, key=lambda name: known[name]), max(known, key=lambda name: known[name])
    if not differ(known[low], known[high]):
        return known[low]
    on_note(
        f"{truth}: pixels differ in size ({known[low]:.4g} um in {low}, {known[high]:.4g} um in {high}): sizes of "
        "objects are in um2 of each image's own scale; Dice and AJI are pooled over pixels"
    )
    return list(known.values())


def _names_of(truth: TruthFolder, labels: dict[str, int]) -> tuple[str, ...] | None:
    if truth.kind == "labels":
        return codes_of_labels(truth.root, truth.class_names).names
    return codes_of_polygons(truth.root, labels, truth.class_names).names
