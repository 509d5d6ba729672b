"""Transforms of albumentations by name: checked before training, the same for image and planes, reproducible."""

from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.config import AugmentConfig
from segkit.data.augment import Augmenter
from segkit.data.presets import resolve_augment
from segkit.errors import ConfigError
from segkit.masks import IGNORE


def augmenter(*extra: dict[str, Any], patch_px: int = 64, channels: int = 3, preset: str = "none") -> Augmenter:
    config = AugmentConfig(preset=preset, extra=list(extra))
    return Augmenter(resolve_augment(config, channels), patch_px, channels=channels)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"p": 0.5}, r"extra\[0\]: no name of a transform"),
        ({"name": "RandomShadw"}, "no transform RandomShadw.*RandomShadow"),
        ({"name": "gaussnoise"}, "no transform gaussnoise.*GaussNoise"),
        ({"name": "Lambda"}, "no transform Lambda"),
        ({"name": "Compose"}, "no transform Compose"),
        ({"name": "load"}, "no transform load"),
        ({"name": "RandomShadow", "shadow_rois": 3}, "RandomShadow has no parameter shadow_rois.*shadow_roi,"),
        ({"name": "GaussNoise", "std_range": [3, 4]}, "GaussNoise refuses its parameters: std_range"),
        ({"name": "GaussNoise", "p": 2}, "GaussNoise refuses its parameters: p: "),
        ({"name": "RandomCrop"}, "RandomCrop refuses its parameters: height: Field required"),
        ({"name": "RandomCrop", "height": 20, "width": 20}, r"makes uint8 \(20, 20, 3\) of an image .*keep size"),
        ({"name": "Normalize"}, "Normalize makes float32"),
        ({"name": "ToTensorV2"}, "no transform ToTensorV2|ToTensorV2 makes Tensor"),
        ({"name": "FDA"}, "FDA cannot be applied to a patch of 64 x 64 x 3.*fda_metadata"),
        ({"name": "CoarseDropout", "fill_mask": 9}, "makes class indices .* 9 from 0 and 1"),
        ({"name": "PixelDropout", "mask_drop_value": 7, "dropout_prob": 0.5}, "makes class indices .* 7 from 0 and 1"),
    ],
)
def test_what_cannot_be_used_is_refused_before_training(extra: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        augmenter(extra)


def test_the_place_in_the_list_is_said() -> None:
    with pytest.raises(ConfigError, match=r"augment\.extra\[1\]: Blr: |augment\.extra\[1\]: .*no transform Blr"):
        augmenter({"name": "Blur"}, {"name": "Blr"})


def test_colour_transforms_are_refused_for_grey_images() -> None:
    with pytest.raises(ConfigError, match="64 x 64 x 1"):
        augmenter({"name": "RandomFog"}, channels=1)


def test_what_draws_from_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import albumentations

    class Elsewhere(albumentations.ImageOnlyTransform):  # type: ignore[misc]
        def apply(self, img: Any, **_: Any) -> Any:
            return np.random.default_rng().integers(0, 256, img.shape, np.uint8)

    monkeypatch.setattr(albumentations, "Elsewhere", Elsewhere, raising=False)
    with pytest.raises(ConfigError, match="different samples for the same seed"):
        augmenter({"name": "Elsewhere"})


@pytest.mark.parametrize("name", ["D4", "Transpose", "RandomRotate90", "VerticalFlip", "RandomGridShuffle"])
def test_exact_transforms_are_exact_in_every_plane(name: str) -> None:
    changer = augmenter({"name": name, "p": 1})
    both = noise(64, 64, 3)
    image, target = changer.apply(both, both, 3)
    assert np.array_equal(image, target)
    assert sorted(map(tuple, image.reshape(-1, 3))) == sorted(map(tuple, both.reshape(-1, 3)))


@pytest.mark.parametrize(
    "extra",
    [
        {"name": "Affine", "rotate": [-40, 40], "scale": [0.7, 1.4]},
        {"name": "Rotate"},
        {"name": "ShiftScaleRotate"},
        {"name": "ElasticTransform", "alpha": 30, "sigma": 6},
        {"name": "GridDistortion"},
        {"name": "OpticalDistortion"},
        {"name": "Perspective"},
        {"name": "ThinPlateSpline"},
        {"name": "RandomResizedCrop", "size": [64, 64]},
        {"name": "CropAndPad", "percent": 0.1},
    ],
    ids=lambda extra: extra["name"],
)
def test_warps_move_image_and_planes_together(extra: dict[str, Any]) -> None:
    changer = augmenter({**extra, "p": 1})
    ramps = np.stack([*(np.mgrid[:64, :64] * 3 + 20), np.full((64, 64), 90)], axis=-1).astype(np.uint8)
    # A ramp's planes 1 and 2 are interpolated as the image is; 0, with few values, is not.
    classes = (ramps[..., 0] // 40 % 2 * 3).astype(np.uint8)
    for seed in range(3):
        image, target = changer.apply(ramps, np.dstack([classes, ramps]), seed)
        known = target[..., 0] != IGNORE
        inner = known & (target[..., 3] == 90)
        assert inner.mean() > 0.3
        assert np.abs(image.astype(int) - target[..., 1:])[inner].max() <= 2
        assert set(np.unique(target[..., 0])) <= {0, 3, IGNORE}
        assert (target[..., 3] <= 90).all()
        assert not np.array_equal(target[..., 1:], ramps)


def test_what_a_warp_brings_in_does_not_count() -> None:
    shifter = {"name": "Affine", "translate_px": {"x": [20, 20], "y": [0, 0]}, "p": 1}
    target = np.full((64, 64, 2), 1, np.uint8)
    moved = augmenter(shifter).apply(noise(64, 64, 3), target, 0)[1]
    assert (moved[:, :19] == (IGNORE, 0)).all()
    assert (moved[:, 21:] == 1).all()
    moved = augmenter({**shifter, "fill_mask": 0}).apply(noise(64, 64, 3), target, 0)[1]
    assert (moved[:, :19] == 0).all()


def test_holes_leave_the_target_alone() -> None:
    target = noise(64, 64, 3) % 5
    image, after = augmenter({"name": "CoarseDropout", "p": 1}).apply(noise(64, 64, 3), target, 0)
    assert np.array_equal(after, target)
    assert not np.array_equal(image, noise(64, 64, 3))


def test_samples_are_functions_of_their_seeds_whatever_came_before() -> None:
    extra = [
        {"name": "RandomShadow", "p": 0.5},
        {"name": "ElasticTransform", "p": 0.5},
        {"name": "GridDistortion", "p": 0.5},
        {"name": "ISONoise", "p": 0.5},
        {"name": "CoarseDropout", "p": 0.5},
    ]
    first = augmenter(*extra, preset="histology", patch_px=48)
    second = ForkingPickler.loads(ForkingPickler.dumps(first))
    image = noise(first.context_px, first.context_px, 3)
    target = np.dstack([image[..., :1] // 128, image[..., 1:]])
    seeds = range(12)
    once = [first.apply(image, target, seed) for seed in seeds]
    again = [second.apply(image, target, seed) for seed in reversed(seeds)][::-1]
    for (image_a, target_a), (image_b, target_b) in zip(once, again, strict=True):
        assert np.array_equal(image_a, image_b)
        assert np.array_equal(target_a, target_b)
    assert len({image.tobytes() for image, _ in once}) == len(seeds)
