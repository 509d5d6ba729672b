"""The receptive field to scale, patches that excite units, the learning-rate finder's curve, a batch that diverged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segkit.masks import IGNORE, colour_of_class
from segkit.report import diverged
from segkit.report.diverged import draw_diverged_batch
from segkit.report.learning_rate import draw_lr_curve
from segkit.report.receptive_field import draw_receptive_field, effective_side
from segkit.report.units import draw_top_patches

BLUE, ORANGE, INK = (0, 114, 178), (213, 94, 0), (34, 34, 34)
PURPLE = (120, 60, 140)


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def where(picture, colour):
    return np.argwhere((picture == colour).all(axis=2))


def test_the_theoretical_field_is_drawn_to_scale(tmp_path):
    draw_receptive_field(np.full((100, 100, 3), PURPLE, np.uint8), 50, tmp_path / "r.png")
    picture = read(tmp_path / "r.png")[:-25]  # without the legend
    square = where(picture, BLUE)
    scale = 560 // 100
    assert np.ptp(square, axis=0) + 1 == pytest.approx(50 * scale, abs=2)
    patch = where(picture, PURPLE)
    np.testing.assert_allclose(square.min(0) + square.max(0), patch.min(0) + patch.max(0), atol=2)


def test_a_field_larger_than_the_patch_lies_on_grey(tmp_path):
    patch = np.full((40, 60, 3), PURPLE, np.uint8)
    draw_receptive_field(patch, 100, tmp_path / "r.png", effective=np.ones((40, 60)))
    picture = read(tmp_path / "r.png")
    scale = 560 // 102
    size = np.ptp(where(picture, PURPLE), axis=0) + 1
    assert size.tolist() == [40 * scale, 60 * scale]
    assert len(where(picture, (235, 235, 235)))


def test_the_effective_field_is_the_smallest_square_with_its_share():
    field = np.zeros((21, 21))
    field[8:13, 8:13] = 1
    assert effective_side(field, 1.0) == 5
    assert effective_side(field, 9 / 25) == 3
    assert effective_side(field, 10 / 25) == 5
    assert effective_side(np.zeros((5, 5))) == 0


@settings(max_examples=40)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 99), st.floats(0.05, 1))
def test_that_square_holds_the_share_and_a_smaller_one_does_not(height, width, seed, share):
    field = np.random.default_rng(seed).random((height, width)) ** 3
    side = effective_side(field, share)
    y, x = (np.abs(np.arange(size) - (size - 1) / 2) for size in field.shape)

    def within(reach):
        return field[np.ix_(y <= reach, x <= reach)].sum()

    reach = np.inf if side == max(field.shape) else (side - 1) / 2
    assert within(reach) >= share * field.sum() * (1 - 1e-9)
    if side > 1 and reach != np.inf:
        assert within(reach - 1) < share * field.sum()


def test_an_effective_field_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="differ in size"):
        draw_receptive_field(np.zeros((8, 8, 1), np.uint8), 3, tmp_path / "r.png", effective=np.ones((9, 8)))


def test_each_unit_has_a_row_of_its_patches(tmp_path):
    windows = np.zeros((2, 3, 16, 16, 3), np.uint8)
    windows[..., 0] = 50 + 20 * np.arange(6).reshape(2, 3, 1, 1)
    draw_top_patches(windows, np.arange(6.0).reshape(2, 3), tmp_path / "u.png", layer="encoder.1")
    picture = read(tmp_path / "u.png")
    corners = {shade: where(picture, (shade, 0, 0)).min(0) for shade in range(50, 170, 20)}
    assert corners[50][0] == corners[70][0] == corners[90][0] < corners[110][0]
    assert corners[50][1] == corners[110][1] < corners[70][1]
    with pytest.raises(ValueError, match="do not belong"):
        draw_top_patches(windows, np.zeros((3, 2)), tmp_path / "u.png", layer="x")


@pytest.mark.parametrize("ends", [np.nan, np.inf, 1e30])
def test_the_curve_of_rates_survives_a_loss_that_explodes(tmp_path, ends):
    rates = np.geomspace(1e-6, 1, 60)
    losses = np.where(rates < 1e-2, 0.7 - 0.05 * np.log10(rates / 1e-6), 0.5)
    losses[-5:] = ends
    for name, proposal in (("with.png", 1e-3), ("without.png", None)):
        draw_lr_curve(rates, losses, proposal, tmp_path / name, smoothed=losses[:-5], reason="$odd_{ reason")
    columns = where(read(tmp_path / "with.png")[100:400], ORANGE)[:, 1]
    axis = 75, 932  # from 1e-6 to 1
    assert np.median(columns) == pytest.approx((axis[0] + axis[1]) / 2, abs=15)
    assert not len(where(read(tmp_path / "without.png"), ORANGE))
    dark = where(read(tmp_path / "with.png")[60:480, 80:930], INK)
    assert np.ptp(dark[:, 0]) > 150  # the fall fills the picture, whatever comes after it


def test_what_decides_is_marked_on_the_smoothed_curve(tmp_path):
    rates = np.geomspace(1e-6, 1, 61)
    smooth = np.linspace(1, 0.2, 61)
    raw = smooth + np.random.default_rng(0).normal(0, 0.1, 61)
    marks = {"steepest": 1e-3, "lowest": 1e-1}
    for name, marked in {"plain": {}, **{one: {one: rate} for one, rate in marks.items()}}.items():
        draw_lr_curve(rates, raw, None, tmp_path / f"{name}.png", smoothed=smooth[:58], **marked)
    plain = read(tmp_path / "plain.png")
    for name, rate in marks.items():
        # Within the axes, without the legend.
        changed = np.argwhere((read(tmp_path / f"{name}.png")[150:480, :] != plain[150:480, :]).any(axis=2))
        middle = changed.mean(axis=0)[1]
        assert middle == pytest.approx(75 + (932 - 75) * (np.log10(rate) + 6) / 6, abs=8)
    grey = where(read(tmp_path / "plain.png")[60:480, 80:930], (187, 187, 187))
    assert len(grey) > 200


def test_a_curve_without_a_finite_loss_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match="no loss is finite"):
        draw_lr_curve([1e-3], [np.nan], None, tmp_path / "l.png")


def batch(num):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (num, 3, 32, 32), dtype=np.uint8)
    targets = np.zeros((num, 2, 32, 32), np.uint8)
    targets[:, 0, 8:20, 8:20] = 1
    return images, targets


def test_what_is_wrong_with_a_patch_is_said():
    image, mask = np.random.default_rng(0).integers(0, 255, (3, 8, 8), dtype=np.uint8), np.ones((8, 8), np.uint8)
    mask[:4] = 0
    say = diverged._in_words
    assert say(image, mask, 2) == "50% objects"
    assert say(np.full_like(image, 7), mask, 2) == "image all 7"
    assert say(image // 64 + 100, mask, 2) == "hardly any contrast"
    assert say(image, np.full_like(mask, IGNORE), 2) == "nothing labelled"
    assert say(image, mask * 3, 3) == "class 3 of 3"


def test_a_batch_is_drawn_with_the_worst_first(tmp_path):
    images, targets = batch(20)
    images[17] = np.reshape(PURPLE, (3, 1, 1))
    losses = [0.1] * 20
    losses[17] = float("nan")
    draw_diverged_batch(images, targets, tmp_path / "d.png", classes=["background", "cell"], losses=losses)
    picture = read(tmp_path / "d.png")
    assert where(picture, PURPLE).min(0).tolist()[1] == 10  # at the left of the first row
    assert where(picture, PURPLE).min(0).tolist()[0] < 80
    assert len(where(picture, colour_of_class(1)))
    draw_diverged_batch(images[:2, :1], targets[:2], tmp_path / "grey.png")
