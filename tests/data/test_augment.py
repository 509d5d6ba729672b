"""Augmentation: reproducible, image and mask move together, no pixel is invented."""

import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.config import AUTO, AugmentConfig
from segkit.data.augment import Augmenter
from segkit.data.deformation import (
    ELASTIC_LIMIT,
    ELASTIC_SPACING_PX,
    SPLINE_RMS,
    WarpStrengths,
    context_margin,
    draw_warp,
    source_coordinates,
    source_matrix,
    spline_weights,
    warp_points,
)
from segkit.data.presets import NONE, PRESETS, resolve_augment, resolve_backend
from segkit.errors import ConfigError


def augmenter(patch_px: int = 32, channels: int = 3, **settings: Any) -> Augmenter:
    return Augmenter(resolve_augment(AugmentConfig(**settings), channels), patch_px)


def noise(size: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, channels), dtype=np.uint8)


# Strengths


def test_presets_say_all_strengths() -> None:
    fields = set(AugmentConfig.model_fields) - {"preset", "extra", "backend"}
    assert all(set(preset) == fields for preset in PRESETS.values())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preset", [AUTO, *PRESETS])
def test_nothing_is_left_to_be_found(preset: str, channels: int) -> None:
    resolved = resolve_augment(AugmentConfig(preset=preset), channels)
    assert AUTO not in resolved.model_dump(exclude={"backend"}).values()
    assert resolve_augment(resolved, channels) == resolved
    if channels == 1:
        assert (resolved.hue_degrees, resolved.saturation) == (0, 0)


def test_preset_follows_the_channels_and_given_values_win() -> None:
    assert resolve_augment(AugmentConfig(), 1).preset == "em"
    assert resolve_augment(AugmentConfig(), 3).preset == "histology"
    resolved = resolve_augment(AugmentConfig(preset="histology", elastic_px=7, flips=False), 3)
    assert (resolved.elastic_px, resolved.flips) == (7, False)
    assert resolved.rotate_degrees == PRESETS["histology"]["rotate_degrees"]


@pytest.mark.parametrize(
    ("settings", "on_cuda", "expected"),
    [
        ({}, True, "device"),
        ({}, False, "cpu"),
        ({"backend": "device"}, False, "device"),
        ({"backend": "cpu"}, True, "cpu"),
        ({"extra": [{"name": "Transpose"}]}, True, "cpu"),
    ],
)
def test_the_device_augments_where_it_can(settings: dict[str, Any], on_cuda: bool, expected: str) -> None:
    assert resolve_backend(AugmentConfig(**settings), on_cuda=on_cuda) == expected


def test_the_device_cannot_do_what_albumentations_does() -> None:
    with pytest.raises(ConfigError, match=r"augment.backend: device cannot do augment.extra \(Transpose\)"):
        resolve_backend(AugmentConfig(backend="device", extra=[{"name": "Transpose"}]), on_cuda=True)


# Reproducible


@pytest.mark.parametrize(("preset", "channels"), [("histology", 3), ("em", 1), ("light", 3), ("none", 1)])
def test_a_sample_is_a_function_of_its_seed(preset: str, channels: int) -> None:
    first, second = augmenter(preset=preset, channels=channels), augmenter(preset=preset, channels=channels)
    image = noise(first.context_px, channels)
    target = np.stack([image[..., 0] // 128, image[..., 0]], axis=-1)
    before = image.copy(), target.copy()
    seeds = [0, 1, 2**63 - 1]
    once = [first.apply(image, target, seed) for seed in seeds]
    again = [second.apply(image, target, seed) for seed in reversed(seeds)][::-1]
    for (image_a, target_a), (image_b, target_b) in zip(once, again, strict=True):
        assert image_a.shape == (32, 32, channels)
        assert target_a.shape == (32, 32, 2)
        assert image_a.dtype == target_a.dtype == np.uint8
        assert image_a.flags.c_contiguous
        assert target_a.flags.c_contiguous
        assert np.array_equal(image_a, image_b)
        assert np.array_equal(target_a, target_b)
        assert not np.shares_memory(image_a, image)
        assert not np.shares_memory(target_a, target)
    assert np.array_equal(image, before[0])
    assert np.array_equal(target, before[1])
    assert len({result[0].tobytes() for result in once}) == (1 if preset == "none" else 3)


def test_a_copy_for_a_worker_gives_the_same_samples() -> None:
    original = augmenter()
    copy = ForkingPickler.loads(ForkingPickler.dumps(original))
    image = noise(original.context_px)
    assert np.array_equal(original.apply(image, image, 5)[0], copy.apply(image, image, 5)[0])


def test_both_flips_are_drawn_independently() -> None:
    flipper = augmenter(8, preset="none", flips=True)
    image = noise(8)
    variants = {
        image[::vertical, ::horizontal].tobytes(): (vertical, horizontal)
        for vertical in (1, -1)
        for horizontal in (1, -1)
    }
    drawn = [variants[flipper.apply(image, image, seed)[0].tobytes()] for seed in range(200)]
    for variant in variants.values():  # each in a quarter of the cases; exact, or `variants` would not have it
        assert drawn.count(variant) == pytest.approx(50, abs=25)


# Image and mask move together


@pytest.mark.parametrize("seed", range(8))
def test_image_and_mask_show_the_same_place(seed: int) -> None:
    geometry = {name: PRESETS["em"][name] for name in ("flips", "rotate_degrees", "scale", "shear_degrees")}
    warper = augmenter(48, channels=3, preset="none", elastic_px=5, **geometry)
    size = warper.context_px
    assert size < 255
    y, x = np.mgrid[:size, :size].astype(np.uint8)
    for place in (x, y):
        image, target = warper.apply(np.stack([place] * 3, axis=-1), np.stack([place] * 4, axis=-1), seed)
        # A ramp is the same under linear interpolation; the classes have the nearest pixel's place.
        assert np.abs(image[..., 0].astype(int) - target[..., 0]).max() <= 1
        assert np.array_equal(image, target[..., 1:])
        assert np.ptp(target) > 20


@pytest.mark.parametrize("planes", [1, 2, 3, 6])
def test_flips_are_exact_in_every_plane(planes: int) -> None:
    flipper = augmenter(9, preset="none", flips=True)
    both = noise(9, 3 + planes)
    image, target = both[..., :3], both[..., 3:]
    flips = {both[::y, ::x].tobytes() for y in (1, -1) for x in (1, -1)}
    drawn = {np.concatenate(flipper.apply(image, target, seed), axis=2).tobytes() for seed in range(40)}
    assert drawn == flips


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.booleans(), st.floats(0, 180), st.floats(0.6, 1.6), st.floats(0, 20), st.floats(0, 4))
def test_points_move_with_the_pixels(
    seed: int, flips: bool, rotate: float, scale: float, shear: float, elastic: float
) -> None:
    strengths, patch = WarpStrengths(flips, rotate, (min(scale, 1), max(scale, 1)), shear, elastic), 70
    size = patch + 2 * strengths.margin(patch)
    draw = draw_warp(np.random.default_rng(seed), strengths, patch)
    map_x, map_y = source_coordinates(draw, patch, size)
    # Where pixel (y, x) of the patch comes from goes back to its centre.
    y, x = np.mgrid[:patch:7, :patch:7]
    sources = np.stack([map_y[y, x], map_x[y, x]], axis=-1).reshape(-1, 2) + 0.5
    places = warp_points(sources, draw, patch, size)
    assert np.abs(places - np.stack([y, x], axis=-1).reshape(-1, 2) - 0.5).max() < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_a_checkerboard_and_points_move_together(seed: int) -> None:
    strengths, patch = WarpStrengths(True, 180.0, (0.8, 1.25), 10.0, 3.0), 96
    warper = augmenter(patch, preset="none", **strengths._asdict())
    size = warper.context_px
    y, x = np.mgrid[:size, :size]
    board = ((x // 12 + y // 12) % 2).astype(np.uint8)
    # The augmenter draws its warp first.
    draw = draw_warp(np.random.default_rng(seed), strengths, patch)
    _, target = warper.apply(np.stack([board * 200] * 3, axis=-1), board[..., None], seed)
    middles = np.stack(np.meshgrid(np.arange(6, size - 6, 12), np.arange(6, size - 6, 12)), axis=-1).reshape(-1, 2)
    places = np.floor(warp_points(middles, draw, patch, size)).astype(int)
    inside = np.all((places >= 0) & (places < patch), axis=1)
    assert inside.sum() > 20
    moved = target[places[inside, 0], places[inside, 1], 0]
    assert np.array_equal(moved, board[middles[inside, 0], middles[inside, 1]])


def test_masks_get_no_values_between_classes() -> None:
    warper = augmenter(64, preset="em")
    y, x = np.mgrid[: warper.context_px, : warper.context_px]
    mask = np.where((x // 8 + y // 8) % 2, 200, 3).astype(np.uint8)
    values = {value for seed in range(10) for value in np.unique(warper.apply(noise(len(x)), mask[..., None], seed)[1])}
    assert values == {3, 200}


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scale_magnifies(scale: float) -> None:
    warper = augmenter(129, preset="none", scale=(scale, scale))
    size = warper.context_px
    y, x = np.mgrid[:size, :size] - size // 2
    disc = (np.hypot(y, x) < 30).astype(np.uint8)
    _, mask = warper.apply(noise(size), disc[..., None], 0)
    assert mask.sum() == pytest.approx(disc.sum() * scale**2, rel=0.06)


def test_a_range_may_be_given_in_any_order() -> None:
    first, second = (augmenter(16, preset="none", scale=scale) for scale in ((0.8, 1.25), (1.25, 0.8)))
    image = noise(first.context_px)
    assert np.array_equal(first.apply(image, image, 1)[0], second.apply(image, image, 1)[0])


def test_elastic_displacements_have_the_size_that_was_asked_for() -> None:
    warper = augmenter(64, preset="none", elastic_px=4)
    size = warper.context_px
    x = np.broadcast_to(np.arange(size, dtype=np.uint8), (size, size))
    middle = (size - 64) // 2
    shifts = [
        warper.apply(np.stack([x] * 3, axis=-1), x[..., None], seed)[1][..., 0].astype(float) - np.arange(64) - middle
        for seed in range(150)
    ]
    assert np.sqrt(np.mean(np.square(shifts))) == pytest.approx(4, rel=0.1)


# Nothing is invented


@settings(deadline=None)
@given(
    st.integers(1, 64),
    st.floats(0, 180),
    st.floats(0.3, 1.5),
    st.floats(0, 45),
    st.floats(-1, 1),
    st.floats(-1, 1),
)
def test_context_holds_every_place_that_a_warp_reaches(
    patch_px: int, rotate: float, smallest: float, shear: float, turn: float, slant: float
) -> None:
    margin = context_margin(patch_px, rotate_degrees=rotate, smallest_scale=smallest, shear_degrees=shear, elastic_px=0)
    half = (patch_px - 1) / 2
    corners = np.array([(half, half), (half, -half), (-half, half), (-half, -half)])
    matrix = source_matrix(np.radians(rotate * turn), smallest, np.radians(shear * slant))
    assert np.abs(corners @ matrix.T).max() <= half + margin + 1e-3


@pytest.mark.parametrize(
    ("strengths", "margin"),
    [
        ({"rotate_degrees": 0.0}, 0),
        ({"rotate_degrees": 180.0}, 27),  # half a diagonal: 63.5 * (sqrt(2) - 1) = 26.3
        ({"smallest_scale": 0.5}, 64),
        ({"shear_degrees": 45.0}, 64),
        ({"elastic_px": 10.0}, 37),
    ],
)
def test_context_is_no_larger_than_needed(strengths: dict[str, float], margin: int) -> None:
    nothing = {"rotate_degrees": 0.0, "smallest_scale": 1.0, "shear_degrees": 0.0, "elastic_px": 0.0}
    assert context_margin(128, **{**nothing, **strengths}) == margin


@given(st.integers(1, 300))
def test_spline_is_an_average_of_its_nodes(size: int) -> None:
    weights = spline_weights(size, ELASTIC_SPACING_PX)
    assert weights.min() >= 0
    assert np.allclose(weights.sum(axis=1), 1)  # so a displacement is never larger than the largest node's


def test_limit_belongs_to_an_rms_of_one() -> None:
    weights = spline_weights(64 * 4, 64)
    assert np.mean(np.sum(weights**2, axis=1)) == pytest.approx(SPLINE_RMS, rel=1e-3)
    nodes = np.random.default_rng(0).uniform(-ELASTIC_LIMIT, ELASTIC_LIMIT, (2000, *2 * weights.shape[1:]))
    assert np.sqrt(np.mean((weights[::16] @ nodes @ weights[::16].T) ** 2)) == pytest.approx(1, rel=0.05)


# Intensity


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "noise", "blur_px", "hue_degrees", "saturation"])
def test_every_intensity_change_changes_the_image_and_nothing_else(name: str, channels: int) -> None:
    strength = {"hue_degrees": 90, "blur_px": 3}.get(name, 0.5)
    changer = augmenter(32, channels, preset="none", **{name: strength})
    image = noise(32, channels)
    target = np.stack([image[..., 0] // 64, image[..., 0]], axis=-1)
    results = [changer.apply(image, target, seed) for seed in range(12)]
    assert all(np.array_equal(result[1], target) for result in results)
    is_for_colour = name in {"hue_degrees", "saturation"}
    assert any(not np.array_equal(result[0], image) for result in results) == (channels == 3 or not is_for_colour)


def test_brightness_is_relative() -> None:
    changer = augmenter(16, preset="none", brightness=0.2)
    flat = np.full((16, 16, 3), 100, np.uint8)
    values = [int(changer.apply(flat, flat, seed)[0].mean()) for seed in range(100)]
    assert 79 <= min(values) < 85
    assert 115 < max(values) <= 121


def test_importing_the_module_does_not_import_albumentations() -> None:
    code = "import sys, segkit.data.augment; sys.exit('albumentations' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_strength_means_no_change() -> None:
    nothing = augmenter(16, preset="none")
    assert {name: getattr(resolve_augment(AugmentConfig(preset="none"), 3), name) for name in NONE} == NONE
    image = noise(16)
    assert np.array_equal(nothing.apply(image, image, 3)[0], image)
