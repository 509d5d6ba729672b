"""Hard negatives: where the current network finds something in the training images and nothing is.

Ciresan et al. (2013) run a first, small network over all training images once and draw negatives in proportion to what
it says; here it is the network that is being trained, and the images are run through it densely, in rounds.
"""

from collections.abc import Callable, Sequence

from scipy.spatial import cKDTree

from segkit.config import length_px
from segkit.data.mined import Mined
from segkit.inference.image_detection import ScorePredictor, detect_in_image
from segkit.models.model_file import DetectionSpec
from segkit.training.distributed import ALONE, Group
from segkit.training.point_validation import LabelledPoints

LOWEST_MINED = 0.2
"""Lowest score of a false positive that is worth being drawn."""


def mine(
    images: Sequence[LabelledPoints],
    predictor: ScorePredictor,
    detection: DetectionSpec,
    *,
    mpp: float | None,
    group: Group = ALONE,
    on_image: Callable[[int, int], None],
) -> list[Mined]:
    """Return the false positives in each image: detections further than the match radius from every labelled object.

    An object of another class is no false positive: it is in the positives of that class.
    """
    match_px = length_px(detection.match_radius, mpp)

    def false_positives(one: LabelledPoints) -> Mined:
        found = detect_in_image(one.image, predictor, detection, mpp=mpp, lowest=LOWEST_MINED)
        objects = one.points.positions[one.points.classes > 0]
        wrong = (
            cKDTree(objects).query(found.positions)[0] > match_px
            if len(objects) and len(found.scores)
            else [True] * len(found.scores)
        )
        return Mined(found.positions[wrong], found.scores[wrong])

    return group.map(false_positives, images, lambda done: on_image(done, len(images)))
