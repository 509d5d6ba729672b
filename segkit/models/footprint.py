"""How much memory a forward pass takes, found without computing: the tensors that are alive at the same time.

On PyTorch's `meta` device operations say what they would return, and no values exist. The storages of what they return
are followed from birth to death; the largest sum of their sizes at any time is the answer.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")

PROCESS_FACTOR = 2.0
"""How much more than this a process may grow on a CPU.

Measured: 0.9 to 1.95 times the bytes of the tensors, for U-Nets of 8 to 64 maps and tiles of 512 and 1024 px in both
number formats; what comes on top are oneDNN's scratch memory and the holes between blocks that are kept (see
`segkit.memory.keep_freed_memory`).
"""


def peak_bytes(compute: Callable[[Tensor], object], shape: Sequence[int], dtype: torch.dtype) -> int:
    """Return the most bytes that the tensors of a computation take at the same time, its input included.

    Weights and other tensors that are there before do not count, nor does what a library takes for itself within an
    operation.

    Parameters
    ----------
    compute
        What is done with the input. All other tensors that it uses have to be on the `meta` device.
    shape, dtype
        Of the input; a batch of images is in PyTorch's "channels last" order if it has four axes.
    """
    tracker = _StorageTracker()
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    # Grad mode would keep what the backward pass needs.
    with torch.no_grad(), tracker:
        result = compute(torch.empty(tuple(shape), dtype=dtype, device=META, memory_format=layout))
    del result
    return tracker.peak


class _StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of all tensors that operations return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size
