"""`segkit export` as a process: what it leaves, prints and says where it cannot."""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit.models.model_file import MODEL_NAME
from segkit.workflows.export import export
from segkit.workflows.export_formats import PACKAGES
from tests.patch_model import make_model
from tests.processes import Start, message_of, run

MISSING = [name for name in PACKAGES["onnx"] if importlib.util.find_spec(name) is None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "run" / MODEL_NAME)


def test_a_run_is_exported_beside_its_model(start: Start, model: Path, tmp_path: Path) -> None:
    ended = run(start, "export", model.parent, "--format", "torch", "--dense", "--stride", "1")
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in model.parent.iterdir()) == [
        MODEL_NAME,
        "model_dense.pt2",
        "model_dense.pt2.json",
    ]
    words = " ".join(ended.out.replace("│", " ").split())  # the table is as wide as the terminal
    assert "input image: float32 (batch, 3, height, width), red, green, blue, 0 to 255" in words
    assert "height, width n + 10, n = 2, 3, 4 and so on (12, 13, ...)" in words
    assert "output probabilities: float32 (batch, 3, height - 10, width - 10)" in words
    assert "(0.0001 is allowed)" in words
    assert ended.out.splitlines()[-1] == f"How to use it: {model.parent / 'model_dense.pt2.json'}"
    module = torch.export.load(model.parent / "model_dense.pt2").module()
    assert module(torch.zeros(1, 3, 20, 31))[0].shape == (1, 3, 10, 21)
    # Another process, with other seeds of its hashes, writes the very same file.
    again = export(model, out=tmp_path / "again.pt2", dense=True, stride=1).file
    assert again.read_bytes() == (model.parent / "model_dense.pt2").read_bytes()


def test_the_result_as_json(start: Start, model: Path) -> None:
    ended = run(start, "export", model, "--out", "m.pt2", "--input", "uint8", "--output", "logits", "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert document["file"] == "m.pt2"
    assert 0 < document["largest_difference"] <= document["tolerance"] == 1e-4
    description = document["description"]
    assert description["input"]["type"] == "uint8"
    assert [one["name"] for one in description["outputs"]] == ["logits"]
    beside = json.loads((model.parent.parent / "m.pt2.json").read_text())
    assert {key: value for key, value in beside.items() if key != "file"} == description
    content = (model.parent.parent / "m.pt2").read_bytes()
    assert beside["file"] == {"name": "m.pt2", "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.skipif(bool(MISSING), reason=f"segkit[export] is not installed: no {', '.join(MISSING)}")
def test_onnx_is_what_is_written_if_nothing_else_is_asked_for(start: Start, model: Path) -> None:
    ended = run(start, "export", model)
    assert ended.code == 0, ended.err
    import onnxruntime

    session = onnxruntime.InferenceSession(model.with_suffix(".onnx"), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"image": np.zeros((4, 3, 11, 11), np.float32)})
    assert probabilities.shape == (4, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_without_the_packages_of_onnx_one_line_says_what_to_install(start: Start, model: Path, tmp_path: Path) -> None:
    if not MISSING:
        pytest.skip("segkit[export] is installed")
    ended = run(start, "export", model)
    assert ended.code == 2
    assert message_of(ended) == (
        f"segkit: --format onnx needs {', '.join(MISSING)}: pip install 'segkit[export]', or give --format torch."
    )
    assert [path.name for path in model.parent.iterdir()] == [MODEL_NAME]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.safetensors", "--format", "torch"], 3, "missing.safetensors: no model there"),
        (["run", "--out", "model.tflite", "--format", "torch"], 2, "its name has to end with .pt2"),
        (["run", "--format", "tflite"], 2, "--format tflite: give one of onnx, torch"),
        (["run", "--format", "torch", "--stride", "2"], 2, "--stride 2: is for the dense form of a patch CNN"),
        (["run", "--out", "mine.pt2"], 2, "mine.pt2: is there, and `segkit export` did not write it"),
    ],
)
def test_what_cannot_be_exported_ends_in_a_message(
    start: Start, model: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "mine.pt2").write_bytes(b"mine")
    ended = run(start, "export", *arguments)
    assert ended.code == code
    assert message in message_of(ended)
    assert (tmp_path / "mine.pt2").read_bytes() == b"mine"
    assert [path.name for path in model.parent.iterdir()] == [MODEL_NAME]
