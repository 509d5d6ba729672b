"""Exported models: they compute what segkit computes, say how they are used, and hold nothing of this machine."""

import hashlib
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from segkit.errors import ModelError, ResourceError, UsageError
from segkit.geometry import Box
from segkit.inference.averaging import softmax_over_classes
from segkit.inference.detect import DetectorSettings, MapGrid, detect
from segkit.inference.heat import HeatPredictor
from segkit.inference.image_detection import ScorePredictor, detect_in_image
from segkit.inference.image_segmentation import predict_layers
from segkit.inference.instances import label_instances
from segkit.inference.network import Predictor
from segkit.inference.sources import ArrayImage
from segkit.inference.window import WindowPredictor
from segkit.models.export_forms import ExportForm, Sizes
from segkit.models.model_file import (
    DetectionSpec,
    InstanceSpec,
    Model,
    ModelSpec,
    PatchCNNArguments,
    UNetArguments,
    build_network,
    load_model,
    save_model,
)
from segkit.models.model_list import write_model_list
from segkit.models.unet import UNet
from segkit.points import FULL_SCORE
from segkit.workflows import export as export_workflow
from segkit.workflows import export_formats
from segkit.workflows.export import TOLERANCE, batches, export
from segkit.workflows.export_formats import PACKAGES
from tests.heat_model import make_heat_model
from tests.patch_model import draw_red_and_blue, make_model
from tests.processes import limited_file_size

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
CPU = torch.device("cpu")
ALL = (slice(None), slice(None))
CLASSES = ["background", "a", "b"]
HOW = InstanceSpec(foreground_threshold=0.2, seed_threshold=0.15, min_area_px=6, grow_px=9, smooth_px=1.0)
DETECTION = DetectionSpec(match_radius="3um", smooth_radius="1um", nms_radius="2um", stride=2, thresholds=[0.4, 0.3])
MISSING = [name for name in PACKAGES["onnx"] if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"segkit[export] is not installed: no {', '.join(MISSING)}")
DISKS = draw_red_and_blue(2, 99, 118).image

Make = Callable[[Path], Path]
Run = Callable[[NDArray[Any]], list[NDArray[np.float32]]]


def save_random(path: Path, arguments: UNetArguments | PatchCNNArguments, **spec: Any) -> Path:
    """Write a model with statistics as after training; its maps differ from place to place."""
    torch.manual_seed(3)
    network = build_network(arguments, device="cpu")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    if isinstance(network, UNet):
        with torch.no_grad():
            # So that every class is somewhere the likeliest, and by more than rounding.
            network.head.weight.sub_(network.head.weight.mean(dim=1, keepdim=True)).mul_(8)
    channels = arguments.in_channels
    plain = {"arguments": arguments, "classes": CLASSES, "mpp": 0.5, "receptive_field": 40, "scores": {"dice": 0.5}}
    plain |= {"mean": [0.6, 0.4, 0.5][:channels], "std": [0.25, 0.2, 0.3][:channels]}
    plain |= {"training": {"data": "/home/somebody/data"}}
    save_model(path, network, ModelSpec.model_validate(plain | spec))
    return path


def unet_arguments(**changes: Any) -> UNetArguments:
    plain = {"in_channels": 3, "num_classes": 3, "base_channels": 4, "depth": 2, "form": "modern", "dropout": 0.3}
    return UNetArguments.model_validate(plain | changes)


def make_unet(path: Path, **changes: Any) -> Path:
    return save_random(path, unet_arguments(**changes))


def make_instances(path: Path) -> Path:
    return save_random(path, unet_arguments(extra_maps=1), task="instance", instances=HOW)


def make_heat(path: Path) -> Path:
    return save_random(path, unet_arguments(num_classes=2), task="points", detection=DETECTION)


def make_patches(path: Path, patch_px: int = 15) -> Path:
    arguments = PatchCNNArguments(
        in_channels=3, num_classes=3, form="vgg", patch_px=patch_px, base_channels=4, depth=1, dropout=0.5
    )
    return save_random(path, arguments, architecture="patch_cnn", task="points", detection=DETECTION)


KINDS: Mapping[str, tuple[Make, dict[str, Any]]] = {
    "semantic": (make_unet, {}),
    "paper": (lambda path: make_unet(path, form="paper", depth=1, in_channels=1), {}),
    "efficientnet": (lambda path: make_unet(path, encoder="efficientnet_b0", depth=1), {}),
    "instance": (make_instances, {"input_type": "uint8"}),
    "heat": (make_heat, {}),
    "patch": (make_patches, {}),
    "dense": (make_patches, {"dense": True}),
    "dense, every third": (make_patches, {"dense": True, "stride": 3}),
    "disks, heat": (make_heat_model, {}),
    "disks, patch": (make_model, {}),
    "disks, dense": (make_model, {"dense": True}),
}
"""How a model of each kind is made, and exported."""
RANDOM = tuple(kind for kind in KINDS if not kind.startswith("disks"))
IN_ONNX = ("paper", "instance", "patch", "dense")


class Exported(NamedTuple):
    """A model, the file that it was exported to, what lies beside that, and what was said."""

    model: Model
    file: Path
    description: dict[str, Any]
    notes: list[str]


Export = Callable[..., Exported]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return a function that exports a model of a kind, once: seconds each."""
    done: dict[tuple[Any, ...], Exported] = {}

    def get(kind: str, file_format: str = "torch", **changes: Any) -> Exported:
        key = (kind, file_format, *changes.items())
        if key not in done:
            make, how = KINDS[kind]
            model = load_model(make(tmp_path_factory.mktemp("export") / "model.safetensors"))
            notes: list[str] = []
            result = export(model.path, file_format=file_format, on_note=notes.append, **(how | changes))
            done[key] = Exported(model, result.file, json.loads(result.metadata.read_text()), notes)
        return done[key]

    return get


@pytest.fixture
def unet_path(tmp_path: Path) -> Path:
    return make_unet(tmp_path / "model.safetensors", base_channels=2, depth=1)


def run_torch(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda images: [one.detach().numpy() for one in module(torch.from_numpy(images))]


def run_onnx(path: Path) -> Run:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})


RUNNERS: Mapping[str, Callable[[Path], Run]] = {"torch": run_torch, "onnx": run_onnx}


def expected(model: Model, description: Mapping[str, Any], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What segkit itself says of images (B, C, H, W): all maps, one after the other."""
    images_BHWC = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    how: dict[str, Any] = {"device": CPU, "precision": "float32", "dihedral": False}
    if model.spec.architecture == "unet":
        kind = HeatPredictor if model.spec.task == "points" else Predictor
        return kind([(model.unet, model.spec)], inexact=True, **how).probabilities(images_BHWC, ALL).numpy()
    normal = (torch.from_numpy(images) / 255 - torch.tensor(model.spec.mean).view(1, -1, 1, 1)) / torch.tensor(
        model.spec.std
    ).view(1, -1, 1, 1)
    side, stride = model.patch_cnn.patch_px, description["sizes"]["stride_px"]
    with torch.inference_mode():
        rows = [
            [
                softmax_over_classes(model.patch_cnn(normal[..., y : y + side, x : x + side]))
                for x in range(0, images.shape[3] - side + 1, stride)
            ]
            for y in range(0, images.shape[2] - side + 1, stride)
        ]
    return torch.cat([torch.cat(row, dim=3) for row in rows], dim=2).numpy()


@pytest.mark.parametrize(
    ("kind", "file_format"),
    [*((kind, "torch") for kind in RANDOM), *(pytest.param(kind, "onnx", marks=needs_onnx) for kind in IN_ONNX)],
)
def test_a_file_computes_what_segkit_computes(exported: Export, kind: str, file_format: str) -> None:
    model, path, description, _ = exported(kind, file_format)
    run, sizes = RUNNERS[file_format](path), description["sizes"]
    rng = np.random.default_rng(1)
    for batch, down, across in ((1, 2, 4), (3, 5, 2), (2, 4, 6)):
        height, width = (sizes["step"] * steps + sizes["offset"] for steps in (down, across))
        images = rng.integers(0, 256, (batch, model.spec.arguments.in_channels, height, width), dtype=np.uint8)
        outputs = run(images.astype(description["input"]["type"]))
        found = np.concatenate(outputs, axis=1)
        wanted = expected(model, description, images)
        assert all(one.dtype == np.float32 for one in outputs)
        assert found.shape == (wanted.shape[:2] if kind == "patch" else wanted.shape)
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=1e-5, rtol=0)
        assert wanted.std() > 0.01  # there is something to be wrong about
    assert 0 < description["check"]["largest_difference"] <= TOLERANCE
    assert len(description["check"]["inputs"]) >= 3
    assert [one["name"] for one in description["outputs"]] == {
        "instance": ["probabilities", "distance"],
        "heat": ["heat"],
    }.get(kind, ["probabilities"])


def test_logits_are_those_of_the_network(exported: Export) -> None:
    _, path, description, _ = exported("instance", values="logits")
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 24, 32), dtype=np.uint8)
    images = images.astype(description["input"]["type"])
    logits, wanted = run_torch(path)(images), run_torch(exported("instance").file)(images)
    for one, probabilities, output in zip(logits, wanted, description["outputs"], strict=True):
        if output["name"] == "logits":
            found = softmax_over_classes(torch.from_numpy(one)).numpy()
        else:
            assert output["name"] == "distance_logits"
            found = 1 / (1 + np.exp(-one))
        np.testing.assert_allclose(found, probabilities, atol=1e-5)
        assert output["range"] is None
    assert "softmax" in description["postprocessing"][0]


def by_its_description(image: NDArray[np.uint8], description: Mapping[str, Any], run: Run) -> list[NDArray[np.float32]]:
    """The maps of an image (H, W, 3), prepared as the description says, by somebody who has numpy alone."""
    sizes = description["sizes"]
    if description["input"]["channels"] == "grey":
        image = (
            (image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).round().astype(np.uint8)[..., None]
        )
    halo, stride = sizes["halo_px"], sizes["stride_px"]
    if "patch_px" in sizes:
        ends = [sizes["patch_px"] + stride * (-(-side // stride) - 1) - halo - side for side in image.shape[:2]]
        cropped = 0
    else:
        cropped = halo - sizes["margin_px"]
        least = [side + 2 * halo for side in image.shape[:2]]
        legal = [-(-(side - sizes["offset"]) // sizes["step"]) * sizes["step"] + sizes["offset"] for side in least]
        ends = [size - side - halo for size, side in zip(legal, image.shape[:2], strict=True)]
    padded = np.pad(image, ((halo, ends[0]), (halo, ends[1]), (0, 0)), mode="reflect")
    images = padded.transpose(2, 0, 1)[None].astype(description["input"]["type"])
    rows, columns = (-(-side // stride) for side in image.shape[:2])
    return [one[0, :, cropped : cropped + rows, cropped : cropped + columns] for one in run(images)]


@pytest.mark.parametrize("kind", ["semantic", "paper"])
def test_a_mask_by_the_description_is_that_of_predict(exported: Export, kind: str) -> None:
    model, path, description, _ = exported(kind)
    (probabilities,) = by_its_description(DISKS, description, run_torch(path))
    predictor = Predictor([(model.unet, model.spec)], device=CPU, precision="float32", dihedral=False)
    mask, foreground = predict_layers(DISKS, predictor)
    second, first = np.sort(probabilities, axis=0)[-2:]
    is_clear = first - second > 1e-4  # rounding decides where they are equal
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(probabilities.argmax(axis=0)[is_clear], mask[is_clear])
    np.testing.assert_allclose((1 - probabilities[0]) * 255, foreground, atol=0.51)
    assert len(np.unique(mask)) > 1


@needs_onnx
def test_the_lines_that_the_readme_shows_give_the_mask_of_predict(exported: Export, tmp_path: Path) -> None:
    model, path, *_ = exported("semantic", "onnx")
    (lines,) = [block for block in README.split("```python\n") if block.startswith("import json\n\nimport numpy")]
    shutil.copy(path, tmp_path / "unet.onnx")
    Image.fromarray(DISKS).save(tmp_path / "image.png")
    code = lines.partition("```")[0] + "np.save('mask.npy', mask)\n"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    predictor = Predictor([(model.unet, model.spec)], device=CPU, precision="float32", dihedral=False)
    mask = predict_layers(DISKS, predictor)[0]
    assert (np.load(tmp_path / "mask.npy") == mask).mean() > 0.999  # rounding decides where two classes are equal


def test_instances_by_the_description_are_those_of_predict(exported: Export) -> None:
    model, path, description, _ = exported("instance")
    probabilities, distance = by_its_description(DISKS, description, run_torch(path))
    predictor = Predictor([(model.unet, model.spec)], device=CPU, precision="float32", dihedral=False)
    wanted = label_instances(*predict_layers(DISKS, predictor)[1:3], HOW)
    rounded = [np.rint(one * 255).astype(np.uint8) for one in (1 - probabilities[0], distance[0])]
    labels = label_instances(*rounded, InstanceSpec.model_validate(description["instances"]))
    assert wanted.max() > 3
    assert (labels == wanted).mean() > 0.99
    words = " ".join(description["postprocessing"])
    assert "foreground >= 0.2;" in words
    assert "distance >= 0.15." in words
    assert "by 9 rounds" in words


@pytest.mark.parametrize("kind", ["disks, heat", "disks, dense"])
def test_points_by_the_description_are_those_of_segkit(exported: Export, kind: str) -> None:
    model, path, description, _ = exported(kind)
    dense = kind == "disks, dense"
    (maps,) = by_its_description(DISKS, description, run_torch(path))
    stride, how = description["sizes"]["stride_px"], description["detection"]
    settings = DetectorSettings(
        nms_radius=how["nms_radius_px"] / stride,
        smooth_radius=how["smooth_radius_px"] / stride,
        lowest=tuple(how["thresholds"]),
    )
    foreground = maps if not dense else maps[1:]
    scores = np.rint(foreground.transpose(1, 2, 0) * FULL_SCORE).astype(np.uint16)
    found = detect(np.ascontiguousarray(scores), settings, MapGrid(stride=stride))
    predictor: ScorePredictor
    if dense:
        predictor = WindowPredictor([(model.patch_cnn, model.spec)], device=CPU, precision="float32", stride=stride)
    else:
        predictor = HeatPredictor([(model.unet, model.spec)], device=CPU, precision="float32")
    assert model.spec.detection is not None
    wanted = detect_in_image(DISKS, predictor, model.spec.detection, mpp=model.spec.mpp, lowest=0.9)
    assert len(wanted.scores) > 3
    np.testing.assert_allclose(found.positions, wanted.positions, atol=0.51)
    np.testing.assert_array_equal(found.classes, wanted.classes)


def test_a_patch_is_judged_by_its_middle_as_the_description_says(exported: Export) -> None:
    model, path, description, _ = exported("disks, patch")
    words = " ".join(description["preprocessing"])
    found = re.search(r"patches of ([0-9]+) x [0-9]+ pixels. The one that is judged lies in row ([0-9]+)", words)
    assert found is not None
    side, middle = int(found[1]), int(found[2])
    predictor = WindowPredictor([(model.patch_cnn, model.spec)], device=CPU, precision="float32", stride=1)
    core = Box(0, 0, *DISKS.shape[:2])
    wanted = predictor.probabilities(ArrayImage(DISKS).read(predictor.grid.read_box(core))[None]).numpy()[0]
    run = run_torch(path)
    for y, x in np.random.default_rng(0).integers(side, 60, (8, 2)).tolist():
        patch = DISKS[y - middle : y - middle + side, x - middle : x - middle + side]
        (probabilities,) = run(patch.transpose(2, 0, 1)[None].astype(np.float32))
        np.testing.assert_allclose(probabilities[0], wanted[:, y, x], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "file_format"), [("instance", "torch"), pytest.param("instance", "onnx", marks=needs_onnx)]
)
def test_a_file_carries_its_description(exported: Export, kind: str, file_format: str) -> None:
    model, path, description, _ = exported(kind, file_format)
    file = description["file"]
    assert inside(path) == {name: value for name, value in description.items() if name != "file"}
    assert file == {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert description["model"]["sha256"] == model.sha256
    assert (description["task"], description["classes"], description["mpp"]) == ("instance", CLASSES, 0.5)
    assert description["normalisation"]["mean"] == [0.6, 0.4, 0.5]
    assert description["input"]["type"] == "uint8"
    assert description["instances"] == HOW.model_dump()
    assert description["versions"]["torch"] == torch.__version__


def inside(path: Path) -> dict[str, Any]:
    """The description in a file."""
    if path.suffix == ".onnx":
        proto = importlib.import_module("onnx").load(path)
        (text,) = [one.value for one in proto.metadata_props if one.key == "segkit"]
    else:
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/extra/segkit.json")]
            text = archive.read(name).decode()
    content: dict[str, Any] = json.loads(text)
    return content


@pytest.mark.parametrize(
    ("kind", "file_format"),
    [
        ("paper", "torch"),
        ("dense", "torch"),
        pytest.param("paper", "onnx", marks=needs_onnx),
        pytest.param("dense", "onnx", marks=needs_onnx),
    ],
)
def test_a_file_holds_nothing_of_this_machine(exported: Export, kind: str, file_format: str) -> None:
    model, path, *_ = exported(kind, file_format)
    content = path.read_bytes()
    if file_format == "torch":  # a zip file, whose entries could be compressed
        with zipfile.ZipFile(path) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    home = Path(torch.__file__).parents[2]
    for trace in (str(model.path.parent), str(home), "site-packages", ".py", "/home/", "Traceback", 'File "', "line "):
        assert trace.encode() not in content, trace
    assert not re.search(rb"[\"' ]/[a-z]+/[a-z]+/", content)


def test_an_archive_of_torch_holds_no_pickle(exported: Export) -> None:
    with zipfile.ZipFile(exported("instance").file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert not [name for name, content in entries.items() if content[:2] in {b"PK", b"\x80\x02", b"\x80\x04"}]
    assert not [name for name, content in entries.items() if name.endswith((".pkl", ".pt")) and content]


@needs_onnx
@pytest.mark.parametrize("kind", ["paper", "instance", "dense"])
def test_a_file_of_onnx_is_valid_and_names_its_axes(exported: Export, kind: str) -> None:
    onnx = importlib.import_module("onnx")
    path = exported(kind, "onnx").file
    onnx.checker.check_model(path, full_check=True)
    proto = onnx.load(path)
    assert [(one.domain, one.version) for one in proto.opset_import] == [("", export_formats.OPSET)]
    assert not [one for one in proto.graph.initializer if one.external_data]
    assert not proto.functions
    assert not [node.name for node in proto.graph.node if node.metadata_props or node.doc_string]
    (image,) = proto.graph.input
    axes = [axis.dim_param or axis.dim_value for axis in image.type.tensor_type.shape.dim]
    assert axes == ["batch", 1 if kind == "paper" else 3, "height", "width"]
    after = [axis.dim_param or axis.dim_value for axis in proto.graph.output[0].type.tensor_type.shape.dim]
    assert after == ["batch", 3, *(axes[2:] if kind == "instance" else ["rows", "columns"])]


@pytest.mark.parametrize("file_format", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_a_model_has_the_same_bytes_whenever_it_is_exported(exported: Export, tmp_path: Path, file_format: str) -> None:
    model, path, *_ = exported("patch", file_format)
    content = path.read_bytes()
    other = tmp_path / "new" / path.name
    assert export(model.path, out=other).file.read_bytes() == content
    assert sorted(one.name for one in other.parent.iterdir()) == [path.name, f"{path.name}.json"]


class Fake:
    """A program that gives what it is told to give."""

    def __init__(self, change: Callable[[NDArray[np.float32]], NDArray[np.float32]], model: Path) -> None:
        self.facts = {"name": "fake"}
        self._change = change
        self._model = load_model(model)
        self._form = ExportForm(self._model)

    def run(self, image: NDArray[Any]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            return [self._change(one.numpy()) for one in self._form(torch.from_numpy(image))]

    def content(self, description: Mapping[str, Any]) -> bytes:
        return json.dumps(description).encode()


def one_pixel(by: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    def change(output: NDArray[np.float32]) -> NDArray[np.float32]:
        output[-1, -1, -1, -1] += by
        return output

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_pixel(2e-4), "differs from the model by 0.0002 on an input of 1 x 3 x "),
        (one_pixel(np.nan), "differs from the model by nan"),
        (lambda output: output[..., 1:], "the exported graph gives .*No file was written"),
        (lambda output: output.mean(axis=1, keepdims=True), "the exported graph gives "),
    ],
)
def test_a_graph_that_computes_something_else_is_not_written(
    unet_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    monkeypatch.setattr(export_workflow, "build_program", lambda *_: Fake(change, unet_path))
    with pytest.raises(ModelError, match=message):
        export(unet_path, file_format="torch")
    assert [path.name for path in unet_path.parent.iterdir()] == [unet_path.name]


def test_a_small_difference_is_allowed_and_told(unet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_workflow, "build_program", lambda *_: Fake(one_pixel(5e-5), unet_path))
    result = export(unet_path, file_format="torch")
    assert result.largest_difference == pytest.approx(5e-5, rel=0.05)
    assert result.description["check"]["largest_difference"] == result.largest_difference
    assert json.loads(result.metadata.read_text())["check"] == result.description["check"]


def test_pictures_that_are_compared_differ_and_have_legal_sizes(unet_path: Path) -> None:
    form = ExportForm(load_model(unet_path))
    pictures = list(batches(form))
    assert len({one.shape for one in pictures}) == len(pictures) >= 3
    assert max(one.shape[0] for one in pictures) > 1
    assert any(one.std() == 0 for batch in pictures for one in batch)
    for one in pictures:
        assert one.shape[2:] == tuple(form.sizes.legal_size(side) for side in one.shape[2:])


@given(step=st.integers(1, 64), offset=st.integers(0, 300), minimum=st.integers(1, 2000))
def test_a_legal_size_is_the_smallest_that_holds(step: int, offset: int, minimum: int) -> None:
    sizes = Sizes(step=step, offset=offset)
    legal = sizes.legal_size(minimum)
    assert legal >= max(minimum, sizes.smallest)
    assert (legal - offset) % step == 0
    assert legal == sizes.smallest or legal - step < minimum


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_format": "tflite"}, "--format tflite: give one of onnx, torch"),
        ({"input_type": "float16"}, "--input float16: give one of float32, uint8"),
        ({"values": "classes"}, "--output classes: give one of probabilities, logits"),
        ({"file_format": "torch", "out": Path("m.onnx")}, "with --format torch its name has to end with .pt2"),
        ({"file_format": "torch", "out": Path("m")}, "has to end with .pt2"),
        ({"file_format": "torch", "stride": 2}, "--stride 2: is for the dense form"),
        ({"file_format": "torch", "dense": True}, "is a U-Net, whose output is a map as it is"),
    ],
)
def test_what_does_not_go_together_is_refused(unet_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export(unet_path, **changes)
    assert [path.name for path in unet_path.parent.iterdir()] == [unet_path.name]


@pytest.mark.parametrize("name", ["m.pt2", "m.pt2.json"])
@pytest.mark.parametrize("content", [b"mine", b""])
def test_a_file_of_somebody_else_is_not_replaced(unet_path: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name}: is there, and `segkit export` did not write it"):
        export(unet_path, out=tmp_path / "m.pt2")
    assert (tmp_path / name).read_bytes() == content


def test_a_folder_in_the_way_is_named(unet_path: Path, tmp_path: Path) -> None:
    (tmp_path / "m.pt2").mkdir()
    with pytest.raises(UsageError, match="is a folder, and a file is needed"):
        export(unet_path, out=tmp_path / "m.pt2")


def test_models_of_folds_are_exported_one_by_one(unet_path: Path, tmp_path: Path) -> None:
    write_model_list(tmp_path, [unet_path])
    with pytest.raises(UsageError, match="holds several models"):
        export(tmp_path)


def test_what_is_missing_for_onnx_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else object())
    with pytest.raises(UsageError) as caught:
        export(tmp_path / "no model")
    assert str(caught.value) == (
        "--format onnx needs onnx, onnxscript, onnxruntime: pip install 'segkit[export]', or give --format torch."
    )


def test_a_model_that_is_too_large_for_onnx_is_refused(unet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_formats, "MAX_ONNX_BYTES", 100)
    monkeypatch.setattr(export_workflow, "require_packages", lambda _: None)
    with pytest.raises(ResourceError, match="a file of ONNX ends at 2 GB"):
        export(unet_path, file_format="onnx")


def test_a_full_disk_leaves_nothing(unet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Fake(lambda output: output, unet_path)
    monkeypatch.setattr(export_workflow, "build_program", lambda *_: program)
    with limited_file_size(500), pytest.raises(ResourceError, match="the disk is full"):
        export(unet_path, file_format="torch")
    assert [path.name for path in unet_path.parent.iterdir()] == [unet_path.name]


def test_a_network_that_sees_all_pixels_at_once_is_exported_with_a_word_of_warning(exported: Export) -> None:
    _, _, description, notes = exported("efficientnet")
    assert ["tiles of an image will not equal the whole" in note for note in notes] == [True]
    assert "do not equal the whole" in " ".join(description["preprocessing"])
    assert exported("semantic").notes == []


def test_what_an_export_has_written_may_be_replaced(unet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_workflow, "build_program", lambda *_: Fake(one_pixel(1e-5), unet_path))
    first = export(unet_path, file_format="torch").largest_difference
    monkeypatch.setattr(export_workflow, "build_program", lambda *_: Fake(one_pixel(6e-5), unet_path))
    result = export(unet_path, file_format="torch")
    assert result.largest_difference > first
    written = json.loads(result.file.read_text())
    assert written == result.description
