"""What other thresholds would give on the images of an evaluation: objects found again, with one changed at a time."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.objects import average_precision, count_objects
from segkit.evaluation.threshold_choice import Curve
from segkit.inference.instances import label_instances
from segkit.models.model_file import InstanceSpec
from segkit.training.instance_validation import FINE_STEPS, IOU, overlaps_of

MAX_SWEPT_PX: Final = 8_000_000
"""Of images, evenly spread over all, that objects are found on again: it takes about 0.5 us for each and threshold."""

STEPS: Final = (-2, -1, 1, 2)
"""Of the sizes that the training's search has, on both sides of the value that is used."""

SWEPT: Final = ("foreground_threshold", "seed_threshold")


class ObjectSweeps:
    """Counts of objects at other thresholds, image by image."""

    def __init__(self, spec: InstanceSpec, num_images: int) -> None:
        self._num_images = num_images
        self._seen = self._swept_px = 0
        self.num_swept = 0
        self._used = np.zeros(4)
        self._others = [
            (name, other, np.zeros(4))
            for name, step in zip(SWEPT, FINE_STEPS, strict=True)
            for times in STEPS
            for other in [spec.model_copy(update={name: round(getattr(spec, name) + times * step, 3)})]
            if 0 < getattr(other, name) < 1
        ]
        self._spec = spec

    def add(
        self,
        foreground: NDArray[np.uint8],
        distance: NDArray[np.uint8],
        labels: NDArray[np.int32],
        truth: NDArray[np.int32],
    ) -> None:
        """Take the maps of an image, uint8 (H, W), its objects at the thresholds that are used, and the true ones."""
        self._seen += 1
        # Never ahead of what is due, so that the images are spread evenly.
        if self._swept_px * self._num_images >= MAX_SWEPT_PX * self._seen:
            return
        self._swept_px += truth.size
        self.num_swept += 1
        self._used += _counts(truth, labels)
        for _, spec, counts in self._others:
            np.add(counts, _counts(truth, label_instances(foreground, distance, spec)), out=counts)

    def curve_of(self, name: str) -> Curve:
        """Return average precision at an IoU of 0.5 over one of the thresholds, pooled over the images."""
        rows = [(getattr(spec, name), counts) for one, spec, counts in self._others if one == name]
        rows = sorted([*rows, (getattr(self._spec, name), self._used)], key=lambda row: float(row[0]))
        return Curve(
            np.array([value for value, _ in rows], np.float64), average_precision(np.stack([one for _, one in rows]))
        )


def _counts(truth: NDArray[np.int32], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    counts: NDArray[np.float64] = count_objects(overlaps_of(truth, labels), [IOU])[0]
    return counts
