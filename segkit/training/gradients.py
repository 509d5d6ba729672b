"""The gradients of a batch: of normalised pixels, in the wanted number format, over all processes."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segkit.config import TrainingComputeConfig
from segkit.errors import ResourceError
from segkit.models.unet import UNet
from segkit.training.distributed import Group
from segkit.training.samples import Batch
from segkit.training.trainable import Trainable

LOSS_COPIES = 6
"""How many tensors of the size of the outputs a loss may need on its way."""


class Normalise(nn.Module):
    """uint8 pixels to (value / 255 - mean) / std of each channel, float32, channels last."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised images of the same shape."""
        normalised: Tensor = (images / 255 - self.mean) / self.std  # type: ignore[operator]
        return normalised.contiguous(memory_format=torch.channels_last)


class Gradients:
    """Computes losses and gradients of a task's network.

    Parameters
    ----------
    task
        Its network lies on `device`.
    compute
        With no `auto`.
    device, group
        Where, and with whom.

    Attributes
    ----------
    micro_batches
        Into how many parts a batch is divided.
    """

    def __init__(self, task: Trainable, compute: TrainingComputeConfig, device: torch.device, group: Group) -> None:
        self._task, self._group, self._device = task, group, device
        self._normalise = Normalise(task.spec.mean, task.spec.std).to(device)
        self._dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(compute.precision, torch.float32)
        self._compiles = compute.compile
        self.micro_batches = compute.micro_batches
        self._forward: nn.Module = task.trained
        if compute.gradient_checkpointing:
            checkpoint_blocks(task.network)

    def connect(self) -> None:
        """Compile and connect the network anew, which is needed whenever other parts of it are frozen."""
        # A compiled module shares its weights with the one it is made from.
        compiled: Any = torch.compile(self._task.trained) if self._compiles else self._task.trained
        self._forward = self._group.wrap(compiled)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of a batch on the device, whatever the mode of the network."""
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            outputs = network(self._normalise(batch.images))
        return self._task.loss(outputs, batch.targets)

    def validation_loss(self, network: nn.Module, patches: Batch, *, at_once: int) -> float:
        """Return the loss of patches by a network in evaluation mode, which is given `at_once` of them at a time.

        There may be many times as many as training has in memory at once.
        """
        with torch.inference_mode():
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                outputs = torch.cat([network(self._normalise(part)) for part in torch.split(patches.images, at_once)])
            return self._task.loss(outputs, patches.targets).item()

    def backward(self, batch: Batch, scaler: torch.amp.GradScaler) -> Tensor:
        """Add the gradients of a batch on the device, and return its loss (detached)."""
        parts = min(self.micro_batches, len(batch.images))
        images, targets = (one.chunk(parts) for one in batch)
        total = torch.zeros((), device=self._device)
        for number, part in enumerate(map(Batch, images, targets), start=1):
            share = len(part.images) / len(batch.images)
            is_last = number == len(images)
            with contextlib.nullcontext() if is_last else self._group.without_averaging(self._forward):
                value = self.loss(self._forward, part) * share
                scaler.scale(value).backward()  # type: ignore[no-untyped-call]
            total += value.detach().float()
        return total

    def fit_memory(self, count: int, on_note: Callable[[str], None]) -> None:
        """Find in how many parts a batch of `count` patches fits the device's memory, by trying; weights stay.

        The patches are of the validation's size.

        Raises
        ------
        ResourceError
            A single sample does not fit.
        """
        network, asked_for = self._task.trained, self.micro_batches
        buffers = {name: one.clone() for name, one in network.named_buffers()}
        while not self._fits(-(-count // self.micro_batches)):
            if self.micro_batches >= count:
                raise ResourceError(
                    "a single patch does not fit the device's memory. Use smaller patches (patches.size_px), fewer "
                    "maps (model.base_channels), or compute.gradient_checkpointing=true."
                )
            self.micro_batches = min(2 * self.micro_batches, count)
        # All processes have to agree; what trying has changed is forgotten.
        self.micro_batches = self._group.largest(self.micro_batches)
        for name, one in network.named_buffers():
            one.copy_(buffers[name])
        network.zero_grad(set_to_none=True)
        if self.micro_batches > asked_for:
            so_far = "at once" if asked_for == 1 else f"in {asked_for} parts"
            on_note(
                f"a batch of {count} does not fit the device's memory {so_far}: it goes through the network in "
                f"{self.micro_batches} parts (compute.micro_batches), whose gradients are added up. Batch norm sees "
                "the parts."
            )

    def _fits(self, count: int) -> bool:
        network = self._task.trained
        network.train()
        try:
            patch = self._task.validation_patches.images[:1].to(self._device)
            images = self._normalise(patch.expand(count, *patch.shape[1:]))
            spare = [torch.empty_like(one) for one in network.parameters() for _ in range(2)]  # the optimiser's state
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                outputs = network(images)
            outputs = [outputs] if isinstance(outputs, Tensor) else outputs
            # Instead of the loss, which the processes compute together and which any of them may fail to reach.
            spare += [torch.empty_like(one, dtype=torch.float32) for one in outputs for _ in range(LOSS_COPIES)]
            sum(one.float().square().mean() for one in outputs).backward()
            del spare
            return True
        except torch.OutOfMemoryError:
            network.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return False


def checkpoint_blocks(network: nn.Module) -> None:
    """Let a U-Net compute the maps inside its blocks again in the backward pass instead of keeping them.

    The running statistics of batch norms are updated in the first pass alone.
    """
    if not isinstance(network, UNet):
        return
    for block in [*network.encoder, *network.decoder]:
        forward = block.forward
        block.forward = functools.partial(
            checkpoint,
            forward,
            use_reentrant=False,
            context_fn=functools.partial(_recomputation, block),
        )


def _recomputation(block: nn.Module) -> tuple[Any, Any]:
    return contextlib.nullcontext(), _statistics_kept(block)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [one for one in block.modules() if isinstance(one, nn.BatchNorm2d)]
    before = [(one.momentum, one.num_batches_tracked) for one in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
