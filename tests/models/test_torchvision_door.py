"""Weights of other programs are read without running code; where they are missing one line says what to do."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segkit.errors import ModelError
from segkit.models import torchvision_door
from segkit.models.torchvision_door import imagenet_weights, read_weights

WEIGHTS = {"conv1.weight": torch.arange(6.0).view(2, 3), "bn1.num_batches_tracked": torch.tensor(3)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3},
        {"model": WEIGHTS},
        {f"module.{name}": value for name, value in WEIGHTS.items()},
        {**WEIGHTS, "note": "not a tensor"},
    ],
)
def test_weights_are_found_in_the_usual_places(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "weights.pth")
    assert same(read_weights(tmp_path / "weights.pth"))


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    assert same(read_weights(tmp_path / "weights.safetensors"))


class Hostile:
    """Unpickling it runs a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_run_code_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    content = {**WEIGHTS, "surprise": Hostile(tmp_path / "done")}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match=r"weights\.pth: cannot be read .* Only tensors and plain values"):
        read_weights(path)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_damaged_and_missing_files_are_named(tmp_path: Path, suffix: str, content: bytes | None) -> None:
    path = tmp_path / f"weights{suffix}"
    if content is not None:
        path.write_bytes(content)
    found = "no such file of weights" if content is None else "cannot be read as a file of weights"
    with pytest.raises(ModelError, match=rf"weights\.\w+: {found}") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_named_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ModelError, match=r"list\.pth: holds no named tensors"):
        read_weights(tmp_path / "list.pth")


def test_without_the_network_one_line_says_which_file_is_wanted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ModelError, match=r"resnet18-f37072fd\.pth is not in .*model\.encoder_weights=PATH") as caught:
        imagenet_weights("resnet18")
    assert str(cache) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cached_file_is_compared_with_the_hash_in_its_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache / "resnet18-f37072fd.pth"
    cache.mkdir()
    torch.save(WEIGHTS, file)
    with pytest.raises(ModelError, match=r"resnet18-f37072fd\.pth: is damaged \(its SHA-256 does not begin with f37"):
        imagenet_weights("resnet18")
    # A file whose name says its hash is taken.
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file.rename(cache / f"resnet18-{digest}.pth")
    weights = torchvision_door.torchvision_models().get_model_weights("resnet18").IMAGENET1K_V1.value
    named = type("Weights", (), {"url": weights.url.replace("f37072fd", digest)})
    listed = type("Listed", (), {"IMAGENET1K_V1": named})
    monkeypatch.setattr(torchvision_door.torchvision_models(), "get_model_weights", lambda _: listed)
    assert same(imagenet_weights("resnet18"))


def test_what_is_downloaded_goes_into_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def download(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        asked.append((url, path, hash_prefix))
        assert not progress
        torch.save(WEIGHTS, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(ModelError, match="is damaged"):  # these are not the weights
        imagenet_weights("resnet18")
    name = "resnet18-f37072fd.pth"
    assert asked == [(f"https://download.pytorch.org/models/{name}", str(cache / name), "f37072fd")]
