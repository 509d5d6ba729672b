"""Objects that are there against labels, by ids and by polygons, and networks whose tiles are not exact."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from segkit.config import DataConfig, EvaluateConfig, build_config
from segkit.data.rasters import read_values
from segkit.errors import InputError, ModelError
from segkit.evaluation.object_tables import ObjectReport
from segkit.inference.joining import ObjectJoiner
from segkit.inference.object_outputs import ObjectOutputs
from segkit.inference.pieces import trace_block
from segkit.models.model_file import InstanceSpec, ModelSpec, UNetArguments, build_network, save_model
from segkit.workflows.evaluate import EvaluateResult, evaluate
from tests.tiny import SPLITS, draw_field
from tests.workflows.label_data import make_label_data

NAMES = [f"field{number}" for number in range(len(SPLITS))]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_label_data(tmp_path / "data")


def config(*assignments: str) -> EvaluateConfig:
    return build_config(EvaluateConfig, assignments=["bootstrap=20", "compute.device=cpu", *assignments])


def compare(prediction: Path, truth: Path, out: Path) -> EvaluateResult:
    """Of a few images; the others have no prediction."""
    return evaluate(config("allow_missing=true"), prediction=prediction, truth=truth, out=out)


def labels_of(data: Path, name: str) -> NDArray[np.integer]:
    return read_values(data / "labels" / f"{name}.png")


@pytest.mark.parametrize("truth", [".", "labels"])
def test_ids_are_objects_and_no_classes(data: Path, tmp_path: Path, truth: str) -> None:
    """Also where there are so few that they could be classes; whatever ids stand for the objects."""
    (tmp_path / "ids").mkdir()
    for number, name in enumerate(NAMES[:3]):
        ids = np.unique(labels_of(data, name), return_inverse=True)[1].reshape(draw_field(number)[1].shape)
        Image.fromarray(ids.astype(np.uint8)).save(data / "labels" / f"{name}.png")
        ids = np.where(ids > 0, 1 + ids.max() - ids, 0)
        ids[ids == 1] = 0  # one is missed
        if number:
            Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "ids" / f"{name}.png")
        else:
            tifffile.imwrite(tmp_path / "ids" / f"{name}.tif", ids.astype(np.uint32) * 10**9)
    result = compare(tmp_path / "ids", data / truth, tmp_path / "out")
    report = result.report
    assert isinstance(report, ObjectReport)
    assert [row.image for row in report.images] == NAMES[:3]
    assert [(row.fp, row.fn) for row in report.images] == [(0, 1)] * 3
    assert report.num_true == sum(len(np.unique(labels_of(data, name))) - 1 for name in NAMES[:3])
    assert [path.is_file() for path in result.figures] == [True] * 3


def test_polygons_that_predict_leaves_are_objects(data: Path, tmp_path: Path) -> None:
    mask = (labels_of(data, "field0") > 0).astype(np.uint8)
    height, width = mask.shape
    (tmp_path / "predicted" / "field0").mkdir(parents=True)
    with ObjectOutputs(
        tmp_path / "predicted" / "field0", ["background", "cell"], origin=(0, 0), downsample=1, mpp=None, min_area=0
    ) as outputs:
        joiner = ObjectJoiner(height, width, 2, outputs.add)
        joiner.add_row([trace_block(mask, mask, 2)])
        joiner.finish()
    Image.fromarray(mask).save(data / "labels" / "field0.png")
    report = compare(tmp_path / "predicted", data, tmp_path / "out").report
    assert isinstance(report, ObjectReport)
    assert report.pooled.dice.value == 1


def test_what_is_no_prediction_is_named(data: Path, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    with pytest.raises(InputError, match="holds no objects"):
        compare(found, data, tmp_path / "out")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(found / "field1.png")
    with pytest.raises(InputError, match="field1: the prediction is 3 x 3 pixels"):
        compare(found, data, tmp_path / "out")
    tifffile.imwrite(found / "field1.tif", np.full(labels_of(data, "field1").shape, -2, np.int16))
    (found / "field1.png").unlink()
    with pytest.raises(InputError, match="holds the id -2"):
        compare(found, data, tmp_path / "out")
    (found / "field1.tif").rename(found / "other.tif")
    with pytest.raises(InputError, match="no image of their name") as caught:
        compare(found, data, tmp_path / "out")
    assert caught.value.problems == ["other"]


def test_a_network_whose_tiles_are_not_exact_is_measured_where_that_is_accepted(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = UNetArguments(
        in_channels=3, num_classes=2, base_channels=4, depth=2, form="modern", dropout=0, encoder="efficientnet_b0",
        extra_maps=1,
    )  # fmt: skip
    spec = ModelSpec(
        arguments=arguments,
        task="instance",
        instances=InstanceSpec(foreground_threshold=0.5, seed_threshold=0.5, min_area_px=0, grow_px=5),
        classes=["background", "cell"],
        mpp=None,
        mean=[0.5] * 3,
        std=[0.2] * 3,
        receptive_field=0,
        scores={},
        training={},
    )
    model = tmp_path / "model.safetensors"
    save_model(model, build_network(arguments, device="cpu"), spec)
    with pytest.raises(ModelError, match="--set inexact=true"):
        evaluate(config("split=all"), data=DataConfig(dir=data), model=model, out=tmp_path / "out")
    result = evaluate(config("split=all", "inexact=true"), data=DataConfig(dir=data), model=model, out=tmp_path / "out")
    assert [row.image for row in result.report.images] == NAMES
