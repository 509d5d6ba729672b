"""Class masks that are there, or polygons, measured by pixels against true ones, whatever their size.

The images are gone through twice. First the pairs of values in them are counted, block by block, for what the values
mean may follow from all of them. Then images that are small enough are read as wholes, for the distances between their
boundaries and a picture; of larger ones a picture is made of the place where most is wrong.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.config import EvaluateConfig, length_px
from segkit.data.classes import class_of_polygon
from segkit.errors import InputError
from segkit.evaluation.image_counts import ComparedImage, ImageCounts, calibrations_of_pairs, count_image
from segkit.evaluation.pixel_curves import MOST_PROBABLE
from segkit.evaluation.value_pairs import Pairs, add_pairs, confusion_of_pairs, count_pairs, values_in
from segkit.geometry import Box
from segkit.masks import IGNORE
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.class_codes import (
    Codes,
    CommonClasses,
    codes_of_labels,
    codes_of_polygons,
    codes_of_predictions,
    codes_of_truth,
    common_classes,
)
from segkit.workflows.dataset_items import attributes_of
from segkit.workflows.given_files import MASKS, Form, SlideRecord, classes_of_predictions, files_in, slide_record
from segkit.workflows.given_planes import OpenPair, class_values, open_pair, open_probability
from segkit.workflows.mask_pictures import picture_of
from segkit.workflows.measured_masks import LARGEST_WHOLE_PX, FoundMasks, in_words, note_on_large
from segkit.workflows.membrane_thresholds import given_threshold, membrane_rules, notes_on_maps
from segkit.workflows.placement import Placed, Placement, scales_in_words
from segkit.workflows.truth_files import TrueFile, TruthFolder, groups_of_truths, pair_truths

HIGHEST: Final = 255

_Bytes = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def given_masks(
    config: EvaluateConfig,
    prediction: Path,
    truth: TruthFolder,
    form: Form,
    on_progress: OnProgress,
    on_note: OnNote,
) -> FoundMasks:
    """Compare masks or polygons that are there with the truth, pixel by pixel, block by block.

    Parameters
    ----------
    config
        Of which the tolerance of distances and what it says of membranes are needed.
    prediction, form
        The folder, and whether its masks or its polygons are meant.
    truth
        Masks, labels (any object is foreground) or polygons. What is compared are its pixels; those of polygons are
        level 0 of the image.

    Raises
    ------
    InputError
        Predictions and truths do not pair by name, their sizes, scales or classes do not fit, or a file cannot be used.
    ConfigError
        The tolerance of distances is in micrometres, and the scale of an image is not known, or no class is called as
        the membranes are said to be.
    """
    predictions = files_in(prediction, form, "masks")
    if not predictions:
        raise InputError(f"{prediction}: holds no masks (NAME.png, NAME.tif or NAME/{MASKS[0]}).")
    truths = pair_truths(truth, predictions, prediction, "masks", on_note)
    records = {true.name: slide_record(predictions[true.name]) for true in truths}
    reader = _Reader(truth)
    counted = []
    for number, true in enumerate(truths, start=1):
        with reader.open(true, predictions[true.name], records[true.name]) as pair:
            counted.append(_count(pair, reader, on_progress))
        on_progress("count", number, len(truths), {})
    scales = scales_in_words({one.name: one.placement for one in counted}, prediction)
    for note in [*scales, *_notes_on_sizes(counted), *_notes_on_probabilities(counted)]:
        on_note(note)
    true_values, predicted_values = values_in([one.pairs for one in counted])
    true_codes = _codes_of(truth, reader, true_values)
    if form == "polygons":
        predicted_codes = codes_of_polygons(prediction, reader.predicted_labels, None)
    else:
        classes = classes_of_predictions(prediction, list(records.values()))
        predicted_codes = codes_of_predictions(prediction, predicted_values, classes, true_codes)
    common = common_classes(true_codes, predicted_codes, on_note)
    found = FoundMasks(
        common.classes,
        threshold=_threshold_of(list(records.values())) if form == "raster" and len(common.classes) == 2 else None,
        membranes=membrane_rules(config, common.classes),
        chosen=given_threshold(config),
        groups=groups_of_truths(truths),
        attributes=attributes_of(truths),
        source={"scale": "; ".join(scales)} if scales else {},
    )
    index_of = _Indices(common)
    for number, (true, one) in enumerate(zip(truths, counted, strict=True), start=1):
        tolerance_px = length_px(config.surface_tolerance, one.mpp)
        with reader.open(true, predictions[true.name], records[true.name]) as pair:
            if one.is_whole:
                with open_probability(pair) as probability:
                    usable = probability if isinstance(probability, Placed) else None
                    compared = _compared(pair, reader, index_of, pair.placement.box, usable)
                counts = count_image(
                    compared, len(common.classes), tolerance_px=tolerance_px, membranes=found.membranes
                )
                found.add(counts, picture_of(compared, pair.placement.box, pair, true.image))
            else:
                worst = _worst_box(one, index_of)
                compared = _compared(pair, reader, index_of, worst)
                found.add(_counts_of_blocks(one, common), picture_of(compared, worst, pair, true.image))
        on_progress("measure", number, len(truths), {})
    for note in notes_on_maps(config, found.images):
        on_note(note)
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Counted:
    """What the first reading of an image tells.

    `pairs` and `levels` count true and predicted values, and true values and probabilities (None: not known, or counted
    later, with the image as a whole); `blocks` has the pairs of each block of an image that is not read as a whole.
    `refused` says why the probabilities that are there are of no use.
    """

    name: str
    placement: Placement
    mpp: float | None
    pairs: Pairs
    levels: Pairs | None
    blocks: list[tuple[Box, Pairs]]
    refused: str | None

    @property
    def is_whole(self) -> bool:
        """Whether it is small enough to be read as a whole."""
        return self.placement.box.area <= LARGEST_WHOLE_PX


class _Reader:
    """Opens images, and gives their values as bytes; what the values of polygons stand for is gathered on the way."""

    def __init__(self, truth: TruthFolder) -> None:
        self._truth = truth
        self.true_labels: dict[str, int] = {}
        self.predicted_labels: dict[str, int] = {}

    def open(
        self, true: TrueFile, prediction: Path, record: SlideRecord | None
    ) -> contextlib.AbstractContextManager[OpenPair]:
        """Open truth and prediction of an image."""
        return open_pair(
            true,
            prediction,
            record,
            mpp=self._truth.mpp_of(true),
            true_value=class_values(self.true_labels, class_of_polygon),
            predicted_value=class_values(self.predicted_labels, class_of_polygon),
        )

    def read(self, pair: OpenPair, box: Box) -> _Bytes:
        """Return the values of truth and prediction in a box, uint8 (height, width)."""
        true_values, predicted = pair.truth.read(box), _as_bytes(pair.prediction.read(box), pair.prediction_path)
        if self._truth.kind != "labels":
            return _as_bytes(true_values, pair.truth_path), predicted
        foreground = (true_values > 0).astype(np.uint8)
        if self._truth.described.ignore is not None:
            foreground[true_values == self._truth.described.ignore] = IGNORE
        return foreground, predicted


def _count(pair: OpenPair, reader: _Reader, on_progress: OnProgress) -> _Counted:
    """Read an image block by block, and count."""
    is_whole = pair.num_px <= LARGEST_WHOLE_PX
    blocks: list[tuple[Box, Pairs]] = []
    levels: list[Pairs] = []
    with open_probability(pair) as probability:
        for box in pair.boxes(on_progress):
            truth, predicted = reader.read(pair, box)
            blocks.append((box, count_pairs([(truth, predicted)])))
            if isinstance(probability, Placed) and not is_whole:
                levels.append(count_pairs([(truth, probability.read(box))]))
    return _Counted(
        name=pair.name,
        placement=pair.placement,
        mpp=pair.mpp,
        pairs=add_pairs(pairs for _, pairs in blocks),
        levels=add_pairs(levels) if levels else None,
        blocks=[] if is_whole else blocks,
        refused=probability if isinstance(probability, str) else None,
    )


def _threshold_of(records: Sequence[SlideRecord | None]) -> float | None:
    """Return the threshold that masks of two classes were made with; None unless all are known to be of `predict`."""
    by_classes = [record is not None and len(record.classes) == 2 and not record.tells_objects for record in records]
    return MOST_PROBABLE if all(by_classes) else None


class _Indices:
    """Tables from values to class indices, uint8 (256,)."""

    def __init__(self, common: CommonClasses) -> None:
        self.of_true, self.of_predicted = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
        for table, index_of in ((self.of_true, common.index_of_true), (self.of_predicted, common.index_of_predicted)):
            table[list(index_of)] = list(index_of.values())


def _compared(
    pair: OpenPair, reader: _Reader, index_of: _Indices, box: Box, probability: Placed | None = None
) -> ComparedImage:
    truth, predicted = reader.read(pair, box)
    return ComparedImage(
        name=pair.name,
        truth=index_of.of_true[truth],
        prediction=index_of.of_predicted[predicted],
        mpp=pair.mpp,
        foreground=None if probability is None else probability.read(box),
    )


def _counts_of_blocks(one: _Counted, common: CommonClasses) -> ImageCounts:
    num_classes = len(common.classes)
    return ImageCounts(
        name=one.name,
        confusion=confusion_of_pairs(one.pairs, common.index_of_true, common.index_of_predicted, num_classes),
        mpp=one.mpp,
        calibrations={} if one.levels is None else calibrations_of_pairs(one.levels, common.index_of_true, num_classes),
    )


def _worst_box(one: _Counted, index_of: _Indices) -> Box:
    """Return the block with most wrong pixels, and of equal ones that with most of the foreground."""

    def rank(block: tuple[Box, Pairs]) -> tuple[int, int]:
        wrong = foreground = 0
        for (true_value, value), number in block[1].items():
            true, predicted = index_of.of_true[true_value], index_of.of_predicted[value]
            if true != IGNORE:
                wrong += number * bool(true != predicted)
                foreground += number * bool(true)
        return wrong, foreground

    return max(one.blocks, key=rank)[0]


def _notes_on_sizes(counted: Sequence[_Counted]) -> Iterator[str]:
    if large := [one.name for one in counted if not one.is_whole]:
        yield note_on_large(large)
    known = [one.name for one in counted if one.mpp is not None]
    if known and len(known) < len(counted):
        yield (f"um per pixel are known of {len(known)} of {len(counted)} images only: distances are told in pixels")


def _notes_on_probabilities(counted: Sequence[_Counted]) -> Iterator[str]:
    if refused := [one for one in counted if one.refused is not None]:
        yield f"no calibration of {in_words([one.name for one in refused])}: {refused[0].refused}"


def _codes_of(truth: TruthFolder, reader: _Reader, values: set[int]) -> Codes:
    if truth.kind == "labels":
        return codes_of_labels(truth.root, truth.class_names)
    if truth.kind == "geojson":
        return codes_of_polygons(truth.root, reader.true_labels, truth.class_names)
    return codes_of_truth(truth.root, values, truth.class_names, truth.described.ignore)


def _as_bytes(values: NDArray[np.integer], path: Path) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > HIGHEST:
        raise InputError(
            f"{path}: class ids are 0 to {HIGHEST}, found {low} to {high}. Ids of objects are measured where the truth "
            "lies in a folder called labels/."
        )
    return values.astype(np.uint8)
