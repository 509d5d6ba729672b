"""A U-Net for points made by hand, without any training: it finds the disks that `tests.patch_model` draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkit.models.model_file import DetectionSpec, ModelSpec, UNetArguments, build_network, save_model
from segkit.models.unet import UNet
from tests.patch_model import CHANNEL_OF, CLASSES
from tests.tiny import MPP

DETECTION = {"match_radius": "3um", "smooth_radius": "1um", "nms_radius": "4um", "stride": 1}


def make_heat_network(
    classes: Sequence[str] = CLASSES, *, channels: int = 3, depth: int = 2, at: float = 0.5, seed: int = 0
) -> tuple[UNet, UNetArguments]:
    """Return a network whose heat is how bright a channel is around a pixel; it rises at the brightness `at`.

    Its summits lie in the middle of disks: each channel is averaged over 9 x 9 pixels along the uppermost path. What
    comes from below is drawn at random and small, so that a pixel far away is still seen.
    """
    arguments = UNetArguments(
        in_channels=channels, num_classes=len(classes) - 1, base_channels=channels, depth=depth, form="modern",
        dropout=0.0,
    )  # fmt: skip
    network = build_network(arguments, device="cpu")
    assert isinstance(network, UNet)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 / parameter[0].numel() ** 0.5)
        for block, from_below in ((network.encoder[0], 0), (network.decoder[-1], channels)):
            for layer in block.children():
                if isinstance(layer, nn.Conv2d):
                    layer.weight[:, :channels].zero_()
                    if from_below and layer.in_channels > channels:
                        layer.weight[:, channels:] *= 0.02
                    for channel in range(channels):
                        layer.weight[channel, channel] = 1 / 9
        assert network.head.bias is not None
        network.head.weight.zero_()
        for index, name in enumerate(classes[1:]):
            network.head.weight[index, CHANNEL_OF[name]] = 16
            network.head.bias[index] = -16 * at
    return network.eval(), arguments


def heat_spec(arguments: UNetArguments, classes: Sequence[str] = CLASSES, **changes: Any) -> ModelSpec:
    detection = {**DETECTION, "thresholds": [0.9] * (len(classes) - 1)}
    values: dict[str, Any] = {
        "architecture": "unet", "task": "points", "arguments": arguments, "classes": list(classes), "mpp": MPP,
        "mean": [0.0] * arguments.in_channels, "std": [1.0] * arguments.in_channels, "receptive_field": 1,
        "scores": {}, "detection": DetectionSpec.model_validate(detection),
        "training": {"annotation": "points", "hard_negatives": ["look_alike"]},
    }  # fmt: skip
    return ModelSpec.model_validate(values | changes)


def make_heat_model(path: Path, *, thresholds: Sequence[float] = (0.9, 0.9), at: float = 0.5, seed: int = 0) -> Path:
    """Write it as a model file."""
    network, arguments = make_heat_network(at=at, seed=seed)
    detection = DetectionSpec.model_validate({**DETECTION, "thresholds": list(thresholds)})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, network, heat_spec(arguments, detection=detection))
    return path
