"""What moves a network: the patches that excite a unit most, and the pixels that an output depends on."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.errors import ModelError

Normalise = Callable[[Tensor], Tensor]


class Excitation(NamedTuple):
    """The patches that excite each unit most: `values` float32 and `windows` uint8 (units, ranks, side, side, C)."""

    values: NDArray[np.float32]
    windows: NDArray[np.uint8]


def unit_activations(
    network: nn.Module, layer: str, images: Tensor, normalise: Normalise, *, batch: int = 16
) -> Tensor:
    """Return each unit's largest activation in each patch, float32 (N, units), on the CPU.

    Parameters
    ----------
    network
        In evaluation mode, on the device of its parameters.
    layer
        The name of one of its modules, such as `encoder.0.2`; a unit is a channel of its output.
    images
        uint8 (N, C, H, W).
    normalise
        uint8 images to what the network takes.
    batch
        How many are run at once.

    Raises
    ------
    ModelError
        There is no such layer.
    """
    device = next(network.parameters()).device
    found: list[Tensor] = []
    handle = _layer(network, layer).register_forward_hook(
        lambda _module, _inputs, output: found.append(_by_position(output).amax(dim=-1).float().cpu())
    )
    try:
        with torch.no_grad():
            for part in torch.split(images, batch):
                network(normalise(part.to(device)))
    finally:
        handle.remove()
    return torch.cat(found)


def top_patches(
    network: nn.Module,
    layer: str,
    images: Tensor,
    normalise: Normalise,
    *,
    num_units: int = 8,
    ranks: int = 8,
    window_px: int,
    batch: int = 16,
) -> Excitation:
    """Return what the first units of a layer respond to most among some patches, each patch once per unit.

    A window is cut around the centroid of the gradient's magnitude: where the unit has looked, whatever strides and
    paddings lie between. Near the border of a patch it is moved inside.

    Parameters
    ----------
    network, layer, images, normalise, batch
        As in `unit_activations`.
    num_units, ranks
        How many units, and patches of each; fewer where there are not so many.
    window_px
        Side of the windows; the layer's receptive field is a good choice. No larger than the patches.
    """
    best = unit_activations(network, layer, images, normalise, batch=batch)
    ranks, num_units = min(ranks, len(images)), min(num_units, best.shape[1])
    side = min(window_px, *images.shape[2:])
    values, chosen = best[:, :num_units].T.topk(ranks)
    pairs = [(unit, int(patch)) for unit in range(num_units) for patch in chosen[unit]]
    windows = []
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        patches = images[[patch for _, patch in part]]
        centres = _looked_at(network, layer, patches, normalise, [unit for unit, _ in part])
        for image, (y, x) in zip(patches.cpu().numpy(), centres, strict=True):
            top, left = (
                min(max(round(at - side / 2), 0), size - side) for at, size in zip((y, x), image.shape[1:], strict=True)
            )
            windows.append(image[:, top : top + side, left : left + side].transpose(1, 2, 0))
    return Excitation(values.numpy(), np.stack(windows).reshape(num_units, ranks, side, side, -1))


def effective_field(network: nn.Module, images: Tensor, normalise: Normalise, *, batch: int = 4) -> NDArray[np.float32]:
    """Return how much each pixel moves the output in the middle, float32 (H, W), the mean over patches.

    The magnitude of the gradient of each output map's middle value, summed over maps and channels (Luo, Li, Urtasun,
    Zemel: NeurIPS 2016, arXiv 1701.04128); each patch counts equally.

    Parameters
    ----------
    network, images, normalise, batch
        As in `unit_activations`; images as large as the receptive field show all of it.
    """
    device = next(network.parameters()).device
    total = torch.zeros(images.shape[2:])
    for part in torch.split(images, batch):
        with torch.enable_grad():
            inputs = normalise(part.to(device)).detach().requires_grad_()
            outputs: Tensor = network(inputs)
            middle = outputs[..., outputs.shape[-2] // 2, outputs.shape[-1] // 2].sum(dim=0)
            magnitude = torch.zeros(len(part), *images.shape[2:])
            for value in middle:
                (gradient,) = torch.autograd.grad(value, inputs, retain_graph=True)
                magnitude += gradient.abs().sum(dim=1).float().cpu()
        total += (magnitude / magnitude.sum(dim=(1, 2), keepdim=True).clamp_min(1e-30)).sum(dim=0)
    mean: NDArray[np.float32] = (total / len(images)).numpy()
    return mean


def _looked_at(
    network: nn.Module, layer: str, patches: Tensor, normalise: Normalise, units: Sequence[int]
) -> list[tuple[float, float]]:
    """Return where in its patch each unit's largest activation came from, (y, x); the middle where nowhere."""
    device = next(network.parameters()).device
    found: list[Tensor] = []
    handle = _layer(network, layer).register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        with torch.enable_grad():
            inputs = normalise(patches.to(device)).detach().requires_grad_()
            network(inputs)
            largest = _by_position(found[0]).amax(dim=-1)
            # In evaluation mode a sample's activations depend on that sample alone: one backward pass serves all.
            strongest = largest[torch.arange(len(units)), torch.tensor(units)].sum()
            (gradient,) = torch.autograd.grad(strongest, inputs)
    finally:
        handle.remove()
    weight = gradient.abs().sum(dim=1).double().cpu()
    total = weight.sum(dim=(1, 2))
    height, width = weight.shape[1:]
    y = weight.sum(dim=2) @ (torch.arange(height).double() + 0.5)
    x = weight.sum(dim=1) @ (torch.arange(width).double() + 0.5)
    seen = total > 0
    rows, columns = torch.where(seen, y / total, height / 2), torch.where(seen, x / total, width / 2)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _by_position(output: Tensor) -> Tensor:
    """Return an output (N, units) or (N, units, H, W) as (N, units, positions)."""
    return output.flatten(2) if output.ndim > 2 else output[..., None]


def _layer(network: nn.Module, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if name not in modules:
        raise ModelError(f"there is no layer `{name}`. Some that there are:", list(modules)[1:9])
    return modules[name]
