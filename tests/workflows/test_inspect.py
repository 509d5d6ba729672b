"""What can be known before working: facts about slides and models, a picture of the patches."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.config import DataConfig
from segkit.errors import InputError
from segkit.geometry import Box
from segkit.masks import colour_of_class
from segkit.models.model_file import (
    ModelSpec,
    PatchCNNArguments,
    UNetArguments,
    build_network,
    load_model,
    save_model,
)
from segkit.slides import open_slide
from segkit.workflows.inspect import check, info
from segkit.workflows.preview import preview
from tests.tiny import MPP, make_data, save_png, tiny_config, tiny_point_config


def test_a_slide_is_described_by_its_levels_and_scale(slide: Path) -> None:
    facts = info(slide)
    assert (facts["kind"], facts["reader"], facts["width"], facts["height"]) == ("slide", "tiff", 210, 150)
    assert facts["mpp"] == pytest.approx(MPP)
    assert facts["levels"][:2] == [
        {"width": 210, "height": 150, "downsample": 1.0}, {"width": 105, "height": 75, "downsample": 2.0}
    ]  # fmt: skip


def test_a_model_is_described_by_itself_or_its_run(tiny_run: Path, tmp_path: Path) -> None:
    facts, model = info(tiny_run), load_model(tiny_run)
    assert facts["classes"] == ["background", "foreground"]
    assert facts["parameters"] == sum(one.numel() for one in model.network.parameters())
    assert (facts["alignment_px"], facts["receptive_field_px"]) == (2, model.spec.receptive_field)
    assert facts["training"]["data"] == "disks"
    shutil.copy(tiny_run / "model.safetensors", tmp_path / "copy.safetensors")
    assert info(tmp_path / "copy.safetensors")["sha256"] == facts["sha256"] == model.sha256


def test_a_model_is_described_by_its_layers_and_what_they_cost(tiny_run: Path) -> None:
    facts = info(tiny_run)
    side = facts["layers"][0]["output"][1]
    assert sum(row["parameters"] for row in facts["layers"]) == facts["parameters"]
    assert facts["macs_per_pixel"] * side**2 == pytest.approx(sum(row["macs"] for row in facts["layers"]))
    assert sum(row["macs"] for row in facts["blocks"]) == sum(row["macs"] for row in facts["layers"])
    assert len(facts["blocks"]) < len(facts["layers"])


def described(path: Path, arguments: UNetArguments | PatchCNNArguments, **changes: Any) -> dict[str, Any]:
    """Return what is said of a model file with these arguments."""
    spec = ModelSpec.model_validate(
        {
            "arguments": arguments, "classes": ["background", "cell"], "mpp": 0.5, "mean": [0.5] * 3, "std": [0.2] * 3,
            "receptive_field": 33, "scores": {}, "training": {}, **changes,
        }
    )  # fmt: skip
    save_model(path, build_network(arguments, device="cpu"), spec)
    return info(path)


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet_b0"])
def test_models_with_other_encoders_are_described_also_where_tiles_are_not_exact(tmp_path: Path, encoder: str) -> None:
    arguments = UNetArguments.model_validate(
        {"in_channels": 3, "num_classes": 2, "base_channels": 4, "depth": 2, "form": "modern", "dropout": 0,
         "encoder": encoder}
    )  # fmt: skip
    facts = described(tmp_path / "m.safetensors", arguments)
    assert sum(row["parameters"] for row in facts["layers"]) == facts["parameters"]
    assert ("inexact" in facts) == (encoder == "efficientnet_b0")
    assert facts["halo_px"] % facts["alignment_px"] == 0


def test_a_unet_that_takes_more_than_it_gives_costs_per_pixel_that_comes_out(tmp_path: Path) -> None:
    both = {
        form: described(
            tmp_path / f"{form}.safetensors",
            UNetArguments.model_validate(
                {"in_channels": 3, "num_classes": 2, "base_channels": 4, "depth": 2, "form": form, "dropout": 0}
            ),
        )
        for form in ("modern", "paper")
    }
    assert both["paper"]["macs_per_pixel"] > both["modern"]["macs_per_pixel"]


def test_a_patch_cnn_is_described_by_the_cost_of_a_patch_and_of_a_pixel(tmp_path: Path) -> None:
    arguments = PatchCNNArguments.model_validate(
        {"in_channels": 3, "num_classes": 2, "form": "modern", "patch_px": 33, "base_channels": 4, "depth": 2,
         "dropout": 0}
    )  # fmt: skip
    detection = {
        "match_radius": "5px", "smooth_radius": "2px", "nms_radius": "5px", "stride": 2, "thresholds": [0.5]
    }  # fmt: skip
    facts = described(
        tmp_path / "m.safetensors", arguments, architecture="patch_cnn", task="points", detection=detection
    )
    assert facts["macs_per_patch"] == sum(row["macs"] for row in facts["layers"])
    assert facts["macs_per_pixel"] < facts["macs_per_patch"] / 2**2
    assert facts["patch_px"] == 33
    assert facts["detection"]["stride"] == 2


@pytest.mark.parametrize("name", ["none.tif", "none.safetensors", ".", "text.txt"])
def test_what_cannot_be_described_says_why(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(InputError, match=str(tmp_path)):
        info(tmp_path / name)


def test_a_preview_shows_originals_and_what_augmentation_makes_of_them(tiny_data: Path, tmp_path: Path) -> None:
    path = preview(tiny_config(tiny_data), tmp_path / "preview.png")
    with open_slide(path) as picture:
        first = picture.read(Box(0, 0, picture.height, picture.width))
    assert min(first.shape[:2]) > 100
    with open_slide(preview(tiny_config(tiny_data, "augment.preset=none"), tmp_path / "none.png")) as picture:
        assert not np.array_equal(picture.read(Box(0, 0, picture.height, picture.width)), first)


def pixels(path: Path) -> NDArray[np.uint8]:
    with open_slide(path) as picture:
        return picture.read(Box(0, 0, picture.height, picture.width))


def test_a_preview_of_points_shows_patches_in_the_colours_of_their_classes(
    tiny_point_data: Path, tmp_path: Path
) -> None:
    first = pixels(preview(tiny_point_config(tiny_point_data), tmp_path / "preview.png"))
    assert min(first.shape[:2]) > 100
    # Half of them and more are of a class, framed in its colour.
    frames = (first == colour_of_class(1)).all(axis=2)
    assert frames.sum() > 1000
    again = pixels(preview(tiny_point_config(tiny_point_data), tmp_path / "again.png"))
    assert np.array_equal(again, first)
    for other in ("augment.preset=none", "augment.preset=histology", "patches.size_px=33"):
        assert not np.array_equal(pixels(preview(tiny_point_config(tiny_point_data, other), tmp_path / "o.png")), first)


def test_a_preview_of_points_needs_what_a_training_needs(tiny_point_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="patches of 100 px are larger"):
        preview(tiny_point_config(tiny_point_data, "patches.size_px=100"), tmp_path / "preview.png")
    assert not (tmp_path / "preview.png").exists()


def test_a_check_reads_everything(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    stages: list[str] = []
    report = check(DataConfig(dir=data), on_progress=lambda stage, *_: stages.append(stage))
    assert report.problems == []
    assert set(stages) == {"check"}
    save_png(data / "masks" / "field3.png", np.full((2, 2), 7, np.uint8))
    (data / "images" / "field4.png").write_bytes(b"damaged")
    problems = check(DataConfig(dir=data)).problems
    assert any("field4.png" in problem for problem in problems)
    assert any("field3.png" in problem or "masks/" in problem for problem in problems)
