"""Objects at other thresholds on the images of an evaluation, against finding them anew."""

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.evaluation.objects import average_precision, count_objects, match_objects
from segkit.inference.instances import label_instances
from segkit.models.model_file import InstanceSpec
from segkit.workflows import threshold_sweeps
from segkit.workflows.threshold_sweeps import SWEPT, ObjectSweeps

SPEC = InstanceSpec(foreground_threshold=0.5, seed_threshold=0.45, min_area_px=4, grow_px=8, smooth_px=1.0)


def maps_of(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]:
    """Return a foreground, a distance and true ids of squares, the maps with noise."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((60, 60), np.int32)
    for number, (y, x) in enumerate(np.ndindex(4, 4), start=1):
        truth[15 * y + 2 : 15 * y + 13, 15 * x + 2 : 15 * x + 13] = number
    inside = np.zeros((15, 15))
    for depth in range(2, 8):
        inside[depth : 15 - depth, depth : 15 - depth] = (depth - 1) / 6
    distance = np.tile(inside, (4, 4)) * 255 * rng.uniform(0.4, 1, (4, 4)).repeat(15, axis=0).repeat(15, axis=1)
    foreground = (truth > 0) * 255 * rng.uniform(0.3, 1, (60, 60))
    return foreground.astype(np.uint8), distance.astype(np.uint8), truth


def test_curves_are_what_other_thresholds_give() -> None:
    images = [maps_of(seed) for seed in range(3)]
    sweeps = ObjectSweeps(SPEC, len(images))
    for foreground, distance, truth in images:
        sweeps.add(foreground, distance, label_instances(foreground, distance, SPEC), truth)
    assert sweeps.num_swept == 3
    for name in SWEPT:
        curve = sweeps.curve_of(name)
        assert getattr(SPEC, name) in curve.values.tolist()
        assert (np.diff(curve.values) > 0).all()
        assert len(curve.values) == 5
        expected = []
        for value in curve.values.tolist():
            spec = SPEC.model_copy(update={name: value})
            counts = [
                count_objects(match_objects(truth, label_instances(foreground, distance, spec)), [0.5])[0]
                for foreground, distance, truth in images
            ]
            expected.append(float(average_precision(np.sum(counts, axis=0))))
        np.testing.assert_allclose(curve.scores, expected)
        assert len(set(expected)) > 1


def test_thresholds_stay_between_0_and_1() -> None:
    sweeps = ObjectSweeps(SPEC.model_copy(update={"seed_threshold": 0.1, "foreground_threshold": 0.95}), 1)
    foreground, distance, truth = maps_of(0)
    sweeps.add(foreground, distance, truth, truth)
    assert sweeps.curve_of("seed_threshold").values.tolist() == [0.1, 0.2, 0.3]
    assert sweeps.curve_of("foreground_threshold").values.tolist() == [0.8, 0.875, 0.95]


@pytest.mark.parametrize(("most", "swept"), [(10**9, list(range(10))), (3 * 3600, [0, 3, 6]), (1, [0])])
def test_of_many_pixels_images_are_taken_evenly(most: int, swept: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold_sweeps, "MAX_SWEPT_PX", most)
    sweeps = ObjectSweeps(SPEC, 10)
    foreground, distance, truth = maps_of(0)
    taken = []
    for number in range(10):
        before = sweeps.num_swept
        sweeps.add(foreground, distance, truth, truth)
        taken += [number] * (sweeps.num_swept - before)
    assert taken == swept
