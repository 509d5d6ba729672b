"""Hard negatives are exactly what the detector finds away from every labelled object."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import ConfigError
from segkit.inference.image_detection import detect_in_image
from segkit.inference.window import WindowPredictor
from segkit.points import Points
from segkit.training.mining import LOWEST_MINED, mine
from segkit.training.point_validation import LabelledPoints
from tests.training.pixel_detector import (
    PEAK,
    Peak,
    detection_of,
    disk_network,
    labelled_image,
    pixel_detector,
)


def test_false_positives_are_further_than_the_match_radius_from_every_object() -> None:
    peaks: list[Peak] = [
        (10, 10, 0.9, 0),  # on an object
        (20, 15, 0.8, 0),  # 5 px beside it: a match
        (20, 35, 0.6, 0),  # 5.1 px beside one: none
        (40, 40, 0.7, 1),  # an object of the other class, taken for this one
        (50, 60, 0.5, 1),  # nothing there
        (30, 60, 0.4, 0),  # a labelled look-alike
        (55, 5, 0.15, 0),  # hardly seen
    ]
    points = [(10.5, 10.5, 1), (20.5, 20.5, 2), (25.6, 35.5, 1), (40.5, 41.5, 1), (30.5, 60.5, 0)]
    images = [
        labelled_image("one", peaks, points),
        labelled_image("two", peaks[:1], []),
        labelled_image("three", [], points),
    ]
    done: list[tuple[int, int]] = []
    mined = mine(images, pixel_detector(), detection_of(), mpp=None, on_image=lambda *numbers: done.append(numbers))
    assert mined[0].positions.tolist() == [[20.5, 35.5], [50.5, 60.5], [30.5, 60.5]]
    assert mined[0].scores.tolist() == pytest.approx([0.6, 0.5, 0.4], abs=0.003)
    # Without objects everything is wrong; where nothing is found nothing is.
    assert mined[1].positions.tolist() == [[10.5, 10.5]]
    assert mined[2].positions.shape == (0, 2)
    assert mined[2].scores.shape == (0,)
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_radii_in_micrometres_need_the_scale() -> None:
    image = labelled_image("one", [(20, 20, 0.9, 0)], [(20.5, 27.5, 1)])
    detection = detection_of(match_radius="4um")
    for mpp, number in ((0.5, 0), (0.6, 1)):  # 8 px, 6.7 px
        (found,) = mine([image], pixel_detector(), detection, mpp=mpp, on_image=lambda *_: None)
        assert len(found.scores) == number
    with pytest.raises(ConfigError, match=r"4um.*data\.mpp"):
        mine([image], pixel_detector(), detection, mpp=None, on_image=lambda *_: None)


@settings(max_examples=40)
@given(
    peaks=st.lists(PEAK, max_size=12),
    points=st.lists(st.tuples(st.floats(0, 59.9), st.floats(0, 69.9), st.integers(0, 2)), max_size=8),
)  # fmt: skip
def test_what_is_mined_is_what_is_detected_without_what_is_near_an_object(
    peaks: list[Peak], points: list[tuple[float, float, int]]
) -> None:
    image = labelled_image("one", peaks, points)
    (mined,) = mine([image], pixel_detector(), detection_of(), mpp=None, on_image=lambda *_: None)
    found = detect_in_image(image.image, pixel_detector(), detection_of(), mpp=None)
    objects = image.points.positions[image.points.classes > 0]
    expected = [
        (position.tolist(), score)
        for position, score in zip(found.positions, found.scores.tolist(), strict=True)
        if score >= LOWEST_MINED and (np.hypot(*(objects - position).T) > 5).all()
    ]
    assert list(zip(mined.positions.tolist(), mined.scores.tolist(), strict=True)) == expected


def test_a_network_is_run_densely_over_the_images() -> None:
    """A logistic regression made by hand finds bright disks; those that nobody has labelled are mined."""
    network, spec = disk_network(radius=3)
    predictor = WindowPredictor([(network, spec)], device=torch.device("cpu"), precision="float32", stride=2)
    rows, columns = np.mgrid[:80, :90] + 0.5
    disks = [(20.5, 20.5), (60.5, 70.5), (40.5, 50.5), (70.5, 10.5)]
    image = np.zeros((80, 90, 1), np.uint8)
    for y, x in disks:
        image[np.hypot(rows - y, columns - x) <= 3] = 255
    one = LabelledPoints("one", image, Points(np.array(disks[:2]), np.array([1, 1])))
    detection = detection_of(2, smooth_radius="2px", nms_radius="5px")
    (mined,) = mine([one], predictor, detection, mpp=None, on_image=lambda *_: None)
    assert len(mined.scores) == 2
    order = np.argsort(mined.positions[:, 0])
    assert np.abs(mined.positions[order] - disks[2:]).max() <= 2
    assert mined.scores.min() > 0.6
