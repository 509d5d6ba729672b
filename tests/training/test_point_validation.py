"""Thresholds are those with the highest F1 on the validation images, class by class, and the F1 is what they give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.evaluation.points import PointCounts, count_points
from segkit.inference.image_detection import LOWEST_SCORE
from segkit.models.model_file import DetectionSpec
from segkit.training.point_validation import MAX_CURVE_ROWS, LabelledPoints, PointValidation, validate_points
from tests.training.pixel_detector import PEAK, Peak, detection_of, labelled_image, pixel_detector


def validate(images: list[LabelledPoints], detection: DetectionSpec | None = None) -> PointValidation:
    return validate_points(
        images, pixel_detector(), detection or detection_of(), mpp=None, on_image=lambda *_: None
    )  # fmt: skip


def f1_at(images: list[LabelledPoints], found: PointValidation, index: int, threshold: float) -> float | None:
    """Count by hand: detections of a class that reach a threshold against its points, over all images."""
    counts = PointCounts()
    for one, detections in zip(images, found.detections, strict=True):
        kept = (detections.classes == index) & (detections.scores >= threshold)
        counts += count_points(detections.positions[kept], one.points.of_class(index), 5)
    return counts.f1


def test_a_threshold_parts_right_from_wrong() -> None:
    images = [
        labelled_image(
            "one",
            [(10, 10, 0.9, 0), (30, 30, 0.6, 0), (50, 50, 0.4, 0), (20, 60, 0.3, 1), (40, 10, 0.2, 1)],
            [(10.5, 12.5, 1), (30.5, 30.5, 1), (20.5, 60.5, 2)],
        ),
        labelled_image("two", [(10, 10, 0.5, 1)], [(10.5, 10.5, 2), (40.5, 40.5, 2)]),
    ]
    done: list[tuple[int, int]] = []
    found = validate_points(
        images, pixel_detector(), detection_of(), mpp=None, on_image=lambda *numbers: done.append(numbers)
    )
    # Midway between the lowest score that is right and the highest that is wrong.
    assert found.thresholds == pytest.approx([0.5, 0.25], abs=0.003)
    assert found.by_class == {"a": 1.0, "b": pytest.approx(2 * 2 / (2 * 2 + 0 + 1))}
    assert found.score == pytest.approx((1 + 0.8) / 2)
    assert done == [(1, 2), (2, 2)]
    detection = found.changes["detection"]
    assert detection == detection_of(thresholds=found.thresholds, curves=detection.curves)
    first, _ = detection.curves
    assert [row[1:] for row in first] == [
        (1.0, 0.5, pytest.approx(2 / 3, abs=1e-6)), (1.0, 1.0, 1.0), (pytest.approx(2 / 3, abs=1e-6), 1.0, 0.8)
    ]  # fmt: skip
    assert [row[0] for row in first] == pytest.approx([0.9, 0.6, 0.4], abs=0.003)


PEAKS = st.lists(PEAK, max_size=12)
LABELS = st.lists(st.tuples(st.floats(0, 59.9), st.floats(0, 69.9), st.integers(0, 2)), max_size=8)


@settings(max_examples=40)
@given(content=st.lists(st.tuples(PEAKS, LABELS), min_size=1, max_size=3))
def test_no_other_threshold_is_better_and_the_f1_is_what_the_threshold_gives(
    content: list[tuple[list[Peak], list[tuple[float, float, int]]]],
) -> None:
    images = [labelled_image(str(number), peaks, points) for number, (peaks, points) in enumerate(content)]
    found = validate(images)
    for index, name in enumerate(("a", "b"), start=1):
        value = found.by_class[name]
        scores = sorted({score for one in found.detections for score in one.scores[one.classes == index].tolist()})
        num_points = sum(len(one.points.of_class(index)) for one in images)
        if not num_points:
            assert value is None
        elif not scores:
            assert value == 0
        else:
            assert value == pytest.approx(f1_at(images, found, index, found.thresholds[index - 1]), abs=1e-6)
            assert value == pytest.approx(max(f1_at(images, found, index, score) or 0 for score in scores), abs=1e-6)
    known = [value for value in found.by_class.values() if value is not None]
    assert found.score == pytest.approx(sum(known) / len(known) if known else 0)


def test_a_class_without_points_keeps_its_threshold_and_has_no_f1() -> None:
    image = labelled_image("one", [(10, 10, 0.9, 0), (30, 30, 0.6, 1)], [(10.5, 10.5, 1)])
    found = validate([image], detection_of(thresholds=[0.5, 0.7]))
    assert found.by_class == {"a": 1.0, "b": None}
    assert found.score == 1.0
    assert found.thresholds[1] == 0.7


def test_a_class_that_is_never_detected_has_an_f1_of_0() -> None:
    """It must not drop out of the mean: a network that knows one of two classes is not the best."""
    image = labelled_image("one", [(10, 10, 0.9, 0)], [(10.5, 10.5, 1), (30.5, 30.5, 2)])
    found = validate([image], detection_of(thresholds=[0.5, 0.7]))
    assert found.by_class == {"a": 1.0, "b": 0.0}
    assert found.score == 0.5
    assert found.thresholds[1] == 0.7
    assert found.changes["detection"].curves[1] == []


def test_images_without_points_count_their_false_positives() -> None:
    with_points = labelled_image("one", [(10, 10, 0.5, 0)], [(10.5, 10.5, 1)])
    empty = labelled_image("two", [(10, 10, 0.8, 0), (30, 30, 0.7, 0)], [])
    assert validate([with_points, empty]).by_class["a"] == pytest.approx(2 / (2 + 2))
    assert validate([empty]).score == 0.0
    assert validate([empty]).by_class == {"a": None, "b": None}


def test_hard_negatives_are_no_objects() -> None:
    image = labelled_image("one", [(10, 10, 0.9, 0), (40, 40, 0.8, 0)], [(10.5, 10.5, 1), (40.5, 40.5, 0)])
    found = validate([image])
    assert found.by_class["a"] == 1.0
    assert found.thresholds[0] == pytest.approx(0.85, abs=0.003)


def test_low_scores_are_in_the_curve_but_not_the_lowest() -> None:
    image = labelled_image("one", [(10, 10, 0.03, 0), (40, 40, 0.01, 0)], [(10.5, 10.5, 1)])
    found = validate([image])
    (one,) = found.detections
    assert one.positions.tolist() == [[10.5, 10.5]]
    assert LOWEST_SCORE < one.scores[0] < 0.035
    assert 0 < found.thresholds[0] < one.scores[0]


def test_a_long_curve_is_kept_thinned() -> None:
    rng = np.random.default_rng(0)
    places = [(y, x) for y in range(0, 60, 3) for x in range(0, 69, 3)]
    images = []
    for name in ("one", "two"):
        scores = rng.permutation(np.linspace(0.1, 1, len(places)))
        peaks: list[Peak] = [(y, x, score, 0) for (y, x), score in zip(places, scores.tolist(), strict=True)]
        labels = [(y + 0.5, x + 0.5, 1) for (y, x), score in zip(places, scores, strict=True) if score > rng.random()]
        images.append(labelled_image(name, peaks, labels))
    found = validate(images, detection_of(match_radius="1px"))
    curve = found.changes["detection"].curves[0]
    assert 100 < len(curve) <= MAX_CURVE_ROWS
    assert all(0 <= value <= 1 for row in curve for value in row)
    assert max(row[3] for row in curve) == pytest.approx(found.by_class["a"], abs=0.02)
    assert [row[0] for row in curve] == sorted((row[0] for row in curve), reverse=True)
