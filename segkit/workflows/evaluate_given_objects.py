"""Objects that are there, ids or polygons, measured against true ones, whatever the size of the images."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.data.classes import BACKGROUND, class_of_polygon
from segkit.data.instance_labels import UNLABELLED
from segkit.data.instance_targets import compact_ids
from segkit.data.layout import Item, read_image
from segkit.errors import InputError
from segkit.evaluation.object_blocks import match_blocks
from segkit.evaluation.object_classes import ObjectClasses
from segkit.inference.object_outputs import OBJECT_POLYGONS
from segkit.slides.geojson import Feature, read_geojson
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.class_codes import codes_of_labels, codes_of_polygons
from segkit.workflows.dataset_items import attributes_of
from segkit.workflows.evaluate_objects import FoundObjects
from segkit.workflows.given_files import MASKS, files_in, is_polygons, slide_record
from segkit.workflows.given_planes import OpenPair, open_pair
from segkit.workflows.object_class_names import SharedClasses, shared_classes, tells_classes
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

    Where polygons on both sides have classes, two or more in all, these are compared, too. Polygons that are called
    background are no objects, here as in a data folder.

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
    shared = _shared_with(
        truth, truths, {true.name: paths[true.name] for true in truths}, prediction, on_progress, on_note
    )
    found = FoundObjects(
        shared.name, classes=shared.names, groups=groups_of_truths(truths), attributes=attributes_of(truths)
    )
    mpps: dict[str, float | None] = {}
    placements: dict[str, Placement] = {}
    for number, true in enumerate(truths, start=1):
        path = paths[true.name]
        ids = _PolygonIds(shared.of_true), _PolygonIds(shared.of_predicted)
        with open_pair(
            true,
            path,
            slide_record(path),
            mpp=truth.mpp_of(true),
            true_value=ids[0],
            predicted_value=ids[1],
            needs_size=False,
        ) as pair:
            placements[true.name], mpps[true.name] = pair.placement, pair.mpp
            by_id = ObjectClasses(*(one.classes for one in ids)) if shared.names else None
            # Ids of polygons are their numbers, and none of them is what a mask says of pixels that are not labelled.
            ignore = truth.described.ignore if truth.kind == "labels" else None
            _measure(found, pair, true, path, ignore, by_id, figures, on_progress)
        on_progress("measure", number, len(truths), {})
    scales = scales_in_words(placements, prediction)
    for note in scales:
        on_note(note)
    if scales:
        found.source["scale"] = "; ".join(scales)
    found.mpp = _common_mpp(mpps, truth.root, on_note)
    return found


def _shared_with(
    truth: TruthFolder,
    truths: Sequence[TrueFile],
    predicted: Mapping[str, Path],
    prediction: Path,
    on_progress: OnProgress,
    on_note: OnNote,
) -> SharedClasses:
    """Return the classes that truth and prediction both tell apart, before anything is measured."""
    in_truth: set[str] = set()
    in_prediction: set[str] = set()
    known: set[str] = set()
    for number, true in enumerate(truths, start=1):
        path = predicted[true.name]
        in_truth |= _classes_in(true.path)
        in_prediction |= _classes_in(path)
        record = slide_record(path)
        known |= set() if record is None else set(record.classes)
        on_progress("read classes", number, len(truths), {})
    if truth.kind == "labels":
        true_codes = codes_of_labels(truth.root, truth.class_names)
    else:
        true_codes = codes_of_polygons(truth.root, _numbered(in_truth), truth.class_names)
    # A class of the truth that the model knows and has not found is none that it calls otherwise.
    named = in_prediction | (known & set(true_codes.names or ()))
    return shared_classes(
        true_codes,
        codes_of_polygons(prediction, _numbered(named), None) if in_prediction else None,
        truth_tells=truth.kind != "labels" and tells_classes(true_codes.names or ()),
        prediction_tells=all(map(is_polygons, predicted.values())) and tells_classes(in_prediction),
        on_note=on_note,
    )


def _classes_in(path: Path) -> set[str]:
    """Return the classes of the polygons in a file; ids have none."""
    if not is_polygons(path):
        return set()
    return {class_of_polygon(feature) for feature in read_geojson(path) if feature.polygons}


def _numbered(names: Collection[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate([BACKGROUND, *sorted(set(names) - {BACKGROUND})])}


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


class _PolygonIds:
    """Values of polygons: their numbers in the file, from 1 on, 0 for what is called background; and classes by id."""

    def __init__(self, index_of: Mapping[str, int]) -> None:
        self._index_of = index_of
        self._indices = [0]

    def __call__(self, feature: Feature, number: int) -> int:
        name = class_of_polygon(feature)
        self._indices.append(self._index_of.get(name, 0))
        return 0 if name == BACKGROUND else number + 1

    @property
    def classes(self) -> NDArray[np.int64]:
        """The class index of each id, (largest id + 1,)."""
        return np.array(self._indices, np.int64)


def _measure(
    found: FoundObjects,
    pair: OpenPair,
    true: TrueFile,
    prediction: Path,
    ignore: int | None,
    by_id: ObjectClasses | None,
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

        overlaps = match_blocks(labelled())
        found.take(true.name, overlaps, area_px, by_id)
        return
    ((true_ids, ids, ignored),) = _checked([pair.whole()], true.path, prediction, ignore)
    if by_id is not None:
        by_id = ObjectClasses(*(_compact(*pair) for pair in zip(by_id, (true_ids, ids), strict=True)))
    labels = compact_ids(true_ids)
    if ignored is not None:
        labels[ignored] = UNLABELLED
    image = read_image(Item(true.name, true.image, None, None, None))
    found.add(true.name, image, compact_ids(ids), labels, figures, by_id)


def _compact(classes: NDArray[np.integer], ids: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the classes of the ids (H, W) as `compact_ids` numbers them."""
    there = np.unique(ids)
    of_those: NDArray[np.integer] = classes[np.concatenate([[0], there[there > 0]])]
    return of_those


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
