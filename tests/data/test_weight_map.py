"""The U-Net paper's weights: equation 2 by brute force, and its special cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.data.weight_map import unet_weights, weight_scale
from segkit.masks import IGNORE


def by_definition(
    mask: NDArray[np.uint8], labels: NDArray[np.integer], w0: float, sigma_px: float, class_weights: list[float]
) -> NDArray[np.float64]:
    weights = np.zeros(mask.shape)
    cells = [np.argwhere(labels == number) for number in np.unique(labels) if number > 0]
    for y, x in np.ndindex(mask.shape):
        if mask[y, x] == IGNORE:
            continue
        weights[y, x] = class_weights[mask[y, x]]
        if mask[y, x] == 0 and len(cells) > 1:
            d1, d2 = sorted(np.hypot(*(cell - (y, x)).T).min() for cell in cells)[:2]
            weights[y, x] += w0 * math.exp(-((d1 + d2) ** 2) / (2 * sigma_px**2))
    return weights


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30), st.floats(0.5, 6), st.sampled_from([0.0, 3, 10])
)
def test_weights_are_equation_2_up_to_rounding(seed: int, height: int, width: int, sigma_px: float, w0: float) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    for number in range(1, 7):
        y, x, size = rng.integers(height), rng.integers(width), rng.integers(1, 6)
        labels[y : y + size, x : x + size] = number
    mask = np.where(labels > 0, 1 + labels % 2, 0).astype(np.uint8)
    mask[rng.random((height, width)) < 0.05] = IGNORE
    class_weights = [0.7, 1.5, 2.0]
    plane, scale = unet_weights(mask, w0=w0, sigma_px=sigma_px, class_weights=class_weights, labels=labels)
    assert scale == weight_scale(w0, class_weights)
    difference = np.abs(plane * scale - by_definition(mask, labels, w0, sigma_px, class_weights))
    assert difference.max() <= scale * 0.501 + 1e-6


def test_a_gap_of_one_pixel_weighs_what_the_paper_says() -> None:
    mask = np.ones((9, 21), np.uint8)
    mask[:, 10] = 0
    plane, scale = unet_weights(mask, w0=10, sigma_px=5, class_weights=[1, 1])
    assert plane[4, 10] * scale == pytest.approx(1 + 10 * math.exp(-(2**2) / 50), abs=scale / 2)
    assert plane[4, 3] * scale == pytest.approx(1, abs=scale / 2)


def test_one_cell_has_no_gap_and_cells_of_two_classes_have_one() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[5:8, 5:8] = 1
    assert len(np.unique(unet_weights(mask, w0=10, sigma_px=5, class_weights=[1, 1])[0])) == 1
    mask[5:8, 9:12] = 2
    plane, _ = unet_weights(mask, w0=10, sigma_px=5, class_weights=[1, 1, 1])
    assert plane[6, 8] == plane.max() > 2 * plane[6, 6]


def test_cells_that_touch_need_labels_to_be_two() -> None:
    labels = np.zeros((12, 12), np.int64)
    labels[2:6, 2:6], labels[2:6, 6:10] = 1, 2**40
    mask = (labels > 0).astype(np.uint8)
    gap = (6, 6)
    together, scale = unet_weights(mask, w0=10, sigma_px=5, class_weights=[1, 1])
    apart, _ = unet_weights(mask, w0=10, sigma_px=5, class_weights=[1, 1], labels=labels)
    assert together[gap] * scale == pytest.approx(1, abs=scale)
    assert apart[gap] > 2 * together[gap]


def test_what_is_not_labelled_weighs_nothing() -> None:
    mask = np.full((10, 10), IGNORE, np.uint8)
    assert unet_weights(mask, w0=10, sigma_px=5, class_weights=[1, 1])[0].max() == 0
