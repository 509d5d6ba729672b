"""Class masks that are there, or polygons, measured by pixels against true ones, whatever their size."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.data.classes import class_of_polygon
from segkit.errors import InputError
from segkit.evaluation.value_pairs import Pairs, confusion_of_pairs, count_pairs, values_in
from segkit.masks import IGNORE
from segkit.report.page.shelf import Shelf
from segkit.workflows.callbacks import OnNote, OnProgress
from segkit.workflows.class_codes import (
    Codes,
    codes_of_labels,
    codes_of_polygons,
    codes_of_predictions,
    codes_of_truth,
    common_classes,
)
from segkit.workflows.given_files import MASKS, Form, SlideRecord, classes_of_predictions, files_in, slide_record
from segkit.workflows.given_planes import OpenPair, class_values, open_pair
from segkit.workflows.placement import Placement, scales_in_words
from segkit.workflows.truth_files import TrueFile, TruthFolder, groups_of_truths, pair_truths

HIGHEST: Final = 255


@dataclass
class FoundMasks:
    """Confusion matrices of images, as far as they were gathered."""

    classes: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    groups: list[str] | None = None
    confusions: list[NDArray[np.int64]] = field(default_factory=list)
    source: dict[str, str] = field(default_factory=dict)
    figures: list[Path] = field(default_factory=list)
    shelf: Shelf = field(default_factory=Shelf)


def given_masks(
    prediction: Path, truth: TruthFolder, form: Form, on_progress: OnProgress, on_note: OnNote
) -> FoundMasks:
    """Compare masks or polygons that are there with the truth, pixel by pixel, block by block.

    Parameters
    ----------
    prediction, form
        The folder, and whether its masks or its polygons are meant.
    truth
        Masks, labels (any object is foreground) or polygons. What is compared are its pixels; those of polygons are
        level 0 of the image.

    Raises
    ------
    InputError
        Predictions and truths do not pair by name, their sizes, scales or classes do not fit, or a file cannot be used.
    """
    predictions = files_in(prediction, form, "masks")
    if not predictions:
        raise InputError(f"{prediction}: holds no masks (NAME.png, NAME.tif or NAME/{MASKS[0]}).")
    truths = pair_truths(truth, predictions, prediction, "masks", on_note)
    records = {true.name: slide_record(predictions[true.name]) for true in truths}
    counter = _Counter(truth)
    for number, true in enumerate(truths, start=1):
        counter.count(true, predictions[true.name], records[true.name], on_progress)
        on_progress("measure", number, len(truths), {})
    scales = scales_in_words(counter.placements, prediction)
    for note in scales:
        on_note(note)
    true_values, predicted_values = values_in(counter.pairs)
    true_codes = _codes_of(truth, counter, true_values)
    if form == "polygons":
        predicted_codes = codes_of_polygons(prediction, counter.predicted_labels, None)
    else:
        classes = classes_of_predictions(prediction, list(records.values()))
        predicted_codes = codes_of_predictions(prediction, predicted_values, classes, true_codes)
    common = common_classes(true_codes, predicted_codes, on_note)
    confusions = [
        confusion_of_pairs(pairs, common.index_of_true, common.index_of_predicted, len(common.classes))
        for pairs in counter.pairs
    ]
    return FoundMasks(
        classes=common.classes,
        names=[true.name for true in truths],
        groups=groups_of_truths(truths),
        confusions=confusions,
        source={"scale": "; ".join(scales)} if scales else {},
    )


def _codes_of(truth: TruthFolder, counter: "_Counter", values: set[int]) -> Codes:
    if truth.kind == "labels":
        return codes_of_labels(truth.root, truth.class_names)
    if truth.kind == "geojson":
        return codes_of_polygons(truth.root, counter.true_labels, truth.class_names)
    return codes_of_truth(truth.root, values, truth.class_names, truth.described.ignore)


class _Counter:
    """The pairs of values of each image, and what the values of polygons stand for."""

    def __init__(self, truth: TruthFolder) -> None:
        self._truth = truth
        self.pairs: list[Pairs] = []
        self.placements: dict[str, Placement] = {}
        self.true_labels: dict[str, int] = {}
        self.predicted_labels: dict[str, int] = {}

    def count(self, true: TrueFile, prediction: Path, record: SlideRecord | None, on_progress: OnProgress) -> None:
        """Compare one image."""
        with open_pair(
            true,
            prediction,
            record,
            mpp=self._truth.mpp_of(true),
            true_value=class_values(self.true_labels, class_of_polygon),
            predicted_value=class_values(self.predicted_labels, class_of_polygon),
        ) as pair:
            self.placements[true.name] = pair.placement
            self.pairs.append(count_pairs(self._bytes_of(pair, true, prediction, on_progress)))

    def _bytes_of(
        self, pair: OpenPair, true: TrueFile, prediction: Path, on_progress: OnProgress
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        labels, ignore = self._truth.kind == "labels", self._truth.described.ignore
        for true_values, predicted in pair.blocks(on_progress):
            if labels:
                foreground = (true_values > 0).astype(np.uint8)
                if ignore is not None:
                    foreground[true_values == ignore] = IGNORE
                yield foreground, _as_bytes(predicted, prediction)
            else:
                yield _as_bytes(true_values, true.path), _as_bytes(predicted, prediction)


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
