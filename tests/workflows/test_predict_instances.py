"""`predict` with a model for instances: the objects are those of the whole image, however the slide is worked up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from segkit.errors import UsageError
from segkit.geometry import BLOCK_PX
from segkit.inference.image_segmentation import predict_layers
from segkit.inference.instances import label_instances
from segkit.models.model_file import InstanceSpec, ModelSpec, UNetArguments, load_model, save_model
from segkit.models.unet import UNet
from segkit.slides.geojson import rasterise, read_geojson
from segkit.workflows.predict import build_predictor, predict
from segkit.workflows.sharing import ArrayShare
from tests.tiny import MPP, write_slide
from tests.workflows.predictions import (
    LEAVES,
    config,
    files_in,
    one,
    read_pixels,
    read_rows,
    record_of,
    results_in,
    run,
)

HEIGHT, WIDTH = 300, BLOCK_PX + 140


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, 3))
    smooth = ndimage.gaussian_filter(noise, (4, 4, 0))
    pixels: NDArray[np.uint8] = np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return pixels


@pytest.fixture(scope="module")
def slide(image: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "cells.tif", image)


@pytest.fixture(scope="module")
def model(image: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that nobody trained, with thresholds at which there is something to see."""
    torch.manual_seed(1)
    arguments = UNetArguments(
        in_channels=3, num_classes=2, base_channels=2, depth=1, form="modern", dropout=0, extra_maps=1
    )
    network = UNet(**arguments.model_dump()).eval()
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    thresholds = 0.5, 0.5
    for _ in range(2):
        spec = ModelSpec(
            arguments=arguments,
            task="instance",
            instances=InstanceSpec(
                foreground_threshold=thresholds[0], seed_threshold=thresholds[1], min_area_px=15, grow_px=6
            ),
            classes=["background", "cell"],
            mpp=MPP,
            mean=[0.5] * 3,
            std=[0.2] * 3,
            receptive_field=0,
            scores={},
            training={},
        )
        save_model(path, network, spec)
        _, foreground, distance = predict_layers(image, build_predictor([load_model(path)], config()))
        thresholds = float(np.quantile(foreground, 0.4)) / 255, float(np.quantile(distance, 0.8)) / 255
    return path


@pytest.fixture(scope="module")
def folder(slide: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one(run([slide], model, tmp_path_factory.mktemp("out"), "tile=256", "tissue=off")).folder


def labels_of(image: NDArray[np.uint8], model: Path) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    loaded = load_model(model)
    mask, foreground, distance = predict_layers(image, build_predictor([loaded], config()))
    assert loaded.spec.instances is not None
    return mask, label_instances(foreground, distance, loaded.spec.instances)


def test_the_objects_are_the_instances_of_the_whole_image(image: NDArray[np.uint8], model: Path, folder: Path) -> None:
    mask, labels = labels_of(image, model)
    areas = np.bincount(labels.ravel())[1:]
    assert len(areas) > 100
    # Many touch another one, and some lie on both sides of the border of two blocks.
    assert ((labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] > 0) & (labels[:, :-1] > 0)).sum() > 100
    assert ((labels[:, BLOCK_PX] == labels[:, BLOCK_PX - 1]) & (labels[:, BLOCK_PX] > 0)).any()
    assert np.array_equal(read_pixels(folder / "mask.tif"), mask)
    rows, features = read_rows(folder), read_geojson(folder / "objects.geojson")
    assert len(rows) == len(features) == len(areas)
    assert sorted(float(row["area_px"]) for row in rows) == sorted(areas)
    for row, feature in zip(rows, features, strict=True):
        own = rasterise([feature], HEIGHT, WIDTH, lambda *_: 1) == 1
        (label,) = np.unique(labels[own])
        assert own.sum() == areas[label - 1] == float(row["area_px"])
        assert row["class"] == "cell"


def test_the_folder_holds_what_it_does_for_other_models(folder: Path, model: Path) -> None:
    assert files_in(folder) == LEAVES
    record = record_of(folder)
    instances = load_model(model).spec.instances
    assert instances is not None
    assert record["instances"] == instances.model_dump(mode="json")
    assert record["num_objects"] == len(read_rows(folder))


def test_tiles_batches_parts_and_workers_change_no_byte(
    folder: Path, slide: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = one(run([slide], model, tmp_path / "a", "tile=64", "batch=3", "tissue=off", "verify_seams=5"))
    assert results_in(alone.folder) == results_in(folder)
    assert record_of(alone.folder)["largest_seam_difference"] == 0
    monkeypatch.setattr("segkit.workflows.planning.choose_part_px", lambda *_, **__: 1024)  # so that there are several
    for number in (2, 1):
        shared = predict(
            [slide],
            models=[model],
            out=tmp_path / "b",
            config=config("tile=256", "tissue=off"),
            share=ArrayShare(number, 2),
        )
    assert one(shared).status == "done"
    assert results_in(one(shared).folder) == results_in(folder)


def test_the_probability_is_that_of_the_foreground(
    image: NDArray[np.uint8], slide: Path, model: Path, tmp_path: Path
) -> None:
    _, foreground, _ = predict_layers(image, build_predictor([load_model(model)], config()))
    region = "region=0,0,128,96"
    for kind in ("uint8", "float16"):
        out = one(
            run([slide], model, tmp_path / kind, region, "tissue=off", "probability=true", f"probability_type={kind}")
        ).folder
        found = read_pixels(out / "probability.tif")
        np.testing.assert_allclose(found.astype(int), foreground[:96, :128], atol=1 if kind == "float16" else 0)


def test_models_of_two_tasks_are_refused(slide: Path, model: Path, tmp_path: Path) -> None:
    loaded = load_model(model)
    arguments = loaded.spec.arguments.model_copy(update={"extra_maps": 0})
    assert isinstance(arguments, UNetArguments)
    spec = loaded.spec.model_copy(update={"task": "semantic", "instances": None, "arguments": arguments})
    save_model(tmp_path / "semantic.safetensors", UNet(**arguments.model_dump()), spec)
    with pytest.raises(UsageError, match="instance and semantic"):
        run([slide], [model, tmp_path / "semantic.safetensors"], tmp_path / "out")
