"""Batches on their way to a device and back: at once on a CPU, asynchronously on CUDA, halved where memory is short."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.errors import ResourceError

Crop = tuple[slice, slice]
Result = Callable[[], list[tuple[NDArray[Any], ...]]]
"""Waits until a batch is done and returns the layers of each image."""
Compute = Callable[[Tensor, Sequence[Crop]], list[tuple[Tensor, ...]]]
"""Takes uint8 pixels (B, C, H, W) on the device and returns each image's layers there, cropped to its core."""


class Submitter:
    """Hands batches to a network on its device.

    On CUDA the copies run on streams of their own, so that the pixels of one batch go in and the layers of another
    come out while a third is computed. `submit` returns when all of that is queued; the result waits for it.

    Parameters
    ----------
    compute
        The network with all that is done on the device.
    device
        Where it computes.
    """

    def __init__(self, compute: Compute, device: torch.device) -> None:
        self._compute = compute
        self._device = device
        if device.type == "cuda":
            self._way_in, self._way_out = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]

    def submit(self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]) -> Result:
        """Start a batch, uint8 (B, H, W, C), and return the function that waits for it.

        Where the device's memory is too small for the batch, its halves are done one after the other; the result is
        the same up to the order in which sums of other batch sizes are added up. Other errors are not retried.

        Raises
        ------
        ResourceError
            A single image is too large for the device's memory.
        """
        try:
            return (
                self._on_cuda(images_BHWC, crops) if self._device.type == "cuda" else self._at_once(images_BHWC, crops)
            )
        except torch.OutOfMemoryError as error:
            if len(images_BHWC) == 1:
                raise ResourceError(
                    f"{self._device}: a tile of {images_BHWC.shape[1]} x {images_BHWC.shape[2]} px (halo included) "
                    "does not fit its memory. Use a smaller --tile, or --device cpu."
                ) from error
        # Outside the handler, so that the error no longer holds on to what had been computed.
        half = len(images_BHWC) // 2
        first = self.submit(images_BHWC[:half], crops[:half])
        second = self.submit(images_BHWC[half:], crops[half:])
        return lambda: first() + second()

    def _at_once(self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]) -> Result:
        pixels = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2)
        layers = [tuple(layer.numpy() for layer in one) for one in self._compute(pixels, crops)]
        return lambda: layers

    def _on_cuda(self, images_BHWC: NDArray[np.uint8], crops: Sequence[Crop]) -> Result:
        # Only copies from and to pinned memory run beside the computation. What one stream allocates and another
        # uses is recorded there, so that its memory is not given away too early.
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._way_in):
            pixels = torch.from_numpy(images_BHWC).pin_memory().to(self._device, non_blocking=True)
        computing.wait_stream(self._way_in)
        pixels.record_stream(computing)
        computed = self._compute(pixels.permute(0, 3, 1, 2), crops)
        self._way_out.wait_stream(computing)
        with torch.cuda.stream(self._way_out):
            layers = [tuple(self._copied_out(layer) for layer in one) for one in computed]
            done = self._way_out.record_event()

        def wait() -> list[tuple[NDArray[Any], ...]]:
            done.synchronize()
            return [tuple(layer.numpy() for layer in one) for one in layers]

        return wait

    def _copied_out(self, layer: Tensor) -> Tensor:
        layer.record_stream(self._way_out)
        pinned = torch.empty(layer.shape, dtype=layer.dtype, pin_memory=True)
        return pinned.copy_(layer.contiguous(), non_blocking=True)


@contextlib.contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Let convolutions on CUDA compute in float32 where that is asked for.

    By default they round their inputs to TF32 there, whose 10 bits of mantissa change probabilities in the third
    decimal: a result would differ from the CPU's, and a tile from the whole image wherever cuDNN chooses another
    kernel.
    """
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
