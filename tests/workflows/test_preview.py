"""The picture of a training's samples shows every plane that is learned from."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.masks import colour_of_class
from segkit.slides import open_slide
from segkit.workflows.preview import PREVIEW_ROWS, PREVIEW_VARIANTS, Sample, draw_rows, preview
from tests.tiny import tiny_config, tiny_point_config


def pixels(path: Path) -> NDArray[np.uint8]:
    with open_slide(path) as picture:
        return picture.read(Box(0, 0, picture.height, picture.width))


def rows(planes: int) -> list[list[Sample]]:
    """Rows of grey patches with a square of class 1, in the upper left corner of which every other plane is hot."""
    target = np.zeros((32, 32, planes), np.uint8)
    target[8:24, 8:24, 0] = 1
    target[:8, :8, 1:] = 255
    sample = Sample(np.full((32, 32, 3), 128, np.uint8), target, "original")
    return [[sample] * 3] * PREVIEW_ROWS


def test_every_plane_has_its_row(tmp_path: Path) -> None:
    heights = []
    for planes in (1, 2, 3):
        path = tmp_path / f"{planes}.png"
        names = [f"plane {number}" for number in range(1, planes)]
        draw_rows(rows(planes), ["background", "nucleus"], names, path, title="Augmentation")
        heights.append(pixels(path).shape[0])
    # Four rows of patches, then two of patches with a plane each, then one with two.
    assert heights[0] == heights[1] > heights[2] > heights[0] / 2


def test_a_plane_is_heat_and_classes_are_outlines(tmp_path: Path) -> None:
    cold = rows(2)
    for row in cold:
        row[:] = [one._replace(target=np.where([True, False], one.target, 0).astype(np.uint8)) for one in row]
    hot = pixels_of(rows(2), tmp_path)
    plain = pixels_of(cold, tmp_path)
    outline = (hot == colour_of_class(1)).all(axis=2).sum()
    assert outline > 500
    assert (plain == colour_of_class(1)).all(axis=2).sum() == outline
    changed = (hot != plain).any(axis=2)
    # A sixteenth of the patches in every second row.
    assert 0.01 < changed.mean() < 0.06


def pixels_of(shown: list[list[Sample]], folder: Path) -> NDArray[np.uint8]:
    draw_rows(shown, ["background", "nucleus"], ["distance"], folder / "rows.png", title="")
    return pixels(folder / "rows.png")


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_extra_transforms_are_in_the_preview(tiny_data: Path, tmp_path: Path, backend: str) -> None:
    plain = pixels(preview(tiny_config(tiny_data, "augment.preset=none"), tmp_path / "plain.png"))
    inverted = pixels(
        preview(
            tiny_config(
                tiny_data,
                "augment.preset=none",
                "augment.extra=[{name: InvertImg, p: 1}]",
                f"augment.backend={backend}",
            ),
            tmp_path / "inverted.png",
        )
    )
    assert plain.shape == inverted.shape
    changed = (plain != inverted).any(axis=2).mean()
    assert 0.5 < changed < PREVIEW_VARIANTS / (1 + PREVIEW_VARIANTS)


def test_points_of_a_unet_show_their_heat(tiny_point_data: Path, tmp_path: Path) -> None:
    heat = pixels(preview(tiny_point_config(tiny_point_data, "model.network=unet"), tmp_path / "heat.png"))
    frames = pixels(preview(tiny_point_config(tiny_point_data), tmp_path / "frames.png"))
    assert heat.shape != frames.shape


def test_instances_show_distances_and_weights(tiny_data: Path, tmp_path: Path) -> None:
    shapes = {
        pixels(preview(tiny_config(tiny_data, "task=instance", *more), tmp_path / "objects.png")).shape[0]
        for more in ((), ("loss.weight_map=true",))
    }
    # Two patches with their distances; one patch with distance and weights.
    assert len(shapes) == 2
