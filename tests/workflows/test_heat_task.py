"""A U-Net learns to find points: the task's parts, and a training from samples to thresholds."""

import dataclasses
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segkit.data.sampling import sample_rng
from segkit.models.model_file import DetectionSpec, save_model
from segkit.models.unet import UNet
from segkit.points import Points
from segkit.training.distributed import ALONE
from segkit.training.fit import FitResult
from segkit.training.point_validation import LabelledPoints, PointValidation
from segkit.workflows import run_figures
from segkit.workflows.callbacks import quiet_note, quiet_progress
from segkit.workflows.detection_task import patches_inside
from segkit.workflows.heat_task import HeatTask, heat_source, summits
from segkit.workflows.mined_table import mined_path
from segkit.workflows.prepare import Prepared, prepare
from segkit.workflows.run_figures import RunFigures
from tests.tiny import make_point_data, tiny_point_config

CLASSES = ("cell", "grey")


def prepared_of(data: Path, *assignments: str) -> Prepared[LabelledPoints]:
    settings = ("task=points", "model.network=unet", "model.depth=2", "model.base_channels=8", "patches.size_px=48",
                "patches.batch=4", "epochs=4", *assignments)  # fmt: skip
    config = tiny_point_config(data, *settings)
    return cast(Prepared[LabelledPoints], prepare(config, on_progress=quiet_progress, on_note=quiet_note))


def task_of(prepared: Prepared[LabelledPoints]) -> HeatTask:
    torch.manual_seed(0)
    return HeatTask(prepared, group=ALONE, on_progress=quiet_progress, on_note=quiet_note)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared[LabelledPoints]:
    return prepared_of(make_point_data(tmp_path_factory.mktemp("data"), classes=CLASSES))


def planes_first(array: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def learn(task: HeatTask, run: Path, steps: int = 60) -> list[float]:
    """The least that a training is."""
    samples = task.samples_of_round(0, run)
    optimiser = torch.optim.AdamW(task.trained.parameters(), lr=1e-2)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (task.spec.mean, task.spec.std))
    losses = []
    task.begin_epoch(0)
    for step in range(steps):
        drawn = [samples.draw(step, number) for number in range(4)]
        images, targets = (torch.stack([planes_first(one[which]) for one in drawn]) for which in range(2))
        value = task.loss(task.trained((images / 255 - mean) / std), targets)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(value.item())
    task.network.eval()
    return losses


def test_it_learns_to_find_points_of_two_classes(prepared: Prepared[LabelledPoints], tmp_path: Path) -> None:
    task = task_of(prepared)
    losses = learn(task, tmp_path)
    assert np.mean(losses[-5:]) < losses[0] / 3
    validation = task.validate(task.network)
    assert isinstance(validation, PointValidation)
    assert list(validation.by_class) == list(CLASSES)
    assert validation.score > 0.9
    detection = validation.changes["detection"]
    assert isinstance(detection, DetectionSpec)
    assert detection.thresholds == validation.thresholds != [0.5, 0.5]
    assert task.spec.model_copy(update=validation.changes).detection == detection
    task.draw_validation(validation, tmp_path / "validation.png")
    task.draw_first_batch(task.samples_of_round(0, tmp_path), tmp_path / "first_batch.png")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("validation.png", "first_batch.png"))


def test_what_is_found_and_is_none_is_drawn_and_written_down_once(
    prepared: Prepared[LabelledPoints], tmp_path: Path
) -> None:
    task = task_of(prepared)
    head = task.network.head
    assert isinstance(head, torch.nn.Conv2d)
    assert head.bias is not None
    with torch.no_grad():
        head.bias.zero_()  # it finds something everywhere
    samples = task.samples_of_round(1, tmp_path)
    content = mined_path(tmp_path, 1).read_bytes()
    assert len(content.splitlines()) > 10
    with torch.no_grad():
        head.bias.fill_(-9)  # and now nothing anywhere
    again = task.samples_of_round(1, tmp_path)
    assert mined_path(tmp_path, 1).read_bytes() == content
    before = task.samples_of_round(0, tmp_path)
    differ = []
    for number in range(40):
        first, second = samples.draw(3, number), again.draw(3, number)
        assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
        differ.append(not np.array_equal(first[0], before.draw(3, number)[0]))
    assert 2 < sum(differ) < 20  # a share of 0.2


def test_the_description_is_that_of_a_unet_for_points(prepared: Prepared[LabelledPoints]) -> None:
    task = task_of(prepared)
    assert (task.spec.architecture, task.spec.task, task.metric) == ("unet", "points", "f1")
    assert task.spec.classes == ["background", *CLASSES]
    assert task.spec.arguments.num_classes == 2
    assert task.spec.detection is not None
    assert (task.spec.detection.stride, task.spec.detection.nms_radius) == (1, "5px")
    assert task.round_ends() == [1, 2, 4]
    images, targets = task.validation_patches
    assert images.shape == (16, 3, task.input_px, task.input_px)
    assert targets.shape == (16, task.num_planes, task.input_px, task.input_px)
    assert targets[:, 1:].max() > 200
    # An untrained network says that there is little of anything.
    assert isinstance(task.network, UNet)
    with torch.inference_mode():
        heat = torch.sigmoid(task.network.eval()(images[:4] / 255.0 - 0.5))
    assert heat.mean() < 0.2


def test_patches_for_pictures_lie_inside_the_images(tmp_path: Path) -> None:
    """Each pixel of an image has a colour of its own: what is mirrored would have colours twice."""
    rows, columns = np.mgrid[:72, :80].astype(np.uint8)
    image = np.stack([rows, columns, 0 * rows], axis=-1)
    at_the_borders = Points(np.array([[1.0, 1.0], [71.0, 79.0], [36.0, 79.5]]), np.ones(3, np.int64))
    nothing = Points(np.empty((0, 2)), np.empty(0, np.int64))
    images = [LabelledPoints("a", image, at_the_borders), LabelledPoints("b", image + 100, nothing)]
    patches = patches_inside(images, 48, 40).numpy()
    assert patches.shape == (40, 3, 48, 48)
    for patch in patches:
        assert np.array_equal(np.diff(patch[0].astype(int), axis=0), np.ones((47, 48)))
        assert np.array_equal(np.diff(patch[1].astype(int), axis=1), np.ones((48, 47)))
    assert {0, 100} <= {patch[2].max() for patch in patches}
    # First those around points, each once.
    corners = [(int(patch[0].min()), int(patch[1].min())) for patch in patches[:3]]
    assert sorted(corners) == [(0, 0), (12, 32), (24, 32)]
    assert np.array_equal(patches, patches_inside(images, 48, 40).numpy())
    assert patches_inside(images, 100, 2).shape == (2, 3, 100, 100)  # smaller images are mirrored


def test_pictures_of_a_run_are_drawn_on_these(
    prepared: Prepared[LabelledPoints], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(prepared)
    save_model(tmp_path / "model.safetensors", task.network, task.spec)
    seen: list[NDArray[np.uint8]] = []
    monkeypatch.setattr(run_figures, "draw_receptive_field", lambda patch, *_, **__: seen.append(patch))
    RunFigures(tmp_path, task).draw_end(
        FitResult(history=[{"epoch": 1.0}], best_epoch=1, score=0.0, by_class={}, stopped_early=False)
    )
    inside = patches_inside(prepared.val, task.input_px, 16).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(seen[0], inside[0])
    assert not np.array_equal(inside[0], task.validation_patches.images[0].permute(1, 2, 0).numpy())


def test_points_and_look_alikes_are_drawn_as_often_as_asked(prepared: Prepared[LabelledPoints]) -> None:
    sources = {
        share: heat_source(_with(prepared, balanced=share, hard=hard), prepared.train, 48)
        for share, hard in ((0.0, 0.0), (1.0, 0.0), (0.2, 0.79))
    }
    near: dict[float, list[float]] = {}
    for share, source in sources.items():
        number = 300
        drawn = [source.draw(sample_rng(0, 0, index), 48) for index in range(number)]
        near[share] = [float((target[12:36, 12:36, 1:] > 200).any()) for _, target in drawn]
        assert all(image.shape == (48, 48, 3) and target.shape == (48, 48, 3) for image, target in drawn)
    assert np.mean(near[1.0]) > np.mean(near[0.0]) + 0.1
    # Around look-alikes there are fewer points than around points.
    assert np.mean(near[0.2]) < np.mean(near[1.0])


def _with(prepared: Prepared[LabelledPoints], *, balanced: float, hard: float) -> Prepared[LabelledPoints]:
    config = prepared.config
    config = config.model_copy(
        update={
            "patches": config.patches.model_copy(update={"balanced": balanced}),
            "points": config.points.model_copy(update={"hard_negatives": hard}),
        }
    )
    return dataclasses.replace(prepared, config=config)


def test_summits_are_where_heat_is_above_one_half() -> None:
    target = np.zeros((3, 4, 3), np.uint8)
    target[..., 0] = 2  # the class plane is not looked at
    target[0, 0, 1:] = (200, 130)
    target[1, 1, 1:] = (127, 0)
    target[2, 2, 1:] = (128, 255)
    assert summits(target).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0]]
