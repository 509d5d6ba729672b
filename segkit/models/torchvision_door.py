"""The door to torchvision: its networks and their trained weights.

torchvision's native library may not load beside a PyTorch of another build. Its networks need none of its native
operators, but importing the package then fails because two of these are mentioned and not there: they are declared
instead. The other thing that happens here and nowhere else is reading weights of other programs: `torch.load` with
`weights_only=True`, which builds tensors and plain values only and refuses everything that could run code.
"""

import hashlib
import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from segkit.errors import ModelError
from segkit.models.initialisation import initialise

_DECLARED: list[torch.library.Library] = []  # a declaration lives as long as its library
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")


def torchvision_models() -> ModuleType:
    """Return `torchvision.models`.

    Raises
    ------
    ModelError
        torchvision is not installed, or does not fit this PyTorch.
    """
    try:
        try:
            return importlib.import_module("torchvision.models")
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]  # what the failed import left
            _declare_operators()
            return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"torchvision, which has the encoders, cannot be used ({_one_line(error)}). Install the version that "
            f"belongs to torch {torch.__version__}, or take model.encoder=plain."
        ) from error


def torchvision_network(name: str) -> nn.Module:
    """Return a network of torchvision by its name there, with fresh weights.

    The classifier of VGG, 120 million weights that no U-Net has a use for, stays on the `meta` device.
    """
    build = getattr(torchvision_models(), name)
    network: nn.Module
    if not name.startswith("vgg"):
        network = build(weights=None)
        return network
    with torch.device("meta"):
        network = build(weights=None)
    features = network.get_submodule("features").to_empty(device=torch.get_default_device())
    for layer in features.children():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    initialise(features)
    return network


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights (`IMAGENET1K_V1`) of a network, from its cache or downloaded into it.

    Raises
    ------
    ModelError
        They are neither in the cache nor to be had from the network, or the file is damaged.
    """
    url: str = torchvision_models().get_model_weights(name).IMAGENET1K_V1.url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / url.rsplit("/", 1)[-1]
    found = _HASH_IN_NAME.search(file.name)
    prefix = found[1] if found else ""
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"model.encoder_weights=imagenet: {file.name} is not in {folder} and cannot be downloaded from {url} "
                f"({_one_line(error)}). Put the file there, or give its path: model.encoder_weights=PATH."
            ) from error
    if not _sha256_of(file).startswith(prefix):
        raise ModelError(f"{file}: is damaged (its SHA-256 does not begin with {prefix}). Delete it and try again.")
    return read_weights(file)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file of weights, on the CPU: `.safetensors`, or what `torch.save` wrote.

    Weights that lie in the file's entry `state_dict` or `model` are found, and the prefix `module.` that
    DistributedDataParallel leaves is taken off.

    Raises
    ------
    ModelError
        It is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file of weights. Give a .pth or .safetensors file.") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read as a file of weights ({_one_line(error)}).") from error
    except Exception as error:  # of a damaged file torch.load raises nearly anything
        raise ModelError(
            f"{path}: cannot be read as a file of weights ({_one_line(error)}). Only tensors and plain values are "
            "read; save it as .safetensors, or with torch.save(network.state_dict(), path)."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: holds no named tensors. Save the network's state_dict() in it.")
    return {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
    _DECLARED.append(library)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
