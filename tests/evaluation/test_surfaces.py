"""Distances between boundaries against measuring every pair of pixels, and against their own symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from segkit.evaluation import surfaces
from segkit.evaluation.surfaces import NOTHING, SurfaceTally, surface_metrics, tally_surfaces
from segkit.masks import IGNORE

TOLERANCES = (0, 1, 1.5, 3)

mask_pairs = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
)


def boundary_pixels(mask):
    """The definition, pixel by pixel."""
    height, width = mask.shape

    def holds(y, x):
        return 0 <= y < height and 0 <= x < width and mask[y, x]

    return [
        (y, x)
        for y, x in np.argwhere(mask)
        if not all(holds(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))
    ]


def distances_by_pairs(start, end):
    """Of each pixel in `start` the distance to the nearest in `end`."""
    return [min((np.hypot(y - v, x - u) for v, u in end), default=np.inf) for y, x in start]


def metrics_by_pairs(prediction, truth, tolerance):
    predicted, true = boundary_pixels(prediction), boundary_pixels(truth)
    forth, back = distances_by_pairs(predicted, true), distances_by_pairs(true, predicted)
    if not predicted and not true:
        return {"hd95_px": np.nan, "hd_px": np.nan, "assd_px": np.nan, "nsd": np.nan}
    if not predicted or not true:
        return {"hd95_px": np.inf, "hd_px": np.inf, "assd_px": np.inf, "nsd": 0}
    return {
        "hd95_px": max(np.percentile(forth, 95), np.percentile(back, 95)),
        "hd_px": max(forth + back),
        "assd_px": np.mean(forth + back),
        "nsd": np.mean(np.array(forth + back) <= tolerance),
    }


def smooth_pair(shape, seed=0):
    """A mask, and one that is much like it."""
    rng = np.random.default_rng(seed)
    field, change = ndimage.gaussian_filter(rng.random((2, *shape)), (0, 4, 4))
    return field + 0.3 * (change - 0.5) > 0.5, field > 0.5


def assert_same_tally(one, other):
    for first, second in ((one.from_prediction, other.from_prediction), (one.from_truth, other.from_truth)):
        np.testing.assert_array_equal(first.values_px, second.values_px)
        np.testing.assert_array_equal(first.counts, second.counts)


def tally_in_tiles(prediction, truth, halo, size):
    """Add up tiles of `size` pixels, each read with its surroundings."""
    padded = [np.pad(mask, halo) for mask in (prediction, truth)]
    total = NOTHING
    for y in range(0, truth.shape[0], size):
        for x in range(0, truth.shape[1], size):
            height, width = min(size, truth.shape[0] - y), min(size, truth.shape[1] - x)
            window = slice(y, y + height + 2 * halo), slice(x, x + width + 2 * halo)
            total += tally_surfaces(*(mask[window] for mask in padded), halo_px=halo)
    return total


@given(mask_pairs, st.sampled_from(TOLERANCES))
def test_metrics_are_those_of_all_pairs_of_boundary_pixels(masks, tolerance):
    found = surface_metrics(tally_surfaces(*masks), tolerance_px=tolerance)
    expected = metrics_by_pairs(*masks, tolerance)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-12, err_msg=name)


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_boundary_is_what_an_erosion_takes_away(mask):
    np.testing.assert_array_equal(surfaces.boundary(mask), mask & ~ndimage.binary_erosion(mask))


@pytest.mark.parametrize("shape", [(70, 50), (40, 200)])
def test_larger_masks_measure_as_with_distance_transforms(shape):
    prediction, truth = smooth_pair(shape)
    predicted, true = surfaces.boundary(prediction), surfaces.boundary(truth)
    forth = ndimage.distance_transform_edt(~true)[predicted]
    back = ndimage.distance_transform_edt(~predicted)[true]
    found = surface_metrics(tally_surfaces(prediction, truth), tolerance_px=2)
    assert found["hd_px"] == max(forth.max(), back.max()) > 3
    assert found["hd95_px"] == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)), abs=1e-12)
    assert found["assd_px"] == pytest.approx(np.concatenate([forth, back]).mean(), abs=1e-12)
    assert found["nsd"] == pytest.approx((np.concatenate([forth, back]) <= 2).mean(), abs=1e-12)


@pytest.mark.parametrize("halo_px", [None, 5, 9, 13, 30, 60])
def test_a_few_pixels_far_from_a_long_boundary_are_measured_as_with_a_distance_transform(halo_px):
    truth = np.zeros((180, 230), bool)
    truth[:, 60:120:2] = True
    prediction = truth.copy()
    rng = np.random.default_rng(0)
    prediction[rng.integers(0, 180, 60), rng.integers(120, 230, 60)] = True
    distances = ndimage.distance_transform_edt(~surfaces.boundary(truth))
    assert all(
        ((distances > low) & (distances <= high) & prediction).any() for low, high in ((7, 16), (16, 40), (40, 200))
    )
    halo = 0 if halo_px is None else halo_px
    limit = np.inf if halo_px is None else halo_px - 1
    tile = slice(halo, 180 - halo), slice(halo, 230 - halo)
    expected = np.where(distances > limit, np.inf, distances)[tile][surfaces.boundary(prediction)[tile]]
    values, counts = np.unique(expected, return_counts=True)
    found = tally_surfaces(prediction, truth, halo_px=halo_px).from_prediction
    np.testing.assert_array_equal(found.values_px, values)
    np.testing.assert_array_equal(found.counts, counts)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 59), st.integers(0, 39)), min_size=2, max_size=6), st.integers(1, 5))
def test_near_and_far_are_measured_alike(places, num_true):
    """Single pixels, of which the nearest is up to 70 pixels away: the search around and the tree meet."""
    masks = np.zeros((2, 60, 40), bool)
    for number, place in enumerate(places):
        masks[int(number < num_true)][place] = True
    found = surface_metrics(tally_surfaces(*masks), tolerance_px=9)
    for name, value in metrics_by_pairs(*masks, 9).items():
        np.testing.assert_allclose(found[name], value, atol=1e-12, err_msg=name)


@settings(max_examples=40)
@given(mask_pairs)
def test_exchanging_prediction_and_truth_changes_nothing(masks):
    forth, back = (surface_metrics(tally_surfaces(*pair), tolerance_px=1) for pair in (masks, masks[::-1]))
    np.testing.assert_equal(forth, back)


@settings(max_examples=40)
@given(mask_pairs, st.integers(0, 4), st.integers(0, 4))
def test_turning_shifting_and_adding_background_changes_nothing(masks, top, left):
    tally = tally_surfaces(*masks)
    assert_same_tally(tally_surfaces(*(mask.T for mask in masks)), tally)
    assert_same_tally(tally_surfaces(*(mask[::-1] for mask in masks)), tally)
    assert_same_tally(tally_surfaces(*(np.pad(mask, ((top, 1), (left, 2))) for mask in masks)), tally)


@settings(max_examples=40)
@given(mask_pairs, st.sampled_from([0.25, 0.5, 3.0]))
def test_distances_scale_with_the_size_of_a_pixel_and_shares_do_not(masks, mpp):
    tally = tally_surfaces(*masks)
    in_px, in_um = surface_metrics(tally, tolerance_px=1), surface_metrics(tally, tolerance_px=1, mpp=mpp)
    assert list(in_um) == ["hd95_um", "hd_um", "assd_um", "nsd"]
    np.testing.assert_equal(in_um["nsd"], in_px["nsd"])
    for name in ("hd95", "hd", "assd"):
        np.testing.assert_equal(in_um[f"{name}_um"], in_px[f"{name}_px"] * mpp)


@settings(max_examples=40)
@given(mask_pairs, st.integers(1, 4), st.integers(1, 7))
def test_tiles_add_up_to_the_image_as_far_as_the_halo_sees(masks, halo, size):
    whole, tiled = tally_surfaces(*masks), tally_in_tiles(*masks, halo, size)
    for one, other in ((whole.from_prediction, tiled.from_prediction), (whole.from_truth, tiled.from_truth)):
        near = one.values_px <= halo - 1
        known = np.isfinite(other.values_px)
        np.testing.assert_array_equal(other.values_px[known], one.values_px[near])
        np.testing.assert_array_equal(other.counts[known], one.counts[near])
        assert other.counts[~known].sum() == one.counts[~near].sum()
    np.testing.assert_equal(surfaces.nsd(tiled, halo - 1), surfaces.nsd(whole, halo - 1))


def test_with_a_halo_that_sees_everything_tiles_give_the_same_numbers():
    prediction, truth = smooth_pair((90, 70))
    whole, tiled = tally_surfaces(prediction, truth), tally_in_tiles(prediction, truth, 30, 32)
    assert_same_tally(whole, tiled)
    assert not tiled.is_infinite
    assert tally_in_tiles(prediction, truth, 3, 32).is_infinite


def test_images_pool_by_adding():
    one, other = smooth_pair((30, 40)), smooth_pair((30, 40), seed=1)
    # Side by side, too far apart to see each other.
    both = [np.hstack([first, np.zeros((30, 60), bool), second]) for first, second in zip(one, other, strict=True)]
    assert_same_tally(tally_surfaces(*one) + tally_surfaces(*other), tally_surfaces(*both))


def test_the_same_mask_twice_has_no_distance():
    mask = smooth_pair((40, 40))[0]
    found = surface_metrics(tally_surfaces(mask, mask), tolerance_px=0)
    assert found == {"hd95_px": 0, "hd_px": 0, "assd_px": 0, "nsd": 1}


def test_each_direction_has_its_own_percentile():
    # One stray pixel of ten in the prediction: 4.4 of it is left at its 95th percentile, nothing in the truth's.
    truth, prediction = np.zeros((2, 1, 60), bool)
    truth[0, 0:18:2] = True
    prediction[0, 0:18:2] = prediction[0, 24] = True
    tally = tally_surfaces(prediction, truth)
    assert surfaces.hausdorff_px(tally) == 8
    assert surfaces.hausdorff_95_px(tally) == pytest.approx(0.55 * 8)


@pytest.mark.parametrize(
    ("predicted", "true", "distance", "share"),
    [(False, False, np.nan, np.nan), (True, False, np.inf, 0), (False, True, np.inf, 0), (True, True, 0, 1)],
)
def test_empty_truth_and_empty_prediction_have_the_documented_values(predicted, true, distance, share):
    tally = tally_surfaces(np.full((4, 3), predicted), np.full((4, 3), true))
    np.testing.assert_equal(
        surface_metrics(tally, tolerance_px=2, mpp=0.5),
        {"hd95_um": distance, "hd_um": distance, "assd_um": distance, "nsd": share},
    )
    assert tally.is_infinite == (distance == np.inf)
    np.testing.assert_equal(surfaces.bounded(distance, (4, 3), 0.5), 2.5 if distance == np.inf else distance)


def test_an_infinite_distance_is_bounded_by_the_diagonal():
    assert surfaces.bounded(np.inf, (300, 400)) == 500
    assert surfaces.bounded(np.inf, (300, 400), 0.25) == 125
    assert surfaces.bounded(7.5, (300, 400), 0.25) == 7.5


def test_nothing_adds_nothing():
    tally = tally_surfaces(*smooth_pair((20, 20)))
    assert_same_tally(NOTHING + tally, tally)
    assert np.isnan(surfaces.hausdorff_px(NOTHING))


def test_classes_are_measured_each_and_without_what_is_not_labelled():
    rng = np.random.default_rng(3)
    prediction, truth = rng.integers(0, 4, (2, 20, 30), dtype=np.uint8)
    truth[rng.random(truth.shape) < 0.2] = IGNORE
    tallies = surfaces.tally_classes(prediction, truth, 5)
    assert len(tallies) == 4
    for index, tally in enumerate(tallies, start=1):
        expected = tally_surfaces((prediction == index) & (truth != IGNORE), truth == index)
        assert_same_tally(tally, expected)
    assert len(tallies[3].from_truth.counts) == 0
    prediction[truth == IGNORE] = 1
    assert_same_tally(surfaces.tally_classes(prediction, truth, 2)[0], tallies[0])


def test_classes_in_tiles_add_up():
    rng = np.random.default_rng(5)
    prediction, truth = rng.integers(0, 3, (2, 30, 24), dtype=np.uint8)
    padded = [np.pad(mask, 6) for mask in (prediction, truth)]
    top, bottom = (
        surfaces.tally_classes(*(mask[rows] for mask in padded), 3, halo_px=6) for rows in (slice(0, 27), slice(15, 42))
    )
    for first, second, whole in zip(top, bottom, surfaces.tally_classes(prediction, truth, 3), strict=True):
        assert_same_tally(first + second, whole)


@pytest.mark.parametrize(
    ("prediction", "truth", "halo", "words"),
    [
        (np.zeros((3, 3), np.uint8), np.zeros((3, 3), bool), None, "must be bool"),
        (np.zeros((3, 3), bool), np.zeros((3, 4), bool), None, "differ in shape"),
        (np.zeros((3, 3), bool), np.zeros((3, 3), bool), 2, "halo of 2"),
        (np.zeros((3, 3), bool), np.zeros((3, 3), bool), 0, "halo of 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(prediction, truth, halo, words):
    with pytest.raises(ValueError, match=words):
        tally_surfaces(prediction, truth, halo_px=halo)


@pytest.mark.parametrize("tolerance", [-1, np.nan, np.inf])
def test_a_tolerance_is_a_length(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        surfaces.nsd(NOTHING, tolerance)


def test_every_number_has_a_definition():
    for name in surface_metrics(SurfaceTally(NOTHING.from_truth, NOTHING.from_truth), tolerance_px=1):
        assert name.removesuffix("_px") in surfaces.DEFINITIONS
