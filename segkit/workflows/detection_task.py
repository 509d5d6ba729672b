"""What learning from points has in common, whatever the network: rounds of mining, and pictures."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segkit.config import length_px
from segkit.data.mined import Mined
from segkit.data.sampling import cut_mirrored, sample_rng
from segkit.evaluation.points import outcomes
from segkit.geometry import Box
from segkit.inference.image_detection import ScorePredictor
from segkit.models.model_file import DetectionSpec
from segkit.report.detections import PointCase, draw_points_validation
from segkit.training.mining import mine
from segkit.training.point_validation import LabelledPoints, PointValidation
from segkit.training.samples import Batch, Source
from segkit.training.validation import Validation
from segkit.workflows.mined_table import mined_path, read_mined, write_mined
from segkit.workflows.task import NetworkTask

FIRST_THRESHOLD = 0.5


class DetectionTask(NetworkTask[LabelledPoints], ABC):
    """See `Task`; a subclass says how its network scores pixels."""

    metric = "f1"
    _detection: DetectionSpec

    @abstractmethod
    def score_predictor(self, network: nn.Module) -> ScorePredictor:
        """Return what scores the pixels of whole images with a network of this task's form."""

    def shown_patches(self) -> Tensor:
        """Return as many patches as there are for the validation loss: of those some leave their images."""
        return patches_inside(self._prepared.val, self.input_px, len(self.validation_patches.images))

    def round_ends(self) -> Sequence[int]:
        """Return the epochs after which hard negatives are mined, evenly spread, and the last epoch."""
        config = self._prepared.config
        rounds = config.points.mining_rounds if config.points.hard_negatives else 0
        ends = {config.epochs * number // (rounds + 1) for number in range(1, rounds + 2)} - {0}
        return sorted(ends)

    def draw_validation(self, validation: Validation, path: Path) -> None:
        """Draw validation images, worst to best."""
        assert isinstance(validation, PointValidation)
        match_px = length_px(self._detection.match_radius, self._prepared.dataset.mpp)
        cases = [
            PointCase(
                one.name,
                one.image,
                *outcomes(found, one.points, validation.thresholds, match_px),
                one.points.of_class(0),
            )
            for found, one in zip(validation.detections, self._prepared.val, strict=True)
        ]
        draw_points_validation(cases, path)

    def mined_in_round(self, run: Path, number: int) -> list[Mined] | None:
        """Return the false positives that are drawn in a round; None in round 0, before anything is mined.

        What a round has found is written down in the run's folder, so that a resumed run draws the same.
        """
        if number == 0:
            return None
        table, names = mined_path(run, number), [one.name for one in self._prepared.train]
        if not self._group.from_first(table.exists):
            mined = self._mine(number)
            if self._group.is_first:
                write_mined(table, names, mined)
        return self._group.from_first(lambda: read_mined(table, names))

    def _mine(self, number: int) -> list[Mined]:
        started = time.perf_counter()
        self.network.eval()
        mined = mine(
            self._prepared.train,
            self.score_predictor(self.network),
            self._detection,
            mpp=self._prepared.dataset.mpp,
            group=self._group,
            on_image=lambda done, total: self._on_progress(f"mine, round {number}", done, total, {}),
        )
        found = sum(len(one.scores) for one in mined)
        weight = sum(float(one.scores.sum()) for one in mined)
        self._on_note(
            f"mining round {number}: {found} false positives in {len(mined)} training images, mean score "
            f"{weight / max(found, 1):.2f}, {time.perf_counter() - started:.0f} s"
        )
        return mined


def patches_inside(images: Sequence[LabelledPoints], side: int, count: int) -> Tensor:
    """Return a fixed set of patches, uint8 (count, C, side, side), half of them around points, no point twice.

    They are moved inside their images; those of images that are smaller are mirrored. Where there are fewer points
    more patches lie anywhere.
    """
    rng = sample_rng(0, 0, 0)
    points = [(number, place) for number, one in enumerate(images) for place in one.points.positions]
    places = [points[which] for which in rng.permutation(len(points))[: count // 2]]
    for _ in range(count - len(places)):
        number = int(rng.integers(len(images)))
        places.append((number, rng.random(2) * images[number].image.shape[:2]))
    patches = []
    for number, place in places:
        image = images[number].image
        y, x = (max(0, min(int(at) - side // 2, size - side)) for at, size in zip(place, image.shape[:2], strict=True))
        patches.append(cut_mirrored(image, Box(y, x, side, side)).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(patches))


def fixed_patches(source: Source, side: int, count: int) -> Batch:
    """Return a fixed set of patches, drawn from validation images as those of training are."""
    drawn = [source.draw(sample_rng(0, 0, number), side) for number in range(count)]
    return Batch(*(torch.from_numpy(np.stack([one[which].transpose(2, 0, 1) for one in drawn])) for which in range(2)))
