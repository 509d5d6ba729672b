"""Learning objects and measuring them, from a folder of labels to tables, by a network that learns in seconds."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from segkit.config import AUTO, DataConfig, EvaluateConfig, TrainConfig, build_config
from segkit.data.instance_labels import UNLABELLED, read_instances
from segkit.data.instance_targets import target_planes
from segkit.data.layout import load_dataset, read_image
from segkit.data.presets import resolve_augment
from segkit.errors import InputError, ModelError
from segkit.evaluation.object_tables import ObjectReport
from segkit.masks import IGNORE
from segkit.models.model_file import Model, load_model, save_model
from segkit.training.distributed import ALONE
from segkit.training.instance_validation import TUNED, InstanceValidation, LabelledObjects
from segkit.training.state import by_class
from segkit.workflows import evaluate_objects
from segkit.workflows.evaluate import evaluate
from segkit.workflows.evaluate_objects import measure_found, predicted_objects, write_labels
from segkit.workflows.instance_task import InstanceTask, growth_px, object_source, planes_of
from segkit.workflows.prepare import Prepared
from tests.tiny import make_data, save_png, tiny_config

SPLITS = ("train",) * 3 + ("val",) * 2


def draw_cells(seed: int, side: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Return an image of dark discs, some of which touch, and their ids, which have gaps."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint16)
    for index in range(1, 16):
        centre, radius = rng.uniform(0, side, 2), rng.uniform(5, 8)
        disc = np.hypot(y - centre[0], x - centre[1]) < radius
        if np.count_nonzero(disc & (labels > 0)) < 4:
            labels[disc & (labels == 0)] = 3 * index
    image = np.where(labels[..., np.newaxis] > 0, 80, 180) + rng.normal(0, 8, (side, side, 3))
    return image.clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def label_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labels")
    for number in range(len(SPLITS)):
        image, labels = draw_cells(number)
        save_png(root / "images" / f"cells{number}.png", image)
        (root / "labels").mkdir(exist_ok=True)
        Image.fromarray(labels).save(root / "labels" / f"cells{number}.png")
    rows = "".join(f"cells{number},{split}\n" for number, split in enumerate(SPLITS))
    (root / "splits.csv").write_text(f"image,split\n{rows}")
    return root


def prepared_of(data: Path, *assignments: str) -> Prepared[LabelledObjects]:
    """Read a data folder as `prepare` does, with settings that leave nothing to compute."""
    config = tiny_config(
        data,
        "model.dropout=0",
        "loss.name=dice_cross_entropy",
        "model.base_channels=8",
        "model.norm=batch",
        "model.activation=relu",
        "patches.size_px=48",
        *assignments,
    )
    config = config.model_copy(update={"augment": resolve_augment(config.augment, 3)})
    assert isinstance(config, TrainConfig)
    dataset = load_dataset(config.data)
    images = [LabelledObjects(item.name, read_image(item), *read_instances(item, dataset)) for item in dataset.items]
    num_train = SPLITS.count("train")
    return Prepared(config=config, dataset=dataset, train=images[:num_train], val=images[num_train:])


def task_of(prepared: Prepared[LabelledObjects]) -> InstanceTask:
    return InstanceTask(prepared, group=ALONE, on_progress=lambda *_: None, on_note=lambda _: None)


class Learned(NamedTuple):
    task: InstanceTask
    validation: InstanceValidation
    model: Model
    losses: list[float]


@pytest.fixture(scope="module")
def learned(label_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    torch.manual_seed(0)
    task = task_of(prepared_of(label_data))
    samples = task.samples_of_round(0, Path())
    mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in (task.spec.mean, task.spec.std))
    optimiser = torch.optim.SGD(task.network.parameters(), lr=0.2, momentum=0.9)
    losses = []
    task.network.train()
    for step in range(60):
        drawn = [samples[step, number, True] for number in range(4)]
        images, targets = (torch.stack(one) for one in zip(*drawn, strict=True))
        value = task.loss(task.network((images / 255 - mean) / std), targets)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(value.item())
    task.network.eval()
    validation = task.validate(task.network)
    assert isinstance(validation, InstanceValidation)
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    story = {**task.spec.training, "best_epoch": 1, **validation.story}
    scores = by_class(task.metric, validation)
    save_model(
        path, task.network, task.spec.model_copy(update={"training": story, "scores": scores, **validation.changes})
    )
    (path.parent / "splits.csv").write_text((label_data / "splits.csv").read_text())
    return Learned(task, validation, load_model(path), losses)


def test_it_learns_to_find_objects(learned: Learned) -> None:
    assert np.mean(learned.losses[-10:]) < 0.5 * learned.losses[0]
    assert learned.validation.score > 0.6
    assert learned.model.spec.instances == learned.validation.changes["instances"]


def test_pictures_are_drawn(learned: Learned, tmp_path: Path) -> None:
    learned.task.draw_validation(learned.validation, tmp_path / "validation.png")
    learned.task.draw_first_batch(learned.task.samples_of_round(0, tmp_path), tmp_path / "batch.png")
    for name in ("validation.png", "batch.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200


def test_evaluation_measures_what_validation_did(learned: Learned, label_data: Path, tmp_path: Path) -> None:
    config = build_config(
        EvaluateConfig,
        assignments=["split=val", "bootstrap=20", "compute.device=cpu", "compute.precision=float32"],
    )
    found = predicted_objects(
        config, DataConfig(dir=label_data), learned.model, tmp_path / "figures", tmp_path / "predictions",
        lambda *_: None, lambda _: None,
    )  # fmt: skip
    report = measure_found(found, config, tmp_path)
    assert report.headline.value == pytest.approx(learned.validation.score, abs=1e-6)
    assert [row.metrics["average_precision"] for row in report.images] == learned.validation.per_image
    assert report.num_true == sum(len(np.unique(draw_cells(number)[1])) - 1 for number in (3, 4))
    assert report.name == learned.model.spec.classes[1]
    with Image.open(tmp_path / "predictions" / "cells3.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), learned.validation.labels[0])
    assert sorted(path.name for path in found.figures) == ["cells3.png", "cells4.png"]
    assert all(path.is_file() for path in found.figures)
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["cells3", "cells4"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["headline"]["iou"] == 0.5
    assert metrics["mpp"] == learned.task.spec.mpp
    assert_choice_is_told(metrics["choice"], learned)
    text = (tmp_path / "summary.md").read_text()
    assert "Chosen in training on the 2 validation images of labels" in text.replace(label_data.name, "labels")
    assert "2 of the images measured here were among them" in text


def assert_choice_is_told(choice: dict[str, Any], learned: Learned) -> None:
    spec, score = learned.model.spec.instances, learned.validation.score
    assert spec is not None
    assert choice["parameters"] == spec.model_dump(include=set(TUNED))
    assert (choice["num_validation_images"], choice["num_measured_images_among_them"]) == (2, 2)
    assert (choice["metric"], choice["epoch"]) == ("average_precision", 1)
    assert choice["validation_score"] == pytest.approx(score, abs=1e-6)
    # These are the images of the choice: at what is used there is the same number thrice.
    for sweep in choice["sweeps"]:
        assert sweep["used"] == getattr(spec, sweep["parameter"])
        for curve in (sweep["measured"], sweep["validation"]):
            at = dict(zip(curve["values"], curve["scores"], strict=True))
            assert at[sweep["used"]] == pytest.approx(score, abs=1e-6)
    assert [sweep["parameter"] for sweep in choice["sweeps"]] == ["foreground_threshold", "seed_threshold"]


def test_of_a_model_of_before_less_is_told(learned: Learned, label_data: Path, tmp_path: Path) -> None:
    """Files of before do not say what was tried; beside a file that was moved there is no splits.csv."""
    story = {name: value for name, value in learned.model.spec.training.items() if name != "tried"}
    save_model(
        tmp_path / "model.safetensors",
        learned.model.network,
        learned.model.spec.model_copy(update={"training": story, "scores": {}}),
    )
    config = build_config(EvaluateConfig, assignments=["bootstrap=20", "compute.device=cpu"])
    model = tmp_path / "model.safetensors"
    result = evaluate(config, data=DataConfig(dir=label_data), model=model, out=tmp_path / "out")
    choice = json.loads((tmp_path / "out" / "metrics.json").read_text())["choice"]
    assert (choice["validation_score"], choice["num_measured_images_among_them"]) == (None, None)
    assert [sweep["validation"] for sweep in choice["sweeps"]] == [None, None]
    assert isinstance(result.report, ObjectReport)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "is not known, as no splits.csv of the training lies beside the model" in page
    assert "AP over the seed threshold" in page
    assert "AP in validation" not in page


def test_points_and_models_without_instances_are_refused(learned: Learned, label_data: Path, tmp_path: Path) -> None:
    config = build_config(EvaluateConfig, assignments=[])
    rest = (tmp_path, tmp_path, lambda *_: None, lambda _: None)
    with pytest.raises(InputError, match="is to be read with points"):
        predicted_objects(config, DataConfig(dir=label_data, annotation="points"), learned.model, *rest)
    semantic = learned.model.spec.model_copy(update={"task": "semantic", "instances": None})
    model = Model(learned.model.network, semantic, learned.model.path, "")
    with pytest.raises(ModelError, match="tells no objects apart"):
        predicted_objects(config, DataConfig(dir=label_data), model, *rest)


def test_targets_have_a_class_a_distance_and_a_weight_where_configured(label_data: Path) -> None:
    plain, weighted = prepared_of(label_data), prepared_of(label_data, "loss.weight_map=true")
    one = plain.train[0]
    np.testing.assert_array_equal(planes_of(plain, [one])[0], target_planes(one.labels))
    (planes,) = planes_of(weighted, [one])
    assert planes.shape == (64, 64, 3)
    weights = planes[..., 2] * (11 / 255)
    np.testing.assert_allclose(weights[one.labels > 0], 1, atol=0.05)
    assert weights[one.labels == 0].max() > 2  # between cells that nearly touch
    task = task_of(weighted)
    assert task.validation_patches.targets.shape == (16, 3, 48, 48)
    outputs = torch.zeros(16, 3, 48, 48)
    heavier = task.validation_patches.targets.clone()
    heavier[:, 2] = 23
    # Weights say which pixels count more: at equal probabilities of all classes they make no difference.
    assert task.loss(outputs, heavier).item() == pytest.approx(
        task_of(plain).loss(outputs, task.validation_patches.targets[:, :2]).item(), abs=0.02
    )


def test_balanced_patches_lie_around_objects(label_data: Path) -> None:
    prepared = prepared_of(label_data, "patches.balanced=1")
    source = object_source(prepared, 16)
    rng = np.random.default_rng(0)
    foreground = np.mean([(source.draw(rng, 16)[1][..., 0] == 1).mean() for _ in range(60)])
    assert foreground > np.mean([(one.labels > 0).mean() for one in prepared.train])


def test_seeds_may_grow_as_far_as_the_objects_are_wide() -> None:
    labels = np.zeros((60, 60), np.int32)
    labels[10:30, 10:30], labels[40:44, 40:44] = 1, 2
    assert growth_px([labels]) in range(18, 21)  # a radius of 10
    assert growth_px([np.zeros((8, 8), np.int32)]) == 4


@pytest.mark.parametrize("annotation", ["labels", "masks"])
def test_objects_are_the_ids_of_labels_and_the_regions_of_masks(
    label_data: Path, tmp_path: Path, annotation: str
) -> None:
    root = label_data if annotation == "labels" else make_data(tmp_path)
    dataset = load_dataset(DataConfig(dir=root, annotation=AUTO))
    mask, labels = read_instances(dataset.items[0], dataset)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels > 0, mask == 1)
    if annotation == "labels":
        _, drawn = draw_cells(0)
        np.testing.assert_array_equal(np.unique(labels), np.arange(len(np.unique(drawn))))
        assert len(np.unique(labels.astype(np.int64) * 1000 + drawn)) == len(np.unique(drawn))


def test_polygons_are_objects_even_where_they_touch(tmp_path: Path) -> None:
    save_png(tmp_path / "images" / "a.png", np.full((20, 30, 3), 99, np.uint8))
    squares = [[[2, 2], [10, 2], [10, 12], [2, 12], [2, 2]], [[10, 2], [20, 2], [20, 12], [10, 12], [10, 2]]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
         "properties": {"classification": {"name": "cell"}}}
        for ring in squares
    ]  # fmt: skip
    (tmp_path / "geojson").mkdir()
    (tmp_path / "geojson" / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    dataset = load_dataset(DataConfig(dir=tmp_path))
    mask, labels = read_instances(dataset.items[0], dataset)
    assert labels[5, 9] == 1
    assert labels[5, 10] == 2
    assert set(np.unique(mask).tolist()) == {0, 1}


def test_ids_that_mean_not_labelled_are_no_object(label_data: Path) -> None:
    _, drawn = draw_cells(0)
    value = int(drawn[drawn > 0][0])
    dataset = load_dataset(DataConfig(dir=label_data, ignore=value))
    mask, labels = read_instances(dataset.items[0], dataset)
    assert (mask[drawn == value] == IGNORE).all()
    assert (labels[drawn == value] == UNLABELLED).all()
    assert labels[drawn != value].min() == 0


def test_many_ids_are_written_with_32_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_objects, "LARGEST_16_BIT", 2)
    path = write_labels(tmp_path, "a", np.array([[0, 1, 3]], np.int32))
    assert path.name == "a.tif"
    import tifffile

    np.testing.assert_array_equal(tifffile.imread(path), [[0, 1, 3]])
    assert write_labels(tmp_path, "b", np.array([[0, 2]], np.int32)).name == "b.png"
