"""Distances of many images: each as it is measured by itself, and all of them together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segkit.evaluation import surface_tables, surfaces
from segkit.evaluation.surface_tables import stack_surfaces, surface_row
from segkit.evaluation.surfaces import NOTHING, surface_metrics, tally_surfaces

mask_pairs = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
)
several = st.lists(st.tuples(mask_pairs, st.sampled_from([0.25, 0.5, 2.0])), min_size=1, max_size=4)


def measured(pairs, tolerance=1.5):
    """The tallies of pairs of masks, and their rows as one class of several images."""
    tallies = [tally_surfaces(*masks) for masks, _ in pairs]
    rows = [
        surface_row(one, masks[0].shape, tolerance)[np.newaxis] for one, (masks, _) in zip(tallies, pairs, strict=True)
    ]
    return tallies, stack_surfaces(rows, [mpp for _, mpp in pairs], 2)


@settings(max_examples=60)
@given(several)
def test_each_image_has_its_own_metrics_with_its_diagonal_for_what_is_infinite(pairs):
    tallies, found = measured(pairs)
    values = found.by_image()
    assert list(values) == ["hd95_um", "hd_um", "assd_um", "nsd"]
    for place, (tally, (masks, mpp)) in enumerate(zip(tallies, pairs, strict=True)):
        expected = surface_metrics(tally, tolerance_px=1.5, mpp=mpp)
        for name, value in expected.items():
            bounded = surfaces.bounded(value, masks[0].shape, mpp) if name != "nsd" else value
            np.testing.assert_allclose(values[name][place, 0], bounded, err_msg=name)


@settings(max_examples=60)
@given(several, st.integers(0, 100))
def test_pooled_is_what_all_boundary_pixels_together_give(pairs, seed):
    tallies, found = measured([(masks, 0.5) for masks, _ in pairs])
    weights = np.random.default_rng(seed).integers(0, 3, (2, len(pairs))).astype(float)
    pooled = found.pooled(weights)
    assert list(pooled) == ["assd_um", "nsd"]
    for row, drawn in enumerate(weights.astype(int)):
        together = sum((one for one, times in zip(tallies, drawn, strict=True) for _ in range(times)), NOTHING)
        np.testing.assert_allclose(pooled["nsd"][row, 0], surfaces.nsd(together, 1.5))
        if not together.is_infinite:
            np.testing.assert_allclose(pooled["assd_um"][row, 0], 0.5 * surfaces.assd_px(together))
        elif len(pairs) == 1:
            diagonal = np.hypot(*pairs[0][0][0].shape)
            np.testing.assert_allclose(pooled["assd_um"][row, 0], 0.5 * diagonal)


def test_images_that_were_not_measured_are_undefined_and_count_for_nothing():
    truth = np.zeros((20, 30), bool)
    truth[5:10, 5:10] = True
    row = surface_row(tally_surfaces(np.roll(truth, 2, axis=1), truth), truth.shape, 1)[np.newaxis]
    found = stack_surfaces([row, None], [0.5, 0.5], 2)
    alone = stack_surfaces([row], [0.5], 2)
    assert (found.num_measured, alone.num_measured) == (1, 1)
    assert all(np.isnan(values[1, 0]) and values[0, 0] > 0 for values in found.by_image().values())
    for name, values in found.pooled(np.ones((1, 2))).items():
        np.testing.assert_array_equal(values, alone.pooled(np.ones((1, 1)))[name])
    some = found.of(np.array([False, True]))
    assert some.num_measured == 0
    assert found.one_empty.tolist() == [[False], [False]]
    assert stack_surfaces([None, None], [0.5, 0.5], 2) is None


@settings(max_examples=60)
@given(several)
def test_it_is_counted_where_the_diagonal_stands_for_distances(pairs):
    _, found = measured(pairs)
    expected = [bool(predicted.any()) != bool(true.any()) for (predicted, true), _ in pairs]
    assert found.one_empty[:, 0].tolist() == expected


def test_distances_are_in_pixels_unless_the_scale_of_every_image_is_known():
    row = np.array([[4.0, 5.0, 10.0, 20.0, 3.0, 0.0]])
    assert stack_surfaces([row, row], [0.5, None], 2).by_image()["hd95_px"].ravel().tolist() == [4, 4]
    assert stack_surfaces([row, row], [0.5, 2.0], 2).by_image()["hd95_um"].ravel().tolist() == [2, 8]


@pytest.mark.parametrize("unit", ["um", "px"])
def test_every_metric_has_a_definition_by_its_own_name(unit):
    found = stack_surfaces([np.ones((1, 6))], [0.5 if unit == "um" else None], 2)
    told = surface_tables.definitions(unit, "2px")
    assert set(found.by_image()) <= set(told)
    assert "tolerance of 2px" in told["nsd"]
