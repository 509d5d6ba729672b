"""Augmentation in batches means what the CPU's means: the same places, the same strengths, a pure function."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.config import AugmentConfig
from segkit.data.augment import Augmenter
from segkit.data.deformation import WarpStrengths, draw_warp, source_coordinates, warp_points
from segkit.data.intensity import GREY, IntensityDraw, colour_matrix, draw_intensity
from segkit.data.presets import resolve_augment
from segkit.data.stain import scale_stains
from segkit.training.device_augment import DeviceAugmenter, augment_rng, warp_batch

EVERYTHING = {"preset": "histology", "elastic_px": 4, "blur_px": 2}
UNCHANGED = IntensityDraw((1.0, 1.0, 1.0), 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0)


def config(channels: int = 3, **settings: Any) -> AugmentConfig:
    return resolve_augment(AugmentConfig(**settings), channels)


def batch(augmenter: DeviceAugmenter, size: int = 4, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng, side = np.random.default_rng(0), augmenter.context_px
    images = rng.integers(0, 256, (size, channels, side, side), np.uint8)
    targets = rng.integers(0, 3, (size, augmenter.num_planes, side, side), np.uint8)
    return torch.from_numpy(images), torch.from_numpy(targets)


def last(array: torch.Tensor) -> NDArray[np.generic]:
    """Return (B, C, H, W) as (B, H, W, C)."""
    return array.permute(0, 2, 3, 1).numpy()


# A pure function


def test_a_sample_depends_on_seed_step_and_number_alone() -> None:
    augmenter = DeviceAugmenter(config(**EVERYTHING), 40, 3, seed=5)
    images, targets = batch(augmenter, 8)
    before = images.clone(), targets.clone()
    numbers = [3, 4, 5, 6, 7, 8, 9, 10]
    whole = augmenter(images, targets, 7, numbers)
    assert [one.dtype for one in whole] == [torch.uint8] * 2
    assert [tuple(one.shape) for one in whole] == [(8, 3, 40, 40), (8, 3, 40, 40)]
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])
    for chosen in ([2], [7, 0, 5], list(range(8))):
        again = DeviceAugmenter(config(**EVERYTHING), 40, 3, seed=5)(
            images[chosen], targets[chosen], 7, [numbers[one] for one in chosen]
        )
        assert torch.equal(again[0], whole[0][chosen])
        assert torch.equal(again[1], whole[1][chosen])


@pytest.mark.parametrize("change", ["seed", "step", "number"])
def test_other_seeds_steps_and_numbers_draw_other_changes(change: str) -> None:
    seed, step, number = (int(change == one) for one in ("seed", "step", "number"))
    first = DeviceAugmenter(config(**EVERYTHING), 24, 1, seed=0)
    other = DeviceAugmenter(config(**EVERYTHING), 24, 1, seed=seed)
    images, targets = batch(first, 1)
    assert not torch.equal(first(images, targets, 0, [0])[0], other(images, targets, step, [number])[0])


def test_the_patch_and_its_changes_are_drawn_from_different_numbers() -> None:
    from segkit.data.sampling import sample_rng

    assert augment_rng(1, 2, 3).random(4).tolist() != sample_rng(1, 2, 3).random(4).tolist()


def test_autocast_and_gradients_of_the_training_make_no_difference() -> None:
    augmenter = DeviceAugmenter(config(**EVERYTHING), 24, 2, seed=0)
    images, targets = batch(augmenter)
    plain = augmenter(images, targets, 0, range(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = augmenter(images, targets, 0, range(4))
    assert torch.equal(plain[0], within[0])
    assert torch.equal(plain[1], within[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_no_strength_means_no_change(channels: int) -> None:
    augmenter = DeviceAugmenter(config(channels, preset="none"), 16, 2, seed=0)
    images, targets = batch(augmenter, 2, channels)
    results = augmenter(images, targets, 0, range(2))
    assert torch.equal(results[0], images)
    assert torch.equal(results[1], targets)
    assert results[1].data_ptr() != targets.data_ptr()


# Places


def test_flips_alone_are_exact_and_independent() -> None:
    augmenter = DeviceAugmenter(config(preset="none", flips=True), 9, 3, seed=0)
    images, targets = batch(augmenter, 1)
    both = torch.cat([images, targets], dim=1)
    flips = {both[0].flip(dims).numpy().tobytes(): dims for dims in ((), (1,), (2,), (1, 2))}
    drawn = [
        flips[torch.cat(augmenter(images, targets, 0, [number]), dim=1)[0].numpy().tobytes()] for number in range(200)
    ]
    for dims in flips.values():
        assert drawn.count(dims) == pytest.approx(50, abs=25)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**32), st.floats(0, 180), st.floats(1, 1.6), st.floats(0, 20), st.floats(0, 6), st.integers(1, 150)
)
def test_the_same_warp_shows_the_same_place_as_on_the_cpu(
    seed: int, rotate: float, scale: float, shear: float, elastic: float, patch: int
) -> None:
    from segkit.data.warp import Warp

    strengths = WarpStrengths(True, rotate, (1 / scale, scale), shear, elastic)
    size = patch + 2 * strengths.margin(patch)
    y, x = np.mgrid[:size, :size]
    image = (127 + 90 * np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], axis=-1)).astype(np.uint8)
    target = np.dstack([(x // 16 + y // 16) % 2, image[..., :2]]).astype(np.uint8)
    draws = [draw_warp(np.random.default_rng([seed, number]), strengths, patch) for number in range(2)]
    both = [torch.from_numpy(one).permute(2, 0, 1).expand(2, -1, -1, -1) for one in (image, target)]
    images, targets = (last(one) for one in warp_batch(*both, draws, patch))
    warper = Warp(patch, strengths)
    for draw, warped, planes in zip(draws, images, targets, strict=True):
        map_x, map_y = source_coordinates(draw, patch, size)
        expected = warper.apply(image, map_x=map_x, map_y=map_y)
        # OpenCV's places have 5 bits after the point: up to a level of difference in these images.
        assert np.abs(expected - warped).max() < 1.5
        assert np.abs(warper.apply(target[..., 1:], map_x=map_x, map_y=map_y).astype(int) - planes[..., 1:]).max() <= 2
        if patch > 20:
            classes = warper.apply_to_mask(target[..., 0].copy(), map_x=map_x, map_y=map_y)
            assert np.mean(classes == planes[..., 0]) > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_a_checkerboard_and_points_move_together(seed: int) -> None:
    strengths, patch = config(preset="em", elastic_px=3), 96
    augmenter = DeviceAugmenter(strengths, patch, 1, seed)
    size = augmenter.context_px
    y, x = np.mgrid[:size, :size]
    board = torch.from_numpy(((x // 12 + y // 12) % 2).astype(np.uint8))[None, None]
    target = augmenter(board.expand(1, 3, -1, -1) * 200, board, 2, [1])[1][0, 0].numpy()
    draw = draw_warp(augment_rng(seed, 2, 1), WarpStrengths.of(strengths), patch)
    middles = np.stack(np.meshgrid(np.arange(6, size - 6, 12), np.arange(6, size - 6, 12)), axis=-1).reshape(-1, 2)
    places = np.floor(warp_points(middles, draw, patch, size)).astype(int)
    inside = np.all((places >= 0) & (places < patch), axis=1)
    assert inside.sum() > 20
    assert np.array_equal(target[tuple(places[inside].T)], board[0, 0].numpy()[tuple(middles[inside].T)])


def test_classes_are_not_mixed() -> None:
    augmenter = DeviceAugmenter(config(preset="em"), 48, 2, seed=0)
    images, targets = batch(augmenter)
    targets = targets // 2 * 200 + 3
    assert set(augmenter(images, targets, 0, range(4))[1][:, 0].unique().tolist()) == {3, 203 if 203 in targets else 3}


# Colours


def coloured(changes: IntensityDraw, image: NDArray[np.uint8], **settings: Any) -> NDArray[np.float64]:
    """Return an image (H, W, C) with given changes made to it."""
    augmenter = DeviceAugmenter(config(image.shape[2], preset="none", **settings), image.shape[0], 1, 0)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    return last(augmenter._colour(pixels, [changes]))[0].astype(np.float64)


def picture(side: int = 40, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(30, 220, (side, side, channels), np.uint8)


def test_stains_are_multiplied_as_on_the_cpu() -> None:
    factors = (0.7, 1.2, 1.05)
    found = coloured(UNCHANGED._replace(stains=factors), picture(), stain=0.35)
    assert np.abs(found - scale_stains(picture(), np.array(factors))).max() < 0.51


def test_every_change_does_what_it_says() -> None:
    image = picture()
    pixels, grey = image.astype(float), (image @ GREY)[..., None]
    for changes, expected in (
        ({"brightness": 1.2}, pixels * 1.2),
        ({"contrast": 0.7}, 0.7 * pixels + 0.3 * grey.mean()),
        ({"saturation": 0.4}, 0.4 * pixels + 0.6 * grey),
        ({"brightness": 0.9, "contrast": 1.3}, 1.3 * 0.9 * pixels - 0.3 * 0.9 * grey.mean()),
        ({"hue": 2 * np.pi / 3}, pixels[..., [2, 0, 1]]),
        ({"gamma": 1.7}, 255 * (pixels / 255) ** 1.7),
    ):
        found = coloured(UNCHANGED._replace(**changes), image, brightness=0.3, gamma=0.5, contrast=0.1)
        assert np.abs(found - np.clip(expected, 0, 255)).max() < 0.01, changes


def test_grey_images_change_likewise() -> None:
    image = picture(channels=1)
    pixels = image.astype(float)
    found = coloured(UNCHANGED._replace(brightness=0.9, contrast=1.3), image, brightness=0.3)
    assert np.abs(found - (1.3 * 0.9 * pixels - 0.3 * 0.9 * pixels.mean())).max() < 0.01


@given(st.floats(0, 2), st.floats(-3, 3))
def test_greys_stay_under_saturation_and_hue(saturation: float, hue: float) -> None:
    assert np.allclose(colour_matrix(saturation, hue) @ np.ones(3), 1)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5])
def test_blur_is_gaussian(sigma: float) -> None:
    from scipy import ndimage

    image = picture()
    found = coloured(UNCHANGED._replace(blur_px=sigma), image, blur_px=2.5)
    expected = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="mirror", truncate=6)
    assert np.abs(found - expected).max() < 1


def test_noise_has_its_standard_deviation_and_is_independent_in_each_channel() -> None:
    flat = np.full((100, 100, 3), 128, np.uint8)
    noise = coloured(UNCHANGED._replace(noise=12.0, noise_seed=3), flat, noise=0.1) - 128
    assert noise.std() == pytest.approx(12, rel=0.03)
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T) - np.eye(3)).max() < 0.05
    again = coloured(UNCHANGED._replace(noise=12.0, noise_seed=3), flat, noise=0.1) - 128
    other = coloured(UNCHANGED._replace(noise=12.0, noise_seed=4), flat, noise=0.1) - 128
    assert np.array_equal(noise, again)
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(
    "strength",
    [
        {"stain": 0.35},
        {"brightness": 0.15},
        {"contrast": 0.25},
        {"saturation": 0.5},
        {"hue_degrees": 20.0},
        {"gamma": 0.25},
        {"blur_px": 1.2},
        {"noise": 0.1},
    ],
    ids=lambda one: next(iter(one)),
)
def test_both_backends_draw_the_same_distribution(strength: dict[str, float]) -> None:
    """The spread over samples of each channel's mean and of the contrast between neighbours is the same."""
    settings, size = config(preset="none", **strength), 240
    y, x = np.mgrid[:20, :20]
    waves = [170 + 60 * np.sin(x / 3), 90 + 50 * np.cos(y / 3), 160 + 40 * np.sin((x - y) / 4)]
    image = (np.stack(waves, axis=-1) + np.random.default_rng(1).integers(-9, 10, (20, 20, 3))).astype(np.uint8)
    cpu = Augmenter(settings, 20)
    device = DeviceAugmenter(settings, 20, 1, seed=0)
    on_cpu = np.stack([cpu.apply(image, image, seed)[0] for seed in range(size)])
    images = torch.from_numpy(image).permute(2, 0, 1).expand(size, -1, -1, -1)
    on_device = last(device(images, images[:, :1], 0, range(size))[0])
    for of_a_sample in (_means, _roughness):
        first, second = of_a_sample(on_cpu), of_a_sample(on_device)
        scale = max(float(first.std()), 0.5)
        assert np.abs(first.mean(axis=0) - second.mean(axis=0)).max() < 0.35 * scale
        assert np.abs(first.std(axis=0) - second.std(axis=0)).max() < 0.3 * scale


def _means(images: NDArray[np.generic]) -> NDArray[np.float64]:
    return images.astype(float).mean(axis=(1, 2))


def _roughness(images: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.abs(np.diff(images.astype(float), axis=2)).mean(axis=(1, 2))


def test_what_is_drawn_lies_within_its_strengths() -> None:
    settings = config(**EVERYTHING)
    draws = [draw_intensity(np.random.default_rng(seed), settings) for seed in range(400)]
    for name in ("brightness", "contrast", "saturation"):
        strength = getattr(settings, name)
        values = [getattr(one, name) for one in draws]
        assert 1 - strength <= min(values) < 1 - 0.9 * strength
        assert 1 + 0.9 * strength < max(values) <= 1 + strength
    assert np.mean([one.blur_px > 0 for one in draws]) == pytest.approx(0.25, abs=0.07)
    assert np.mean([one.noise > 0 for one in draws]) == pytest.approx(0.5, abs=0.08)
    assert max(one.blur_px for one in draws) <= settings.blur_px
    assert max(one.noise for one in draws) <= 255 * settings.noise
    assert len({one.noise_seed for one in draws}) == 400
