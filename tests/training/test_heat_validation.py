"""How much a heat map is smoothed, and its thresholds, are what gives the best F1 on the validation images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.config import length_px
from segkit.errors import ConfigError
from segkit.inference.image_detection import detect_in_image
from segkit.points import Points
from segkit.training.heat_validation import NOT_SMOOTHED, judge, smoothing_radii, validate_heat
from segkit.training.point_validation import LabelledPoints, PointValidation, validate_points
from tests.training.pixel_detector import PEAK, Peak, detection_of, labelled_image, pixel_detector

CLASSES = ["background", "a", "b"]


def validate(images: list[LabelledPoints], match_radius: str = "5px", mpp: float | None = None) -> PointValidation:
    return validate_heat(
        images, pixel_detector(), detection_of(match_radius=match_radius), mpp=mpp, on_image=lambda *_: None
    )


def same(one: PointValidation, other: PointValidation) -> bool:
    return (
        (one.score, one.by_class, one.thresholds, one.changes)
        == (other.score, other.by_class, other.thresholds, other.changes)
    ) and all(
        np.array_equal(a, b)
        for first, second in zip(one.detections, other.detections, strict=True)
        for a, b in zip(first, second, strict=True)
    )


@settings(max_examples=30, deadline=None)
@given(
    peaks=st.lists(PEAK, max_size=10),
    points=st.lists(st.tuples(st.floats(0, 59.9), st.floats(0, 69.9), st.integers(0, 2)), max_size=8),
)  # fmt: skip
def test_nothing_that_was_tried_is_better_than_what_is_chosen(
    peaks: list[Peak], points: list[tuple[float, float, int]]
) -> None:
    images = [labelled_image("one", peaks, points), labelled_image("two", peaks[:3], points[:2])]
    chosen = validate(images)
    by_hand = []
    for radius in smoothing_radii("5px"):
        detection = detection_of(smooth_radius=radius)
        by_hand.append(validate_points(images, pixel_detector(), detection, mpp=None, on_image=lambda *_: None))
        found = [detect_in_image(one.image, pixel_detector(), detection, mpp=None) for one in images]
        assert same(judge(images, found, detection, CLASSES, mpp=None), by_hand[-1])
    scores = [one.score for one in by_hand]
    best = by_hand[scores.index(max(scores))]
    assert same(chosen, best)


def test_clean_summits_are_not_smoothed_and_noisy_ones_are() -> None:
    clean = labelled_image("clean", [(10, 10, 0.9, 0), (30, 40, 0.8, 0)], [(10.5, 10.5, 1), (30.5, 40.5, 1)])
    assert validate([clean]).changes["detection"].smooth_radius == NOT_SMOOTHED
    # Broad, grainy objects among single bright pixels: only their means tell them apart.
    image, places = clean.image * 0, [(12, 12), (40, 50), (20, 45)]
    for y, x in places:
        image[y - 2 : y + 3, x - 2 : x + 3, 0] = 120
        image[y, x, 0] = 140
    for y, x in [(5, 60), (50, 10), (30, 30), (52, 64)]:
        image[y, x, 0] = 255
    points = Points(np.array(places) + 0.5, np.ones(3, np.int64))
    validation = validate([LabelledPoints("noisy", image, points)])
    detection = validation.changes["detection"]
    assert detection.smooth_radius in ("0.8333px", "1.6667px")
    assert length_px(detection.smooth_radius, None) >= 1
    assert validation.score == 1
    assert detection.thresholds == validation.thresholds


def test_radii_are_in_the_unit_of_the_match_radius() -> None:
    assert smoothing_radii("6px") == ["0.5px", "1px", "2px"]
    assert smoothing_radii("7.5um") == ["0.5px", "1.25um", "2.5um"]
    for radius in smoothing_radii("0.0004um"):
        assert length_px(radius, 0.5) > 0


def test_progress_is_told_and_a_missing_scale_is_refused() -> None:
    images = [labelled_image(name, [(9, 9, 0.9, 0)], [(9.5, 9.5, 1)]) for name in "ab"]
    done: list[tuple[int, int]] = []
    validate_heat(images, pixel_detector(), detection_of(), mpp=None, on_image=lambda *numbers: done.append(numbers))
    assert done == [(1, 2), (2, 2)]
    with pytest.raises(ConfigError, match=r"data\.mpp"):
        validate(images, "4um")
