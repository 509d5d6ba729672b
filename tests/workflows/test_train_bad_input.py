"""What cannot be trained on ends in one clear line, with the exit code of its kind; what can be, works and says so."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from segkit.config import TrainConfig, build_config
from segkit.errors import InputError, ModelError, ResourceError
from segkit.workflows.train import train
from tests.processes import limited_file_size
from tests.tiny import SPLITS, draw_field, make_data
from tests.workflows.bad_input import (
    KINDS,
    MAKE,
    config_of,
    notes_of,
    of_size,
    one_image,
    refused,
    resumed,
    spoilt,
    without_objects,
)

# What is in the folder


@pytest.mark.parametrize("kind", KINDS)
def test_one_image_is_too_few_to_validate(tmp_path: Path, kind: str) -> None:
    data = spoilt(tmp_path, one_image, kind)
    refused(config_of(kind, data), tmp_path / "run", InputError, "validation needs other images.* it is one image")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "val", "all"])
def test_nothing_to_learn_or_to_choose_by_is_said_before_training(tmp_path: Path, kind: str, split: str) -> None:
    data = spoilt(tmp_path, without_objects(split), kind)
    part = {"train": "the training images have no", "val": "the validation images have no.* best epoch"}
    whole = {"masks": "all pixels of all masks are background", "labels": part["train"]}.get(kind, "holds no points")
    error = refused(config_of(kind, data), tmp_path / "run", InputError, part.get(split, whole))
    assert error.exit_code == 3
    assert str(data) in str(error)


def test_classes_that_never_occur_are_named(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", description="classes: [background, disk, corner, rare]\n")
    for path in (data / "masks").iterdir():
        mask = np.array(Image.open(path)) // 255
        mask[:20, :20] = 2 * (path.stem in ("field4", "field5"))  # for validation
        Image.fromarray(mask).save(path)
    result, notes = notes_of(config_of("masks", data, "loss.class_weights=balanced"), tmp_path / "run")
    assert "the training images have no pixels of these classes, which cannot be learned: corner, rare" in notes
    assert any(note.startswith("the validation images have no pixels") and note.endswith(": rare") for note in notes)
    assert result.scores["corner"] is not None


@pytest.mark.parametrize("kind", ["points", "heat"])
def test_classes_of_points_that_are_for_validation_alone_are_named(tmp_path: Path, kind: str) -> None:
    data = MAKE[kind](tmp_path / "data")
    with (data / "points.csv").open("a") as table:
        table.write("disks4,5,5,rare\n")
    _, notes = notes_of(config_of(kind, data), tmp_path / "run")
    assert "the training images have no points of these classes, which cannot be learned: rare" in notes


@pytest.mark.parametrize("kind", KINDS)
def test_patches_larger_than_every_image(data_of: dict[str, Path], tmp_path: Path, kind: str) -> None:
    config = config_of(kind, data_of[kind], "patches.size_px=128")
    if kind == "points":
        refused(config, tmp_path / "run", InputError, "the patches of 128 px are larger than these images")
        return
    _, notes = notes_of(config, tmp_path / "run")
    assert any(note.startswith("4 of 4 images are smaller than the patches of 128 px, and are mir") for note in notes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [1, 3])
def test_tiny_images(tmp_path: Path, kind: str, side: int) -> None:
    data = spoilt(tmp_path, of_size(side), kind)
    config = config_of(kind, data, "patches.size_px=auto")
    if kind == "points":
        error = refused(config, tmp_path / "run", InputError, "are larger than these images")
        assert error.problems[0].endswith(f": {side} x {side} px")
        return
    train(config, out=tmp_path / "run")


def write_labels(root: Path, dtype: str, left: float, right: float) -> Path:
    """Write labels as TIFF, all objects on the left with one value, on the right with another."""
    data = make_data(root)
    shutil.rmtree(data / "masks")
    (data / "labels").mkdir()
    for number in range(len(SPLITS)):
        mask = draw_field(number)[1]
        values = np.where(np.arange(mask.shape[1]) < 36, left, right)
        tifffile.imwrite(data / "labels" / f"field{number}.tif", (mask * values).astype(dtype))
    return data


@pytest.mark.parametrize(
    ("dtype", "left", "right", "problem"),
    [
        ("uint32", 5, 3_000_000_000, None),
        ("int32", 7, 2**31 - 1, None),
        ("int32", 5, -3, "holds the values -3"),
        ("float32", 5, 6, "holds float32 numbers, and class ids are integers"),
        ("uint64", 5, 6, "holds 1 values of uint64 per pixel"),
    ],
)
def test_labels_of_all_kinds_of_numbers(tmp_path: Path, dtype: str, left: int, right: int, problem: str | None) -> None:
    data = write_labels(tmp_path / "data", dtype, left, right)
    if problem is None:
        train(config_of("labels", data), out=tmp_path / "run")
        return
    error = refused(config_of("labels", data), tmp_path / "run", InputError, problem)
    assert "field0.tif" in str(error)


def test_images_of_all_sizes_depths_and_colours_go_together(tmp_path: Path) -> None:
    def edit(data: Path) -> None:
        for number, path in enumerate(sorted((data / "images").iterdir())):
            image, mask = np.asarray(Image.open(path)), data / "masks" / path.name
            height = 64 - 3 * number
            Image.fromarray(np.asarray(Image.open(mask))[:height]).save(mask)
            path.unlink()
            image = image[:height, ..., 0] if number % 2 else image[:height]
            deep = image.astype(np.uint16) * 200 if number % 3 else image
            tifffile.imwrite(path.with_suffix(".tif"), deep, photometric="minisblack" if number % 2 else "rgb")

    train(config_of("masks", spoilt(tmp_path, edit)), out=tmp_path / "run")


# Checkpoints


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_checkpoints_are_passed_over_as_long_as_one_is_left(
    stopped_of: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    run = shutil.copytree(stopped_of[kind], tmp_path / "run")
    first, newest = sorted((run / "checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content if kind in ("masks", "heat") else content[:1000])
    notes: list[str] = []
    train(build_config(TrainConfig, file=run / "config.yaml"), resume=run, on_note=notes.append)
    assert any(note.startswith(f"passed over: {newest}: is damaged") for note in notes)
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"")
    (run / "run.json").unlink()
    with pytest.raises(ModelError, match=r"no checkpoint to resume from\. Start a new run") as caught:
        resumed(run)
    assert all("is damaged or no checkpoint" in line for line in caught.value.problems)
    assert first.parent.exists()


@pytest.mark.parametrize(
    ("kind", "other", "first"),
    [
        ("masks", "points", "encoder.0.0.weight: is missing"),
        ("points", "masks", "layers.0.weight: is missing"),
        ("labels", "masks", r"head.weight: has the shape \(2, 4, 1, 1\), and \(3, 4, 1, 1\) is needed"),
        ("heat", "labels", r"head.weight: has the shape \(3, 4, 1, 1\), and \(1, 4, 1, 1\) is needed"),
    ],
)
def test_checkpoints_of_another_network_are_refused_with_what_differs(
    stopped_of: dict[str, Path], tmp_path: Path, kind: str, other: str, first: str
) -> None:
    run = shutil.copytree(stopped_of[kind], tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(stopped_of[other] / "checkpoints", run / "checkpoints")
    with pytest.raises(ModelError, match=rf"(?s)step-00000002.pt: does not fit this configuration.*{first}") as caught:
        resumed(run)
    assert 1 <= len(caught.value.problems) <= 5


# The cache


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_that_cannot_be_written_is_named_with_its_setting(
    data_of: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        config = config_of(kind, data_of[kind], f"data.cache={folder}")
        error = refused(config, tmp_path / "run", ResourceError, "set data.cache to .* or data.cache=none")
        assert str(error).startswith(f"{folder}: ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_on_a_full_disk_is_named_and_what_is_damaged_there_is_made_anew(
    data_of: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "cache"
    config = config_of(kind, data_of[kind], f"data.cache={folder}")
    with limited_file_size(8000):
        error = refused(config, tmp_path / "full", ResourceError, "cannot be kept there .*set data.cache to")
    assert error.exit_code == 4
    whole = train(config, out=tmp_path / "whole").score
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    assert train(config, out=tmp_path / "again").score == whole
